//! What this worker says of itself in the bucket `workers`: what it holds, how fast it is, where it stands.
//!
//! A hint for people. It is put by this process alone, and while the broker is away the work goes on without it.
//!
//! Limits: one put in [`CHANGE_PERIOD`] when something changed, else one in [`IDLE_PERIOD`] more; the speed is that of at most
//! [`MADE_PARTS_MAX`] parts of the last hour.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    time::{Duration, Instant},
};

use nats::Bus;
use parking_lot::Mutex;
use schemas::{
    KvRecord as _,
    fault::error_chain,
    ids::JobId,
    job::JobQueue,
    subjects,
    worker::{self, HeldPart, WorkerAction, WorkerRecord, WorkerState},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Least time between two puts.
const CHANGE_PERIOD: Duration = Duration::from_millis(200);
/// How much longer it takes until the next put when nothing changes: two may fail before the record is over.
const IDLE_PERIOD: Duration = Duration::from_millis(2_800);
/// How long taking the record away may take at the end; it ends by itself, too.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(1);
/// How long ago a part may have ended to count for the speed.
const SPEED_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Most parts that count for the speed.
const MADE_PARTS_MAX: usize = 1_024;

/// Where the name of this host stands.
const HOST_FILE: &str = "/proc/sys/kernel/hostname";

/// What stays the same of a worker.
#[derive(Debug, Clone)]
pub struct WorkerIdentity {
    /// Its name: a random one per process.
    pub worker: String,
    /// Whose parts it makes.
    pub queue: JobQueue,
    /// Parts that it works on at once.
    pub slots: usize,
    /// Version of the encoder options with which it makes parts; empty where that does not matter.
    pub options_version: String,
    /// How long it leaves jobs of other such versions to others, in milliseconds.
    pub other_version_wait_ms: u64,
}

/// What this worker holds and has made.
#[derive(Debug)]
pub struct WorkerStatus {
    identity: WorkerIdentity,
    host: String,
    started: Instant,
    known: Mutex<KnownWork>,
    changed: Notify,
    takes_parts: watch::Sender<bool>,
    takes_plans: watch::Sender<bool>,
}

#[derive(Debug)]
struct KnownWork {
    /// By queue subject.
    held: HashMap<String, HeldPart>,
    made: VecDeque<MadePart>,
    state: WorkerState,
    is_stopping: bool,
}

/// A part that was made.
#[derive(Debug, Clone, Copy)]
struct MadePart {
    began: Instant,
    ended: Instant,
    output_ms: u64,
}

impl WorkerStatus {
    /// A worker that holds nothing and takes parts.
    pub fn new(identity: WorkerIdentity) -> Self {
        let work = KnownWork {
            held: HashMap::new(),
            made: VecDeque::new(),
            state: WorkerState::Running,
            is_stopping: false,
        };
        Self {
            identity,
            host: std::fs::read_to_string(HOST_FILE).map(|text| cut_host_name(&text)).unwrap_or_default(),
            started: Instant::now(),
            known: Mutex::new(work),
            changed: Notify::new(),
            takes_parts: watch::channel(true).0,
            takes_plans: watch::channel(true).0,
        }
    }

    /// Name of the worker.
    pub fn worker(&self) -> &str {
        &self.identity.worker
    }

    /// Whether new parts are taken.
    pub fn watch_parts(&self) -> watch::Receiver<bool> {
        self.takes_parts.subscribe()
    }

    /// Whether new plans are made.
    pub fn watch_plans(&self) -> watch::Receiver<bool> {
        self.takes_plans.subscribe()
    }

    /// Does what it is asked to, unless the process stops; answers where this worker stands then.
    pub fn apply_action(&self, action: WorkerAction) -> WorkerState {
        let mut known = self.known.lock();
        if let Some(wanted) = action.wanted_state().filter(|_| !known.is_stopping) {
            known.state = wanted;
        }
        // Below the lock: of two that are asked for at once both gates follow the later.
        self.takes_parts.send_replace(known.state == WorkerState::Running);
        self.takes_plans.send_replace(known.state != WorkerState::Draining);
        self.changed.notify_one();
        known.state
    }

    /// The process stops: nobody changes that any more.
    fn begin_stop(&self) {
        let mut known = self.known.lock();
        (known.state, known.is_stopping) = (WorkerState::Draining, true);
    }

    /// A part is held now, in the place of what was held for the same message.
    pub fn hold_part(&self, subject: &str, job_id: JobId, part: &str) {
        let held = HeldPart { job_id, part: part.to_owned(), since_ms: nats::estimated_broker_now_ms() };
        self.known.lock().held.insert(subject.to_owned(), held);
        self.changed.notify_one();
    }

    /// What was held for a message is held no more.
    pub fn release_part(&self, subject: &str) {
        if self.known.lock().held.remove(subject).is_some() {
            self.changed.notify_one();
        }
    }

    /// A part with `output_ms` of output was made since `began`.
    pub fn record_made(&self, began: Instant, output_ms: u64) {
        let mut known = self.known.lock();
        if known.made.len() >= MADE_PARTS_MAX {
            known.made.pop_front();
        }
        known.made.push_back(MadePart { began, ended: Instant::now(), output_ms });
    }

    /// Puts the record at once, when it changed, and every 3 seconds. The work never waits for it.
    pub async fn publish_changes(&self, bus: &Bus, shutdown: &CancellationToken) -> Infallible {
        // The start is said by the broker's time, which nobody may have asked for yet.
        if let Err(error) = bus.broker_now_ms(&subjects::kv_stream_name(worker::BUCKET)).await {
            tracing::debug!(error = error_chain(&error), "the broker's clock could not be read");
        }
        let age_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let started_at_ms = nats::estimated_broker_now_ms().saturating_sub(age_ms);
        let ttl = Duration::from_millis(worker::RECORD_TTL_MS);
        loop {
            let is_stopping = shutdown.is_cancelled();
            if is_stopping {
                self.begin_stop();
            }
            let record = self.build_record(started_at_ms);
            if let Err(error) = bus.put_live_record(&record, ttl).await {
                tracing::debug!(error = error_chain(&error), "the record of this worker was not stored");
            }
            tokio::time::sleep(CHANGE_PERIOD).await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(IDLE_PERIOD) => {}
                () = shutdown.cancelled(), if !is_stopping => {}
            }
        }
    }

    /// Takes the record away.
    pub async fn withdraw(&self, bus: &Bus) {
        let key = subjects::worker_key(self.identity.queue.name(), &self.identity.worker);
        let removing = bus.purge_key(WorkerRecord::BUCKET, &key, Duration::from_secs(1));
        if !matches!(tokio::time::timeout(WITHDRAWAL_MAX, removing).await, Ok(Ok(()))) {
            tracing::debug!(worker = self.identity.worker, "the record of this worker ends by itself");
        }
    }

    fn build_record(&self, started_at_ms: u64) -> WorkerRecord {
        let mut known = self.known.lock();
        known.made.retain(|part| part.ended.elapsed() <= SPEED_AGE_MAX);
        let mut held: Vec<HeldPart> = known.held.values().cloned().collect();
        held.sort_by(|a, b| (a.since_ms, a.job_id, &a.part).cmp(&(b.since_ms, b.job_id, &b.part)));
        held.truncate(worker::HELD_MAX);
        WorkerRecord {
            worker: self.identity.worker.clone(),
            queue: self.identity.queue.name().to_owned(),
            slots: u32::try_from(self.identity.slots.max(1)).unwrap_or(u32::MAX),
            held,
            state: known.state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            options_version: self.identity.options_version.clone(),
            other_version_wait_ms: self.identity.other_version_wait_ms,
            host: self.host.clone(),
            started_at_ms,
            speed: compute_speed(known.made.iter().copied().collect()),
        }
    }
}

fn cut_host_name(text: &str) -> String {
    text.trim().chars().take(worker::HOST_CHARS_MAX).collect()
}

/// Milliseconds of output for each 1,000 milliseconds in which at least one of the parts was being made.
fn compute_speed(mut made: Vec<MadePart>) -> Option<u64> {
    made.sort_by_key(|part| part.began);
    let (mut busy, mut until) = (Duration::ZERO, None);
    for part in &made {
        // Parts that are made at the same time share it.
        let from = until.map_or(part.began, |until: Instant| until.max(part.began));
        busy += part.ended.saturating_duration_since(from);
        until = Some(until.map_or(part.ended, |until| until.max(part.ended)));
    }
    let output_ms: u64 = made.iter().map(|part| part.output_ms).sum();
    let busy_ms = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
    (!made.is_empty()).then(|| output_ms.saturating_mul(1_000) / busy_ms.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> WorkerStatus {
        WorkerStatus::new(WorkerIdentity {
            worker: "w".to_owned(),
            queue: JobQueue::Transcode,
            slots: 1,
            options_version: String::new(),
            other_version_wait_ms: 0,
        })
    }

    #[test]
    fn parts_that_are_made_at_once_share_their_time() {
        let start = Instant::now();
        let made = |began_ms, ended_ms, output_ms| MadePart {
            began: start + Duration::from_millis(began_ms),
            ended: start + Duration::from_millis(ended_ms),
            output_ms,
        };
        for (what, parts, wanted) in [
            ("nothing yet", vec![], None),
            ("one", vec![made(0, 2_000, 6_000)], Some(3_000)),
            ("two at once", vec![made(0, 2_000, 6_000), made(0, 2_000, 6_000)], Some(6_000)),
            ("in the order of their ends", vec![made(500, 1_000, 1_000), made(0, 2_000, 1_000)], Some(1_000)),
            ("a pause", vec![made(0, 1_000, 1_000), made(5_000, 6_000, 3_000)], Some(2_000)),
            ("in no time", vec![made(7, 7, 5)], Some(5_000)),
        ] {
            assert_eq!(compute_speed(parts), wanted, "{what}");
        }
    }

    #[test]
    fn a_worker_that_stops_takes_no_commands() {
        let status = status();
        let (parts, plans) = (status.watch_parts(), status.watch_plans());
        for (action, state, takes) in [
            (WorkerAction::Pause, WorkerState::Paused, (false, true)),
            (WorkerAction::Drain, WorkerState::Draining, (false, false)),
            (WorkerAction::Unknown, WorkerState::Draining, (false, false)),
            (WorkerAction::Resume, WorkerState::Running, (true, true)),
        ] {
            assert_eq!(status.apply_action(action), state, "{action:?}");
            assert_eq!((*parts.borrow(), *plans.borrow()), takes, "{action:?}");
        }
        status.begin_stop();
        assert_eq!(status.apply_action(WorkerAction::Resume), WorkerState::Draining);
        assert_eq!((*parts.borrow(), *plans.borrow()), (false, false));
    }

    #[test]
    fn a_long_host_name_is_cut() {
        assert_eq!(cut_host_name("encoder-3\n"), "encoder-3");
        assert_eq!(cut_host_name(&"ä".repeat(65)), "ä".repeat(64));
    }

    #[test]
    fn a_finish_in_the_place_of_a_part_takes_its_place_in_the_list() {
        let status = status();
        let job_id = JobId::from_bytes([1; 16]);
        let names =
            || -> Vec<String> { status.build_record(0).held.into_iter().map(|held| held.part).collect() };
        status.hold_part("job.transcode.p1.J.v0000", job_id, "v0000");
        status.hold_part("job.transcode.p1.J.v0000", job_id, "finish");
        assert_eq!(names(), ["finish"]);
        status.release_part("job.transcode.p1.J.v0000");
        assert_eq!(names(), Vec::<String>::new());
    }
}
