//! Decisions through a model chain.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use evm::{
    ChainConfig,
    testing::{BURNER, CHAIN, DIRTY, LONG, ModelChain, NFT, NOTHING, NodeBehavior, SHORT},
};
use futures::FutureExt;
use schemas::gate::{GateReasonCode, GateRule};

use crate::{
    gate_evaluator::{GateEvaluator, SessionVerdict},
    rule::compile_rule,
    testing::{ANN, BOB, all_rule, allow_list_rule, any_rule, coin_rule, nft_rule, not_rule},
};

fn config() -> ChainConfig {
    ChainConfig {
        chain_id: CHAIN,
        confirmations: 2,
        head_cache_ms: 1_000,
        head_age_s_max: 60,
        ..ChainConfig::default()
    }
}

fn started() -> (ModelChain, GateEvaluator) {
    let world = ModelChain::new(3);
    world.transfer_token(1, Some(ANN));
    (0..3).for_each(|_| world.mine_block(|_| {}));
    world.sync_all();
    let judge = GateEvaluator::new(world.open_client(config()));
    (world, judge)
}

async fn code(judge: &GateEvaluator, rule: &GateRule) -> GateReasonCode {
    judge.decide(&compile_rule(rule).unwrap(), Some(ANN)).await.verdict.code
}

async fn next_block() {
    tokio::time::advance(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn contracts_that_answer_wrongly_open_nothing() {
    let (_world, judge) = started();
    for (contract, wanted) in [
        (SHORT, GateReasonCode::ContractMalformed),
        (LONG, GateReasonCode::ContractMalformed),
        (BURNER, GateReasonCode::ContractFailed),
        (NOTHING, GateReasonCode::ContractAbsent),
    ] {
        for rule in [nft_rule(contract, Some(1)), nft_rule(contract, None), coin_rule(contract, 1)] {
            assert_eq!(code(&judge, &rule).await, wanted, "{rule:?}");
            assert_eq!(code(&judge, &not_rule(rule.clone())).await, wanted, "not {rule:?}");
            // One bad contract spoils nothing that does not need it.
            assert_eq!(
                code(&judge, &any_rule(&[rule, allow_list_rule(&[ANN])])).await,
                GateReasonCode::RuleHolds
            );
        }
    }
    assert_eq!(code(&judge, &nft_rule(DIRTY, Some(1))).await, GateReasonCode::ContractMalformed);
    assert_eq!(code(&judge, &nft_rule(NFT, Some(404))).await, GateReasonCode::ContractFailed);
    assert_eq!(code(&judge, &not_rule(nft_rule(NFT, Some(404)))).await, GateReasonCode::ContractFailed);
}

#[tokio::test(start_paused = true)]
async fn a_gate_opens_late_and_closes_at_once() {
    let (world, judge) = started();
    let (ann, bob) =
        (compile_rule(&nft_rule(NFT, Some(1))).unwrap(), compile_rule(&nft_rule(NFT, Some(1))).unwrap());
    assert!(judge.decide(&ann, Some(ANN)).await.verdict.granted);
    world.transfer_token(1, Some(BOB));
    world.sync_all();
    next_block().await;
    let decision = judge.decide(&ann, Some(ANN)).await;
    assert_eq!(
        (decision.verdict.granted, decision.session_verdict()),
        (false, SessionVerdict::Over(GateReasonCode::NotOwner))
    );
    let decision = judge.decide(&bob, Some(BOB)).await;
    assert_eq!(
        (decision.verdict.code, decision.session_verdict()),
        (GateReasonCode::NotConfirmed, SessionVerdict::On)
    );
    world.mine_block(|_| {});
    world.mine_block(|_| {});
    world.sync_all();
    next_block().await;
    assert!(judge.decide(&bob, Some(BOB)).await.verdict.granted);
    // The whole story is undone: the chain never saw the transfer.
    world.reorganise_chain(3);
    world.sync_all();
    next_block().await;
    assert_eq!(
        judge.decide(&bob, Some(BOB)).await.session_verdict(),
        SessionVerdict::Over(GateReasonCode::NotOwner)
    );
    assert!(judge.decide(&ann, Some(ANN)).await.verdict.granted);
}

#[tokio::test(start_paused = true)]
async fn many_viewers_cost_one_decision() {
    let (world, judge) = started();
    let rule = compile_rule(&nft_rule(NFT, Some(1))).unwrap();
    let requests = (0..100).map(|_| judge.decide(&rule, Some(ANN)));
    let decisions = futures::future::join_all(requests).await;
    assert!(decisions.iter().all(|decision| decision.verdict.granted));
    // Two requests for the head, two for the facts, to each of three nodes.
    assert!(world.request_count() <= 12, "{}", world.request_count());
    let before = world.request_count();
    assert!(judge.decide(&rule, Some(ANN)).await.verdict.granted);
    assert_eq!(world.request_count(), before);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_nothing_behind() {
    let world = started().0;
    let judge =
        GateEvaluator::new(world.open_client(ChainConfig { questions_per_s_max: 1_000_000, ..config() }));
    let (rule, other) =
        (compile_rule(&nft_rule(NFT, Some(1))).unwrap(), compile_rule(&nft_rule(NFT, None)).unwrap());
    assert!(judge.decide(&other, Some(ANN)).await.verdict.granted, "the head is known now");
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Hangs));
    for n in 0..1_000_u64 {
        let wallet = if n == 0 { ANN } else { Address::from_word(U256::from(n).into()) };
        let mut asking = judge.decide(&rule, Some(wallet)).boxed();
        assert!((&mut asking).now_or_never().is_none(), "the facts do not come");
        assert_eq!(judge.pending_count(), 1);
        drop(asking);
        assert_eq!(judge.pending_count(), 0);
        tokio::task::yield_now().await;
    }
    // Two wait for the same; one of them gives up.
    let mut staying = judge.decide(&rule, Some(ANN)).boxed();
    assert!((&mut staying).now_or_never().is_none());
    assert!(judge.decide(&rule, Some(ANN)).now_or_never().is_none());
    assert_eq!(judge.pending_count(), 1);
    assert_eq!(staying.await.verdict.code, GateReasonCode::ChainUnavailable);
    assert_eq!(judge.pending_count(), 0);
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Honest));
    tokio::time::advance(Duration::from_secs(60)).await;
    world.mine_block(|_| {});
    world.sync_all();
    assert_eq!(code(&judge, &nft_rule(NFT, Some(1))).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn a_decision_given_up_is_not_resumed_past_its_time() {
    let (world, judge) = started();
    let (rule, other) =
        (compile_rule(&nft_rule(NFT, Some(1))).unwrap(), compile_rule(&nft_rule(NFT, None)).unwrap());
    assert!(judge.decide(&other, Some(ANN)).await.verdict.granted, "the head is known now");
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Hangs));
    assert!(judge.decide(&rule, Some(ANN)).now_or_never().is_none());
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Honest));
    // The same head a minute later.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(code(&judge, &nft_rule(NFT, Some(1))).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn a_dead_chain_closes_only_what_rests_on_it() {
    let (world, judge) = started();
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Down));
    let dead = || nft_rule(NFT, Some(1));
    let elsewhere =
        GateRule::Erc20Balance { chain_id: 7, contract: NFT.to_string(), balance_min: "1".into() };
    for (rule, wanted, keep) in [
        (any_rule(&[allow_list_rule(&[ANN]), dead()]), GateReasonCode::RuleHolds, SessionVerdict::On),
        (
            any_rule(&[dead(), elsewhere.clone(), allow_list_rule(&[ANN])]),
            GateReasonCode::RuleHolds,
            SessionVerdict::On,
        ),
        (
            all_rule(&[dead(), allow_list_rule(&[BOB])]),
            GateReasonCode::NotListed,
            SessionVerdict::Over(GateReasonCode::NotListed),
        ),
        (
            all_rule(&[allow_list_rule(&[ANN]), dead()]),
            GateReasonCode::ChainUnavailable,
            SessionVerdict::Unclear(GateReasonCode::ChainUnavailable),
        ),
        (
            not_rule(dead()),
            GateReasonCode::ChainUnavailable,
            SessionVerdict::Unclear(GateReasonCode::ChainUnavailable),
        ),
        (
            not_rule(all_rule(&[dead(), allow_list_rule(&[ANN])])),
            GateReasonCode::ChainUnavailable,
            SessionVerdict::Unclear(GateReasonCode::ChainUnavailable),
        ),
        // The chain that is away may yet say yes, whatever another lacks.
        (
            any_rule(&[elsewhere.clone(), dead()]),
            GateReasonCode::ChainUnavailable,
            SessionVerdict::Unclear(GateReasonCode::ChainUnavailable),
        ),
        (
            not_rule(elsewhere.clone()),
            GateReasonCode::ChainUnknown,
            SessionVerdict::Over(GateReasonCode::ChainUnknown),
        ),
    ] {
        let decision = judge.decide(&compile_rule(&rule).unwrap(), Some(ANN)).await;
        assert_eq!((decision.verdict.code, decision.session_verdict()), (wanted, keep), "{rule:?}");
        assert_eq!(decision.verdict.granted, wanted == GateReasonCode::RuleHolds, "{rule:?}");
    }
    // Back again, the chain is asked.
    (0..3).for_each(|node| world.set_behavior(node, NodeBehavior::Honest));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(code(&judge, &all_rule(&[dead(), allow_list_rule(&[BOB])])).await, GateReasonCode::NotListed);
    assert_eq!(code(&judge, &all_rule(&[dead(), allow_list_rule(&[ANN])])).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_lie_lag_or_hang_are_outvoted() {
    for mood in [
        NodeBehavior::ClaimsAll,
        NodeBehavior::ClaimsNone,
        NodeBehavior::InventsHeads,
        NodeBehavior::Hangs,
        NodeBehavior::Down,
        NodeBehavior::Throttles,
    ] {
        let (world, judge) = started();
        world.set_behavior(0, mood);
        assert_eq!(code(&judge, &nft_rule(NFT, Some(1))).await, GateReasonCode::RuleHolds, "{mood:?}");
        world.transfer_token(1, Some(BOB));
        world.sync_all();
        next_block().await;
        assert_eq!(code(&judge, &nft_rule(NFT, Some(1))).await, GateReasonCode::NotOwner, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_opens() {
    for mood in [
        NodeBehavior::ClaimsNone,
        NodeBehavior::InventsHeads,
        NodeBehavior::Hangs,
        NodeBehavior::Down,
        NodeBehavior::Throttles,
    ] {
        let (world, judge) = started();
        world.set_behavior(0, mood);
        world.set_behavior(1, NodeBehavior::Down);
        let decision = judge.decide(&compile_rule(&nft_rule(NFT, Some(1))).unwrap(), Some(ANN)).await;
        assert!(!decision.verdict.granted, "{mood:?}");
        assert!(matches!(decision.session_verdict(), SessionVerdict::Unclear(_)), "{mood:?} {decision:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_blocks_and_forgotten_blocks_open_nothing() {
    let (world, judge) = started();
    let rule = nft_rule(NFT, Some(1));
    world.advance_time(61);
    assert_eq!(code(&judge, &rule).await, GateReasonCode::ChainUnavailable);
    (0..3).for_each(|_| world.mine_block(|_| {}));
    world.sync_all();
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::RuleHolds);
    world.transfer_token(1, Some(BOB));
    world.sync_all();
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::NotOwner);
    // The node that is left with another falls back behind the transfer: what was known is not forgotten.
    world.set_behavior(0, NodeBehavior::Down);
    world.rewind_node(1, 1);
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::ChainUnavailable);
}
