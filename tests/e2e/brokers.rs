//! Three brokers under a whole installation, while a creator uploads: restarted in turn without waiting, the leader killed and
//! frozen. What was acknowledged plays, the audit log has each event once, and nobody has to be started again.
//!
//! `make test` freezes for some seconds; `make soak` sets `SOAK_FREEZES_S` and prints the longest time without an answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::testing::SERVERS;
use parking_lot::Mutex;
use schemas::subjects;
use tokio_util::sync::CancellationToken;

use crate::{
    faults::check_audit,
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
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

/// Media whose upload was acknowledged, in order.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// What was refused to somebody who uploads one clip after the other.
#[derive(Debug, Default)]
struct Refused {
    count: usize,
    /// Longest time between two acknowledged uploads with a refusal between them.
    longest: Duration,
}

/// Uploads a clip a second, whatever the answers are.
async fn upload_until(
    upload: reqwest::RequestBuilder,
    acknowledged: Acknowledged,
    stop: CancellationToken,
) -> Refused {
    let mut refused = Refused::default();
    let (mut last, mut is_refused) = (Instant::now(), false);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let answer = upload.try_clone().unwrap().send().await.unwrap();
        if answer.status() == 201 {
            let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
            acknowledged.lock().push(media_id);
            if std::mem::take(&mut is_refused) {
                refused.longest = refused.longest.max(last.elapsed());
            }
            last = Instant::now();
        } else {
            assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap());
            assert!(answer.headers().contains_key("retry-after"), "it says when to try again");
            refused.count += 1;
            is_refused = true;
        }
    }
    refused
}

struct Scene {
    cluster: Cluster,
    acknowledged: Acknowledged,
    stop: CancellationToken,
    uploading: tokio::task::JoinHandle<Refused>,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Cluster::start(Options { three_brokers: true, ..Options::default() }).await;
        let (acknowledged, stop) = (Acknowledged::default(), CancellationToken::new());
        let upload = cluster.request(reqwest::Method::POST, "/v1/media").header("content-type", "video/mp4");
        let upload = upload.body(sample(1, "160x90", "25"));
        let uploading = tokio::spawn(upload_until(upload, Arc::clone(&acknowledged), stop.clone()));
        let scene = Self { cluster, acknowledged, stop, uploading };
        scene.goes_on("at start").await;
        scene
    }

    /// Waits for some more acknowledged uploads.
    async fn goes_on(&self, when: &str) {
        let count = || self.acknowledged.lock().len();
        let wanted = count() + UPLOADS_AFTER;
        let is_over = || count() >= wanted || self.uploading.is_finished();
        poll(WAIT_MAX, async || is_over().then_some(())).await;
        assert!(count() >= wanted, "{when}: no uploads\n{}", self.cluster.logs());
    }

    /// The server that leads EVENTS.
    async fn leader(&mut self) -> usize {
        let look = async || {
            let stream = self.cluster.bus.context().get_stream(subjects::EVENTS).await.ok()?;
            let leader = stream.cached_info().cluster.as_ref()?.leader.as_ref()?;
            self.cluster.brokers.three().index_of_name(leader)
        };
        poll(WAIT_MAX, look).await.expect("somebody leads EVENTS")
    }

    /// The creator stops, and everything that was acknowledged is looked at.
    #[expect(clippy::print_stdout, reason = "the figures are for those who run it at length")]
    async fn end(mut self) {
        self.stop.cancel();
        let refused = self.uploading.await.unwrap();
        self.cluster.check_running();
        let acknowledged = self.acknowledged.lock().clone();
        for media_id in &acknowledged {
            let end = self.cluster.end_of(media_id).await;
            assert_eq!(end.kind, "job.succeeded", "{end:?}\n{}", self.cluster.logs());
        }
        check_ids(&mut self.cluster).await;
        check_audit(&mut self.cluster).await;
        let last = acknowledged.last().unwrap();
        let newest = async || self.cluster.get("/v1/media?limit=1").await["items"][0]["media_id"].clone();
        let follows = poll(WAIT_MAX, async || (newest().await == last.as_str()).then_some(())).await;
        assert!(follows.is_some(), "the list does not follow");
        println!(
            "{} uploads acknowledged, {} refused, longest time without one {} ms",
            acknowledged.len(),
            refused.count,
            refused.longest.as_millis()
        );
    }
}

#[tokio::test]
async fn soak_three_brokers_that_are_restarted_killed_and_frozen_cost_no_acknowledged_upload() {
    let mut scene = Scene::start().await;
    for index in 0..SERVERS {
        scene.cluster.brokers.three().kill_server(index);
        scene.cluster.brokers.three().launch_server(index);
    }
    scene.goes_on("after restarts without waiting").await;
    for index in 0..SERVERS {
        scene.cluster.brokers.three().kill_server(index);
        scene.cluster.brokers.three().launch_server(index);
        scene.goes_on("after a restart").await;
    }
    let leader = scene.leader().await;
    scene.cluster.brokers.three().kill_server(leader);
    scene.goes_on("without its leader").await;
    scene.cluster.brokers.three().launch_server(leader);
    for seconds in freezes_s() {
        let leader = scene.leader().await;
        scene.cluster.brokers.three().freeze_server(leader);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        scene.cluster.brokers.three().thaw_server(leader);
        scene.goes_on("after a freeze").await;
    }
    scene.end().await;
}
