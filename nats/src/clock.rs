//! The broker's time, for ages of what the broker stored: clocks of workers differ, and none of them decides.
//!
//! Limits: a clock that differs by more than [`OFFSET_MS_MAX`] is said.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use crate::{Bus, BusError};

/// How far this host's clock may be from the broker's before that is said, in milliseconds.
pub const OFFSET_MS_MAX: u64 = 2_000;

/// How often a role that works through a queue compares the clocks.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// This host's clock minus the broker's, in milliseconds, as last seen; a process has one clock.
static OFFSET_MS: AtomicI64 = AtomicI64::new(0);

/// This host's clock minus the broker's, in milliseconds, as last measured; 0 before that.
pub fn clock_offset_ms() -> i64 {
    OFFSET_MS.load(Ordering::Relaxed)
}

/// The broker's time by the last comparison of the clocks, in Unix milliseconds; this host's own before that. For judging many times
/// at once; [`Bus::broker_now_ms`] asks.
pub fn estimated_broker_now_ms() -> u64 {
    crate::now_ms().saturating_sub_signed(clock_offset_ms())
}

impl Bus {
    /// The time of the server that leads `stream`, in Unix milliseconds: never later than it is when this returns.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn broker_now_ms(&self, stream: &str) -> Result<u64, BusError> {
        let asked = Instant::now();
        let answer = self.request_stream_info(stream).await?;
        let reported = answer.get("ts").and_then(serde_json::Value::as_str).unwrap_or_default();
        let time: jiff::Timestamp = reported.parse().map_err(BusError::unavailable)?;
        let broker_ms = u64::try_from(time.as_millisecond()).unwrap_or(0);
        let way_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        record_clock_offset(broker_ms, crate::now_ms(), way_ms);
        Ok(broker_ms)
    }

    /// What the server that leads `stream` says of it, and what time it has.
    pub(crate) async fn request_stream_info(&self, stream: &str) -> Result<serde_json::Value, BusError> {
        let nothing = serde_json::json!({});
        let ask = || self.context().request(format!("STREAM.INFO.{stream}"), &nothing);
        self.retry_request(ask, BusError::unavailable).await
    }
}

/// Remembers how far our clock is off; the answer may have been on its way for `way_ms`.
fn record_clock_offset(broker_ms: u64, own_ms: u64, way_ms: u64) {
    let offset_ms = compute_clock_offset(broker_ms, own_ms, way_ms);
    let before_ms = OFFSET_MS.swap(offset_ms, Ordering::Relaxed);
    let is_off = |ms: i64| ms.unsigned_abs() > OFFSET_MS_MAX;
    if is_off(offset_ms) && !is_off(before_ms) {
        tracing::warn!(offset_ms, "the clock of this host differs from the broker's: set both by NTP");
    } else if is_off(before_ms) && !is_off(offset_ms) {
        tracing::info!(offset_ms, "the clock of this host agrees with the broker's again");
    }
}

/// Own time minus the broker's; what the way of the answer can explain is no difference.
fn compute_clock_offset(broker_ms: u64, own_ms: u64, way_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    // The way of the answer makes our clock look ahead only, so it explains nothing here.
    if own_ms < broker_ms {
        return -signed(broker_ms - own_ms);
    }
    signed((own_ms - broker_ms).saturating_sub(way_ms))
}

#[cfg(test)]
mod tests {
    use super::compute_clock_offset;

    #[test]
    fn the_way_of_an_answer_is_no_difference() {
        for (broker_ms, own_ms, way_ms, wanted) in [
            (10_000, 10_000, 0, 0),
            (10_000, 10_400, 500, 0),
            (10_000, 13_000, 500, 2_500),
            (10_000, 7_000, 500, -3_000),
        ] {
            assert_eq!(
                compute_clock_offset(broker_ms, own_ms, way_ms),
                wanted,
                "{broker_ms} {own_ms} {way_ms}"
            );
        }
    }
}
