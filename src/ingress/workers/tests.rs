//! What operators see of workers, by the records that workers put.

use std::time::Duration;

use futures::StreamExt;
use nats::{Role, testing::TestBroker};
use schemas::{
    access::PrincipalRole,
    ids::JobId,
    worker::{AdminWorkerChanged, WorkerCommand, WorkerCommandReply},
};
use serde_json::Value;

use super::*;
use crate::tests::Site;

fn running(worker: &str, host: &str) -> WorkerRecord {
    WorkerRecord {
        worker: worker.into(),
        queue: schemas::job::TRANSCODE.into(),
        slots: 2,
        held: Vec::new(),
        state: WorkerState::Running,
        version: "0.1.0".into(),
        options_version: "transcode/3".into(),
        other_version_wait_ms: 600_000,
        host: host.into(),
        started_at_ms: 7,
        speed: None,
    }
}

fn all_of_them() -> String {
    subjects::worker_filter(schemas::job::TRANSCODE)
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
            "worker": "b2", "queue": "transcode", "slots": 2, "state": "running", "version": "0.1.0", "options_version": "transcode/3", "host": "east",
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
    let all = read_live_workers(&bus, vec![all_of_them()], now_ms, 3).await.unwrap();
    assert_eq!((all.items.len(), all.has_more), (3, false));
    let some = read_live_workers(&bus, vec![all_of_them()], now_ms, 2).await.unwrap();
    assert_eq!((some.items.len(), some.has_more), (2, true));
    let late_ms = now_ms + worker::RECORD_TTL_MS + 1;
    assert_eq!(read_live_workers(&bus, vec![all_of_them()], late_ms, 3).await.unwrap().items, []);
}

/// Has a worker `name` answer `count` commands, with `state` where that is said, else as it is asked.
pub(crate) async fn answer_as_worker(bus: Bus, name: &str, count: usize, state: Option<WorkerState>) {
    let mut commands = bus.subscribe_core(subjects::worker_command_subject(name)).await.unwrap();
    nats::testing::wait_until_taken(&bus).await;
    tokio::spawn(async move {
        for _ in 0..count {
            let message = commands.next().await.unwrap();
            let command: WorkerCommand = nats::decode_message(&message.subject, &message.payload).unwrap();
            let state = state.or(command.action.wanted_state()).unwrap();
            let answer = nats::encode_message("", &WorkerCommandReply { state }).unwrap();
            bus.client().publish(message.reply.unwrap(), answer.into()).await.unwrap();
            // The connection goes with the last answer.
            bus.client().flush().await.unwrap();
        }
    });
}

#[tokio::test]
async fn an_admin_pauses_resumes_and_drains_a_worker_and_that_is_an_event() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let key = auth::create_api_key(&admin, "otto", PrincipalRole::Admin).await.unwrap();
    let key = format!("Authorization: Bearer {key}\r\n");
    let filter = "evt.admin.worker_changed.*".to_owned();
    let mut events = admin.subscribe_core(filter).await.unwrap();
    answer_as_worker(site.broker.bus(Role::Transcode).await, "a1", 3, None).await;
    for (action, wanted) in
        [("pause", WorkerState::Paused), ("resume", WorkerState::Running), ("drain", WorkerState::Draining)]
    {
        let answer = site.ask("POST", &format!("/v1/workers/a1/{action}"), &key, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(document, json!({ "worker": "a1", "state": wanted }));
        let message = events.next().await.unwrap();
        let event: AdminWorkerChanged = nats::decode_message(&message.subject, &message.payload).unwrap();
        assert_eq!((event.worker.as_str(), event.state, event.changed_by.as_str()), ("a1", wanted, "otto"));
    }
}

#[tokio::test]
async fn a_worker_that_is_not_there_says_nothing_or_refuses_is_a_problem_of_its_own() {
    let site = Site::start(|_| {}).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let admin = site.broker.bus(Role::Admin).await;
    let owner = auth::create_api_key(&admin, "ann", PrincipalRole::Owner).await.unwrap();
    let owner = format!("Authorization: Bearer {owner}\r\n");
    let operator = auth::create_api_key(&admin, "olga", PrincipalRole::Operator).await.unwrap();
    let operator = format!("Authorization: Bearer {operator}\r\n");
    // It shows itself, and nobody listens.
    put(&site.broker, &running("b2", "east")).await;
    answer_as_worker(site.broker.bus(Role::Transcode).await, "c3", 1, Some(WorkerState::Draining)).await;
    for (name, who, status, code) in [
        ("a1", &key, 404, "not_found"),
        ("*", &key, 404, "not_found"),
        ("b2", &key, 503, "worker_silent"),
        ("c3", &key, 409, "worker_refused"),
        ("b2", &owner, 403, "operators_only"),
        ("b2", &operator, 403, "read_only"),
    ] {
        let answer = site.ask("POST", &format!("/v1/workers/{name}/pause"), who, "").await;
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{name}: {answer:?}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
        if status == 409 {
            assert_eq!(problem["worker_state"], "draining");
        }
    }
}
