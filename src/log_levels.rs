//! Takes over what admins change about the log of this process, and brings back what is configured when its time is over.
//!
//! The record is read every few seconds, so that a process that starts meanwhile takes it, too. When the time of a change is over is judged
//! here, by the broker's clock as it was last compared: a broker that is away does not keep a change alive.
//!
//! Limits: a change is taken over within `PERIOD`, or within `PAUSE` after the record could not be read; it ends at most `READ_MAX` and
//! `PERIOD` late.

use std::time::Duration;

use nats::Bus;
use schemas::log_level::{self, LogLevelOverride, LogLevels};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{process_reports::ProcessIdentity, telemetry::log_filter};

/// How often the record is read, and looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// How long a reading may take.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long it is left alone after it could not be read: a broker of before this version refuses it to some roles.
const PAUSE: Duration = Duration::from_secs(30);

/// Follows the record until the shutdown.
pub async fn follow_log_levels(bus: &Bus, identity: &ProcessIdentity, shutdown: &CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut known, mut applied) = (LogLevels::default(), None);
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if Instant::now() >= read_at {
            let reading = tokio::time::timeout(READ_MAX, bus.load_record::<LogLevels>(LogLevels::KEY));
            tokio::select! {
                () = shutdown.cancelled() => return,
                read = reading => match read {
                    Ok(Ok(found)) => known = found.map(|held| held.record).unwrap_or_default(),
                    _ => read_at = Instant::now() + PAUSE,
                },
            }
        }
        let now_ms = nats::estimated_broker_now_ms();
        let wanted = known.find(&identity.roles, &identity.instance, now_ms);
        if wanted != applied.as_ref() {
            apply_override(wanted);
            applied = wanted.cloned();
        }
    }
}

/// Logs by what is set, or by what is configured where nothing is; says so while what is configured holds.
fn apply_override(wanted: Option<&LogLevelOverride>) {
    let Some(LogLevelOverride { filter, until_ms, set_by, .. }) = wanted else {
        report_failure(log_filter::add_directives(""));
        return tracing::warn!("what is logged is again what is configured");
    };
    tracing::warn!(filter, until_ms, by = set_by, "what is logged is changed for a while");
    match log_level::parse_filter(filter) {
        Ok(directives) => {
            report_failure(log_filter::add_directives(&log_level::render_directives(&directives)));
        }
        // A newer ingress knows more modules.
        Err(error) => {
            report_failure(log_filter::add_directives(""));
            tracing::warn!(%error, filter, "the filter can't be read: what is logged is what is configured");
        }
    }
}

fn report_failure(done: anyhow::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(error = format!("{error:#}"), "what is logged stays as it is");
    }
}
