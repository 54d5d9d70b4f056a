//! Choices of the dispatcher, units in the names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DispatchConfig {
    /// Shares of owners, by account: one of 3 gets three times as much of the workers as one of 1, which is what all others have.
    pub owner_weights: BTreeMap<String, u32>,
    /// How long a job of priority p2 waits before it counts as one of p1, in milliseconds.
    pub ageing_ms: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self { owner_weights: BTreeMap::new(), ageing_ms: 15 * 60_000 }
    }
}
