//! Media that are written out of the system: how a job of the kind `export` is asked for, what stands in its record, and what it came to.
//!
//! Limits: an address has at most [`TARGET_BYTES_MAX`] bytes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ids::MediaId, subjects::JobPriority};

/// Longest address, in bytes: those that stores sign have up to about 2 000.
pub const TARGET_BYTES_MAX: usize = 4_096;

/// Longest name of a track, in characters.
pub const AUDIO_CHARS_MAX: usize = 35;

/// Which file of a medium is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFile {
    /// What plays as one MP4 file, put together as `download.mp4` is.
    #[default]
    Mp4,
    /// The file that was uploaded.
    Source,
}

/// Which file of which medium is sent, and where.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportJobRequest {
    /// The medium.
    pub media_id: MediaId,
    /// Address of `http` or `https` at a public host that takes the file by PUT, such as one that a store has signed. It is kept until the
    /// job ends, and shown to nobody with its query.
    #[schemars(length(min = 1, max = TARGET_BYTES_MAX))]
    pub target_url: String,
    /// Which file; `mp4` when absent.
    #[serde(default)]
    pub file: ExportFile,
    /// Of `mp4`: the largest rendition whose short side has at most so many pixels, or else the smallest; the best one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_384))]
    pub height: Option<u32>,
    /// Of `mp4`: a track of sound by its name, such as `a1`, or by its language, such as `de`; `none` for pictures alone. The first track
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = AUDIO_CHARS_MAX))]
    pub audio: Option<String>,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    #[serde(default)]
    pub priority: JobPriority,
}

/// Without the address: requests are written into logs.
impl fmt::Debug for ExportJobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportJobRequest").field("media_id", &self.media_id).finish_non_exhaustive()
    }
}

/// What a job of the kind `export` sends, and where.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ExportOrder")]
pub struct ExportOrder {
    /// Which file.
    pub file: ExportFile,
    /// Most pixels of the short side of the pictures; the best rendition when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Name or language of the track of sound; the first one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// The address with its query, which may hold a secret; absent once the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Scheme, host and path: what who asked for it is shown.
    pub shown: String,
    /// Who asked for it; the owner of the job when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
}

/// Without the address: records are written into logs.
impl fmt::Debug for ExportOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportOrder").field("file", &self.file).finish_non_exhaustive()
    }
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ExportReport")]
pub struct ExportReport {
    /// Bytes of the file.
    pub size_bytes: u64,
    /// SHA-256 of the bytes as they were sent, in lower-case hex.
    pub sha256: String,
    /// Number of the encode that it was made of; absent of the file that was uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<u32>,
}
