//! When a delivery that failed is tried again, and when it is given up.

/// Numbers of it. The delay doubles from try to try, and a fifth of it is left to chance, so that what failed together does not come
/// together again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay behind the first try, in milliseconds.
    pub delay_ms: u64,
    /// Longest delay, in milliseconds; a receiver that asks for more time (`Retry-After`) gets as much at most.
    pub delay_ms_max: u64,
    /// How long an event is tried, from when its turn could have come, in milliseconds.
    pub tried_ms_max: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { delay_ms: 5_000, delay_ms_max: 3_600_000, tried_ms_max: 3 * 24 * 3_600_000 }
    }
}

impl RetryPolicy {
    /// Milliseconds from a failure to the next try behind `tries` tries; `chance` is any number, of which each remainder by 1,000 is as
    /// likely.
    pub fn next_delay_ms(&self, tries: u32, retry_after_ms: Option<u64>, chance: u64) -> u64 {
        let doubled = 1_u64.checked_shl(tries.saturating_sub(1).min(63)).unwrap_or(u64::MAX);
        let whole_ms = self.delay_ms.saturating_mul(doubled).min(self.delay_ms_max);
        let by_chance_ms = whole_ms / 5 * (chance % 1_000) / 1_000;
        let own_ms = whole_ms - by_chance_ms;
        own_ms.max(retry_after_ms.unwrap_or(0).min(self.delay_ms_max)).max(1)
    }
}
