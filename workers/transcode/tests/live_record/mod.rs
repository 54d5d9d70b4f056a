//! What a running worker shows of itself.

use std::time::Duration;

use nats::{ReaderStart, Role, reader};
use schemas::{
    subjects,
    worker::{WorkerAction, WorkerCommand, WorkerCommandReply, WorkerRecord, WorkerState},
};

use super::{
    LIMIT,
    site::{Clip, Site, config},
};

/// The records of all live workers.
async fn live_workers(site: &Site) -> Vec<WorkerRecord> {
    let bus = site.broker.bus(Role::Admin).await;
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(schemas::worker::BUCKET),
        vec![subjects::worker_filter(transcode::KIND)],
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.open_reader(settings).await.unwrap();
    let mut found = Vec::new();
    while let Some(entry) = entries.next_pending().await.unwrap() {
        // Heartbeats and the mark of a worker that ended have no bytes.
        if !entry.payload.is_empty() {
            found.push(nats::decode_record::<WorkerRecord>(&entry.subject, &entry.payload).unwrap().1);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_worker_shows_what_it_holds_and_is_gone_after_a_stop() {
    let site = Site::start().await;
    site.hold_children(true);
    let before_ms = nats::now_ms();
    let worker = site.worker(config()).await;
    let mut shown = Vec::new();
    let mut wait = async |what: &str, holds: &dyn Fn(&WorkerRecord) -> bool| -> WorkerRecord {
        site.wait(LIMIT, what, async || {
            shown = live_workers(&site).await;
            shown.first().is_some_and(holds)
        })
        .await;
        assert_eq!(shown.len(), 1, "{shown:?}");
        shown[0].clone()
    };
    let idle = wait("worker", &|_| true).await;
    assert_eq!((idle.slots, idle.queue.as_str(), idle.state), (2, "transcode", WorkerState::Running));
    assert_eq!((&idle.held, idle.speed), (&vec![], None));
    assert_eq!(idle.version, env!("CARGO_PKG_VERSION"));
    assert!(!idle.host.is_empty());
    assert!((before_ms..=nats::now_ms()).contains(&idle.started_at_ms), "{idle:?}");

    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    let busy = wait("worker that holds two parts", &|shown| shown.held.len() == 2).await;
    let claims = site.wait_claims(clip.job_id, 1, LIMIT).await;
    let mut claimed: Vec<&str> = claims.iter().map(|part| part.part.as_str()).collect();
    let mut held: Vec<&str> = busy.held.iter().map(|held| held.part.as_str()).collect();
    claimed.sort_unstable();
    held.sort_unstable();
    assert_eq!(held, claimed);
    assert!(
        busy.held.iter().all(|held| held.job_id == clip.job_id && held.since_ms >= before_ms),
        "{busy:?}"
    );
    assert!(claims.iter().all(|part| part.worker == busy.worker), "{claims:?}");
    assert_eq!(busy.started_at_ms, idle.started_at_ms);

    site.hold_children(false);
    site.wait_job(clip.job_id, schemas::job::JobStatus::Succeeded, LIMIT).await;
    let done = wait("worker that holds nothing", &|shown| shown.held.is_empty()).await;
    assert!(done.speed.is_some_and(|speed| speed > 0), "{done:?}");
    worker.stop().await;
    assert_eq!(live_workers(&site).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_vanished_is_shown_no_more() {
    let site = Site::start().await;
    let worker = site.worker(config()).await;
    site.wait(LIMIT, "worker", async || live_workers(&site).await.len() == 1).await;
    worker.vanish().await;
    let over = Duration::from_millis(schemas::worker::RECORD_TTL_MS) + Duration::from_secs(5);
    site.wait(over, "record that ended", async || live_workers(&site).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_says_so_while_it_holds_a_part() {
    let site = Site::start().await;
    site.hold_children(true);
    let worker = site.worker(config()).await;
    let clip = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    site.wait_claims(clip.job_id, 1, LIMIT).await;
    let stopping = tokio::spawn(worker.stop());
    let is_draining = |shown: &WorkerRecord| shown.state == WorkerState::Draining && !shown.held.is_empty();
    site.wait(LIMIT, "worker that drains", async || live_workers(&site).await.iter().any(is_draining)).await;
    site.hold_children(false);
    stopping.await.unwrap();
    assert_eq!(live_workers(&site).await, []);
}

/// Asks a worker as the ingress does; answers where it stands then.
async fn ask(site: &Site, worker: &str, action: WorkerAction) -> WorkerState {
    let bus = site.broker.bus(Role::Ingress).await;
    let (subject, wait_max) = (subjects::worker_command_subject(worker), Duration::from_secs(2));
    let reply: WorkerCommandReply = bus.request(subject, &WorkerCommand { action }, wait_max).await.unwrap();
    reply.state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_takes_parts_only_once_it_is_resumed() {
    let site = Site::start().await;
    site.hold_children(true);
    let worker = site.worker(config()).await;
    site.wait(LIMIT, "worker", async || live_workers(&site).await.len() == 1).await;
    let name = live_workers(&site).await.remove(0).worker;
    let held = site.upload(Clip { seconds: 4, ..Clip::default() }).await;
    site.wait(LIMIT, "parts", async || live_workers(&site).await[0].held.len() == 2).await;
    assert_eq!(ask(&site, &name, WorkerAction::Pause).await, WorkerState::Paused);
    site.wait(LIMIT, "pause", async || live_workers(&site).await[0].state == WorkerState::Paused).await;
    // It goes on with what it holds, also to the end of the job, and plans what comes.
    site.hold_children(false);
    site.wait_job(held.job_id, schemas::job::JobStatus::Succeeded, LIMIT).await;
    let later = site.upload(Clip { seconds: 2, ..Clip::default() }).await;
    let is_planned =
        async || site.event_kinds().await.iter().filter(|kind| *kind == "job.queued").count() == 2;
    site.wait(LIMIT, "plan", is_planned).await;
    // Time for many pulls of every slot.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.parts(later.job_id).await.is_empty(), "it takes none");
    assert_eq!(ask(&site, &name, WorkerAction::Resume).await, WorkerState::Running);
    site.wait_job(later.job_id, schemas::job::JobStatus::Succeeded, LIMIT).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_ends_up_with_nothing_and_leaves_the_rest_to_others() {
    let site = Site::start().await;
    let worker = site.worker(config()).await;
    site.wait(LIMIT, "worker", async || live_workers(&site).await.len() == 1).await;
    let name = live_workers(&site).await.remove(0).worker;
    assert_eq!(ask(&site, &name, WorkerAction::Drain).await, WorkerState::Draining);
    let other = site.worker(config()).await;
    let clip = site.upload(Clip { seconds: 9, ..Clip::default() }).await;
    site.wait_job(clip.job_id, schemas::job::JobStatus::Succeeded, LIMIT).await;
    assert!(site.parts(clip.job_id).await.iter().all(|part| part.worker != name), "the other one made all");
    let found = live_workers(&site).await;
    let drained = found.iter().find(|shown| shown.worker == name).unwrap();
    assert_eq!((drained.state, drained.held.len()), (WorkerState::Draining, 0));
    worker.stop().await;
    other.stop().await;
}
