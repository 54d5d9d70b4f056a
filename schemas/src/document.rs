//! The owner's document of a medium: what people say about it. Written over HTTP only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{gate::Gate, ids::MediaId};

/// One medium in the bucket `media`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The medium.
    pub media_id: MediaId,
    /// Who may change it.
    pub owner: String,
    /// Title for people; the file name until the owner says otherwise.
    pub title: String,
    /// Who may play it; the owner alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds.
    pub changed_at_ms: u64,
}

impl crate::Record for Record {
    const BUCKET: &'static str = "media";
    fn key(&self) -> String {
        self.media_id.to_string()
    }
}
