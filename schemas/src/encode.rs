//! Encodes of a medium: how a new one is asked for, and what becomes of one that another has replaced.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::encode_settings::{EncodeRange, EncodeSettings};
use crate::media::MediaEncode;

/// Most replaced encodes of a medium that are kept for those who still play them.
pub const SUPERSEDED_ENCODES_MAX: usize = 8;

/// An encode that played until another one was ready. Sessions that began with it play it to their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SupersededEncode")]
pub struct SupersededEncode {
    /// The encode.
    pub encode: MediaEncode,
    /// Unix time in milliseconds, by the broker's clock, at which the other one took its place.
    pub superseded_at_ms: u64,
}
