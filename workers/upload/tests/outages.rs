//! The stage against a real broker, real stores and the real media child, while something is away.
#![expect(clippy::unwrap_used, reason = "what a test can't set up fails it at once")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use nats::{Outbox, Role, VersionedRecord, testing::TestBroker};
use schemas::{
    ids::{MediaId, UploadId},
    keys,
    media::{MediaRecord, MediaStatus},
    subjects,
    upload::UploadReceived,
};
use store::{
    Store,
    testing::{
        TestS3Server,
        proxy::{FaultProxy, ProxyMode},
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longest time anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(50);

/// Tries are few and pauses short: an outage has to outlast all of them.
fn config() -> upload::UploadStageConfig {
    let mut config = upload::UploadStageConfig::default();
    config.consume.attempts_max = 2;
    (config.consume.retry_delay_ms, config.consume.retry_delay_ms_max) = (20, 50);
    (config.consume.outage_delay_ms, config.consume.outage_delay_ms_max) = (20, 100);
    config.consume.poll_ms = 100;
    config
}

/// The child program beside the test's own folder.
fn child() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("streamgate-media");
    assert!(path.is_file(), "build the media child first: cargo build --package media-child");
    path
}

/// A clip of a second.
static CLIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "1"])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::read(path).unwrap()
});

struct Site {
    broker: TestBroker,
    bus: nats::Bus,
    store: Store,
    folder: TempDir,
}

impl Site {
    async fn start(config: impl FnOnce(&Path) -> store::StoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = TestBroker::start().await;
        let bus = broker.bus(Role::Admin).await;
        let store = store::testing::open_test_store(config(&folder.path().join("store"))).unwrap();
        Self { broker, bus, store, folder }
    }

    async fn local() -> Self {
        Self::start(|folder| store::StoreConfig::from_url(format!("file://{}", folder.display()))).await
    }

    fn store_is_away(&self, is_away: bool) {
        let (here, away) = (self.folder.path().join("store"), self.folder.path().join("away"));
        let (from, to) = if is_away { (here, away) } else { (away, here) };
        std::fs::rename(from, to).unwrap();
    }

    /// A medium whose bytes are said to lie under `key`; by default they do.
    async fn received(&self, key: Option<&str>) -> UploadReceived {
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        let key = key.map_or_else(|| keys::source_key(media_id), str::to_owned);
        let received = UploadReceived {
            upload_id: UploadId::from_bytes(nats::new_id_bytes()),
            media_id,
            owner: "owner".into(),
            key: key.clone(),
            size_bytes: u64::try_from(CLIP.len()).unwrap(),
            filename: None,
            content_type: None,
            digest: None,
            settings: schemas::encode::EncodeSettings::default(),
        };
        let record = MediaRecord::new(media_id, "owner".into(), MediaStatus::Uploading, nats::now_ms());
        self.bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
        received
    }

    async fn stored(&self) -> UploadReceived {
        let received = self.received(None).await;
        self.store.put(&received.key, CLIP.clone()).await.unwrap();
        received
    }

    async fn publish(&self, received: &UploadReceived) {
        self.bus.publish_event(received, "test").await.unwrap();
    }

    async fn worker(&self) -> CancellationToken {
        let settings =
            media::MediaDriverConfig { child_path: Some(child()), ..media::MediaDriverConfig::default() };
        let driver = Arc::new(media::MediaDriver::start(settings).await.unwrap());
        let shutdown = CancellationToken::new();
        let bus = self.broker.bus(Role::Upload).await;
        tokio::spawn(upload::run(bus, self.store.clone(), driver, config(), shutdown.clone()));
        shutdown
    }

    async fn record(&self, received: &UploadReceived) -> MediaRecord {
        self.bus.load_record::<MediaRecord>(&received.media_id.to_string()).await.unwrap().unwrap().record
    }

    async fn wait(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds().await {
            assert!(Instant::now() < deadline, "no {what} within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_waiting(&self, received: &UploadReceived) -> String {
        self.wait("medium that waits", async || self.record(received).await.waiting.is_some()).await;
        self.record(received).await.waiting.unwrap().code
    }

    /// Waits until the stage was given messages so often that counted tries would be used up.
    async fn wait_deliveries(&self, count: u64) {
        let delivered = async || {
            let stream = self.bus.context().get_stream(subjects::EVENTS).await.unwrap();
            stream.consumer_info("upload").await.unwrap().delivered.consumer_sequence
        };
        let first = delivered().await;
        self.wait("deliveries", async || delivered().await >= first + count).await;
    }

    async fn check_stored(&self, received: &UploadReceived) {
        self.wait("verdict", async || self.record(received).await.status != MediaStatus::Uploading).await;
        let record = self.record(received).await;
        assert_eq!((record.status, record.waiting, record.attempt.faults), (MediaStatus::Stored, None, 0));
        assert_eq!(self.bus.dead_letters(0, 10, |_| true).await.unwrap().letters, []);
    }

    /// Dead letters so far.
    async fn letters(&self) -> u64 {
        let stream = self.bus.context().get_stream(subjects::DEAD).await.unwrap();
        stream.cached_info().state.messages
    }

    async fn count(&self, verb: &str) -> u64 {
        let stream = self.bus.context().get_stream(subjects::EVENTS).await.unwrap();
        let mut found = stream.info_with_subjects(format!("evt.media.{verb}.*")).await.unwrap();
        let mut count = 0;
        while let Some(Ok((_, messages))) = futures::StreamExt::next(&mut found).await {
            count += u64::try_from(messages).unwrap();
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_folder_that_is_away_is_waited_for() {
    let site = Site::local().await;
    let received = site.stored().await;
    site.store_is_away(true);
    site.publish(&received).await;
    let worker = site.worker().await;
    assert!(site.wait_waiting(&received).await.starts_with("store_"));
    site.wait_deliveries(8).await;
    site.store_is_away(false);
    site.check_stored(&received).await;
    assert_eq!(site.count("delayed").await, 1, "an outage is published once");
    worker.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_errs_or_hangs_is_waited_for() {
    let server = TestS3Server::start().await.unwrap();
    let proxy = FaultProxy::start(&server).await.unwrap();
    let site = Site::start(|_| proxy.store_config(&server)).await;
    let worker = site.worker().await;
    for (mode, code) in [(ProxyMode::Status(500), "store_unavailable"), (ProxyMode::Hang, "store_slow")] {
        let received = site.stored().await;
        proxy.set_mode(mode);
        site.publish(&received).await;
        assert_eq!(site.wait_waiting(&received).await, code, "{mode:?}");
        site.wait_deliveries(3).await;
        proxy.set_mode(ProxyMode::Pass);
        site.check_stored(&received).await;
    }
    let received = site.stored().await;
    proxy.set_mode(ProxyMode::Slow(20));
    site.publish(&received).await;
    site.check_stored(&received).await;
    worker.cancel();
}

/// A lost worker leaves a delivery behind, and so does an outage.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_no_tries() {
    let site = Site::local().await;
    site.stored().await;
    let received = site.received(None).await;
    site.publish(&received).await;
    let durable = site.bus.context().get_consumer_from_stream("upload", subjects::EVENTS);
    let durable: async_nats::jetstream::consumer::PullConsumer = durable.await.unwrap();
    for _ in 0..6 {
        let mut pulled =
            durable.batch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
        let message = futures::StreamExt::next(&mut pulled).await.unwrap().unwrap();
        message.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    }
    let worker = site.worker().await;
    site.wait("verdict", async || site.record(&received).await.status == MediaStatus::Rejected).await;
    let record = site.record(&received).await;
    assert_eq!((record.code.as_deref(), record.attempt.faults), (Some("object_not_found"), 2));
    worker.cancel();
}

/// What gives a message up is away while that is recorded: the letter is there once, and the record follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_waits_for_room_in_its_bucket() {
    let site = Site::local().await;
    let received = site.received(Some("no/../key")).await;
    limit(&site, 1).await;
    site.publish(&received).await;
    let worker = site.worker().await;
    site.wait("letter", async || site.letters().await == 1).await;
    site.wait_deliveries(4).await;
    assert_eq!(site.record(&received).await.status, MediaStatus::Uploading);
    limit(&site, 1 << 20).await;
    site.wait("verdict", async || site.record(&received).await.status == MediaStatus::Rejected).await;
    assert_eq!(site.letters().await, 1, "it was given up once");
    let counted = "streamgate_stage_dead_letters_total{stage=\"upload\"} 1\n";
    let metrics = || nats::metrics::render_collector(nats::metrics::DeclaredFamilies);
    site.wait("count of it", async || metrics().contains(counted)).await;
    worker.cancel();
}

async fn limit(site: &Site, bytes: i64) {
    let name = subjects::kv_stream_name("assets");
    let info = site.bus.context().get_stream(name).await.unwrap().cached_info().clone();
    let used = i64::try_from(info.state.bytes).unwrap();
    let config = async_nats::jetstream::stream::Config { max_bytes: used + bytes, ..info.config };
    site.bus.context().update_stream(&config).await.unwrap();
}
