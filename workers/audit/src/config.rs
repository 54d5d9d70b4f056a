//! Settings of the audit stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Least [`AuditConfig::line_bytes_max`], in bytes: a line without its payload fits.
const LINE_BYTES_MIN: u64 = 16 * 1024;

/// Most [`AuditConfig::line_bytes_max`], in bytes: the broker takes 1 MiB, with the headers of the message.
const LINE_BYTES_CEILING: u64 = 1008 * 1024;

/// Limits of the audit stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Largest line, in bytes; a larger payload is replaced by its digest. Below the broker's `max_payload`.
    #[schemars(range(min = LINE_BYTES_MIN, max = LINE_BYTES_CEILING))]
    pub line_bytes_max: usize,
    /// Most records that are stored together; also at most what the broker takes, 1,000.
    #[schemars(range(min = 1, max = 1_000))]
    pub batch_records_max: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { line_bytes_max: 960 * 1024, batch_records_max: 256 }
    }
}
