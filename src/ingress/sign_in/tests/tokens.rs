//! Tokens of about a hundred wrong shapes, all signed as well as a forger could.

use reqwest::Method;
use schemas::session::KeyRing;
use serde_json::{Value, json};

use super::site::*;

/// A good token taken apart, and the key that signed it.
struct Parts {
    good: String,
    header: Value,
    claims: Value,
    key: Vec<u8>,
}

impl Parts {
    async fn of(site: &Site, replica: &Replica) -> Self {
        let good = replica.sign_in(&TestWallet::new(32)).await.text("access_token");
        let ring: KeyRing = site.record("ring.access").await;
        let (header, claims) = opened(&good);
        assert_eq!(header, json!({ "typ": "at+jwt", "alg": "HS256", "kid": ring.keys[0].key_id }));
        Self { good, header, claims, key: ring.keys[0].bytes.to_vec() }
    }

    fn header(&self, name: &str, value: Value) -> String {
        forge(&with(&self.header, name, value), &self.claims, &self.key)
    }

    fn claim(&self, name: &str, value: Value) -> String {
        forge(&self.header, &with(&self.claims, name, value), &self.key)
    }

    async fn refused(&self, replica: &Replica, forged: Vec<(String, String)>) {
        for (what, token) in forged {
            let answer = replica.me(&token).await;
            assert_eq!((answer.status.as_u16(), answer.code()), (401, "unauthorized"), "{what}: {token}");
        }
        replica.me(&self.good).await.expect(200);
    }
}

fn with(value: &Value, name: &str, new: Value) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().insert(name.into(), new);
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

#[tokio::test]
async fn no_header_but_ours_is_taken() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let parts = Parts::of(&site, &a).await;
    let mut forged = Vec::new();
    for alg in ["none", "None", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "hs256", ""] {
        let signed = parts.header("alg", json!(alg));
        forged.push((format!("alg {alg} unsigned"), format!("{}.", signed.rsplit_once('.').unwrap().0)));
        forged.push((format!("alg {alg}"), signed));
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
        forged.push((format!("header {name} {value}"), parts.header(name, value)));
    }
    for name in ["typ", "alg", "kid"] {
        let header = without(&parts.header, name);
        forged.push((format!("no header {name}"), forge(&header, &parts.claims, &parts.key)));
    }
    parts.refused(&a, forged).await;
}

#[tokio::test]
async fn every_claim_is_there_and_of_its_kind() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let parts = Parts::of(&site, &a).await;
    a.me(&forge(&parts.header, &parts.claims, &parts.key)).await.expect(200);
    let mut forged = Vec::new();
    for name in ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "sid"] {
        let claims = without(&parts.claims, name);
        forged.push((format!("no {name}"), forge(&parts.header, &claims, &parts.key)));
        forged.push((format!("null {name}"), parts.claim(name, Value::Null)));
    }
    let now_s = nats::now_ms() / 1_000;
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
        forged.push((format!("{name} {value}"), parts.claim(name, value)));
    }
    parts.refused(&a, forged).await;
}

#[tokio::test]
async fn the_signature_is_that_of_the_ring_over_these_bytes() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let parts = Parts::of(&site, &a).await;
    let good = &parts.good;
    let (body, signature) = good.rsplit_once('.').unwrap();
    let other = forge(&parts.header, &with(&parts.claims, "exp", json!(9_999_999_999_u64)), &[1; 32]);
    let forged = [
        ("other key", forge(&parts.header, &parts.claims, &[0; 32])),
        ("empty key", forge(&parts.header, &parts.claims, b"")),
        ("long", parts.claim("x", json!("x".repeat(2_000)))),
        ("no signature", format!("{body}.")),
        ("two parts", body.to_owned()),
        ("four parts", format!("{good}.x")),
        ("short signature", format!("{body}.{}", signature.get(..40).unwrap())),
        ("padded", format!("{good}=")),
        ("dots", "..".into()),
        ("other claims", format!("{}.{signature}", other.rsplit_once('.').unwrap().0)),
    ];
    parts.refused(&a, forged.map(|(what, token)| (what.to_owned(), token)).to_vec()).await;
    // Two credentials are none.
    let two = a.request(Method::GET, "/v1/auth/me").bearer_auth(good).bearer_auth(good);
    a.send(two).await.assert(401, "unauthorized");
    let basic = a.request(Method::GET, "/v1/auth/me").basic_auth("bearer", Some(good));
    a.send(basic).await.assert(401, "unauthorized");
}
