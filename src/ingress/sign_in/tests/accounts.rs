//! Whose a sign-in is: no more than what was proven, and nobody is kept out by what others send.

use std::sync::Arc;

use nats::Outbox;
use reqwest::Method;
use schemas::session::{AuthSession, SignInMethod as How};
use serde_json::json;

use super::{proofs::by_contract, site::*};
use auth::testing::{FakeChain, FakeChainReply, YES};
use auth::{AuthConfig, account::WalletAccount, contract::ContractCaller};

async fn replica_over(site: &mut Site, config: AuthConfig, chain: &Arc<FakeChain>) -> Replica {
    site.deaf_replica(config, Some(Arc::clone(chain) as Arc<dyn ContractCaller>)).await
}

/// Signs in on a chain with what is no key's signature.
async fn contract_on(replica: &Replica, wallet: &TestWallet, chain_id: u64) -> Answer {
    let (nonce, cookie) = replica.challenge().await;
    let message = TestSiweMessage { chain_id, ..TestSiweMessage::new(wallet, &nonce) }.to_string();
    replica.login(&cookie, &message, &[1, 2, 3]).await.expect(201)
}

#[tokio::test]
async fn one_address_on_two_chains_is_two_owners() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(100);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let admins = vec![WalletAccount::of_contract(wallet.address, 1)];
    let a = replica_over(&mut site, AuthConfig { admins, ..config() }, &chain).await;
    let (here, there) = (contract_on(&a, &wallet, 1).await, contract_on(&a, &wallet, 137).await);
    let lower = wallet.address.to_lower_hex();
    assert_eq!(here.text("owner"), format!("eip155:1:{lower}"));
    assert_eq!(there.text("owner"), format!("eip155:137:{lower}"));
    assert_eq!((here.text("role"), there.text("role")), ("admin".into(), "owner".into()));
    let (mine, theirs) = (here.text("access_token"), there.text("access_token"));
    // Neither sees, makes or revokes the other's keys.
    let made = a.request(Method::POST, "/v1/auth/keys").bearer_auth(&mine).json(&json!({}));
    let made = a.send(made).await.expect(201);
    let listed = a.get("/v1/auth/keys", &theirs).await.expect(200);
    assert_eq!(listed.body, json!({ "items": [] }));
    let path = format!("/v1/auth/keys/{}", made.text("key_id"));
    a.send(a.request(Method::DELETE, &path).bearer_auth(&theirs)).await.assert(404, "not_found");
    a.get(&format!("/v1/auth/keys?owner={}", here.text("owner")), &theirs).await.assert(403, "not_yours");
    // Nor ends the other's sessions, however they are named.
    a.logout(&theirs, json!({ "wallet": wallet.address })).await.expect(204);
    a.me(&theirs).await.assert(401, "unauthorized");
    a.me(&mine).await.expect(200);
    a.me(&made.text("key")).await.expect(200);
    // A key that makes the same address is a third owner.
    let (again, key) = (contract_on(&a, &wallet, 137).await, a.sign_in(&wallet).await);
    a.logout(&mine, json!({ "wallet": TestWallet::new(101).address })).await.expect(204);
    a.me(&again.text("access_token")).await.expect(200);
    a.me(&key.text("access_token")).await.expect(200);
    assert_eq!(key.text("owner"), format!("eip155:{lower}"));
}

#[tokio::test]
async fn an_address_named_by_an_administrator_is_one_on_every_chain() {
    let mut site = Site::start().await;
    let (wallet, boss) = (TestWallet::new(102), TestWallet::new(103));
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let a = replica_over(&mut site, AuthConfig { admins: vec![boss.account()], ..config() }, &chain).await;
    let (here, there) = (contract_on(&a, &wallet, 1).await, contract_on(&a, &wallet, 137).await);
    let admin = a.sign_in(&boss).await.text("access_token");
    let key = a.sign_in(&wallet).await;
    a.logout(&admin, json!({ "wallet": wallet.address })).await.expect(204);
    for answer in [here, there, key] {
        a.me(&answer.text("access_token")).await.assert(401, "unauthorized");
    }
    a.me(&admin).await.expect(200);
}

#[tokio::test]
async fn a_role_given_to_an_address_is_not_that_of_a_contract_there() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(104);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let a = replica_over(&mut site, AuthConfig { admins: vec![wallet.account()], ..config() }, &chain).await;
    assert_eq!(contract_on(&a, &wallet, 1).await.text("role"), "owner");
    assert_eq!(a.sign_in(&wallet).await.text("role"), "admin");
}

#[tokio::test]
async fn a_key_speaks_for_its_account_on_every_chain_whatever_code_it_has() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(105);
    let delegation = [&[0xef, 0x01, 0x00][..], &[9; 20]].concat();
    let chain = FakeChain::new(wallet.address, &delegation, FakeChainReply::Reverted);
    let a = replica_over(&mut site, config(), &chain).await;
    // Nobody has to be there for it.
    chain.set_unavailable();
    for chain_id in [1, 137] {
        let (nonce, cookie) = a.challenge().await;
        let message = TestSiweMessage { chain_id, ..TestSiweMessage::new(&wallet, &nonce) }.to_string();
        let answer = a.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(201);
        assert_eq!(answer.text("owner"), wallet.owner_id());
        let next = a.refresh(&answer.text("refresh_token")).await.expect(200);
        a.me(&next.text("access_token")).await.expect(200);
    }
    assert_eq!(chain.call_count(), 0);
}

#[tokio::test]
async fn a_session_of_before_that_a_contract_proved_without_its_chain_is_over() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(106);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let a = replica_over(&mut site, AuthConfig { recheck_ms: 0, ..config() }, &chain).await;
    let answer = by_contract(&a, &wallet).await.expect(201);
    a.me(&answer.text("access_token")).await.expect(200);
    site.admin
        .change_record::<AuthSession>(&answer.text("session_id"), |found| {
            Some((AuthSession { account_chain_id: None, ..found?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    a.me(&answer.text("access_token")).await.assert(401, "unauthorized");
    a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
}

#[tokio::test]
async fn junk_signatures_of_one_client_come_to_an_end_and_keys_sign_in_all_the_same() {
    let mut site = Site::start().await;
    site.proxies.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (safe, wallet) = (TestWallet::new(107), TestWallet::new(108));
    let chain = FakeChain::new(safe.address, &[1], FakeChainReply::from_hex(YES));
    let few = AuthConfig { contract_asks_per_prefix_per_minute_max: 3, ..config() };
    let a = replica_over(&mut site, few, &chain).await;
    // What the account takes costs nothing.
    for _ in 0..6 {
        by_contract(&a, &safe).await.expect(201);
    }
    chain.set_reply(FakeChainReply::Reverted);
    for _ in 0..3 {
        by_contract(&a, &safe).await.assert(401, "signature_refused");
    }
    let asked = chain.call_count();
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    let refused = a.login(&cookie, &message, &safe.sign_personal(&message)).await;
    refused.assert(429, "too_many_contract_asks");
    assert!(refused.retry_after_s.is_some_and(|seconds| (1..=20).contains(&seconds)), "{refused:?}");
    assert_eq!(chain.call_count(), asked, "no provider was asked");
    // The challenge is good still, and what a key signs is not limited.
    a.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(201);
    // Other clients have their own.
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&safe, &nonce).to_string();
    let body = json!({ "message": message, "signature": "0x010203" });
    let login = a.request(Method::POST, "/v1/auth/login").header("cookie", cookie).json(&body);
    a.send(login.header("x-forwarded-for", "203.0.113.9")).await.assert(401, "signature_refused");
}

#[tokio::test]
async fn a_challenge_outlives_an_attempt_about_which_nobody_could_say_anything() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(109);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::Unavailable);
    let a = replica_over(&mut site, config(), &chain).await;
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    for _ in 0..3 {
        let answer = a.login(&cookie, &message, &[1, 2, 3]).await;
        answer.assert(503, "unavailable");
        assert!(answer.retry_after_s.is_some());
    }
    chain.set_reply(FakeChainReply::from_hex(YES));
    let answer = a.login(&cookie, &message, &[1, 2, 3]).await.expect(201);
    a.login(&cookie, &message, &[1, 2, 3]).await.assert(401, "challenge_used");
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!((session.method, session.account_chain_id), (How::Contract, Some(1)));
}

#[tokio::test]
async fn what_owners_agreed_to_on_the_chain_needs_no_bytes() {
    let mut site = Site::start().await;
    let wallet = TestWallet::new(110);
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    let a = replica_over(&mut site, config(), &chain).await;
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    a.login(&cookie, &message, &[]).await.expect(201);
    assert_eq!(chain.call_count(), 1);
    // The account decides about them, too.
    chain.set_reply(FakeChainReply::Reverted);
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    a.login(&cookie, &message, &[]).await.assert(401, "signature_refused");
}

#[tokio::test]
async fn owners_who_sign_one_after_the_other_ask_for_more_time() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { challenges_per_prefix_max: 5, ..config() }).await;
    let wallet = TestWallet::new(111);
    for ttl_s in [0, 901] {
        a.post("/v1/auth/challenge", json!({ "ttl_s": ttl_s })).await.assert(400, "json_invalid");
    }
    let given = async |ttl_s: u64| {
        let given = a.post("/v1/auth/challenge", json!({ "ttl_s": ttl_s })).await.expect(201);
        let left_ms = given.body["expires_at_ms"].as_u64().unwrap() - nats::now_ms();
        assert!(left_ms.abs_diff(ttl_s * 1_000) < 20_000, "{left_ms}");
        (given.text("nonce"), pair(&given), given.cookie.unwrap())
    };
    // A message may be as old as its challenge, and older than that of another.
    for (ttl_s, issued_s, status) in [(900, -600, 201), (300, -600, 401), (900, -910, 401)] {
        let (nonce, cookie, set) = given(ttl_s).await;
        assert!(set.contains("Max-Age=900"), "{set}");
        let message = TestSiweMessage { issued_s, ..TestSiweMessage::new(&wallet, &nonce) }.to_string();
        a.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(status);
    }
    // However long they are good, they are counted over the same time.
    given(1).await;
    given(900).await;
    let refused = a.post("/v1/auth/challenge", json!({ "ttl_s": 900 })).await;
    refused.assert(429, "too_many_challenges");
    assert!(refused.retry_after_s.unwrap() <= 300, "{refused:?}");
}
