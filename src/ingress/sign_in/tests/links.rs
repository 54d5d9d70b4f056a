use futures::future::join;
use reqwest::Method;
use schemas::{
    access::PrincipalRole,
    ids::RequestId,
    session::{AuthKeyCreated, SignInLink, sign_in_link_key},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::site::*;
use auth::link::create_sign_in_link;

async fn create_link(site: &Site) -> String {
    let by = ("up", RequestId::from_bytes([7; 16]));
    create_sign_in_link(&site.admin, "ann", PrincipalRole::Owner, by).await.unwrap()
}

impl Replica {
    async fn open_link(&self, code: &str) -> Answer {
        self.send(self.request(Method::POST, "/v1/auth/links").json(&json!({ "code": code }))).await
    }
}

#[tokio::test]
async fn a_link_signs_in_once_on_whichever_replica() {
    let mut site = Site::start().await;
    let (a, b) = (site.replica(config()).await, site.replica(config()).await);
    let code = create_link(&site).await;
    let (one, other) = join(a.open_link(&code), b.open_link(&code)).await;
    let (made, refused) = if one.status == 201 { (one, other) } else { (other, one) };
    refused.assert(401, "link_used");
    let made = made.expect(201);
    let me = b.me(&made.text("key")).await.expect(200);
    assert_eq!((me.text("owner"), me.text("role")), ("ann".to_owned(), "owner".to_owned()));
    assert!(made.body["expires_at_ms"].as_u64().unwrap() > nats::now_ms());
    a.open_link(&code).await.assert(401, "link_used");
    a.open_link("never given").await.assert(401, "link_used");
    // It is opened at whatever address people reach the service by.
    let code = create_link(&site).await;
    let request = a.request(Method::POST, "/v1/auth/links").header("origin", "http://192.0.2.1:8080");
    a.send(request.json(&json!({ "code": code }))).await.expect(201);
    a.open_link("").await.assert(401, "link_used");
    let created = site.events::<AuthKeyCreated>().await;
    assert_eq!(created.iter().filter(|event| event.owner == "ann").count(), 2);
}

#[tokio::test]
async fn a_link_is_worth_nothing_after_its_time_and_its_code_is_kept_nowhere() {
    let mut site = Site::start().await;
    let a = site.replica(config()).await;
    let code = create_link(&site).await;
    let hash = alloy_primitives::hex::encode(Sha256::digest(code.as_bytes()));
    let link: SignInLink = site.record(&sign_in_link_key(&hash)).await;
    assert!(!format!("{link:?}").contains(&code));
    site.admin
        .change_record::<SignInLink>(&sign_in_link_key(&hash), |found| {
            Some((SignInLink { expires_at_ms: nats::now_ms(), ..found?.clone() }, nats::Outbox::new()))
        })
        .await
        .unwrap();
    a.open_link(&code).await.assert(401, "link_used");
}
