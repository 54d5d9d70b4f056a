use std::time::Duration;

use nats::Outbox;
use reqwest::Method;
use schemas::{
    access::PrincipalRole,
    ids::KeyId,
    session::{AuthKeyCreated, AuthKeyRevoked, OwnerApiKeys, api_key_list_key},
};
use serde_json::{Value, json};

use super::site::*;
use auth::{AuthConfig, create_api_key, create_first_key};

impl Replica {
    async fn create(&self, token: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, "/v1/auth/keys").bearer_auth(token).json(&body)).await
    }

    async fn revoke(&self, token: &str, key_id: &str) -> Answer {
        self.send(self.request(Method::DELETE, &format!("/v1/auth/keys/{key_id}")).bearer_auth(token)).await
    }
}

#[tokio::test]
async fn a_key_works_within_its_scopes_until_it_is_revoked() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let wallet = TestWallet::new(40);
    let token = a.sign_in(&wallet).await.text("access_token");
    let wanted =
        json!({ "label": "encoder", "scopes": ["upload"], "contact_email": "Ann.Bee+keys@Example.ORG" });
    let made = a.create(&token, wanted).await.expect(201);
    let (key, key_id) = (made.text("key"), made.text("key_id"));
    let me = b.me(&key).await.expect(200);
    assert_eq!((me.text("owner"), &me.body["scopes"]), (wallet.owner_id(), &json!(["upload"])));
    b.send(b.request(Method::POST, "/v1/media").bearer_auth(&key)).await.expect(200);
    b.get("/v1/media", &key).await.assert(403, "scope_missing");
    let listed = a.get("/v1/auth/keys", &token).await.expect(200);
    let item = &listed.body["items"][0];
    assert_eq!((&item["label"], &item["key_id"]), (&json!("encoder"), &json!(key_id)));
    assert_eq!(item["contact_email"], "Ann.Bee+keys@example.org");
    assert!(!listed.body.to_string().contains(key.rsplit('_').next().unwrap()), "the secret is shown once");
    // A key makes no keys, and ends none.
    b.create(&key, json!({})).await.assert(403, "person_needed");
    b.revoke(&key, &key_id).await.assert(403, "person_needed");
    a.revoke(&token, &key_id).await.expect(204);
    a.me(&key).await.assert(401, "unauthorized");
    // Another replica may believe what it read for a moment, and no longer.
    let known = tokio::time::timeout(Duration::from_secs(10), async {
        while b.me(&key).await.status.as_u16() == 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    known.await.expect("the key is good for ever on another replica");
    b.me(&key).await.assert(401, "unauthorized");
    a.revoke(&token, &key_id).await.expect(204);
    assert_eq!(a.get("/v1/auth/keys", &token).await.expect(200).body, json!({ "items": [] }));
    let (created, revoked) = (site.events::<AuthKeyCreated>().await, site.events::<AuthKeyRevoked>().await);
    assert_eq!((created.len(), revoked.len()), (1, 1));
    assert_eq!((created[0].key_id, created[0].by.clone()), (revoked[0].key_id, wallet.owner_id()));
}

#[tokio::test]
async fn a_key_is_over_at_its_time_and_wrong_texts_open_nothing() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let token = a.sign_in(&TestWallet::new(41)).await.text("access_token");
    let made = a.create(&token, json!({ "expires_in_s": 0 })).await.expect(201);
    a.me(&made.text("key")).await.assert(401, "unauthorized");
    let made = a.create(&token, json!({ "expires_in_s": 1000 })).await.expect(201);
    let (key, key_id) = (made.text("key"), made.text("key_id"));
    a.me(&key).await.expect(200);
    for wrong in [
        format!("sg_{key_id}_"),
        format!("sg_{key_id}_{}", "0".repeat(40)),
        key.get(..key.len() - 1).unwrap().to_owned(),
        format!("{key}0"),
        "sg_00000000000000000000000000_x".into(),
        format!("sg_owner.{key_id}_x"),
        "sg_first-key-made_x".into(),
    ] {
        a.me(&wrong).await.assert(401, "unauthorized");
    }
}

#[tokio::test]
async fn the_number_and_the_texts_of_keys_are_limited() {
    let mut site = Site::start().await;
    let a = site.replica(AuthConfig { keys_per_owner_max: 2, ..config() }).await;
    let token = a.sign_in(&TestWallet::new(42)).await.text("access_token");
    for body in [
        json!({ "label": "" }),
        json!({ "label": "x".repeat(101) }),
        json!({ "label": "a\nb" }),
        json!({ "contact_email": "nobody" }),
        json!({ "contact_email": format!("{}@example.org", "x".repeat(65)) }),
        json!({ "scopes": ["everything"] }),
        json!({ "role": "god" }),
        json!({ "expires_in_s": u64::MAX }),
        json!({ "secret": "mine" }),
    ] {
        assert_eq!(a.create(&token, body).await.status, 400);
    }
    let first = a.create(&token, json!({})).await.expect(201);
    a.create(&token, json!({})).await.expect(201);
    a.create(&token, json!({})).await.assert(409, "too_many_keys");
    a.revoke(&token, &first.text("key_id")).await.expect(204);
    a.create(&token, json!({})).await.expect(201);
    // Something went away between the list and the keys, long ago: they stand there, and nobody can revoke them.
    let list = api_key_list_key(&auth::hash_owner(&TestWallet::new(42).owner_id()));
    let unfinished = [KeyId::from_bytes([1; 16]), KeyId::from_bytes([0; 16])];
    let stand_in = |found: Option<&OwnerApiKeys>| {
        Some((OwnerApiKeys { key_ids: unfinished.to_vec(), ..found?.clone() }, Outbox::new()))
    };
    site.admin.change_record::<OwnerApiKeys>(&list, stand_in).await.unwrap().unwrap();
    a.create(&token, json!({})).await.expect(201);
    a.create(&token, json!({})).await.expect(201);
    a.create(&token, json!({})).await.assert(409, "too_many_keys");
}

#[tokio::test]
async fn hole_4_nobody_touches_another_owners_keys() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let (ann, bob) = (TestWallet::new(43), TestWallet::new(44));
    let (own, other) =
        (a.sign_in(&ann).await.text("access_token"), a.sign_in(&bob).await.text("access_token"));
    let made = a.create(&own, json!({})).await.expect(201);
    // Not there and not yours answer the same.
    a.revoke(&other, &made.text("key_id")).await.assert(404, "not_found");
    a.revoke(&other, "00000000000000000000000000").await.assert(404, "not_found");
    a.revoke(&other, "ring.access").await.assert(404, "not_found");
    a.get(&format!("/v1/auth/keys?owner={}", ann.owner_id()), &other).await.assert(403, "not_yours");
    a.create(&other, json!({ "owner": ann.owner_id() })).await.assert(403, "not_yours");
    a.create(&other, json!({ "role": "admin" })).await.assert(403, "not_yours");
    a.create(&other, json!({ "role": "operator" })).await.assert(403, "not_yours");
    a.me(&made.text("key")).await.expect(200);
    // An administrator may.
    let admin = create_first_key(&site.admin).await.unwrap().unwrap();
    a.create(&admin, json!({ "owner": bob.owner_id(), "role": "operator" })).await.expect(201);
    a.revoke(&admin, &made.text("key_id")).await.expect(204);
    a.me(&made.text("key")).await.assert(401, "unauthorized");
}

#[tokio::test]
async fn keys_made_by_the_installation_work_as_they_did() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let first = create_first_key(&site.admin).await.unwrap().unwrap();
    assert_eq!(create_first_key(&site.admin).await.unwrap(), None);
    let me = a.me(&first).await.expect(200);
    assert_eq!(
        (me.text("owner"), me.text("role"), &me.body["wallet"]),
        ("admin".into(), "admin".into(), &Value::Null)
    );
    let plain = create_api_key(&site.admin, "ann", PrincipalRole::Owner).await.unwrap();
    assert_eq!(a.get("/v1/media", &plain).await.expect(200).body, json!("ann"));
    a.logout(&plain, json!({})).await.assert(409, "no_session");
}
