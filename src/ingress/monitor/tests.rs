//! What operators see of alerts, and what admins say about them.

use std::collections::BTreeMap;

use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    access::PrincipalRole,
    alert::{AlertBoard, AlertPhase, AlertSeverity, AlertState, MARK_MS_MAX},
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
async fn runbooks_are_open_pages() {
    let site = Site::start(|_| {}).await;
    let index = site.ask("GET", "/docs/runbooks", "", "").await;
    assert_eq!(index.status, 200);
    let page = site.ask("GET", "/docs/runbooks/StreamGateBrokerDown", "", "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("<h2 id=\"mitigation\">"), "{}", page.body);
    assert_eq!(site.ask("GET", "/docs/runbooks/StreamGateNothing", "", "").await.status, 404);
}
