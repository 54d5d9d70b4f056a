//! Contract accounts are asked again while their sessions are used.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use schemas::session::{AuthSession, AuthSignedOut, SessionEndReason, SignInMethod as How};
use serde_json::json;

use super::site::*;
use auth::testing::{FakeChain, FakeChainReply, YES};
use auth::{AuthConfig, contract::ContractCaller};

/// A replica with an account that is a contract, its chain, and its session.
async fn signed_in(site: &mut Site, config: AuthConfig, seed: u8) -> (Replica, Arc<FakeChain>, Answer) {
    let wallet = TestWallet::new(seed);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let a = site.deaf_replica(config, Some(Arc::clone(&chain) as Arc<dyn ContractCaller>)).await;
    let answer = by_contract(&a, &wallet).await.expect(201);
    (a, chain, answer)
}

/// Signs in with bytes that no key made.
pub(super) async fn by_contract(replica: &Replica, wallet: &TestWallet) -> Answer {
    let (nonce, cookie) = replica.challenge().await;
    let message = TestSiweMessage::new(wallet, &nonce).to_string();
    replica.login(&cookie, &message, &[1, 2, 3]).await
}

#[tokio::test]
async fn a_contracts_session_lasts_as_long_as_the_contract_says_so() {
    let mut site = Site::start().await;
    let (a, chain, answer) = signed_in(&mut site, config(), 66).await;
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!(
        (session.method, session.proof.unwrap().signature.as_slice()),
        (How::Contract, &[1, 2, 3][..])
    );
    let next = a.refresh(&answer.text("refresh_token")).await.expect(200);
    // An outage refuses and ends nothing.
    chain.set_reply(FakeChainReply::Unavailable);
    a.refresh(&next.text("refresh_token")).await.assert(503, "unavailable");
    chain.set_reply(FakeChainReply::from_hex(YES));
    let next = until_there(&a, &next.text("refresh_token")).await;
    // The contract's owner changed.
    chain.set_reply(FakeChainReply::Reverted);
    a.refresh(&next.text("refresh_token")).await.assert(401, "proof_failed");
    a.me(&next.text("access_token")).await.assert(401, "unauthorized");
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!((session.end, session.proof), (Some(SessionEndReason::ProofFailed), None));
    assert_eq!(site.events::<AuthSignedOut>().await[0].end, SessionEndReason::ProofFailed);
    // And a login that the contract refuses is refused.
    by_contract(&a, &TestWallet::new(66)).await.assert(401, "signature_refused");
}

/// Refreshes once the chain answers again: nobody is asked right after an outage.
async fn until_there(replica: &Replica, token: &str) -> Answer {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let answer = replica.refresh(token).await;
        if answer.status == 200 {
            return answer;
        }
        answer.assert(503, "unavailable");
        assert!(tokio::time::Instant::now() < deadline, "the session never goes on");
    }
}

#[tokio::test]
async fn a_session_in_use_is_asked_about_again_and_one_that_failed_is_refused() {
    let mut site = Site::start().await;
    // An answer is never gone by for longer than no time at all.
    let strict = AuthConfig { proof_ms: 0, ..config() };
    let (a, chain, answer) = signed_in(&mut site, strict, 90).await;
    let (token, asked) = (answer.text("access_token"), chain.call_count());
    a.me(&token).await.expect(200);
    a.me(&token).await.expect(200);
    assert_eq!(chain.call_count(), asked + 1, "once a block");
    chain.set_reply(FakeChainReply::Unavailable);
    a.me(&token).await.assert(503, "unavailable");
    a.post("/v1/auth/verify", json!({ "token": token })).await.assert(503, "unavailable");
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!(session.end, None, "it is kept");
    chain.set_reply(FakeChainReply::Reverted);
    let deadline = tokio::time::Instant::now() + SOON;
    let mut refused = a.me(&token).await;
    while refused.status == 503 {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        refused = a.me(&token).await;
    }
    refused.assert(401, "unauthorized");
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!(session.end, Some(SessionEndReason::ProofFailed));
}

#[tokio::test]
async fn an_answer_is_gone_by_for_its_time_and_not_for_what_outlives_the_session() {
    let mut site = Site::start().await;
    let (a, chain, answer) = signed_in(&mut site, config(), 91).await;
    let (token, asked) = (answer.text("access_token"), chain.call_count());
    a.me(&token).await.expect(200);
    assert_eq!(chain.call_count(), asked, "the account said yes a moment ago");
    // A key lives on: the account is asked for each.
    let keys = |body| a.request(Method::POST, "/v1/auth/keys").bearer_auth(&token).json(&body);
    a.send(keys(json!({}))).await.expect(201);
    assert_eq!(chain.call_count(), asked + 1);
    chain.set_reply(FakeChainReply::Unavailable);
    a.send(keys(json!({}))).await.assert(503, "unavailable");
    a.me(&token).await.expect(200);
    chain.set_reply(FakeChainReply::Reverted);
    let deadline = tokio::time::Instant::now() + SOON;
    let mut refused = a.send(keys(json!({}))).await;
    while refused.status == 503 {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks again");
        refused = a.send(keys(json!({}))).await;
    }
    refused.assert(401, "proof_failed");
    a.me(&token).await.assert(401, "unauthorized");
}

#[tokio::test]
async fn of_many_requests_at_once_one_asks() {
    let mut site = Site::start().await;
    let strict = AuthConfig { proof_ms: 0, ..config() };
    let (a, chain, answer) = signed_in(&mut site, strict, 92).await;
    let (token, asked) = (answer.text("access_token"), chain.call_count());
    let answers = at_once((0..16).map(|_| a.me(&token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(chain.call_count(), asked + 1);
}

/// What goes on without end ends with the credential that began it.
#[tokio::test]
async fn an_answer_without_an_end_ends_with_its_credential() {
    const LOOK: Duration = Duration::from_millis(10);
    let mut site = Site::start().await;
    let quick = AuthConfig { proof_ms: 0, recheck_ms: 0, ..config() };
    let (a, chain, answer) = signed_in(&mut site, quick, 93).await;
    let who = a.sign_in.identify_credential(&answer.text("access_token")).await.unwrap().unwrap();
    let over = a.sign_in.clone().wait_until_invalid(who, LOOK, tokio::sync::broadcast::channel(1).1);
    tokio::pin!(over);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut over).await;
    assert!(early.is_err(), "the account stands by it");
    chain.set_reply(FakeChainReply::Reverted);
    tokio::time::timeout(SOON, over).await.expect("the account took its word back");
    // So does what a key began, once the key is revoked.
    let key = auth::create_api_key(&site.admin, "ann", schemas::access::PrincipalRole::Owner).await.unwrap();
    let who = a.sign_in.identify_credential(&key).await.unwrap().unwrap();
    let key_id = who.key_id.unwrap();
    let over = a.sign_in.clone().wait_until_invalid(who, LOOK, tokio::sync::broadcast::channel(1).1);
    tokio::pin!(over);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut over).await.is_err());
    let by = ("ann", web::request::current_or_fresh_id());
    assert!(auth::key::revoke_key(&site.admin, key_id, |_| true, by).await.unwrap());
    tokio::time::timeout(SOON, over).await.expect("the key is revoked");
}
