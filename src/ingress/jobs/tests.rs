//! Cancelling and trying again over HTTP, by the record and the events that are there afterwards.

use std::time::Duration;

use futures::StreamExt;
use nats::{Bus, Outbox, Role, VersionedRecord};
use schemas::{
    access::PrincipalRole,
    ids::MediaId,
    job::{self, JobPartRecord, JobPartStatus, JobRecord, JobStatus},
    media::{MediaRecord, MediaReopened, MediaSource, MediaStatus, ReopenStep},
    subjects,
};
use serde_json::Value;

use super::retry::ENCODES_MAX;
use crate::tests::{Answer, Site, asset, job_record, technical_metadata};

const MEDIUM: MediaId = MediaId::from_bytes([3; 16]);

/// A verified medium and the first job on it, both of the account of the key.
struct Encoded {
    site: Site,
    admin: Bus,
    authorization: String,
    job: JobRecord,
}

impl Encoded {
    async fn start(status: JobStatus, media_status: MediaStatus) -> Self {
        let site = Site::start(|_| {}).await;
        let admin = site.broker.bus(Role::Admin).await;
        let authorization = format!("Authorization: Bearer {}\r\n", site.key);
        let job = job_record(MEDIUM, "admin", 1, status);
        let source =
            MediaSource { key: schemas::keys::source_key(MEDIUM), size_bytes: 5, sha256: "0".repeat(64) };
        site.store.put(&source.key, "hello").await.unwrap();
        let medium = MediaRecord {
            encode: None,
            source: Some(source),
            technical: Some(technical_metadata()),
            ..asset(MEDIUM, "admin", media_status)
        };
        admin.commit_record(&mut VersionedRecord::new(medium), Outbox::new()).await.unwrap();
        admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
        Self { site, admin, authorization, job }
    }

    async fn change_job(&self, change: impl Fn(&mut JobRecord) + Sync) {
        let changed = |found: Option<&JobRecord>| {
            let mut job = found?.clone();
            change(&mut job);
            Some((job, Outbox::new()))
        };
        self.admin.change_record(&self.job.job_id.to_string(), changed).await.unwrap();
    }

    async fn change_medium(&self, change: impl Fn(&mut MediaRecord) + Sync) {
        let changed = |found: Option<&MediaRecord>| {
            let mut medium = found?.clone();
            change(&mut medium);
            Some((medium, Outbox::new()))
        };
        self.admin.change_record(&MEDIUM.to_string(), changed).await.unwrap();
    }

    async fn post(&self, action: &str) -> Answer {
        let path = format!("/v1/jobs/{}/{action}", self.job.job_id);
        self.site.ask("POST", &path, &self.authorization, "").await
    }

    async fn document(&self) -> Value {
        let path = format!("/v1/jobs/{}", self.job.job_id);
        serde_json::from_str(&self.site.ask("GET", &path, &self.authorization, "").await.body).unwrap()
    }

    async fn medium(&self) -> MediaRecord {
        self.admin.load_record::<MediaRecord>(&MEDIUM.to_string()).await.unwrap().unwrap().record
    }

    async fn refused(&self, action: &str) -> (u16, String) {
        let answer = self.post(action).await;
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        (answer.status, problem["code"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn the_priority_of_a_job_can_be_changed_while_it_goes_on() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    let mut events = site.admin.subscribe_core(subjects::job_event_filter(site.job.job_id)).await.unwrap();
    let owner = auth::create_api_key(&site.admin, &site.job.owner, PrincipalRole::Owner).await.unwrap();
    let other = auth::create_api_key(&site.admin, "other", PrincipalRole::Owner).await.unwrap();
    let path = format!("/v1/jobs/{}", site.job.job_id);
    let change = async |authorization: &str, body: &str| {
        let headers = format!("{authorization}Content-Type: application/json\r\n");
        let answer = site.site.ask("PATCH", &path, &headers, body).await;
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        let said = document["code"].as_str().or(document["priority"].as_str()).unwrap_or_default().to_owned();
        (answer.status, said)
    };
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let (p0, p2) = ("{\"priority\":\"p0\"}", "{\"priority\":\"p2\"}");
    assert_eq!(change(&bearer(&owner), p0).await, (403, "operators_only".into()));
    assert_eq!(change(&bearer(&other), p2).await, (404, "not_found".into()));
    assert_eq!(change(&bearer(&owner), "{\"priority\":\"p9\"}").await.0, 400);
    assert_eq!(change(&bearer(&owner), "{}").await.0, 400);
    for (authorization, body, wanted) in [
        (&bearer(&owner), p2, subjects::JobPriority::P2),
        (&site.authorization, p0, subjects::JobPriority::P0),
    ] {
        // Twice is no error, and one event.
        for _ in 0..2 {
            assert_eq!(change(authorization, body).await, (200, wanted.subject_token().into()));
        }
        let message = events.next().await.unwrap();
        let event: job::JobReprioritized = nats::decode_message(&message.subject, &message.payload).unwrap();
        assert_eq!(event.priority, wanted, "{}", message.subject);
    }
    assert_eq!(site.post("cancel").await.status, 200);
    assert_eq!(change(&site.authorization, p2).await, (409, "job_ended".into()));
}

#[tokio::test]
async fn a_paused_job_says_so_until_it_is_resumed() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    let mut events = site.admin.subscribe_core(subjects::job_event_filter(site.job.job_id)).await.unwrap();
    let why = async || -> Value {
        let path = format!("/v1/jobs/{}/why", site.job.job_id);
        serde_json::from_str(&site.site.ask("GET", &path, &site.authorization, "").await.body).unwrap()
    };
    assert_eq!(why().await["reason"], "no_keeper", "nothing lets it into the queue here");
    let paused = site.post("pause").await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let document = site.document().await;
    assert_eq!((&document["status"], &document["state"]), (&"active".into(), &"paused".into()));
    assert!(document["paused_at_ms"].as_u64().is_some_and(|at_ms| at_ms > 0), "{document}");
    assert_eq!(why().await["sentence"], "It is paused until somebody resumes it.");
    let message = events.next().await.unwrap();
    let event: job::JobPaused = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(event.paused_by, "admin");
    // Once more changes nothing.
    assert_eq!(site.post("pause").await.status, 200);
    assert_eq!(site.document().await, document);
    assert_eq!(site.post("resume").await.status, 200);
    assert_eq!(site.post("resume").await.status, 200);
    assert_eq!(site.document().await["state"], "queued");
    let message = events.next().await.unwrap();
    assert!(message.subject.starts_with("evt.job.resumed."), "one event of each: {}", message.subject);
    // One that is paused can be cancelled, and then neither paused nor resumed.
    assert_eq!(site.post("pause").await.status, 200);
    assert_eq!(site.post("cancel").await.status, 200);
    assert_eq!(site.document().await["state"], "cancelled");
    assert_eq!(site.document().await.get("paused_at_ms"), None);
    for action in ["pause", "resume"] {
        assert_eq!(site.refused(action).await, (409, "job_ended".into()));
    }
    assert_eq!(why().await["sentence"], "It was cancelled.");
}

#[tokio::test]
async fn a_cancelled_job_says_who_ended_it_and_its_medium_why_nothing_plays() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    let mut hints = site.admin.subscribe_core(subjects::job_cancel_subject(site.job.job_id)).await.unwrap();
    let mut events = site.admin.subscribe_core(subjects::event_filter::<job::JobCancelled>()).await.unwrap();
    assert_eq!(site.document().await["state"], "queued");
    let answer = site.post("cancel").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&document["status"], &document["state"]), (&"cancelled".into(), &"cancelled".into()));
    hints.next().await.unwrap();
    let message = events.next().await.unwrap();
    let cancelled: job::JobCancelled = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(cancelled.cancelled_by.as_deref(), Some("admin"));
    let medium = site.medium().await;
    assert_eq!((medium.status, medium.code.as_deref()), (MediaStatus::Failed, Some("job_cancelled")));
    // Once more changes nothing.
    let before = site.document().await;
    assert_eq!(site.post("cancel").await.status, 200);
    assert_eq!(site.document().await, before);
    let again = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(again.is_err(), "one end, one event: {again:?}");
}

#[tokio::test]
async fn a_cancelled_job_is_cancelling_until_its_workers_have_stopped() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    site.change_job(|job| job.parts = vec!["v0000".into()]).await;
    let mut part = VersionedRecord::new(JobPartRecord {
        status: JobPartStatus::Claimed,
        attempt: 1,
        worker: "w".into(),
        last_seen_ms: nats::now_ms(),
        ..JobPartRecord::new(site.job.job_id, "v0000")
    });
    site.admin.commit_record(&mut part, Outbox::new()).await.unwrap();
    let document = site.document().await;
    assert_eq!((&document["state"], &document["parts"][0]["status"]), (&"running".into(), &"claimed".into()));
    assert_eq!(site.post("cancel").await.status, 200);
    assert_eq!(site.document().await["state"], "cancelling");
    // As a worker lets go.
    part.record.last_seen_ms = 0;
    site.admin.commit_record(&mut part, Outbox::new()).await.unwrap();
    let document = site.document().await;
    assert_eq!(document["state"], "cancelled");
    assert_eq!(
        (&document["parts"][0]["status"], &document["parts"][0]["last_seen_ms"]),
        (&"waiting".into(), &Value::Null)
    );
}

#[tokio::test]
async fn a_part_whose_try_failed_makes_its_job_a_retrying_one() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    site.change_job(|job| job.parts = vec!["v0000".into()]).await;
    let failed = JobPartRecord {
        attempt: 1,
        faults: 1,
        code: Some("child_crashed".into()),
        ..JobPartRecord::new(site.job.job_id, "v0000")
    };
    site.admin.commit_record(&mut VersionedRecord::new(failed), Outbox::new()).await.unwrap();
    assert_eq!(site.document().await["state"], "retrying");
}

#[tokio::test]
async fn what_has_ended_or_is_being_published_is_not_cancelled() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    site.change_job(|job| job.publishing_at_ms = Some(1)).await;
    assert_eq!(site.refused("cancel").await, (409, "job_publishing".into()));
    for status in [JobStatus::Succeeded, JobStatus::Failed] {
        site.change_job(|job| job.mark_ended(status, 2, 1_000_000)).await;
        let problem: Value = serde_json::from_str(&site.post("cancel").await.body).unwrap();
        assert_eq!(
            (&problem["code"], &problem["job_status"]),
            (&"job_ended".into(), &serde_json::json!(status))
        );
    }
    assert_eq!(site.medium().await.status, MediaStatus::Stored, "nothing has changed");
}

#[tokio::test]
async fn nobody_else_cancels_or_retries_and_learns_of_it() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    let key = async |owner: &str, role| {
        let key = auth::create_api_key(&site.admin, owner, role).await.unwrap();
        format!("Authorization: Bearer {key}\r\n")
    };
    let stranger = key("zoe", PrincipalRole::Owner).await;
    let operator = key("otto", PrincipalRole::Operator).await;
    for action in ["cancel", "retry"] {
        let path = format!("/v1/jobs/{}/{action}", site.job.job_id);
        for (who, status) in [(stranger.as_str(), 404), (operator.as_str(), 403), ("", 401)] {
            let answer = site.site.ask("POST", &path, who, "").await;
            assert_eq!(answer.status, status, "{action}: {answer:?}");
        }
        let none = format!("/v1/jobs/06db008a0lt0303jc5mn0r355k/{action}");
        assert_eq!(site.site.ask("POST", &none, &site.authorization, "").await.status, 404, "{action}");
    }
    assert_eq!(site.document().await["status"], "active");
}

#[tokio::test]
async fn a_job_that_came_to_nothing_is_tried_again_once() {
    for status in [JobStatus::Failed, JobStatus::Cancelled] {
        let site = Encoded::start(status, MediaStatus::Failed).await;
        let mut events = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
        let answer = site.post("retry").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        let next = packaging::plan::derive_job_id(MEDIUM, 2).to_string();
        assert_eq!(document["job_id"], *next);
        assert_eq!(document["retry_of"], *site.job.job_id.to_string());
        assert!(answer.header("location").unwrap().ends_with(&format!("/v1/jobs/{next}")), "{answer:?}");
        let message = events.next().await.unwrap();
        let reopened: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
        assert!(matches!(reopened.step, ReopenStep::Encode { encode: 2, .. }), "{reopened:?}");
        assert_eq!(site.medium().await.status, MediaStatus::Stored);
        assert_eq!(site.refused("retry").await, (409, "job_goes_on".into()));
    }
}

#[tokio::test]
async fn a_retry_that_is_cancelled_before_it_plays_can_be_tried_again() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Playable).await;
    // What played of the first encode stays named in the record.
    site.change_medium(|medium| medium.encode = asset(MEDIUM, "admin", MediaStatus::Playable).encode).await;
    assert_eq!(site.post("cancel").await.status, 200);
    assert_eq!(site.post("retry").await.status, 202);
    let second = job_record(MEDIUM, "admin", 2, JobStatus::Active);
    site.admin.commit_record(&mut VersionedRecord::new(second.clone()), Outbox::new()).await.unwrap();
    let post = async |action: &str| {
        let path = format!("/v1/jobs/{}/{action}", second.job_id);
        site.site.ask("POST", &path, &site.authorization, "").await.status
    };
    assert_eq!(post("cancel").await, 200);
    let medium = site.medium().await;
    assert_eq!((medium.status, medium.code.as_deref()), (MediaStatus::Failed, Some("job_cancelled")));
    assert_eq!(post("retry").await, 202);
}

#[tokio::test]
async fn a_retry_that_nobody_planned_is_no_obstacle() {
    let site = Encoded::start(JobStatus::Failed, MediaStatus::Failed).await;
    site.change_medium(|medium| medium.attempt.encode = 2).await;
    assert_eq!(site.post("retry").await.status, 202);
    assert_eq!(site.medium().await.attempt.encode, 3);
}

#[tokio::test]
async fn a_retry_that_leads_nowhere_says_why_and_changes_nothing() {
    let site = Encoded::start(JobStatus::Active, MediaStatus::Stored).await;
    assert_eq!(site.refused("retry").await, (409, "job_goes_on".into()));
    site.change_job(|job| job.mark_ended(JobStatus::Failed, 2, 1_000_000)).await;
    site.change_medium(|medium| medium.status = MediaStatus::Ready).await;
    assert_eq!(site.refused("retry").await, (409, "job_goes_on".into()), "it is ready");
    site.change_medium(|medium| {
        medium.status = MediaStatus::Failed;
        medium.attempt.encode = ENCODES_MAX;
    })
    .await;
    site.change_job(|job| job.encode = ENCODES_MAX).await;
    assert_eq!(site.refused("retry").await, (409, "encodes_too_many".into()));
    site.change_medium(|medium| medium.attempt.encode = 0).await;
    site.change_job(|job| job.encode = 1).await;
    site.site.store.remove_folder(&schemas::keys::media_prefix(MEDIUM)).await.unwrap();
    let before = site.medium().await;
    assert_eq!(site.refused("retry").await, (409, "source_gone".into()));
    assert_eq!(site.medium().await, before);
}
