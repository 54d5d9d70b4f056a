//! Which refusals are published as events: each once in a while; then caps count, and what they drop is counted.
//!
//! Limits: [`DenialEventCaps`] by the minute; what was published is remembered for [`AGAIN_AFTER_MS`], so no more than the caps let
//! through then.

use std::collections::HashMap;

use alloy_primitives::B256;
use parking_lot::Mutex;

use super::MINUTE_MS;

/// How long the same refusal is not published again, in milliseconds.
const AGAIN_AFTER_MS: u64 = 10 * MINUTE_MS;

/// Most events a minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct DenialEventCaps {
    pub(super) total: u64,
    pub(super) per_viewer: u64,
}

/// What was published, and what was not.
#[derive(Debug, Default)]
pub(super) struct DenialEventThrottle {
    state: Mutex<DenialEventState>,
}

#[derive(Debug, Default)]
struct DenialEventState {
    minute: u64,
    /// Events of this minute, in all and by viewer.
    total: u64,
    by_viewer: HashMap<B256, u64>,
    /// When each refusal was published, as Unix time in milliseconds.
    published: HashMap<B256, u64>,
    /// Refusals that were not published: since the start, and since the last event.
    dropped_total: u64,
    dropped: u64,
}

impl DenialEventThrottle {
    /// Takes the right to publish `refusal` of `viewer`; returns how many were not published since the last event. `None`: it was
    /// published already, or there were too many.
    pub(super) fn take_permit(
        &self,
        now_ms: u64,
        viewer: B256,
        refusal: B256,
        caps: DenialEventCaps,
    ) -> Option<u64> {
        let mut state = self.state.lock();
        // Before the caps: a viewer who repeats one refusal must not use up the room of others.
        if state.published.get(&refusal).is_some_and(|published_ms| now_ms < published_ms + AGAIN_AFTER_MS) {
            return None;
        }
        let minute = now_ms / MINUTE_MS;
        if state.minute != minute {
            (state.minute, state.total) = (minute, 0);
            state.by_viewer.clear();
            state.published.retain(|_, published_ms| now_ms < *published_ms + AGAIN_AFTER_MS);
        }
        let of_viewer = state.by_viewer.get(&viewer).copied().unwrap_or(0);
        if state.total >= caps.total || of_viewer >= caps.per_viewer {
            state.dropped += 1;
            state.dropped_total += 1;
            return None;
        }
        state.total += 1;
        state.by_viewer.insert(viewer, of_viewer + 1);
        state.published.insert(refusal, now_ms);
        Some(std::mem::take(&mut state.dropped))
    }

    /// The refusal could not be published after all; nor were the `dropped` ones before it.
    pub(super) fn return_permit(&self, refusal: B256, dropped: u64) {
        let mut state = self.state.lock();
        state.published.remove(&refusal);
        state.dropped += dropped + 1;
        state.dropped_total += 1;
    }

    /// Refusals that were never published.
    pub(super) fn dropped_count(&self) -> u64 {
        self.state.lock().dropped_total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: DenialEventCaps = DenialEventCaps { total: 5, per_viewer: 2 };
    const ANN: B256 = B256::repeat_byte(1);
    const BOB: B256 = B256::repeat_byte(2);

    fn refusal(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    #[test]
    fn a_repeated_refusal_costs_nothing_of_the_caps() {
        let throttle = DenialEventThrottle::default();
        assert_eq!(throttle.take_permit(0, ANN, refusal(1), CAPS), Some(0));
        for _ in 0..100 {
            assert_eq!(throttle.take_permit(1, ANN, refusal(1), CAPS), None);
        }
        assert_eq!(throttle.take_permit(2, ANN, refusal(2), CAPS), Some(0));
        assert_eq!(throttle.dropped_count(), 0, "it was published");
        assert_eq!(
            throttle.take_permit(AGAIN_AFTER_MS, ANN, refusal(1), CAPS),
            Some(0),
            "published again after a while"
        );
    }

    #[test]
    fn one_viewer_takes_the_room_of_no_other_and_what_is_dropped_is_counted() {
        let throttle = DenialEventThrottle::default();
        let published = (0..10).filter(|n| throttle.take_permit(0, ANN, refusal(*n), CAPS).is_some()).count();
        assert_eq!((published, throttle.dropped_count()), (2, 8));
        assert_eq!(throttle.take_permit(0, BOB, refusal(20), CAPS), Some(8), "the next event says how many");
        assert_eq!(throttle.take_permit(0, BOB, refusal(21), CAPS), Some(0));
        assert_eq!(throttle.take_permit(MINUTE_MS, ANN, refusal(9), CAPS), Some(0), "a new minute");
    }

    #[test]
    fn all_viewers_together_have_a_cap_and_what_failed_is_published_again() {
        let throttle = DenialEventThrottle::default();
        let published = (0..10)
            .filter(|n| throttle.take_permit(0, refusal(100 + n), refusal(*n), CAPS).is_some())
            .count();
        assert_eq!((published, throttle.dropped_count()), (5, 5));
        assert_eq!(throttle.take_permit(MINUTE_MS, ANN, refusal(50), CAPS), Some(5));
        throttle.return_permit(refusal(50), 5);
        assert_eq!(throttle.take_permit(MINUTE_MS, ANN, refusal(50), CAPS), Some(6));
        assert_eq!(throttle.dropped_count(), 6);
    }

    #[test]
    fn what_was_published_long_ago_is_forgotten() {
        let throttle = DenialEventThrottle::default();
        for minute in 0..100 {
            for n in 0..10 {
                throttle.take_permit(minute * MINUTE_MS, refusal(n), B256::from([n; 32]), CAPS);
            }
        }
        assert!(throttle.state.lock().published.len() <= 55, "{}", throttle.state.lock().published.len());
    }
}
