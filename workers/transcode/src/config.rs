//! Limits and choices of the stage, units in the names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the profile that is used when a job names none.
pub const DEFAULT_PROFILE: &str = "default";

/// Settings of the transcode stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The consume loop of parts: slots, attempts, delays. One slot runs one media child.
    pub parts: nats::consume::Config,
    /// The consume loop of the planner.
    pub planner: nats::consume::Config,
    /// Profile of new jobs.
    pub profile: String,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// How often a running part stores what it has and reads whether its job still lives, in milliseconds.
    pub renew_interval_ms: u64,
    /// A part whose holder was seen within this many milliseconds is not taken over.
    pub claim_fresh_ms: u64,
    /// Workers that may vanish while they hold a part before it is slowed and runs alone in its worker.
    pub lost_workers_max: u32,
    /// First pause of a part that keeps losing workers, in milliseconds; doubles with each further one.
    pub lost_delay_ms: u64,
    /// Longest pause of a part that keeps losing workers, in milliseconds.
    pub lost_delay_ms_max: u64,
    /// How long a part may keep losing workers before it is put aside until somebody resumes it, in milliseconds.
    pub lost_park_ms: u64,
    /// Shortest time between two progress messages of a part, in milliseconds.
    pub progress_interval_ms: u64,
    /// Segments of one part that are on their way to the store at the same time.
    pub puts_in_flight_max: usize,
    /// Objects that the conformance check reads at the same time.
    pub check_reads_max: usize,
    /// Crashes of the media child after which a part runs with safe options: one decoder thread.
    pub crashes_before_safe: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            parts: nats::consume::Config {
                slots: slots(),
                attempts_max: 5,
                ..nats::consume::Config::default()
            },
            planner: nats::consume::Config { slots: 2, ..nats::consume::Config::default() },
            profile: DEFAULT_PROFILE.to_owned(),
            profiles: BTreeMap::from([
                (DEFAULT_PROFILE.to_owned(), Profile::default()),
                ("tiny".to_owned(), Profile::tiny()),
            ]),
            renew_interval_ms: 2_000,
            claim_fresh_ms: 15_000,
            lost_workers_max: 3,
            lost_delay_ms: 10_000,
            lost_delay_ms_max: 600_000,
            lost_park_ms: 86_400_000,
            progress_interval_ms: 1_000,
            puts_in_flight_max: 8,
            check_reads_max: 16,
            crashes_before_safe: 2,
        }
    }
}

impl Config {
    /// The named profile, if there is one.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }
}

/// Two slots on two cores; on larger machines half the cores, since a child keeps about two of them busy.
fn slots() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => 1,
        cores => (cores / 2).clamp(2, 16),
    }
}

/// What an encode looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Rungs below the top one, best first. The top rung has the size of the source, within `short_side_pixels_max`.
    pub steps: Vec<Step>,
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
    /// Audio tracks that are kept.
    pub audio_tracks_max: usize,
}

/// One rung of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Short side in pixels.
    pub short_side_pixels: u32,
    /// Average bits per second aimed at as an upper bound, for 16:9 at up to 30 frames per second.
    pub rate_bps: u64,
}

impl Default for Profile {
    /// The H.264 ladder in the shape of Apple's HLS Authoring Specification, table 2.
    fn default() -> Self {
        let step = |short_side_pixels, rate_bps| Step { short_side_pixels, rate_bps };
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
            audio_tracks_max: 8,
        }
    }
}

impl Profile {
    /// Two rungs up to 180p in short segments and parts: for tests of the machinery.
    pub fn tiny() -> Self {
        let step = |short_side_pixels, rate_bps| Step { short_side_pixels, rate_bps };
        Self {
            steps: vec![step(180, 300_000), step(90, 100_000)],
            short_side_pixels_max: 180,
            preset: "ultrafast".to_owned(),
            segment_gops: 1,
            part_segments: 3,
            single_part_segments_max: 3,
            audio_rate_bps: 64_000,
            ..Self::default()
        }
    }
}
