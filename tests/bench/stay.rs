//! What stays of an upload on the bus: while its title plays and its job is kept, and when that time is over.

use std::time::Duration;

use futures::StreamExt;
use nats::{Bus, Outbox, Role, testing::TestBroker};
use schemas::{
    KvRecord,
    ids::{JobId, MediaId, UploadId},
    job::{self, JobPartRecord, JobPartStatus, StoredSegment, StoredTrack},
    media::{MediaSource, TechnicalMetadata, VideoTrack},
    subjects::{self, JobPriority},
    upload,
};
use streamgate::keeper::{KeeperConfig, fold};

use crate::{Aim, Row, size};

/// Uploads that are written before their jobs are folded: as many as the bucket holds unfolded.
const BATCH: u64 = 1_000;
const IN_FLIGHT: usize = 64;
const BUCKETS: [&str; 2] = [job::JobRecord::BUCKET, upload::UploadRecord::BUCKET];

/// A title of ten minutes in the default profile.
fn plan(media_id: MediaId) -> job::EncodePlan {
    let video = VideoTrack {
        width: 1_920,
        height: 1_080,
        end_us: 600_000_000,
        frame_count: 15_000,
        ..schemas::examples::video_track()
    };
    let technical = TechnicalMetadata {
        container: "mp4".into(),
        duration_ms: 600_000,
        bit_rate_bps: 5_000_000,
        video: vec![video],
        audio: Vec::new(),
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    };
    let source =
        MediaSource { key: schemas::keys::source_key(media_id), size_bytes: 1, sha256: "0".repeat(64) };
    let profile = packaging::EncodeProfile::default();
    let input = packaging::plan::EncodePlanInput {
        source: &source,
        technical: &technical,
        profile_name: transcode::DEFAULT_PROFILE,
        profile: &profile,
        range: None,
    };
    packaging::plan::plan_encode(&input).unwrap()
}

fn part(job: &job::JobRecord, name: &str) -> JobPartRecord {
    let segment = StoredSegment { start_ticks: 900_000, duration_ticks: 540_000, size_bytes: 2_400_000 };
    let rungs = job.plan.video.iter().flat_map(|video| &video.rungs);
    let track = |rung: &job::LadderRung| StoredTrack {
        rendition: rung.name.clone(),
        timescale: 90_000,
        init_sha256: "0".repeat(64),
        init_bytes: 800,
        codecs: "avc1.640028".into(),
        first_segment: 6,
        segments: vec![segment; 5],
    };
    JobPartRecord {
        status: JobPartStatus::Done,
        attempt: 1,
        worker: "0".repeat(32),
        last_seen_ms: nats::now_ms(),
        tracks: rungs.map(track).collect(),
        cpu_ms: 60_000,
        wall_ms: 30_000,
        rss_bytes_max: 400_000_000,
        ..JobPartRecord::new(job.job_id, name)
    }
}

async fn put<R: KvRecord>(bus: &Bus, record: R) {
    let key = record.key();
    bus.change_record::<R>(&key, |_| Some((record.clone(), Outbox::new()))).await.unwrap();
}

/// Writes what is left of one upload when its title is ready.
async fn upload(bus: &Bus, kept_ms: u64) {
    let media_id = MediaId::from_bytes(nats::new_id_bytes());
    let plan = plan(media_id);
    let mut job = job::JobRecord {
        job_id: JobId::from_bytes(nats::new_id_bytes()),
        kind: transcode::KIND.into(),
        priority: JobPriority::P1,
        media_id,
        owner: "bench".into(),
        status: job::JobStatus::Active,
        encode: 1,
        prefix: schemas::keys::encode_prefix(media_id, 1, &plan.options_digest),
        parts: packaging::plan::part_names(&plan),
        plan,
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
    for name in job.parts.iter().map(String::as_str).chain([job::FINISH]) {
        put(bus, part(&job, name)).await;
    }
    job.mark_ended(job::JobStatus::Succeeded, nats::now_ms(), kept_ms);
    put(bus, job).await;
    let mut upload = upload::UploadRecord {
        length_bytes: Some(1 << 30),
        offset_bytes: 1 << 30,
        generation: 3,
        metadata_raw: "filename QmlnIEJ1Y2sgQnVubnkubXA0".into(),
        filename: Some("Big Buck Bunny.mp4".into()),
        content_type: Some("video/mp4".into()),
        created_at_ms: nats::now_ms(),
        expires_at_ms: nats::now_ms(),
        ..upload::UploadRecord::new(UploadId::from_bytes(nats::new_id_bytes()), media_id, "bench".into())
    };
    upload.mark_ended(upload::UploadStatus::Received, nats::now_ms(), kept_ms);
    put(bus, upload).await;
}

async fn stored_bytes(bus: &Bus) -> u64 {
    let mut sum = 0;
    for bucket in BUCKETS {
        let stream = bus.context().get_stream(subjects::kv_stream_name(bucket)).await.unwrap();
        sum += stream.cached_info().state.bytes;
    }
    sum
}

/// Bytes of one upload when its job has just ended, while it is kept, and afterwards.
pub(crate) async fn bytes_per_upload() -> Vec<Row> {
    let count = size("BENCH_STAY", 100_000);
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let context = admin.context();
    // Markers of removals go at once: they are not what stays.
    let jobs = context.get_stream(subjects::kv_stream_name(job::JobRecord::BUCKET)).await.unwrap();
    let mut config = jobs.cached_info().config.clone();
    config.subject_delete_marker_ttl = Some(Duration::from_secs(1));
    context.update_stream(&config).await.unwrap();
    let settings = KeeperConfig { fold_age_ms: 0, removal_told_ms: 1_000, ..KeeperConfig::default() };
    let mut fresh = 0.0;
    // Kept until all are written, about 10 ms each on this machine, and for a minute more.
    let over_ms = nats::now_ms() + 60_000 + count * 30;
    let mut made = 0;
    while made < count {
        let batch = BATCH.min(count - made);
        let before = stored_bytes(&admin).await;
        futures::stream::iter(0..batch)
            .for_each_concurrent(IN_FLIGHT, |_| upload(&admin, over_ms.saturating_sub(nats::now_ms())))
            .await;
        fresh += stored_bytes(&admin).await.saturating_sub(before) as f64;
        made += batch;
        fold::run_fold_pass(&admin, nats::now_ms() + 1, &settings).await.unwrap();
        // The marks of this batch go before the next comes.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let kept = stored_bytes(&admin).await as f64;
    while nats::now_ms() < over_ms + 5_000 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stays = stored_bytes(&admin).await as f64;
    let row = |name, bytes: f64, most| Row {
        name,
        ours: bytes / count as f64,
        baseline: 1.0,
        unit: "B",
        against: "none",
        aim: Aim::Most(most),
    };
    vec![
        row("bus bytes of an upload of ten minutes, just ended", fresh, 64_000.0),
        row("the same once folded, for 30 days", kept, 12_000.0),
        row("the same that stay after that", stays, 1.0),
    ]
}
