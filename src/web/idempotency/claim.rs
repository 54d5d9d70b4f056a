//! The claim of one replica on an idempotency key, from when it took the request until it keeps the answer.
//!
//! The broker may store a change of ours and its answer be lost, in an outage or since the renewal was given up for the answer to the
//! request: the revision in hand is then an old one. What is stored is read again, and known for ours by the end of the claim. An end
//! that another replica wrote in the same millisecond is taken for ours: both do the request then, and one answer is kept.

use std::{convert::Infallible, time::Duration};

use nats::{Bus, BusError, Outbox, VersionedRecord, now_ms};
use schemas::idempotency::{IdempotencyRecord, IdempotencyState};

/// A claim that is held.
pub(super) struct HeldClaim {
    bus: Bus,
    held: VersionedRecord<IdempotencyRecord>,
    claim_ms: u64,
    /// Ends of the claim that may be stored: the last that is known to be, and those that were sent after it.
    ends_ms: Vec<u64>,
}

impl HeldClaim {
    /// Writes `record` as a claim for `claim_ms`, as the change of what was read of it.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when another one was first; as [`Bus::commit_record`].
    pub(super) async fn begin(
        bus: Bus,
        held: VersionedRecord<IdempotencyRecord>,
        claim_ms: u64,
    ) -> Result<Self, BusError> {
        let mut claim = Self { bus, held, claim_ms, ends_ms: Vec::new() };
        let state = claim.next_state();
        claim.held.record.state = state;
        claim.bus.commit_record(&mut claim.held, Outbox::new()).await?;
        Ok(claim)
    }

    /// The request.
    pub(super) const fn record(&self) -> &IdempotencyRecord {
        &self.held.record
    }

    /// Renews the claim again and again, so that a long request is not done twice.
    pub(super) async fn keep_renewed(&mut self) -> Infallible {
        // A third: one renewal may fail before a repetition takes the claim for that of a dead replica.
        let pause = Duration::from_millis((self.claim_ms / 3).max(1));
        loop {
            tokio::time::sleep(pause).await;
            let state = self.next_state();
            match self.write_state(state).await {
                Ok(()) => drop(self.ends_ms.drain(..self.ends_ms.len().saturating_sub(1))),
                Err(error) => tracing::debug!(%error, "the claim of an idempotency key could not be renewed"),
            }
        }
    }

    /// Puts `state` in the place of the claim.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when another replica took the claim over; as [`Bus::change_record`].
    pub(super) async fn write_state(&mut self, state: IdempotencyState) -> Result<(), BusError> {
        self.held.record.state = state;
        let conflict = match self.bus.commit_record(&mut self.held, Outbox::new()).await {
            Err(conflict @ BusError::Conflict { .. }) => conflict,
            written => return written,
        };
        let (next, ends_ms) = (self.held.record.clone(), &self.ends_ms);
        let mut is_ours = false;
        let change = |found: Option<&IdempotencyRecord>| {
            is_ours = found.is_some_and(|record| {
                let is_claim = matches!(record.state, IdempotencyState::Open { until_ms } if ends_ms.contains(&until_ms));
                // Or an earlier round of this very change stored it.
                is_claim || *record == next
            });
            (is_ours && found != Some(&next)).then(|| (next.clone(), Outbox::new()))
        };
        match self.bus.change_record(&next.key, change).await? {
            Some(held) if is_ours => self.held = held,
            _ => return Err(conflict),
        }
        Ok(())
    }

    /// The claim from now on.
    fn next_state(&mut self) -> IdempotencyState {
        let until_ms = now_ms().saturating_add(self.claim_ms);
        self.ends_ms.push(until_ms);
        IdempotencyState::Open { until_ms }
    }
}
