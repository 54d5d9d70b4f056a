//! Which source frame is shown at which place of the output grid: a pure function of the source timestamps, so that
//! ranges of one title agree at their joints however it is cut.

use ffmpeg_next::Rational;
use media::MediaRatio;

/// A source timestamp this much before the middle of an output frame still counts as past it, in 1/64 of a frame.
/// Containers round timestamps; without the slack, sources at twice the output rate would flicker between neighbours.
const SLACK: i128 = 1;

/// Places source timestamps on the output grid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameGrid {
    rate: MediaRatio,
    origin_us: i64,
    time_base: (i32, i32),
}

impl FrameGrid {
    /// The grid for timestamps in `time_base`, with output frame 0 at `origin_us`.
    pub(crate) fn new(rate: MediaRatio, origin_us: i64, time_base: Rational) -> Self {
        Self { rate, origin_us, time_base: (time_base.0, time_base.1) }
    }

    /// The output frame nearest to a timestamp; saturates far outside of any presentation.
    pub(crate) fn frame_index(&self, timestamp: i64) -> i64 {
        self.checked_index(timestamp).unwrap_or(if timestamp < 0 { i64::MIN } else { i64::MAX })
    }

    fn checked_index(&self, timestamp: i64) -> Option<i64> {
        let (num, den) = (i128::from(self.time_base.0), i128::from(self.time_base.1));
        let micros = i128::from(timestamp).checked_mul(num)?.checked_mul(1_000_000)?;
        let from_origin = micros.checked_sub(i128::from(self.origin_us).checked_mul(den)?)?;
        let scaled = from_origin.checked_mul(i128::from(self.rate.num))?.checked_mul(64)?;
        let unit = den.checked_mul(1_000_000)?.checked_mul(i128::from(self.rate.den))?;
        let rounded = scaled.checked_add(unit.checked_mul(32 + SLACK)?)?;
        let index = rounded.checked_div_euclid(unit.checked_mul(64)?)?;
        i64::try_from(index).ok()
    }

    /// When an output frame begins, in microseconds on the file's own clock.
    pub(crate) fn frame_start_us(&self, frame: u64) -> i64 {
        let span =
            u128::from(frame) * u128::from(self.rate.den) * 1_000_000 / u128::from(self.rate.num.max(1));
        self.origin_us.saturating_add(i64::try_from(span).unwrap_or(i64::MAX))
    }
}

/// A source frame and the output frames that show it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlacedFrame<F> {
    pub(crate) frame: F,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// Chooses, for a range of the output grid, the last source frame that is not after each output frame.
#[derive(Debug)]
pub(crate) struct FrameSelector<F> {
    start: i64,
    next: u64,
    end: u64,
    held: Option<(i64, F)>,
    is_shown: bool,
    pub(crate) repeated: u64,
    pub(crate) dropped: u64,
}

impl<F> FrameSelector<F> {
    /// For `count` output frames from `start`.
    pub(crate) fn new(start: u64, count: u32) -> Self {
        Self {
            start: i64::try_from(start).unwrap_or(i64::MAX),
            next: start,
            end: start.saturating_add(u64::from(count)),
            held: None,
            is_shown: false,
            repeated: 0,
            dropped: 0,
        }
    }

    /// Takes the next source frame in presentation order; gives the frame before it when its places are known.
    pub(crate) fn push(&mut self, index: i64, frame: F) -> Option<PlacedFrame<F>> {
        let Some((held_index, held)) = self.held.take() else {
            self.held = Some((index, frame));
            return None;
        };
        // Time that goes backwards in a damaged file must not undo what was shown.
        let index = index.max(held_index);
        self.held = Some((index, frame));
        let until = u64::try_from(index).unwrap_or(0).min(self.end);
        if until <= self.next {
            if held_index >= self.start {
                self.dropped += 1;
            }
            return None;
        }
        Some(self.place_frame(held, until))
    }

    /// After the last source frame: it fills what is left of the range.
    pub(crate) fn finish(&mut self) -> Option<PlacedFrame<F>> {
        let (_, held) = self.held.take()?;
        let until = self.end;
        (self.next < until).then(|| self.place_frame(held, until))
    }

    /// Whether all of the range is shown.
    pub(crate) fn is_full(&self) -> bool {
        self.next >= self.end
    }

    fn place_frame(&mut self, frame: F, until: u64) -> PlacedFrame<F> {
        let (first, count) = (self.next, until - self.next);
        self.next = until;
        self.is_shown = true;
        self.repeated += count - 1;
        PlacedFrame { frame, first, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(timestamps: &[i64], grid: FrameGrid, start: u64, count: u32) -> Vec<i64> {
        let mut selector = FrameSelector::new(start, count);
        let mut shown = Vec::new();
        let mut take = |show: Option<PlacedFrame<i64>>| {
            if let Some(show) = show {
                shown.extend(std::iter::repeat_n(show.frame, usize::try_from(show.count).unwrap()));
            }
        };
        for timestamp in timestamps {
            if selector.is_full() {
                break;
            }
            take(selector.push(grid.frame_index(*timestamp), *timestamp));
        }
        take(selector.finish());
        shown
    }

    fn check(timestamps: &[i64], rate: (u32, u32), expected: &[i64]) {
        let grid = FrameGrid::new(MediaRatio::new(rate.0, rate.1), timestamps[0] * 1000, Rational(1, 1000));
        let count = u32::try_from(expected.len()).unwrap();
        assert_eq!(select(timestamps, grid, 0, count), expected, "{timestamps:?} at {rate:?}");
    }

    #[test]
    fn frames_fall_on_the_nearest_place() {
        check(&[0, 40, 80, 120], (25, 1), &[0, 40, 80, 120]);
        // Rounded 30 fps timestamps.
        check(&[0, 33, 67, 100, 133], (30, 1), &[0, 33, 67, 100, 133]);
        // Half the rate takes every second frame, from times that are rounded either way.
        check(&[0, 17, 33, 50, 67, 83, 100, 117], (30, 1), &[0, 33, 67, 100]);
        check(&[0, 20, 40, 60, 80], (25, 1), &[0, 40, 80]);
        // Twice the rate shows each twice; the end repeats.
        check(&[0, 40], (50, 1), &[0, 0, 40, 40, 40]);
        // A gap repeats what came before.
        check(&[0, 40, 200], (25, 1), &[0, 40, 40, 40, 40, 200]);
        // A source that starts elsewhere than its clock.
        check(&[5000, 5040, 5080], (25, 1), &[5000, 5040, 5080]);
    }

    #[test]
    fn a_late_first_frame_fills_the_beginning() {
        let grid = FrameGrid::new(MediaRatio::new(25, 1), 0, Rational(1, 1000));
        assert_eq!(select(&[80, 120], grid, 0, 5), [80, 80, 80, 120, 120]);
    }

    #[test]
    fn any_split_shows_the_same_frames() {
        let mut timestamps = Vec::new();
        let (mut time, mut state) = (0_i64, 7_u64);
        for _ in 0..400 {
            timestamps.push(time);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            time += i64::try_from(state >> 58).unwrap() * 2;
        }
        for rate in [(25, 1), (30_000, 1001), (60, 1), (10, 1)] {
            let grid = FrameGrid::new(MediaRatio::new(rate.0, rate.1), 0, Rational(1, 1000));
            let whole = select(&timestamps, grid, 0, 300);
            for cut in [1, 7, 100, 299] {
                let mut parts = select(&timestamps, grid, 0, cut);
                parts.extend(select(&timestamps, grid, u64::from(cut), 300 - cut));
                assert_eq!(parts, whole, "{rate:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn absurd_timestamps_saturate() {
        let grid = FrameGrid::new(MediaRatio::new(60, 1), 0, Rational(i32::MAX, 1));
        assert_eq!(grid.frame_index(i64::MAX), i64::MAX);
        assert_eq!(grid.frame_index(i64::MIN), i64::MIN);
    }
}
