//! The stage against a real broker, a local store, the real media child and real FFmpeg files.
#![expect(clippy::unwrap_used, reason = "what a test can't set up fails it at once")]

mod live_record;
mod outages;
mod site;
mod takeovers;

use std::{collections::BTreeSet, time::Duration};

use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    encode::EncodeSettings,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartStatus},
    media::{self as records, MediaStatus},
    subjects,
    usage::OwnerUsage,
};
use sha2::Digest as _;
use site::{Clip, Site, config};

/// Longest time a small clip may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_becomes_ready_and_decodes() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 9, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;

    let encode = asset.encode.unwrap();
    let names: Vec<&str> = encode.renditions.iter().map(|r| r.name.as_str()).collect();
    assert_eq!((names, encode.has_poster), (vec!["v180", "v90", "a0"], true));
    for name in ["v180", "v90"] {
        let facts = site.decode(&encode.prefix, name).await;
        assert_eq!(facts.frames, 225, "{name}");
        // IDR pictures every two seconds, at the same times in every rung.
        assert_eq!(facts.key_times_ms, [0, 2_000, 4_000, 6_000, 8_000], "{name}");
    }
    assert_eq!(site.decode(&encode.prefix, "a0").await.frames, 422, "9 s are 421.875 AAC frames");
    let whole = site.play(&encode.prefix, "master.m3u8");
    assert!((whole - 9.0).abs() < 0.05, "HLS lasts {whole} s");
    let whole = site.play(&encode.prefix, "manifest.mpd");
    assert!((whole - 9.0).abs() < 0.05, "DASH lasts {whole} s");

    let report: serde_json::Value =
        serde_json::from_slice(&site.object(&encode.prefix, "report.json").await).unwrap();
    assert_eq!(
        report["findings"].as_array().unwrap().iter().filter(|f| f["is_error"] == true).count(),
        0,
        "{report}"
    );

    let mut kinds = site.event_kinds().await;
    kinds.retain(|kind| !kind.starts_with("job.retried"));
    assert_eq!(
        kinds,
        ["media.stored", "job.queued", "job.started", "media.playable", "media.ready", "job.succeeded"]
    );
    site.assert_queue_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_delivery_changes_nothing() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    let prefix = asset.encode.as_ref().unwrap().prefix.clone();
    let before = site.objects(&prefix).await;
    let events = site.event_kinds().await;

    // Every message of the job once more, as a broker that lost its acks would send them.
    let admin = site.broker.bus(Role::Admin).await;
    for part in ["a0", "v0000", "finish"] {
        let subject = subjects::job_part_subject("transcode", subjects::JobPriority::P1, clip.job_id, part);
        let task = job::JobPartTask { job_id: clip.job_id, part: part.into() };
        admin.publish_once(subjects::JOBS, &subject, &task).await.unwrap();
    }
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    assert_eq!(site.objects(&prefix).await, before);
    assert_eq!(site.event_kinds().await, events);
    assert_eq!(site.asset(clip.media_id).await, asset);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_and_a_lost_one_is_replaced() {
    // Undisturbed first, as the measure.
    let site = Site::start().await;
    let quiet = site.upload(Clip { seconds: 16, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(quiet.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let expected = site.objects(&asset.encode.unwrap().prefix).await;

    let clip = site.upload(Clip { seconds: 16, size: "1280x720", ..Clip::default() }).await;
    let (first, second) = (site.worker(config()).await, site.worker(config()).await);
    let running = site.wait_claims(clip.job_id, 2, LIMIT).await;
    let workers: BTreeSet<String> = running.iter().map(|part| part.worker.clone()).collect();
    assert_eq!(workers.len(), 2, "both work: {running:?}");
    // Gone without a word: no ack, no nak, its claims stay behind.
    first.vanish().await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    second.stop().await;
    let found = site.objects(&asset.encode.unwrap().prefix).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let parts = site.parts(clip.job_id).await;
    assert!(parts.iter().all(|part| part.status == JobPartStatus::Done && part.attempt <= 2), "{parts:?}");
    assert!(nats::metrics::table::WORKERS_LOST.count(()) >= 1);
    let retried = parts.iter().filter(|part| part.attempt == 2).count();
    assert!((1..=2).contains(&retried), "only what the lost worker held is done again: {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disturbed_run_writes_the_same_bytes() {
    let site = Site::start().await;
    let clip = Clip { seconds: 10, ..Clip::default() };
    let quiet = site.upload(clip).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(quiet.media_id, MediaStatus::Ready, LIMIT).await;
    let expected = site.objects(&asset.encode.unwrap().prefix).await;
    worker.stop().await;

    let disturbed = site.upload(clip).await;
    let worker = site.worker(config()).await;
    site.wait_claims(disturbed.job_id, 1, LIMIT).await;
    worker.vanish().await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(disturbed.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let found = site.objects(&asset.encode.unwrap().prefix).await;
    assert!(found == expected, "objects differ: {:?} and {:?}", found.keys(), expected.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_the_claim_stops() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 60, size: "1280x720", ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let held = site.wait_claims(clip.job_id, 1, LIMIT).await.remove(0);
    // Another worker takes the part, as it would from one that was stopped for long.
    let bus = site.broker.bus(Role::Transcode).await;
    let stolen = bus
        .change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, &held.part), |part| {
            let mut part = part?.clone();
            part.attempt += 1;
            part.worker = "another".into();
            part.last_seen_ms = nats::now_ms();
            Some((part, Outbox::new()))
        })
        .await
        .unwrap()
        .unwrap();
    // The displaced one writes nothing more into the record and does not take it back while the thief counts as alive;
    // afterwards the work goes on.
    let asset = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let part = site.parts(clip.job_id).await.into_iter().find(|part| part.part == held.part).unwrap();
    assert!(part.attempt > stolen.record.attempt, "the part was claimed anew: {part:?}");
    assert_eq!(asset.status, MediaStatus::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_within_two_seconds() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 60, size: "1280x720", ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_claims(clip.job_id, 1, LIMIT).await;
    site.wait(LIMIT, "a running child", async || site::children() > 0).await;
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<job::JobRecord>(&clip.job_id.to_string(), |job| {
        let mut job = job?.clone();
        job.status = job::JobStatus::Cancelled;
        Some((job, Outbox::new()))
    })
    .await
    .unwrap();
    let ingress = site.broker.bus(Role::Ingress).await;
    ingress.publish_core(subjects::job_cancel_subject(clip.job_id), Vec::new()).await.unwrap();
    site.wait(Duration::from_secs(2), "no child left", async || site::children() == 0).await;
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    assert_eq!(site.job(clip.job_id).await.status, job::JobStatus::Cancelled);
    let parts = site.parts(clip.job_id).await;
    let is_held = |part: &JobPartRecord| part.status == JobPartStatus::Claimed && part.last_seen_ms > 0;
    assert!(!parts.iter().any(is_held), "nobody holds a part of it: {parts:?}");
    assert!(!site.event_kinds().await.iter().any(|kind| kind == "media.ready" || kind == "job.failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_batch_is_ready_when_its_own_parts_are_made() {
    let site = Site::start().await;
    site.hold_children(true);
    let clips = [2, 3, 4].map(|seconds| Clip { seconds, ..Clip::default() });
    let mut jobs = Vec::new();
    for clip in clips {
        jobs.push(site.upload(clip).await.job_id);
    }
    let mut config = config();
    config.parts.slots = 1;
    let worker = site.worker(config).await;
    let count = async |wanted: &str| site.event_kinds().await.iter().filter(|kind| *kind == wanted).count();
    site.wait(LIMIT, "all parts wait", async || count("job.queued").await == 3).await;
    site.hold_children(false);
    for job_id in jobs {
        site.wait_job(job_id, job::JobStatus::Succeeded, LIMIT).await;
    }
    worker.stop().await;
    let kinds = site.event_kinds().await;
    let first_end = kinds.iter().position(|kind| kind == "job.succeeded").unwrap();
    let last_start = kinds.iter().rposition(|kind| kind == "job.started").unwrap();
    assert!(first_end < last_start, "{kinds:?}");
    site.assert_queue_empty().await;
}

/// As the ingress begins another encode of a medium: of that number.
async fn reopen_medium(
    bus: &nats::Bus,
    media_id: MediaId,
    status: MediaStatus,
    (encode, settings): (u32, EncodeSettings),
) {
    bus.change_record::<records::MediaRecord>(&media_id.to_string(), |medium| {
        let mut medium = medium?.clone();
        medium.status = status;
        medium.attempt = records::MediaAttempt { number: 1, faults: 0, encode, scheduled: None };
        let (source, technical) = (medium.source.clone()?, Box::new(medium.technical.clone()?));
        let step = records::ReopenStep::Encode { encode, source, technical, settings: settings.clone() };
        let owner = medium.owner.clone();
        let reopened = records::MediaReopened { media_id, owner, attempt: 1, step };
        Some((medium, Outbox::new().with_event(&reopened)))
    })
    .await
    .unwrap();
}

/// As if the job of a clip had failed, at a part or at its finish, and its medium were encoded again; answers the new job.
async fn encode_again(site: &Site, clip: site::Uploaded, failed: Option<&str>) -> JobId {
    let bus = site.broker.bus(Role::Transcode).await;
    if let Some(part) = failed {
        bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, part), |part| {
            let part = part?.clone();
            Some((JobPartRecord { status: JobPartStatus::Failed, tracks: Vec::new(), ..part }, Outbox::new()))
        })
        .await
        .unwrap();
    }
    bus.change_record::<job::JobRecord>(&clip.job_id.to_string(), |job| {
        Some((job::JobRecord { status: job::JobStatus::Failed, ..job?.clone() }, Outbox::new()))
    })
    .await
    .unwrap();
    let media_id = clip.media_id;
    reopen_medium(&bus, media_id, MediaStatus::Stored, (2, EncodeSettings::default())).await;
    packaging::plan::derive_job_id(media_id, 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_makes_only_what_failed() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 16, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let first = site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    let (before, mut objects) = (site.parts(clip.job_id).await, site.objects(&first.prefix).await);
    let failed = "v0001";
    let second = encode_again(&site, clip, Some(failed)).await;
    let job = site.wait_job(second, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_eq!((job.retry_of, &job.prefix), (Some(clip.job_id), &first.prefix));
    assert_eq!(site.asset(clip.media_id).await.encode.map(|encode| encode.number), Some(2));
    for part in site.parts(second).await {
        let old = before.iter().find(|old| old.part == part.part).unwrap();
        let is_kept = part.last_seen_ms == old.last_seen_ms;
        assert_eq!(is_kept, ![failed, job::FINISH].contains(&part.part.as_str()), "{}", part.part);
    }
    let mut remade = site.objects(&first.prefix).await;
    // It names the encode; and the checksums of the finish name its digest.
    for all in [&mut remade, &mut objects] {
        all.remove("report.json").unwrap();
        all.remove("checksums/finish.sha256").unwrap();
    }
    assert_eq!(remade, objects, "the same bytes");
    let kinds = site.event_kinds().await;
    for (kind, count) in [("job.queued", 2), ("job.started", 2), ("job.succeeded", 2)] {
        assert_eq!(kinds.iter().filter(|found| *found == kind).count(), count, "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_failed_its_check_makes_all_anew() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let first = site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    // A segment of another rung under this name: no check of it succeeds.
    let other = site.object(&first.prefix, "v90/2.m4s").await;
    site.store.put(&format!("{}/v180/2.m4s", first.prefix), other).await.unwrap();
    let second = encode_again(&site, clip, None).await;
    let job = site.wait_job(second, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_eq!(job.retry_of, Some(clip.job_id));
    assert_ne!(job.prefix, first.prefix);
    let encode = site.asset(clip.media_id).await.encode.unwrap();
    assert_eq!((encode.number, encode.prefix), (2, job.prefix));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_medium_is_not_planned_and_its_queued_parts_are_dropped() {
    let site = Site::start().await;
    let removed = site.upload(Clip { seconds: 2, ..Clip::default() }).await;
    let bus = site.broker.bus(Role::Admin).await;
    let key = removed.media_id.to_string();
    bus.change_record::<schemas::media::MediaRecord>(&key, |asset| {
        Some((schemas::media::MediaRecord { removed_at_ms: Some(1), ..asset?.clone() }, Outbox::new()))
    })
    .await
    .unwrap();
    // A part that waited in the queue while everything of its medium was purged.
    let subject = subjects::job_part_subject("transcode", subjects::JobPriority::P1, removed.job_id, "v0000");
    let task = job::JobPartTask { job_id: removed.job_id, part: "v0000".into() };
    bus.publish_once(subjects::JOBS, &subject, &task).await.unwrap();
    let next = site.upload(Clip { seconds: 2, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(next.media_id, MediaStatus::Ready, LIMIT).await;
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    assert!(bus.load_record::<job::JobRecord>(&removed.job_id.to_string()).await.unwrap().is_none());
    let dead = bus.context().get_stream(subjects::DEAD).await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 0, "nothing was given up");
    assert!(site.objects(&schemas::keys::media_prefix(removed.media_id)).await.len() <= 1, "only the source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_child_costs_one_try() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 30, size: "1280x720", ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait(LIMIT, "a running child", async || site::children() > 0).await;
    site::kill_children();
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let parts = site.parts(clip.job_id).await;
    assert!(parts.iter().any(|part| part.attempt == 2 && part.crashes == 1), "{parts:?}");
    let metrics = nats::metrics::render_collector(nats::metrics::DeclaredFamilies);
    assert!(metrics.contains("\nstreamgate_transcode_faults_total{code=\""), "{metrics}");
    assert!(site.event_kinds().await.iter().any(|kind| kind == "job.retried"));
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_always_die_fail_the_job() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 60, size: "1280x720", ..Clip::default() }).await;
    let mut config = config();
    config.parts.attempts_max = 3;
    let worker = site.worker(config).await;
    let bus = site.broker.bus(Role::Admin).await;
    site.wait(LIMIT, "a failed job", async || {
        site::kill_children();
        let job = bus.load_record::<job::JobRecord>(&clip.job_id.to_string()).await.unwrap();
        job.is_some_and(|held| held.record.status == job::JobStatus::Failed)
    })
    .await;
    worker.stop().await;
    assert_eq!(site.asset(clip.media_id).await.code.as_deref(), Some("media_child_crashed"));
    let kinds = site.event_kinds().await;
    for kind in ["job.retried", "job.dead", "job.failed"] {
        assert!(kinds.iter().any(|found| found == kind), "no {kind} among {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restart_costs_nothing() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 30, size: "1280x720", ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_claims(clip.job_id, 1, LIMIT).await;
    site.broker.kill_and_wait().await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    let parts = site.parts(clip.job_id).await;
    assert!(parts.iter().all(|part| part.attempt == 1), "nothing was done twice: {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_hands_its_part_back() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 60, size: "1280x720", ..Clip::default() }).await;
    let mut config = config();
    config.parts.grace_ms = 200;
    let worker = site.worker(config.clone()).await;
    site.wait(LIMIT, "a running child", async || site::children() > 0).await;
    let asked = std::time::Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(2), "stopping took {:?}", asked.elapsed());
    assert_eq!(site::children(), 0);
    let worker = site.worker(config).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let parts = site.parts(clip.job_id).await;
    assert!(parts.iter().all(|part| part.attempt == 1), "stopping costs no try: {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_plays_while_it_grows() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 120, size: "1280x720", ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Playable, LIMIT).await;
    let job = site.job(clip.job_id).await;
    assert_eq!(job.status, job::JobStatus::Active);
    let bus = site.broker.bus(Role::Ingress).await;
    let mut follower = packaging::GrowingPartReader::new();
    let part = async |key: String| {
        bus.load_record::<JobPartRecord>(&key).await.map(|held| held.map(|held| held.record))
    };
    let parts = follower.read_playable_parts(&job, part).await.unwrap();
    let growing = packaging::playlist::render_growing_multivariant(&job.plan, &parts).unwrap();
    assert!(growing.contains("v180/event.m3u8") && growing.contains("a0/event.m3u8"), "{growing}");
    let event = packaging::playlist::render_event(&job.plan, &parts, "v180").unwrap();
    assert!(event.contains("1.m4s") && !event.contains("ENDLIST"), "{event}");
    let prefix = asset.encode.unwrap().prefix;
    // What the playlist names is there and decodes.
    assert!(site.decode_first(&prefix, "v180").await > 0);
    worker.vanish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_alone_and_pictures_alone() {
    let site = Site::start().await;
    let worker = site.worker(config()).await;
    let sound = site.upload(Clip { seconds: 5, has_video: false, ..Clip::default() }).await;
    let pictures = site.upload(Clip { seconds: 5, has_audio: false, ..Clip::default() }).await;
    let still = site.upload(Clip { is_still: true, ..Clip::default() }).await;
    let names = async |media_id| -> Vec<String> {
        let encode = site.wait_status(media_id, MediaStatus::Ready, LIMIT).await.encode.unwrap();
        encode.renditions.into_iter().map(|r| r.name).collect()
    };
    assert_eq!(names(sound.media_id).await, ["a0"]);
    assert_eq!(names(pictures.media_id).await, ["v180", "v90"]);
    assert_eq!(names(still.media_id).await, Vec::<String>::new());
    let encode = site.asset(still.media_id).await.encode.unwrap();
    assert!(encode.has_poster);
    assert_eq!(site.object(&encode.prefix, "poster.jpg").await[..2], [0xff, 0xd8], "a JPEG");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_gone_fails_the_job() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    site.store.delete(&schemas::keys::source_key(clip.media_id)).await.unwrap();
    let worker = site.worker(config()).await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Failed, LIMIT).await;
    assert_eq!(asset.code.as_deref(), Some("object_not_found"));
    let job = site.wait_job(clip.job_id, job::JobStatus::Failed, LIMIT).await;
    assert_eq!(job.code.as_deref(), Some("object_not_found"));
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    let kinds = site.event_kinds().await;
    assert!(
        kinds.iter().any(|kind| kind == "job.dead") && kinds.iter().any(|kind| kind == "job.failed"),
        "{kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_version_is_not_mixed_with_this_one() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let planned = site.plan_as("transcode/0", clip).await;
    let worker = site.worker(transcode::TranscodeConfig { other_version_wait_ms: 0, ..config() }).await;
    let job = site.wait_job(clip.job_id, job::JobStatus::Failed, LIMIT).await;
    assert_eq!((job.code.as_deref(), &job.plan), (Some("options_version"), &planned));
    assert!(job.detail.is_some_and(|detail| detail.contains("streamgate dead redrive")));
    worker.stop().await;
    assert!(site.objects(&job.prefix).await.is_empty(), "it made nothing of that plan");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_output_fails_the_check() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 9, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    let asset = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    let prefix = asset.encode.unwrap().prefix;
    // A segment of another rung under this name: right in itself, wrong in its place.
    let other = site.object(&prefix, "v90/2.m4s").await;
    site.store.put(&format!("{prefix}/v180/2.m4s"), other).await.unwrap();
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<job::JobRecord>(&clip.job_id.to_string(), |job| {
        let mut job = job?.clone();
        job.status = job::JobStatus::Active;
        Some((job, Outbox::new()))
    })
    .await
    .unwrap();
    bus.change_record::<records::MediaRecord>(&clip.media_id.to_string(), |medium| {
        let medium = medium?.clone();
        Some((records::MediaRecord { status: MediaStatus::Playable, ..medium }, Outbox::new()))
    })
    .await
    .unwrap();
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, "finish"), |part| {
        let mut part = part?.clone();
        part.status = JobPartStatus::Claimed;
        part.last_seen_ms = 0;
        Some((part, Outbox::new()))
    })
    .await
    .unwrap();
    let admin = site.broker.bus(Role::Admin).await;
    let subject = subjects::job_part_subject("transcode", subjects::JobPriority::P1, clip.job_id, "finish");
    let task = job::JobPartTask { job_id: clip.job_id, part: "finish".into() };
    admin.publish_once(subjects::JOBS, &subject, &task).await.unwrap();
    let job = site.wait_job(clip.job_id, job::JobStatus::Failed, LIMIT).await;
    assert_eq!(job.code.as_deref(), Some("conformance_failed"), "{:?}", job.detail);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_make_fails_the_medium() {
    let site = Site::start().await;
    let bus = site.broker.bus(Role::Upload).await;
    let (mut asset, mut stored) = site::stored(Clip::default(), 10);
    stored.technical.video.clear();
    stored.technical.audio.clear();
    asset.technical = Some(stored.technical.clone());
    let media_id = asset.media_id;
    bus.commit_record(
        &mut VersionedRecord::<records::MediaRecord>::new(asset),
        Outbox::new().with_event(&stored),
    )
    .await
    .unwrap();
    let worker = site.worker(config()).await;
    let asset = site.wait_status(media_id, MediaStatus::Failed, LIMIT).await;
    assert_eq!(asset.code.as_deref(), Some("media_no_streams"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_is_not_made_again_once_its_job_is_kept_no_more() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 2, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let job = site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    assert!(job.kept_until_ms > job.ended_at_ms, "the write that ends a job says how long it is kept");
    // Of two parts that end together one queues the finish that the other is at: its message goes before the worker does.
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    // Its time is over, and every event comes again.
    let admin = site.broker.bus(Role::Admin).await;
    let context = admin.context();
    let jobs = context.get_stream(subjects::kv_stream_name("jobs")).await.unwrap();
    jobs.purge().filter(subjects::kv_subject("jobs", ">")).await.unwrap();
    context.delete_consumer_from_stream(transcode::PLAN_DURABLE, subjects::EVENTS).await.unwrap();
    let settings = nats::topology::TopologySettings::default();
    nats::topology::apply_topology(context, &settings).await.unwrap();
    let worker = site.worker(config()).await;
    let events = context.get_stream(subjects::EVENTS).await.unwrap();
    site.wait(LIMIT, "the event handled again", async || {
        let info = events.consumer_info(transcode::PLAN_DURABLE).await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0 && info.delivered.consumer_sequence > 0
    })
    .await;
    worker.stop().await;
    assert!(admin.load_record::<job::JobRecord>(&clip.job_id.to_string()).await.unwrap().is_none());
    site.assert_queue_empty().await;
    assert_eq!(site.asset(clip.media_id).await.status, MediaStatus::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_profile_takes_the_place_of_what_plays_and_leaves_it_beside() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let mut config = config();
    let mut small = config.find_profile(&config.profile).unwrap().clone();
    small.short_side_pixels_max = 90;
    config.profiles.insert("small".into(), small);
    let worker = site.worker(config).await;
    let first = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await.encode.unwrap();
    let before = site.objects(&first.prefix).await;
    let bus = site.broker.bus(Role::Transcode).await;
    let settings = EncodeSettings {
        profile: Some("small".into()),
        priority: subjects::JobPriority::P2,
        scheduled: None,
        range: None,
        paused: false,
        renditions: Vec::new(),
    };
    reopen_medium(&bus, clip.media_id, MediaStatus::Ready, (2, settings)).await;
    let second = packaging::plan::derive_job_id(clip.media_id, 2);
    let job = site.wait_job(second, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_eq!((job.plan.profile.as_str(), job.priority), ("small", subjects::JobPriority::P2));
    assert_eq!(job.retry_of, None);
    // Both encodes count for the day, or two of it.
    let day = OwnerUsage::day_of_ms(nats::now_ms());
    let mut encoded_ms = 0;
    for day in [day - 1, day] {
        let key = OwnerUsage::key_for_owner(&sha2::Sha256::digest(job.owner.as_bytes()), day);
        let held = bus.load_record::<OwnerUsage>(&key).await.unwrap();
        encoded_ms += held.map_or(0, |held| held.record.encoded_ms);
    }
    assert_eq!(encoded_ms, 2 * job.plan.duration_ms);
    let medium = site.asset(clip.media_id).await;
    let encode = medium.encode.unwrap();
    assert_eq!((medium.status, encode.number), (MediaStatus::Ready, 2));
    assert!(encode.renditions.iter().all(|rendition| rendition.height <= 90), "{encode:?}");
    assert_eq!(medium.superseded.iter().map(|old| &old.encode).collect::<Vec<_>>(), [&first]);
    assert_eq!(site.objects(&first.prefix).await, before, "nobody touched it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_a_worker_does_not_have_fails_the_job_and_not_the_medium() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let mut config = config();
    // Nobody will have it.
    config.other_version_wait_ms = 1_000;
    let worker = site.worker(config).await;
    let ready = site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let bus = site.broker.bus(Role::Transcode).await;
    let settings = EncodeSettings { profile: Some("gone".into()), ..EncodeSettings::default() };
    reopen_medium(&bus, clip.media_id, MediaStatus::Ready, (2, settings)).await;
    let second = packaging::plan::derive_job_id(clip.media_id, 2);
    let job = site.wait_job(second, job::JobStatus::Failed, LIMIT).await;
    worker.stop().await;
    assert_eq!(job.code.as_deref(), Some("unknown_profile"));
    assert!(job.detail.unwrap().contains("no profile \"gone\""));
    assert_eq!(job.plan.profile, "gone", "a retry asks for the same");
    let medium = site.asset(clip.media_id).await;
    assert_eq!((medium.status, medium.encode), (MediaStatus::Ready, ready.encode));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encode_that_a_newer_one_overtook_before_it_was_planned_ends_with_that_reason() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let bus = site.broker.bus(Role::Transcode).await;
    for encode in [2, 3] {
        reopen_medium(&bus, clip.media_id, MediaStatus::Ready, (encode, EncodeSettings::default())).await;
    }
    let worker = site.worker(config()).await;
    let job_id = |encode| packaging::plan::derive_job_id(clip.media_id, encode);
    let overtaken = site.wait_job(job_id(2), job::JobStatus::Failed, LIMIT).await;
    assert_eq!(overtaken.code.as_deref(), Some(job::JOB_SUPERSEDED));
    site.wait_job(job_id(3), job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    let medium = site.asset(clip.media_id).await;
    let numbers: Vec<u32> = medium.superseded.iter().map(|old| old.encode.number).collect();
    assert_eq!((medium.encode.unwrap().number, numbers), (3, vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_is_kept_no_more_begins_in_a_folder_of_its_own() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let first = site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<job::JobRecord>(&clip.job_id.to_string(), |job| {
        Some((job::JobRecord { folded: Some(Vec::new()), ..job?.clone() }, Outbox::new()))
    })
    .await
    .unwrap();
    let second = encode_again(&site, clip, Some("v0000")).await;
    let job = site.wait_job(second, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_ne!(job.prefix, first.prefix);
    assert_eq!(job.made, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_only_other_workers_have_is_left_to_them() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let bus = site.broker.bus(Role::Transcode).await;
    let settings = EncodeSettings { profile: Some("new".into()), ..EncodeSettings::default() };
    reopen_medium(&bus, clip.media_id, MediaStatus::Ready, (2, settings)).await;
    let admin = site.broker.bus(Role::Admin).await;
    let stream = admin.context().get_stream(subjects::EVENTS).await.unwrap();
    site.wait(LIMIT, "it is handed back", async || {
        stream.consumer_info(job::PLAN_TRANSCODE).await.unwrap().num_redelivered > 0
    })
    .await;
    worker.stop().await;
    let mut config = config();
    config.profiles.insert("new".into(), config.profiles["tiny"].clone());
    let worker = site.worker(config).await;
    let second = packaging::plan::derive_job_id(clip.media_id, 2);
    let job = site.wait_job(second, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_eq!(job.plan.profile, "new");
}
