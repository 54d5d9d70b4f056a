//! The slots there are, and how many parts the queue takes for them.
//!
//! Limits: a worker that was not seen for [`SEEN_MAX`] is gone; [`WORKERS_MAX`] are counted.

use std::{collections::HashMap, time::Duration};

use schemas::worker::RECORD_TTL_MS;
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

#[derive(Debug, Clone, Copy)]
struct SeenWorker {
    slots: u32,
    held: u32,
    seen: Instant,
}

impl SeenWorker {
    fn is_live(&self, now: Instant) -> bool {
        now.duration_since(self.seen) <= SEEN_MAX
    }
}

impl WorkerTable {
    /// Notes a worker; answers whether there are more slots now.
    pub(crate) fn record(&mut self, key: &str, slots: u32, held: u32, now: Instant) -> bool {
        self.workers.retain(|_, worker| worker.is_live(now));
        if self.workers.len() >= WORKERS_MAX && !self.workers.contains_key(key) {
            return false;
        }
        let before = self.workers.insert(key.to_owned(), SeenWorker { slots, held, seen: now });
        before.is_none_or(|before| before.slots < slots)
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.workers.remove(key);
    }

    /// Parts that the queue takes when it holds `queued`. While it is full and something waits, slots that stay free say that parts
    /// in it are delayed: they lost workers, or wait for workers of another version. As many more are let in as slots are free.
    pub(crate) fn queue_room(&mut self, queued: usize, has_waiting: bool, now: Instant) -> usize {
        let (_, slots) = self.count(now);
        let room = queue_parts_max(slots);
        if queued < room {
            (self.delayed, self.stalled_since) = (0, None);
            return room;
        }
        let free: usize =
            self.live_workers(now).map(|worker| worker.slots.saturating_sub(worker.held) as usize).sum();
        if free == 0 || !has_waiting || queued < room + self.delayed {
            self.stalled_since = None;
        } else if now.duration_since(*self.stalled_since.get_or_insert(now)) >= STALLED_AFTER {
            let delayed_max = DELAYED_PARTS_PER_SLOT_MAX.saturating_mul(slots as usize);
            self.delayed = (self.delayed + free).min(delayed_max);
            self.stalled_since = None;
        }
        room + self.delayed
    }

    /// Live workers and their slots.
    pub(crate) fn count(&self, now: Instant) -> (u32, u32) {
        self.live_workers(now)
            .fold((0, 0), |(workers, slots), worker| (workers + 1, slots.saturating_add(worker.slots)))
    }

    fn live_workers(&self, now: Instant) -> impl Iterator<Item = &SeenWorker> {
        self.workers.values().filter(move |worker| worker.is_live(now))
    }
}

/// Parts that the queue takes with so many slots.
pub(crate) const fn queue_parts_max(slots: u32) -> usize {
    let parts = QUEUED_PARTS_PER_SLOT.saturating_mul(slots as usize);
    if parts < QUEUED_PARTS_MIN { QUEUED_PARTS_MIN } else { parts }
}
