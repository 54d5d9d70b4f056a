//! The stage with a real broker, dispatcher and store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture};
use nats::{
    Bus, Outbox, ReaderStart, Role, VersionedRecord, consume::ConsumeConfig, reader, testing::TestBroker,
};
use packaging::ChecksumList;
use schemas::{
    KvRecord,
    export::ExportOrder,
    ids::{JobId, MediaId, UploadId},
    job::{self, JobPartRecord, JobPartStatus, JobQueue, JobRecord, JobStatus, VerifyReport},
    job_action::{JobActionOrder, JobActionOutcome},
    keys,
    media::{EncodedRendition, MediaEncode, MediaRecord, MediaSource, MediaStatus},
    subjects::{self, JobPriority},
};
use sha2::{Digest, Sha256};
use store::{Store, StoreConfig};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    ExportError, ExportedFile, ExportedFiles, FetchError, FetchStanding, FetchedUploads, JobActor,
    PictureError, PictureRequest, PictureTaker, SourceBytes, TaskError, TaskServices, TasksConfig, run_tasks,
};

mod fetch;
mod job_actions;

const LIMIT: Duration = Duration::from_secs(60);

const MEDIUM: MediaId = MediaId::from_bytes([7; 16]);

/// Path of the encode below the folder of its medium.
const ENCODE: &str = "e1/0123456789abcdef";

/// A broker with a dispatcher and a worker, and a store in a folder.
struct Site {
    admin: Bus,
    broker: TestBroker,
    folder: TempDir,
    store: Store,
    tasks: Vec<AbortOnDropHandle<()>>,
}

fn config() -> TasksConfig {
    let parts = ConsumeConfig {
        slots: 1,
        attempts_max: 2,
        retry_delay_ms: 10,
        retry_delay_ms_max: 10,
        outage_delay_ms: 50,
        outage_delay_ms_max: 100,
        ..ConsumeConfig::default()
    };
    TasksConfig { parts, ..TasksConfig::default() }
}

/// For tests without actions.
#[derive(Debug)]
struct NoActor;

impl JobActor for NoActor {
    fn act<'a>(
        &'a self,
        job_id: JobId,
        _: &'a JobActionOrder,
        _: &'a JobRecord,
    ) -> BoxFuture<'a, Result<Option<JobActionOutcome>, TaskError>> {
        unreachable!("nobody asked for an action on {job_id}")
    }
}

/// For tests without pictures.
#[derive(Debug)]
struct NoPictures;

impl PictureTaker for NoPictures {
    fn take(&self, wanted: PictureRequest) -> BoxFuture<'_, Result<bytes::Bytes, PictureError>> {
        unreachable!("nobody asked for {wanted:?}")
    }
}

/// For tests that put no files together.
#[derive(Debug)]
struct NoFiles;

impl ExportedFiles for NoFiles {
    fn open<'a>(
        &'a self,
        _: &'a MediaEncode,
        order: &'a ExportOrder,
    ) -> BoxFuture<'a, Result<ExportedFile, ExportError>> {
        unreachable!("nobody asked for {order:?}")
    }
}

/// For tests that fetch nothing.
#[derive(Debug)]
struct NoUploads;

impl FetchedUploads for NoUploads {
    fn read(&self, upload_id: UploadId) -> BoxFuture<'_, Result<FetchStanding, FetchError>> {
        unreachable!("nobody fetches for {upload_id}")
    }

    fn receive(&self, upload_id: UploadId, _: SourceBytes) -> BoxFuture<'_, Result<(), FetchError>> {
        unreachable!("nobody fetches for {upload_id}")
    }

    fn end<'a>(&'a self, upload_id: UploadId, _: &'a str) -> BoxFuture<'a, Result<(), FetchError>> {
        unreachable!("nobody fetches for {upload_id}")
    }
}

impl Site {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("store").display());
        let store = store::testing::open_test_store(StoreConfig::from_url(url)).unwrap();
        let admin = broker.bus(Role::Admin).await;
        let keeper = broker.bus(Role::Keeper).await;
        let dispatching = dispatch::run_dispatcher(
            keeper,
            JobQueue::Tasks,
            dispatch::DispatchConfig::default(),
            dispatch::DispatchMetrics::default(),
            CancellationToken::new(),
        );
        let tasks = vec![AbortOnDropHandle::new(tokio::spawn(dispatching))];
        Self { admin, broker, folder, store, tasks }
    }

    async fn worker(&mut self, config: TasksConfig) {
        self.worker_with(config, Arc::new(NoActor)).await;
    }

    async fn worker_with(&mut self, config: TasksConfig, actor: Arc<dyn JobActor>) {
        let client = outbound::OutboundClient::new(outbound::OutboundConfig::default()).unwrap();
        self.worker_of(
            config,
            TaskServices {
                actor,
                uploads: Arc::new(NoUploads),
                client,
                pictures: Arc::new(NoPictures),
                files: Arc::new(NoFiles),
            },
        )
        .await;
    }

    async fn worker_of(&mut self, config: TasksConfig, services: TaskServices) {
        let (bus, store) = (self.broker.bus(Role::Tasks).await, self.store.clone());
        let working =
            async { run_tasks(bus, store, config, services, CancellationToken::new()).await.unwrap() };
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(working)));
    }

    fn path(&self, object: &str) -> PathBuf {
        self.folder.path().join("store").join(keys::media_prefix(MEDIUM)).join(object)
    }

    async fn put<R: KvRecord>(&self, record: R) {
        self.admin.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    }

    /// A medium that is ready, with its objects.
    async fn store_medium(&self, has_checksums: bool) -> MediaRecord {
        let medium = self.store_objects(has_checksums).await;
        self.put(medium.clone()).await;
        medium
    }

    /// The objects of a medium; answers its record.
    async fn store_objects(&self, has_checksums: bool) -> MediaRecord {
        let mut checksums = ChecksumList::default();
        let put = async |path: &str, bytes: Vec<u8>| {
            let digest = digest(&bytes);
            self.store.put(&format!("{}/{path}", keys::media_prefix(MEDIUM)), bytes).await.unwrap();
            digest
        };
        for (path, bytes) in [
            ("v360/init.mp4", vec![1; 100]),
            ("v360/1.m4s", vec![2; 2_000]),
            ("v360/2.m4s", vec![3; 3_000]),
            ("v360/index.m3u8", vec![4; 40]),
            ("master.m3u8", vec![5; 50]),
            ("manifest.mpd", vec![6; 60]),
        ] {
            let sha256 = put(&format!("{ENCODE}/{path}"), bytes).await;
            checksums.insert(path, sha256);
        }
        if has_checksums {
            let path = format!("{ENCODE}/{}", keys::checksums_path("v0000"));
            put(&path, checksums.render().into_bytes()).await;
        }
        let sha256 = put("source", vec![9; 10_000]).await;
        let source = MediaSource { key: keys::source_key(MEDIUM), size_bytes: 10_000, sha256 };
        let rendition = EncodedRendition {
            name: "v360".into(),
            codecs: "avc1.64001f".into(),
            width: 640,
            height: 360,
            peak_bps: 1,
            average_bps: 1,
            segment_count: 2,
            size_bytes: 5_100,
        };
        let encode = MediaEncode {
            number: 1,
            job_id: JobId::from_bytes([8; 16]),
            prefix: format!("{}/{ENCODE}", keys::media_prefix(MEDIUM)),
            duration_ms: 4_000,
            renditions: vec![rendition],
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums,
            warnings: Vec::new(),
        };
        MediaRecord {
            source: Some(source),
            encode: Some(encode),
            ..MediaRecord::new(MEDIUM, "olga".into(), MediaStatus::Ready, nats::now_ms())
        }
    }

    /// Has the medium verified.
    async fn begin(&self) -> JobId {
        let job_id = JobId::from_bytes(nats::new_id_bytes());
        let plan = job::EncodePlan { duration_ms: 4_000, source_bytes: 10_000, ..job::EncodePlan::default() };
        let medium = (MEDIUM, "olga");
        let job = JobRecord::new_task(job_id, job::VERIFY, medium, (plan, JobPriority::P1), nats::now_ms());
        self.put(job).await;
        job_id
    }

    async fn job(&self, job_id: JobId) -> JobRecord {
        self.admin.load_record::<JobRecord>(&job_id.to_string()).await.unwrap().unwrap().record
    }

    async fn part(&self, job_id: JobId) -> Option<JobPartRecord> {
        let key = subjects::part_key(job_id, job::TASK);
        self.admin.load_record::<JobPartRecord>(&key).await.unwrap().map(|held| held.record)
    }

    async fn wait(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let waited = tokio::time::timeout(LIMIT, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "never came: {what}");
    }

    /// The job once it has ended, and nothing of it is in the queue.
    async fn ended(&self, job_id: JobId) -> JobRecord {
        self.wait("the end of the job", async || {
            let is_queued =
                !self.admin.stream_subjects(subjects::JOBS, subjects::JOBS_ALL).await.unwrap().is_empty();
            self.job(job_id).await.status != JobStatus::Active && !is_queued
        })
        .await;
        self.job(job_id).await
    }

    async fn verify(&self) -> (JobRecord, VerifyReport) {
        let job_id = self.begin().await;
        let job = self.ended(job_id).await;
        let report = job.verified.clone().unwrap_or_else(|| panic!("it was not verified: {job:?}"));
        (job, report)
    }

    async fn events(&self, job_id: JobId) -> Vec<String> {
        let filter = vec![subjects::job_event_filter(job_id)];
        let config = reader::ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::Sequence(1));
        let mut events = self.admin.open_reader(config).await.unwrap();
        let mut verbs = Vec::new();
        while let Some(event) = events.next_pending().await.unwrap() {
            verbs.push(subjects::parse_event_subject(&event.subject).unwrap().1.to_owned());
        }
        verbs
    }
}

fn digest(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// What is said of each object.
fn faults(report: &VerifyReport) -> Vec<(&str, &str)> {
    report.first_faults.iter().map(|fault| (fault.object.as_str(), fault.code.as_str())).collect()
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_medium_is_read_to_the_last_byte() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    site.store_medium(true).await;
    let (job, report) = site.verify().await;
    let read_bytes = 10_000 + 100 + 2_000 + 3_000 + 40 + 50 + 60;
    assert_eq!(report, VerifyReport { encode: Some(1), objects: 7, read_bytes, ..VerifyReport::default() });
    assert_eq!((job.status, job.code), (JobStatus::Succeeded, None));
    assert!(job.kept_until_ms.is_some(), "an ended job is not kept for ever");
    assert_eq!(site.part(job.job_id).await.unwrap().status, JobPartStatus::Done);
    assert_eq!(site.events(job.job_id).await, ["started", "succeeded"]);
}

/// Its name, what is done to the store, and what is found.
type DamageCase = (&'static str, Box<dyn Fn(&Site)>, Vec<(String, &'static str)>);

fn in_encode(path: &str) -> String {
    format!("{ENCODE}/{path}")
}

fn checksums() -> String {
    in_encode(&keys::checksums_path("v0000"))
}

fn list_damages() -> Vec<DamageCase> {
    vec![
        (
            "a bit of a segment",
            Box::new(|site| flip_a_bit(&site.path(&in_encode("v360/2.m4s")))),
            vec![(in_encode("v360/2.m4s"), "digest_differs")],
        ),
        (
            "a bit of a playlist",
            Box::new(|site| flip_a_bit(&site.path(&in_encode("master.m3u8")))),
            vec![(in_encode("master.m3u8"), "digest_differs")],
        ),
        (
            "a segment is gone",
            Box::new(|site| std::fs::remove_file(site.path(&in_encode("v360/1.m4s"))).unwrap()),
            vec![(in_encode("v360/1.m4s"), "missing")],
        ),
        (
            "the checksums are gone",
            Box::new(|site| std::fs::remove_file(site.path(&checksums())).unwrap()),
            ["manifest.mpd", "master.m3u8", "v360/1.m4s", "v360/2.m4s", "v360/index.m3u8", "v360/init.mp4"]
                .map(|path| (in_encode(path), "no_checksum"))
                .to_vec(),
        ),
        (
            "a list of checksums is another text",
            Box::new(|site| std::fs::write(site.path(&checksums()), "no list").unwrap()),
            [
                "checksums/v0000.sha256",
                "manifest.mpd",
                "master.m3u8",
                "v360/1.m4s",
                "v360/2.m4s",
                "v360/index.m3u8",
                "v360/init.mp4",
            ]
            .map(|path| {
                (in_encode(path), if path.starts_with("checksums") { "malformed" } else { "no_checksum" })
            })
            .to_vec(),
        ),
        (
            "a bit of the source",
            Box::new(|site| flip_a_bit(&site.path("source"))),
            vec![("source".into(), "digest_differs")],
        ),
        (
            "the end of the source",
            Box::new(|site| std::fs::write(site.path("source"), vec![9; 9_999]).unwrap()),
            vec![("source".into(), "size_differs")],
        ),
        (
            "the source is gone",
            Box::new(|site| std::fs::remove_file(site.path("source")).unwrap()),
            vec![("source".into(), "missing")],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_named() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    site.store_medium(true).await;
    for (name, damage, wanted) in list_damages() {
        damage(&site);
        let (job, report) = site.verify().await;
        let wanted: Vec<(&str, &str)> = wanted.iter().map(|(path, code)| (path.as_str(), *code)).collect();
        assert_eq!(faults(&report), wanted, "{name}");
        assert_eq!(report.faults, wanted.len() as u64, "{name}");
        assert_eq!(
            (job.status, job.code.as_deref()),
            (JobStatus::Failed, Some(job::MEDIA_DAMAGED)),
            "{name}"
        );
        assert_eq!(site.events(job.job_id).await, ["started", "failed"], "{name}");
        // As it was.
        site.store_objects(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_without_checksums_is_compared_by_size() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    site.store_medium(false).await;
    let (job, report) = site.verify().await;
    assert_eq!((report.read_bytes, report.sized_bytes, report.faults), (10_000, 5_250, 0));
    assert_eq!(job.status, JobStatus::Succeeded);
    std::fs::write(site.path(&format!("{ENCODE}/v360/2.m4s")), vec![3; 2_999]).unwrap();
    std::fs::write(site.path(&format!("{ENCODE}/manifest.mpd")), "").unwrap();
    let (_, report) = site.verify().await;
    let (rendition, manifest) = (format!("{ENCODE}/v360"), format!("{ENCODE}/manifest.mpd"));
    assert_eq!(faults(&report), [(manifest.as_str(), "size_differs"), (rendition.as_str(), "size_differs")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_concluded_while_the_store_is_away() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    site.store_medium(true).await;
    let (here, away) = (site.folder.path().join("store"), site.folder.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    let job_id = site.begin().await;
    site.wait("a try that met the outage", async || {
        site.part(job_id).await.is_some_and(|part| part.code.is_some())
    })
    .await;
    assert_eq!(site.job(job_id).await.status, JobStatus::Active);
    std::fs::rename(&away, &here).unwrap();
    let job = site.ended(job_id).await;
    assert_eq!((job.status, job.verified.unwrap().faults), (JobStatus::Succeeded, 0));
    let part = site.part(job_id).await.unwrap();
    assert_eq!((part.attempt, part.faults), (1, 0), "an outage is no try");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_read_no_further() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    let medium = site.store_medium(true).await;
    // Much to read, and nothing on the disk.
    let size_bytes = 64 << 30;
    std::fs::File::options().write(true).open(site.path("source")).unwrap().set_len(size_bytes).unwrap();
    let source = medium.source.clone().map(|source| MediaSource { size_bytes, ..source });
    let change = |found: Option<&MediaRecord>| {
        Some((MediaRecord { source: source.clone(), ..found?.clone() }, Outbox::new()))
    };
    site.admin.change_record::<MediaRecord>(&MEDIUM.to_string(), change).await.unwrap();
    let mut progress = site.admin.subscribe_core(subjects::PROGRESS_ALL.to_owned()).await.unwrap();
    nats::testing::wait_until_taken(&site.admin).await;
    let job_id = site.begin().await;
    // It reads: a job that is cancelled before leaves no record of its part.
    tokio::time::timeout(LIMIT, progress.next()).await.unwrap().unwrap();
    let cancel = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_cancellation(Some("olga"), 1, schemas::ENDED_KEPT_MS)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    site.admin.change_record::<JobRecord>(&job_id.to_string(), cancel).await.unwrap();
    let cancelled = std::time::Instant::now();
    site.admin.publish_core(subjects::job_cancel_subject(job_id), Vec::new()).await.unwrap();
    let job = site.ended(job_id).await;
    assert!(cancelled.elapsed() < Duration::from_secs(5), "the worker went on: {:?}", cancelled.elapsed());
    assert_eq!((job.status, job.verified), (JobStatus::Cancelled, None));
    assert_eq!(site.part(job_id).await.unwrap().last_seen_ms, 0, "nobody holds it");
    assert_eq!(site.events(job_id).await, ["started", "cancelled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_can_t_be_done_ends_with_a_code() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    let job_id = site.begin().await;
    let job = site.ended(job_id).await;
    assert_eq!((job.status, job.code.as_deref()), (JobStatus::Failed, Some("media_gone")));
    assert_eq!(site.part(job_id).await.unwrap().status, JobPartStatus::Done, "nobody has to look into it");
    site.put(MediaRecord::new(MEDIUM, "olga".into(), MediaStatus::Uploading, 1)).await;
    let job_id = site.begin().await;
    assert_eq!(site.ended(job_id).await.code.as_deref(), Some("nothing_stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_is_given_up() {
    let mut site = Site::start().await;
    site.store_medium(true).await;
    site.worker(TasksConfig { try_time_ms_max: 0, ..config() }).await;
    let job_id = site.begin().await;
    let job = site.ended(job_id).await;
    assert_eq!((job.status, job.code.as_deref()), (JobStatus::Failed, Some("time_exceeded")));
    let part = site.part(job_id).await.unwrap();
    assert_eq!((part.status, part.faults), (JobPartStatus::Failed, 1), "the next try would take as long");
    let letters = site.admin.dead_letters(0, 10, |_| true).await.unwrap().letters;
    assert_eq!(letters.iter().map(|letter| letter.stage.as_str()).collect::<Vec<_>>(), ["tasks"]);
}
