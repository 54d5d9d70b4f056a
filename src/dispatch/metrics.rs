//! What the dispatcher of a process counts.

use std::{fmt, sync::Arc};

use nats::metrics::{Collector, DescriptorEncoder, encode_counter, encode_gauge};
use parking_lot::Mutex;

/// The counts of the dispatcher of a process. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct DispatchMetrics {
    figures: Arc<Mutex<DispatchFigures>>,
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

impl DispatchMetrics {
    /// This process lets parts in, or does so no more.
    pub(crate) fn record_term(&self, is_leading: bool) {
        self.figures.lock().is_leading = is_leading;
    }

    pub(crate) fn record_look(&self, jobs_waiting: usize, queue_parts: usize, workers: u32, slots: u32) {
        let mut figures = self.figures.lock();
        *figures = DispatchFigures { jobs_waiting, queue_parts, workers, slots, ..*figures };
    }

    pub(crate) fn count_let_in(&self) {
        self.figures.lock().let_in += 1;
    }
}

impl Collector for DispatchMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let figures = *self.figures.lock();
        // A standby looks at no queue: what it saw in its last term says nothing.
        let seen = if figures.is_leading { figures } else { DispatchFigures::default() };
        let gauges = [
            (
                "leading",
                "Whether this process lets parts into the queue: one keeper does.",
                i64::from(seen.is_leading),
            ),
            ("waiting_jobs", "Jobs that have parts to be let into the queue.", count(seen.jobs_waiting)),
            ("queue_parts", "Parts that lie in the queue or are worked on.", count(seen.queue_parts)),
            ("workers", "Workers that showed themselves lately.", i64::from(seen.workers)),
            ("slots", "Parts that those workers run at once.", i64::from(seen.slots)),
        ];
        for (name, help, value) in gauges {
            encode_gauge(encoder, &format!("streamgate_dispatch_{name}"), help, None, value)?;
        }
        encode_counter(
            encoder,
            "streamgate_dispatch_parts",
            "Parts that were let into the queue.",
            figures.let_in,
        )
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
