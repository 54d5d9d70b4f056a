//! The routes over real HTTP, a real broker and a model chain.

use axum::{Router, extract::Request, middleware, middleware::Next, response::Response};
use evm::testing::{CHAIN, NFT, NOTHING, NodeBehavior};
use nats::{Outbox, Role, VersionedRecord};
use reqwest::{Client, Method, StatusCode};
use schemas::{
    access, document,
    gate::{GateChanged, GateReasonCode},
    ids::MediaId,
    media,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{GateApiState, router};
use auth::Principal;
use gate::testing::{
    ANN, BOB,
    site::{GateTestSite, OWNER},
};

struct Served {
    site: GateTestSite,
    url: String,
    client: Client,
    _tasks: JoinSet<()>,
}

/// Who asks: a name in a header, and a role.
async fn who(mut request: Request, next: Next) -> Response {
    let name = request.headers().get("x-owner").and_then(|v| v.to_str().ok()).unwrap_or(OWNER).to_owned();
    let role = match name.as_str() {
        "root" => access::PrincipalRole::Admin,
        "ops" => access::PrincipalRole::Operator,
        _ => access::PrincipalRole::Owner,
    };
    request.extensions_mut().insert(Principal::new(name, role));
    next.run(request).await
}

struct Answer {
    status: StatusCode,
    etag: String,
    body: Value,
}

impl Served {
    async fn start() -> Self {
        let site = GateTestSite::start().await;
        let state = GateApiState { bus: site.broker.bus(Role::Ingress).await, judge: site.gate_evaluator() };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app: Router = router(state).into_parts().0.layer(middleware::from_fn(who));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { site, url, client: Client::new(), _tasks: tasks }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        owner: &str,
        etag: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).header("x-owner", owner);
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let etag = response.headers().get("etag").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status();
        Answer {
            status,
            etag,
            body: serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default(),
        }
    }

    /// The answer to a rule that is sent as it stands.
    async fn put_text(&self, media_id: MediaId, rule: &'static str) -> (StatusCode, Value) {
        let request = self.client.put(format!("{}{}", self.url, gate(media_id))).body(rule);
        let request = request.header("if-match", "*").header("content-type", "application/json");
        let response = request.send().await.unwrap();
        (response.status(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    async fn get(&self, media_id: MediaId, owner: &str) -> Answer {
        self.ask(Method::GET, &gate(media_id), owner, None, None).await
    }

    async fn put(&self, media_id: MediaId, owner: &str, etag: &str, rule: Value) -> Answer {
        self.ask(Method::PUT, &gate(media_id), owner, Some(etag), Some(rule)).await
    }
}

fn gate(media_id: MediaId) -> String {
    format!("/v1/media/{media_id}/gate")
}

fn token(id: &str) -> Value {
    json!({ "kind": "erc721_owner", "chain_id": CHAIN, "contract": NFT.to_string(), "token_id": id })
}

#[tokio::test]
async fn a_new_medium_is_its_owners_alone_until_the_owner_says_otherwise() {
    let served = Served::start().await;
    let media_id = served.site.create_medium(None).await;
    let shown = served.get(media_id, OWNER).await;
    assert_eq!(
        (shown.status, &shown.body["access"], &shown.body["rule"]),
        (StatusCode::OK, &json!("owner_only"), &Value::Null)
    );
    let put = served.put(media_id, OWNER, &shown.etag, token("1")).await;
    assert_eq!((put.status, &put.body["access"]), (StatusCode::OK, &json!("rule")));
    assert_eq!(put.body["rule"], token("1"));
    assert_ne!(put.etag, shown.etag);
    let changed = served.site.last_event::<GateChanged>(media_id).await.unwrap();
    assert_eq!((changed.changed_by.as_str(), changed.gate_epoch), (OWNER, 1));
    assert_eq!(json!(changed.rule_digest), put.body["rule_digest"]);
    // Nothing but the gate changed.
    let held = served
        .site
        .admin
        .load_record::<document::MediaDocumentRecord>(&media_id.to_string())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((held.record.title.as_str(), held.record.owner.as_str()), ("a film", OWNER));
    let gone = served.ask(Method::DELETE, &gate(media_id), OWNER, Some(&put.etag), None).await;
    assert_eq!((gone.status, &gone.body["access"]), (StatusCode::OK, &json!("owner_only")));
    assert!(gone.etag != shown.etag && gone.etag != put.etag, "a tag never comes again");
    assert_eq!(served.site.last_event::<GateChanged>(media_id).await.unwrap().rule_digest, "");
}

#[tokio::test]
async fn a_rule_that_readers_may_read_differently_is_refused() {
    let served = Served::start().await;
    let media_id = served.site.create_medium(None).await;
    for (rule, pointer) in [
        (
            r#"{"kind":"allow_list","addresses":["0x0000000000000000000000000000000000000001"],"kind":"public"}"#,
            "/kind",
        ),
        (r#"{"kind":"not","rule":{"kind":"public"},"rule":{"kind":"public"}}"#, "/rule"),
        (r#"{"kind":"any","rules":[{"kind":"public","kind":"public"}]}"#, "/rules/0/kind"),
    ] {
        let (status, problem) = served.put_text(media_id, rule).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("json_invalid")),
            "{problem}"
        );
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    assert_eq!(served.get(media_id, OWNER).await.body["access"], "owner_only");
}

#[tokio::test]
async fn only_the_owner_and_an_administrator_change_a_gate() {
    let served = Served::start().await;
    let media_id = served.site.create_medium(None).await;
    for (owner, read, write) in [
        ("mallory", StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
        ("ops", StatusCode::OK, StatusCode::FORBIDDEN),
        ("root", StatusCode::OK, StatusCode::OK),
    ] {
        assert_eq!(served.get(media_id, owner).await.status, read, "{owner}");
        let put = served.put(media_id, owner, "*", token("1")).await;
        assert_eq!(put.status, write, "{owner}");
        let delete = served.ask(Method::DELETE, &gate(media_id), owner, Some("*"), None).await;
        assert_eq!(delete.status, write, "{owner}");
    }
    for path in
        [gate(MediaId::from_bytes([9; 16])), "/v1/media/..%2f..%2fx/gate".into(), "/v1/media/x/gate".into()]
    {
        assert_eq!(served.ask(Method::GET, &path, "root", None, None).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn no_change_is_lost() {
    let served = Served::start().await;
    let media_id = served.site.create_medium(None).await;
    for (tag, status) in [
        (None, StatusCode::PRECONDITION_REQUIRED),
        (Some("{}"), StatusCode::BAD_REQUEST),
        (Some("\"g7\""), StatusCode::PRECONDITION_FAILED),
        (Some("W/\"g0\""), StatusCode::PRECONDITION_FAILED),
    ] {
        for (method, rule) in [(Method::PUT, Some(token("1"))), (Method::DELETE, None)] {
            let answer = served.ask(method, &gate(media_id), OWNER, tag, rule).await;
            assert_eq!(answer.status, status, "{tag:?}");
        }
    }
    let etag = served.get(media_id, OWNER).await.etag;
    let ids: Vec<String> = (0..20).map(|id| id.to_string()).collect();
    let writers = ids.iter().map(|id| served.put(media_id, OWNER, &etag, token(id)));
    let answers = futures::future::join_all(writers).await;
    let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let lost = answers.iter().filter(|answer| answer.status == StatusCode::PRECONDITION_FAILED).count();
    assert_eq!((won, lost), (1, 19));
    // The same rule again is no change.
    let now = served.get(media_id, OWNER).await;
    let again = served.put(media_id, OWNER, &now.etag, now.body["rule"].clone()).await;
    assert_eq!((again.status, again.etag), (StatusCode::OK, now.etag));
}

#[tokio::test]
async fn a_rule_that_could_not_be_decided_is_not_stored() {
    let served = Served::start().await;
    let media_id = served.site.create_medium(None).await;
    let with = |chain_id: u64, contract: &str| json!({ "kind": "erc20_balance", "chain_id": chain_id, "contract": contract, "balance_min": "1" });
    for (rule, status, code, pointer) in [
        (json!({ "kind": 0 }), StatusCode::BAD_REQUEST, "json_invalid", json!("")),
        (json!({ "kind": "not", "rule": { "kind": 0 } }), StatusCode::BAD_REQUEST, "json_invalid", json!("")),
        (json!({ "kind": "none" }), StatusCode::BAD_REQUEST, "json_invalid", json!("")),
        (json!({ "kind": "public", "x": 1 }), StatusCode::BAD_REQUEST, "json_invalid", json!("")),
        (
            with(CHAIN, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "rule_invalid",
            json!("/contract"),
        ),
        (with(5, &NFT.to_string()), StatusCode::UNPROCESSABLE_ENTITY, "chain_unknown", json!("")),
        (with(CHAIN, &NOTHING.to_string()), StatusCode::UNPROCESSABLE_ENTITY, "contract_absent", json!("")),
    ] {
        let answer = served.put(media_id, OWNER, "*", rule.clone()).await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{rule}");
        let error = &answer.body["errors"][0];
        assert_eq!(error["pointer"], pointer, "{rule}");
        assert!(error["detail"].as_str().is_some_and(|why| !why.is_empty()), "{}", answer.body);
    }
    let deep = (0..5_000).fold("{\"kind\":\"public\"}".to_owned(), |inner, _| {
        format!("{{\"kind\":\"not\",\"rule\":{inner}}}")
    });
    let request = served.client.put(format!("{}{}", served.url, gate(media_id))).header("if-match", "*");
    let answer = request.header("content-type", "application/json").body(deep).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let long = vec![b' '; web::body::BodyLimits::default().bytes_max + 1];
    let request = served.client.put(format!("{}{}", served.url, gate(media_id))).header("if-match", "*");
    let answer = request.header("content-type", "application/json").body(long).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    (0..3).for_each(|node| served.site.world.set_behavior(node, NodeBehavior::Down));
    let answer = served.put(media_id, OWNER, "*", token("1")).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("chain_unavailable"))
    );
    assert_eq!(served.get(media_id, OWNER).await.body["access"], "owner_only");
}

#[tokio::test]
async fn a_medium_that_only_the_stages_know_gets_its_document() {
    let served = Served::start().await;
    let media_id = MediaId::from_bytes(nats::new_id_bytes());
    let asset = media::MediaRecord::new(media_id, OWNER.into(), media::MediaStatus::Stored, 1);
    served.site.admin.commit_record(&mut VersionedRecord::new(asset), Outbox::new()).await.unwrap();
    assert_eq!(served.get(media_id, OWNER).await.body["access"], "owner_only");
    assert_eq!(served.put(media_id, "mallory", "*", token("1")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(served.put(media_id, OWNER, "*", json!({ "kind": "public" })).await.status, StatusCode::OK);
    let held = served
        .site
        .admin
        .load_record::<document::MediaDocumentRecord>(&media_id.to_string())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(held.record.owner, OWNER);
}

#[tokio::test]
async fn ownership_is_answered_with_its_block() {
    let served = Served::start().await;
    let ask = async |address: &str, rule: Value| {
        let body = json!({ "address": address, "rule": rule });
        served.ask(Method::POST, "/v1/auth/nft", "anybody", None, Some(body)).await
    };
    let yes = ask(&ANN.to_string(), token("1")).await;
    assert_eq!(
        (yes.status, &yes.body["holds"], &yes.body["confirmed"]),
        (StatusCode::OK, &json!(true), &json!(true))
    );
    let head = served.site.world.head_block();
    assert_eq!(
        (&yes.body["block"]["number"], &yes.body["block"]["hash"]),
        (&json!(head.number), &json!(head.hash))
    );
    assert_eq!(yes.body["confirmed_block"]["number"], json!(head.number - 2));
    let no = ask(&BOB.to_string(), token("1")).await;
    assert_eq!((&no.body["holds"], &no.body["reason"]), (&json!(false), &json!(GateReasonCode::NotOwner)));
    let burnt = ask(&BOB.to_string(), token("99")).await;
    assert_eq!(
        (&burnt.body["holds"], &burnt.body["reason"]),
        (&json!(false), &json!(GateReasonCode::ContractFailed))
    );
    for (address, rule, code) in [
        ("vitalik.eth", token("1"), "address_invalid"),
        (&ANN.to_string(), json!({ "kind": "public" }), "rule_invalid"),
        (&ANN.to_string(), token("x"), "rule_invalid"),
        (
            &ANN.to_string(),
            json!({ "kind": "erc721_owner", "chain_id": 2, "contract": NFT.to_string() }),
            "chain_unknown",
        ),
    ] {
        let answer = ask(address, rule).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)));
    }
    (0..3).for_each(|node| served.site.world.set_behavior(node, NodeBehavior::Down));
    assert_eq!(ask(&ANN.to_string(), token("1")).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
