//! Jobs that make no encode, over HTTP and by the records and events that are there afterwards.

use futures::StreamExt as _;
use nats::{Outbox, ReaderStart, Role, VersionedRecord, reader, testing::store_dead_letter};
use schemas::{
    access::PrincipalRole,
    ids::{JobId, MediaId, ScheduleId},
    index_query::{self, IndexReply, JobCounts},
    job::{self, EncodePlan, JobPartTask, JobRecord, JobStatus},
    media::{MediaRecord, MediaStatus},
    schedule::ScheduledRun,
    subjects::{self, JobPriority},
    thumbnails::ThumbnailOrder,
};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::{
    retry::NextEncodeError,
    tasks::{TaskBeginning, TaskRequest, begin_scheduled_task},
};
use crate::{
    dead_letters::{
        redrive::{RedriveOutcome, redrive_letter},
        tests::store_part_letter,
    },
    tests::{Answer, asset},
    transcode::tests::{Encoded, FILM, OWNER},
};

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn verify_job() -> Value {
    json!({ "kind": "verify", "media_id": FILM })
}

const REQUEST: TaskRequest = TaskRequest::new(job::VERIFY, FILM, JobPriority::P1);

impl Encoded {
    async fn ask_json(&self, method: &str, path: &str, more: &str, body: &Value) -> Answer {
        let headers = format!("{}Content-Type: application/json\r\n{more}", self.owner);
        self.site.ask(method, path, &headers, &body.to_string()).await
    }

    /// Asks for a verification of the film.
    async fn verify(&self) -> String {
        let answer = self.ask_json("POST", "/v1/jobs", "", &json!({ "job": verify_job() })).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let job_id = read(&answer)["job_id"].as_str().unwrap().to_owned();
        assert!(answer.header("location").unwrap().ends_with(&format!("/v1/jobs/{job_id}")), "{answer:?}");
        job_id
    }

    pub(super) async fn job_document(&self, job_id: &str) -> Value {
        read(&self.site.ask("GET", &format!("/v1/jobs/{job_id}"), &self.owner, "").await)
    }

    async fn end(&self, job_id: &str, status: JobStatus) {
        let change = |found: Option<&JobRecord>| {
            let mut record = found?.clone();
            record.mark_ended(status, nats::now_ms(), schemas::ENDED_KEPT_MS);
            Some((record, Outbox::new()))
        };
        self.admin.change_record::<JobRecord>(job_id, change).await.unwrap();
    }

    /// Verbs of the events of a job.
    async fn job_events(&self, job_id: &str) -> Vec<String> {
        let filter = vec![subjects::job_event_filter(job_id.parse().unwrap())];
        let settings = reader::ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::Sequence(1));
        let mut entries = self.admin.open_reader(settings).await.unwrap();
        let mut verbs = Vec::new();
        while let Some(entry) = entries.next_pending().await.unwrap() {
            verbs.push(subjects::parse_event_subject(&entry.subject).unwrap().1.to_owned());
        }
        verbs
    }
}

#[tokio::test]
async fn a_verification_can_be_read_at_once_and_leaves_its_medium_alone() {
    let site = Encoded::start().await;
    let before = site.medium().await;
    let job_id = site.verify().await;
    let document = site.job_document(&job_id).await;
    assert_eq!(
        (&document["kind"], &document["state"], &document["owner"], &document["encode"]),
        (&json!("verify"), &json!("queued"), &json!(OWNER), &json!(0))
    );
    assert_eq!(document["plan"]["source_key"], json!(schemas::keys::source_key(FILM)));
    let parts: Vec<&Value> = document["parts"].as_array().unwrap().iter().map(|part| &part["part"]).collect();
    assert_eq!(parts, [&json!("task")], "nothing is finished");
    let post = async |action: &str| {
        site.ask_json("POST", &format!("/v1/jobs/{job_id}/{action}"), "", &Value::Null).await
    };
    assert_eq!(read(&post("pause").await)["state"], "paused");
    assert_eq!(read(&post("resume").await)["state"], "queued");
    assert_eq!(read(&post("cancel").await)["state"], "cancelled");
    assert_eq!(site.job_events(&job_id).await, ["queued", "paused", "resumed", "cancelled"]);
    let left = MediaRecord { verification: before.verification, ..site.medium().await };
    assert_eq!(left, before);
    // Also of one that is being encoded: what was cancelled is not what it waits for.
    site.change_medium(|medium| {
        medium.status = MediaStatus::Playable;
        Outbox::new()
    })
    .await;
    let job_id = site.verify().await;
    let cancelled = site.ask_json("POST", &format!("/v1/jobs/{job_id}/cancel"), "", &Value::Null).await;
    assert_eq!((cancelled.status, site.medium().await.status), (200, MediaStatus::Playable));
}

#[tokio::test]
async fn a_repeated_request_finds_what_the_first_one_began() {
    let site = Encoded::start().await;
    let ask = async |key: &str| {
        let key = format!("Idempotency-Key: \"{key}\"\r\n");
        let answer = site.ask_json("POST", "/v1/jobs", &key, &json!({ "job": verify_job() })).await;
        (answer.status, read(&answer)["job_id"].clone())
    };
    let first = ask("a").await;
    assert_eq!(first, ask("a").await);
    // One at a time.
    assert_eq!(first, ask("b").await);
    site.end(first.1.as_str().unwrap(), JobStatus::Succeeded).await;
    assert_eq!(first, ask("a").await);
    let next = ask("c").await;
    assert_ne!(first, next);
    let kept_ms = async |job_id: &Value| {
        let job_id = job_id.as_str().unwrap();
        site.admin.load_record::<JobRecord>(job_id).await.unwrap().unwrap().record.kept_until_ms
    };
    let hour_ms = nats::now_ms() + 3_600_000;
    assert!(kept_ms(&first.1).await.is_some_and(|kept| kept.abs_diff(hour_ms) < 60_000), "the one before");
    assert_eq!(kept_ms(&next.1).await, None);
    let bulk = json!({ "jobs": [{ "job": verify_job() }, { "job": verify_job() }] });
    let answer = read(&site.ask_json("POST", "/v1/jobs/bulk", "", &bulk).await);
    assert_eq!(answer["refused_count"], 0, "{answer}");
    assert_eq!(answer["items"][0]["job_id"], next.1);
    assert_eq!(answer["items"][1]["job_id"], next.1);
}

#[tokio::test]
async fn what_can_not_be_verified_says_why() {
    let site = Encoded::start().await;
    let other = MediaId::from_bytes([9; 16]);
    let medium = asset(other, "somebody", MediaStatus::Ready);
    site.admin.commit_record(&mut VersionedRecord::new(medium), Outbox::new()).await.unwrap();
    let refused = async |job: Value| {
        let answer = site.ask_json("POST", "/v1/jobs", "", &json!({ "job": job })).await;
        (answer.status, read(&answer)["code"].as_str().unwrap_or_default().to_owned())
    };
    for (job, wanted) in [
        (json!({ "kind": "verify", "media_id": other }), (404, "not_found")),
        (json!({ "kind": "verify", "media_id": MediaId::from_bytes([1; 16]) }), (404, "not_found")),
        (json!({ "kind": "verify", "media_id": FILM, "priority": "p0" }), (403, "operators_only")),
        (json!({ "kind": "verify", "media_id": FILM, "profile": "small" }), (400, "json_invalid")),
    ] {
        assert_eq!(refused(job.clone()).await, (wanted.0, wanted.1.to_owned()), "{job}");
    }
    for status in [MediaStatus::Uploading, MediaStatus::Rejected, MediaStatus::Stored] {
        site.change_medium(|medium| {
            medium.status = status;
            Outbox::new()
        })
        .await;
        assert_eq!(refused(verify_job()).await, (409, "nothing_stored".to_owned()), "{status:?}");
    }
}

#[tokio::test]
async fn a_verification_that_came_to_nothing_is_tried_again_once() {
    let site = Encoded::start().await;
    let job_id = site.verify().await;
    let retry = async || site.ask_json("POST", &format!("/v1/jobs/{job_id}/retry"), "", &Value::Null).await;
    assert_eq!(read(&retry().await)["code"], "job_goes_on");
    site.end(&job_id, JobStatus::Failed).await;
    let next = read(&retry().await);
    assert_eq!(next["retry_of"], json!(job_id));
    let document = site.job_document(next["job_id"].as_str().unwrap()).await;
    assert_eq!((&document["kind"], &document["retry_of"]), (&json!("verify"), &json!(job_id)));
    assert_eq!(read(&retry().await)["job_id"], next["job_id"], "the answer may have been lost");
    site.end(next["job_id"].as_str().unwrap(), JobStatus::Failed).await;
    let again = retry().await;
    assert_eq!((again.status, &read(&again)["code"]), (409, &json!("job_goes_on")));
    site.end(&job_id, JobStatus::Succeeded).await;
    assert_eq!(read(&retry().await)["code"], "job_goes_on");
}

/// An index that counts so many jobs of each owner that have not ended.
async fn count_as_index(site: &Encoded, active: u64) -> AbortOnDropHandle<()> {
    let bus = site.site.broker.bus(Role::Index).await;
    let subject = subjects::index_request_subject(index_query::JOB_COUNTS);
    let mut questions = bus.subscribe_core(subject).await.unwrap();
    nats::testing::wait_until_taken(&bus).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let counts = IndexReply::Page(JobCounts { active, ..JobCounts::default() });
            let answer = nats::encode_message(&question.subject, &counts).unwrap();
            bus.publish_core(question.reply.unwrap().to_string(), answer).await.unwrap();
        }
    }))
}

/// A job of the film that makes no encode and failed.
fn failed_task(kind: &str) -> JobRecord {
    let plan = (EncodePlan::default(), JobPriority::P1);
    let job_id = JobId::from_bytes(nats::new_id_bytes());
    let record = JobRecord::new_task(job_id, kind, (FILM, OWNER), plan, nats::now_ms());
    let order = ThumbnailOrder { times_ms: vec![0], width: 320 };
    let thumbnails = (kind == job::THUMBNAILS).then_some(order);
    JobRecord { status: JobStatus::Failed, thumbnails, ..record }
}

#[tokio::test]
async fn other_tries_and_actions_count_among_the_jobs_that_an_owner_may_have() {
    let site = Encoded::start_with(|config| config.quotas.each.open_jobs_max = Some(1)).await;
    let _index = count_as_index(&site, 1).await;
    for kind in [job::VERIFY, job::THUMBNAILS] {
        let failed = failed_task(kind);
        site.admin.commit_record(&mut VersionedRecord::new(failed.clone()), Outbox::new()).await.unwrap();
        let path = format!("/v1/jobs/{}/retry", failed.job_id);
        let refused = site.ask_json("POST", &path, "", &Value::Null).await;
        assert_eq!((refused.status, &read(&refused)["quota"]), (429, &json!("open_jobs")), "{kind}");
    }
    let act = async |action: &str| {
        let body = json!({ "action": { "type": action }, "filter": { "media_id": FILM } });
        site.ask_json("POST", "/v1/jobs/actions", "", &body).await
    };
    for action in ["retry", "pause"] {
        let refused = act(action).await;
        assert_eq!((refused.status, &read(&refused)["quota"]), (429, &json!("open_jobs")), "{action}");
    }
    let cancel = act("cancel").await;
    assert_eq!(cancel.status, 202, "it makes room: {cancel:?}");
}

#[tokio::test]
async fn what_is_not_tried_again_says_what_to_do_instead() {
    let site = Encoded::start().await;
    for (kind, instead) in [
        (job::FETCH, "ask for the medium anew"),
        (job::EXPORT, "ask for the export anew"),
        (job::JOB_ACTION, "ask for the action anew"),
        ("translate", "only another version knows its kind"),
    ] {
        let failed = failed_task(kind);
        site.admin.commit_record(&mut VersionedRecord::new(failed.clone()), Outbox::new()).await.unwrap();
        let retry = format!("/v1/jobs/{}/retry", failed.job_id);
        let retry = site.ask_json("POST", &retry, "", &Value::Null).await;
        let letter = store_part_letter(&site.admin, &failed, job::TASK).await;
        let redrive = format!("/v1/dead-letters/{letter}/redrive");
        let admin = format!("Authorization: Bearer {}\r\n", site.site.key);
        let redrive = site.site.ask("POST", &redrive, &admin, "").await;
        for answer in [retry, redrive] {
            let problem = read(&answer);
            assert_eq!((answer.status, &problem["code"]), (409, &json!("job_not_repeatable")), "{problem}");
            assert!(problem["detail"].as_str().unwrap().starts_with(instead), "{problem}");
        }
        let refused = redrive_letter(&site.admin, &site.site.store, letter, "anna").await.unwrap_err();
        assert_eq!(refused.code(), "job_not_repeatable");
        assert!(refused.to_string().contains(instead), "{refused}");
        assert_eq!(site.admin.dead_letter(letter).await.unwrap().unwrap().mark, None, "it waits still");
    }
}

#[tokio::test]
async fn the_run_of_a_schedule_begins_one_job_and_for_its_owner_alone() {
    let site = Encoded::start().await;
    let run = ScheduledRun { schedule_id: ScheduleId::from_bytes([5; 16]), planned_at_ms: 1_000 };
    let begin = async |owner: &str, run| begin_scheduled_task(&site.admin, owner, run, REQUEST).await;
    let TaskBeginning::Begun(job) = begin(OWNER, run).await.unwrap() else { panic!("it is the first") };
    assert_eq!(job.scheduled, Some(run));
    assert_eq!(begin(OWNER, run).await.unwrap(), TaskBeginning::Found(job.clone()));
    let later = ScheduledRun { planned_at_ms: 2_000, ..run };
    assert!(matches!(begin("somebody", later).await.unwrap(), TaskBeginning::Refused(_)));
    assert_eq!(begin(OWNER, later).await.unwrap(), TaskBeginning::Found(job.clone()), "one at a time");
    site.end(&job.job_id.to_string(), JobStatus::Succeeded).await;
    let TaskBeginning::Begun(next) = begin(OWNER, later).await.unwrap() else { panic!("another run") };
    assert_ne!(job.job_id, next.job_id);
    let gone = TaskRequest { media_id: MediaId::from_bytes([1; 16]), ..REQUEST };
    let refused = begin_scheduled_task(&site.admin, OWNER, run, gone).await;
    assert!(matches!(refused, Err(NextEncodeError::UnknownMedium(_))), "{refused:?}");
}

#[tokio::test]
async fn the_letter_of_a_verification_begins_another_one_and_no_encode() {
    let site = Encoded::start().await;
    let job_id = site.verify().await;
    let job = site.admin.load_record::<JobRecord>(&job_id).await.unwrap().unwrap().record;
    site.end(&job_id, JobStatus::Failed).await;
    let before = site.medium().await;
    let subject = job.part_subject(job::TASK);
    assert_eq!(subject, format!("job.tasks.p1.{job_id}.task"));
    let task = JobPartTask { job_id: job.job_id, part: job::TASK.into() };
    let payload = nats::encode_message(&subject, &task).unwrap();
    let letter = store_dead_letter(&site.admin, "tasks", (subjects::JOBS, &subject), payload).await;
    let outcome = redrive_letter(&site.admin, &site.site.store, letter, "anna").await.unwrap();
    let RedriveOutcome::Retried { job_id: next } = outcome else { panic!("{outcome:?}") };
    let next = site.admin.load_record::<JobRecord>(&next.to_string()).await.unwrap().unwrap().record;
    assert_eq!((next.kind.as_str(), next.retry_of), (job::VERIFY, Some(job.job_id)));
    let left = MediaRecord { verification: before.verification, ..site.medium().await };
    assert_eq!(left, before);
}

#[tokio::test]
async fn an_operator_sees_the_workers_of_every_queue() {
    let site = Encoded::start().await;
    let key = auth::create_api_key(&site.admin, "olaf", PrincipalRole::Operator).await.unwrap();
    for (worker, queue) in [("aa", "transcode"), ("bb", "tasks")] {
        let record = schemas::worker::WorkerRecord {
            worker: worker.into(),
            queue: queue.into(),
            ..schemas::examples::worker_record()
        };
        site.admin.put_live_record(&record, std::time::Duration::from_secs(60)).await.unwrap();
    }
    let headers = format!("Authorization: Bearer {key}\r\n");
    let list = read(&site.site.ask("GET", "/v1/workers", &headers, "").await);
    let mut queues: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|worker| worker["queue"].as_str().unwrap()).collect();
    queues.sort_unstable();
    assert_eq!(queues, ["tasks", "transcode"]);
}
