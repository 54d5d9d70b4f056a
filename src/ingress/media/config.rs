//! Settings of what owners bring beside the file of a medium.

use packaging::captions::CaptionLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of what owners bring beside the file of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// Largest file of captions, in bytes: a film has 100 KiB of each language.
    #[schemars(range(min = 1_024, max = 16_777_216))]
    pub captions_bytes_max: usize,
    /// Most texts of such a file.
    #[schemars(range(min = 1, max = 100_000))]
    pub caption_cue_count_max: usize,
    /// Largest picture that is a poster, in bytes.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    pub poster_bytes_max: usize,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            captions_bytes_max: 2 * 1024 * 1024,
            caption_cue_count_max: 20_000,
            poster_bytes_max: 5 * 1024 * 1024,
        }
    }
}

impl MediaConfig {
    /// What a file of captions may hold.
    pub(crate) const fn caption_limits(&self) -> CaptionLimits {
        CaptionLimits { bytes_max: self.captions_bytes_max, cue_count_max: self.caption_cue_count_max }
    }
}
