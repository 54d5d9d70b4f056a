//! Rules as owners write them, and the evaluator.

use alloy_primitives::{Address, U256};
use evm::testing::{COIN, NFT};
use proptest::prelude::*;
use schemas::gate::{GateReasonCode, GateRule};
use serde_json::json;

use crate::{
    decide::{Fact, Truth, decide, truth},
    rule::{ADDRESSES_MAX, DEPTH_MAX, LEAVES_MAX, address, compile, number},
    testing::{ANN, BOB, all, any, coin, listed, nft, not},
};

#[test]
fn a_rule_is_refused_with_its_place_and_reason() {
    let deep = (0..DEPTH_MAX).fold(GateRule::Public {}, |rule, _| not(rule));
    let wide = all(&vec![nft(NFT, Some(1)); LEAVES_MAX + 1]);
    let crowd: Vec<Address> =
        (0..=ADDRESSES_MAX).map(|n| Address::from_word(U256::from(n + 1).into())).collect();
    let long_id = "1".repeat(79);
    let erc721 = |token_id: &str, sessions_max: u32| GateRule::Erc721Owner {
        chain_id: 1,
        contract: NFT.to_string(),
        token_id: Some(token_id.to_owned()),
        sessions_max: Some(sessions_max),
    };
    for (rule, place) in [
        (deep, "/rule/rule/rule/rule/rule/rule"),
        (wide, "/rules/16"),
        (all(&[]), "/rules"),
        (any(&[all(&[])]), "/rules/0/rules"),
        (listed(&[]), "/addresses"),
        (listed(&crowd), "/addresses"),
        (
            GateRule::AllowList { addresses: vec![ANN.to_string(), "0x12".into()], chain_id: None },
            "/addresses/1",
        ),
        (coin(COIN, 0), "/balance_min"),
        (erc721("01", 1), "/token_id"),
        (erc721("-1", 1), "/token_id"),
        (erc721("0x1", 1), "/token_id"),
        (erc721(&long_id, 1), "/token_id"),
        (erc721("1", 0), "/sessions_max"),
        (erc721("1", 101), "/sessions_max"),
        (
            GateRule::Erc20Balance { chain_id: 0, contract: COIN.to_string(), balance_min: "1".into() },
            "/chain_id",
        ),
        (
            GateRule::Erc20Balance { chain_id: 1, contract: "vitalik.eth".into(), balance_min: "1".into() },
            "/contract",
        ),
        (all(&[coin(COIN, 1), not(coin(Address::ZERO, 1))]), "/rules/1/rule/contract"),
        (all(&(1..=5).map(on_chain).collect::<Vec<_>>()), ""),
    ] {
        assert_eq!(compile(&rule).unwrap_err().pointer, place, "{rule:?}");
    }
}

fn on_chain(chain_id: u64) -> GateRule {
    GateRule::Erc20Balance { chain_id, contract: COIN.to_string(), balance_min: "1".into() }
}

#[test]
fn unknown_members_and_kinds_are_refused() {
    for text in [
        json!({ "kind": "public", "extra": 1 }),
        json!({ "kind": "erc721_owner", "chain_id": 1, "contract": NFT.to_string(), "tokenId": "1" }),
        json!({ "kind": "everybody" }),
        json!({ "chain_id": 1 }),
        json!({ "kind": "not", "rule": { "kind": "allow_list" } }),
        json!([]),
    ] {
        assert!(serde_json::from_value::<GateRule>(text.clone()).is_err(), "{text}");
    }
    let good = json!({ "kind": "any", "rules": [{ "kind": "public" }] });
    assert_eq!(serde_json::from_value::<GateRule>(good).unwrap(), any(&[GateRule::Public {}]));
}

#[test]
fn an_address_has_one_right_checksum() {
    // The examples of EIP-55.
    for text in ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"] {
        assert_eq!(address(text).unwrap().to_string(), text);
        assert_eq!(address(&text.to_lowercase()).unwrap().to_string(), text);
        assert!(address(&text.to_uppercase()).is_err());
        assert!(address(&text.replacen('B', "b", 1)).is_err());
        assert!(address(text.trim_start_matches("0x")).is_err());
    }
    assert!(address(&Address::ZERO.to_string()).is_err());
}

#[test]
fn a_rule_and_its_other_spelling_have_one_digest() {
    let other = GateRule::AllowList {
        addresses: vec![BOB.to_string().to_lowercase(), ANN.to_string()],
        chain_id: None,
    };
    assert_eq!(compile(&other).unwrap().digest, compile(&listed(&[ANN, BOB])).unwrap().digest);
    assert_ne!(compile(&nft(NFT, Some(1))).unwrap().digest, compile(&nft(NFT, Some(2))).unwrap().digest);
    assert_eq!(
        number("115792089237316195423570985008687907853269984665640564039457584007913129639935"),
        Ok(U256::MAX)
    );
    assert!(
        number("115792089237316195423570985008687907853269984665640564039457584007913129639936").is_err()
    );
}

fn check(rule: &GateRule, wallet: Option<Address>, facts: &[Fact], wanted: Truth) {
    assert_eq!(truth(&compile(rule).unwrap(), wallet, facts), wanted, "{rule:?} {wallet:?} {facts:?}");
}

#[test]
fn what_is_not_known_never_grants() {
    let failed = Fact::Failed(GateReasonCode::ContractFailed);
    let unknown = Truth::Unknown(GateReasonCode::ContractFailed);
    let one = nft(NFT, Some(1));
    check(&one, Some(ANN), &[failed], unknown);
    check(&not(one.clone()), Some(ANN), &[failed], unknown);
    check(&not(not(one.clone())), Some(ANN), &[failed], unknown);
    check(&not(all(&[one.clone(), GateRule::Public {}])), Some(ANN), &[failed], unknown);
    check(&any(&[one.clone(), not(GateRule::Public {})]), Some(ANN), &[failed], unknown);
    check(&all(&[one.clone(), GateRule::Public {}]), Some(ANN), &[failed], unknown);
    // What is known decides alone where it can.
    check(&any(&[one.clone(), listed(&[ANN])]), Some(ANN), &[failed], Truth::Yes);
    check(&all(&[one.clone(), listed(&[BOB])]), Some(ANN), &[failed], Truth::No(GateReasonCode::NotListed));
    // Facts that are missing or of another kind.
    check(&one, Some(ANN), &[], Truth::Unknown(GateReasonCode::ChainUnavailable));
    check(&one, Some(ANN), &[Fact::Amount(U256::MAX)], Truth::Unknown(GateReasonCode::ContractMalformed));
    check(
        &not(coin(COIN, 1)),
        Some(ANN),
        &[Fact::Owner(ANN)],
        Truth::Unknown(GateReasonCode::ContractMalformed),
    );
}

#[test]
fn nobody_is_not_on_a_list_by_not_signing_in() {
    let needed = Truth::Unknown(GateReasonCode::WalletNeeded);
    check(&not(listed(&[BOB])), None, &[], needed);
    check(&not(nft(NFT, Some(1))), None, &[Fact::Owner(BOB)], needed);
    check(&GateRule::Public {}, None, &[], Truth::Yes);
    check(&not(listed(&[BOB])), Some(ANN), &[], Truth::Yes);
    check(&not(listed(&[BOB])), Some(BOB), &[], Truth::No(GateReasonCode::Excluded));
}

#[test]
fn balances_and_owners_decide() {
    let amount = |n: u64| Fact::Amount(U256::from(n));
    check(&coin(COIN, 5), Some(ANN), &[amount(4)], Truth::No(GateReasonCode::BalanceLow));
    check(&coin(COIN, 5), Some(ANN), &[amount(5)], Truth::Yes);
    check(&nft(NFT, None), Some(ANN), &[amount(0)], Truth::No(GateReasonCode::NotOwner));
    check(&nft(NFT, None), Some(ANN), &[amount(1)], Truth::Yes);
    check(&nft(NFT, Some(1)), Some(ANN), &[Fact::Owner(BOB)], Truth::No(GateReasonCode::NotOwner));
    check(&nft(NFT, Some(1)), Some(ANN), &[Fact::Owner(ANN)], Truth::Yes);
}

#[test]
fn a_grant_needs_both_blocks_and_an_end_only_the_newest() {
    let rule = compile(&nft(NFT, Some(1))).unwrap();
    let (ann, bob) = (Fact::Owner(ANN), Fact::Owner(BOB));
    let (burnt, away) =
        (Fact::Failed(GateReasonCode::ContractFailed), Fact::Failed(GateReasonCode::ChainUnavailable));
    for (latest, confirmed, granted, code) in [
        (ann, ann, true, GateReasonCode::RuleHolds),
        (ann, bob, false, GateReasonCode::NotConfirmed),
        (ann, burnt, false, GateReasonCode::NotConfirmed),
        (ann, away, false, GateReasonCode::ChainUnavailable),
        (bob, ann, false, GateReasonCode::NotOwner),
        (burnt, ann, false, GateReasonCode::ContractFailed),
        (away, ann, false, GateReasonCode::ChainUnavailable),
    ] {
        let verdict = decide(&rule, Some(ANN), &[latest], &[confirmed]);
        assert_eq!((verdict.granted, verdict.code), (granted, code), "{latest:?} {confirmed:?}");
        assert_eq!(verdict.claims.len(), usize::from(granted));
    }
}

#[test]
fn only_the_tokens_a_grant_rests_on_are_claimed() {
    let rule = any(&[nft(NFT, Some(1)), all(&[nft(NFT, Some(2)), nft(NFT, None), not(nft(NFT, Some(9)))])]);
    let rule = compile(&rule).unwrap();
    let facts = [Fact::Owner(BOB), Fact::Owner(ANN), Fact::Amount(U256::from(1)), Fact::Owner(BOB)];
    let claims = decide(&rule, Some(ANN), &facts, &facts).claims;
    assert_eq!(claims.iter().map(|claim| claim.leaf).collect::<Vec<_>>(), [1, 2]);
}

/// A rule over two questions, and what Kleene's tables say of it.
fn tree() -> impl Strategy<Value = GateRule> {
    let leaf = prop_oneof![
        Just(nft(NFT, Some(1))),
        Just(nft(NFT, None)),
        Just(coin(COIN, 1)),
        Just(GateRule::Public {}),
        Just(listed(&[ANN])),
        Just(listed(&[BOB]))
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|rules| all(&rules)),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|rules| any(&rules)),
            inner.prop_map(not),
        ]
    })
}

/// Facts for every question, known or not: as an owner, as an amount, or why not.
fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let fact = prop_oneof![
        Just(Fact::Owner(ANN)),
        Just(Fact::Owner(BOB)),
        Just(Fact::Amount(U256::ZERO)),
        Just(Fact::Amount(U256::MAX)),
        Just(Fact::Failed(GateReasonCode::ChainUnavailable)),
        Just(Fact::Failed(GateReasonCode::ContractFailed)),
    ];
    prop::collection::vec(fact, LEAVES_MAX)
}

/// -1 is "no", 0 "not known", 1 "yes". Takes a fact for each question, in order.
fn kleene(rule: &GateRule, facts: &mut std::slice::Iter<'_, Fact>) -> i32 {
    match rule {
        GateRule::Public {} => 1,
        GateRule::AllowList { addresses, .. } => {
            if addresses.contains(&ANN.to_string()) {
                1
            } else {
                -1
            }
        }
        GateRule::Erc721Owner { token_id: Some(_), .. } => match facts.next().unwrap() {
            Fact::Owner(owner) => {
                if *owner == ANN {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        },
        GateRule::Erc721Owner { .. } | GateRule::Erc1155Balance { .. } | GateRule::Erc20Balance { .. } => {
            match facts.next().unwrap() {
                Fact::Amount(amount) => {
                    if amount.is_zero() {
                        -1
                    } else {
                        1
                    }
                }
                _ => 0,
            }
        }
        GateRule::All { rules } => rules.iter().map(|rule| kleene(rule, facts)).min().unwrap(),
        GateRule::Any { rules } => rules.iter().map(|rule| kleene(rule, facts)).max().unwrap(),
        GateRule::Not { rule } => -kleene(rule, facts),
    }
}

proptest! {
    /// If a rule is granted while facts are missing, it is granted whatever the facts turn out to be.
    #[test]
    fn a_grant_never_rests_on_what_is_unknown(rule in tree(), other in prop::bool::ANY) {
        let Ok(rule) = compile(&rule) else { return Ok(()) };
        let unknown = vec![Fact::Failed(GateReasonCode::ChainUnavailable); LEAVES_MAX];
        if truth(&rule, Some(ANN), &unknown) == Truth::Yes {
            let known = vec![Fact::Owner(if other { ANN } else { BOB }); LEAVES_MAX];
            prop_assert_eq!(truth(&rule, Some(ANN), &known), Truth::Yes);
        }
    }

    /// The evaluator is Kleene's logic: "no" below "not known" below "yes", `all` the least, `any` the greatest, `not` the mirror.
    #[test]
    fn the_three_values_are_those_of_kleene(rule in tree(), facts in facts()) {
        let Ok(rule) = compile(&rule) else { return Ok(()) };
        let truth = truth(&rule, Some(ANN), &facts);
        let rank = match truth {
            Truth::Yes => 1,
            Truth::Unknown(_) => 0,
            Truth::No(_) => -1,
        };
        prop_assert_eq!(rank, kleene(&rule.rule, &mut facts.iter()), "{:?}", truth);
        let mirrored = compile(&not(rule.rule.clone()));
        let Ok(mirrored) = mirrored else { return Ok(()) };
        let opens = super::super::decide::truth(&mirrored, Some(ANN), &facts) == Truth::Yes;
        prop_assert_eq!(opens, matches!(truth, Truth::No(_)), "`not` opens what is known to be false, and nothing else");
    }

    #[test]
    fn a_canonical_rule_is_its_own_canonical_form(rule in tree()) {
        let Ok(compiled) = compile(&rule) else { return Ok(()) };
        let again = compile(&compiled.rule).unwrap();
        prop_assert_eq!(&again, &compiled);
        let text = serde_json::to_string(&compiled.rule).unwrap();
        prop_assert_eq!(serde_json::from_str::<GateRule>(&text).unwrap(), compiled.rule.clone());
        let bytes = nats::encode_message("rule", &compiled.rule).unwrap();
        prop_assert_eq!(nats::decode_message::<GateRule>("rule", &bytes).unwrap(), compiled.rule);
    }
}
