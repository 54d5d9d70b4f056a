use std::time::Duration;

use nats::Outbox;
use reqwest::{Method, StatusCode};
use schemas::session::{End, Refreshed, Reused, Ring, Session, SignedOut};
use serde_json::{Value, json};

use super::site::*;
use crate::auth::Config;

#[tokio::test]
async fn a_refresh_token_is_good_once_and_again_ends_the_session() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let first = a.sign_in(&Wallet::new(20)).await;
    let second = b.refresh(&first.text("refresh_token")).await.expect(200);
    assert_ne!(second.text("refresh_token"), first.text("refresh_token"));
    let third = a.refresh(&second.text("refresh_token")).await.expect(200);
    b.me(&third.text("access_token")).await.expect(200);
    assert_eq!(site.events::<Refreshed>().await.iter().map(|e| e.generation).collect::<Vec<_>>(), [2, 3]);
    // The thief, or whom it was stolen from: one of them comes second.
    b.refresh(&second.text("refresh_token")).await.assert(401, "refresh_reused");
    a.refresh(&third.text("refresh_token")).await.assert(401, "session_over");
    for answer in [&first, &second, &third] {
        a.until_refused(&answer.text("access_token")).await;
        b.until_refused(&answer.text("access_token")).await;
        a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
    }
    let reused = site.events::<Reused>().await;
    assert_eq!((reused.len(), reused[0].generation), (1, 2));
    let session: Session = site.record(&first.text("session_id")).await;
    assert_eq!(session.end, Some(End::Reused));
}

#[tokio::test]
async fn of_two_who_race_a_refresh_token_at_most_one_gets_on() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let first = a.sign_in(&Wallet::new(21)).await;
    let token = first.text("refresh_token");
    let racers = (0..8).map(|n| if n % 2 == 0 { &a } else { &b });
    let answers = at_once(racers.map(|replica| replica.refresh(&token))).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.code() == "refresh_reused").count(), 1, "{answers:?}");
    a.refresh(&won[0].text("refresh_token")).await.assert(401, "session_over");
}

#[tokio::test]
async fn an_invented_refresh_token_ends_nothing() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let first = a.sign_in(&Wallet::new(22)).await;
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
    let answer = a.sign_in(&Wallet::new(23)).await;
    let token = answer.text("access_token");
    deaf.me(&token).await.expect(200);
    a.logout(&token, json!({})).await.expect(204);
    a.me(&token).await.assert(401, "unauthorized");
    let late = deaf.until_refused(&token).await;
    assert!(late < Duration::from_millis(1_000), "{late:?}");
    a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
    let ended = site.events::<SignedOut>().await;
    assert_eq!((ended.len(), ended[0].end), (1, End::SignedOut));
}

#[tokio::test]
async fn a_message_closes_it_at_once_elsewhere() {
    let mut site = Site::start().await;
    // Nothing but the message could close it here.
    let patient = Config { recheck_ms: 3_600_000, ..config() };
    let (a, b) = (site.replica(config()).await, site.replica(patient).await);
    let token = a.sign_in(&Wallet::new(24)).await.text("access_token");
    b.me(&token).await.expect(200);
    a.logout(&token, json!({})).await.expect(204);
    b.until_refused(&token).await;
}

#[tokio::test]
async fn all_sessions_of_a_wallet_end_together_and_only_for_whom_it_may() {
    let mut site = Site::start().await;
    let (ann, bob, boss) = (Wallet::new(25), Wallet::new(26), Wallet::new(27));
    let named = Config { admins: vec![boss.address], ..config() };
    let a = site.replica(named).await;
    let tokens = async |wallet: &Wallet| a.sign_in(wallet).await.text("access_token");
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
    let ends: Vec<End> = site.events::<SignedOut>().await.iter().map(|event| event.end).collect();
    assert_eq!(ends, [End::SignedOut, End::SignedOut, End::SignedOut, End::Revoked]);
}

#[tokio::test]
async fn the_oldest_session_makes_room_for_a_new_one() {
    let mut site = Site::start().await;
    let a = site.replica(Config { sessions_per_wallet_max: 2, ..config() }).await;
    let wallet = Wallet::new(28);
    let first = a.sign_in(&wallet).await;
    let second = a.sign_in(&wallet).await;
    a.sign_in(&wallet).await;
    a.refresh(&first.text("refresh_token")).await.assert(401, "session_over");
    a.refresh(&second.text("refresh_token")).await.expect(200);
    assert_eq!(site.events::<SignedOut>().await[0].end, End::Replaced);
}

#[tokio::test]
async fn a_session_is_over_at_its_time() {
    let mut site = Site::start().await;
    let a = site.replica(Config { recheck_ms: 0, ..config() }).await;
    let answer = a.sign_in(&Wallet::new(29)).await;
    site.admin
        .change::<Session>(&answer.text("session_id"), |found| {
            Some((Session { expires_at_ms: nats::now_ms(), ..found?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    a.me(&answer.text("access_token")).await.assert(401, "unauthorized");
    a.refresh(&answer.text("refresh_token")).await.assert(401, "session_over");
}

#[tokio::test]
async fn the_broker_sweeps_away_what_is_over() {
    let mut site = Site::start().await;
    let a = site.replica(Config { challenge_ttl_s: 1, session_ttl_s: 1, ..config() }).await;
    let answer = a.sign_in(&Wallet::new(30)).await;
    let deadline = tokio::time::Instant::now() + SOON;
    for key in [answer.text("session_id"), format!("wallet.{}", Wallet::new(30).address.lower())] {
        while site.admin.read("sessions", &key).await.unwrap().is_some_and(|raw| raw.value.is_some()) {
            assert!(tokio::time::Instant::now() < deadline, "{key} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn verify_says_what_a_credential_is_good_for() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = Wallet::new(31);
    let answer = a.sign_in(&wallet).await;
    let verify =
        async |token: &str| a.post("/v1/auth/verify", json!({ "token": token })).await.expect(200).body;
    let good = verify(&answer.text("access_token")).await;
    assert_eq!((&good["active"], &good["owner"]), (&json!(true), &json!(wallet.address.owner())));
    for bad in ["", "x", "sg_00000000000000000000000000_x", &answer.text("refresh_token")] {
        assert_eq!(verify(bad).await, json!({ "active": false }));
    }
    a.logout(&answer.text("access_token"), json!({})).await.expect(204);
    assert_eq!(verify(&answer.text("access_token")).await, json!({ "active": false }));
}

#[tokio::test]
async fn tokens_in_any_other_form_are_refused() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let good = a.sign_in(&Wallet::new(32)).await.text("access_token");
    let ring: Ring = site.record("ring.access").await;
    let key = ring.keys[0].bytes.as_slice();
    let (header, claims) = opened(&good);
    assert_eq!(header, json!({ "typ": "at+jwt", "alg": "HS256", "kid": ring.keys[0].key_id }));
    a.me(&forge(&header, &claims, key)).await.expect(200);
    let with = |value: &Value, name: &str, new: Value| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().insert(name.into(), new);
        value
    };
    let without = |value: &Value, name: &str| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().remove(name);
        value
    };
    let now_s = nats::now_ms() / 1_000;
    let mut forged: Vec<(String, String)> = Vec::new();
    for alg in ["none", "None", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "hs256", ""] {
        forged.push((format!("alg {alg}"), forge(&with(&header, "alg", json!(alg)), &claims, key)));
        let unsigned = forge(&with(&header, "alg", json!(alg)), &claims, key);
        forged.push((format!("alg {alg} unsigned"), format!("{}.", unsigned.rsplit_once('.').unwrap().0)));
    }
    for (name, value) in [
        ("typ", json!("JWT")),
        ("kid", json!("00000000000000000000000000")),
        ("kid", json!("../../dev/null")),
        ("kid", json!(1)),
        ("crit", json!(["exp"])),
        ("jwk", json!({ "kty": "oct", "k": "AAAA" })),
        ("jku", json!("https://evil.org")),
        ("cty", json!("JWT")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        forged.push((format!("header {name} {value}"), forge(&with(&header, name, value), &claims, key)));
    }
    for name in ["typ", "alg", "kid"] {
        forged.push((format!("no header {name}"), forge(&without(&header, name), &claims, key)));
    }
    for name in ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "sid"] {
        forged.push((format!("no {name}"), forge(&header, &without(&claims, name), key)));
        forged.push((format!("null {name}"), forge(&header, &with(&claims, name, Value::Null), key)));
    }
    for (name, value) in [
        ("exp", json!(now_s - 6)),
        ("exp", json!((now_s + 600).to_string())),
        ("exp", json!(-1)),
        ("exp", json!(1.5e300)),
        ("nbf", json!(now_s + 60)),
        ("nbf", json!(now_s.to_string())),
        ("iat", json!(now_s + 10_000)),
        ("iat", json!("now")),
        ("iss", json!("other")),
        ("aud", json!("other")),
        ("aud", json!(["streamgate-api"])),
        ("aud", json!([])),
        ("sub", json!("admin")),
        ("sub", json!("")),
        ("sid", json!("00000000000000000000000000")),
        ("sid", json!("ring.access")),
        ("jti", json!("x")),
    ] {
        forged.push((format!("{name} {value}"), forge(&header, &with(&claims, name, value), key)));
    }
    forged.push(("other key".into(), forge(&header, &claims, &[0; 32])));
    forged.push(("empty key".into(), forge(&header, &claims, b"")));
    forged.push(("long".into(), forge(&header, &with(&claims, "x", json!("x".repeat(2_000))), key)));
    let (body, signature) = good.rsplit_once('.').unwrap();
    for (what, token) in [
        ("no signature", format!("{body}.")),
        ("two parts", body.to_owned()),
        ("four parts", format!("{good}.x")),
        ("short signature", format!("{body}.{}", &signature[..40])),
        ("padded", format!("{good}=")),
        ("dots", "..".into()),
        (
            "other claims",
            format!(
                "{}.{}",
                forge(&header, &with(&claims, "exp", json!(now_s + 9_999)), &[1; 32])
                    .rsplit_once('.')
                    .unwrap()
                    .0,
                signature
            ),
        ),
    ] {
        forged.push((what.into(), token));
    }
    for (what, token) in forged {
        let answer = a.me(&token).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "unauthorized"), "{what}: {token}");
    }
    a.me(&good).await.expect(200);
    // Two credentials are none.
    let two = a.request(Method::GET, "/v1/auth/me").bearer_auth(&good).bearer_auth(&good);
    a.send(two).await.assert(401, "unauthorized");
    let basic = a.request(Method::GET, "/v1/auth/me").basic_auth("bearer", Some(&good));
    a.send(basic).await.assert(401, "unauthorized");
}

#[tokio::test]
async fn the_ring_turns_without_a_refused_request() {
    let mut site = Site::start().await;
    let (a, b) = (site.deaf_replica(config(), None).await, site.deaf_replica(config(), None).await);
    let old = a.sign_in(&Wallet::new(33)).await;
    let later_ms = nats::now_ms() + config().ring_age_s * 1_000;
    // Whoever is first makes the next key; nobody makes a second one.
    let (first, second) =
        tokio::join!(a.sign_in.shared.ring.renew(later_ms), b.sign_in.shared.ring.renew(later_ms));
    first.and(second).unwrap();
    let ring: Ring = site.record("ring.access").await;
    assert_eq!(ring.keys.len(), 2);
    // The new key is known, and signs only after its lead.
    let now = a.sign_in.shared.ring.signing(later_ms).unwrap();
    let then = a.sign_in.shared.ring.signing(later_ms + config().ring_lead_s * 1_000).unwrap();
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
