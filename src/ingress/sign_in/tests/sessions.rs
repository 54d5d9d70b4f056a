use std::time::{Duration, Instant};

use futures::TryStreamExt;
use nats::Outbox;
use reqwest::{Method, StatusCode};
use schemas::{
    ids::SessionId,
    session::{AuthRefreshed, AuthReused, AuthSession, AuthSignedOut, KeyRing, SessionEndReason},
};
use serde_json::json;

use super::site::*;
use auth::AuthConfig;

#[tokio::test]
async fn a_refresh_token_is_good_once_and_again_ends_the_session() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(at_once_only()).await, site.replica(at_once_only()).await);
    let first = a.sign_in(&TestWallet::new(20)).await;
    let second = b.refresh(&first.text("refresh_token")).await.expect(200);
    assert_ne!(second.text("refresh_token"), first.text("refresh_token"));
    let third = a.refresh(&second.text("refresh_token")).await.expect(200);
    b.me(&third.text("access_token")).await.expect(200);
    assert_eq!(site.events::<AuthRefreshed>().await.iter().map(|e| e.generation).collect::<Vec<_>>(), [2, 3]);
    // The thief, or whom it was stolen from: one of them comes second.
    b.refresh(&second.text("refresh_token")).await.assert(401, "refresh_reused");
    a.refresh(&third.text("refresh_token")).await.assert(401, "session_over");
    for answer in [&first, &second, &third] {
        a.until_refused(&answer.text("access_token")).await;
        b.until_refused(&answer.text("access_token")).await;
        a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
    }
    let reused = site.events::<AuthReused>().await;
    assert_eq!((reused.len(), reused[0].generation), (1, 2));
    let session: AuthSession = site.record(&first.text("session_id")).await;
    assert_eq!(session.end, Some(SessionEndReason::Reused));
}

#[tokio::test]
async fn of_two_who_race_a_refresh_token_at_most_one_gets_on() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(at_once_only()).await, site.replica(at_once_only()).await);
    let first = a.sign_in(&TestWallet::new(21)).await;
    let token = first.text("refresh_token");
    let racers = (0..8).map(|n| if n % 2 == 0 { &a } else { &b });
    let answers = at_once(racers.map(|replica| replica.refresh(&token))).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.code() == "refresh_reused").count(), 1, "{answers:?}");
    a.refresh(&won[0].text("refresh_token")).await.assert(401, "session_over");
}

/// The token that was taken is not taken again, not even a moment later.
fn at_once_only() -> AuthConfig {
    AuthConfig { refresh_again_ms: 0, ..config() }
}

#[tokio::test]
async fn two_tabs_and_a_lost_answer_sign_nobody_out() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let first = a.sign_in(&TestWallet::new(34)).await;
    let token = first.text("refresh_token");
    let tabs = (0..5).map(|n| if n % 2 == 0 { &a } else { &b });
    let answers = at_once(tabs.map(|replica| replica.refresh(&token))).await;
    let next = answers[0].text("refresh_token");
    assert!(answers.iter().all(|a| a.status == 200 && a.text("refresh_token") == next), "{answers:?}");
    assert_eq!(site.events::<AuthRefreshed>().await.len(), 1, "there is one line of tokens");
    // The answer was lost: it is given again, and goes on.
    assert_eq!(b.refresh(&token).await.expect(200).text("refresh_token"), next);
    let third = a.refresh(&next).await.expect(200);
    a.me(&third.text("access_token")).await.expect(200);
    // Two steps back is no lost answer.
    b.refresh(&token).await.assert(401, "refresh_reused");
    a.refresh(&third.text("refresh_token")).await.assert(401, "session_over");
}

#[tokio::test]
async fn later_or_from_elsewhere_the_same_token_ends_the_session() {
    let mut site = Site::start().await;
    site.proxies.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let a = site.replica(config()).await;
    let from = async |address: &str, token: &str| {
        let asked = a.request(Method::POST, "/v1/auth/refresh").header("x-forwarded-for", address);
        a.send(asked.json(&json!({ "refresh_token": token }))).await
    };
    let token = a.sign_in(&TestWallet::new(35)).await.text("refresh_token");
    from("203.0.113.8", &token).await.expect(200);
    from("203.0.113.8", &token).await.expect(200);
    from("203.0.113.9", &token).await.assert(401, "refresh_reused");
    from("203.0.113.8", &token).await.assert(401, "session_over");

    let answer = a.sign_in(&TestWallet::new(36)).await;
    let token = answer.text("refresh_token");
    from("203.0.113.8", &token).await.expect(200);
    site.admin
        .change_record::<AuthSession>(&answer.text("session_id"), |found| {
            let refreshed_at_ms = Some(found?.refreshed_at_ms? - config().refresh_again_ms);
            Some((AuthSession { refreshed_at_ms, ..found?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    from("203.0.113.8", &token).await.assert(401, "refresh_reused");
}

#[tokio::test]
async fn an_invented_refresh_token_ends_nothing() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let first = a.sign_in(&TestWallet::new(22)).await;
    let (token, session_id) = (first.text("refresh_token"), first.text("session_id"));
    let zeros = "0".repeat(64);
    let mut flipped = token.clone().into_bytes();
    let last = flipped.last_mut().unwrap();
    *last = if *last == b'0' { b'1' } else { b'0' };
    for invented in [
        String::new(),
        "sgr_".into(),
        format!("sgr_{session_id}_1_{zeros}_{}", "0".repeat(32)),
        format!("sgr_{session_id}_2_{zeros}"),
        String::from_utf8(flipped).unwrap(),
        token.replace("_1_", "_2_"),
        format!("{token}00"),
        first.text("access_token"),
        "x".repeat(10_000),
    ] {
        a.refresh(&invented).await.assert(401, "session_over");
    }
    a.refresh(&token).await.expect(200);
}

#[tokio::test]
async fn logout_closes_on_a_replica_that_no_message_reaches_within_a_second() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let deaf = site.deaf_replica(config(), None).await;
    let answer = a.sign_in(&TestWallet::new(23)).await;
    let token = answer.text("access_token");
    deaf.me(&token).await.expect(200);
    a.logout(&token, json!({})).await.expect(204);
    a.me(&token).await.assert(401, "unauthorized");
    let late = deaf.until_refused(&token).await;
    assert!(late < Duration::from_secs(1), "{late:?}");
    a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
    let ended = site.events::<AuthSignedOut>().await;
    assert_eq!((ended.len(), ended[0].end), (1, SessionEndReason::SignedOut));
}

#[tokio::test]
async fn a_message_closes_it_at_once_elsewhere() {
    let mut site = Site::start().await;
    // Nothing but the message could close it here.
    let patient = AuthConfig { recheck_ms: 3_600_000, ..config() };
    let (a, b) = (site.replica(config()).await, site.replica(patient).await);
    let token = a.sign_in(&TestWallet::new(24)).await.text("access_token");
    b.me(&token).await.expect(200);
    a.logout(&token, json!({})).await.expect(204);
    b.until_refused(&token).await;
}

#[tokio::test]
async fn all_sessions_of_a_wallet_end_together_and_only_for_whom_it_may() {
    let mut site = Site::start().await;
    let (ann, bob, boss) = (TestWallet::new(25), TestWallet::new(26), TestWallet::new(27));
    let named = AuthConfig { admins: vec![boss.account()], ..config() };
    let a = site.replica(named).await;
    let tokens = async |wallet: &TestWallet| a.sign_in(wallet).await.text("access_token");
    let (first, second, third) = (tokens(&ann).await, tokens(&ann).await, tokens(&ann).await);
    let (other, admin) = (tokens(&bob).await, tokens(&boss).await);
    a.logout(&other, json!({ "wallet": ann.address })).await.assert(403, "not_yours");
    a.me(&first).await.expect(200);
    a.logout(&third, json!({})).await.expect(204);
    a.me(&first).await.expect(200);
    a.logout(&first, json!({ "all": true })).await.expect(204);
    for token in [&first, &second, &third] {
        a.me(token).await.assert(401, "unauthorized");
    }
    a.me(&other).await.expect(200);
    a.logout(&admin, json!({ "wallet": bob.address })).await.expect(204);
    a.me(&other).await.assert(401, "unauthorized");
    a.me(&admin).await.expect(200);
    let ends: Vec<SessionEndReason> =
        site.events::<AuthSignedOut>().await.iter().map(|event| event.end).collect();
    assert_eq!(
        ends,
        [
            SessionEndReason::SignedOut,
            SessionEndReason::SignedOut,
            SessionEndReason::SignedOut,
            SessionEndReason::Revoked
        ]
    );
}

#[tokio::test]
async fn the_oldest_session_makes_room_for_a_new_one() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { sessions_per_wallet_max: 2, ..config() }).await;
    let wallet = TestWallet::new(28);
    let first = a.sign_in(&wallet).await;
    let second = a.sign_in(&wallet).await;
    a.sign_in(&wallet).await;
    a.refresh(&first.text("refresh_token")).await.assert(401, "session_over");
    a.refresh(&second.text("refresh_token")).await.expect(200);
    assert_eq!(site.events::<AuthSignedOut>().await[0].end, SessionEndReason::Replaced);
}

/// Sign-ins whose client goes away at any moment leave no session that "all" would miss.
#[tokio::test]
async fn sign_ins_that_are_cut_off_end_with_all_sessions_of_the_wallet() {
    let mut site = Site::start().await;
    let settings = AuthConfig { sessions_per_wallet_max: 1, challenges_per_prefix_max: 1_000, ..config() };
    let a = site.replica(settings).await;
    let wallet = TestWallet::new(29);
    for i in 0..40 {
        let (nonce, cookie) = a.challenge().await;
        let message = TestSiweMessage::new(&wallet, &nonce).to_string();
        let signature = wallet.sign_personal(&message);
        // Close together at first, and late enough at last for a sign-in on a busy machine.
        let cut = Duration::from_micros(i * i * 50);
        tokio::time::timeout(cut, a.login(&cookie, &message, &signature)).await.ok();
    }
    let last = a.sign_in(&wallet).await.text("access_token");
    a.logout(&last, json!({ "all": true })).await.expect(204);
    let bucket = site.admin.context().get_key_value("sessions").await.unwrap();
    let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    let ids: Vec<&String> = keys.iter().filter(|key| key.parse::<SessionId>().is_ok()).collect();
    assert!(ids.len() > 1, "{keys:?}");
    let start = Instant::now();
    for id in ids {
        // One whose sign-in is still on its way ends itself.
        while site.admin.load_record::<AuthSession>(id).await.unwrap().unwrap().record.ended_at_ms.is_none() {
            assert!(start.elapsed() < SOON, "the session {id} stays open");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_session_is_over_at_its_time() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { recheck_ms: 0, ..config() }).await;
    let answer = a.sign_in(&TestWallet::new(29)).await;
    site.admin
        .change_record::<AuthSession>(&answer.text("session_id"), |found| {
            Some((AuthSession { expires_at_ms: nats::now_ms(), ..found?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    a.me(&answer.text("access_token")).await.assert(401, "unauthorized");
    a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
}

#[tokio::test]
async fn the_broker_sweeps_away_what_is_over() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { challenge_ttl_s: 1, session_ttl_s: 1, ..config() }).await;
    let answer = a.sign_in(&TestWallet::new(30)).await;
    site.until_gone("sessions", &answer.text("session_id")).await;
    site.until_gone("sessions", &format!("wallet.{}", TestWallet::new(30).address.to_lower_hex())).await;
}

#[tokio::test]
async fn what_a_crash_left_unsent_is_published_and_still_has_an_end() {
    let site = Site::start().await;
    let event = AuthRefreshed {
        request_id: schemas::ids::RequestId::from_bytes([1; 16]),
        session_id: schemas::ids::SessionId::from_bytes([2; 16]),
        owner: "eip155:0x".into(),
        generation: 2,
    };
    let key = event.session_id.to_string();
    let unsent = schemas::envelope::UnsentEvent {
        subject: schemas::subjects::event_subject(&event),
        id: "left behind".into(),
        headers: std::collections::BTreeMap::new(),
        payload: nats::encode_message("event", &event).unwrap().into(),
        once: false,
        after_sequence: None,
    };
    let envelope = schemas::envelope::RecordEnvelope {
        record: nats::encode_message("record", &json!({})).unwrap().into(),
        unsent: vec![unsent],
        changed_at_ms: 0,
        expires_at_ms: Some(nats::now_ms()),
        trace: None,
    };
    let payload = nats::encode_message("envelope", &envelope).unwrap();
    let subject = schemas::subjects::kv_subject("sessions", &key);
    site.admin.context().publish(subject, payload.into()).await.unwrap().await.unwrap();
    assert!(site.admin.sweep_record("sessions", &key).await.unwrap());
    assert_eq!(site.events::<AuthRefreshed>().await, [event]);
    site.until_gone("sessions", &key).await;
}

#[tokio::test]
async fn verify_says_what_a_credential_is_good_for() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(31);
    let answer = a.sign_in(&wallet).await;
    let verify =
        async |token: &str| a.post("/v1/auth/verify", json!({ "token": token })).await.expect(200).body;
    let good = verify(&answer.text("access_token")).await;
    assert_eq!((&good["active"], &good["owner"]), (&json!(true), &json!(wallet.owner_id())));
    for bad in ["", "x", "sg_00000000000000000000000000_x", &answer.text("refresh_token")] {
        assert_eq!(verify(bad).await, json!({ "active": false }));
    }
    a.logout(&answer.text("access_token"), json!({})).await.expect(204);
    assert_eq!(verify(&answer.text("access_token")).await, json!({ "active": false }));
}

#[tokio::test]
async fn the_ring_turns_without_a_refused_request() {
    let mut site = Site::start().await;
    let (a, b) = (site.deaf_replica(config(), None).await, site.deaf_replica(config(), None).await);
    let old = a.sign_in(&TestWallet::new(33)).await;
    let later_ms = nats::now_ms() + config().ring_age_s * 1_000;
    // The first replica makes the next key; nobody makes a second one.
    let (first, second) =
        tokio::join!(a.sign_in.key_ring().rotate_keys(later_ms), b.sign_in.key_ring().rotate_keys(later_ms));
    first.and(second).unwrap();
    let ring: KeyRing = site.record("ring.access").await;
    assert_eq!(ring.keys.len(), 2);
    // The new key is known, and signs only after its lead.
    let now = a.sign_in.key_ring().signing_key(later_ms).unwrap();
    let then = a.sign_in.key_ring().signing_key(later_ms + config().ring_lead_s * 1_000).unwrap();
    assert_eq!((now.key_id, then.key_id), (ring.keys[0].key_id, ring.keys[1].key_id));
    let (header, claims) = opened(&old.text("access_token"));
    let header = json!({ "typ": header["typ"], "alg": header["alg"], "kid": ring.keys[1].key_id });
    let new = forge(&header, &claims, &ring.keys[1].bytes);
    // One that never read the new ring reads it when it meets the key.
    let c = site.deaf_replica(config(), None).await;
    for replica in [&a, &b, &c] {
        replica.me(&old.text("access_token")).await.expect(200);
        replica.me(&new).await.expect(200);
    }
}
