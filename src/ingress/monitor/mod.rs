//! What operators ask of the monitor: from its records, or itself.
//!
//! Limits: it has [`MONITOR_WAIT`] to answer; else what each file says.

mod alerts;
mod health;
mod log_level;
mod logs;
mod metrics;

use std::time::Duration;

use nats::Bus;
use schemas::subjects;
use serde::{Serialize, de::DeserializeOwned};

use super::openapi;
use crate::AppState;
use web::{
    error::Problem,
    operation::{Operation, OperationRouter},
};

/// How long the monitor may take.
const MONITOR_WAIT: Duration = Duration::from_secs(3);

/// Asks any monitor.
async fn ask_monitor<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    verb: &str,
    question: &Q,
) -> Result<A, Problem> {
    let answer = bus.request(subjects::monitor_request_subject(verb), question, MONITOR_WAIT).await;
    answer.map_err(|error| {
        Problem::unavailable(&error)
            .with_detail("no monitor answers: look whether `streamgate worker monitor` runs")
    })
}

/// The routes.
pub(crate) fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&health::READ_HEALTH, health::read_health)
        .with(&logs::READ_LOGS, logs::read_logs)
        .with(&log_level::LIST_LOG_LEVELS, log_level::list_log_levels)
        .with(&log_level::SET_LOG_LEVEL, log_level::set_log_level)
        .with(&metrics::READ_METRICS, metrics::read_metrics)
        .with(&alerts::LIST_ALERTS, alerts::list_alerts)
        .with(&alerts::SILENCE_ALERT, alerts::silence_alert)
        .with(&alerts::ACKNOWLEDGE_ALERT, alerts::acknowledge_alert)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    health::read_health,
    logs::read_logs,
    log_level::list_log_levels,
    log_level::set_log_level,
    metrics::read_metrics,
    alerts::list_alerts,
    alerts::silence_alert,
    alerts::acknowledge_alert
))]
pub(super) struct MonitorApiDoc;

impl openapi::OperationGroup for MonitorApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<health::HealthDocument>();
        schemas.add_response::<logs::LogDocument>();
        schemas.add_response::<log_level::LogLevelList>();
        schemas.add_request::<log_level::LogLevelRequest>();
        schemas.add_response::<metrics::MetricDocument>();
        schemas.add_response::<alerts::AlertList>();
        schemas.add_response::<alerts::AlertMarkDocument>();
        schemas.add_request::<alerts::AlertMarkRequest>();
    }
}

#[cfg(test)]
mod tests;
