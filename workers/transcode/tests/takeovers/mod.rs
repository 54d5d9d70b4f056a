//! A worker that is lost is replaced soon, and a worker that lives is not replaced, whatever the broker does.
//!
//! The broker and the times are those that are delivered, since they are what is tested.

use std::{collections::BTreeSet, time::Duration};

use nats::{Bus, Role, topology::TopologySettings};
use schemas::{
    job::{self, JobPartRecord},
    media::MediaStatus,
    subjects,
};

use super::{
    LIMIT,
    site::{Clip, Site, Uploaded, Worker},
};

/// Longest time from the loss of a worker until another has its parts, in milliseconds.
const LOST_MS_MAX: u64 = 11_000;

/// The tiny profile with the times that are delivered.
fn config() -> transcode::TranscodeConfig {
    let mut config =
        transcode::TranscodeConfig { profile: "tiny".into(), ..transcode::TranscodeConfig::default() };
    config.parts.slots = 8;
    config
}

/// One worker that holds every part of a job and gets nowhere, and one that has nothing to do.
struct Scene {
    site: Site,
    clip: Uploaded,
    bus: Bus,
    holder: Worker,
    idle: Worker,
    /// What the holder holds.
    parts: Vec<JobPartRecord>,
}

impl Scene {
    async fn start() -> Self {
        let site = Site::start_with(&TopologySettings::default()).await;
        site.hold_children(true);
        let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
        let holder = site.worker(config()).await;
        let mut parts = Vec::new();
        site.wait(LIMIT, "a worker on every part", async || {
            parts = site.wait_claims(clip.job_id, 1, LIMIT).await;
            parts.len() == site.job(clip.job_id).await.parts.len()
        })
        .await;
        let (idle, bus) = (site.worker(config()).await, site.broker.bus(Role::Admin).await);
        Self { site, clip, bus, holder, idle, parts }
    }

    /// The broker's time at which it stored the newest renewal of each part, in Unix milliseconds.
    async fn shown_at_ms(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for part in &self.parts {
            let key = subjects::part_key(self.clip.job_id, &part.part);
            all.push(self.bus.load_record::<JobPartRecord>(&key).await.unwrap().unwrap().stored_at_ms());
        }
        all
    }

    async fn now_ms(&self) -> u64 {
        self.bus.broker_now_ms(&subjects::kv_stream_name("jobs")).await.unwrap()
    }

    /// Messages of the parts once more as first deliveries, as a queue has them that was restored. Sent while the broker does not
    /// answer, they are among the first that it looks at then.
    async fn send_again(&self) {
        for part in &self.parts {
            let task = job::JobPartTask { job_id: self.clip.job_id, part: part.part.clone() };
            let priority = subjects::JobPriority::P0;
            let subject = subjects::job_part_subject("transcode", priority, self.clip.job_id, &part.part);
            let payload = nats::encode_message(&subject, &task).unwrap();
            self.bus.client().publish(subject, payload.into()).await.unwrap();
        }
    }

    /// Waits until every message that was sent again was looked at, and the holder has shown itself twice after that.
    async fn wait_shown(&self) {
        self.site
            .wait(LIMIT, "a look at every part", async || {
                let stream = self.bus.context().get_stream(subjects::JOBS).await.unwrap();
                let info = stream.consumer_info("transcode-p0").await.unwrap();
                info.delivered.consumer_sequence >= self.parts.len() as u64
            })
            .await;
        for _ in 0..2 {
            let since_ms = self.now_ms().await;
            self.site
                .wait(LIMIT, "renewals", async || self.shown_at_ms().await.iter().all(|ms| *ms > since_ms))
                .await;
        }
    }

    /// The holder makes every part in its first try.
    async fn check_nothing_stolen(self) {
        self.site.hold_children(false);
        self.site.wait_status(self.clip.media_id, MediaStatus::Ready, LIMIT).await;
        for (part, held) in self.site.parts(self.clip.job_id).await.into_iter().zip(&self.parts) {
            assert_eq!(
                (part.attempt, &part.worker, part.lost),
                (1, &held.worker, None),
                "{part:?}, before: {held:?}"
            );
        }
        assert!(!self.site.event_kinds().await.iter().any(|kind| kind == "job.retried"));
        self.site.wait_queue_empty(LIMIT).await;
        self.holder.stop().await;
        self.idle.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced_within_eleven_seconds() {
    let scene = Scene::start().await;
    let lost_at_ms = scene.now_ms().await;
    let Scene { site, clip, holder, idle, parts, .. } = scene;
    holder.vanish().await;
    let mut taken = Vec::new();
    site.wait(LIMIT, "another worker on every part", async || {
        taken = site.parts(clip.job_id).await;
        taken.iter().zip(&parts).all(|(now, before)| now.worker != before.worker)
    })
    .await;
    // The broker's time at which each part was found without its worker, which is when it was taken.
    let cost_ms: Vec<u64> =
        taken.iter().map(|part| part.lost.unwrap().last_at_ms.saturating_sub(lost_at_ms)).collect();
    println!("from the loss to the next worker: {cost_ms:?} ms");
    assert!(cost_ms.iter().all(|ms| *ms <= LOST_MS_MAX), "{cost_ms:?}");
    assert!(taken.iter().all(|part| part.attempt == 2), "{taken:?}");
    site.hold_children(false);
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    idle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_frozen_takes_nothing_from_a_worker_that_lives() {
    let scene = Scene::start().await;
    scene.site.broker.freeze();
    // The fault itself: three times as long as a holder may be unseen.
    tokio::time::sleep(Duration::from_secs(20)).await;
    scene.send_again().await;
    scene.site.broker.thaw();
    scene.wait_shown().await;
    scene.check_nothing_stolen().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_restarted_takes_nothing_from_a_worker_that_lives() {
    let scene = Scene::start().await;
    scene.site.broker.kill_and_wait().await;
    scene.send_again().await;
    scene.wait_shown().await;
    scene.check_nothing_stolen().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_before_its_restart_takes_nothing_from_a_worker_that_lives() {
    let scene = Scene::start().await;
    scene.site.broker.freeze();
    // The fault itself: longer than a holder may be unseen.
    tokio::time::sleep(Duration::from_secs(8)).await;
    scene.site.broker.kill_and_wait().await;
    scene.send_again().await;
    scene.wait_shown().await;
    scene.check_nothing_stolen().await;
}

/// With durables of an older topology, whose ack wait asks for a sign of life only every ten seconds, and with an encoder that
/// writes only once in a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_shows_itself_every_two_seconds_whatever_it_waits_for() {
    let old = TopologySettings { ack_wait: Some(Duration::from_secs(30)), ..TopologySettings::default() };
    let site = Site::start_with(&old).await;
    let bus = site.broker.bus(Role::Admin).await;
    site.hold_children(true);
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let worker = site.worker(transcode::TranscodeConfig { renew_interval_ms: 60_000, ..config() }).await;
    let held = site.wait_claims(clip.job_id, 1, LIMIT).await.remove(0);
    let mut shown = BTreeSet::new();
    site.wait(LIMIT, "four renewals", async || {
        let key = subjects::part_key(clip.job_id, &held.part);
        let found = bus.load_record::<JobPartRecord>(&key).await.unwrap();
        shown.insert(found.unwrap().stored_at_ms());
        shown.len() > 4
    })
    .await;
    let shown: Vec<u64> = shown.into_iter().collect();
    let longest_ms = shown.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest_ms < 3_000, "{shown:?}");
    site.hold_children(false);
    site.wait_status(clip.media_id, MediaStatus::Ready, LIMIT).await;
    worker.stop().await;
}
