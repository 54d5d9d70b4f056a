//! How an encode is to be made, as uploads, events and jobs say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schedule::ScheduledRun, subjects::JobPriority};

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
