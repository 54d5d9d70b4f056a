//! What is due now, and what was missed.

use schemas::schedule::MissedRunPolicy;

use crate::{CATCH_UP_MAX, LATE_MS_MAX, Timing};

/// What a schedule whose time has come is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueRun {
    /// Unix time in milliseconds of the time that fires now; none where all that passed are let go.
    pub planned_at_ms: Option<u64>,
    /// The first and the last of the times that passed and are not made up for, in Unix milliseconds.
    pub missed_at_ms: Option<(u64, u64)>,
    /// Unix time in milliseconds of the next time, which may have come, too; none when there is none left.
    pub next_run_at_ms: Option<u64>,
}

/// What is due at `now_ms` of a schedule whose next time is `next_run_at_ms`; nothing before that.
pub fn find_due_run(
    timing: &Timing,
    missed: MissedRunPolicy,
    next_run_at_ms: u64,
    now_ms: u64,
) -> Option<DueRun> {
    if next_run_at_ms > now_ms {
        return None;
    }
    let late_from_ms = now_ms.saturating_sub(LATE_MS_MAX);
    if next_run_at_ms >= late_from_ms {
        return Some(fire(timing, next_run_at_ms, next_run_at_ms));
    }
    Some(match missed {
        MissedRunPolicy::Once => {
            fire(timing, next_run_at_ms, timing.find_last(now_ms).unwrap_or_default().max(next_run_at_ms))
        }
        MissedRunPolicy::All => {
            // Mostly there are few, and looking from the other end is dear.
            let later = std::iter::successors(Some(next_run_at_ms), |ms| timing.find_after(*ms));
            let count = later.take_while(|ms| *ms <= now_ms).take(CATCH_UP_MAX + 1).count();
            let first_at_ms = match count {
                0..=CATCH_UP_MAX => next_run_at_ms,
                _ => timing
                    .list_last(now_ms, CATCH_UP_MAX)
                    .front()
                    .copied()
                    .unwrap_or_default()
                    .max(next_run_at_ms),
            };
            fire(timing, next_run_at_ms, first_at_ms)
        }
        MissedRunPolicy::Skip => match timing.find_from(late_from_ms) {
            Some(kept_ms) if kept_ms <= now_ms => fire(timing, next_run_at_ms, kept_ms),
            kept => DueRun {
                planned_at_ms: None,
                missed_at_ms: Some((
                    next_run_at_ms,
                    timing.find_last(late_from_ms).unwrap_or(next_run_at_ms),
                )),
                next_run_at_ms: kept,
            },
        },
    })
}

/// Fires `planned_at_ms`; what lies between it and `next_run_at_ms` was missed.
fn fire(timing: &Timing, next_run_at_ms: u64, planned_at_ms: u64) -> DueRun {
    let missed_at_ms = (planned_at_ms > next_run_at_ms).then(|| {
        let last_at_ms = planned_at_ms.checked_sub(1).and_then(|ms| timing.find_last(ms));
        (next_run_at_ms, last_at_ms.unwrap_or(next_run_at_ms))
    });
    DueRun {
        planned_at_ms: Some(planned_at_ms),
        missed_at_ms,
        next_run_at_ms: timing.find_after(planned_at_ms),
    }
}
