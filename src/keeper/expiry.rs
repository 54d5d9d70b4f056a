//! Upload expiry: a pass over all uploads each period, by the broker's clock.

use std::time::Duration;

use nats::Bus;
use schemas::{KvRecord as _, subjects, upload::UploadRecord};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;
use ingress::uploads::expiry::{ExpiryReport, QUIET_MS, run_expiry_pass};

/// Looks after uploads until `held` fires.
pub async fn run_expiry(bus: Bus, store: Store, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.expiry_period_ms);
    loop {
        let stream = subjects::kv_stream_name(UploadRecord::BUCKET);
        let turn = async {
            // Not by this host's clock: one that is ahead would end uploads that others still promise to their
            // clients.
            let now_ms = bus.broker_now_ms(&stream).await?;
            run_expiry_pass(&bus, &store, now_ms, QUIET_MS, config.ended_kept_ms).await
        };
        match turn.await {
            Ok(done) if done == ExpiryReport::default() => {}
            Ok(done) => tracing::info!(
                expired = done.expired_count,
                completed = done.completed_count,
                freed = done.freed_count,
                dated = done.dated_count,
                "looked after uploads"
            ),
            Err(refusal) => tracing::warn!(?refusal, "uploads could not be looked after"),
        }
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}
