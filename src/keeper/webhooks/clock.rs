//! What time it is for webhooks: the broker's, or one that a test turns.
//!
//! Limits: the clock is looked at again after 30 seconds, for it may be set.

use std::time::Duration;

use tokio::sync::watch;

/// Longest wait without a look at the clock.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A clock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HookClock(Option<watch::Receiver<u64>>);

impl HookClock {
    /// The broker's, as this process knows it.
    pub const fn broker() -> Self {
        Self(None)
    }

    /// One that says what was sent last: Unix time in milliseconds.
    pub const fn turned_by(times: watch::Receiver<u64>) -> Self {
        Self(Some(times))
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.0.as_ref().map_or_else(nats::estimated_broker_now_ms, |times| *times.borrow())
    }

    /// Waits until it is `at_ms`, or the clock is to be looked at again.
    pub async fn wait_until(&self, at_ms: u64) {
        let Some(times) = &self.0 else {
            let wait = Duration::from_millis(at_ms.saturating_sub(self.now_ms()));
            return tokio::time::sleep(wait.min(LOOK_MAX)).await;
        };
        if times.clone().wait_for(|now_ms| *now_ms >= at_ms).await.is_err() {
            // Nobody turns it any more.
            std::future::pending::<()>().await;
        }
    }
}
