//! Encodes of a medium: how a new one is asked for, and what becomes of one that another has replaced.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{media::MediaEncode, schedule::ScheduledRun, subjects::JobPriority};

/// Most replaced encodes of a medium that are kept for those who still play them.
pub const SUPERSEDED_ENCODES_MAX: usize = 8;

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
}

impl EncodeSettings {
    /// True where nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// An encode that played until another one was ready. Sessions that began with it play it to their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SupersededEncode")]
pub struct SupersededEncode {
    /// The encode.
    pub encode: MediaEncode,
    /// Unix time in milliseconds, by the broker's clock, at which the other one took its place.
    pub superseded_at_ms: u64,
}
