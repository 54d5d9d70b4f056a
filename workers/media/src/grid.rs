//! The output timelines: where frames and segments begin, in exact ticks.
//!
//! Limits: rates above zero, with terms up to 1,000,000, so that no product here overflows.

use serde::{Deserialize, Serialize};

/// Sample rate of every audio rendition, in hertz.
pub const AUDIO_RATE_HZ: u32 = 48_000;

/// Samples in one AAC-LC frame (ISO/IEC 14496-3, `frameLengthFlag` 0).
pub const AUDIO_FRAME_SAMPLES: u32 = 1024;

/// Track timescales are doubled until they reach this many ticks per second, as FFmpeg's muxer does.
const TIMESCALE_MIN: u32 = 10_000;

/// Largest term of a [`MediaRatio`] that a plan may use.
const TERM_MAX: u32 = 1_000_000;

/// A fraction; frames per second, seconds, or the shape of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaRatio {
    /// Numerator.
    pub num: u32,
    /// Denominator; zero means "unknown" in what a probe reports and is refused in plans.
    pub den: u32,
}

impl MediaRatio {
    /// The fraction `num / den`.
    #[must_use]
    pub const fn new(num: u32, den: u32) -> Self {
        Self { num, den }
    }

    /// Whether both terms are above zero and small enough to calculate with.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        self.num > 0 && self.den > 0 && self.num <= TERM_MAX && self.den <= TERM_MAX
    }

    /// The value as a float, 0 when unknown; for people and rough comparisons only.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        if self.den == 0 { 0.0 } else { f64::from(self.num) / f64::from(self.den) }
    }
}

/// The grid of output video frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoGrid {
    /// Ticks per second of the track.
    pub timescale: u32,
    /// Ticks per output frame.
    pub frame_ticks: u32,
}

impl VideoGrid {
    /// The track timescale and frame length for an output frame rate; none when the rate is not usable.
    #[must_use]
    pub fn new(frame_rate: MediaRatio) -> Option<Self> {
        if !frame_rate.is_usable() {
            return None;
        }
        let mut grid = Self { timescale: frame_rate.num, frame_ticks: frame_rate.den };
        while grid.timescale < TIMESCALE_MIN {
            grid.timescale *= 2;
            grid.frame_ticks *= 2;
        }
        Some(grid)
    }

    /// When an output frame begins, in ticks from the presentation start.
    #[must_use]
    pub fn frame_start_ticks(self, frame: u64) -> u64 {
        frame.saturating_mul(u64::from(self.frame_ticks))
    }
}

/// Where the segments of an audio rendition begin: at the AAC frame nearest to each video segment boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioGrid {
    segment_seconds: MediaRatio,
    frames: u64,
    /// Samples per second.
    pub rate_hz: u32,
}

impl AudioGrid {
    /// The grid of a rendition of `duration_samples` at [`AUDIO_RATE_HZ`]; none when the segment length is not usable.
    #[must_use]
    pub fn new(segment_seconds: MediaRatio, duration_samples: u64) -> Option<Self> {
        Self::with_rate(segment_seconds, duration_samples, AUDIO_RATE_HZ)
    }

    /// The grid of a rendition of `duration_samples`, of which there are `rate_hz` a second; none when one of them is not usable.
    #[must_use]
    pub fn with_rate(segment_seconds: MediaRatio, duration_samples: u64, rate_hz: u32) -> Option<Self> {
        let frames = duration_samples.div_ceil(u64::from(AUDIO_FRAME_SAMPLES));
        let is_usable = segment_seconds.is_usable() && (7_000..=192_000).contains(&rate_hz);
        is_usable.then_some(Self { segment_seconds, frames, rate_hz })
    }

    /// AAC frames in the whole rendition.
    #[must_use]
    pub fn frame_count(self) -> u64 {
        self.frames
    }

    /// First AAC frame of segment `segment`, counted from 0; the frame count once past the end.
    #[must_use]
    pub fn first_frame(self, segment: u32) -> u64 {
        let scale = u128::from(self.segment_seconds.den) * u128::from(AUDIO_FRAME_SAMPLES);
        let samples = u128::from(segment) * u128::from(self.segment_seconds.num) * u128::from(self.rate_hz);
        // From the start each time, not from the segment before: rounding must not add up along a long file.
        let nearest = (2 * samples + scale) / (2 * scale);
        u64::try_from(nearest).unwrap_or(u64::MAX).min(self.frames)
    }

    /// Segments that hold at least one AAC frame. A video segment shorter than half an AAC frame at the very end
    /// has no audio segment of its own.
    #[must_use]
    pub fn segment_count(self) -> u32 {
        let scale = u128::from(self.segment_seconds.num) * u128::from(self.rate_hz);
        let samples =
            u128::from(self.frames) * u128::from(AUDIO_FRAME_SAMPLES) * u128::from(self.segment_seconds.den);
        let mut count = u32::try_from(samples.div_ceil(scale)).unwrap_or(u32::MAX);
        while count > 0 && self.first_frame(count - 1) >= self.frames {
            count -= 1;
        }
        while self.first_frame(count) < self.frames {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timescale_keeps_whole_ticks_per_frame() {
        let check = |rate: (u32, u32), expected: (u32, u32)| {
            let grid = VideoGrid::new(MediaRatio::new(rate.0, rate.1)).unwrap();
            assert_eq!((grid.timescale, grid.frame_ticks), expected, "{rate:?}");
        };
        check((25, 1), (12_800, 512));
        check((30_000, 1001), (30_000, 1001));
        check((1, 1), (16_384, 16_384));
        assert_eq!(VideoGrid::new(MediaRatio::new(0, 1)), None);
        assert_eq!(VideoGrid::new(MediaRatio::new(25, 0)), None);
    }

    #[test]
    fn audio_segments_cover_every_frame_once() {
        for (segment, samples) in [
            (MediaRatio::new(6, 1), 48_000 * 60),
            (MediaRatio::new(6006, 1000), 48_000 * 61 + 7),
            (MediaRatio::new(2, 1), 1),
            (MediaRatio::new(2, 1), 96_000),
            (MediaRatio::new(2, 1), 96_001),
            (MediaRatio::new(1, 100), 4_800),
        ] {
            let grid = AudioGrid::new(segment, samples).unwrap();
            let count = grid.segment_count();
            assert_eq!(grid.first_frame(0), 0);
            assert_eq!(grid.first_frame(count), grid.frame_count(), "{segment:?} {samples}");
            assert!(grid.first_frame(count - 1) < grid.frame_count(), "{segment:?} {samples}");
        }
    }

    #[test]
    fn audio_boundary_is_the_nearest_frame() {
        let grid = AudioGrid::new(MediaRatio::new(6, 1), 48_000 * 60).unwrap();
        // 6 s are 281.25 AAC frames, 12 s are 562.5, which rounds up.
        assert_eq!((grid.first_frame(1), grid.first_frame(2)), (281, 563));
    }
}
