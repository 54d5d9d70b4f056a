//! The audit stage: every event, once and in order, as an append-only chain of lines.
//!
//! - Consumes: EVENTS by one ordered reader; under the lease `audit`, so one of all processes writes at a time.
//! - Emits: `audit.<entity>.<verb>` into the stream AUDIT. Each publish names the sequence it expects before it, so a
//!   writer that lost its lease without noticing is refused, and nothing is doubled or reordered.
//! - Stores: nothing else; where to go on is read from the last record. A crash at any line is repaired by the next term. What is
//!   no next event is accounted for by a note, a record about the log itself: messages that are no records and that it steps over,
//!   records of an older version that repeat earlier ones.
//! - Limits: one batch in flight; [`AuditConfig`] names its records, and the bytes of one line; a note steps over at most [`FOREIGN_MAX`] messages.
//!
//! What is absent: no durable and no cursor of its own, so there is nothing that could disagree with the log.

mod append;
mod config;
mod error;
mod hash_chain;
mod replay;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::atomic::{AtomicU32, Ordering};

use nats::Bus;
use schemas::fault::error_chain;
use tokio_util::sync::CancellationToken;

pub use config::AuditConfig;
pub use error::AuditError;
pub use hash_chain::{AuditFault, AuditHead};
pub use replay::{FILTER_PATTERN, ReplayFilter, ReplayQuery, ReplayedRecord, replay_records};
pub use verify::{AuditLogStatus, AuditLogVerifier, FOREIGN_MAX, verify_log};

/// Name of the lease that lets one process write.
pub const LEASE: &str = "audit";

/// Appends events to AUDIT whenever this process holds the lease, until `shutdown` fires.
///
/// # Errors
/// None at present; a term that fails is logged and the next one goes on from the last record.
pub async fn run(bus: Bus, config: AuditConfig, shutdown: CancellationToken) -> Result<(), AuditError> {
    let writer = bus.clone();
    let failures = AtomicU32::new(0);
    let work = |held: CancellationToken| {
        let (bus, config, failures) = (writer.clone(), config.clone(), &failures);
        async move {
            match append::run_term(&bus, &config, &held).await {
                Ok(()) => failures.store(0, Ordering::Relaxed),
                Err(error @ AuditError::Interrupted) => {
                    failures.store(0, Ordering::Relaxed);
                    tracing::info!(%error, "the next term goes on from the last record");
                }
                Err(error) => {
                    // A term begins every second: the same failure is logged at each doubling of their number.
                    let failures = failures.fetch_add(1, Ordering::Relaxed) + 1;
                    if failures.is_power_of_two() {
                        let reason = error_chain(&error);
                        tracing::error!(
                            reason,
                            failures,
                            "appending stopped; the next term goes on from the last record"
                        );
                    }
                }
            }
        }
    };
    bus.run_with_lease(LEASE, shutdown, work).await;
    Ok(())
}
