//! How fast parts were let in lately.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Moments that are kept.
const KEPT_MAX: usize = 256;

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(600);

/// Moments at which something happened, the newest last.
#[derive(Debug, Default)]
pub(crate) struct RecentRate {
    moments: VecDeque<Instant>,
}

impl RecentRate {
    pub(crate) fn record(&mut self, now: Instant) {
        if self.moments.len() == KEPT_MAX {
            self.moments.pop_front();
        }
        self.moments.push_back(now);
    }

    /// How often a minute, over what is kept of the last ten; `None` before it happened twice.
    pub(crate) fn per_minute(&self, now: Instant) -> Option<u32> {
        let recent = || self.moments.iter().filter(|moment| now.duration_since(**moment) <= WINDOW);
        let count = u32::try_from(recent().count()).unwrap_or(u32::MAX);
        let first = recent().next().filter(|_| count > 1)?;
        let seconds = now.duration_since(*first).as_secs_f64().max(1.0);
        // At most 256 of them in at least a second.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 15,360")]
        let rate = (f64::from(count) * 60.0 / seconds) as u32;
        Some(rate.max(1))
    }
}
