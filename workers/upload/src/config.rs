//! Settings of the upload stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of the upload stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UploadStageConfig {
    /// The consume loop.
    pub consume: nats::consume::ConsumeConfig,
    /// Failed tries after which a file whose probe crashes or hangs is rejected; an outage or a lost worker is none.
    pub probe_attempts_max: u32,
    /// Longest title or language taken from a file, in characters.
    pub text_chars_max: usize,
    /// Refuses files that are cut, or that have bytes before or behind the medium. Off, such a file is played to where it goes with a
    /// warning in its record, as long as what is behind it is no second file and at most 64 KiB or one hundredth of the file.
    pub strict: bool,
}

impl Default for UploadStageConfig {
    fn default() -> Self {
        Self {
            consume: nats::consume::ConsumeConfig { slots: 2, ..nats::consume::ConsumeConfig::default() },
            probe_attempts_max: 3,
            text_chars_max: 200,
            strict: false,
        }
    }
}
