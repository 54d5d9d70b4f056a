//! The monitor: what happens on the bus, as numbers.
//!
//! - Consumes: core `>` with a user of its own, JetStream advisories among it; it skips messages whose reply begins with
//!   `$JS.ACK`, because those are deliveries of what was counted when it was published. Stream and consumer state by
//!   request, every [`MonitorConfig::poll_ms`]. The metrics of other processes come as `stat.<role>.<instance>`.
//!   What they say of themselves comes as `log.<role>`, questions of operators as `ask.monitor.*`.
//! - Emits: `alert.fired` and `alert.resolved` (see `alerting/mod.rs`); nothing per message seen.
//! - Stores: the record of what fires; counters begin anew with the process.
//! - Limits: [`MonitorConfig`] names the poll's interval and time-out and how many label values a family may have; no label is
//!   ever an id or a client's text.
//!
//! A core subscription loses messages when it is too slow. So what it counts are rates, the loss is a metric itself, and all
//! that has to be exact (appends, depth, age, dead letters) comes from the state of the streams.

mod alerting;
mod answers;
mod config;
mod error;
mod growth;
mod listen;
mod measure;
mod metric_page;
mod metrics;
mod poll;
mod process_log;
mod read_report;
mod role_reports;
mod sample;
mod stats;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use nats::Bus;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use alerting::{
    AlertsSetupError, MetricsDocument, MonitorAlertsConfig, SmtpConfig, SmtpEncryption, WebhookReceiverConfig,
};
pub use config::MonitorConfig;
pub use error::MonitorError;
pub use metrics::{MonitorMetrics, MonitorSnapshot};
pub use role_reports::RoleReports;
pub use stats::{DurableStats, StreamStats};

/// Counts and polls into `metrics`, and evaluates alerts by the `document` of all metrics, until `shutdown` fires.
///
/// # Errors
/// [`MonitorError::Bus`] when the subscription can't be made at start; later failures of the broker are metrics.
pub async fn run(
    bus: Bus,
    config: MonitorConfig,
    metrics: MonitorMetrics,
    document: MetricsDocument,
    shutdown: CancellationToken,
) -> Result<(), MonitorError> {
    let stop = shutdown.child_token();
    let messages = bus.subscribe_core(schemas::subjects::ALL.into()).await?;
    let mut tasks: JoinSet<()> = JoinSet::new();
    tasks.spawn(listen::count_messages(messages, metrics.clone(), stop.clone()));
    let (log, render) = (metrics.process_log().clone(), Arc::clone(&document));
    tasks.spawn(answers::answer_questions(bus.clone(), log, render, stop.clone()));
    if config.alerts.evaluated {
        let period = Duration::from_millis(config.poll_ms.max(100));
        let alerts = config.alerts.clone();
        tasks.spawn(alerting::run_alerts(bus.clone(), alerts, document, period, stop.clone()));
    }
    tasks.spawn(poll::poll_broker(bus, config, metrics, stop.clone()));
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        if ended.is_err() {
            first = Err(MonitorError::Panicked);
        }
    }
    first
}
