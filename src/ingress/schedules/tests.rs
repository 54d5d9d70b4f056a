//! Schedules over HTTP and as they fire, by the records and the events that are there afterwards.

use futures::StreamExt as _;
use nats::{Outbox, ReaderStart, VersionedRecord, reader};
use packaging::plan::derive_job_id;
use schemas::{
    KvRecord as _,
    access::PrincipalRole,
    idempotency::{IdempotencyRecord, IdempotencyState},
    ids::{MediaId, ScheduleId},
    job::JobStatus,
    media::{MediaAttempt, MediaReopened, MediaStatus, ReopenStep},
    schedule::{
        JobRequest, MissedRunPolicy, RUNS_MAX, RunOutcome, RunTrigger, SCHEDULES_MAX, ScheduleRecord,
        ScheduleRun, ScheduleTiming, TranscodeJobRequest,
    },
    subjects::{self, JobPriority},
};
use serde_json::{Value, json};
use store::{
    StoreConfig,
    testing::{InjectedFault, TestS3Server},
};

use super::{
    firing::{START_MS_MAX, ScheduleLook, ScheduleRunner},
    owner_key,
};
use crate::{
    capacity::{CapacityConfig, CapacityMonitor},
    jobs::{retry::NextEncodeError, submit::BULK_JOBS_MAX},
    tests::{Answer, job_record},
    transcode::tests::{Encoded, FILM, OWNER},
    uploads::UploadConfig,
};

const HOUR_MS: u64 = 3_600_000;

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn encode_job() -> Value {
    json!({ "kind": "transcode", "media_id": FILM, "profile": "small", "priority": "p2" })
}

/// Noon of every day, and what is done then.
fn daily() -> Value {
    let timing = json!({ "type": "cron", "expression": "0 12 * * *", "time_zone": "Europe/Berlin" });
    json!({ "name": "At noon", "timing": timing, "job": encode_job() })
}

impl Encoded {
    async fn send(&self, method: &str, path: &str, authorization: &str, body: &Value) -> Answer {
        let headers = format!("{authorization}Content-Type: application/json\r\n");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.site.ask(method, path, &headers, &body).await
    }

    async fn make(&self, wanted: &Value) -> String {
        let answer = self.send("POST", "/v1/schedules", &self.owner, wanted).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = read(&answer)["schedule_id"].as_str().unwrap().to_owned();
        assert!(answer.header("location").unwrap().ends_with(&format!("/v1/schedules/{made}")), "{answer:?}");
        made
    }

    async fn key_of(&self, role: PrincipalRole, name: &str) -> String {
        let key = auth::create_api_key(&self.admin, name, role).await.unwrap();
        format!("Authorization: Bearer {key}\r\n")
    }

    /// The verbs of all events of schedules so far.
    async fn schedule_events(&self) -> Vec<(String, Value)> {
        let settings = reader::ReaderConfig::new(
            subjects::EVENTS,
            vec![subjects::entity_event_filter("schedule")],
            ReaderStart::Sequence(1),
        );
        let mut entries = self.admin.open_reader(settings).await.unwrap();
        let mut found = Vec::new();
        while let Some(entry) = entries.next_pending().await.unwrap() {
            let verb = entry.subject.split('.').nth(2).unwrap().to_owned();
            found.push((verb, nats::decode_message(&entry.subject, &entry.payload).unwrap()));
        }
        found
    }

    /// Does what a keeper does of a schedule at `now_ms`.
    async fn run_due(&self, record: &ScheduleRecord, now_ms: u64) -> Result<ScheduleRecord, NextEncodeError> {
        run_due(&self.runner(), record, now_ms).await
    }

    /// What there is room for if so many bytes are to stay free on the disk.
    fn capacity(&self, free_bytes_min: u64) -> CapacityMonitor {
        let (config, uploads) =
            (CapacityConfig::default(), UploadConfig { free_bytes_min, ..UploadConfig::default() });
        CapacityMonitor::new(self.admin.clone(), self.site.store.clone(), config, &uploads)
    }

    fn runner(&self) -> ScheduleRunner {
        ScheduleRunner {
            bus: self.admin.clone(),
            store: self.site.store.clone(),
            capacity: self.capacity(0),
            quotas: crate::quotas::QuotaConfig::default(),
            ended_kept_ms: 30 * 24 * HOUR_MS,
        }
    }

    /// Puts a schedule there that fires each hour, next at `next_run_at_ms`.
    async fn put(&self, next_run_at_ms: u64, runs: Vec<ScheduleRun>) -> ScheduleRecord {
        let record = ScheduleRecord { runs, ..hourly(next_run_at_ms) };
        self.admin.commit_record(&mut VersionedRecord::new(record.clone()), Outbox::new()).await.unwrap();
        record
    }
}

async fn run_due(
    runner: &ScheduleRunner,
    record: &ScheduleRecord,
    now_ms: u64,
) -> Result<ScheduleRecord, NextEncodeError> {
    match runner.fire_due(&record.key(), now_ms).await? {
        ScheduleLook::Left(record) | ScheduleLook::Fired(record) => runner.finish_run(&record, now_ms).await,
        ScheduleLook::Gone => panic!("{} is gone", record.schedule_id),
    }
}

fn hourly(next_run_at_ms: u64) -> ScheduleRecord {
    ScheduleRecord {
        schedule_id: ScheduleId::from_bytes(nats::new_id_bytes()),
        owner: OWNER.to_owned(),
        owner_key: owner_key(OWNER),
        created_by: OWNER.to_owned(),
        name: String::new(),
        timing: ScheduleTiming::Every { interval_ms: HOUR_MS, first_at_ms: Some(next_run_at_ms) },
        missed: MissedRunPolicy::Once,
        job: JobRequest::Transcode(TranscodeJobRequest {
            media_id: FILM,
            profile: Some("small".into()),
            range: None,
            priority: JobPriority::P2,
        }),
        created_at_ms: 1,
        next_run_at_ms: Some(next_run_at_ms),
        paused_at_ms: None,
        runs: Vec::new(),
        kept_until_ms: None,
        removed_at_ms: None,
    }
}

fn starting(fired_at_ms: u64, attempt_before: u32) -> ScheduleRun {
    let JobRequest::Transcode(job) = hourly(1).job else { panic!("it is one") };
    let job = Box::new(JobRequest::Transcode(job));
    let outcome = RunOutcome::Starting { job, attempt_before };
    ScheduleRun { planned_at_ms: fired_at_ms, fired_at_ms, trigger: RunTrigger::Time, outcome }
}

fn last_outcome(record: &ScheduleRecord) -> RunOutcome {
    record.runs.last().unwrap().outcome.clone()
}

fn refusal_code(record: &ScheduleRecord) -> String {
    match last_outcome(record) {
        RunOutcome::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_schedule_is_made_read_changed_paused_and_removed() {
    let site = Encoded::start().await;
    let id = site.make(&daily()).await;
    let path = format!("/v1/schedules/{id}");
    let get = async || read(&site.send("GET", &path, &site.owner, &Value::Null).await);
    let made = get().await;
    let stands = |document: &Value| document["state"].as_str().unwrap().to_owned();
    assert_eq!(
        (stands(&made), &made["owner"], &made["missed"]),
        ("active".into(), &json!(OWNER), &json!("once"))
    );
    assert_eq!((&made["job"], &made["runs"]), (&encode_job(), &json!([])));
    let upcoming: Vec<u64> = serde_json::from_value(made["upcoming_at_ms"].clone()).unwrap();
    assert_eq!(upcoming.len(), 5);
    let noon = |ms: &u64| [10, 11].contains(&(ms / HOUR_MS % 24)) && ms.is_multiple_of(HOUR_MS);
    assert!(upcoming.iter().all(noon) && upcoming[0] > nats::now_ms(), "{upcoming:?}");
    let change =
        json!({ "name": "", "missed": "all", "timing": { "type": "every", "interval_ms": 2 * HOUR_MS } });
    let changed = site.send("PATCH", &path, &site.owner, &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let changed = get().await;
    assert_eq!(
        (&changed["name"], &changed["missed"], &changed["job"]),
        (&json!(""), &json!("all"), &encode_job())
    );
    let first_at_ms = changed["upcoming_at_ms"][0].as_u64().unwrap();
    assert!(first_at_ms.abs_diff(nats::now_ms() + 2 * HOUR_MS) < 60_000, "an interval from now: {changed}");
    for (action, state) in
        [("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")]
    {
        let answer = site.send("POST", &format!("{path}/{action}"), &site.owner, &Value::Null).await;
        assert_eq!((answer.status, stands(&read(&answer))), (200, state.to_owned()), "{answer:?}");
        assert_eq!(get().await["upcoming_at_ms"].as_array().unwrap().is_empty(), state == "paused");
    }
    assert_eq!(site.send("DELETE", &path, &site.owner, &Value::Null).await.status, 204);
    assert_eq!(site.send("GET", &path, &site.owner, &Value::Null).await.status, 404);
    assert_eq!(site.send("DELETE", &path, &site.owner, &Value::Null).await.status, 404);
    let list = read(&site.send("GET", "/v1/schedules", &site.owner, &Value::Null).await);
    assert_eq!(list["items"], json!([]));
    let verbs: Vec<String> = site.schedule_events().await.into_iter().map(|(verb, _)| verb).collect();
    assert_eq!(verbs, ["created", "changed", "changed", "changed", "removed"]);
}

#[tokio::test]
async fn schedules_are_their_owners() {
    let site = Encoded::start().await;
    let id = site.make(&daily()).await;
    let path = format!("/v1/schedules/{id}");
    let other = site.key_of(PrincipalRole::Owner, "other").await;
    let operator = site.key_of(PrincipalRole::Operator, "ops").await;
    let admin = site.key_of(PrincipalRole::Admin, "root").await;
    let send = async |method: &str, path: &str, who: &str, body: Value| {
        site.send(method, path, who, &body).await.status
    };
    assert_eq!(send("GET", &path, &other, Value::Null).await, 404);
    assert_eq!(send("POST", &format!("{path}/run-now"), &other, Value::Null).await, 404);
    assert_eq!(send("POST", "/v1/schedules", &other, daily()).await, 404, "not a medium of theirs");
    assert_eq!(send("GET", &path, &operator, Value::Null).await, 200);
    assert_eq!(send("DELETE", &path, &operator, Value::Null).await, 403);
    let seen = async |who: &str| {
        read(&site.send("GET", "/v1/schedules", who, &Value::Null).await)["items"].as_array().unwrap().len()
    };
    assert_eq!((seen(&site.owner).await, seen(&other).await, seen(&operator).await), (1, 0, 1));
    // What goes before the jobs of everybody is for admins, also by a schedule that one of them made.
    let mut first = daily();
    first["job"]["priority"] = json!("p0");
    assert_eq!(send("POST", "/v1/schedules", &site.owner, first.clone()).await, 403);
    let answer = site.send("POST", "/v1/schedules", &admin, &first).await;
    assert_eq!((answer.status, &read(&answer)["owner"]), (201, &json!(OWNER)), "{answer:?}");
    let path = format!("/v1/schedules/{}", read(&answer)["schedule_id"].as_str().unwrap());
    assert_eq!(send("PATCH", &path, &site.owner, json!({ "missed": "all" })).await, 403);
    assert_eq!(send("POST", &format!("{path}/run-now"), &site.owner, Value::Null).await, 403);
    assert_eq!(send("POST", &format!("{path}/pause"), &site.owner, Value::Null).await, 200);
    assert_eq!(send("DELETE", &path, &site.owner, Value::Null).await, 204);
}

#[tokio::test]
async fn what_can_not_be_scheduled_says_where_and_why() {
    let site = Encoded::start().await;
    let with = |pointer: &str, value: Value| {
        let mut wanted = daily();
        *wanted.pointer_mut(pointer).unwrap() = value;
        wanted
    };
    let once = |at_ms: u64| with("/timing", json!({ "type": "once", "at_ms": at_ms }));
    let every = |interval_ms: u64| with("/timing", json!({ "type": "every", "interval_ms": interval_ms }));
    for (wanted, status, code, pointer) in [
        (with("/timing/expression", json!("every noon")), 422, "timing_invalid", "/timing/expression"),
        (with("/timing/expression", json!("0 0 30 2 *")), 422, "timing_invalid", "/timing/expression"),
        (with("/timing/time_zone", json!("Bielefeld")), 422, "timing_invalid", "/timing/time_zone"),
        (once(1), 422, "timing_invalid", "/timing/at_ms"),
        (every(59_999), 422, "timing_invalid", "/timing/interval_ms"),
        (with("/job/profile", json!("huge")), 422, "profile_unknown", "/job/profile"),
        (with("/job", json!({ "kind": "brew" })), 422, "job_kind_unknown", "/job/kind"),
        (with("/job/media_id", json!(MediaId::from_bytes([9; 16]))), 404, "not_found", ""),
        (with("/name", json!("a\u{7}b")), 400, "schedule_name_invalid", "/name"),
    ] {
        let answer = site.send("POST", "/v1/schedules", &site.owner, &wanted).await;
        let problem = read(&answer);
        assert_eq!((answer.status, &problem["code"]), (status, &json!(code)), "{wanted}: {answer:?}");
        assert_eq!(problem["errors"][0]["pointer"].as_str().unwrap_or_default(), pointer, "{answer:?}");
    }
    for wanted in [
        with("/timing", json!({ "type": "once" })),
        with("/timing", json!({ "type": "weekly" })),
        with("/job", json!({ "kind": "transcode", "media_id": FILM, "extra": 1 })),
    ] {
        assert_eq!(site.send("POST", "/v1/schedules", &site.owner, &wanted).await.status, 400, "{wanted}");
    }
    assert_eq!(site.schedule_events().await, []);
}

#[tokio::test]
async fn an_account_has_a_limited_number_of_schedules_that_still_fire() {
    let site = Encoded::start().await;
    for number in 0..SCHEDULES_MAX {
        site.put(nats::now_ms() + HOUR_MS * u64::try_from(number + 1).unwrap(), Vec::new()).await;
    }
    let answer = site.send("POST", "/v1/schedules", &site.owner, &daily()).await;
    assert_eq!((answer.status, &read(&answer)["code"]), (409, &json!("schedules_too_many")), "{answer:?}");
    let held =
        site.admin.load_record::<ScheduleRecord>(&format!("{}.*", owner_key(OWNER))).await.unwrap().unwrap();
    let ended = |found: Option<&ScheduleRecord>| {
        Some((ScheduleRecord { next_run_at_ms: None, ..found?.clone() }, Outbox::new()))
    };
    site.admin.change_record(&held.record.key(), ended).await.unwrap();
    site.make(&daily()).await;
}

#[tokio::test]
async fn a_run_out_of_turn_begins_the_job_and_leaves_the_times() {
    let site = Encoded::start().await;
    let id = site.make(&daily()).await;
    let path = format!("/v1/schedules/{id}");
    let run = async || site.send("POST", &format!("{path}/run-now"), &site.owner, &Value::Null).await;
    let before = read(&site.send("GET", &path, &site.owner, &Value::Null).await);
    let answer = run().await;
    let document = read(&answer);
    assert_eq!(answer.status, 200, "{answer:?}");
    let wanted = json!({
        "trigger": "person", "state": "begun", "job_id": derive_job_id(FILM, 2),
        "planned_at_ms": document["runs"][0]["planned_at_ms"], "fired_at_ms": document["runs"][0]["fired_at_ms"],
    });
    assert_eq!((&document["runs"][0], &document["upcoming_at_ms"]), (&wanted, &before["upcoming_at_ms"]));
    let attempt = site.medium().await.attempt;
    let run_name = attempt.scheduled.unwrap();
    assert_eq!((attempt.encode, run_name.schedule_id.to_string()), (2, id.clone()));
    assert_eq!(Some(run_name.planned_at_ms), wanted["planned_at_ms"].as_u64());
    // While that encode is made there is no other one, and the schedule says so.
    let again = read(&run().await);
    assert_eq!(
        (&again["runs"][0]["state"], &again["runs"][0]["code"]),
        (&json!("refused"), &json!("not_encodable"))
    );
    assert_eq!(site.medium().await.attempt, attempt);
    let events = site.schedule_events().await;
    let verbs: Vec<&str> = events.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["created", "fired", "fired", "refused"]);
    assert_eq!((&events[1].1["trigger"], &events[1].1["fired_by"]), (&json!("person"), &json!(OWNER)));
    assert_eq!(events[3].1["detail"], "it is being encoded");
}

#[tokio::test]
async fn a_job_is_asked_for_now_or_at_a_time() {
    let site = Encoded::start().await;
    let ask = async |body: Value| site.send("POST", "/v1/jobs", &site.owner, &body).await;
    let at_ms = nats::now_ms() + HOUR_MS;
    let later = ask(json!({ "job": encode_job(), "run_at_ms": at_ms })).await;
    assert_eq!((later.status, &read(&later)["job_id"]), (202, &Value::Null), "{later:?}");
    let id = read(&later)["schedule_id"].as_str().unwrap().to_owned();
    assert!(later.header("location").unwrap().ends_with(&format!("/v1/schedules/{id}")), "{later:?}");
    let schedule = read(&site.send("GET", &format!("/v1/schedules/{id}"), &site.owner, &Value::Null).await);
    assert_eq!(schedule["upcoming_at_ms"], json!([at_ms]));
    let now = ask(json!({ "job": encode_job() })).await;
    let job_id = derive_job_id(FILM, 2);
    assert_eq!(now.status, 202, "{now:?}");
    assert_eq!(read(&now), json!({ "job_id": job_id, "schedule_id": null }));
    assert!(now.header("location").unwrap().ends_with(&format!("/v1/jobs/{job_id}")), "{now:?}");
    for (body, status, code) in [
        (json!({ "job": encode_job() }), 409, "not_encodable"),
        (json!({ "job": { "kind": "brew" } }), 422, "job_kind_unknown"),
        (
            json!({ "job": { "kind": "transcode", "media_id": FILM, "profile": "huge" } }),
            422,
            "profile_unknown",
        ),
        (json!({ "job": encode_job(), "run_at_ms": 1 }), 422, "timing_invalid"),
    ] {
        let answer = ask(body).await;
        assert_eq!((answer.status, &read(&answer)["code"]), (status, &json!(code)), "{answer:?}");
    }
}

#[tokio::test]
async fn many_jobs_are_asked_for_at_once_and_each_is_judged_alone() {
    let site = Encoded::start().await;
    let ask = async |body: Value| site.send("POST", "/v1/jobs/bulk", &site.owner, &body).await;
    let at_ms = nats::now_ms() + HOUR_MS;
    let jobs = json!([
        { "job": encode_job() },
        { "job": encode_job() },
        { "job": encode_job(), "run_at_ms": at_ms },
        { "job": encode_job(), "run_at_ms": 1 },
        { "job": { "kind": "brew" } },
        { "job": { "kind": "transcode", "media_id": FILM, "profile": "huge" } },
    ]);
    let answer = ask(json!({ "jobs": jobs })).await;
    let items = read(&answer)["items"].clone();
    assert_eq!((answer.status, &read(&answer)["refused_count"]), (200, &json!(4)), "{answer:?}");
    let job_id = derive_job_id(FILM, 2);
    assert_eq!(items[0], json!({ "job_id": job_id, "schedule_id": null, "problem": null }));
    assert!(items[2]["schedule_id"].is_string() && items[2]["problem"].is_null(), "{items}");
    for (number, status, code, pointer) in [
        (1, 409, "not_encodable", ""),
        (3, 422, "timing_invalid", "/jobs/3/run_at_ms"),
        (4, 422, "job_kind_unknown", "/jobs/4/job/kind"),
        (5, 422, "profile_unknown", "/jobs/5/job/profile"),
    ] {
        let problem = &items[number]["problem"];
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{items}");
        assert_eq!(problem["errors"][0]["pointer"].as_str().unwrap_or_default(), pointer, "{items}");
        assert!(items[number]["job_id"].is_null() && items[number]["schedule_id"].is_null(), "{items}");
    }
    for count in [0, BULK_JOBS_MAX + 1] {
        let jobs = vec![json!({ "job": encode_job() }); count];
        assert_eq!(ask(json!({ "jobs": jobs })).await.status, 400, "{count}");
    }
}

#[tokio::test]
async fn encodes_count_as_such_by_whichever_way_they_are_asked_for() {
    let site = Encoded::start().await;
    let jobs = vec![json!({ "job": encode_job() }); BULK_JOBS_MAX];
    let answer = site.send("POST", "/v1/jobs/bulk", &site.owner, &json!({ "jobs": jobs })).await;
    let items = read(&answer)["items"].clone();
    let limited =
        items.as_array().unwrap().iter().filter(|item| item["problem"]["code"] == "rate_limited").count();
    // Fifty fit, and some come back while they are begun.
    assert!((1..=BULK_JOBS_MAX / 2).contains(&limited), "{limited}");
    let path = format!("/v1/media/{FILM}/transcode");
    assert_eq!(site.send("POST", &path, &site.owner, &json!({})).await.status, 429);
}

#[tokio::test]
async fn a_time_fires_once_however_many_look() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let record = site.put(now_ms, Vec::new()).await;
    assert_eq!(site.run_due(&record, now_ms - 1).await.unwrap(), record, "not yet");
    let looks = (0..8).map(|_| site.run_due(&record, now_ms));
    for looked in futures::future::join_all(looks).await {
        // Who came second finds that somebody else was first.
        assert!(matches!(looked, Ok(_) | Err(NextEncodeError::Bus(_))), "{looked:?}");
    }
    let fired = site.run_due(&record, now_ms).await.unwrap();
    assert_eq!(fired.next_run_at_ms, Some(now_ms + HOUR_MS));
    assert_eq!(fired.runs.len(), 1, "{fired:?}");
    assert_eq!(last_outcome(&fired), RunOutcome::Begun { job_id: derive_job_id(FILM, 2) });
    assert_eq!(site.medium().await.attempt.number, 1);
    let verbs: Vec<String> = site.schedule_events().await.into_iter().map(|(verb, _)| verb).collect();
    assert_eq!(verbs, ["fired"]);
}

#[tokio::test]
async fn a_run_whose_keeper_ended_is_begun_once() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    // Before the job was begun.
    let record = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 0)]).await;
    let first = site.run_due(&record, now_ms).await.unwrap();
    assert_eq!(last_outcome(&first), RunOutcome::Begun { job_id: derive_job_id(FILM, 2) });
    assert_eq!(site.medium().await.attempt.scheduled, Some(record.scheduled_run(now_ms)));
    // Behind it, and before that was written down.
    let back = |found: Option<&ScheduleRecord>| {
        Some((ScheduleRecord { runs: vec![starting(now_ms, 0)], ..found?.clone() }, Outbox::new()))
    };
    site.admin.change_record(&record.key(), back).await.unwrap();
    let second = site.run_due(&record, now_ms).await.unwrap();
    assert_eq!(last_outcome(&second), last_outcome(&first));
    assert_eq!(site.medium().await.attempt.number, 1, "it is not begun again");
    // Somebody had it encoded again since: what the run began is found by its job.
    site.admin.change_record(&record.key(), back).await.unwrap();
    let mut job = job_record(FILM, OWNER, 2, JobStatus::Succeeded);
    job.scheduled = Some(record.scheduled_run(now_ms));
    site.admin.commit_record(&mut VersionedRecord::new(job), Outbox::new()).await.unwrap();
    let newer = MediaAttempt { number: 2, faults: 0, encode: 3, scheduled: None };
    site.change_medium(|medium| {
        medium.attempt = newer;
        Outbox::new()
    })
    .await;
    assert_eq!(last_outcome(&site.run_due(&record, now_ms).await.unwrap()), last_outcome(&first));
    // Somebody else had it encoded in between: one is enough.
    let other = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 0)]).await;
    assert_eq!(refusal_code(&site.run_due(&other, now_ms).await.unwrap()), "not_encodable");
    assert_eq!(site.medium().await.attempt.number, 2);
}

#[tokio::test]
async fn an_outage_of_the_store_delays_a_run_and_does_not_lose_it() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let record = site.put(now_ms, Vec::new()).await;
    let s3 = TestS3Server::start().await.unwrap();
    let config = StoreConfig { retries_max: 0, ..s3.store_config() };
    let store = store::testing::open_test_store(config).unwrap();
    store.put(&schemas::keys::source_key(FILM), "hello").await.unwrap();
    s3.set_fault_rule(|_, _| Some(InjectedFault::Status(503)));
    let away = ScheduleRunner { store, ..site.runner() };
    let error = run_due(&away, &record, now_ms).await.unwrap_err();
    assert!(matches!(error, NextEncodeError::Store(_)), "{error:?}");
    let key = record.key();
    let load = async || site.admin.load_record::<ScheduleRecord>(&key).await.unwrap().unwrap().record;
    assert_eq!(last_outcome(&load().await), starting(now_ms, 0).outcome);
    s3.clear_fault_rule();
    let begun = run_due(&away, &record, now_ms + 60_000).await.unwrap();
    assert_eq!(last_outcome(&begun), RunOutcome::Begun { job_id: derive_job_id(FILM, 2) });
    // Not for ever.
    let stuck = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 1)]).await;
    site.put_job(2, JobStatus::Succeeded).await;
    s3.set_fault_rule(|_, _| Some(InjectedFault::Status(503)));
    assert!(run_due(&away, &stuck, now_ms + START_MS_MAX - 1).await.is_err());
    let given_up = run_due(&away, &stuck, now_ms + START_MS_MAX).await.unwrap();
    assert_eq!(refusal_code(&given_up), "store_unavailable");
}

#[tokio::test]
async fn a_full_store_delays_a_run_until_there_is_room() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let record = site.put(now_ms, Vec::new()).await;
    let full = ScheduleRunner { capacity: site.capacity(u64::MAX), ..site.runner() };
    full.capacity.poll_limits().await;
    let error = run_due(&full, &record, now_ms).await.unwrap_err();
    assert_eq!(error.code(), "store_full", "{error:?}");
    assert_eq!(site.medium().await.attempt.number, 0);
    let begun = site.run_due(&record, now_ms + 60_000).await.unwrap();
    assert_eq!(last_outcome(&begun), RunOutcome::Begun { job_id: derive_job_id(FILM, 2) });
}

#[tokio::test]
async fn a_run_without_a_job_says_why_and_the_next_time_is_tried() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let record = site.put(now_ms, Vec::new()).await;
    site.change_medium(|medium| {
        medium.status = MediaStatus::Rejected;
        Outbox::new()
    })
    .await;
    let fired = site.run_due(&record, now_ms).await.unwrap();
    assert_eq!(refusal_code(&fired), "not_encodable");
    site.change_medium(|medium| {
        (medium.status, medium.owner) = (MediaStatus::Ready, "other".to_owned());
        Outbox::new()
    })
    .await;
    let fired = site.run_due(&record, now_ms + HOUR_MS).await.unwrap();
    assert_eq!(
        (refusal_code(&fired).as_str(), fired.next_run_at_ms),
        ("not_owner", Some(now_ms + 2 * HOUR_MS))
    );
    let gone = ScheduleRecord {
        job: JobRequest::Transcode(TranscodeJobRequest {
            media_id: MediaId::from_bytes([9; 16]),
            profile: None,
            range: None,
            priority: JobPriority::P1,
        }),
        ..hourly(now_ms)
    };
    site.admin.commit_record(&mut VersionedRecord::new(gone.clone()), Outbox::new()).await.unwrap();
    assert_eq!(refusal_code(&site.run_due(&gone, now_ms).await.unwrap()), "not_found");
    // Only the newest runs stand in the record.
    let many = (0..=u64::try_from(RUNS_MAX).unwrap()).map(|hour| now_ms + (2 + hour) * HOUR_MS);
    let mut last = fired;
    for at_ms in many {
        last = site.run_due(&record, at_ms).await.unwrap();
    }
    assert_eq!(last.runs.len(), RUNS_MAX);
}

#[tokio::test]
async fn what_only_a_newer_version_understands_waits_for_it() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let kind = ScheduleRecord { job: JobRequest::Unknown, ..hourly(now_ms) };
    let outcome = ScheduleRun { outcome: RunOutcome::Unknown, ..starting(now_ms - HOUR_MS, 0) };
    let run = ScheduleRecord { runs: vec![outcome], ..hourly(now_ms) };
    let job = RunOutcome::Starting { job: Box::new(JobRequest::Unknown), attempt_before: 0 };
    let begun = ScheduleRun { outcome: job, ..starting(now_ms - HOUR_MS, 0) };
    let begun = ScheduleRecord { runs: vec![begun], ..hourly(now_ms) };
    for newer in [kind, run, begun] {
        site.admin.commit_record(&mut VersionedRecord::new(newer.clone()), Outbox::new()).await.unwrap();
        assert_eq!(site.run_due(&newer, now_ms).await.unwrap(), newer);
        let path = format!("/v1/schedules/{}", newer.schedule_id);
        for (method, path, body) in [
            ("PATCH", path.clone(), json!({ "name": "mine" })),
            ("POST", format!("{path}/pause"), Value::Null),
            ("POST", format!("{path}/resume"), Value::Null),
            ("POST", format!("{path}/run-now"), Value::Null),
        ] {
            let answer = site.send(method, &path, &site.owner, &body).await;
            assert_eq!(
                (answer.status, &read(&answer)["code"]),
                (503, &json!("schedule_newer")),
                "{answer:?}"
            );
        }
        let kept = site.admin.load_record::<ScheduleRecord>(&newer.key()).await.unwrap().unwrap();
        assert_eq!(kept.record, newer);
    }
    assert_eq!(site.schedule_events().await, []);
}

#[tokio::test]
async fn a_time_that_fired_does_not_fire_again_by_a_new_timing() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    // It fired in the moment in which the request was on its way: a clock that is a little behind says it is still to come.
    let planned_at_ms = now_ms + 30_000;
    let run = ScheduleRun {
        outcome: RunOutcome::Begun { job_id: derive_job_id(FILM, 1) },
        ..starting(planned_at_ms, 0)
    };
    let record = site.put(planned_at_ms + HOUR_MS, vec![run]).await;
    let path = format!("/v1/schedules/{}", record.schedule_id);
    let same = json!({ "timing": { "type": "every", "interval_ms": HOUR_MS, "first_at_ms": planned_at_ms } });
    let answer = site.send("PATCH", &path, &site.owner, &same).await;
    assert_eq!(read(&answer)["upcoming_at_ms"][0], json!(planned_at_ms + HOUR_MS), "{answer:?}");
    // A single time that fired is over.
    let once = json!({ "timing": { "type": "once", "at_ms": planned_at_ms } });
    let answer = site.send("PATCH", &path, &site.owner, &once).await;
    assert_eq!((answer.status, &read(&answer)["state"]), (200, &json!("ended")), "{answer:?}");
    let pause = site.send("POST", &format!("{path}/pause"), &site.owner, &Value::Null).await;
    assert_eq!((pause.status, &read(&pause)["code"]), (409, &json!("schedule_ended")), "{pause:?}");
}

#[tokio::test]
async fn times_that_a_change_lets_go_are_in_an_event() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    // Two times passed, and no keeper ran.
    let begin_ms = now_ms - HOUR_MS - HOUR_MS / 2;
    let paused = ScheduleRecord { paused_at_ms: Some(now_ms), ..hourly(begin_ms) };
    site.admin.commit_record(&mut VersionedRecord::new(paused.clone()), Outbox::new()).await.unwrap();
    let path = format!("/v1/schedules/{}/resume", paused.schedule_id);
    let answer = site.send("POST", &path, &site.owner, &Value::Null).await;
    assert_eq!(read(&answer)["upcoming_at_ms"][0], json!(begin_ms + 2 * HOUR_MS), "{answer:?}");
    let other = site.put(begin_ms, Vec::new()).await;
    let path = format!("/v1/schedules/{}", other.schedule_id);
    let change = json!({ "timing": { "type": "every", "interval_ms": 2 * HOUR_MS } });
    assert_eq!(site.send("PATCH", &path, &site.owner, &change).await.status, 200);
    let events = site.schedule_events().await;
    let verbs: Vec<&str> = events.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["missed", "changed", "missed", "changed"]);
    for number in [0, 2] {
        let (first, last) = (&events[number].1["first_at_ms"], &events[number].1["last_at_ms"]);
        assert_eq!((first, last), (&json!(begin_ms), &json!(begin_ms + HOUR_MS)));
    }
}

#[tokio::test]
async fn what_fired_is_begun_whatever_becomes_of_the_schedule_meanwhile() {
    let site = Encoded::start().await;
    let now_ms = nats::now_ms();
    let record = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 0)]).await;
    let path = format!("/v1/schedules/{}", record.schedule_id);
    let other = json!({ "job": { "kind": "transcode", "media_id": FILM, "profile": "default" } });
    assert_eq!(site.send("PATCH", &path, &site.owner, &other).await.status, 200);
    let busy = site.send("POST", &format!("{path}/run-now"), &site.owner, &Value::Null).await;
    assert_eq!((busy.status, &read(&busy)["code"]), (409, &json!("schedule_busy")), "{busy:?}");
    let mut reopened = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
    site.run_due(&record, now_ms).await.unwrap();
    let message = reopened.next().await.unwrap();
    let event: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
    let ReopenStep::Encode { settings, .. } = event.step else { panic!("{event:?}") };
    assert_eq!(settings.profile.as_deref(), Some("small"), "as it was when it fired");
    // The medium has another owner since, and the schedule is removed before its job has begun.
    site.put_job(2, JobStatus::Succeeded).await;
    let sold = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 1)]).await;
    site.change_medium(|medium| {
        medium.owner = "other".to_owned();
        Outbox::new()
    })
    .await;
    assert_eq!(refusal_code(&site.run_due(&sold, now_ms).await.unwrap()), "not_encodable");
    let gone = site.put(now_ms + HOUR_MS, vec![starting(now_ms, 1)]).await;
    let path = format!("/v1/schedules/{}", gone.schedule_id);
    assert_eq!(site.send("DELETE", &path, &site.owner, &Value::Null).await.status, 204);
    let verbs: Vec<String> = site.schedule_events().await.into_iter().map(|(verb, _)| verb).collect();
    assert_eq!(verbs, ["changed", "refused", "removed", "refused"]);
}

#[tokio::test]
async fn a_request_that_comes_again_makes_one_schedule() {
    let site = Encoded::start().await;
    let headers = format!("{}Content-Type: application/json\r\nIdempotency-Key: \"nightly\"\r\n", site.owner);
    let ask = async |path: &str, body: &Value| site.site.ask("POST", path, &headers, &body.to_string()).await;
    let first = ask("/v1/schedules", &daily()).await;
    assert_eq!(first.status, 201, "{first:?}");
    // As after a replica died whose answer nobody saw.
    forget_answers(&site).await;
    let again = ask("/v1/schedules", &daily()).await;
    assert_eq!(
        (again.status, &read(&again)["schedule_id"]),
        (201, &read(&first)["schedule_id"]),
        "{again:?}"
    );
    let list = read(&site.send("GET", "/v1/schedules", &site.owner, &Value::Null).await);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

/// Has the service forget what it answered to requests with a key, but not when each came first.
async fn forget_answers(site: &Encoded) {
    let bucket = site.admin.context().get_key_value(IdempotencyRecord::BUCKET).await.unwrap();
    let mut keys = bucket.keys().await.unwrap();
    while let Some(key) = keys.next().await {
        let forget = |found: Option<&IdempotencyRecord>| {
            let state = IdempotencyState::Open { until_ms: 1 };
            Some((IdempotencyRecord { state, ..found?.clone() }, Outbox::new()))
        };
        site.admin.change_record(&key.unwrap(), forget).await.unwrap();
    }
}
