//! How far a job is that goes through a medium: as many milliseconds of it as the bytes that are done.
//!
//! Limits: one message each [`crate::TasksConfig::progress_interval_ms`], and one at the end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use nats::Bus;
use packaging::plan;
use parking_lot::Mutex;
use schemas::job::{JobRecord, TASK};

/// The progress of one job.
pub(crate) struct TaskProgress<'a> {
    bus: &'a Bus,
    job: &'a JobRecord,
    interval: Duration,
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    published: Mutex<Option<Instant>>,
}

impl<'a> TaskProgress<'a> {
    pub(crate) fn new(bus: &'a Bus, job: &'a JobRecord, interval_ms: u64) -> Self {
        Self {
            bus,
            job,
            interval: Duration::from_millis(interval_ms),
            total_bytes: AtomicU64::new(0),
            done_bytes: AtomicU64::new(0),
            published: Mutex::new(None),
        }
    }

    /// Begins with so many bytes to do.
    pub(crate) fn begin(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
        self.done_bytes.store(0, Ordering::Relaxed);
    }

    /// Says how many bytes of how many came, of a job without a length in time. Nothing while the whole is not known.
    pub(crate) async fn publish_bytes(&self, done_bytes: u64, total_bytes: u64) {
        if total_bytes > 0 {
            queue_worker::publish_progress(self.bus, self.job, TASK, (done_bytes, total_bytes)).await;
        }
    }

    /// So many bytes more are done.
    pub(crate) async fn add(&self, bytes: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        {
            let mut published = self.published.lock();
            let is_last = done_bytes == total_bytes;
            if !is_last && published.is_some_and(|last| last.elapsed() < self.interval) {
                return;
            }
            *published = Some(Instant::now());
        }
        let total_ms = plan::part_duration_ms(&self.job.plan, TASK);
        let done_ms = scale(total_ms, done_bytes, total_bytes);
        queue_worker::publish_progress(self.bus, self.job, TASK, (done_ms, total_ms)).await;
    }
}

/// `whole * part / of`, at most `whole`.
fn scale(whole: u64, part: u64, of: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX).min(whole)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_scaled_to_the_length() {
        for (part, of, wanted) in [(0, 10, 0), (5, 10, 2_000), (10, 10, 4_000), (20, 10, 4_000), (0, 0, 0)] {
            assert_eq!(super::scale(4_000, part, of), wanted);
        }
    }
}
