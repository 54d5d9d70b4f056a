//! Whether the record of alerts is written, as this monitor sees it: a broker may answer and write nothing.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest time between two writes of the record by whatever monitor, where these evaluate often: there is one each minute.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(90);

#[derive(Debug)]
struct WriteMarks {
    /// Since when every write of this monitor fails; it keeps this when it loses the lease.
    failing_since: Option<Instant>,
    /// The record's time of its last write, and when this monitor saw that first.
    evaluated_at_ms: u64,
    seen_at: Instant,
}

/// What this monitor knows of writes of the record.
#[derive(Debug)]
pub(super) struct BoardWrites {
    marks: Mutex<WriteMarks>,
    silence_time_max: Duration,
}

impl BoardWrites {
    /// `period` is how often monitors evaluate.
    pub(super) fn new(period: Duration) -> Self {
        let marks = WriteMarks { failing_since: None, evaluated_at_ms: 0, seen_at: Instant::now() };
        Self { marks: Mutex::new(marks), silence_time_max: SILENCE_TIME_MAX.max(period.saturating_mul(3)) }
    }

    pub(super) fn note_success(&self) {
        self.marks.lock().failing_since = None;
    }

    pub(super) fn note_failure(&self) {
        self.marks.lock().failing_since.get_or_insert_with(Instant::now);
    }

    /// Notes when the record says that it was written last, by whatever monitor.
    pub(super) fn note_evaluated(&self, evaluated_at_ms: u64) {
        let mut marks = self.marks.lock();
        if marks.evaluated_at_ms != evaluated_at_ms {
            *marks = WriteMarks { failing_since: None, evaluated_at_ms, seen_at: Instant::now() };
        }
    }

    /// Whether nobody writes: what this monitor has to write fails for at least `failing_min`, or no monitor wrote what is due.
    pub(super) fn are_failing(&self, failing_min: Duration) -> bool {
        let marks = self.marks.lock();
        marks.failing_since.is_some_and(|since| since.elapsed() >= failing_min)
            || marks.seen_at.elapsed() >= self.silence_time_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_fail_by_what_this_monitor_tries_or_by_what_no_other_writes() {
        let (step, min) = (Duration::from_secs(15), Duration::from_secs(10));
        let writes = BoardWrites::new(step);
        writes.note_failure();
        assert!(!writes.are_failing(min), "not yet");
        tokio::time::advance(step).await;
        writes.note_failure();
        assert!(writes.are_failing(min));
        writes.note_evaluated(7);
        assert!(!writes.are_failing(min), "another monitor writes");
        for _ in 0..6 {
            assert!(!writes.are_failing(min));
            tokio::time::advance(step).await;
            writes.note_evaluated(7);
        }
        assert!(writes.are_failing(min), "without the lease, too");
        writes.note_evaluated(8);
        assert!(!writes.are_failing(min));
    }
}
