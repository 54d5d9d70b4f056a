//! What an encode looks like, units in the names: a part of the settings of the transcode stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an encode looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Profile")]
pub struct EncodeProfile {
    /// Rungs below the top one, best first. The top rung has the size of the source, within `short_side_pixels_max`.
    pub steps: Vec<ProfileRung>,
    /// Short side of the top rung, in pixels.
    pub short_side_pixels_max: u32,
    /// Long side of any rung, in pixels.
    pub long_side_pixels_max: u32,
    /// Output frames per second.
    pub frame_rate_max: u32,
    /// Constant rate factor of x264; the rate caps hold beside it.
    pub crf: u32,
    /// x264 preset.
    pub preset: String,
    /// Time between IDR pictures, in milliseconds; rounded to whole frames.
    pub gop_ms: u32,
    /// Groups of pictures in a segment.
    pub segment_gops: u32,
    /// Segments in a part; more where the title would have too many parts.
    pub part_segments: u32,
    /// A title of at most this many segments is one part.
    pub single_part_segments_max: u32,
    /// Audio bits per second of a stereo track.
    pub audio_rate_bps: u64,
    /// Loudness that every audio track is brought to, in LUFS by EBU R 128 (-23 for broadcast, -16 to -14 on the web); nothing: as it is.
    #[schemars(range(min = -40, max = -5))]
    pub loudness_lufs: Option<i32>,
    /// Audio tracks that are kept.
    pub audio_tracks_max: usize,
}

/// One rung of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Step")]
pub struct ProfileRung {
    /// Short side in pixels.
    pub short_side_pixels: u32,
    /// Average bits per second aimed at as an upper bound, for 16:9 at up to 30 frames per second.
    pub rate_bps: u64,
}

impl Default for EncodeProfile {
    /// The H.264 ladder in the shape of Apple's HLS Authoring Specification, table 2.
    fn default() -> Self {
        let step = |short_side_pixels, rate_bps| ProfileRung { short_side_pixels, rate_bps };
        Self {
            steps: vec![
                step(1080, 4_500_000),
                step(720, 3_000_000),
                step(540, 2_000_000),
                step(432, 1_100_000),
                step(360, 730_000),
                step(234, 365_000),
            ],
            short_side_pixels_max: 1080,
            long_side_pixels_max: 4096,
            frame_rate_max: 60,
            crf: 23,
            preset: "veryfast".to_owned(),
            gop_ms: 2_000,
            segment_gops: 3,
            part_segments: 5,
            single_part_segments_max: 8,
            audio_rate_bps: 128_000,
            loudness_lufs: None,
            audio_tracks_max: 8,
        }
    }
}

impl EncodeProfile {
    /// Two rungs up to 180p in short segments and parts: for tests of the machinery.
    pub fn tiny_for_tests() -> Self {
        let step = |short_side_pixels, rate_bps| ProfileRung { short_side_pixels, rate_bps };
        Self {
            steps: vec![step(180, 300_000), step(90, 100_000)],
            short_side_pixels_max: 180,
            preset: "ultrafast".to_owned(),
            segment_gops: 1,
            part_segments: 3,
            single_part_segments_max: 3,
            audio_rate_bps: 64_000,
            loudness_lufs: None,
            ..Self::default()
        }
    }
}
