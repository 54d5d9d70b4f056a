//! The slots there are, and how many parts the queue takes for them.
//!
//! Limits: a worker that was not seen for [`SEEN_MAX`] is gone; [`WORKERS_MAX`] are counted.

use std::{collections::HashMap, time::Duration};

use schemas::worker::{RECORD_TTL_MS, WorkerRecord, WorkerState};
use tokio::time::Instant;

/// Parts that the queue takes for each slot of the workers: one that runs, and one that waits for its end.
pub const QUEUED_PARTS_PER_SLOT: usize = 2;

/// Parts that the queue takes when no worker says how many slots it has.
pub const QUEUED_PARTS_MIN: usize = 2;

/// How long a worker counts after it was seen: as long as its record does, and a moment until the broker has removed that.
const SEEN_MAX: Duration = Duration::from_millis(RECORD_TTL_MS + 2_000);

/// How long slots have to stay free beside a full queue before parts in it are taken for delayed: longer than a worker takes to say
/// what it holds.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Most parts that are taken for delayed, for each slot.
const DELAYED_PARTS_PER_SLOT_MAX: usize = 8;

/// Workers that are kept at once; beyond them the rest are not counted.
const WORKERS_MAX: usize = 10_000;

/// Live workers by the subject of their record.
#[derive(Debug, Default)]
pub(crate) struct WorkerTable {
    workers: HashMap<String, SeenWorker>,
    /// Parts in the queue that are taken for delayed.
    delayed: usize,
    /// Since when the queue is full while slots are free.
    stalled_since: Option<Instant>,
}

/// What a worker said of itself last.
#[derive(Debug, Clone)]
pub(crate) struct SeenWorker {
    slots: u32,
    held: u32,
    is_running: bool,
    options_version: String,
    /// Unix time in milliseconds.
    started_at_ms: u64,
    other_version_wait_ms: u64,
    seen: Instant,
}

impl SeenWorker {
    pub(crate) fn new(record: &WorkerRecord, now: Instant) -> Self {
        Self {
            slots: record.slots,
            held: u32::try_from(record.held.len()).unwrap_or(u32::MAX),
            is_running: record.state == WorkerState::Running,
            options_version: record.options_version.clone(),
            started_at_ms: record.started_at_ms,
            other_version_wait_ms: record.other_version_wait_ms,
            seen: now,
        }
    }

    fn is_live(&self, now: Instant) -> bool {
        now.duration_since(self.seen) <= SEEN_MAX
    }

    /// Slots that take parts.
    const fn open_slots(&self) -> u32 {
        if self.is_running { self.slots } else { 0 }
    }

    /// Whether it does something about a job of a version: it makes its parts, says nothing of versions, or gives the job up.
    fn takes_version(&self, options_version: &str, created_at_ms: u64, now_ms: u64) -> bool {
        let gives_up_at_ms = self.started_at_ms.max(created_at_ms).saturating_add(self.other_version_wait_ms);
        self.options_version.is_empty() || self.options_version == options_version || gives_up_at_ms <= now_ms
    }
}

impl WorkerTable {
    /// Notes a worker; answers whether there are more slots now.
    pub(crate) fn record(&mut self, key: &str, worker: SeenWorker) -> bool {
        let (now, open_slots) = (worker.seen, worker.open_slots());
        self.workers.retain(|_, worker| worker.is_live(now));
        if self.workers.len() >= WORKERS_MAX && !self.workers.contains_key(key) {
            return false;
        }
        let before = self.workers.insert(key.to_owned(), worker);
        before.is_none_or(|before| before.open_slots() < open_slots)
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.workers.remove(key);
    }

    /// True when workers take parts, and none of them does anything about a job of this version yet.
    pub(crate) fn lack_version(&self, version: &str, created_at_ms: u64, now: Instant, now_ms: u64) -> bool {
        let mut running = self.live_workers(now).filter(|worker| worker.is_running).peekable();
        running.peek().is_some()
            && !running.any(|worker| worker.takes_version(version, created_at_ms, now_ms))
    }

    /// Parts that the queue takes: for each slot, and those that workers hold who take no more.
    pub(crate) fn parts_max(&self, now: Instant) -> usize {
        let others = self.live_workers(now).filter(|worker| !worker.is_running);
        let held: usize = others.map(|worker| worker.held as usize).sum();
        queue_parts_max(self.count(now).1) + held
    }

    /// Parts that the queue takes when it holds `queued`. While it is full and something waits, slots that stay free say that parts
    /// in it are delayed: workers leave them to others, or something they need is away. As many more are let in as slots are free.
    pub(crate) fn queue_room(&mut self, queued: usize, has_waiting: bool, now: Instant) -> usize {
        let room = self.parts_max(now);
        if queued < room {
            (self.delayed, self.stalled_since) = (0, None);
            return room;
        }
        let free: usize = self
            .live_workers(now)
            .map(|worker| worker.open_slots().saturating_sub(worker.held) as usize)
            .sum();
        if free == 0 || !has_waiting || queued < room + self.delayed {
            self.stalled_since = None;
        } else if now.duration_since(*self.stalled_since.get_or_insert(now)) >= STALLED_AFTER {
            let delayed_max = DELAYED_PARTS_PER_SLOT_MAX.saturating_mul(self.count(now).1 as usize);
            self.delayed = (self.delayed + free).min(delayed_max);
            self.stalled_since = None;
        }
        room + self.delayed
    }

    /// Live workers, and the slots of those that take parts.
    pub(crate) fn count(&self, now: Instant) -> (u32, u32) {
        self.live_workers(now)
            .fold((0, 0), |(workers, slots), worker| (workers + 1, slots.saturating_add(worker.open_slots())))
    }

    fn live_workers(&self, now: Instant) -> impl Iterator<Item = &SeenWorker> {
        self.workers.values().filter(move |worker| worker.is_live(now))
    }
}

/// Parts that the queue takes with so many slots.
const fn queue_parts_max(slots: u32) -> usize {
    let parts = QUEUED_PARTS_PER_SLOT.saturating_mul(slots as usize);
    if parts < QUEUED_PARTS_MIN { QUEUED_PARTS_MIN } else { parts }
}
