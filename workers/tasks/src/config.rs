//! Limits of the stage, units in the names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the tasks stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TasksConfig {
    /// The consume loop: slots, attempts, delays. One slot runs one job.
    pub parts: nats::consume::ConsumeConfig,
    /// Longest time of one try of a job, in milliseconds; a try that takes longer has failed.
    pub try_time_ms_max: u64,
    /// How long a job of a kind that this version does not know is left to others, in milliseconds after it was let into the queue; then it is given up.
    pub other_version_wait_ms: u64,
    /// Shortest time between two progress messages of a job, in milliseconds.
    pub progress_interval_ms: u64,
    /// Objects that one job reads at the same time.
    pub reads_max: usize,
    /// How long a job that ended is kept, in milliseconds; set by `retention.ended_ms`.
    #[serde(skip)]
    pub ended_kept_ms: u64,
}

impl Default for TasksConfig {
    fn default() -> Self {
        Self {
            parts: nats::consume::ConsumeConfig {
                slots: 2,
                attempts_max: 5,
                ..nats::consume::ConsumeConfig::default()
            },
            try_time_ms_max: 12 * 3_600_000,
            other_version_wait_ms: 600_000,
            progress_interval_ms: 1_000,
            reads_max: 4,
            ended_kept_ms: schemas::ENDED_KEPT_MS,
        }
    }
}
