use alloy_primitives::U256;
use reqwest::Method;
use schemas::session::{
    AuthChallenged, AuthRefused, AuthSession, AuthSignedIn, SignInChallenge, SignInMethod as How,
};
use serde_json::json;

use super::site::*;
use auth::{AuthConfig, typed::TypedSignIn};

#[tokio::test]
async fn a_wallet_signs_in_and_is_known_on_every_replica() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let wallet = TestWallet::new(1);
    let answer = a.sign_in(&wallet).await;
    let owner = format!("eip155:{}", wallet.address.to_lower_hex());
    assert_eq!(answer.text("owner"), owner);
    assert_eq!(answer.text("wallet"), wallet.address.to_string());
    assert_eq!((answer.text("role"), answer.body["expires_in"].as_u64()), ("owner".into(), Some(600)));
    let token = answer.text("access_token");
    for replica in [&a, &b] {
        let me = replica.me(&token).await.expect(200);
        assert_eq!((me.text("owner"), me.text("session_id")), (owner.clone(), answer.text("session_id")));
        assert_eq!(replica.get("/v1/media", &token).await.expect(200).body, json!(owner));
    }
    let session: AuthSession = site.record(&answer.text("session_id")).await;
    assert_eq!((session.method, session.proof), (How::Key, None));
    let events = site.events::<AuthSignedIn>().await;
    assert_eq!((events.len(), &events[0].owner, events[0].is_checksummed), (1, &owner, true));
    assert_eq!(site.events::<AuthChallenged>().await.len(), 1);
}

#[tokio::test]
async fn what_the_challenge_gives_can_be_signed_as_it_is() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(2);
    let ask =
        json!({ "address": wallet.address.to_lower_hex(), "chain_id": 137, "domain": "localhost:8080" });
    let given = a.post("/v1/auth/challenge", ask.clone()).await.expect(201);
    let message = given.text("message");
    a.login(&pair(&given), &message, &wallet.sign_personal(&message)).await.expect(201);
    // The same by EIP-712: the values alone are sent back.
    let given = a.post("/v1/auth/challenge", ask).await.expect(201);
    let values: TypedSignIn = serde_json::from_value(given.body["typed"].clone()).unwrap();
    assert_eq!(given.body["typed_data"]["message"]["nonce"], given.body["nonce"]);
    let signature = format!("0x{}", alloy_primitives::hex::encode(wallet.sign_digest(values.digest())));
    let body = json!({ "typed": values, "signature": signature });
    let login = a.request(Method::POST, "/v1/auth/login").header("cookie", pair(&given)).json(&body);
    assert_eq!(a.send(login).await.expect(201).body["chain_id"], 137);
    // One changed value is another signature.
    let given = a.post("/v1/auth/challenge", json!({ "address": wallet.address })).await.expect(201);
    let mut values: TypedSignIn = serde_json::from_value(given.body["typed"].clone()).unwrap();
    let signature = format!("0x{}", alloy_primitives::hex::encode(wallet.sign_digest(values.digest())));
    values.statement = "Something else.".into();
    let body = json!({ "typed": values, "signature": signature });
    let login = a.request(Method::POST, "/v1/auth/login").header("cookie", pair(&given)).json(&body);
    a.send(login).await.assert(401, "signature_refused");
}

#[tokio::test]
async fn of_all_who_race_one_nonce_on_two_replicas_one_gets_in() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let wallet = TestWallet::new(3);
    for round in 1..=5 {
        let (nonce, cookie) = a.challenge().await;
        let message = TestSiweMessage::new(&wallet, &nonce).to_string();
        let signature = wallet.sign_personal(&message);
        let racers = (0..12).map(|n| if n % 2 == 0 { &a } else { &b });
        let answers = at_once(racers.map(|replica| replica.login(&cookie, &message, &signature))).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
        assert_eq!(won.len(), 1, "{answers:?}");
        for answer in lost {
            answer.assert(401, "challenge_used");
        }
        assert_eq!(site.events::<AuthSignedIn>().await.len(), round);
    }
}

#[tokio::test]
async fn a_login_that_comes_again_is_refused_on_every_replica() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let wallet = TestWallet::new(4);
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    let signature = wallet.sign_personal(&message);
    a.login(&cookie, &message, &signature).await.expect(201);
    for replica in [&a, &b] {
        replica.login(&cookie, &message, &signature).await.assert(401, "challenge_used");
    }
    // A failed attempt uses the nonce up, too.
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    a.login(&cookie, &message, &TestWallet::new(5).sign_personal(&message))
        .await
        .assert(401, "signature_refused");
    b.login(&cookie, &message, &wallet.sign_personal(&message)).await.assert(401, "challenge_used");
    let refused = site.events::<AuthRefused>().await;
    assert_eq!((refused.len(), refused[0].code.as_str()), (1, "signature_refused"));
    let challenge: SignInChallenge = site.record(&nonce).await;
    assert_eq!(challenge.code.as_deref(), Some("signature_refused"));
}

#[tokio::test]
async fn a_nonce_is_ours_in_time_and_of_this_client() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(6);
    let attempt = async |nonce: &str, cookie: &str| {
        let message = TestSiweMessage::new(&wallet, nonce).to_string();
        a.login(cookie, &message, &wallet.sign_personal(&message)).await
    };
    let (nonce, cookie) = a.challenge().await;
    attempt("32891757", &cookie).await.assert(401, "challenge_unknown");
    attempt("00000000000000000000000000", &cookie).await.assert(401, "challenge_unknown");
    let (_, other) = a.challenge().await;
    attempt(&nonce, &other).await.assert(401, "challenge_unbound");
    let (nonce, _) = a.challenge().await;
    attempt(&nonce, "").await.assert(401, "challenge_unbound");
    let (nonce, cookie) = a.challenge().await;
    attempt(&nonce, &format!("{cookie}; {cookie}")).await.assert(401, "challenge_unbound");
    // One whose time is over, but which the broker has not swept away yet.
    let (nonce, cookie) = a.challenge().await;
    site.admin
        .change_record::<SignInChallenge>(&nonce, |found| {
            let expires_at_ms = nats::now_ms();
            Some((SignInChallenge { expires_at_ms, ..found?.clone() }, nats::Outbox::new()))
        })
        .await
        .unwrap();
    attempt(&nonce, &cookie).await.assert(401, "challenge_expired");
    // Two sign-ins under way in one browser share its cookie.
    let (first, cookie) = a.challenge().await;
    let again = a.request(Method::POST, "/v1/auth/challenge").header("cookie", &cookie);
    let again = a.send(again).await.expect(201);
    assert_eq!(pair(&again), cookie);
    attempt(&first, &cookie).await.expect(201);
    attempt(&again.text("nonce"), &cookie).await.expect(201);
    let set = again.cookie.unwrap();
    for attribute in ["__Host-", "Secure", "HttpOnly", "SameSite=Strict", "Path=/;"] {
        assert!(set.contains(attribute), "{set}");
    }
}

/// A change to a message, and the code it is refused with.
type Case = (fn(&mut TestSiweMessage), &'static str);
/// A name, and a change to a signature.
type Change = (&'static str, Box<dyn Fn(&mut Vec<u8>)>);

/// Refuses each, and the message as it was but for the change is taken.
async fn refused(config: AuthConfig, cases: Vec<Case>) {
    let mut site = Site::start().await;
    let a = site.replica(config).await;
    let wallet = TestWallet::new(7);
    a.sign_in(&wallet).await;
    for (n, (change, code)) in cases.into_iter().enumerate() {
        let (nonce, cookie) = a.challenge().await;
        let mut text = TestSiweMessage::new(&wallet, &nonce);
        change(&mut text);
        let message = text.to_string();
        let answer = a.login(&cookie, &message, &wallet.sign_personal(&message)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, code), "case {n}: {message}");
    }
}

#[tokio::test]
async fn the_message_is_for_this_site_and_an_allowed_chain() {
    refused(
        config(),
        vec![
            (|text| text.site = "evil.example.org".into(), "domain_refused"),
            (|text| text.site = "media.example.org.evil.org".into(), "domain_refused"),
            (|text| text.site = "media.example.org:443".into(), "domain_refused"),
            (|text| text.site = "u@media.example.org".into(), "domain_refused"),
            (|text| text.site = "MEDIA.example.org".into(), "domain_refused"),
            // Ours, but not the one the challenge was for.
            (|text| text.site = "localhost:8080".into(), "domain_refused"),
            (|text| text.site = "http://media.example.org".into(), "uri_refused"),
            (|text| text.site = "ftp://media.example.org".into(), "uri_refused"),
            (|text| text.uri = "https://evil.example.org/login".into(), "uri_refused"),
            (|text| text.uri = "https://media.example.org.evil.org/".into(), "uri_refused"),
            (|text| text.uri = "https://media.example.org@evil.org/".into(), "uri_refused"),
            (|text| text.uri = "http://media.example.org/login".into(), "uri_refused"),
            (|text| text.uri = "did:key:z6Mk".into(), "uri_refused"),
            (|text| text.chain_id = 5, "chain_refused"),
            (|text| text.chain_id = 0, "chain_refused"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_message_is_good_now_and_not_for_long() {
    refused(
        config(),
        vec![
            (|text| text.issued_s = -310, "message_expired"),
            (|text| text.issued_s = 70, "message_early"),
            (|text| text.expires_s = Some(0), "message_expired"),
            (|text| text.expires_s = Some(-1), "message_expired"),
            (|text| text.expires_s = Some(24 * 3600 + 10), "message_too_long_lived"),
            (|text| text.not_before_s = Some(30), "message_early"),
        ],
    )
    .await;
}

#[tokio::test]
async fn where_case_has_to_prove_the_address_another_is_refused() {
    let strict = AuthConfig { strict_eip55: true, ..config() };
    refused(strict, vec![(|text| text.address = text.address.to_lowercase(), "address_refused")]).await;
    // Elsewhere it is taken, and the event says so.
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(8);
    let (nonce, cookie) = a.challenge().await;
    let text =
        TestSiweMessage { address: wallet.address.to_lower_hex(), ..TestSiweMessage::new(&wallet, &nonce) };
    let message = text.to_string();
    a.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(201);
    assert!(!site.events::<AuthSignedIn>().await[0].is_checksummed);
}

#[tokio::test]
async fn a_challenge_for_one_account_is_not_for_another() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let (wallet, other) = (TestWallet::new(9), TestWallet::new(10));
    let ask = json!({ "address": wallet.address, "chain_id": 1 });
    let given = a.post("/v1/auth/challenge", ask.clone()).await.expect(201);
    let message = TestSiweMessage::new(&other, &given.text("nonce")).to_string();
    a.login(&pair(&given), &message, &other.sign_personal(&message)).await.assert(401, "address_refused");
    let given = a.post("/v1/auth/challenge", ask).await.expect(201);
    let message =
        TestSiweMessage { chain_id: 137, ..TestSiweMessage::new(&wallet, &given.text("nonce")) }.to_string();
    a.login(&pair(&given), &message, &wallet.sign_personal(&message)).await.assert(401, "chain_refused");
    for (ask, code) in [
        (json!({ "domain": "evil.org" }), "domain_refused"),
        (json!({ "chain_id": 5 }), "chain_refused"),
        (json!({ "address": "0x12" }), "json_invalid"),
        (json!({ "unheard": 1 }), "json_invalid"),
    ] {
        assert_eq!(a.post("/v1/auth/challenge", ask).await.code(), code);
    }
}

#[tokio::test]
async fn signatures_in_any_other_form_are_refused() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(11);
    let order = U256::from_be_bytes(alloy_primitives::hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let changes: Vec<Change> = vec![
        (
            "high s",
            Box::new(move |s| {
                let high = order - U256::from_be_slice(&s[32..64]);
                s[32..64].copy_from_slice(&high.to_be_bytes::<32>());
                s[64] = if s[64] == 27 { 28 } else { 27 };
            }),
        ),
        ("v 29", Box::new(|s| s[64] = 29)),
        ("v 54", Box::new(|s| s[64] = 54)),
        ("other parity", Box::new(|s| s[64] = 55 - s[64])),
        ("no r", Box::new(|s| s[..32].fill(0))),
        ("no s", Box::new(|s| s[32..64].fill(0))),
        ("a byte more", Box::new(|s| s.push(0))),
        ("two bytes less", Box::new(|s| s.truncate(63))),
        ("another bit", Box::new(|s| s[40] ^= 1)),
    ];
    for (what, change) in changes {
        let (nonce, cookie) = a.challenge().await;
        let message = TestSiweMessage::new(&wallet, &nonce).to_string();
        let mut signature = wallet.sign_personal(&message);
        change(&mut signature);
        let answer = a.login(&cookie, &message, &signature).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "signature_refused"), "{what}");
    }
    // The 64 bytes of ERC-2098 are taken.
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    let mut signature = wallet.sign_personal(&message);
    signature[32] |= (signature.pop().unwrap() - 27) << 7;
    a.login(&cookie, &message, &signature).await.expect(201);
    // What is not even hexadecimal does not use the nonce up.
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    for signature in ["", "0x0", "0xzz", "00", "0x0x00", &format!("0x{}", "00".repeat(8_193))] {
        let body = json!({ "message": message, "signature": signature });
        let login = a.request(Method::POST, "/v1/auth/login").header("cookie", &cookie).json(&body);
        a.send(login).await.assert(400, "message_malformed");
    }
    a.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(201);
}

#[tokio::test]
async fn what_is_hashed_is_what_came() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(12);
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    let signature = wallet.sign_personal(&message);
    // The same values in other letters: another message.
    let other = message.replacen('T', "t", 1);
    assert_ne!(other, message);
    let answer = a.login(&cookie, &message.replace("Issued At: 2", "Issued At: 02"), &signature).await;
    answer.assert(400, "message_malformed");
    let lower = message.replace(&wallet.address.to_string(), &wallet.address.to_lower_hex());
    a.login(&cookie, &lower, &signature).await.assert(401, "signature_refused");
}

#[tokio::test]
async fn bodies_are_json_of_a_site_of_ours() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let post = |path: &str| a.request(Method::POST, path);
    for path in ["/v1/auth/challenge", "/v1/auth/login", "/v1/auth/refresh", "/v1/auth/verify"] {
        let form = post(path).header("content-type", "text/plain").body("{}");
        a.send(form).await.assert(415, "media_type");
        let foreign = post(path).header("origin", "https://evil.org").json(&json!({}));
        a.send(foreign).await.assert(403, "origin_refused");
        a.send(post(path).header("origin", "null").json(&json!({}))).await.assert(403, "origin_refused");
        let long = post(path).header("content-type", "application/json").body(" ".repeat(300_000));
        a.send(long).await.assert(413, "body_too_large");
        a.send(post(path).header("content-type", "application/json").body("{"))
            .await
            .assert(400, "json_malformed");
    }
    let ours = post("/v1/auth/challenge").header("origin", "https://media.example.org").json(&json!({}));
    a.send(ours).await.expect(201);
    let (_, cookie) = a.challenge().await;
    let nothing = post("/v1/auth/login").header("cookie", cookie).json(&json!({ "signature": "0x00" }));
    a.send(nothing).await.assert(400, "message_malformed");
}

#[tokio::test]
async fn roles_come_from_settings() {
    let mut site = Site::start().await;
    let (admin, operator) = (TestWallet::new(13), TestWallet::new(14));
    let named = AuthConfig { admins: vec![admin.account()], operators: vec![operator.account()], ..config() };
    let (a, b) = (site.replica(named).await, site.replica(config()).await);
    let answer = a.sign_in(&admin).await;
    assert_eq!(answer.text("role"), "admin");
    // Where the settings do not name it, the same token has no more rights than any wallet's.
    let token = answer.text("access_token");
    assert_eq!(b.me(&token).await.expect(200).text("role"), "owner");
    let token = a.sign_in(&operator).await.text("access_token");
    assert_eq!(a.me(&token).await.expect(200).text("role"), "operator");
    a.get("/v1/media", &token).await.expect(200);
    a.send(a.request(Method::POST, "/v1/media").bearer_auth(&token)).await.assert(403, "read_only");
    let key = a.request(Method::POST, "/v1/auth/keys").bearer_auth(&token).json(&json!({}));
    a.send(key).await.assert(403, "person_needed");
}
