//! What operators see of alerts, and what admins say about them.

use std::collections::BTreeMap;

use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    access::PrincipalRole,
    alert::{AlertBoard, AlertPhase, AlertSeverity, AlertState, MARK_MS_MAX},
    log_level::{FOR_MS_DEFAULT, FOR_MS_MAX, OVERRIDES_MAX},
};
use serde_json::{Value, json};

use crate::tests::{Answer, Site};

fn alert(name: &str, phase: AlertPhase) -> AlertState {
    AlertState {
        alert_id: format!("{:0>16}", name.len()),
        name: name.into(),
        severity: AlertSeverity::Page,
        labels: BTreeMap::from([("stream".into(), "EVENTS".into())]),
        phase,
        summary: "EVENTS is 90% full".into(),
        value: 0.9,
        since_ms: 1,
        fired_at_ms: (phase == AlertPhase::Firing).then_some(2),
        resolved_at_ms: None,
        notified_at_ms: BTreeMap::new(),
    }
}

fn document(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

async fn key_of(site: &Site, role: PrincipalRole) -> String {
    let admin = site.broker.bus(Role::Admin).await;
    let key = auth::create_api_key(&admin, "olga", role).await.unwrap();
    format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n")
}

#[tokio::test]
async fn owners_see_nothing_operators_read_and_admins_silence() {
    let site = Site::start(|_| {}).await;
    let alerts = vec![
        alert("StreamGateBrokerDown", AlertPhase::Pending),
        alert("StreamGateStreamFilling", AlertPhase::Firing),
    ];
    let board = AlertBoard { evaluated_at_ms: 7, alerts, ..AlertBoard::default() };
    let monitor = site.broker.bus(Role::Monitor).await;
    monitor.commit_record(&mut VersionedRecord::new(board), Outbox::new()).await.unwrap();
    let owner = key_of(&site, PrincipalRole::Owner).await;
    let refused = site.ask("GET", "/v1/monitor/alerts", &owner, "").await;
    assert_eq!((refused.status, document(&refused)["code"].as_str()), (403, Some("operators_only")));
    let operator = key_of(&site, PrincipalRole::Operator).await;
    let list = document(&site.ask("GET", "/v1/monitor/alerts", &operator, "").await);
    assert_eq!((&list["evaluated_at_ms"], &list["is_stale"]), (&json!(7), &json!(true)));
    assert_eq!(list["items"][0]["name"], "StreamGateStreamFilling", "what fires comes first");
    assert_eq!(list["items"][0]["runbook_path"], "/docs/runbooks/StreamGateStreamFilling");
    assert_eq!(list["items"][1]["phase"], "pending");
    assert!(list["prometheus_rules"].to_string().contains("StreamGateAvailabilityBurn 3d"), "{list}");
    let silence = "/v1/monitor/alerts/StreamGateStreamFilling/silence";
    let asked = json!({ "for_ms": 60_000, "reason": "the disk is replaced" }).to_string();
    let answer = site.ask("POST", silence, &operator, &asked).await;
    assert_eq!(document(&answer)["code"], "read_only", "{answer:?}");

    let admin = key_of(&site, PrincipalRole::Admin).await;
    for (path, body, status) in [
        ("/v1/monitor/alerts/StreamGateNothing/silence", asked.clone(), 404),
        (silence, json!({ "for_ms": MARK_MS_MAX + 1 }).to_string(), 400),
        (silence, json!({ "for_ms": 1, "reason": "" }).to_string(), 400),
        (silence, json!({}).to_string(), 400),
    ] {
        let answer = site.ask("POST", path, &admin, &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
    }
    let made = document(&site.ask("POST", silence, &admin, &asked).await);
    assert_eq!(made["until_ms"].as_u64().unwrap(), made["made_at_ms"].as_u64().unwrap() + 60_000);
    let id = list["items"][0]["alert_id"].as_str().unwrap();
    let acknowledge = format!("/v1/monitor/alerts/{id}/acknowledge");
    assert_eq!(site.ask("POST", &acknowledge, &admin, &asked).await.status, 200);
    let marked = document(&site.ask("GET", "/v1/monitor/alerts", &operator, "").await);
    assert_eq!(marked["items"][0]["silence"]["reason"], "the disk is replaced", "{marked}");
    assert_eq!(marked["items"][0]["acknowledgement"]["made_by"], "olga", "{marked}");
    assert_eq!(marked["items"][1]["silence"], Value::Null);
    assert_eq!(site.ask("POST", silence, &admin, "{\"for_ms\":0}").await.status, 200);
    let after = document(&site.ask("GET", "/v1/monitor/alerts", &operator, "").await);
    assert_eq!((&after["items"][0]["silence"], &after["silences"]), (&Value::Null, &json!([])));
}

#[tokio::test]
async fn admins_change_what_is_logged_for_a_while_and_nonsense_is_named() {
    let site = Site::start(|_| {}).await;
    let path = "/v1/monitor/logs/level";
    let owner = key_of(&site, PrincipalRole::Owner).await;
    let operator = key_of(&site, PrincipalRole::Operator).await;
    let admin = key_of(&site, PrincipalRole::Admin).await;
    let debug = json!({ "filter": "debug" }).to_string();
    for (key, method, code) in [
        (&owner, "GET", "operators_only"),
        (&owner, "PUT", "operators_only"),
        (&operator, "PUT", "read_only"),
    ] {
        let body = if method == "GET" { "" } else { debug.as_str() };
        let refused = site.ask(method, path, key, body).await;
        assert_eq!((refused.status, document(&refused)["code"].as_str()), (403, Some(code)), "{method}");
    }
    for (body, status, code, pointer) in [
        (json!({ "filter": "loud" }), 422, "log_filter_invalid", "/filter"),
        (json!({ "filter": "hyper=trace" }), 422, "log_filter_invalid", "/filter"),
        (json!({ "filter": "upload[{owner=1}]=trace" }), 422, "log_filter_invalid", "/filter"),
        (json!({ "filter": "debug", "role": "admin" }), 400, "request_invalid", "/role"),
        (json!({ "filter": "debug", "role": "uplaod" }), 400, "request_invalid", "/role"),
        (json!({ "filter": "debug", "instance": "me" }), 400, "request_invalid", "/instance"),
        (
            json!({ "filter": "debug", "role": "upload", "instance": "0123456789abcdef" }),
            400,
            "request_invalid",
            "/instance",
        ),
        (json!({ "filter": "debug", "for_ms": FOR_MS_MAX + 1 }), 400, "request_invalid", "/for_ms"),
        (json!({ "filter": "debug", "reason": "\u{1b}[31m" }), 400, "request_invalid", "/reason"),
        (json!({ "for_ms": 60_000 }), 400, "request_invalid", "/filter"),
    ] {
        let answer = site.ask("PUT", path, &admin, &body.to_string()).await;
        let problem = document(&answer);
        assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let refused = document(&site.ask("PUT", path, &admin, "{\"filter\":\"hyper=trace\"}").await);
    assert!(refused["detail"].as_str().unwrap().contains("\"hyper\" is no module"), "{refused}");
    assert_eq!(document(&site.ask("GET", path, &operator, "").await)["items"], json!([]));

    let of_upload = json!({ "filter": "debug,nats::consume=trace", "role": "upload", "reason": "odd files" });
    let list = document(&site.ask("PUT", path, &admin, &of_upload.to_string()).await);
    let item = &list["items"][0];
    assert_eq!(item["until_ms"].as_u64().unwrap(), item["set_at_ms"].as_u64().unwrap() + FOR_MS_DEFAULT);
    assert_eq!((&item["set_by"], &item["role"]), (&json!("olga"), &json!("upload")));
    assert_eq!(document(&site.ask("GET", path, &operator, "").await), list);

    for number in 1..OVERRIDES_MAX {
        let body = json!({ "filter": "debug", "instance": format!("{number:016x}") }).to_string();
        assert_eq!(site.ask("PUT", path, &admin, &body).await.status, 200);
    }
    let full = site.ask("PUT", path, &admin, &debug).await;
    assert_eq!((full.status, document(&full)["code"].as_str()), (409, Some("log_levels_too_many")));
    let back = json!({ "role": "upload", "for_ms": 0 }).to_string();
    let list = document(&site.ask("PUT", path, &admin, &back).await);
    assert_eq!(list["items"].as_array().unwrap().len(), OVERRIDES_MAX - 1);
    assert!(!list.to_string().contains("\"role\""), "{list}");
}

#[tokio::test]
async fn runbooks_are_open_pages() {
    let site = Site::start(|_| {}).await;
    let index = site.ask("GET", "/docs/runbooks", "", "").await;
    assert_eq!(index.status, 200);
    let page = site.ask("GET", "/docs/runbooks/StreamGateBrokerDown", "", "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("<h2 id=\"mitigation\">"), "{}", page.body);
    assert_eq!(site.ask("GET", "/docs/runbooks/StreamGateNothing", "", "").await.status, 404);
}
