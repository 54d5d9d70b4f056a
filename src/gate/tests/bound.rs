//! Accounts that a contract proved: known on their own chain alone, and asked again by whoever opens or renews a session.

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

use crate::testing::site::{Site, play};
use crate::{
    Viewer, ViewerRights,
    decide::{Fact, Truth, truth},
    grant::{Config, Denied, Grants},
    rule::compile,
    testing::{ANN, BOB, all, any, listed, nft, not},
};
use auth::{
    Config as SignInConfig, Proofs,
    account::Account,
    contract::ChainCall,
    testing::{Fake, Reply, YES},
    value::Address,
};

/// Another chain than that of the rules.
const ELSEWHERE: u64 = CHAIN + 1;

fn on(chain_id: u64, address: Raw) -> Account {
    Account::of_contract(Address::new(address), chain_id)
}

fn named(chain_id: u64, address: Raw) -> GateRule {
    GateRule::AllowList { addresses: vec![address.to_string()], chain_id: Some(chain_id) }
}

#[test]
fn what_an_address_owns_on_another_chain_is_not_known() {
    let needed = Truth::Unknown(GateReasonCode::WalletNeeded);
    let (here, there) = (on(CHAIN, ANN), on(ELSEWHERE, ANN));
    let one = nft(NFT, Some(1));
    let check = |rule: &GateRule, wallet: Account, wanted: Truth| {
        let facts = [Fact::Owner(ANN); 2];
        assert_eq!(truth(&compile(rule).unwrap(), Some(wallet), &facts), wanted, "{rule:?} {wallet:?}");
    };
    check(&one, here, Truth::Yes);
    check(&one, there, needed);
    check(&not(one.clone()), there, needed);
    check(&not(not(one.clone())), there, needed);
    check(&all(&[one.clone(), GateRule::Public {}]), there, needed);
    check(&any(&[one.clone(), GateRule::Public {}]), there, Truth::Yes);
    check(&any(&[one, named(ELSEWHERE, ANN)]), there, Truth::Yes);
    // Nor does a list that names an address say whose it is there.
    check(&listed(&[ANN]), here, needed);
    check(&not(listed(&[ANN])), here, needed);
    check(&named(CHAIN, ANN), here, Truth::Yes);
    check(&named(CHAIN, ANN), there, needed);
    check(&not(named(CHAIN, ANN)), there, needed);
    check(&named(CHAIN, BOB), here, Truth::No(GateReasonCode::NotListed));
    // A key speaks for its account wherever it is named.
    check(&named(CHAIN, ANN), ANN.into(), Truth::Yes);
    check(&named(ELSEWHERE, ANN), ANN.into(), Truth::Yes);
    check(&listed(&[ANN]), ANN.into(), Truth::Yes);
}

#[test]
fn a_list_names_contracts_by_their_chain() {
    let digest = |rule: &GateRule| compile(rule).unwrap().digest;
    assert_ne!(digest(&named(CHAIN, ANN)), digest(&named(ELSEWHERE, ANN)));
    assert_ne!(digest(&named(CHAIN, ANN)), digest(&listed(&[ANN])));
    assert_eq!(compile(&named(0, ANN)).unwrap_err().pointer, "/chain_id");
}

#[tokio::test]
async fn another_chain_is_not_even_asked() {
    let site = Site::start().await;
    let judge = site.judge();
    let rule = compile(&nft(NFT, Some(1))).unwrap();
    let decision = judge.decide(&rule, Some(on(ELSEWHERE, ANN))).await;
    assert_eq!((decision.verdict.code, decision.verdict.granted), (GateReasonCode::WalletNeeded, false));
    assert_eq!((site.world.requests(), decision.latest.len()), (0, 0));
    assert!(judge.decide(&rule, Some(on(CHAIN, ANN))).await.verdict.granted);
    // What was decided about the one is not taken for the other.
    let again = judge.decide(&rule, Some(on(ELSEWHERE, ANN))).await;
    assert_eq!(again.verdict.code, GateReasonCode::WalletNeeded);
}

/// A viewer whose account is a contract, with its sign-in on record.
async fn signed_in(site: &Site) -> Viewer {
    let session_id = SessionId::from_bytes(nats::new_id_bytes());
    let account = on(CHAIN, ANN);
    let session = session::AuthSession {
        session_id,
        address: account.address.lower(),
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
    Viewer { name: account.owner(), wallet: Some(account), rights: ViewerRights::Owner, opener }
}

async fn grants(site: &Site, role: Role, chain: &Arc<Fake>) -> Grants {
    let bus = site.broker.bus(role).await;
    let chain = Arc::clone(chain) as Arc<dyn ChainCall>;
    let proofs = Proofs::new(bus.clone(), Some(chain), &SignInConfig::default());
    let ahead_ms = Arc::clone(&site.ahead_ms);
    let clock = Arc::new(move || nats::now_ms() + ahead_ms.load(std::sync::atomic::Ordering::SeqCst));
    Grants::with_proofs(bus, site.judge(), Config::default(), (proofs, clock))
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Denied>) -> GateReasonCode {
    match outcome {
        Err(Denied::Closed { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

async fn end_of(site: &Site, viewer: &Viewer) -> Option<SessionEndReason> {
    let Some(PlaybackCredential::SignIn(session_id)) = viewer.opener else { panic!("{viewer:?}") };
    let held = site.admin.load_record::<session::AuthSession>(&session_id.to_string()).await.unwrap();
    held.unwrap().record.end
}

#[tokio::test]
async fn nothing_opens_for_an_account_that_does_not_stand_by_its_session() {
    let site = Site::start().await;
    let chain = Fake::new(Address::new(ANN), &[1], Reply::hex(YES));
    let grants = grants(&site, Role::Ingress, &chain).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    play(&grants, &viewer, film).await.unwrap();
    play(&grants, &viewer, film).await.unwrap();
    assert_eq!(chain.asked(), 1, "once a block");
    chain.replies(Reply::Unavailable);
    assert_eq!(code(grants.admit(&viewer, film).await), GateReasonCode::ChainUnavailable);
    assert_eq!(end_of(&site, &viewer).await, None, "the session is kept");
    chain.replies(Reply::Reverted);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut refused = code(grants.admit(&viewer, film).await);
    while refused == GateReasonCode::ChainUnavailable {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        // The connection to the broker lives in the same thread.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = code(grants.admit(&viewer, film).await);
    }
    assert_eq!(refused, GateReasonCode::Ended);
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

#[tokio::test]
async fn playback_ends_with_the_word_of_the_account_and_outlasts_an_outage_to_the_end_of_its_grant() {
    let site = Site::start().await;
    let chain = Fake::new(Address::new(ANN), &[1], Reply::hex(YES));
    let grants = grants(&site, Role::Ingress, &chain).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    let session = play(&grants, &viewer, film).await.unwrap();
    assert_eq!((session.wallet_chain_id, session.wallet.clone()), (Some(CHAIN), Some(ANN.to_string())));
    site.pass_ms(50_000);
    grants.check(session.playback_id, film).await.unwrap();
    chain.replies(Reply::Unavailable);
    site.pass_ms(50_000);
    grants.check(session.playback_id, film).await.unwrap();
    site.pass_ms(10_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), GateReasonCode::ChainUnavailable);
    assert_eq!(site.session(&session).await.revoked, None, "nobody said that it is over");
    assert_eq!(end_of(&site, &viewer).await, None);
    chain.replies(Reply::Reverted);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut refused = code(grants.check(session.playback_id, film).await);
    while refused == GateReasonCode::ChainUnavailable {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        // The connection to the broker lives in the same thread.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = code(grants.check(session.playback_id, film).await);
    }
    assert_eq!(refused, GateReasonCode::Ended);
    assert_eq!(site.session(&session).await.revoked, Some(GateReasonCode::Ended));
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

/// The watcher evaluates sessions with the rights of the keeper.
#[tokio::test]
async fn the_keeper_may_end_what_an_account_does_not_stand_by() {
    let site = Site::start().await;
    let chain = Fake::new(Address::new(ANN), &[1], Reply::hex(YES));
    let (ingress, keeper) =
        (grants(&site, Role::Ingress, &chain).await, grants(&site, Role::Keeper, &chain).await);
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let viewer = signed_in(&site).await;
    let session = play(&ingress, &viewer, film).await.unwrap();
    chain.replies(Reply::Reverted);
    assert_eq!(code(keeper.renew(session.playback_id, film).await), GateReasonCode::Ended);
    assert_eq!(site.session(&session).await.revoked, Some(GateReasonCode::Ended));
    assert_eq!(end_of(&site, &viewer).await, Some(SessionEndReason::ProofFailed));
}

#[test]
fn amounts_elsewhere_do_not_count_either() {
    let rule = compile(&nft(NFT, None)).unwrap();
    let facts = [Fact::Amount(U256::MAX)];
    assert_eq!(truth(&rule, Some(on(ELSEWHERE, ANN)), &facts), Truth::Unknown(GateReasonCode::WalletNeeded));
}
