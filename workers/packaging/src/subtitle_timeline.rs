//! When the segments of subtitles begin and end.

use schemas::{
    job::{EncodePlan, StoredSegment},
    media::Rational,
};

use crate::plan;

/// The times of the segments of all subtitles of an encode: those of the picture; without one, multiples of the segment length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtitleTimeline {
    /// Ticks per second.
    pub timescale: u32,
    /// Start and duration of each segment in ticks.
    pub segments: Vec<(u64, u64)>,
}

impl SubtitleTimeline {
    /// The times by a plan.
    pub fn new(plan: &EncodePlan) -> Self {
        let (count, rate) = plan::presentation_length(plan);
        let one = Rational { num: 1, den: 1 };
        let segment = match (&plan.video, plan.audio.first()) {
            (Some(video), _) => Rational { num: video.segment_frames, den: 1 },
            // Seconds times samples a second.
            (None, Some(audio)) => Rational {
                num: audio.segment_seconds.num.saturating_mul(audio.sample_rate_hz),
                den: audio.segment_seconds.den,
            },
            (None, None) => one,
        };
        let boundary = |number: u64| {
            let units = u128::from(number) * u128::from(segment.num.max(1)) / u128::from(segment.den.max(1));
            u64::try_from(units).unwrap_or(u64::MAX).min(count)
        };
        let ticks = |units: u64| units.saturating_mul(u64::from(rate.den));
        let segments = (0_u64..)
            .map(|number| (boundary(number), boundary(number + 1)))
            .take_while(|(start, end)| start < end)
            .map(|(start, end)| (ticks(start), ticks(end - start)));
        Self { timescale: rate.num.max(1), segments: segments.collect() }
    }

    /// A time of it in microseconds, rounded down.
    pub fn ticks_to_us(&self, ticks: u64) -> u64 {
        let us = u128::from(ticks) * 1_000_000 / u128::from(self.timescale);
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    /// The length of all segments, in microseconds, rounded up.
    pub fn duration_us(&self) -> u64 {
        let ticks: u64 = self.segments.iter().map(|(_, duration)| duration).sum();
        let us = (u128::from(ticks) * 1_000_000).div_ceil(u128::from(self.timescale));
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    /// Whether stored segments are these.
    pub fn is_made_by(&self, stored: &[StoredSegment]) -> bool {
        stored
            .iter()
            .map(|segment| (segment.start_ticks, segment.duration_ticks))
            .eq(self.segments.iter().copied())
    }
}
