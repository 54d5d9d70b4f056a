//! Accounts that a contract proved: known on their own chain alone, and asked again whenever a session is opened or renewed.

use std::sync::Arc;

use alloy_primitives::{Address as Raw, U256};
use evm::testing::{CHAIN, NFT};
use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    gate::{GateReasonCode, GateRule, PlaybackCredential},
    ids::SessionId,
    session::{self, ContractProof, SessionEndReason, SignInMethod},
};
use serde_bytes::ByteBuf;

use crate::testing::site::{GateTestSite, open_playback};
use crate::{
    GateViewer, ViewerRights,
    decide::{ContractFact, RuleTruth, evaluate_rule},
    grant::{GrantConfig, PlaybackDenied, PlaybackGrants},
    rule::compile_rule,
    testing::{ANN, BOB, all_rule, allow_list_rule, any_rule, nft_rule, not_rule},
};
use auth::{
    AuthConfig as SignInConfig, ProofChecker,
    account::WalletAccount,
    address::WalletAddress,
    contract::ContractCaller,
    testing::{FakeChain, FakeChainReply, YES},
};

/// Another chain than that of the rules.
const ELSEWHERE: u64 = CHAIN + 1;

fn on(chain_id: u64, address: Raw) -> WalletAccount {
    WalletAccount::of_contract(WalletAddress::new(address), chain_id)
}

fn named(chain_id: u64, address: Raw) -> GateRule {
    GateRule::AllowList { addresses: vec![address.to_string()], chain_id: Some(chain_id) }
}

#[test]
fn what_an_address_owns_on_another_chain_is_not_known() {
    let needed = RuleTruth::Unknown(GateReasonCode::WalletNeeded);
    let (here, there) = (on(CHAIN, ANN), on(ELSEWHERE, ANN));
    let one = nft_rule(NFT, Some(1));
    let check = |rule: &GateRule, wallet: WalletAccount, wanted: RuleTruth| {
        let facts = [ContractFact::Owner(ANN); 2];
        assert_eq!(
            evaluate_rule(&compile_rule(rule).unwrap(), Some(wallet), &facts),
            wanted,
            "{rule:?} {wallet:?}"
        );
    };
    check(&one, here, RuleTruth::Yes);
    check(&one, there, needed);
    check(&not_rule(one.clone()), there, needed);
    check(&not_rule(not_rule(one.clone())), there, needed);
    check(&all_rule(&[one.clone(), GateRule::Public {}]), there, needed);
    check(&any_rule(&[one.clone(), GateRule::Public {}]), there, RuleTruth::Yes);
    check(&any_rule(&[one, named(ELSEWHERE, ANN)]), there, RuleTruth::Yes);
    // Nor does a list that names an address say whose it is there.
    check(&allow_list_rule(&[ANN]), here, needed);
    check(&not_rule(allow_list_rule(&[ANN])), here, needed);
    check(&named(CHAIN, ANN), here, RuleTruth::Yes);
    check(&named(CHAIN, ANN), there, needed);
    check(&not_rule(named(CHAIN, ANN)), there, needed);
    check(&named(CHAIN, BOB), here, RuleTruth::No(GateReasonCode::NotListed));
    // A key speaks for its account wherever it is named.
    check(&named(CHAIN, ANN), ANN.into(), RuleTruth::Yes);
    check(&named(ELSEWHERE, ANN), ANN.into(), RuleTruth::Yes);
    check(&allow_list_rule(&[ANN]), ANN.into(), RuleTruth::Yes);
}

#[test]
fn a_list_names_contracts_by_their_chain() {
    let digest = |rule: &GateRule| compile_rule(rule).unwrap().digest;
    assert_ne!(digest(&named(CHAIN, ANN)), digest(&named(ELSEWHERE, ANN)));
    assert_ne!(digest(&named(CHAIN, ANN)), digest(&allow_list_rule(&[ANN])));
    assert_eq!(compile_rule(&named(0, ANN)).unwrap_err().pointer, "/chain_id");
}

#[tokio::test]
async fn another_chain_is_not_even_asked() {
    let site = GateTestSite::start().await;
    let judge = site.gate_evaluator();
    let rule = compile_rule(&nft_rule(NFT, Some(1))).unwrap();
    let decision = judge.decide(&rule, Some(on(ELSEWHERE, ANN))).await;
    assert_eq!((decision.verdict.code, decision.verdict.granted), (GateReasonCode::WalletNeeded, false));
    assert_eq!((site.world.request_count(), decision.latest.len()), (0, 0));
    assert!(judge.decide(&rule, Some(on(CHAIN, ANN))).await.verdict.granted);
    // What was decided about the one is not taken for the other.
    let again = judge.decide(&rule, Some(on(ELSEWHERE, ANN))).await;
    assert_eq!(again.verdict.code, GateReasonCode::WalletNeeded);
}

/// A viewer whose account is a contract, with its sign-in on record.
async fn signed_in(site: &GateTestSite) -> GateViewer {
    let session_id = SessionId::from_bytes(nats::new_id_bytes());
    let account = on(CHAIN, ANN);
    let session = session::AuthSession {
        session_id,
        address: account.address.to_lower_hex(),
        chain_id: CHAIN,
        method: SignInMethod::Contract,
        account_chain_id: Some(CHAIN),
        generation: 1,
        refresh_sha256: ByteBuf::from(vec![0; 32]),
        refreshed_at_ms: None,
        refreshed_by: None,
        created_at_ms: nats::now_ms(),
        expires_at_ms: nats::now_ms() + 86_400_000,
        ended_at_ms: None,
        end: None,
        proof: Some(ContractProof {
            digest: ByteBuf::from(vec![7; 32]),
            signature: ByteBuf::from(vec![1, 2, 3]),
        }),
    };
    site.admin.commit_record(&mut VersionedRecord::new(session), Outbox::new()).await.unwrap();
    let opener = Some(PlaybackCredential::SignIn(session_id));
    GateViewer { name: account.owner_id(), wallet: Some(account), rights: ViewerRights::Owner, opener }
}

async fn grants(site: &GateTestSite, role: Role, chain: &Arc<FakeChain>) -> PlaybackGrants {
    let bus = site.broker.bus(role).await;
    let chain = Arc::clone(chain) as Arc<dyn ContractCaller>;
    let proofs = ProofChecker::new(bus.clone(), Some(chain), &SignInConfig::default());
    let ahead_ms = Arc::clone(&site.ahead_ms);
    let clock = Arc::new(move || nats::now_ms() + ahead_ms.load(std::sync::atomic::Ordering::SeqCst));
    PlaybackGrants::with_proofs(bus, site.gate_evaluator(), GrantConfig::default(), (proofs, clock))
}

fn code<T: std::fmt::Debug>(outcome: Result<T, PlaybackDenied>) -> GateReasonCode {
    match outcome {
        Err(PlaybackDenied::Closed { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

async fn end_of(site: &GateTestSite, viewer: &GateViewer) -> Option<SessionEndReason> {
    let Some(PlaybackCredential::SignIn(session_id)) = viewer.opener else { panic!("{viewer:?}") };
    let held = site.admin.load_record::<session::AuthSession>(&session_id.to_string()).await.unwrap();
    held.unwrap().record.end
}

#[tokio::test]
async fn nothing_opens_for_an_account_that_does_not_stand_by_its_session() {
    let site = GateTestSite::start().await;
    let chain = FakeChain::new(WalletAddress::new(ANN), &[1], FakeChainReply::from_hex(YES));
    let grants = grants(&site, Role::Ingress, &chain).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    open_playback(&grants, &viewer, film).await.unwrap();
    open_playback(&grants, &viewer, film).await.unwrap();
    assert_eq!(chain.call_count(), 1, "once a block");
    chain.set_reply(FakeChainReply::Unavailable);
    assert_eq!(code(grants.admit_viewer(&viewer, film).await), GateReasonCode::ChainUnavailable);
    assert_eq!(end_of(&site, &viewer).await, None, "the session is kept");
    chain.set_reply(FakeChainReply::Reverted);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut refused = code(grants.admit_viewer(&viewer, film).await);
    while refused == GateReasonCode::ChainUnavailable {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        // The connection to the broker lives in the same thread.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = code(grants.admit_viewer(&viewer, film).await);
    }
    assert_eq!(refused, GateReasonCode::Ended);
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

#[tokio::test]
async fn playback_ends_with_the_word_of_the_account_and_outlasts_an_outage_to_the_end_of_its_grant() {
    let site = GateTestSite::start().await;
    let chain = FakeChain::new(WalletAddress::new(ANN), &[1], FakeChainReply::from_hex(YES));
    let grants = grants(&site, Role::Ingress, &chain).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    let session = open_playback(&grants, &viewer, film).await.unwrap();
    assert_eq!((session.wallet_chain_id, session.wallet.clone()), (Some(CHAIN), Some(ANN.to_string())));
    site.advance_ms(50_000);
    grants.check_session(session.playback_id, film).await.unwrap();
    chain.set_reply(FakeChainReply::Unavailable);
    site.advance_ms(50_000);
    grants.check_session(session.playback_id, film).await.unwrap();
    site.advance_ms(10_000);
    assert_eq!(code(grants.check_session(session.playback_id, film).await), GateReasonCode::ChainUnavailable);
    assert_eq!(site.load_session(&session).await.revoked, None, "nobody said that it is over");
    assert_eq!(end_of(&site, &viewer).await, None);
    chain.set_reply(FakeChainReply::Reverted);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut refused = code(grants.check_session(session.playback_id, film).await);
    while refused == GateReasonCode::ChainUnavailable {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        // The connection to the broker lives in the same thread.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = code(grants.check_session(session.playback_id, film).await);
    }
    assert_eq!(refused, GateReasonCode::Ended);
    assert_eq!(site.load_session(&session).await.revoked, Some(GateReasonCode::Ended));
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

/// The watcher evaluates sessions with the rights of the keeper.
#[tokio::test]
async fn the_keeper_may_end_what_an_account_does_not_stand_by() {
    let site = GateTestSite::start().await;
    let chain = FakeChain::new(WalletAddress::new(ANN), &[1], FakeChainReply::from_hex(YES));
    let (ingress, keeper) =
        (grants(&site, Role::Ingress, &chain).await, grants(&site, Role::Keeper, &chain).await);
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    let session = open_playback(&ingress, &viewer, film).await.unwrap();
    chain.set_reply(FakeChainReply::Reverted);
    assert_eq!(code(keeper.renew_session(session.playback_id, film).await), GateReasonCode::Ended);
    assert_eq!(site.load_session(&session).await.revoked, Some(GateReasonCode::Ended));
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

#[test]
fn amounts_elsewhere_do_not_count_either() {
    let rule = compile_rule(&nft_rule(NFT, None)).unwrap();
    let facts = [ContractFact::Amount(U256::MAX)];
    assert_eq!(
        evaluate_rule(&rule, Some(on(ELSEWHERE, ANN)), &facts),
        RuleTruth::Unknown(GateReasonCode::WalletNeeded)
    );
}
