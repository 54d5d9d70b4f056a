//! The audit stage: every event, once and in order, as an append-only chain of lines.
//!
//! - Consumes: EVENTS by one ordered reader; under the lease `audit`, so one of all processes writes at a time.
//! - Emits: `audit.<entity>.<verb>` into the stream AUDIT. Each publish names the sequence it expects before it, so a
//!   writer that lost its lease without noticing is refused, and nothing is doubled or reordered.
//! - Stores: nothing else; where to go on is read from the last record. A crash at any line is repaired by the next term.
//! - Limits: one record in flight; [`Config`] names the bytes of one line.
//!
//! What is absent: no durable and no cursor of its own, so there is nothing that could disagree with the log.

mod append;
mod config;
mod error;
mod record;
mod replay;
#[cfg(test)]
mod tests;
mod verify;

use nats::Bus;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use record::{Fault, Head};
pub use replay::{FILTER_PATTERN, Filter, Query, Replayed, replay};
pub use verify::{Verdict, Walk, verify};

/// Name of the lease that lets one process write.
pub const LEASE: &str = "audit";

/// Appends events to AUDIT whenever this process holds the lease, until `shutdown` fires.
///
/// # Errors
/// None at present; a term that fails is logged and the next one goes on from the last record.
pub async fn run(bus: Bus, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let writer = bus.clone();
    let work = |held: CancellationToken| {
        let (bus, config) = (writer.clone(), config.clone());
        async move {
            match append::term(&bus, &config, &held).await {
                Ok(()) => {}
                Err(error @ Error::Interrupted) => {
                    tracing::info!(%error, "the next term goes on from the last record");
                }
                Err(error) => {
                    tracing::error!(%error, "appending stopped; the next term goes on from the last record");
                }
            }
        }
    };
    bus.hold(LEASE, shutdown, work).await;
    Ok(())
}
