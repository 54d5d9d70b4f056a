//! Comparing this host's clock with the broker's, so that what is written here has the broker's time.

use std::time::Duration;

use nats::Bus;
use schemas::{KvRecord as _, alert::AlertBoard, subjects};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often the clocks are compared.
const PERIOD: Duration = Duration::from_secs(60);
/// How long one comparison may take.
const ASKING_TIME_MAX: Duration = Duration::from_secs(5);

/// Compares the clocks at once and then every minute, until `shutdown`.
pub(super) async fn follow_clock(bus: &Bus, shutdown: &CancellationToken) {
    let stream = subjects::kv_stream_name(AlertBoard::BUCKET);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let asked = tokio::select! {
            () = shutdown.cancelled() => return,
            asked = timeout(ASKING_TIME_MAX, bus.broker_now_ms(&stream)) => asked,
        };
        match asked {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the broker's time is not known"),
            Err(_) => tracing::debug!("the broker's time is not known: it does not answer"),
        }
    }
}
