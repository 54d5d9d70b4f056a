//! Settings of followers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Followers of events, and what waits for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventConfig {
    /// Most followers at once on one replica; more are refused with `busy`.
    pub followers_max: usize,
    /// Most followers of one principal at once on one replica; more are refused with `streams_too_many`.
    pub followers_per_principal_max: usize,
    /// Most events that wait for one follower that reads slowly; with more it gets `lagged`, and is closed.
    pub queue_items_max: usize,
    /// The same in bytes.
    pub queue_bytes_max: usize,
}

impl Default for EventConfig {
    fn default() -> Self {
        Self {
            followers_max: 10_000,
            followers_per_principal_max: 256,
            queue_items_max: 1_024,
            queue_bytes_max: 1024 * 1024,
        }
    }
}
