//! Three brokers under a whole installation, while a creator uploads: restarted in turn without waiting, the leader killed and
//! frozen. What was acknowledged plays, the audit log has each event once, and nobody has to be started again.
//!
//! `make test` freezes for some seconds; `make soak` sets `SOAK_FREEZES_S` and prints the longest time without an answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nats::testing::SERVERS;
use parking_lot::Mutex;
use schemas::subjects;
use tokio_util::sync::CancellationToken;

use crate::{
    faults::check_audit,
    harness::{Cluster, Options, WAIT_MAX, sample},
    soak::check_ids,
};

/// Acknowledged uploads that show that an installation works again.
const UPLOADS_AFTER: usize = 3;

/// How long the leader is frozen, one time after the other, in seconds.
fn freezes_s() -> Vec<u64> {
    let text = std::env::var("SOAK_FREEZES_S").unwrap_or_else(|_| "6".to_owned());
    text.split(',')
        .map(|number| number.parse().expect("SOAK_FREEZES_S is seconds, separated by commas"))
        .collect()
}

/// Somebody who uploads one clip after the other, whatever the answers are.
#[derive(Debug, Default)]
struct Creator {
    acknowledged: Mutex<Vec<String>>,
    refused: AtomicUsize,
    /// Longest time between two acknowledged uploads with a refusal between them, in milliseconds.
    refused_ms_max: AtomicUsize,
}

impl Creator {
    fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    async fn upload_until(self: Arc<Self>, upload: reqwest::RequestBuilder, stop: CancellationToken) {
        let mut last = Instant::now();
        let mut is_refused = false;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            ticks.tick().await;
            let answer = upload.try_clone().unwrap().send().await.unwrap();
            if answer.status() == 201 {
                let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
                self.acknowledged.lock().push(media_id);
                if std::mem::take(&mut is_refused) {
                    let waited_ms = usize::try_from(last.elapsed().as_millis()).unwrap();
                    self.refused_ms_max.fetch_max(waited_ms, Ordering::Relaxed);
                }
                last = Instant::now();
            } else {
                assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap());
                assert!(answer.headers().contains_key("retry-after"), "it says when to try again");
                self.refused.fetch_add(1, Ordering::Relaxed);
                is_refused = true;
            }
        }
    }
}

struct Scene {
    cluster: Cluster,
    creator: Arc<Creator>,
    stop: CancellationToken,
    uploading: tokio::task::JoinHandle<()>,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Cluster::start(Options { three_brokers: true, ..Options::default() }).await;
        let (creator, stop) = (Arc::new(Creator::default()), CancellationToken::new());
        let upload = cluster.request(reqwest::Method::POST, "/v1/media").header("content-type", "video/mp4");
        let upload = upload.body(sample(1, "160x90", "25"));
        let uploading = tokio::spawn(Arc::clone(&creator).upload_until(upload, stop.clone()));
        let mut scene = Self { cluster, creator, stop, uploading };
        scene.goes_on("at start").await;
        scene
    }

    /// Waits for some more acknowledged uploads.
    async fn goes_on(&mut self, when: &str) {
        let (began, wanted) = (Instant::now(), self.creator.count() + UPLOADS_AFTER);
        while self.creator.count() < wanted {
            let is_over = began.elapsed() > WAIT_MAX || self.uploading.is_finished();
            assert!(!is_over, "{when}: no uploads\n{}", self.cluster.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The server that leads EVENTS.
    async fn leader(&mut self) -> usize {
        let began = Instant::now();
        loop {
            if let Ok(stream) = self.cluster.bus.context().get_stream(subjects::EVENTS).await {
                let name = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
                let leader = name.and_then(|name| self.cluster.brokers.three().index_of(&name));
                if let Some(index) = leader {
                    return index;
                }
            }
            assert!(began.elapsed() < WAIT_MAX, "nobody leads EVENTS");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The creator stops, and everything that was acknowledged is looked at.
    #[expect(clippy::print_stdout, reason = "the figures are for whoever runs it at length")]
    async fn end(mut self) {
        self.stop.cancel();
        self.uploading.await.unwrap();
        self.cluster.check_running();
        let acknowledged = self.creator.acknowledged.lock().clone();
        for media_id in &acknowledged {
            let end = self.cluster.end_of(media_id).await;
            assert_eq!(end.kind, "job.succeeded", "{end:?}\n{}", self.cluster.logs());
        }
        check_ids(&mut self.cluster).await;
        check_audit(&mut self.cluster).await;
        let began = Instant::now();
        let last = acknowledged.last().unwrap();
        while self.cluster.get("/v1/media?limit=1").await["items"][0]["media_id"] != last.as_str() {
            assert!(began.elapsed() < WAIT_MAX, "the list does not follow");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!(
            "{} uploads acknowledged, {} refused, longest time without one {} ms",
            acknowledged.len(),
            self.creator.refused.load(Ordering::Relaxed),
            self.creator.refused_ms_max.load(Ordering::Relaxed)
        );
    }
}

#[tokio::test]
async fn soak_three_brokers_that_are_restarted_killed_and_frozen_cost_no_acknowledged_upload() {
    let mut scene = Scene::start().await;
    for index in 0..SERVERS {
        scene.cluster.brokers.three().kill(index);
        scene.cluster.brokers.three().launch(index);
    }
    scene.goes_on("after restarts without waiting").await;
    for index in 0..SERVERS {
        scene.cluster.brokers.three().kill(index);
        scene.cluster.brokers.three().launch(index);
        scene.goes_on("after a restart").await;
    }
    let leader = scene.leader().await;
    scene.cluster.brokers.three().kill(leader);
    scene.goes_on("without its leader").await;
    scene.cluster.brokers.three().launch(leader);
    for seconds in freezes_s() {
        let leader = scene.leader().await;
        scene.cluster.brokers.three().freeze(leader);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        scene.cluster.brokers.three().thaw(leader);
        scene.goes_on("after a freeze").await;
    }
    scene.end().await;
}
