//! How an encode is to be made, as uploads, events and jobs say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{renditions::RenditionFile, schedule::ScheduledRun, subjects::JobPriority};

/// A part of a source that is encoded, and plays then from 0 on. Times are in milliseconds from the beginning of the source; each is taken
/// for that of the nearest frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EncodeRange")]
#[serde(deny_unknown_fields)]
pub struct EncodeRange {
    /// Where it begins.
    #[serde(default)]
    pub start_ms: u64,
    /// Where it ends; with the source when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u64>,
}

/// How an encode is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EncodeSettings")]
pub struct EncodeSettings {
    /// Name of the profile; the one that the workers use for uploads when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Priority of its job.
    #[serde(default)]
    pub priority: JobPriority,
    /// The run of a schedule that asked for it; absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<ScheduledRun>,
    /// The part of the source that is encoded; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<EncodeRange>,
    /// True when its job waits until somebody resumes it, or another encode takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Files whose samples it is put together of, as they are; it is encoded from the source where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renditions: Vec<RenditionFile>,
}

impl EncodeRange {
    /// How long the part is of a source of `whole_ms`, in milliseconds.
    pub fn duration_ms_of(self, whole_ms: u64) -> u64 {
        self.end_ms.unwrap_or(whole_ms).min(whole_ms).saturating_sub(self.start_ms)
    }
}

impl EncodeSettings {
    /// True where nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
