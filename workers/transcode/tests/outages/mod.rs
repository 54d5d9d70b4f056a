//! What is away for a while, and workers that vanish, end no job.

use std::time::Duration;

use nats::{Outbox, Role, testing::SmallDisk};
use schemas::{
    job::{self, JobPartRecord, JobPartStatus},
    media::{self as records, MediaStatus},
    subjects,
};
use store::testing::{
    TestS3Server,
    proxy::{FaultProxy, ProxyMode},
};

use super::{
    LIMIT,
    site::{self, Clip, Site, Uploaded},
};

/// Tries are few and pauses short: an outage has to outlast all of them.
fn config() -> transcode::TranscodeConfig {
    let mut config = site::config();
    config.parts.attempts_max = 2;
    config.planner.attempts_max = 2;
    for consume in [&mut config.parts, &mut config.planner] {
        (consume.outage_delay_ms, consume.outage_delay_ms_max) = (20, 100);
    }
    config
}

/// An outage lasts on: for no time in `make test`, for `SOAK_OUTAGE_S` seconds in `make soak`.
async fn last_on() {
    let text = std::env::var("SOAK_OUTAGE_S").unwrap_or_else(|_| "0".to_owned());
    tokio::time::sleep(Duration::from_secs(text.parse().unwrap())).await;
}

/// Waits until the parts of a job were tried often: with outages counted it would be over.
async fn wait_many_tries(site: &Site, clip: Uploaded) {
    let bus = site.broker.bus(Role::Admin).await;
    let revision = async || {
        let mut newest = 0;
        for part in site.job(clip.job_id).await.parts.iter().chain([&job::FINISH.to_owned()]) {
            let found =
                bus.load_record::<JobPartRecord>(&subjects::part_key(clip.job_id, part)).await.unwrap();
            newest = newest.max(found.map_or(0, |held| held.revision()));
        }
        newest
    };
    let first = revision().await;
    site.wait(LIMIT, "many tries", async || revision().await > first + 30).await;
    last_on().await;
}

/// The job succeeded as if nothing had been.
async fn check_unharmed(site: &Site, clip: Uploaded) {
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    let job = site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    site.wait_queue_empty(LIMIT).await;
    assert_eq!((site.asset(clip.media_id).await.waiting, job.code), (None, None));
    let parts = site.parts(clip.job_id).await;
    assert!(parts.iter().all(|part| part.faults == 0 && part.attempt == 1), "{parts:?}");
    assert_eq!(site.dead_letters().await, []);
}

async fn count(site: &Site, kind: &str) -> usize {
    site.event_kinds().await.iter().filter(|found| *found == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_folder_that_is_away_is_waited_for_in_every_phase() {
    let site = Site::start().await;
    // Before anything is made.
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    site.store_is_away(true);
    let worker = site.worker(config()).await;
    let waiting = site.wait_waiting(clip.media_id, LIMIT).await;
    assert!(waiting.code.starts_with("store_"), "{waiting:?}");
    wait_many_tries(&site, clip).await;
    site.store_is_away(false);
    check_unharmed(&site, clip).await;
    assert_eq!(count(&site, "media.delayed").await, 1, "an outage is published once");
    assert_eq!(count(&site, "job.retried").await, 0);

    // While parts are being made.
    let clip = site.upload(Clip { seconds: 30, size: "1280x720", ..Clip::default() }).await;
    site.wait(LIMIT, "a running child", async || site::children() > 0).await;
    site.store_is_away(true);
    site.wait_waiting(clip.media_id, LIMIT).await;
    wait_many_tries(&site, clip).await;
    site.store_is_away(false);
    check_unharmed(&site, clip).await;

    // While it is finished.
    reopen_finish(&site, clip).await;
    site.store_is_away(true);
    queue_finish(&site, clip).await;
    site.wait_waiting(clip.media_id, LIMIT).await;
    wait_many_tries(&site, clip).await;
    site.store_is_away(false);
    check_unharmed(&site, clip).await;
    worker.stop().await;
}

/// Back to where every part is done and the finish is not.
async fn reopen_finish(site: &Site, clip: Uploaded) {
    let bus = site.broker.bus(Role::Transcode).await;
    site.wait_queue_empty(LIMIT).await;
    bus.change_record::<job::JobRecord>(&clip.job_id.to_string(), |job| {
        Some((
            job::JobRecord { status: job::JobStatus::Active, ended_at_ms: None, ..job?.clone() },
            Outbox::new(),
        ))
    })
    .await
    .unwrap();
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH), |part| {
        Some((
            JobPartRecord { status: JobPartStatus::Claimed, last_seen_ms: 0, attempt: 0, ..part?.clone() },
            Outbox::new(),
        ))
    })
    .await
    .unwrap();
}

/// Puts the finish of a job into the queue, where the dispatcher puts it, too.
async fn queue_finish(site: &Site, clip: Uploaded) {
    let admin = site.broker.bus(Role::Admin).await;
    let subject = site.job(clip.job_id).await.part_subject(job::FINISH);
    let task = job::JobPartTask { job_id: clip.job_id, part: job::FINISH.into() };
    admin.publish_once(subjects::JOBS, &subject, &task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_while_parts_are_made_is_waited_for() {
    let name = "outages::a_disk_that_fills_while_parts_are_made_is_waited_for";
    let Some(disk) = SmallDisk::for_test(name, 128 << 20) else { return };
    let folder = disk.path().join("store");
    std::fs::create_dir(&folder).unwrap();
    let site = Site::start_at(store::StoreConfig::from_url(format!("file://{}", folder.display()))).await;
    let worker = site.worker(config()).await;
    let clip = site.upload(Clip { seconds: 30, size: "1280x720", ..Clip::default() }).await;
    site.wait(LIMIT, "a running child", async || site::children() > 0).await;
    disk.fill();
    assert_eq!(site.wait_waiting(clip.media_id, LIMIT).await.code, "store_full");
    wait_many_tries(&site, clip).await;
    disk.free();
    check_unharmed(&site, clip).await;
    assert_eq!(count(&site, "media.delayed").await, 1, "an outage is published once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_errs_or_hangs_is_waited_for() {
    let server = TestS3Server::start().await.unwrap();
    let proxy = FaultProxy::start(&server).await.unwrap();
    let site = Site::start_at(proxy.store_config(&server)).await;
    let worker = site.worker(config()).await;
    // What hangs is either given up at its deadline or loses its connection before.
    for (mode, codes) in [
        (ProxyMode::Status(500), vec!["store_unavailable"]),
        (ProxyMode::Status(503), vec!["store_unavailable"]),
        (ProxyMode::Hang, vec!["store_slow", "store_unavailable"]),
    ] {
        let clip = site.upload(Clip { seconds: 12, size: "1280x720", ..Clip::default() }).await;
        site.wait(LIMIT, "a running child", async || site::children() > 0).await;
        proxy.set_mode(mode);
        let waiting = site.wait_waiting(clip.media_id, LIMIT).await;
        assert!(codes.contains(&waiting.code.as_str()), "{mode:?}: {waiting:?}");
        last_on().await;
        proxy.set_mode(ProxyMode::Pass);
        check_unharmed(&site, clip).await;
    }
    proxy.set_mode(ProxyMode::Slow(1));
    let clip = site.upload(Clip { seconds: 2, ..Clip::default() }).await;
    check_unharmed(&site, clip).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bucket_is_waited_for() {
    let site = Site::start().await;
    let stream = subjects::kv_stream_name("jobs");
    site.limit_stream(&stream, 1).await;
    let mut clips = Vec::new();
    for _ in 0..2 {
        clips.push(site.upload(Clip { seconds: 2, ..Clip::default() }).await);
    }
    let worker = site.worker(config()).await;
    for clip in &clips {
        assert_eq!(site.wait_waiting(clip.media_id, LIMIT).await.code, "broker_full");
    }
    last_on().await;
    site.limit_stream(&stream, 100 << 20).await;
    for clip in clips {
        check_unharmed(&site, clip).await;
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_vanish_end_no_job() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 16, has_audio: false, ..Clip::default() }).await;
    let mut config = config();
    (config.claim_fresh_ms, config.renew_interval_ms) = (400, 100);
    (config.lost_workers_max, config.lost_delay_ms) = (3, 50);
    // Every part is held at once, and none is done while the children wait.
    config.parts.slots = 8;
    site.hold_children(true);
    for round in 0..3 {
        let worker = site.worker(config.clone()).await;
        site.wait(LIMIT, "a worker on every part", async || {
            let held = site.wait_claims(clip.job_id, 1, LIMIT).await;
            let is_missed = |part: &JobPartRecord| part.lost.map_or(0, |lost| lost.workers) == round;
            held.len() == site.job(clip.job_id).await.parts.len() && held.iter().all(is_missed)
        })
        .await;
        worker.vanish().await;
    }
    // Parts that lost so many run alone in their worker, which vanishes too.
    let worker = site.worker(config.clone()).await;
    let is_missed = |part: &JobPartRecord| part.lost.is_some_and(|lost| lost.workers == 3);
    site.wait(LIMIT, "parts that all lost three", async || {
        site.parts(clip.job_id).await.iter().all(is_missed)
    })
    .await;
    let held = site.wait_claims(clip.job_id, 1, LIMIT).await;
    assert_eq!(held.len(), 1, "{held:?}");
    worker.vanish().await;
    site.hold_children(false);
    // This one lives: a busy machine may keep it from showing itself for a while.
    config.claim_fresh_ms = 3_000;
    let worker = site.worker(config).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    let parts = site.parts(clip.job_id).await;
    assert!(parts.len() > 1 && parts.iter().all(|part| part.faults == 0), "{parts:?}");
    assert!(parts.iter().all(|part| part.attempt > 3), "more tries than may fail: {parts:?}");
    assert!(count(&site, "job.retried").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_loses_workers_for_long_is_put_aside() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let mut config = config();
    (config.lost_workers_max, config.lost_park_ms, config.claim_fresh_ms) = (2, 1, 300);
    let worker = site.worker(config.clone()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
    reopen_finish(&site, clip).await;
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH), |part| {
        let lost = job::LostWorkers {
            workers: 1,
            first_at_ms: 1,
            last_at_ms: 1,
            parked_at_ms: None,
            retry_at_ms: None,
        };
        let part =
            JobPartRecord { last_seen_ms: 1, worker: "gone".into(), lost: Some(lost), ..part?.clone() };
        Some((part, Outbox::new()))
    })
    .await
    .unwrap();
    queue_finish(&site, clip).await;
    let worker = site.worker(config).await;
    site.wait(LIMIT, "a parked part", async || count(&site, "job.parked").await > 0).await;
    site.wait_queue_empty(LIMIT).await;
    worker.stop().await;
    let letters = site.dead_letters().await;
    assert_eq!((letters.len(), letters[0].code.as_str()), (1, job::WORKERS_LOST), "{letters:?}");
    assert_eq!(count(&site, "job.parked").await, 1);
    assert_eq!(site.job(clip.job_id).await.status, job::JobStatus::Active, "it can be resumed");
    assert_eq!(site.asset(clip.media_id).await.waiting.unwrap().code, job::WORKERS_LOST);
}

/// A part that somebody holds whose clock differs from the broker's.
async fn hold(site: &Site, clip: Uploaded, last_seen_ms: u64) {
    let bus = site.broker.bus(Role::Transcode).await;
    reopen_finish(site, clip).await;
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH), |part| {
        Some((JobPartRecord { last_seen_ms, worker: "another".into(), ..part?.clone() }, Outbox::new()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_as_old_as_the_broker_says() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let mut config = config();
    config.claim_fresh_ms = 500;
    let worker = site.worker(config.clone()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    // One whose clock is ten minutes ahead is gone: it blocks nothing.
    hold(&site, clip, nats::now_ms() + 600_000).await;
    queue_finish(&site, clip).await;
    site.wait_job(clip.job_id, job::JobStatus::Succeeded, Duration::from_secs(10)).await;
    worker.stop().await;

    // One whose clock is ten minutes behind lives: it is not displaced.
    hold(&site, clip, nats::now_ms() - 600_000).await;
    config.claim_fresh_ms = 60_000;
    let worker = site.worker(config).await;
    queue_finish(&site, clip).await;
    let bus = site.broker.bus(Role::Admin).await;
    let durable = async || {
        let stream = bus.context().get_stream(subjects::JOBS).await.unwrap();
        stream.consumer_info("transcode-p0").await.unwrap()
    };
    let before = durable().await.delivered.consumer_sequence;
    site.wait(LIMIT, "a delivery", async || {
        let info = durable().await;
        info.delivered.consumer_sequence > before || info.num_ack_pending > 0
    })
    .await;
    worker.stop().await;
    let part = bus
        .load_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(part.record.worker, "another", "{:?}", part.record);
    assert_eq!(site.job(clip.job_id).await.status, job::JobStatus::Active);
}

/// A part whose record says that it failed, while the job could not be updated.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_given_up_halfway_still_ends_its_job() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    reopen_finish(&site, clip).await;
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH), |part| {
        let part = JobPartRecord {
            status: JobPartStatus::Failed,
            code: Some("conformance_failed".into()),
            ..part?.clone()
        };
        Some((part, Outbox::new()))
    })
    .await
    .unwrap();
    // Its result was not published.
    bus.change_record::<records::MediaRecord>(&clip.media_id.to_string(), |medium| {
        let medium = medium?.clone();
        Some((records::MediaRecord { status: MediaStatus::Playable, ..medium }, Outbox::new()))
    })
    .await
    .unwrap();
    queue_finish(&site, clip).await;
    let job = site.wait_job(clip.job_id, job::JobStatus::Failed, LIMIT).await;
    assert_eq!(job.code.as_deref(), Some("conformance_failed"));
    worker.stop().await;
    let asset: records::MediaRecord = site.asset(clip.media_id).await;
    assert_eq!((asset.status, asset.code.as_deref()), (MediaStatus::Failed, Some("conformance_failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_result_makes_its_job_a_success_whatever_a_late_worker_meets() {
    let site = Site::start().await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(config()).await;
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    reopen_finish(&site, clip).await;
    let bus = site.broker.bus(Role::Transcode).await;
    bus.change_record::<JobPartRecord>(&subjects::part_key(clip.job_id, job::FINISH), |part| {
        Some((JobPartRecord { status: JobPartStatus::Failed, ..part?.clone() }, Outbox::new()))
    })
    .await
    .unwrap();
    queue_finish(&site, clip).await;
    site.wait_job(clip.job_id, job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
    assert_eq!(site.asset(clip.media_id).await.status, MediaStatus::Ready, "what plays goes on playing");
}
