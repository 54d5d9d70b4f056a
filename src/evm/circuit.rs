//! When a provider is left alone: after faults in a row, when it asks for it, after a contradiction, or over its budget.
//!
//! Limits: a rest lasts at most [`REST_MAX`]; a quarantine as long as configured.

use std::time::Duration;

use tokio::time::Instant;

use super::error::ProviderFault;

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
pub(super) struct CircuitBreaker {
    faults: u32,
    rests_until: Option<Instant>,
    /// When the rest was begun: an answer to what was asked before says nothing about it.
    paused_at: Option<Instant>,
    tokens: f64,
    per_s: f64,
    filled_at: Instant,
}

impl CircuitBreaker {
    pub(super) fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s);
        Self { faults: 0, rests_until: None, paused_at: None, tokens: per_s * BURST_S, per_s, filled_at: now }
    }

    /// Takes budget for `count` questions.
    ///
    /// After a rest one request tries whether the provider is well again; until it is answered, others are refused. True for that
    /// one: a caller that gives it up says so with [`CircuitBreaker::abandon_trial`].
    pub(super) fn acquire_budget(&mut self, count: usize, now: Instant) -> Result<bool, ProviderFault> {
        if self.rests_until.is_some_and(|until| now < until) {
            return Err(ProviderFault::Resting);
        }
        let elapsed_s = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed_s * self.per_s).min(self.per_s * BURST_S);
        self.filled_at = now;
        let cost = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if self.tokens < cost {
            return Err(ProviderFault::OverBudget);
        }
        self.tokens -= cost;
        let is_trial = self.rests_until.is_some();
        if is_trial {
            // The first request after a rest is a trial: until it is answered no other is let through.
            self.rests_until = Some(now + self.rest_duration());
        }
        Ok(is_trial)
    }

    /// Nobody waits for the answer to a trial any more, as where others answered first: the next request is one.
    pub(super) fn abandon_trial(&mut self, asked_at: Instant, now: Instant) {
        // A rest that was begun meanwhile stays.
        if self.paused_at.is_none_or(|paused_at| asked_at > paused_at) && self.rests_until.is_some() {
            self.rests_until = Some(now);
        }
    }

    /// An answer came to what was asked at `asked_at`.
    pub(super) fn record_success(&mut self, asked_at: Instant) {
        // An answer to what was asked before the rest says nothing about the provider now.
        if self.paused_at.is_none_or(|paused_at| asked_at > paused_at) {
            self.faults = 0;
            self.rests_until = None;
        }
    }

    pub(super) fn record_failure(&mut self, fault: &ProviderFault, now: Instant) {
        self.faults = self.faults.saturating_add(1);
        match fault {
            ProviderFault::Throttled { retry_after_ms } => {
                self.pause_for(Duration::from_millis(*retry_after_ms).clamp(REST_MIN, REST_MAX), now);
            }
            // The settings name a wrong address: asking again soon does not mend that.
            ProviderFault::WrongChain => self.pause_for(REST_MAX, now),
            _ if self.faults >= FAULTS_MAX => self.pause_for(self.rest_duration(), now),
            _ => {}
        }
    }

    /// Leaves the provider out for `rest`.
    pub(super) fn pause_for(&mut self, rest: Duration, now: Instant) {
        let until = now + rest;
        self.paused_at = Some(now);
        self.rests_until = Some(self.rests_until.map_or(until, |known| known.max(until)));
    }

    fn rest_duration(&self) -> Duration {
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
        let mut circuit = CircuitBreaker::new(100, start);
        for _ in 0..FAULTS_MAX {
            assert!(circuit.acquire_budget(1, start).is_ok());
            circuit.record_failure(&ProviderFault::Late, start);
        }
        assert_eq!(circuit.acquire_budget(1, start), Err(ProviderFault::Resting));
        let later = start + REST_MIN;
        assert!(circuit.acquire_budget(1, later).is_ok());
        assert_eq!(circuit.acquire_budget(1, later), Err(ProviderFault::Resting), "one probe at a time");
        circuit.record_failure(&ProviderFault::Late, later);
        assert_eq!(circuit.acquire_budget(1, later + REST_MIN), Err(ProviderFault::Resting));
        let last = later + REST_MIN * 2;
        assert!(circuit.acquire_budget(1, last).is_ok());
        circuit.record_success(start);
        assert_eq!(
            circuit.acquire_budget(1, last),
            Err(ProviderFault::Resting),
            "what was asked before the rest does not end it"
        );
        circuit.record_success(last);
        assert!(circuit.acquire_budget(1, last).is_ok());
    }

    #[test]
    fn a_trial_that_nobody_waits_for_keeps_no_other_away() {
        let start = Instant::now();
        let mut circuit = CircuitBreaker::new(100, start);
        (0..9).for_each(|_| circuit.record_failure(&ProviderFault::Late, start));
        let later = start + REST_MAX;
        assert_eq!(circuit.acquire_budget(1, later), Ok(true));
        circuit.abandon_trial(later, later);
        assert_eq!(circuit.acquire_budget(1, later), Ok(true), "the next one tries");
        // It asked to be left alone while the trial was under way.
        circuit.record_failure(&ProviderFault::Throttled { retry_after_ms: 7_000 }, later);
        circuit.abandon_trial(later, later);
        assert_eq!(circuit.acquire_budget(1, later), Err(ProviderFault::Resting));
    }

    #[test]
    fn a_throttling_provider_is_obeyed_within_reason() {
        let start = Instant::now();
        let mut circuit = CircuitBreaker::new(100, start);
        circuit.record_failure(&ProviderFault::Throttled { retry_after_ms: 7_000 }, start);
        assert_eq!(
            circuit.acquire_budget(1, start + Duration::from_millis(6_999)),
            Err(ProviderFault::Resting)
        );
        assert!(circuit.acquire_budget(1, start + Duration::from_secs(7)).is_ok());
        circuit.record_failure(&ProviderFault::Throttled { retry_after_ms: u64::MAX }, start);
        assert!(circuit.acquire_budget(1, start + REST_MAX).is_ok());
    }

    #[test]
    fn a_budget_runs_out_and_fills_again() {
        let start = Instant::now();
        let mut circuit = CircuitBreaker::new(2, start);
        assert!(circuit.acquire_budget(10, start).is_ok());
        assert_eq!(circuit.acquire_budget(1, start), Err(ProviderFault::OverBudget));
        assert!(circuit.acquire_budget(1, start + Duration::from_millis(500)).is_ok());
        assert_eq!(
            circuit.acquire_budget(1, start + Duration::from_millis(500)),
            Err(ProviderFault::OverBudget)
        );
    }
}
