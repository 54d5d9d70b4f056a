//! What the dispatchers of a process count, one for each queue.

use std::{fmt, sync::Arc};

use nats::metrics::{
    Collector, DescriptorEncoder, MetricDeclaration, encode_counters, encode_gauges,
    table::{
        DISPATCH_LEADING, DISPATCH_PARTS, DISPATCH_QUEUE_PARTS, DISPATCH_SLOTS, DISPATCH_WAITING_JOBS,
        DISPATCH_WORKERS,
    },
};
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

/// A gauge and its value.
type QueueGauge = (&'static MetricDeclaration, fn(DispatchFigures) -> i64);

const GAUGES: [QueueGauge; 5] = [
    (&DISPATCH_LEADING, |seen| i64::from(seen.is_leading)),
    (&DISPATCH_WAITING_JOBS, |seen| count(seen.jobs_waiting)),
    (&DISPATCH_QUEUE_PARTS, |seen| count(seen.queue_parts)),
    (&DISPATCH_WORKERS, |seen| i64::from(seen.workers)),
    (&DISPATCH_SLOTS, |seen| i64::from(seen.slots)),
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
        for (declared, value) in GAUGES {
            encode_gauges(encoder, declared, of_queue(value))?;
        }
        let let_in = JobQueue::ALL.into_iter().zip(figures);
        let let_in = let_in.map(|(queue, figures)| ([("queue", queue.name())], figures.let_in));
        encode_counters(encoder, &DISPATCH_PARTS, let_in)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
