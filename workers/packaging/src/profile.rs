//! What an encode looks like, units in the names: a part of the settings of the transcode stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Smallest side of a rung, in pixels: what the encoder takes.
const SIDE_PIXELS_MIN: u32 = crate::ladder::SIDE_PIXELS_MIN;

/// Longest side of a rung, in pixels: what the media child takes.
pub const SIDE_PIXELS_MAX: u32 = 16_384;

/// Most rungs below the top one: the media child takes 16 in all.
pub const STEPS_MAX: usize = 15;

/// Highest average rate of a rung, in bits per second: with its share for fast pictures and its buffer the encoder takes no more.
pub const STEP_RATE_BPS_MAX: u64 = 700_000_000;

/// Most audio tracks that are kept: the media child knows of as many that they can be decoded.
pub const AUDIO_TRACKS_MAX: usize = 16;

/// A preset of x264 that the media child has. Slower ones are left out: parts of an encode would take longer than their time-outs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum X264Preset {
    /// Fastest, largest.
    Ultrafast,
    /// Slower than `ultrafast`.
    Superfast,
    /// The usual choice.
    Veryfast,
    /// Slower than `veryfast`.
    Faster,
    /// Slower than `faster`.
    Fast,
    /// The encoder's own default.
    Medium,
    /// For long-lived titles.
    Slow,
}

impl X264Preset {
    /// All, the fastest first.
    pub const ALL: [Self; 7] = [
        Self::Ultrafast,
        Self::Superfast,
        Self::Veryfast,
        Self::Faster,
        Self::Fast,
        Self::Medium,
        Self::Slow,
    ];

    /// Its name in plans and for the encoder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ultrafast => "ultrafast",
            Self::Superfast => "superfast",
            Self::Veryfast => "veryfast",
            Self::Faster => "faster",
            Self::Fast => "fast",
            Self::Medium => "medium",
            Self::Slow => "slow",
        }
    }
}

/// What an encode looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Profile")]
pub struct EncodeProfile {
    /// Rungs below the top one, best first. The top rung has the size of the source, within `short_side_pixels_max`.
    #[schemars(length(max = STEPS_MAX))]
    pub steps: Vec<ProfileRung>,
    /// Short side of the top rung, in pixels.
    #[schemars(range(min = SIDE_PIXELS_MIN, max = SIDE_PIXELS_MAX))]
    pub short_side_pixels_max: u32,
    /// Long side of any rung, in pixels.
    #[schemars(range(min = SIDE_PIXELS_MIN, max = SIDE_PIXELS_MAX))]
    pub long_side_pixels_max: u32,
    /// Output frames per second.
    #[schemars(range(min = 1, max = 1_000))]
    pub frame_rate_max: u32,
    /// Constant rate factor of x264; the rate caps hold beside it.
    #[schemars(range(min = 1, max = 51))]
    pub crf: u32,
    /// x264 preset: slower ones make smaller files of the same quality.
    pub preset: X264Preset,
    /// Time between IDR pictures, in milliseconds; rounded to whole frames.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub gop_ms: u32,
    /// Groups of pictures in a segment.
    #[schemars(range(min = 1, max = 72_000))]
    pub segment_gops: u32,
    /// Segments in a part; more where the title would have too many parts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub part_segments: u32,
    /// A title of at most this many segments is one part.
    #[schemars(range(max = 1_000_000))]
    pub single_part_segments_max: u32,
    /// Audio bits per second of a stereo track.
    #[schemars(range(min = 16_000, max = 512_000))]
    pub audio_rate_bps: u64,
    /// Loudness that every audio track is brought to, in LUFS by EBU R 128 (-23 for broadcast, -16 to -14 on the web); nothing: as it is.
    /// Sound is amplified by at most 20 dB and its peaks are held below -1 dBFS: what stays quieter for that has a warning (`loudness_missed`).
    #[schemars(range(min = -40, max = -5))]
    pub loudness_lufs: Option<i32>,
    /// Audio tracks that are kept.
    #[schemars(range(max = AUDIO_TRACKS_MAX))]
    pub audio_tracks_max: usize,
}

/// One rung of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Step")]
pub struct ProfileRung {
    /// Short side in pixels.
    #[schemars(range(min = SIDE_PIXELS_MIN, max = SIDE_PIXELS_MAX))]
    pub short_side_pixels: u32,
    /// Average bits per second aimed at as an upper bound, for 16:9 at up to 30 frames per second.
    #[schemars(range(min = 1_000, max = STEP_RATE_BPS_MAX))]
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
            preset: X264Preset::Veryfast,
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
            preset: X264Preset::Ultrafast,
            segment_gops: 1,
            part_segments: 3,
            single_part_segments_max: 3,
            audio_rate_bps: 64_000,
            loudness_lufs: None,
            ..Self::default()
        }
    }
}
