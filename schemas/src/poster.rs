//! The poster that an owner chose for a medium: a picture of its own, or one of what plays.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Formats of pictures that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PictureFormat")]
pub enum PictureFormat {
    /// JPEG (ISO/IEC 10918-1).
    Jpeg,
    /// PNG (W3C).
    Png,
    /// WebP (RFC 9649).
    Webp,
}

impl PictureFormat {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }
}

/// The poster that an owner chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ChosenPoster")]
pub struct ChosenPoster {
    /// Name of its object: another one each time, since caches keep what a name holds.
    pub name: String,
    /// Its format.
    pub format: PictureFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes of its object.
    pub size_bytes: u64,
    /// When it is shown, in milliseconds from the beginning of what played; absent for a picture that the owner brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}
