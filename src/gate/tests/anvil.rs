//! Gates over a real EVM node.

use std::time::Duration;

use alloy_primitives::{Address, Bytes};
use evm::{BlockRef, ChainError};
use schemas::gate::{GateReasonCode, GateRule};

use tokio::time::Instant;

use crate::{
    gate_evaluator::{GateDecision, GateEvaluator, SessionVerdict},
    rule::compile_rule,
    testing::{ANN, BOB, all_rule, anvil::*, not_rule},
};

fn nft(contract: Address, token_id: Option<u64>) -> GateRule {
    let token_id = token_id.map(|id| id.to_string());
    GateRule::Erc721Owner { chain_id: ANVIL, contract: contract.to_string(), token_id, sessions_max: None }
}

/// Asks until the newest block is the node's newest; answers the decision and how long it took.
async fn decide(
    judge: &GateEvaluator,
    anvil: &AnvilNode,
    rule: &GateRule,
    wallet: Address,
) -> (GateDecision, Duration) {
    let (rule, head, started) = (compile_rule(rule).unwrap(), anvil.head_hash().await, Instant::now());
    loop {
        let decision = judge.decide(&rule, Some(wallet)).await;
        if decision.latest.iter().any(|block| block.hash == head.to_string()) {
            return (decision, started.elapsed());
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{decision:?} never names {head}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_token_opens_its_gate_until_it_goes() {
    let anvil = AnvilNode::start().await;
    let contract = anvil.deploy_contract("Nft").await;
    let judge = GateEvaluator::new(anvil.open_client());
    let rule = nft(contract, Some(7));
    anvil.give_token(contract, 7, ANN).await;
    assert_eq!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.code, GateReasonCode::NotConfirmed);
    anvil.mine_blocks(CONFIRMATIONS).await;
    let (decision, _) = decide(&judge, &anvil, &rule, ANN).await;
    assert!(decision.verdict.granted, "{decision:?}");
    assert!(decide(&judge, &anvil, &nft(contract, None), ANN).await.0.verdict.granted);
    assert!(!decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);

    anvil.give_token(contract, 7, BOB).await;
    let (decision, took) = decide(&judge, &anvil, &rule, ANN).await;
    assert_eq!(decision.session_verdict(), SessionVerdict::Over(GateReasonCode::NotOwner));
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.code, GateReasonCode::NotConfirmed);

    anvil.mine_blocks(CONFIRMATIONS).await;
    assert!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);
    anvil.give_token(contract, 7, Address::ZERO).await;
    let (decision, took) = decide(&judge, &anvil, &rule, BOB).await;
    assert_eq!(decision.session_verdict(), SessionVerdict::Over(GateReasonCode::ContractFailed));
    assert!(took <= Duration::from_secs(2), "{took:?}");
    // A burnt token is nobody's: not a reason to let in who does not have it.
    assert!(!decide(&judge, &anvil, &not_rule(rule), ANN).await.0.verdict.granted);
}

#[tokio::test]
async fn balances_open_gates_and_bad_contracts_do_not() {
    let anvil = AnvilNode::start().await;
    let (coin, multi, burner) = (
        anvil.deploy_contract("Coin").await,
        anvil.deploy_contract("Multi").await,
        anvil.deploy_contract("Burner").await,
    );
    let judge = GateEvaluator::new(anvil.open_client());
    anvil.set_coins(coin, ANN, 5).await;
    anvil.set_multi(multi, ANN, 3, 2).await;
    anvil.mine_blocks(CONFIRMATIONS).await;
    let coins = |balance_min: &str| GateRule::Erc20Balance {
        chain_id: ANVIL,
        contract: coin.to_string(),
        balance_min: balance_min.into(),
    };
    let items = |token_id: &str, least: &str| GateRule::Erc1155Balance {
        chain_id: ANVIL,
        contract: multi.to_string(),
        token_id: token_id.into(),
        balance_min: Some(least.into()),
    };
    for (rule, wanted) in [
        (coins("5"), GateReasonCode::RuleHolds),
        (coins("6"), GateReasonCode::BalanceLow),
        (items("3", "2"), GateReasonCode::RuleHolds),
        (items("3", "3"), GateReasonCode::BalanceLow),
        (items("4", "1"), GateReasonCode::BalanceLow),
        (all_rule(&[coins("1"), items("3", "1"), not_rule(items("4", "1"))]), GateReasonCode::RuleHolds),
        (nft(burner, Some(1)), GateReasonCode::ContractFailed),
        (not_rule(nft(burner, Some(1))), GateReasonCode::ContractFailed),
        (nft(ANN, Some(1)), GateReasonCode::ContractAbsent),
        (nft(coin, Some(1)), GateReasonCode::ContractFailed),
    ] {
        let (decision, took) = decide(&judge, &anvil, &rule, ANN).await;
        assert_eq!(decision.verdict.code, wanted, "{rule:?}");
        assert!(took <= Duration::from_secs(2), "{rule:?} {took:?}");
    }
}

#[tokio::test]
async fn a_balance_that_counts_fractions_is_no_number_of_tokens() {
    let anvil = AnvilNode::start().await;
    let (semi, coin) = (anvil.deploy_contract("Semi").await, anvil.deploy_contract("Coin").await);
    let judge = GateEvaluator::new(anvil.open_client());
    anvil.set_coins(semi, ANN, 1).await;
    anvil.set_coins(coin, ANN, 1).await;
    anvil.mine_blocks(CONFIRMATIONS).await;
    for rule in [nft(semi, None), nft(coin, None), not_rule(nft(semi, None))] {
        let (decision, _) = decide(&judge, &anvil, &rule, ANN).await;
        assert!(!decision.verdict.granted, "{rule:?}");
        assert_eq!(decision.verdict.code, GateReasonCode::ContractMalformed, "{rule:?}");
    }
}

#[tokio::test]
async fn a_reorganisation_is_followed() {
    let anvil = AnvilNode::start().await;
    let contract = anvil.deploy_contract("Nft").await;
    let chains = anvil.open_client();
    let judge = GateEvaluator::new(chains.clone());
    let rule = nft(contract, Some(7));
    anvil.give_token(contract, 7, ANN).await;
    anvil.mine_blocks(5).await;
    assert!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.granted);
    anvil.give_token(contract, 7, BOB).await;
    anvil.mine_blocks(CONFIRMATIONS).await;
    assert!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);
    let gone = anvil.head_hash().await;
    anvil.reorganise_chain(3).await;
    assert_eq!(
        decide(&judge, &anvil, &rule, BOB).await.0.session_verdict(),
        SessionVerdict::Over(GateReasonCode::NotOwner)
    );
    assert!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.granted);
    // The block that is gone answers nothing.
    let outcome = chains.call_contract(ANVIL, contract, Bytes::new(), BlockRef::At(gone)).await;
    assert_eq!(outcome, Err(ChainError::Reorganised { chain_id: ANVIL }));
    assert!(!chains.read_code(ANVIL, contract, BlockRef::Latest).await.unwrap().is_empty());
}
