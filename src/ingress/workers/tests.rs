//! What operators see of workers, by the records that workers put.

use std::time::Duration;

use nats::{Role, testing::TestBroker};
use schemas::{access::PrincipalRole, ids::JobId};
use serde_json::Value;

use super::*;
use crate::tests::Site;

fn running(worker: &str, host: &str) -> WorkerRecord {
    WorkerRecord {
        worker: worker.into(),
        queue: job::TRANSCODE.into(),
        slots: 2,
        held: Vec::new(),
        state: WorkerState::Running,
        version: "0.1.0".into(),
        host: host.into(),
        started_at_ms: 7,
        speed: None,
    }
}

async fn put(broker: &TestBroker, record: &WorkerRecord) {
    let bus = broker.bus(Role::Transcode).await;
    bus.put_live_record(record, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn operators_see_every_live_worker_and_what_it_holds() {
    let site = Site::start(|_| {}).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let list = async || -> Value {
        let answer = site.ask("GET", "/v1/workers", &key, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    };
    assert_eq!(list().await, json!({ "items": [], "limit": 1_000, "has_more": false }));
    let before_ms = nats::now_ms();
    let held = vec![HeldPart { job_id: JobId::from_bytes([8; 16]), part: "v0001".into(), since_ms: 9 }];
    put(&site.broker, &WorkerRecord { held: held.clone(), speed: Some(2_450), ..running("b2", "east") })
        .await;
    put(&site.broker, &WorkerRecord { state: WorkerState::Draining, ..running("a1", "west") }).await;
    // A heartbeat of the same role has no bytes.
    let admin = site.broker.bus(Role::Admin).await;
    admin.publish_core("$KV.workers.transcode.c3".into(), Vec::new()).await.unwrap();
    admin.publish_core("$KV.workers.transcode.d4".into(), b"\xc1".to_vec()).await.unwrap();
    let found = list().await;
    let seen_ms = found["items"][0]["last_seen_ms"].as_u64().unwrap();
    assert!((before_ms..=nats::now_ms()).contains(&seen_ms), "{found}");
    let job_id = held[0].job_id.to_string();
    assert_eq!(
        found["items"][0],
        json!({
            "worker": "b2", "queue": "transcode", "slots": 2, "state": "running", "version": "0.1.0", "host": "east",
            "held": [{ "job_id": job_id, "part": "v0001", "since_ms": 9 }],
            "started_at_ms": 7, "last_seen_ms": seen_ms, "speed": 2_450,
        })
    );
    assert_eq!(
        (&found["items"][1]["state"], &found["items"][1]["speed"]),
        (&json!("draining"), &Value::Null)
    );
    assert_eq!(found["items"].as_array().unwrap().len(), 2, "{found}");
}

#[tokio::test]
async fn owners_see_no_workers() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    for (role, status) in [(PrincipalRole::Owner, 403), (PrincipalRole::Operator, 200)] {
        let key = auth::create_api_key(&admin, "ann", role).await.unwrap();
        let answer = site.ask("GET", "/v1/workers", &format!("Authorization: Bearer {key}\r\n"), "").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.body.contains("operators_only"), status == 403, "{answer:?}");
    }
}

#[tokio::test]
async fn a_worker_that_did_not_show_itself_is_not_listed_and_a_list_has_an_end() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Ingress).await;
    for name in ["a1", "b2", "c3"] {
        put(&broker, &running(name, "east")).await;
    }
    let now_ms = bus.broker_now_ms("KV_workers").await.unwrap();
    let all = read_live_workers(&bus, now_ms, 3).await.unwrap();
    assert_eq!((all.items.len(), all.has_more), (3, false));
    let some = read_live_workers(&bus, now_ms, 2).await.unwrap();
    assert_eq!((some.items.len(), some.has_more), (2, true));
    let late_ms = now_ms + worker::RECORD_TTL_MS + 1;
    assert_eq!(read_live_workers(&bus, late_ms, 3).await.unwrap().items, []);
}
