//! What the dispatchers of a process count, one for each queue.

use std::{fmt, sync::Arc};

use nats::metrics::{Collector, DescriptorEncoder, encode_counters, encode_gauges};
use parking_lot::Mutex;
use schemas::job::JobQueue;

/// The counts of the dispatchers of a process. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct DispatchMetrics {
    figures: Arc<Mutex<[DispatchFigures; JobQueue::ALL.len()]>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct DispatchFigures {
    is_leading: bool,
    jobs_waiting: usize,
    queue_parts: usize,
    workers: u32,
    slots: u32,
    let_in: u64,
}

/// Name, help text and value of a gauge.
type QueueGauge = (&'static str, &'static str, fn(DispatchFigures) -> i64);

const GAUGES: [QueueGauge; 5] = [
    ("leading", "Whether this process lets parts into the queue: one keeper does.", |seen| {
        i64::from(seen.is_leading)
    }),
    ("waiting_jobs", "Jobs that have parts to be let into the queue.", |seen| count(seen.jobs_waiting)),
    ("queue_parts", "Parts that lie in the queue or are worked on.", |seen| count(seen.queue_parts)),
    ("workers", "Workers that showed themselves lately.", |seen| i64::from(seen.workers)),
    ("slots", "Parts that those workers run at once.", |seen| i64::from(seen.slots)),
];

impl DispatchMetrics {
    /// This process lets parts into the queue, or does so no more.
    pub(crate) fn record_term(&self, queue: JobQueue, is_leading: bool) {
        self.change(queue, |figures| figures.is_leading = is_leading);
    }

    #[cfg(test)]
    pub(crate) fn is_leading(&self, queue: JobQueue) -> bool {
        self.figures.lock().get(queue as usize).is_some_and(|figures| figures.is_leading)
    }

    pub(crate) fn record_look(
        &self,
        queue: JobQueue,
        jobs_waiting: usize,
        queue_parts: usize,
        (workers, slots): (u32, u32),
    ) {
        self.change(queue, |figures| {
            *figures = DispatchFigures { jobs_waiting, queue_parts, workers, slots, ..*figures };
        });
    }

    pub(crate) fn count_let_in(&self, queue: JobQueue) {
        self.change(queue, |figures| figures.let_in += 1);
    }

    fn change(&self, queue: JobQueue, change: impl FnOnce(&mut DispatchFigures)) {
        if let Some(figures) = self.figures.lock().get_mut(queue as usize) {
            change(figures);
        }
    }
}

impl Collector for DispatchMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let figures = *self.figures.lock();
        let of_queue = |value: fn(DispatchFigures) -> i64| {
            JobQueue::ALL.into_iter().zip(figures).map(move |(queue, figures)| {
                // A standby looks at no queue: what it saw in its last term says nothing.
                let seen = if figures.is_leading { figures } else { DispatchFigures::default() };
                ([("queue", queue.name())], value(seen))
            })
        };
        for (name, help, value) in GAUGES {
            encode_gauges(encoder, &format!("streamgate_dispatch_{name}"), help, None, of_queue(value))?;
        }
        let let_in = JobQueue::ALL.into_iter().zip(figures);
        let let_in = let_in.map(|(queue, figures)| ([("queue", queue.name())], figures.let_in));
        encode_counters(encoder, "streamgate_dispatch_parts", "Parts that were let into the queue.", let_in)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
