//! How long to wait between tries: what failed together is not tried again together.

use std::time::Duration;

/// Most tries of one publish while the broker is away or elects a leader.
pub const ATTEMPTS_MAX: u32 = 6;

/// The pause after failed try `attempt`, from 1: doubles from `first` up to `most`, with equal jitter: half of it is by chance.
pub(crate) fn backoff_delay(attempt: u32, first: Duration, most: Duration) -> Duration {
    let full = first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(most);
    full.max(Duration::from_millis(1)).mul_f64(rand::random_range(0.5..=1.0))
}

/// How long to wait after try `attempt` of a request to the broker: from 200 ms to 3.2 s, with equal jitter.
pub(crate) fn retry_delay(attempt: u32) -> Duration {
    backoff_delay(attempt, Duration::from_millis(200), Duration::from_millis(3_200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_half_of_each_is_certain() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        for (attempt, full_ms) in [(0, 100), (1, 100), (2, 200), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let (pause, full) = (backoff_delay(attempt, first, most), Duration::from_millis(full_ms));
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }
}
