//! Renditions that were made elsewhere: the files of an own ladder, and what of them becomes which rendition of an encode.
//!
//! Limits: [`RENDITION_FILES_MAX`] files of one encode.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::UploadId;

/// Most files of one encode.
pub const RENDITION_FILES_MAX: usize = 12;

/// A file with a rendition: a partial upload of which every byte is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RenditionFile")]
pub struct RenditionFile {
    /// The upload.
    pub upload_id: UploadId,
    /// Object key of its bytes.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// What people call it.
    pub name: String,
}

/// How an encode is put together of files whose samples are copied as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CopyPlan")]
pub struct CopyPlan {
    /// The files.
    pub files: Vec<RenditionFile>,
    /// Where the frames of each rung of the ladder are from, in the same order.
    pub frames: Vec<FrameCopy>,
    /// Where the sound is from, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<SoundCopy>,
}

/// Where the frames of a rung are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FrameCopy")]
pub struct FrameCopy {
    /// Place of the file among all, from 0.
    pub file: u32,
    /// Stream index in the file.
    pub stream_index: u32,
    /// Presentation time of its first frame, in ticks of the stream.
    pub first_ticks: i64,
    /// The same in microseconds.
    pub first_us: i64,
    /// By how many frames the order of decoding runs before that of presentation.
    pub delay_frames: u32,
}

/// Where the sound is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SoundCopy")]
pub struct SoundCopy {
    /// Place of the file among all, from 0.
    pub file: u32,
    /// Stream index in the file.
    pub stream_index: u32,
    /// Packets before the first one that is taken.
    pub skipped_packets: u64,
}
