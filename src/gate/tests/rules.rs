//! Rules as owners write them, and the evaluator.

use alloy_primitives::{Address, U256};
use evm::testing::{COIN, NFT};
use proptest::prelude::*;
use schemas::gate::{GateReasonCode, GateRule};
use serde_json::json;

use crate::{
    decide::{ContractFact, RuleTruth, decide_rule, evaluate_rule},
    rule::{ADDRESSES_MAX, DEPTH_MAX, LEAVES_MAX, compile_rule, parse_address, parse_u256},
    testing::{ANN, BOB, all_rule, allow_list_rule, any_rule, coin_rule, nft_rule, not_rule},
};

#[test]
fn a_rule_is_refused_with_its_place_and_reason() {
    let deep = (0..DEPTH_MAX).fold(GateRule::Public {}, |rule, _| not_rule(rule));
    let wide = all_rule(&vec![nft_rule(NFT, Some(1)); LEAVES_MAX + 1]);
    let too_many: Vec<Address> =
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
        (all_rule(&[]), "/rules"),
        (any_rule(&[all_rule(&[])]), "/rules/0/rules"),
        (allow_list_rule(&[]), "/addresses"),
        (allow_list_rule(&too_many), "/addresses"),
        (
            GateRule::AllowList { addresses: vec![ANN.to_string(), "0x12".into()], chain_id: None },
            "/addresses/1",
        ),
        (coin_rule(COIN, 0), "/balance_min"),
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
        (all_rule(&[coin_rule(COIN, 1), not_rule(coin_rule(Address::ZERO, 1))]), "/rules/1/rule/contract"),
        (all_rule(&(1..=5).map(on_chain).collect::<Vec<_>>()), ""),
    ] {
        assert_eq!(compile_rule(&rule).unwrap_err().pointer, place, "{rule:?}");
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
    assert_eq!(serde_json::from_value::<GateRule>(good).unwrap(), any_rule(&[GateRule::Public {}]));
}

#[test]
fn an_address_has_one_right_checksum() {
    // The examples of EIP-55.
    for text in ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"] {
        assert_eq!(parse_address(text).unwrap().to_string(), text);
        assert_eq!(parse_address(&text.to_lowercase()).unwrap().to_string(), text);
        assert!(parse_address(&text.to_uppercase()).is_err());
        assert!(parse_address(&text.replacen('B', "b", 1)).is_err());
        assert!(parse_address(text.trim_start_matches("0x")).is_err());
    }
    assert!(parse_address(&Address::ZERO.to_string()).is_err());
}

#[test]
fn a_rule_and_its_other_spelling_have_one_digest() {
    let other = GateRule::AllowList {
        addresses: vec![BOB.to_string().to_lowercase(), ANN.to_string()],
        chain_id: None,
    };
    assert_eq!(
        compile_rule(&other).unwrap().digest,
        compile_rule(&allow_list_rule(&[ANN, BOB])).unwrap().digest
    );
    assert_ne!(
        compile_rule(&nft_rule(NFT, Some(1))).unwrap().digest,
        compile_rule(&nft_rule(NFT, Some(2))).unwrap().digest
    );
    assert_eq!(
        parse_u256("115792089237316195423570985008687907853269984665640564039457584007913129639935"),
        Ok(U256::MAX)
    );
    assert!(
        parse_u256("115792089237316195423570985008687907853269984665640564039457584007913129639936").is_err()
    );
}

fn check(rule: &GateRule, wallet: Option<Address>, facts: &[ContractFact], wanted: RuleTruth) {
    assert_eq!(
        evaluate_rule(&compile_rule(rule).unwrap(), wallet, facts),
        wanted,
        "{rule:?} {wallet:?} {facts:?}"
    );
}

#[test]
fn what_is_not_known_never_grants() {
    let failed = ContractFact::Failed(GateReasonCode::ContractFailed);
    let unknown = RuleTruth::Unknown(GateReasonCode::ContractFailed);
    let one = nft_rule(NFT, Some(1));
    check(&one, Some(ANN), &[failed], unknown);
    check(&not_rule(one.clone()), Some(ANN), &[failed], unknown);
    check(&not_rule(not_rule(one.clone())), Some(ANN), &[failed], unknown);
    check(&not_rule(all_rule(&[one.clone(), GateRule::Public {}])), Some(ANN), &[failed], unknown);
    check(&any_rule(&[one.clone(), not_rule(GateRule::Public {})]), Some(ANN), &[failed], unknown);
    check(&all_rule(&[one.clone(), GateRule::Public {}]), Some(ANN), &[failed], unknown);
    // What is known decides alone where it can.
    check(&any_rule(&[one.clone(), allow_list_rule(&[ANN])]), Some(ANN), &[failed], RuleTruth::Yes);
    check(
        &all_rule(&[one.clone(), allow_list_rule(&[BOB])]),
        Some(ANN),
        &[failed],
        RuleTruth::No(GateReasonCode::NotListed),
    );
    // Facts that are missing or of another kind.
    check(&one, Some(ANN), &[], RuleTruth::Unknown(GateReasonCode::ChainUnavailable));
    check(
        &one,
        Some(ANN),
        &[ContractFact::Amount(U256::MAX)],
        RuleTruth::Unknown(GateReasonCode::ContractMalformed),
    );
    check(
        &not_rule(coin_rule(COIN, 1)),
        Some(ANN),
        &[ContractFact::Owner(ANN)],
        RuleTruth::Unknown(GateReasonCode::ContractMalformed),
    );
}

#[test]
fn nobody_is_not_on_a_list_by_not_signing_in() {
    let needed = RuleTruth::Unknown(GateReasonCode::WalletNeeded);
    check(&not_rule(allow_list_rule(&[BOB])), None, &[], needed);
    check(&not_rule(nft_rule(NFT, Some(1))), None, &[ContractFact::Owner(BOB)], needed);
    check(&GateRule::Public {}, None, &[], RuleTruth::Yes);
    check(&not_rule(allow_list_rule(&[BOB])), Some(ANN), &[], RuleTruth::Yes);
    check(&not_rule(allow_list_rule(&[BOB])), Some(BOB), &[], RuleTruth::No(GateReasonCode::Excluded));
}

#[test]
fn balances_and_owners_decide() {
    let amount = |n: u64| ContractFact::Amount(U256::from(n));
    check(&coin_rule(COIN, 5), Some(ANN), &[amount(4)], RuleTruth::No(GateReasonCode::BalanceLow));
    check(&coin_rule(COIN, 5), Some(ANN), &[amount(5)], RuleTruth::Yes);
    check(&nft_rule(NFT, None), Some(ANN), &[amount(0)], RuleTruth::No(GateReasonCode::NotOwner));
    check(&nft_rule(NFT, None), Some(ANN), &[amount(1)], RuleTruth::Yes);
    check(
        &nft_rule(NFT, Some(1)),
        Some(ANN),
        &[ContractFact::Owner(BOB)],
        RuleTruth::No(GateReasonCode::NotOwner),
    );
    check(&nft_rule(NFT, Some(1)), Some(ANN), &[ContractFact::Owner(ANN)], RuleTruth::Yes);
}

#[test]
fn a_grant_needs_both_blocks_and_an_end_only_the_newest() {
    let rule = compile_rule(&nft_rule(NFT, Some(1))).unwrap();
    let (ann, bob) = (ContractFact::Owner(ANN), ContractFact::Owner(BOB));
    let (burnt, away) = (
        ContractFact::Failed(GateReasonCode::ContractFailed),
        ContractFact::Failed(GateReasonCode::ChainUnavailable),
    );
    for (latest, confirmed, granted, code) in [
        (ann, ann, true, GateReasonCode::RuleHolds),
        (ann, bob, false, GateReasonCode::NotConfirmed),
        (ann, burnt, false, GateReasonCode::NotConfirmed),
        (ann, away, false, GateReasonCode::ChainUnavailable),
        (bob, ann, false, GateReasonCode::NotOwner),
        (burnt, ann, false, GateReasonCode::ContractFailed),
        (away, ann, false, GateReasonCode::ChainUnavailable),
    ] {
        let verdict = decide_rule(&rule, Some(ANN), &[latest], &[confirmed]);
        assert_eq!((verdict.granted, verdict.code), (granted, code), "{latest:?} {confirmed:?}");
        assert_eq!(verdict.claims.len(), usize::from(granted));
    }
}

#[test]
fn only_the_tokens_a_grant_rests_on_are_claimed() {
    let rule = any_rule(&[
        nft_rule(NFT, Some(1)),
        all_rule(&[nft_rule(NFT, Some(2)), nft_rule(NFT, None), not_rule(nft_rule(NFT, Some(9)))]),
    ]);
    let rule = compile_rule(&rule).unwrap();
    let facts = [
        ContractFact::Owner(BOB),
        ContractFact::Owner(ANN),
        ContractFact::Amount(U256::from(1)),
        ContractFact::Owner(BOB),
    ];
    let claims = decide_rule(&rule, Some(ANN), &facts, &facts).claims;
    assert_eq!(claims.iter().map(|claim| claim.leaf).collect::<Vec<_>>(), [1, 2]);
}

/// A rule over two questions, and what Kleene's tables say of it.
fn tree() -> impl Strategy<Value = GateRule> {
    let leaf = prop_oneof![
        Just(nft_rule(NFT, Some(1))),
        Just(nft_rule(NFT, None)),
        Just(coin_rule(COIN, 1)),
        Just(GateRule::Public {}),
        Just(allow_list_rule(&[ANN])),
        Just(allow_list_rule(&[BOB]))
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|rules| all_rule(&rules)),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|rules| any_rule(&rules)),
            inner.prop_map(not_rule),
        ]
    })
}

/// Facts for every question, known or not: as an owner, as an amount, or why not.
fn facts() -> impl Strategy<Value = Vec<ContractFact>> {
    let fact = prop_oneof![
        Just(ContractFact::Owner(ANN)),
        Just(ContractFact::Owner(BOB)),
        Just(ContractFact::Amount(U256::ZERO)),
        Just(ContractFact::Amount(U256::MAX)),
        Just(ContractFact::Failed(GateReasonCode::ChainUnavailable)),
        Just(ContractFact::Failed(GateReasonCode::ContractFailed)),
    ];
    prop::collection::vec(fact, LEAVES_MAX)
}

/// -1 is "no", 0 "not known", 1 "yes". Takes a fact for each question, in order.
fn kleene(rule: &GateRule, facts: &mut std::slice::Iter<'_, ContractFact>) -> i32 {
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
            ContractFact::Owner(owner) => {
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
                ContractFact::Amount(amount) => {
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
        let Ok(rule) = compile_rule(&rule) else { return Ok(()) };
        let unknown = vec![ContractFact::Failed(GateReasonCode::ChainUnavailable); LEAVES_MAX];
        if evaluate_rule(&rule, Some(ANN), &unknown) == RuleTruth::Yes {
            let known = vec![ContractFact::Owner(if other { ANN } else { BOB }); LEAVES_MAX];
            prop_assert_eq!(evaluate_rule(&rule, Some(ANN), &known), RuleTruth::Yes);
        }
    }

    /// The evaluator is Kleene's logic: "no" below "not known" below "yes", `all` the least, `any` the greatest, `not` the mirror.
    #[test]
    fn the_three_values_are_those_of_kleene(rule in tree(), facts in facts()) {
        let Ok(rule) = compile_rule(&rule) else { return Ok(()) };
        let truth = evaluate_rule(&rule, Some(ANN), &facts);
        let rank = match truth {
            RuleTruth::Yes => 1,
            RuleTruth::Unknown(_) => 0,
            RuleTruth::No(_) => -1,
        };
        prop_assert_eq!(rank, kleene(&rule.rule, &mut facts.iter()), "{:?}", truth);
        let mirrored = compile_rule(&not_rule(rule.rule.clone()));
        let Ok(mirrored) = mirrored else { return Ok(()) };
        let opens = super::super::decide::evaluate_rule(&mirrored, Some(ANN), &facts) == RuleTruth::Yes;
        prop_assert_eq!(opens, matches!(truth, RuleTruth::No(_)), "`not` opens what is known to be false, and nothing else");
    }

    #[test]
    fn a_canonical_rule_is_its_own_canonical_form(rule in tree()) {
        let Ok(compiled) = compile_rule(&rule) else { return Ok(()) };
        let again = compile_rule(&compiled.rule).unwrap();
        prop_assert_eq!(&again, &compiled);
        let text = serde_json::to_string(&compiled.rule).unwrap();
        prop_assert_eq!(serde_json::from_str::<GateRule>(&text).unwrap(), compiled.rule.clone());
        let bytes = nats::encode_message("rule", &compiled.rule).unwrap();
        prop_assert_eq!(nats::decode_message::<GateRule>("rule", &bytes).unwrap(), compiled.rule);
    }
}
