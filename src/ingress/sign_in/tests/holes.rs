//! Holes seen in comparable systems, by their numbers.

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use schemas::{access, session::KeyRing};
use serde_json::json;

use super::site::*;
use auth::{AuthConfig, Principal, load_signing_key};

#[tokio::test]
async fn hole_1_a_token_in_the_url_or_a_cookie_opens_nothing() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let token = a.sign_in(&TestWallet::new(50)).await.text("access_token");
    for name in ["token", "access_token", "jwt", "authorization", "key", "api_key"] {
        for path in ["/v1/auth/me", "/v1/media", "/v1/auth/keys"] {
            let asked = a.send(a.request(Method::GET, &format!("{path}?{name}={token}"))).await;
            asked.assert(401, "unauthorized");
            let asked = a.request(Method::GET, path).header("cookie", format!("{name}={token}"));
            a.send(asked).await.assert(401, "unauthorized");
            let asked = a.request(Method::GET, path).header(format!("x-{}", name.replace('_', "-")), &token);
            a.send(asked).await.assert(401, "unauthorized");
        }
    }
}

#[tokio::test]
async fn hole_3_and_18_what_can_not_be_read_lets_nobody_in() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { recheck_ms: 0, ..config() }).await;
    let wallet = TestWallet::new(51);
    let answer = a.sign_in(&wallet).await;
    let (token, refresh) = (answer.text("access_token"), answer.text("refresh_token"));
    let key = auth::create_api_key(&site.admin, "ann", access::PrincipalRole::Owner).await.unwrap();
    let (nonce, cookie) = a.challenge().await;
    let message = TestSiweMessage::new(&wallet, &nonce).to_string();
    let signature = wallet.sign_personal(&message);
    let pid = Pid::from_raw(i32::try_from(site.broker.broker().pid().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // A thread that runs on another core answers for a moment more.
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped());
    let (me, media, by_key, refreshed, login, verify) = tokio::join!(
        a.me(&token),
        a.get("/v1/media", &token),
        a.me(&key),
        a.refresh(&refresh),
        a.login(&cookie, &message, &signature),
        a.post("/v1/auth/verify", json!({ "token": token })),
    );
    for answer in [me, media, by_key, refreshed, login, verify] {
        answer.assert(503, "unavailable");
    }
    kill_process(pid, Signal::CONT).unwrap();
    // Nothing was used up by the outage.
    let deadline = tokio::time::Instant::now() + SOON;
    while a.me(&token).await.status != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline);
    }
    a.refresh(&refresh).await.expect(200);
    a.login(&cookie, &message, &signature).await.expect(201);
}

#[tokio::test]
async fn hole_5_a_token_of_another_kind_signs_nobody_in() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let answer = a.sign_in(&TestWallet::new(52)).await;
    let (access, refresh) = (answer.text("access_token"), answer.text("refresh_token"));
    let (header, claims) = opened(&access);
    // The keys of other tokens of ours, and types other than that of access tokens.
    for name in ["playback", "refresh"] {
        let key = load_signing_key(&site.admin, name).await.unwrap();
        a.me(&forge(&header, &claims, &key)).await.assert(401, "unauthorized");
    }
    let ring: KeyRing = site.record("ring.access").await;
    for kind in ["JWT", "playback", "at+JWT", "application/at+jwt"] {
        let header = json!({ "typ": kind, "alg": "HS256", "kid": header["kid"] });
        a.me(&forge(&header, &claims, &ring.keys[0].bytes)).await.assert(401, "unauthorized");
    }
    // And neither of the two is good for the other's work.
    a.me(&refresh).await.assert(401, "unauthorized");
    a.refresh(&access).await.assert(401, "session_over");
    a.refresh(&forge(&header, &claims, &ring.keys[0].bytes)).await.assert(401, "session_over");
}

#[test]
fn hole_6_a_caller_without_a_wallet_sees_its_own_only() {
    let key = Principal::new("ann", access::PrincipalRole::Owner);
    assert_eq!(key.list_owner_filter(), Some("ann".into()));
    assert!(!key.may_see(&TestWallet::new(53).owner_id()));
    // Nor does a wallet see what a key of that name owns.
    let owner = TestWallet::new(53).owner_id();
    let wallet = Some(owner.parse().unwrap());
    let signed_in = Principal { wallet, ..Principal::new(&owner, access::PrincipalRole::Owner) };
    assert!(!signed_in.may_see("ann") && signed_in.may_change(&owner));
}

#[tokio::test]
async fn hole_7_no_header_of_the_client_makes_it_another_client() {
    let mut site = Site::start().await;
    let (a, b) = {
        let few = AuthConfig { challenges_per_prefix_max: 4, ..config() };
        (site.replica(few.clone()).await, site.replica(few).await)
    };
    for n in 0..4 {
        let replica = if n % 2 == 0 { &a } else { &b };
        replica.post("/v1/auth/challenge", json!({})).await.expect(201);
    }
    for replica in [&a, &b] {
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("x-real-ip", "203.0.113.9"),
            ("cf-connecting-ip", "203.0.113.9"),
            ("x-api-key", "another"),
            ("user-agent", "another"),
            (
                "cookie",
                "__Host-streamgate-challenge=0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ] {
            let asked = replica.request(Method::POST, "/v1/auth/challenge").header(name, value);
            replica.send(asked).await.assert(429, "too_many_challenges");
        }
    }
    let host = a.request(Method::POST, "/v1/auth/challenge").header("host", "evil.org").json(&json!({}));
    a.send(host).await.assert(429, "too_many_challenges");
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_have_a_share_each() {
    let mut site = Site::start().await;
    site.proxies.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let replica = site.replica(AuthConfig { challenges_per_prefix_max: 1, ..config() }).await;
    let ask = async |address: &str| {
        let asked = replica.request(Method::POST, "/v1/auth/challenge").header("x-forwarded-for", address);
        replica.send(asked.json(&json!({}))).await
    };
    ask("203.0.113.8").await.expect(201);
    ask("203.0.113.9").await.expect(201);
    ask("198.51.100.1, 203.0.113.8").await.assert(429, "too_many_challenges");
    ask("2001:db8:1:2::1").await.expect(201);
    ask("2001:db8:1:2:ffff::9").await.assert(429, "too_many_challenges");
}

#[tokio::test]
async fn hole_9_no_secret_has_a_default() {
    let (first, second) = (Site::start().await, Site::start().await);
    let rings = [&first, &second].map(|site| async {
        let bus = site.broker.bus(nats::Role::Ingress).await;
        let proofs = auth::ProofChecker::new(bus.clone(), None, &config());
        auth::SignInService::open(bus.clone(), config(), None, proofs).await.unwrap();
        let ring: KeyRing = site.record("ring.access").await;
        (ring.keys[0].bytes.clone(), load_signing_key(&bus, "refresh").await.unwrap())
    });
    let [a, b] = rings;
    let ((ring_a, refresh_a), (ring_b, refresh_b)) = tokio::join!(a, b);
    assert_ne!(ring_a, ring_b);
    assert_ne!(refresh_a, refresh_b);
    let settings = toml::to_string(&AuthConfig::default()).unwrap();
    assert!(!settings.contains("secret") && !settings.contains("password"), "{settings}");
}

#[tokio::test]
async fn a_requests_host_is_never_the_site() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let wallet = TestWallet::new(54);
    let (nonce, cookie) = a.challenge().await;
    let text = TestSiweMessage {
        site: "evil.org".into(),
        uri: "https://evil.org/".into(),
        ..TestSiweMessage::new(&wallet, &nonce)
    };
    let message = text.to_string();
    let signature = format!("0x{}", alloy_primitives::hex::encode(wallet.sign_personal(&message)));
    let login = a
        .request(Method::POST, "/v1/auth/login")
        .header("cookie", cookie)
        .header("host", "evil.org")
        .header("x-forwarded-host", "evil.org")
        .json(&json!({ "message": message, "signature": signature }));
    a.send(login).await.assert(401, "domain_refused");
    // Without a named site nobody signs in.
    let nameless = site.replica(AuthConfig { domains: Vec::new(), ..config() }).await;
    nameless.post("/v1/auth/challenge", json!({})).await.assert(403, "no_site");
}
