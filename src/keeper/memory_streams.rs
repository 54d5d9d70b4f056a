//! Memory streams: made anew when a restart of the broker forgot them.
//!
//! Limits: looked for at start, after every reconnect, and every [`PERIOD`]; every [`FAULT_PERIOD`] while that fails.

use std::time::Duration;

use nats::{Bus, topology};
use tokio_util::sync::CancellationToken;

/// How often they are looked for while the connection lasts.
pub const PERIOD: Duration = Duration::from_secs(60);

/// How soon they are looked for again when that failed: a broker that has just come back may not answer for all its streams yet.
pub const FAULT_PERIOD: Duration = Duration::from_secs(2);

/// Restores memory streams until `held` fires.
pub async fn run_stream_restore(bus: Bus, held: CancellationToken) {
    let mut connection = bus.watch_connection();
    let (mut failures, mut mirror_failures) = (0_u32, 0_u32);
    loop {
        // Before the look: a broker that restarts during it has forgotten its memory streams again.
        connection.mark_unchanged();
        match topology::restore_memory_streams(bus.context()).await {
            Ok(restored) => {
                failures = 0;
                if !restored.names.is_empty() {
                    tracing::warn!(restored = ?restored.names, "the broker forgot its memory streams; they are made anew");
                }
                mirror_failures = if restored.mirror_error.is_some() { mirror_failures + 1 } else { 0 };
                if let Some(error) = restored.mirror_error.filter(|_| mirror_failures.is_power_of_two()) {
                    // None of ours reads them: no reason to look sooner.
                    tracing::warn!(%error, mirror_failures, "mirrors for programs of the operator could not be looked for");
                }
            }
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "memory streams could not be looked for");
                }
            }
        }
        let pause = if failures == 0 { PERIOD } else { FAULT_PERIOD };
        tokio::select! {
            () = held.cancelled() => return,
            changed = connection.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}
