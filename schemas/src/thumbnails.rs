//! Pictures of a medium at times of an owner's choice: how they are asked for, and what a job of the kind `thumbnails` makes.
//!
//! Limits: [`TIMES_MAX`] times a job, [`WIDTH_PIXELS_MAX`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most times of one job.
pub const TIMES_MAX: usize = 32;

/// Least width of a picture, in pixels.
pub const WIDTH_PIXELS_MIN: u32 = 16;

/// Largest width of a picture, in pixels.
pub const WIDTH_PIXELS_MAX: u32 = 1_920;

/// Width of a picture where nobody says another, in pixels.
pub const WIDTH_PIXELS: u32 = 320;

/// Which pictures are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ThumbnailOrder")]
pub struct ThumbnailOrder {
    /// When each of them is shown, in milliseconds from the beginning of what plays.
    #[schemars(length(min = 1, max = TIMES_MAX))]
    pub times_ms: Vec<u64>,
    /// Their width in pixels; smaller media are not enlarged.
    #[schemars(range(min = WIDTH_PIXELS_MIN, max = WIDTH_PIXELS_MAX))]
    pub width: u32,
}
