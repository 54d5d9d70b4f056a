//! A broker, a store and workers for one test.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use nats::{Outbox, Role, VersionedRecord, testing::TestBroker, topology::TopologySettings};
use schemas::{
    examples,
    ids::{JobId, MediaId, UploadId},
    job::{self, JobPartRecord},
    keys,
    media::{
        self as records, AudioTrack, MediaSource, MediaStatus, MediaStored, TechnicalMetadata, VideoTrack,
    },
    subjects,
};
use sha2::{Digest, Sha256};
use store::Store;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What a test clip looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clip {
    pub(crate) seconds: u32,
    pub(crate) size: &'static str,
    pub(crate) has_video: bool,
    pub(crate) has_audio: bool,
    pub(crate) is_still: bool,
}

impl Default for Clip {
    fn default() -> Self {
        Self { seconds: 4, size: "320x180", has_video: true, has_audio: true, is_still: false }
    }
}

/// A clip in the store that the planner was notified of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploaded {
    pub(crate) media_id: MediaId,
    pub(crate) job_id: JobId,
}

/// Broker, store and folder; gone when dropped.
pub(crate) struct Site {
    pub(crate) broker: TestBroker,
    pub(crate) store: Store,
    folder: TempDir,
    _dispatching: AbortOnDropHandle<()>,
}

/// A worker in this process.
pub(crate) struct Worker {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), nats::BusError>>,
}

/// What the ffmpeg program found in a rendition.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) frames: usize,
    pub(crate) key_times_ms: Vec<u64>,
}

/// The tiny profile with short times, so that a lost worker is replaced within seconds.
pub(crate) fn config() -> transcode::TranscodeConfig {
    let mut config =
        transcode::TranscodeConfig { profile: "tiny".into(), ..transcode::TranscodeConfig::default() };
    config.claim_fresh_ms = 1_500;
    config.renew_interval_ms = 300;
    config.progress_interval_ms = 200;
    config.parts.slots = 2;
    config.parts.retry_delay_ms = 50;
    config.parts.retry_delay_ms_max = 500;
    config.parts.poll_ms = 200;
    config.planner.poll_ms = 200;
    config
}

/// The child program beside the test's own folder.
fn child() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("streamgate-media");
    assert!(path.is_file(), "build the media child first: cargo build --package media-child");
    path
}

/// A program at `path` that becomes the child program once there is no file at `hold`; the check at start is not held.
fn waiting_child(path: &Path, hold: &Path) {
    let text = format!(
        "#!/bin/sh\nwhile [ \"$1\" != check ] && [ -e '{}' ]; do /bin/sleep 0.02; done\nexec '{}' \"$@\"\n",
        hold.display(),
        child().display()
    );
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Number of media children of this process that are alive.
pub(crate) fn children() -> usize {
    child_ids().len()
}

/// Kills every media child of this process (SIGKILL).
pub(crate) fn kill_children() {
    for id in child_ids() {
        // It may have ended by itself meanwhile.
        drop(Command::new("kill").args(["-9", &id]).output().unwrap());
    }
}

fn child_ids() -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let is_child = |stat: &String| {
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let fields: Vec<&str> = after.split_whitespace().take(2).collect();
        // The driver's thread starts them, so they are children of this process.
        stat.contains("(streamgate-medi")
            && fields.first() != Some(&"Z")
            && fields.get(1) == Some(&own.as_str())
    };
    stats.filter(is_child).filter_map(|stat| stat.split_whitespace().next().map(str::to_owned)).collect()
}

static FILES: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Makes a clip with the ffmpeg program.
fn file(clip: Clip) -> Vec<u8> {
    let name = if clip.is_still { "still.png" } else { "clip.mp4" };
    let path = FILES.path().join(format!("{}-{name}", data_encoding::HEXLOWER.encode(&nats::new_id_bytes())));
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y"]);
    let seconds = clip.seconds.to_string();
    if clip.is_still {
        command.args(["-f", "lavfi", "-i", &format!("testsrc2=size={}:rate=1", clip.size), "-frames:v", "1"]);
    } else {
        if clip.has_video {
            command.args(["-f", "lavfi", "-i", &format!("testsrc2=size={}:rate=25", clip.size)]);
        }
        if clip.has_audio {
            command.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        }
        command.args([
            "-t",
            &seconds,
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "75",
        ]);
        command.args(["-c:a", "aac", "-ac", "2", "-movflags", "+faststart"]);
    }
    let status = command.arg(&path).status().unwrap();
    assert!(status.success());
    std::fs::read(path).unwrap()
}

fn side(text: Option<&str>) -> u32 {
    text.unwrap().parse().unwrap()
}

/// The asset and the event that the upload stage would leave behind for a clip.
pub(crate) fn stored(clip: Clip, size_bytes: u64) -> (records::MediaRecord, MediaStored) {
    let media_id = MediaId::from_bytes(nats::new_id_bytes());
    let end_us = i64::from(clip.seconds) * 1_000_000;
    let mut sides = clip.size.split('x');
    let (width, height) = (side(sides.next()), side(sides.next()));
    let video = VideoTrack {
        codec: if clip.is_still { "png" } else { "h264" }.into(),
        width,
        height,
        color_transfer: None,
        color_primaries: None,
        frame_count: u64::from(clip.seconds) * 25,
        end_us,
        ..examples::video_track()
    };
    let audio = AudioTrack {
        index: u32::from(clip.has_video),
        channels: 2,
        language: Some("en".into()),
        start_us: 0,
        end_us,
        ..examples::audio_track()
    };
    let technical = TechnicalMetadata {
        container: "mp4".into(),
        duration_ms: u64::from(clip.seconds) * 1_000,
        bit_rate_bps: 1,
        video: if clip.has_video { vec![video] } else { Vec::new() },
        audio: if clip.has_audio && !clip.is_still { vec![audio] } else { Vec::new() },
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: clip.is_still,
        clock: Vec::new(),
        warnings: Vec::new(),
    };
    let source = MediaSource { key: keys::source_key(media_id), size_bytes, sha256: String::new() };
    let asset = records::MediaRecord {
        source: Some(source.clone()),
        technical: Some(technical.clone()),
        ..records::MediaRecord::new(media_id, "owner".into(), MediaStatus::Stored, nats::now_ms())
    };
    let upload_id = UploadId::from_bytes(nats::new_id_bytes());
    let settings = schemas::encode::EncodeSettings::default();
    (asset, MediaStored { media_id, upload_id, owner: "owner".into(), source, technical, settings })
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("store").display());
        Self::with(TestBroker::start().await, store::StoreConfig::from_url(url), folder).await
    }

    /// With a broker that is set up as `settings` say.
    pub(crate) async fn start_with(settings: &TopologySettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("store").display());
        Self::with(TestBroker::start_with(settings).await, store::StoreConfig::from_url(url), folder).await
    }

    /// With a store elsewhere.
    pub(crate) async fn start_at(config: store::StoreConfig) -> Self {
        Self::with(TestBroker::start().await, config, tempfile::tempdir().unwrap()).await
    }

    async fn with(broker: TestBroker, config: store::StoreConfig, folder: TempDir) -> Self {
        // As the keeper does: only what it lets in is in the queue.
        let bus = broker.bus(Role::Keeper).await;
        let dispatching = dispatch::run_dispatcher(
            bus,
            schemas::job::JobQueue::Transcode,
            dispatch::DispatchConfig::default(),
            dispatch::DispatchMetrics::default(),
            CancellationToken::new(),
        );
        Self {
            broker,
            store: store::testing::open_test_store(config).unwrap(),
            folder,
            _dispatching: AbortOnDropHandle::new(tokio::spawn(dispatching)),
        }
    }

    /// Takes the folder of the store away, or brings it back.
    pub(crate) fn store_is_away(&self, is_away: bool) {
        let (here, away) = (self.folder.path().join("store"), self.folder.path().join("away"));
        let (from, to) = if is_away { (here, away) } else { (away, here) };
        std::fs::rename(from, to).unwrap();
    }

    /// Keeps children from beginning their work, until they may.
    pub(crate) fn hold_children(&self, is_held: bool) {
        let (program, hold) = (self.folder.path().join("child"), self.folder.path().join("hold"));
        if is_held {
            std::fs::write(&hold, "").unwrap();
            waiting_child(&program, &hold);
        } else {
            std::fs::remove_file(hold).unwrap();
        }
    }

    /// Lets a stream take `bytes` more than it holds.
    pub(crate) async fn limit_stream(&self, name: &str, bytes: i64) {
        let bus = self.broker.bus(Role::Admin).await;
        let info = bus.context().get_stream(name).await.unwrap().cached_info().clone();
        let used = i64::try_from(info.state.bytes).unwrap();
        let config = async_nats::jetstream::stream::Config { max_bytes: used + bytes, ..info.config };
        bus.context().update_stream(&config).await.unwrap();
    }

    /// Waits until the work on a medium says what it waits for.
    pub(crate) async fn wait_waiting(&self, media_id: MediaId, limit: Duration) -> records::MediaWaitReason {
        let mut found = None;
        self.wait(limit, "medium that waits", async || {
            found = self.asset(media_id).await.waiting;
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Dead letters so far.
    pub(crate) async fn dead_letters(&self) -> Vec<nats::dead_letter::DeadLetter> {
        self.broker.bus(Role::Admin).await.dead_letters(0, 100, |_| true).await.unwrap().letters
    }

    /// Puts a clip into the store and notifies the planner, as the upload stage does.
    pub(crate) async fn upload(&self, clip: Clip) -> Uploaded {
        let bytes = tokio::task::spawn_blocking(move || file(clip)).await.unwrap();
        let (asset, event) = stored(clip, u64::try_from(bytes.len()).unwrap());
        let media_id = asset.media_id;
        self.store.put(&keys::source_key(media_id), bytes).await.unwrap();
        let bus = self.broker.bus(Role::Upload).await;
        bus.commit_record(&mut VersionedRecord::new(asset), Outbox::new().with_event(&event)).await.unwrap();
        Uploaded { media_id, job_id: packaging::plan::derive_job_id(media_id, 1) }
    }

    /// Leaves the job behind that a worker of another version would have planned; gives its plan.
    pub(crate) async fn plan_as(&self, version: &str, clip: Uploaded) -> job::EncodePlan {
        let asset = self.asset(clip.media_id).await;
        let (source, technical) = (asset.source.unwrap(), asset.technical.unwrap());
        let config = config();
        let input = packaging::plan::EncodePlanInput {
            source: &source,
            technical: &technical,
            profile_name: &config.profile,
            profile: config.find_profile(&config.profile).unwrap(),
            range: None,
        };
        let mut plan = packaging::plan::plan_encode(&input).unwrap();
        version.clone_into(&mut plan.options_version);
        let record = job::JobRecord {
            job_id: clip.job_id,
            kind: "transcode".into(),
            priority: subjects::JobPriority::default(),
            media_id: clip.media_id,
            owner: asset.owner,
            status: job::JobStatus::Active,
            encode: 1,
            prefix: keys::encode_prefix(clip.media_id, 1, &plan.options_digest),
            parts: packaging::plan::part_names(&plan),
            plan: plan.clone(),
            code: None,
            detail: None,
            created_at_ms: nats::now_ms(),
            ended_at_ms: None,
            kept_until_ms: None,
            folded: None,
            publishing_at_ms: None,
            retry_of: None,
            cleared_at_ms: None,
            made: Vec::new(),
            paused_at_ms: None,
            scheduled: None,
            verified: None,
            action: None,
            acted: None,
            fetch: None,
            thumbnails: None,
            export: None,
            exported: None,
        };
        let bus = self.broker.bus(Role::Transcode).await;
        bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
        plan
    }

    pub(crate) async fn worker(&self, config: transcode::TranscodeConfig) -> Worker {
        let waiting = self.folder.path().join("child");
        let child_path = if waiting.exists() { waiting } else { child() };
        let settings =
            media::MediaDriverConfig { child_path: Some(child_path), ..media::MediaDriverConfig::default() };
        let driver = Arc::new(media::MediaDriver::start(settings).await.unwrap());
        let bus = self.broker.bus(Role::Transcode).await;
        let shutdown = CancellationToken::new();
        let task =
            tokio::spawn(transcode::run_transcode(bus, self.store.clone(), driver, config, shutdown.clone()));
        Worker { shutdown, task }
    }

    /// Waits until `holds`, looking every 20 ms; panics after `limit`.
    pub(crate) async fn wait(&self, limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !holds().await {
            assert!(
                Instant::now() < deadline,
                "no {what} within {limit:?}; events: {:?}",
                self.event_kinds().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn asset(&self, media_id: MediaId) -> records::MediaRecord {
        let bus = self.broker.bus(Role::Admin).await;
        bus.load_record::<records::MediaRecord>(&media_id.to_string()).await.unwrap().unwrap().record
    }

    pub(crate) async fn wait_status(
        &self,
        media_id: MediaId,
        status: MediaStatus,
        limit: Duration,
    ) -> records::MediaRecord {
        let bus = self.broker.bus(Role::Admin).await;
        let mut found = None;
        self.wait(limit, &format!("{status:?}"), async || {
            found = bus
                .load_record::<records::MediaRecord>(&media_id.to_string())
                .await
                .unwrap()
                .map(|held| held.record);
            let failed = found
                .as_ref()
                .is_some_and(|f| f.status == MediaStatus::Failed && status != MediaStatus::Failed);
            assert!(!failed, "the medium failed: {found:?}");
            found.as_ref().is_some_and(|f| f.status == status)
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn job(&self, job_id: JobId) -> job::JobRecord {
        let bus = self.broker.bus(Role::Admin).await;
        bus.load_record::<job::JobRecord>(&job_id.to_string()).await.unwrap().unwrap().record
    }

    pub(crate) async fn wait_job(
        &self,
        job_id: JobId,
        status: job::JobStatus,
        limit: Duration,
    ) -> job::JobRecord {
        let bus = self.broker.bus(Role::Admin).await;
        let mut found = None;
        self.wait(limit, &format!("job {status:?}"), async || {
            found =
                bus.load_record::<job::JobRecord>(&job_id.to_string()).await.unwrap().map(|held| held.record);
            found.as_ref().is_some_and(|f| f.status == status)
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn parts(&self, job_id: JobId) -> Vec<JobPartRecord> {
        let bus = self.broker.bus(Role::Admin).await;
        let Some(job) = bus.load_record::<job::JobRecord>(&job_id.to_string()).await.unwrap() else {
            return Vec::new();
        };
        let mut parts = Vec::new();
        for name in &job.record.parts {
            let found = bus.load_record::<JobPartRecord>(&subjects::part_key(job_id, name)).await.unwrap();
            parts.extend(found.map(|held| held.record));
        }
        parts
    }

    /// Waits until at least `workers` different workers hold a part of the job; returns what is held.
    pub(crate) async fn wait_claims(
        &self,
        job_id: JobId,
        workers: usize,
        limit: Duration,
    ) -> Vec<JobPartRecord> {
        let mut found = Vec::new();
        self.wait(limit, &format!("{workers} workers on the job"), async || {
            found = self.parts(job_id).await;
            found.retain(|part| part.status == job::JobPartStatus::Claimed && part.last_seen_ms > 0);
            let names: std::collections::BTreeSet<&str> = found.iter().map(|p| p.worker.as_str()).collect();
            names.len() >= workers
        })
        .await;
        found
    }

    /// `<entity>.<verb>` of every event so far, in order.
    pub(crate) async fn event_kinds(&self) -> Vec<String> {
        let bus = self.broker.bus(Role::Admin).await;
        let mut stream = bus.context().get_stream(subjects::EVENTS).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut kinds = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let mut tokens = message.subject.split('.').skip(1);
            kinds.push(format!("{}.{}", tokens.next().unwrap(), tokens.next().unwrap()));
        }
        kinds
    }

    async fn queued(&self) -> u64 {
        let bus = self.broker.bus(Role::Admin).await;
        let mut stream = bus.context().get_stream(subjects::JOBS).await.unwrap();
        stream.info().await.unwrap().state.messages
    }

    pub(crate) async fn wait_queue_empty(&self, limit: Duration) {
        self.wait(limit, "empty queue", async || self.queued().await == 0).await;
    }

    pub(crate) async fn assert_queue_empty(&self) {
        assert_eq!(self.queued().await, 0, "messages are left in the queue");
    }

    pub(crate) async fn object(&self, prefix: &str, name: &str) -> Vec<u8> {
        self.store.get(&format!("{prefix}/{name}"), 64 << 20).await.unwrap().to_vec()
    }

    /// SHA-256 of every object below a folder, by name.
    pub(crate) async fn objects(&self, prefix: &str) -> BTreeMap<String, String> {
        let listed: Vec<store::ObjectMetadata> = self.store.list(prefix).try_collect().await.unwrap();
        let digests = futures::stream::iter(listed).then(async |meta| {
            let bytes = self.store.get(&meta.key, 64 << 20).await.unwrap();
            let name = meta.key.strip_prefix(prefix).unwrap().trim_start_matches('/').to_owned();
            (name, data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)))
        });
        digests.collect().await
    }

    /// Decodes a whole rendition with the ffmpeg program.
    pub(crate) async fn decode(&self, prefix: &str, name: &str) -> Facts {
        let count = self
            .objects(prefix)
            .await
            .keys()
            .filter_map(|key| key.strip_prefix(name)?.strip_prefix('/')?.strip_suffix(".m4s"))
            .count();
        self.decode_segments(prefix, name, count).await
    }

    /// Frames of the first segment.
    pub(crate) async fn decode_first(&self, prefix: &str, name: &str) -> usize {
        self.decode_segments(prefix, name, 1).await.frames
    }

    async fn decode_segments(&self, prefix: &str, name: &str, count: usize) -> Facts {
        let mut bytes = self.object(prefix, &keys::init_segment_path(name)).await;
        for number in 1..=u32::try_from(count).unwrap() {
            bytes.extend(self.object(prefix, &keys::segment_path(name, number)).await);
        }
        let path = self.folder.path().join(format!("{name}.mp4"));
        std::fs::write(&path, bytes).unwrap();
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", "frame=key_frame,pts_time,media_type", "-of", "csv=p=0"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let mut facts = Facts { frames: 0, key_times_ms: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            facts.frames += 1;
            let fields: Vec<&str> = line.split(',').collect();
            if fields[1] == "1" && name.starts_with('v') {
                let seconds: f64 = fields[2].parse().unwrap();
                facts.key_times_ms.push(format!("{:.0}", seconds * 1_000.0).parse().unwrap());
            }
        }
        facts
    }

    /// Seconds that the ffmpeg program plays of a playlist or manifest without a complaint.
    pub(crate) fn play(&self, prefix: &str, name: &str) -> f64 {
        let path = self.folder.path().join("store").join(prefix).join(name);
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-progress", "-", "-i"])
            .arg(path)
            .args(["-map", "0:v:0", "-map", "0:a:0", "-f", "null", "-"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && errors.is_empty(), "{name}: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        let last = text.lines().rev().find_map(|line| line.strip_prefix("out_time_us=")).unwrap();
        last.parse::<f64>().unwrap() / 1_000_000.0
    }
}

impl Worker {
    /// Lets running work finish.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends at once and says nothing to the broker.
    pub(crate) async fn vanish(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}
