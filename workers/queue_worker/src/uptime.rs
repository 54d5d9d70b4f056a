//! For how long the broker has answered this process without a break. A holder of a part that could not show itself is not missed.
//!
//! A broker that wakes from a freeze, was restarted or has a new leader hands out at once what its holders could not keep, and
//! their claims look as old as it was away. It looks the same to everybody who asks only then, so each worker asks all the time.
//!
//! Limits: one request in [`PROBE_PERIOD`]; a break is anything that may have lasted longer than [`BREAK_MAX`], a reconnect, and a
//! step of the broker's clock of more than [`CLOCK_STEP_MS_MAX`].

use std::time::{Duration, Instant};

use nats::{Bus, BusError};
use parking_lot::Mutex;
use schemas::{KvRecord as _, fault::error_chain, job::JobPartRecord, subjects};

/// How often the broker is asked.
const PROBE_PERIOD: Duration = Duration::from_millis(500);

/// Longest time without an answer that is no break. With the period of renewals it has to fit into `claim_fresh_ms`.
const BREAK_MAX: Duration = Duration::from_secs(2);

/// How far the broker's clock may run ahead between two answers, in milliseconds: further, and what it stored looks older than it is.
const CLOCK_STEP_MS_MAX: u64 = 1_000;

/// Answers of the leader that stores the claims.
#[derive(Debug, Default)]
pub struct BrokerUptime {
    seen: Mutex<Option<UptimeSpan>>,
}

/// Answers without a break.
#[derive(Debug, Clone, Copy)]
struct UptimeSpan {
    since: Instant,
    newest: BrokerAnswer,
}

#[derive(Debug, Clone, Copy)]
struct BrokerAnswer {
    asked: Instant,
    answered: Instant,
    /// The broker's time, in Unix milliseconds.
    broker_ms: u64,
    /// Of the connection it came on.
    epoch: u64,
}

impl BrokerAnswer {
    /// Whether the broker may have been away longer than it may between an earlier answer and this one.
    fn is_after_break(&self, earlier: &Self) -> bool {
        // It answered both at some time between question and answer.
        let between = self.answered.saturating_duration_since(earlier.asked);
        let between_ms = u64::try_from(between.as_millis()).unwrap_or(u64::MAX);
        let clock_ms = self.broker_ms.saturating_sub(earlier.broker_ms);
        self.epoch != earlier.epoch
            || between > BREAK_MAX
            // Also after a host slept with all that is on it: our own clock stood still then.
            || clock_ms > between_ms.saturating_add(CLOCK_STEP_MS_MAX)
    }
}

impl BrokerUptime {
    /// The time of the broker that stores the claims, in Unix milliseconds; what it answers counts.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn probe_broker(&self, bus: &Bus) -> Result<u64, BusError> {
        let asked = Instant::now();
        let broker_ms = bus.broker_now_ms(&subjects::kv_stream_name(JobPartRecord::BUCKET)).await?;
        let epoch = bus.watch_connection().borrow().epoch;
        self.record_answer(BrokerAnswer { asked, answered: Instant::now(), broker_ms, epoch });
        Ok(broker_ms)
    }

    /// For how long the broker had answered without a break when it last did.
    pub fn unbroken_for(&self) -> Duration {
        let seen = self.seen.lock();
        seen.map_or(Duration::ZERO, |span| span.newest.answered.saturating_duration_since(span.since))
    }

    /// Asks the broker again and again. Never ends.
    pub async fn watch_broker(&self, bus: &Bus) {
        loop {
            // What takes longer is a break whatever comes: the next question may be answered at once.
            let probed = tokio::time::timeout(BREAK_MAX, self.probe_broker(bus)).await;
            if let Ok(Err(error)) = probed {
                tracing::debug!(error = error_chain(&error), "the broker does not say its time");
            }
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    }

    fn record_answer(&self, answer: BrokerAnswer) {
        let mut seen = self.seen.lock();
        *seen = match *seen {
            // Several ask at once; what was asked before adds nothing.
            Some(span) if answer.asked < span.newest.asked => Some(span),
            Some(span) if !answer.is_after_break(&span.newest) => Some(UptimeSpan { newest: answer, ..span }),
            _ => Some(UptimeSpan { since: answer.answered, newest: answer }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks at times in milliseconds, each time with how long the answer took and what the broker's clock was ahead; says for how
    /// long the broker was there without a break.
    fn unbroken_ms(answers: &[(u64, u64, u64, u64)]) -> u128 {
        let uptime = BrokerUptime::default();
        let start = Instant::now();
        for (asked_ms, took_ms, ahead_ms, epoch) in answers {
            let asked = start + Duration::from_millis(*asked_ms);
            uptime.record_answer(BrokerAnswer {
                asked,
                answered: asked + Duration::from_millis(*took_ms),
                broker_ms: 1_000_000 + asked_ms + took_ms / 2 + ahead_ms,
                epoch: *epoch,
            });
        }
        uptime.unbroken_for().as_millis()
    }

    #[test]
    fn nothing_is_known_before_two_answers() {
        assert_eq!(unbroken_ms(&[]), 0);
        assert_eq!(unbroken_ms(&[(0, 500, 0, 1)]), 0);
        assert_eq!(unbroken_ms(&[(0, 500, 0, 1), (1_000, 500, 0, 1)]), 1_000);
    }

    #[test]
    fn a_break_begins_anew() {
        let before = [(0, 0, 0, 1), (1_000, 0, 0, 1), (2_000, 0, 0, 1)];
        for (name, more, wanted_ms) in [
            ("none", [(3_000, 0, 0, 1), (4_000, 0, 0, 1)], 4_000),
            ("an answer that took long", [(2_500, 1_600, 0, 1), (4_500, 0, 0, 1)], 400),
            ("no answer", [(4_001, 0, 0, 1), (5_000, 0, 0, 1)], 999),
            ("a reconnect", [(3_000, 0, 0, 2), (4_000, 0, 0, 2)], 1_000),
            ("a clock that was set ahead", [(3_000, 0, 1_001, 1), (4_000, 0, 1_001, 1)], 1_000),
        ] {
            let all: Vec<(u64, u64, u64, u64)> = before.into_iter().chain(more).collect();
            assert_eq!(unbroken_ms(&all), wanted_ms, "{name}");
        }
    }

    /// A worker that was stopped finds an answer that waited for it.
    #[test]
    fn an_answer_that_waited_for_us_proves_nothing() {
        let all = [(0, 0, 0, 1), (500, 0, 0, 1), (1_000, 20_000, 0, 1), (21_500, 0, 0, 1), (22_000, 0, 0, 1)];
        assert_eq!(unbroken_ms(&all), 500);
    }

    #[test]
    fn an_answer_that_was_overtaken_changes_nothing() {
        assert_eq!(unbroken_ms(&[(0, 0, 0, 1), (1_000, 0, 0, 1), (900, 1_900, 0, 1)]), 1_000);
    }
}
