//! Settings of the audit stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of the audit stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Largest line, in bytes; a larger payload is replaced by its digest. Below the broker's `max_payload`.
    pub line_bytes_max: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { line_bytes_max: 960 * 1024 }
    }
}
