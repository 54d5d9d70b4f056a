//! When a provider is left alone: after faults in a row, when it asks for it, after a contradiction, or over its budget.
//!
//! Limits: a rest lasts at most [`REST_MAX`]; a quarantine as long as configured.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Fault;

/// Faults in a row after which a provider rests.
const FAULTS_MAX: u32 = 3;
/// First rest; it doubles with every further fault.
const REST_MIN: Duration = Duration::from_millis(500);
/// Longest rest, also when the provider asks for more.
pub(super) const REST_MAX: Duration = Duration::from_secs(30);
/// Seconds of budget that may be spent at once.
const BURST_S: f64 = 5.0;

/// Health and budget of one provider.
#[derive(Debug)]
pub(super) struct Circuit {
    faults: u32,
    rests_until: Option<Instant>,
    /// When the rest was begun: an answer to what was asked before says nothing about it.
    paused_at: Option<Instant>,
    tokens: f64,
    per_s: f64,
    filled_at: Instant,
}

impl Circuit {
    pub(super) fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s);
        Self { faults: 0, rests_until: None, paused_at: None, tokens: per_s * BURST_S, per_s, filled_at: now }
    }

    /// Takes budget for `count` questions.
    ///
    /// After a rest one request tries whether the provider is well again; until it is answered, others are refused.
    pub(super) fn enter(&mut self, count: usize, now: Instant) -> Result<(), Fault> {
        if self.rests_until.is_some_and(|until| now < until) {
            return Err(Fault::Resting);
        }
        let elapsed_s = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed_s * self.per_s).min(self.per_s * BURST_S);
        self.filled_at = now;
        let cost = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if self.tokens < cost {
            return Err(Fault::OverBudget);
        }
        self.tokens -= cost;
        if self.rests_until.is_some() {
            self.rests_until = Some(now + self.rest());
        }
        Ok(())
    }

    /// An answer came to what was asked at `asked_at`.
    pub(super) fn succeed(&mut self, asked_at: Instant) {
        if self.paused_at.is_none_or(|paused_at| asked_at > paused_at) {
            self.faults = 0;
            self.rests_until = None;
        }
    }

    pub(super) fn fail(&mut self, fault: &Fault, now: Instant) {
        self.faults = self.faults.saturating_add(1);
        match fault {
            Fault::Throttled { retry_after_ms } => {
                self.pause(Duration::from_millis(*retry_after_ms).clamp(REST_MIN, REST_MAX), now);
            }
            Fault::WrongChain => self.pause(REST_MAX, now),
            _ if self.faults >= FAULTS_MAX => self.pause(self.rest(), now),
            _ => {}
        }
    }

    /// Leaves the provider out for `rest`.
    pub(super) fn pause(&mut self, rest: Duration, now: Instant) {
        let until = now + rest;
        self.paused_at = Some(now);
        self.rests_until = Some(self.rests_until.map_or(until, |known| known.max(until)));
    }

    fn rest(&self) -> Duration {
        let doublings = self.faults.saturating_sub(FAULTS_MAX).min(6);
        (REST_MIN * 2_u32.pow(doublings)).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_provider_rests_longer_and_longer_and_recovers() {
        let start = Instant::now();
        let mut circuit = Circuit::new(100, start);
        for _ in 0..FAULTS_MAX {
            assert!(circuit.enter(1, start).is_ok());
            circuit.fail(&Fault::Late, start);
        }
        assert_eq!(circuit.enter(1, start), Err(Fault::Resting));
        let later = start + REST_MIN;
        assert!(circuit.enter(1, later).is_ok());
        assert_eq!(circuit.enter(1, later), Err(Fault::Resting), "one probe at a time");
        circuit.fail(&Fault::Late, later);
        assert_eq!(circuit.enter(1, later + REST_MIN), Err(Fault::Resting));
        let last = later + REST_MIN * 2;
        assert!(circuit.enter(1, last).is_ok());
        circuit.succeed(start);
        assert_eq!(
            circuit.enter(1, last),
            Err(Fault::Resting),
            "what was asked before the rest does not end it"
        );
        circuit.succeed(last);
        assert!(circuit.enter(1, last).is_ok());
    }

    #[test]
    fn a_throttling_provider_is_obeyed_within_reason() {
        let start = Instant::now();
        let mut circuit = Circuit::new(100, start);
        circuit.fail(&Fault::Throttled { retry_after_ms: 7_000 }, start);
        assert_eq!(circuit.enter(1, start + Duration::from_millis(6_999)), Err(Fault::Resting));
        assert!(circuit.enter(1, start + Duration::from_secs(7)).is_ok());
        circuit.fail(&Fault::Throttled { retry_after_ms: u64::MAX }, start);
        assert!(circuit.enter(1, start + REST_MAX).is_ok());
    }

    #[test]
    fn a_budget_runs_out_and_fills_again() {
        let start = Instant::now();
        let mut circuit = Circuit::new(2, start);
        assert!(circuit.enter(10, start).is_ok());
        assert_eq!(circuit.enter(1, start), Err(Fault::OverBudget));
        assert!(circuit.enter(1, start + Duration::from_millis(500)).is_ok());
        assert_eq!(circuit.enter(1, start + Duration::from_millis(500)), Err(Fault::OverBudget));
    }
}
