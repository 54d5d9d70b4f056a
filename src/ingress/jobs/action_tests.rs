//! Actions on all jobs of a filter, and pauses of an owner or a kind, over HTTP and by the records that are there afterwards.

use nats::{Outbox, VersionedRecord};
use schemas::{
    access::PrincipalRole,
    ids::{JobId, MediaId},
    job::{self, EncodePlan, JobRecord, JobStatus},
    job_action::{JobAction, JobActionOrder, JobActionOutcome, JobFilter},
    media::MediaStatus,
    subjects::JobPriority,
};
use serde_json::{Value, json};

use super::act_on_job::JobActionContext;
use crate::{
    capacity::{CapacityConfig, CapacityMonitor},
    tests::{Answer, job_record},
    transcode::tests::{Encoded, FILM, OWNER},
    uploads::UploadConfig,
};

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, read(answer)["code"].as_str().unwrap_or_default().to_owned())
}

fn medium(number: u8) -> MediaId {
    MediaId::from_bytes([number; 16])
}

fn order(action: JobAction) -> JobActionOrder {
    JobActionOrder {
        action,
        filter: JobFilter { kind: Some("transcode".into()), ..JobFilter::default() },
        is_dry_run: false,
        asked_by: OWNER.into(),
        only_owner: Some(OWNER.into()),
    }
}

/// The job of an action that was asked for now.
fn action_job() -> JobRecord {
    let plan = (EncodePlan::default(), JobPriority::P1);
    let job_id = JobId::from_bytes(nats::new_id_bytes());
    JobRecord::new_task(job_id, job::JOB_ACTION, (MediaId::NONE, OWNER), plan, nats::now_ms())
}

fn refused(code: &str, detail: &str) -> JobActionOutcome {
    JobActionOutcome::Refused { code: code.into(), detail: detail.into() }
}

impl Encoded {
    fn actions(&self, free_bytes_min: u64) -> JobActionContext {
        let uploads = UploadConfig { free_bytes_min, ..UploadConfig::default() };
        let (bus, store) = (self.admin.clone(), self.site.store.clone());
        let capacity = CapacityMonitor::new(bus.clone(), store.clone(), CapacityConfig::default(), &uploads);
        JobActionContext::new(bus, store, Default::default(), capacity)
    }

    async fn put_any(&self, job: &JobRecord) {
        self.admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
    }

    async fn job(&self, job_id: JobId) -> JobRecord {
        self.admin.load_record::<JobRecord>(&job_id.to_string()).await.unwrap().unwrap().record
    }

    async fn act(&self, action: JobAction, job: &JobRecord) -> Option<JobActionOutcome> {
        let (actions, order, by) = (self.actions(0), order(action), action_job());
        Box::pin(actions.act_on_job(job.job_id, &order, &by)).await.unwrap()
    }

    async fn send_as(&self, key: &str, method: &str, path: &str, body: &Value) -> Answer {
        let headers = format!("{key}Content-Type: application/json\r\n");
        self.site.ask(method, path, &headers, &body.to_string()).await
    }

    async fn key(&self, owner: &str, role: PrincipalRole) -> String {
        let key = auth::create_api_key(&self.admin, owner, role).await.unwrap();
        format!("Authorization: Bearer {key}\r\n")
    }
}

#[tokio::test]
async fn an_action_changes_what_is_meant_and_says_what_was_so_before() {
    use JobActionOutcome::{Changed, Unchanged};
    let site = Encoded::start().await;
    let job = job_record(medium(9), OWNER, 1, JobStatus::Active);
    site.put_any(&job).await;
    let to_p2 = JobAction::Prioritize { priority: JobPriority::P2 };
    for (action, is_changed) in [
        (JobAction::Resume {}, false),
        (JobAction::Pause {}, true),
        (JobAction::Pause {}, false),
        (JobAction::Resume {}, true),
        (to_p2, true),
        (to_p2, false),
    ] {
        let dry = JobActionOrder { is_dry_run: true, ..order(action) };
        let foreseen = site.actions(0).act_on_job(job.job_id, &dry, &action_job()).await.unwrap();
        let wanted = if is_changed { Changed } else { Unchanged };
        assert_eq!(foreseen, Some(wanted.clone()), "{action:?}");
        assert_eq!(site.act(action, &job).await, Some(wanted), "a dry run changes nothing: {action:?}");
    }
    assert_eq!(site.job(job.job_id).await.priority, JobPriority::P2);
    assert_eq!(site.act(JobAction::Retry {}, &job).await, None, "it goes on, and is none of the failed");
    assert_eq!(site.act(JobAction::Cancel {}, &job).await, Some(Changed));
    assert_eq!(site.job(job.job_id).await.status, JobStatus::Cancelled);
    assert_eq!(site.act(JobAction::Cancel {}, &job).await, None, "it does not go on any more");
}

#[tokio::test]
async fn an_action_leaves_alone_what_is_not_meant() {
    let site = Encoded::start().await;
    let actions = site.actions(0);
    let others = [
        ("another owner's", job_record(medium(9), "otto", 1, JobStatus::Active)),
        (
            "another kind",
            JobRecord { kind: job::VERIFY.into(), ..job_record(medium(10), OWNER, 1, JobStatus::Active) },
        ),
        (
            "asked for later",
            JobRecord { created_at_ms: u64::MAX, ..job_record(medium(11), OWNER, 1, JobStatus::Active) },
        ),
        ("ended", job_record(medium(12), OWNER, 1, JobStatus::Succeeded)),
    ];
    for (what, job) in &others {
        site.put_any(job).await;
        assert_eq!(site.act(JobAction::Cancel {}, job).await, None, "{what}");
        assert_eq!(site.job(job.job_id).await, *job, "{what}");
    }
    // Its own job, where it is of the filter, would stop it.
    let by = action_job();
    site.put_any(&by).await;
    let all = JobActionOrder { filter: JobFilter::default(), ..order(JobAction::Cancel {}) };
    assert_eq!(actions.act_on_job(by.job_id, &all, &by).await.unwrap(), None);
    let gone = JobId::from_bytes([99; 16]);
    assert_eq!(actions.act_on_job(gone, &all, &by).await.unwrap(), None);
    let late = JobRecord { publishing_at_ms: Some(1), ..job_record(medium(13), OWNER, 1, JobStatus::Active) };
    site.put_any(&late).await;
    let wanted = Some(refused("job_publishing", "its result is being published"));
    assert_eq!(site.act(JobAction::Cancel {}, &late).await, wanted);
    let dry = JobActionOrder { is_dry_run: true, ..order(JobAction::Cancel {}) };
    assert_eq!(actions.act_on_job(late.job_id, &dry, &by).await.unwrap(), wanted);
}

#[tokio::test]
async fn what_failed_is_tried_again_once_and_not_without_room() {
    let site = Encoded::start().await;
    site.put_job(1, JobStatus::Failed).await;
    site.change_medium(|medium| {
        (medium.status, medium.encode) = (MediaStatus::Failed, None);
        Outbox::new()
    })
    .await;
    let job = job_record(FILM, OWNER, 1, JobStatus::Failed);
    let (retry, by) = (order(JobAction::Retry {}), action_job());
    let full = site.actions(u64::MAX / 4).act_on_job(job.job_id, &retry, &by).await.unwrap();
    assert!(
        matches!(&full, Some(JobActionOutcome::Refused { code, .. }) if code == "store_full"),
        "{full:?}"
    );
    assert_eq!(site.act(JobAction::Retry {}, &job).await, Some(JobActionOutcome::Changed));
    assert_eq!(site.medium().await.attempt.encode, 2);
    let again = site.act(JobAction::Retry {}, &job).await;
    assert!(
        matches!(&again, Some(JobActionOutcome::Refused { code, .. }) if code == "job_goes_on"),
        "{again:?}"
    );
    // What a newer version wrote, or nobody.
    let stranger = JobId::from_bytes([77; 16]);
    let key = schemas::subjects::kv_subject("jobs", &stranger.to_string());
    site.admin.context().publish(key, "no record".into()).await.unwrap().await.unwrap();
    let found = site.actions(0).act_on_job(stranger, &retry, &by).await.unwrap();
    assert!(
        matches!(&found, Some(JobActionOutcome::Refused { code, .. }) if code == "message_undecodable"),
        "it does not stop the others: {found:?}"
    );
    let failed = JobRecord { status: JobStatus::Failed, ..action_job() };
    site.put_any(&failed).await;
    let all = JobActionOrder { filter: JobFilter::default(), is_dry_run: true, ..order(JobAction::Retry {}) };
    let foreseen = site.actions(0).act_on_job(failed.job_id, &all, &action_job()).await.unwrap();
    let instead = "ask for the action anew: the jobs of its filter are others now";
    assert_eq!(foreseen, Some(refused("job_not_repeatable", instead)));
    let orphan = job_record(medium(9), OWNER, 1, JobStatus::Failed);
    site.put_any(&orphan).await;
    let gone = site.act(JobAction::Retry {}, &orphan).await;
    assert!(matches!(&gone, Some(JobActionOutcome::Refused { code, .. }) if code == "not_found"), "{gone:?}");
}

#[tokio::test]
async fn an_action_is_a_job_that_says_what_was_asked_for() {
    let site = Encoded::start().await;
    let body =
        json!({ "action": { "type": "cancel" }, "filter": { "status": "active", "kind": "transcode" } });
    let once = format!("{}Idempotency-Key: \"sweep\"\r\n", site.owner);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = site.send_as(&once, "POST", "/v1/jobs/actions", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        ids.push(read(&answer)["job_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[1], "a repeated request is one job");
    let document = site.job_document(&ids[0]).await;
    assert_eq!((&document["kind"], &document["owner"]), (&json!("job_action"), &json!(OWNER)));
    assert_eq!(document["action"]["filter"], body["filter"]);
    assert_eq!(document["action"]["only_owner"], OWNER);
    assert_eq!(document["acted"], Value::Null);
    let retried = site.send_as(&site.owner, "POST", &format!("/v1/jobs/{}/cancel", ids[0]), &json!({})).await;
    assert_eq!(retried.status, 200, "{retried:?}");
    let retried = site.send_as(&site.owner, "POST", &format!("/v1/jobs/{}/retry", ids[0]), &json!({})).await;
    assert_eq!(code(&retried), (409, "job_not_repeatable".into()), "its jobs are others now");
}

#[tokio::test]
async fn an_action_that_can_t_be_is_refused_with_the_place() {
    let site = Encoded::start().await;
    let admin = site.key("boss", PrincipalRole::Admin).await;
    let operator = site.key("ops", PrincipalRole::Operator).await;
    let cancel = json!({ "type": "cancel" });
    let active = json!({ "status": "active" });
    let raise = json!({ "type": "prioritize", "priority": "p0" });
    let invalid = (400, "request_invalid");
    let cases = [
        (&site.owner, &cancel, json!({}), invalid),
        (&site.owner, &cancel, json!({ "status": "failed" }), invalid),
        (&site.owner, &json!({ "type": "retry" }), active.clone(), invalid),
        (&site.owner, &cancel, json!({ "kind": "transcoding" }), invalid),
        (&site.owner, &json!({ "type": "retry" }), json!({ "code": "" }), invalid),
        (&site.owner, &cancel, json!({ "code": "store_full" }), invalid),
        (&admin, &cancel, json!({ "owner": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8" }), invalid),
        (&site.owner, &cancel, json!({ "created_from_ms": 5, "created_until_ms": 5 }), invalid),
        (&site.owner, &cancel, json!({ "state": "active" }), (400, "json_invalid")),
        (&site.owner, &json!({ "type": "remove" }), active.clone(), (400, "json_invalid")),
        (&site.owner, &cancel, json!({ "owner": "otto" }), (403, "not_owner")),
        (&site.owner, &raise, active.clone(), (403, "operators_only")),
        (&operator, &cancel, active.clone(), (403, "read_only")),
        (&admin, &raise, json!({ "owner": "otto" }), (202, "")),
    ];
    for (key, action, filter, (status, wanted)) in cases {
        let body = json!({ "action": action, "filter": filter });
        let answer = site.send_as(key, "POST", "/v1/jobs/actions", &body).await;
        assert_eq!(code(&answer), (status, wanted.to_owned()), "{body}");
    }
}

#[tokio::test]
async fn admins_pause_an_owner_or_a_kind_and_owners_see_what_concerns_them() {
    let site = Encoded::start().await;
    let admin = site.key("boss", PrincipalRole::Admin).await;
    let (kind, mine, others) =
        ("/v1/jobs/pauses/kind/transcode", "/v1/jobs/pauses/owner/olga", "/v1/jobs/pauses/owner/a%2Fb");
    for method in ["PUT", "DELETE"] {
        let answer = site.send_as(&site.owner, method, mine, &json!({})).await;
        assert_eq!(code(&answer), (403, "operators_only".into()), "{method}");
    }
    for (path, status) in [
        ("/v1/jobs/pauses/kind/transcoding", 404),
        ("/v1/jobs/pauses/media/x", 404),
        // Nobody has that name: it is eip155:0x7099...
        ("/v1/jobs/pauses/owner/0x70997970c51812dc3a010c7d01b50e0d17dc79c8", 404),
    ] {
        assert_eq!(site.send_as(&admin, "PUT", path, &json!({})).await.status, status, "{path}");
    }
    let long = json!({ "reason": "x".repeat(201) });
    assert_eq!(code(&site.send_as(&admin, "PUT", kind, &long).await), (400, "request_invalid".into()));
    let list = async |key: &str| -> Vec<(String, String)> {
        let list = read(&site.send_as(key, "GET", "/v1/jobs/pauses", &Value::Null).await);
        let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| (text(item, "scope"), text(item, "name"))).collect()
    };
    assert!(list(&site.owner).await.is_empty());
    for path in [kind, mine, others] {
        let first = read(&site.send_as(&admin, "PUT", path, &json!({ "reason": "upgrade" })).await);
        let again = read(&site.send_as(&admin, "PUT", path, &json!({ "reason": "longer" })).await);
        assert_eq!((&first["reason"], &again["reason"]), (&json!("upgrade"), &json!("longer")), "{path}");
        assert_eq!(first["paused_at_ms"], again["paused_at_ms"], "it is paused since then");
        assert_eq!(first["paused_by"], "boss");
    }
    let of = |scope: &str, name: &str| (scope.to_owned(), name.to_owned());
    assert_eq!(list(&site.owner).await, [of("kind", "transcode"), of("owner", OWNER)]);
    assert_eq!(list(&admin).await.len(), 3);
    for _ in 0..2 {
        let answer = site.send_as(&admin, "DELETE", others, &Value::Null).await;
        assert_eq!(answer.status, 204, "also what is not paused: {answer:?}");
    }
    assert_eq!(list(&admin).await, [of("kind", "transcode"), of("owner", OWNER)]);
}
