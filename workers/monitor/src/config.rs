//! Settings of the monitor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alerting::MonitorAlertsConfig;

/// Limits of the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorConfig {
    /// How often the state of streams and durables is asked for, in milliseconds.
    pub poll_ms: u64,
    /// Longest time one poll may take, in milliseconds.
    pub poll_timeout_ms: u64,
    /// Most streams that are shown; more are left out.
    pub streams_max: usize,
    /// Most durables that are shown; more are left out.
    pub durables_max: usize,
    /// Most stages of dead letters that are shown by name; more are counted as `other`.
    pub dead_stages_max: usize,
    /// Alerts, and who is informed of them.
    pub alerts: MonitorAlertsConfig,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            poll_ms: 5_000,
            poll_timeout_ms: 10_000,
            streams_max: 64,
            durables_max: 64,
            dead_stages_max: 32,
            alerts: MonitorAlertsConfig::default(),
        }
    }
}
