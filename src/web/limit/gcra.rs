//! The token bucket as GCRA: one 64-bit time a key, no background work, no clock of its own.
//!
//! A bucket of `capacity` units that refills at `refill_per_s` is described by one number: when it will be full again. A unit moves
//! that time by one interval; a request passes while it stays within the window of `capacity` intervals from now.
//!
//! Why not the crate governor: it takes a unit in the moment it looks (two policies that must both pass need to look first),
//! its rate is fixed when it is made (ours follows the number of replicas), and its keyed stores have no limit of keys. The cell
//! is 8 bytes as there; the arithmetic is compared with a plain bucket by a property test.
//!
//! Limits: times saturate at 2^64 ns, 584 years; a rate has at least one unit of capacity and at most one unit a nanosecond.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const NANOS_PER_S: u64 = 1_000_000_000;

/// How much and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rate")]
pub struct BucketRate {
    /// Units that fit in: the largest burst.
    pub capacity: u32,
    /// Units that come back in one second.
    pub refill_per_s: u32,
}

impl BucketRate {
    /// The part of this rate that one of `replicas` may use, rounded down, so that all parts together are never more than the
    /// whole; the burst is at least one unit, since a bucket of none would never let anyone pass.
    pub fn share_among(self, replicas: u32) -> ReplicaBucketRate {
        let replicas = replicas.max(1);
        let capacity = (self.capacity / replicas).max(1);
        let refill = u64::from(self.refill_per_s.max(1));
        // Rounded up: never faster than configured.
        let interval_ns = (NANOS_PER_S * u64::from(replicas)).div_ceil(refill).max(1);
        ReplicaBucketRate { capacity, interval_ns }
    }
}

/// A rate as one replica applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaBucketRate {
    /// Units that fit in.
    pub capacity: u32,
    interval_ns: u64,
}

/// How one key stands after a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketStatus {
    /// Units left now.
    pub remaining: u32,
    /// Time until the next unit when none is left, else until the bucket is full.
    pub reset: Duration,
}

impl ReplicaBucketRate {
    /// Time in which an empty bucket fills.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.window_ns())
    }

    fn window_ns(&self) -> u64 {
        self.interval_ns.saturating_mul(u64::from(self.capacity))
    }

    /// The time a bucket is full again after one unit more, if that unit is there.
    ///
    /// # Errors
    /// The time until it is there.
    pub fn take_unit(&self, full_at_ns: u64, now_ns: u64) -> Result<u64, Duration> {
        let after = full_at_ns.max(now_ns).saturating_add(self.interval_ns);
        // GCRA: one time for each bucket is all its state, and nothing has to refill it.
        let latest = now_ns.saturating_add(self.window_ns());
        if after <= latest { Ok(after) } else { Err(Duration::from_nanos(after - latest)) }
    }

    /// The time a bucket is full again after one unit was given back.
    pub const fn return_unit(&self, full_at_ns: u64) -> u64 {
        full_at_ns.saturating_sub(self.interval_ns)
    }

    /// What is left at `now_ns` in a bucket that is full at `full_at_ns`.
    pub fn status_at(&self, full_at_ns: u64, now_ns: u64) -> BucketStatus {
        let debt_ns = full_at_ns.saturating_sub(now_ns);
        let free_ns = self.window_ns().saturating_sub(debt_ns);
        let remaining = u32::try_from(free_ns / self.interval_ns).unwrap_or(u32::MAX).min(self.capacity);
        let reset_ns = if remaining == 0 {
            debt_ns.saturating_add(self.interval_ns).saturating_sub(self.window_ns())
        } else {
            debt_ns
        };
        BucketStatus { remaining, reset: Duration::from_nanos(reset_ns) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bucket that counts in fractions of units, as one would write it down.
    struct Bucket {
        level: u128,
        capacity: u128,
        interval_ns: u128,
        seen_ns: u128,
    }

    impl Bucket {
        fn new(share: ReplicaBucketRate) -> Self {
            let capacity = u128::from(share.capacity) * u128::from(share.interval_ns);
            Self { level: capacity, capacity, interval_ns: u128::from(share.interval_ns), seen_ns: 0 }
        }

        fn take(&mut self, now_ns: u64) -> bool {
            let now_ns = u128::from(now_ns);
            self.level = self.capacity.min(self.level + (now_ns - self.seen_ns));
            self.seen_ns = now_ns;
            let passes = self.level >= self.interval_ns;
            if passes {
                self.level -= self.interval_ns;
            }
            passes
        }
    }

    fn rates() -> impl Strategy<Value = BucketRate> {
        (1_u32..5_000, 1_u32..5_000)
            .prop_map(|(capacity, refill_per_s)| BucketRate { capacity, refill_per_s })
    }

    proptest! {
        #[test]
        fn decides_as_a_plain_bucket(
            rate in rates(),
            replicas in 1_u32..9,
            steps in proptest::collection::vec(0_u64..2_000_000_000, 1..400),
        ) {
            let share = rate.share_among(replicas);
            let mut bucket = Bucket::new(share);
            let (mut full_at, mut now) = (0, 0);
            for step in steps {
                // Many requests in the same instant, now and then a pause.
                now += if step % 3 == 0 { step } else { 0 };
                let taken = share.take_unit(full_at, now);
                prop_assert_eq!(taken.is_ok(), bucket.take(now));
                full_at = taken.unwrap_or(full_at);
                let left = u128::from(share.status_at(full_at, now).remaining);
                prop_assert_eq!(left, bucket.level / bucket.interval_ns);
            }
        }

        #[test]
        fn the_wait_that_is_returned_is_enough_and_needed(rate in rates(), replicas in 1_u32..9, used in 0_u32..9_000) {
            let share = rate.share_among(replicas);
            let mut full_at = 0;
            for _ in 0..used {
                full_at = share.take_unit(full_at, 0).unwrap_or(full_at);
            }
            if let Err(wait) = share.take_unit(full_at, 0) {
                let wait_ns = u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(share.take_unit(full_at, wait_ns).is_ok());
                prop_assert!(share.take_unit(full_at, wait_ns - 1).is_err());
                prop_assert_eq!(share.status_at(full_at, 0).reset, wait);
            }
        }

        #[test]
        fn shares_are_never_more_than_the_whole(rate in rates(), replicas in 1_u32..50) {
            let share = rate.share_among(replicas);
            if rate.capacity >= replicas {
                prop_assert!(share.capacity * replicas <= rate.capacity);
            }
            let together = u128::from(NANOS_PER_S) * u128::from(replicas) / u128::from(share.interval_ns);
            prop_assert!(together <= u128::from(rate.refill_per_s));
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_open_the_gate() {
        for (capacity, refill_per_s) in [(0, 0), (1, 1), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            for replicas in [0, 1, u32::MAX] {
                let share = BucketRate { capacity, refill_per_s }.share_among(replicas);
                for now in [0, 1, u64::MAX / 2, u64::MAX] {
                    let standing = share.status_at(share.take_unit(0, now).unwrap_or(now), now);
                    assert!(standing.remaining <= share.capacity);
                }
                // A bucket that is used up stays shut.
                assert!(share.take_unit(u64::MAX, 0).is_err(), "{capacity} {refill_per_s} {replicas}");
            }
        }
    }

    #[test]
    fn a_unit_given_back_can_be_taken_again() {
        let share = BucketRate { capacity: 1, refill_per_s: 1 }.share_among(1);
        let full_at = share.take_unit(0, 5).unwrap();
        assert!(share.take_unit(full_at, 5).is_err());
        assert!(share.take_unit(share.return_unit(full_at), 5).is_ok());
    }
}
