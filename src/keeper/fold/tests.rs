use nats::{Role, VersionedRecord, testing::TestBroker};
use parking_lot::Mutex;
use schemas::{
    envelope::{RecordEnvelope, UnsentEvent},
    ids::{MediaId, UploadId},
    job::{JobPartRecord, JobPartStatus, StoredSegment, StoredTrack},
    media,
    subjects::JobPriority,
    upload,
};
use serde_bytes::ByteBuf;
use store::Store;

use super::*;
use crate::keeper::clear;

const DAY_MS: u64 = 24 * 3_600_000;

fn job() -> job::JobRecord {
    let plan = job::EncodePlan {
        source_key: "k".into(),
        source_bytes: 1,
        duration_ms: 4_000,
        profile: "default".into(),
        options_digest: "d".into(),
        ..job::EncodePlan::default()
    };
    job::JobRecord {
        encode: 1,
        prefix: "p".into(),
        parts: vec!["v0000".into(), "a0".into()],
        ..job::JobRecord::new_task(
            JobId::from_bytes(nats::new_id_bytes()),
            job::TRANSCODE,
            (MediaId::from_bytes([2; 16]), "olga"),
            (plan, JobPriority::P1),
            1,
        )
    }
}

fn part(job: &job::JobRecord, name: &str, status: JobPartStatus) -> JobPartRecord {
    let segment = StoredSegment { start_ticks: 0, duration_ticks: 180_000, size_bytes: 900_000 };
    let track = StoredTrack {
        rendition: "v180".into(),
        timescale: 90_000,
        init_sha256: "00".repeat(32),
        init_bytes: 800,
        codecs: "avc1.64001f".into(),
        first_segment: 1,
        segments: vec![segment; 20],
    };
    JobPartRecord {
        status,
        attempt: 2,
        crashes: 1,
        worker: "w".into(),
        last_seen_ms: 5,
        tracks: vec![track],
        cpu_ms: 6,
        wall_ms: 7,
        rss_bytes_max: 8,
        code: (status == JobPartStatus::Failed).then(|| "child_crashed".into()),
        detail: (status == JobPartStatus::Failed).then(|| "x".repeat(4_000)),
        ..JobPartRecord::new(job.job_id, name)
    }
}

struct Site {
    _broker: TestBroker,
    _folder: tempfile::TempDir,
    admin: Bus,
    keeper: Bus,
    store: Store,
}

impl Site {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let (admin, keeper) = (broker.bus(Role::Admin).await, broker.bus(Role::Keeper).await);
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/store", folder.path().display());
        let store = store::testing::open_test_store(store::StoreConfig::from_url(url)).unwrap();
        store.verify_marker_now().await.unwrap();
        Self { _broker: broker, _folder: folder, admin, keeper, store }
    }

    async fn put<R: KvRecord>(&self, record: R) {
        let key = record.key();
        self.admin.change_record::<R>(&key, |_| Some((record.clone(), Outbox::new()))).await.unwrap();
    }

    /// A job with its parts that ended with `status`.
    async fn ended(
        &self,
        status: JobStatus,
        parts: &[(&str, JobPartStatus)],
    ) -> (job::JobRecord, Vec<JobPartRecord>) {
        let mut job = job();
        let parts: Vec<JobPartRecord> =
            parts.iter().map(|(name, status)| part(&job, name, *status)).collect();
        for part in &parts {
            self.put(part.clone()).await;
        }
        job.mark_ended(status, nats::now_ms(), schemas::ENDED_KEPT_MS);
        self.put(job.clone()).await;
        (job, parts)
    }

    async fn pass(&self, after_ms: u64) -> FoldReport {
        run_fold_pass(&self.keeper, nats::now_ms() + after_ms, &KeeperConfig::default()).await.unwrap()
    }

    async fn job(&self, job: &job::JobRecord) -> job::JobRecord {
        self.admin.load_record::<job::JobRecord>(&job.key()).await.unwrap().unwrap().record
    }

    async fn messages(&self, bucket: &str) -> u64 {
        let stream = self.admin.context().get_stream(subjects::kv_stream_name(bucket)).await.unwrap();
        stream.cached_info().state.messages
    }
}

#[tokio::test]
async fn what_parts_came_to_outlives_them() {
    let site = Site::start().await;
    let all =
        [("v0000", JobPartStatus::Failed), ("a0", JobPartStatus::Done), ("finish", JobPartStatus::Claimed)];
    let (ended, parts) = site.ended(JobStatus::Failed, &all).await;
    let active = job();
    site.put(part(&active, "v0000", JobPartStatus::Claimed)).await;
    site.put(active.clone()).await;
    assert_eq!(site.pass(DAY_MS - 60_000).await, FoldReport::default(), "a day has not passed");
    assert_eq!(site.pass(DAY_MS + 1_000).await, FoldReport { folded_count: 1, removed_count: 3 });
    let folded = site.job(&ended).await;
    let summaries: Vec<JobPartSummary> = parts.iter().map(JobPartSummary::from).collect();
    assert_eq!(folded.folded.as_ref(), Some(&summaries));
    assert_eq!((summaries[1].segments, summaries[1].stored_ms), (20, 40_000));
    let detail = summaries[0].detail.as_ref().unwrap();
    assert_eq!(detail.len(), job::SUMMARY_DETAIL_CHARS_MAX, "bounded");
    assert_eq!((folded.status, folded.kept_until_ms), (ended.status, ended.kept_until_ms));
    for part in &parts {
        assert!(
            site.admin.load_record::<JobPartRecord>(&part.key()).await.unwrap().is_none(),
            "{}",
            part.part
        );
    }
    assert!(
        site.admin
            .load_record::<JobPartRecord>(&subjects::part_key(active.job_id, "v0000"))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport::default(), "once");
}

#[tokio::test]
async fn what_a_cancelled_job_stored_goes_once_its_workers_have_stopped() {
    let site = Site::start().await;
    let (ended, parts) = site
        .ended(JobStatus::Cancelled, &[("v0000", JobPartStatus::Claimed), ("v0001", JobPartStatus::Done)])
        .await;
    let (mine, other) = (format!("{}/v360/1.m4s", ended.prefix), "media/other/source");
    for key in [mine.as_str(), other] {
        site.store.put(key, "bytes").await.unwrap();
    }
    let pass = async || clear::clear_ended_jobs(&site.keeper, &site.store).await.unwrap();
    // Its holder was seen a moment ago, and may store one segment more.
    assert_eq!(pass().await, 0);
    site.store.head(&mine).await.unwrap();
    site.put(JobPartRecord { last_seen_ms: 0, ..parts[0].clone() }).await;
    assert_eq!(pass().await, 1);
    assert!(matches!(site.store.head(&mine).await, Err(store::StoreError::NotFound { .. })));
    site.store.head(other).await.unwrap();
    assert!(site.job(&ended).await.cleared_at_ms.is_some());
    assert_eq!(pass().await, 0, "once");
    // A worker without a connection stored more: it is looked at once more, ten minutes after the end.
    site.store.put(&mine, "late bytes").await.unwrap();
    let now_ms = nats::now_ms();
    let (end_ms, cleared_ms) = (now_ms - 11 * 60_000, now_ms - 10 * 60_000 - 30_000);
    let old = job::JobRecord { ended_at_ms: Some(end_ms), cleared_at_ms: Some(cleared_ms), ..ended.clone() };
    site.put(old).await;
    assert_eq!(pass().await, 1);
    assert!(matches!(site.store.head(&mine).await, Err(store::StoreError::NotFound { .. })));
    assert_eq!(pass().await, 0, "and not again");
}

#[tokio::test]
async fn what_plays_is_not_removed_with_a_job_that_was_cancelled() {
    let site = Site::start().await;
    let (ended, _) = site.ended(JobStatus::Cancelled, &[("v0000", JobPartStatus::Done)]).await;
    let key = format!("{}/v360/1.m4s", ended.prefix);
    site.store.put(&key, "bytes").await.unwrap();
    let encode = media::MediaEncode {
        number: ended.encode,
        job_id: ended.job_id,
        prefix: ended.prefix.clone(),
        duration_ms: 1,
        renditions: Vec::new(),
        subtitles: Vec::new(),
        has_poster: false,
        has_storyboard: false,
        has_checksums: false,
        warnings: Vec::new(),
    };
    let medium = media::MediaRecord {
        encode: Some(encode),
        ..media::MediaRecord::new(ended.media_id, ended.owner.clone(), media::MediaStatus::Ready, 1)
    };
    site.put(medium).await;
    let cleared_count = clear::clear_ended_jobs(&site.keeper, &site.store).await.unwrap();
    assert_eq!(cleared_count, 1, "it is looked at");
    site.store.head(&key).await.unwrap();
}

#[tokio::test]
async fn a_job_that_makes_no_encode_takes_nothing_with_it() {
    let site = Site::start().await;
    let source = schemas::keys::source_key(job().media_id);
    site.store.put(&source, "bytes").await.unwrap();
    for (number, status) in [(1, JobStatus::Cancelled), (2, JobStatus::Failed)] {
        let plan = (job::EncodePlan::default(), schemas::subjects::JobPriority::P1);
        let (job_id, medium) = (schemas::ids::JobId::from_bytes([number; 16]), (job().media_id, "olga"));
        let mut record = job::JobRecord::new_task(job_id, job::VERIFY, medium, plan, 1);
        record.mark_ended(status, 1, schemas::ENDED_KEPT_MS);
        site.put(job::JobRecord { folded: Some(Vec::new()), ..record }).await;
    }
    let cleared_count = clear::clear_ended_jobs(&site.keeper, &site.store).await.unwrap();
    assert_eq!(cleared_count, 0, "nothing of them is stored");
    site.store.head(&source).await.unwrap();
}

#[tokio::test]
async fn what_a_failed_job_stored_goes_once_no_retry_can_keep_it() {
    let site = Site::start().await;
    let (ended, _) = site.ended(JobStatus::Failed, &[("v0000", JobPartStatus::Done)]).await;
    let key = format!("{}/v360/1.m4s", ended.prefix);
    site.store.put(&key, "bytes").await.unwrap();
    let pass = async || clear::clear_ended_jobs(&site.keeper, &site.store).await.unwrap();
    assert_eq!(pass().await, 0, "a retry may keep it");
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 1, removed_count: 1 });
    // One that was begun before goes on in the same folder.
    let next = job::JobRecord { encode: ended.encode + 1, prefix: ended.prefix.clone(), ..job() };
    site.put(next.clone()).await;
    assert_eq!(pass().await, 0, "it is in use");
    site.store.head(&key).await.unwrap();
    let mut next = next;
    next.mark_ended(JobStatus::Failed, nats::now_ms(), schemas::ENDED_KEPT_MS);
    site.put(next).await;
    assert_eq!(pass().await, 0, "a retry of that one may keep it");
    site.store.head(&key).await.unwrap();
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 1, removed_count: 0 });
    assert_eq!(pass().await, 2);
    assert!(matches!(site.store.head(&key).await, Err(store::StoreError::NotFound { .. })));
    assert_eq!(pass().await, 0, "once");
}

#[tokio::test]
async fn parts_that_should_not_be_there_go() {
    let site = Site::start().await;
    let (ended, _) = site.ended(JobStatus::Cancelled, &[("v0000", JobPartStatus::Claimed)]).await;
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 1, removed_count: 1 });
    site.put(part(&ended, "a0", JobPartStatus::Claimed)).await;
    site.put(part(&job(), "v0000", JobPartStatus::Claimed)).await;
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 0, removed_count: 2 });
    assert_eq!(site.job(&ended).await.folded.unwrap().len(), 1, "what was folded stays");
}

#[tokio::test]
async fn a_job_from_before_gets_an_end_when_it_is_folded() {
    let site = Site::start().await;
    let mut old = job();
    old.status = JobStatus::Succeeded;
    old.ended_at_ms = Some(2);
    site.put(old.clone()).await;
    let before_ms = nats::now_ms();
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 1, removed_count: 0 });
    let kept_until_ms = site.job(&old).await.kept_until_ms.unwrap();
    assert!(kept_until_ms >= before_ms + 2 * DAY_MS + schemas::ENDED_KEPT_MS, "{kept_until_ms}");
}

#[tokio::test]
async fn events_that_are_not_sent_go_first() {
    let site = Site::start().await;
    let (ended, parts) = site.ended(JobStatus::Failed, &[("v0000", JobPartStatus::Failed)]).await;
    let key = parts[0].key();
    let subject = subjects::kv_subject(JobPartRecord::BUCKET, &key);
    let unsent = UnsentEvent {
        subject: format!("evt.job.dead.{}", ended.job_id),
        id: "id".into(),
        headers: std::collections::BTreeMap::new(),
        payload: ByteBuf::from(vec![0x80]),
        once: false,
        after_sequence: None,
    };
    let record = ByteBuf::from(nats::encode_message(&key, &parts[0]).unwrap());
    let envelope =
        RecordEnvelope { record, unsent: vec![unsent], changed_at_ms: 1, expires_at_ms: None, trace: None };
    let payload = nats::encode_message(&key, &envelope).unwrap();
    site.admin.context().publish(subject, payload.into()).await.unwrap().await.unwrap();
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport::default());
    assert!(site.keeper.sweep_record(JobPartRecord::BUCKET, &key).await.unwrap());
    assert_eq!(site.pass(2 * DAY_MS).await, FoldReport { folded_count: 1, removed_count: 1 });
}

#[tokio::test]
async fn no_end_is_set_while_an_event_is_not_sent() {
    let site = Site::start().await;
    let mut held = VersionedRecord::new(job());
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    site.admin.context().delete_stream(subjects::EVENTS).await.unwrap();
    held.record.mark_ended(JobStatus::Cancelled, nats::now_ms(), DAY_MS);
    let ended = job::JobCancelled {
        job_id: held.record.job_id,
        media_id: held.record.media_id,
        owner: held.record.owner.clone(),
        kind: held.record.kind.clone(),
        cancelled_by: None,
    };
    site.admin.commit_record(&mut held, Outbox::new().with_event(&ended)).await.unwrap();
    let key = held.record.key();
    let ttl = async || {
        let stream = site.admin.context().get_stream(subjects::kv_stream_name("jobs")).await.unwrap();
        let message =
            stream.get_last_raw_message_by_subject(&subjects::kv_subject("jobs", &key)).await.unwrap();
        message.headers.get("Nats-TTL").map(|ttl| ttl.as_str().to_owned())
    };
    assert_eq!(ttl().await, None, "the event would end with it");
    nats::topology::apply_topology(site.admin.context(), &nats::topology::TopologySettings::default())
        .await
        .unwrap();
    assert!(site.keeper.sweep_record("jobs", &key).await.unwrap());
    assert!(ttl().await.is_some(), "sent, so it may end");
}

fn upload_record() -> upload::UploadRecord {
    upload::UploadRecord {
        length_bytes: Some(10),
        offset_bytes: 10,
        generation: 1,
        created_at_ms: 1,
        expires_at_ms: 1,
        ..upload::UploadRecord::new(
            UploadId::from_bytes(nats::new_id_bytes()),
            MediaId::from_bytes([2; 16]),
            "olga".into(),
        )
    }
}

/// Jobs and uploads that the factory makes; `make soak` makes 100,000.
fn factory_count() -> usize {
    std::env::var("SOAK_JOBS").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

#[tokio::test]
async fn soak_buckets_return_to_the_same_size_whatever_came_through() {
    let count = factory_count();
    let site = Site::start().await;
    let context = site.admin.context();
    let mut jobs =
        context.get_stream(subjects::kv_stream_name("jobs")).await.unwrap().cached_info().config.clone();
    jobs.subject_delete_marker_ttl = Some(Duration::from_secs(1));
    context.update_stream(&jobs).await.unwrap();
    let resting = job();
    site.put(part(&resting, "v0000", JobPartStatus::Claimed)).await;
    site.put(resting).await;
    let before = (site.messages("jobs").await, site.messages("uploads").await);
    let made_jobs = Mutex::new(Vec::new());
    futures::stream::iter(0..count)
        .for_each_concurrent(32, |_| async {
            let parts = [("v0000", JobPartStatus::Done), ("a0", JobPartStatus::Done)];
            let (job, _) = site.ended(JobStatus::Succeeded, &parts).await;
            made_jobs.lock().push(job.key());
            let mut upload = upload_record();
            upload.mark_ended(upload::UploadStatus::Received, nats::now_ms(), 2_000);
            site.put(upload).await;
        })
        .await;
    let config = KeeperConfig { fold_age_ms: 0, removal_told_ms: 1_000, ..KeeperConfig::default() };
    let now_ms = nats::now_ms() + 1;
    let folded = run_fold_pass(&site.keeper, now_ms, &config).await.unwrap();
    let made = u64::try_from(count).unwrap();
    assert_eq!(folded, FoldReport { folded_count: made, removed_count: 2 * made });
    // Their time is over.
    let made_jobs = made_jobs.into_inner();
    futures::stream::iter(made_jobs)
        .for_each_concurrent(32, |key| {
            let admin = &site.admin;
            async move {
                let over = |job: Option<&job::JobRecord>| {
                    Some((
                        job::JobRecord { kept_until_ms: Some(nats::now_ms()), ..job?.clone() },
                        Outbox::new(),
                    ))
                };
                admin.change_record::<job::JobRecord>(&key, over).await.unwrap();
            }
        })
        .await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20) + Duration::from_millis(made);
    loop {
        let now = (site.messages("jobs").await, site.messages("uploads").await);
        if now == before {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{now:?}, should be {before:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
