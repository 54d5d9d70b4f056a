//! Decisions through a model chain.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use evm::{
    Config,
    testing::{BURNER, CHAIN, DIRTY, LONG, Mood, NFT, NOTHING, SHORT, World},
};
use futures::FutureExt;
use schemas::gate::{GateReasonCode, GateRule};

use crate::{
    judge::{Judge, Keep},
    rule::compile,
    testing::{ANN, BOB, all, any, coin, listed, nft, not},
};

fn config() -> Config {
    Config {
        chain_id: CHAIN,
        confirmations: 2,
        head_cache_ms: 1_000,
        head_age_s_max: 60,
        ..Config::default()
    }
}

fn started() -> (World, Judge) {
    let world = World::new(3);
    world.transfer(1, Some(ANN));
    (0..3).for_each(|_| world.mine(|_| {}));
    world.sync_all();
    let judge = Judge::new(world.open(config()));
    (world, judge)
}

async fn code(judge: &Judge, rule: &GateRule) -> GateReasonCode {
    judge.decide(&compile(rule).unwrap(), Some(ANN)).await.verdict.code
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
        for rule in [nft(contract, Some(1)), nft(contract, None), coin(contract, 1)] {
            assert_eq!(code(&judge, &rule).await, wanted, "{rule:?}");
            assert_eq!(code(&judge, &not(rule.clone())).await, wanted, "not {rule:?}");
            // One bad contract spoils nothing that does not need it.
            assert_eq!(code(&judge, &any(&[rule, listed(&[ANN])])).await, GateReasonCode::RuleHolds);
        }
    }
    assert_eq!(code(&judge, &nft(DIRTY, Some(1))).await, GateReasonCode::ContractMalformed);
    assert_eq!(code(&judge, &nft(NFT, Some(404))).await, GateReasonCode::ContractFailed);
    assert_eq!(code(&judge, &not(nft(NFT, Some(404)))).await, GateReasonCode::ContractFailed);
}

#[tokio::test(start_paused = true)]
async fn a_gate_opens_late_and_closes_at_once() {
    let (world, judge) = started();
    let (ann, bob) = (compile(&nft(NFT, Some(1))).unwrap(), compile(&nft(NFT, Some(1))).unwrap());
    assert!(judge.decide(&ann, Some(ANN)).await.verdict.granted);
    world.transfer(1, Some(BOB));
    world.sync_all();
    next_block().await;
    let decision = judge.decide(&ann, Some(ANN)).await;
    assert_eq!((decision.verdict.granted, decision.keep()), (false, Keep::Over(GateReasonCode::NotOwner)));
    let decision = judge.decide(&bob, Some(BOB)).await;
    assert_eq!((decision.verdict.code, decision.keep()), (GateReasonCode::NotConfirmed, Keep::On));
    world.mine(|_| {});
    world.mine(|_| {});
    world.sync_all();
    next_block().await;
    assert!(judge.decide(&bob, Some(BOB)).await.verdict.granted);
    // The whole story is undone: the chain never saw the transfer.
    world.reorganise(3);
    world.sync_all();
    next_block().await;
    assert_eq!(judge.decide(&bob, Some(BOB)).await.keep(), Keep::Over(GateReasonCode::NotOwner));
    assert!(judge.decide(&ann, Some(ANN)).await.verdict.granted);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_costs_one_decision() {
    let (world, judge) = started();
    let rule = compile(&nft(NFT, Some(1))).unwrap();
    let crowd = (0..100).map(|_| judge.decide(&rule, Some(ANN)));
    let decisions = futures::future::join_all(crowd).await;
    assert!(decisions.iter().all(|decision| decision.verdict.granted));
    // Two requests for the head, two for the facts, to each of three nodes.
    assert!(world.requests() <= 12, "{}", world.requests());
    let before = world.requests();
    assert!(judge.decide(&rule, Some(ANN)).await.verdict.granted);
    assert_eq!(world.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_nothing_behind() {
    let world = started().0;
    let judge = Judge::new(world.open(Config { questions_per_s_max: 1_000_000, ..config() }));
    let (rule, other) = (compile(&nft(NFT, Some(1))).unwrap(), compile(&nft(NFT, None)).unwrap());
    assert!(judge.decide(&other, Some(ANN)).await.verdict.granted, "the head is known now");
    (0..3).for_each(|node| world.mood(node, Mood::Hangs));
    for n in 0..1_000_u64 {
        let wallet = if n == 0 { ANN } else { Address::from_word(U256::from(n).into()) };
        let mut asking = judge.decide(&rule, Some(wallet)).boxed();
        assert!((&mut asking).now_or_never().is_none(), "the facts do not come");
        assert_eq!(judge.flight_count(), 1);
        drop(asking);
        assert_eq!(judge.flight_count(), 0);
        tokio::task::yield_now().await;
    }
    // Two wait for the same; one of them gives up.
    let mut staying = judge.decide(&rule, Some(ANN)).boxed();
    assert!((&mut staying).now_or_never().is_none());
    assert!(judge.decide(&rule, Some(ANN)).now_or_never().is_none());
    assert_eq!(judge.flight_count(), 1);
    assert_eq!(staying.await.verdict.code, GateReasonCode::ChainUnavailable);
    assert_eq!(judge.flight_count(), 0);
    (0..3).for_each(|node| world.mood(node, Mood::Honest));
    tokio::time::advance(Duration::from_secs(60)).await;
    world.mine(|_| {});
    world.sync_all();
    assert_eq!(code(&judge, &nft(NFT, Some(1))).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn a_decision_given_up_is_not_resumed_past_its_time() {
    let (world, judge) = started();
    let (rule, other) = (compile(&nft(NFT, Some(1))).unwrap(), compile(&nft(NFT, None)).unwrap());
    assert!(judge.decide(&other, Some(ANN)).await.verdict.granted, "the head is known now");
    (0..3).for_each(|node| world.mood(node, Mood::Hangs));
    assert!(judge.decide(&rule, Some(ANN)).now_or_never().is_none());
    (0..3).for_each(|node| world.mood(node, Mood::Honest));
    // The same head a minute later.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(code(&judge, &nft(NFT, Some(1))).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn a_dead_chain_closes_only_what_rests_on_it() {
    let (world, judge) = started();
    (0..3).for_each(|node| world.mood(node, Mood::Down));
    let dead = || nft(NFT, Some(1));
    let elsewhere =
        GateRule::Erc20Balance { chain_id: 7, contract: NFT.to_string(), balance_min: "1".into() };
    for (rule, wanted, keep) in [
        (any(&[listed(&[ANN]), dead()]), GateReasonCode::RuleHolds, Keep::On),
        (any(&[dead(), elsewhere.clone(), listed(&[ANN])]), GateReasonCode::RuleHolds, Keep::On),
        (all(&[dead(), listed(&[BOB])]), GateReasonCode::NotListed, Keep::Over(GateReasonCode::NotListed)),
        (
            all(&[listed(&[ANN]), dead()]),
            GateReasonCode::ChainUnavailable,
            Keep::Unclear(GateReasonCode::ChainUnavailable),
        ),
        (not(dead()), GateReasonCode::ChainUnavailable, Keep::Unclear(GateReasonCode::ChainUnavailable)),
        (
            not(all(&[dead(), listed(&[ANN])])),
            GateReasonCode::ChainUnavailable,
            Keep::Unclear(GateReasonCode::ChainUnavailable),
        ),
        // The chain that is away may yet say yes, whatever another lacks.
        (
            any(&[elsewhere.clone(), dead()]),
            GateReasonCode::ChainUnavailable,
            Keep::Unclear(GateReasonCode::ChainUnavailable),
        ),
        (not(elsewhere.clone()), GateReasonCode::ChainUnknown, Keep::Over(GateReasonCode::ChainUnknown)),
    ] {
        let decision = judge.decide(&compile(&rule).unwrap(), Some(ANN)).await;
        assert_eq!((decision.verdict.code, decision.keep()), (wanted, keep), "{rule:?}");
        assert_eq!(decision.verdict.granted, wanted == GateReasonCode::RuleHolds, "{rule:?}");
    }
    // Back again, the chain is asked.
    (0..3).for_each(|node| world.mood(node, Mood::Honest));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(code(&judge, &all(&[dead(), listed(&[BOB])])).await, GateReasonCode::NotListed);
    assert_eq!(code(&judge, &all(&[dead(), listed(&[ANN])])).await, GateReasonCode::RuleHolds);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_lie_lag_or_hang_are_outvoted() {
    for mood in
        [Mood::ClaimsAll, Mood::ClaimsNone, Mood::InventsHeads, Mood::Hangs, Mood::Down, Mood::Throttles]
    {
        let (world, judge) = started();
        world.mood(0, mood);
        assert_eq!(code(&judge, &nft(NFT, Some(1))).await, GateReasonCode::RuleHolds, "{mood:?}");
        world.transfer(1, Some(BOB));
        world.sync_all();
        next_block().await;
        assert_eq!(code(&judge, &nft(NFT, Some(1))).await, GateReasonCode::NotOwner, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_opens() {
    for mood in [Mood::ClaimsNone, Mood::InventsHeads, Mood::Hangs, Mood::Down, Mood::Throttles] {
        let (world, judge) = started();
        world.mood(0, mood);
        world.mood(1, Mood::Down);
        let decision = judge.decide(&compile(&nft(NFT, Some(1))).unwrap(), Some(ANN)).await;
        assert!(!decision.verdict.granted, "{mood:?}");
        assert!(matches!(decision.keep(), Keep::Unclear(_)), "{mood:?} {decision:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_blocks_and_forgotten_blocks_open_nothing() {
    let (world, judge) = started();
    let rule = nft(NFT, Some(1));
    world.pass(61);
    assert_eq!(code(&judge, &rule).await, GateReasonCode::ChainUnavailable);
    (0..3).for_each(|_| world.mine(|_| {}));
    world.sync_all();
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::RuleHolds);
    world.transfer(1, Some(BOB));
    world.sync_all();
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::NotOwner);
    // The node that is left with another falls back behind the transfer: what was known is not forgotten.
    world.mood(0, Mood::Down);
    world.rewind(1, 1);
    next_block().await;
    assert_eq!(code(&judge, &rule).await, GateReasonCode::ChainUnavailable);
}
