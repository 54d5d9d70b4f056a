//! Figures of one track, gathered packet by packet without decoding.
//!
//! Limits: 32 timestamps wait to be put in order, 20,000 different frame distances are counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use ffmpeg_next::{Rational, Rescale};

/// Frames that may be stored out of presentation order; codecs allow 16.
const REORDER_MAX: usize = 32;

/// Distances are counted in steps of this many microseconds.
const STEP_US: u64 = 100;

/// Different distances that are counted; others only move the extremes.
const STEPS_MAX: usize = 20_000;

/// What containers with millisecond timestamps may be off by.
const ROUNDING_US: i64 = 1_000;

/// A packet of sound that is later than its neighbours by less than this jitters; by more, there is a gap before it.
const GAP_US: i64 = 100_000;

/// Packets of sound by which the usual time stamps at the end are known.
const JITTER_PACKETS: usize = 32;

/// Microseconds.
const MICROS: Rational = Rational(1, 1_000_000);

/// What one packet says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PacketSummary {
    pub(crate) pts: Option<i64>,
    pub(crate) duration: i64,
    pub(crate) size_bytes: usize,
    pub(crate) is_key: bool,
    pub(crate) is_corrupt: bool,
    pub(crate) is_encrypted: bool,
    /// Samples at the beginning of the packet that are not to be played.
    pub(crate) skip_samples: u32,
}

/// What is known of a track so far.
#[derive(Debug)]
pub(crate) struct TrackStatistics {
    pub(crate) time_base: Rational,
    sample_rate_hz: u32,
    run_in_samples: u32,
    pub(crate) packets: u64,
    pub(crate) keys: u64,
    pub(crate) size_bytes: u64,
    pub(crate) start_us: Option<i64>,
    last_us: i64,
    end_us: Option<i64>,
    /// Samples of every packet; 0 where they differ.
    packet_samples: u32,
    /// How much later than the count of samples the last packets end by their time stamps, in microseconds.
    late_us: VecDeque<i64>,
    pub(crate) is_last_corrupt: bool,
    pub(crate) is_encrypted: bool,
    pub(crate) intervals: FrameIntervals,
}

impl TrackStatistics {
    pub(crate) fn new(
        time_base: Rational,
        sample_rate_hz: u32,
        run_in_samples: u32,
        packet_samples: u32,
    ) -> Self {
        Self {
            time_base,
            sample_rate_hz,
            run_in_samples,
            packets: 0,
            keys: 0,
            size_bytes: 0,
            start_us: None,
            last_us: i64::MIN,
            end_us: None,
            packet_samples,
            late_us: VecDeque::with_capacity(JITTER_PACKETS),
            is_last_corrupt: false,
            is_encrypted: false,
            intervals: FrameIntervals::default(),
        }
    }

    /// Takes the next packet of the track.
    pub(crate) fn add_packet(&mut self, seen: PacketSummary) {
        self.packets += 1;
        self.keys += u64::from(seen.is_key);
        self.size_bytes = self.size_bytes.saturating_add(u64::try_from(seen.size_bytes).unwrap_or(0));
        self.is_last_corrupt = seen.is_corrupt;
        self.is_encrypted |= seen.is_encrypted;
        let Some(pts) = seen.pts else { return };
        let at_us = pts.rescale(self.time_base, MICROS);
        let audible_us = self.audible_start_us(at_us, seen.skip_samples);
        self.start_us = Some(self.start_us.map_or(audible_us, |start| start.min(audible_us)));
        self.last_us = self.last_us.max(at_us);
        let end_us = at_us.saturating_add(seen.duration.max(0).rescale(self.time_base, MICROS));
        self.end_us = Some(self.end_us.map_or(end_us, |end| end.max(end_us)));
        self.intervals.add_timestamp(at_us);
        if self.packet_samples > 0 {
            if self.late_us.len() == JITTER_PACKETS {
                self.late_us.pop_front();
            }
            self.late_us.push_back(end_us.saturating_sub(self.counted_us()));
        }
    }

    /// How long all packets so far last by their samples, in microseconds.
    fn counted_us(&self) -> i64 {
        let samples = u128::from(self.packets) * u128::from(self.packet_samples);
        i64::try_from(samples * 1_000_000 / u128::from(self.sample_rate_hz.max(1))).unwrap_or(i64::MAX)
    }

    /// Where sound ends by most of its last time stamps; the very last alone may be one that jitters.
    fn usual_end_us(&self) -> Option<i64> {
        let mut late: Vec<i64> = self.late_us.iter().copied().collect();
        late.sort_unstable();
        late.get(late.len() / 2).map(|usual| usual.saturating_add(self.counted_us()))
    }

    /// When the first sample of a packet is audible. Some containers put an encoder's run-in before time 0 and leave it
    /// to the decoder to drop it; they round to milliseconds while doing so.
    fn audible_start_us(&self, at_us: i64, skip_samples: u32) -> i64 {
        let is_run_in = skip_samples == 0 && self.packets == 1 && at_us < 0;
        let skip_samples = if is_run_in { self.run_in_samples } else { skip_samples };
        let skip_us = match self.sample_rate_hz {
            0 => 0,
            rate => i64::from(skip_samples) * 1_000_000 / i64::from(rate),
        };
        let audible_us = at_us.saturating_add(skip_us);
        if skip_us > 0 && audible_us.abs() < ROUNDING_US { 0 } else { audible_us }
    }

    /// Puts the rest in order; nothing is added afterwards.
    pub(crate) fn finish(&mut self) {
        self.intervals.finish();
    }

    /// End of the last sample. Where the container gives the last one no duration it lasts as long as usual.
    pub(crate) fn end_us(&self) -> Option<i64> {
        let end = self.end_us?;
        let usual = i64::try_from(self.intervals.median_us()).unwrap_or(0);
        // Only time stamps that are later than the others by less than a gap jitter; nothing is cut for less than they are rounded.
        let jitters = |usual_end: &i64| (2 * ROUNDING_US..GAP_US).contains(&end.saturating_sub(*usual_end));
        if let Some(usual_end) = self.usual_end_us().filter(jitters) {
            return Some(usual_end);
        }
        Some(if end == self.last_us { end.saturating_add(usual) } else { end })
    }
}

/// Distances of about the same length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IntervalSum {
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
}

impl IntervalSum {
    fn add(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum_us: self.sum_us.saturating_add(other.sum_us),
        }
    }

    pub(crate) fn mean_us(self) -> f64 {
        self.sum_us as f64 / self.count.max(1) as f64
    }
}

/// Distances between neighbours in presentation order.
#[derive(Debug, Default)]
pub(crate) struct FrameIntervals {
    waiting: BinaryHeap<Reverse<i64>>,
    last: Option<i64>,
    steps: BTreeMap<u64, IntervalSum>,
    total: u64,
    pub(crate) shortest_us: u64,
    pub(crate) longest_us: u64,
}

impl FrameIntervals {
    fn add_timestamp(&mut self, at_us: i64) {
        self.waiting.push(Reverse(at_us));
        if self.waiting.len() > REORDER_MAX {
            self.take_earliest();
        }
    }

    fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.take_earliest();
        }
    }

    fn take_earliest(&mut self) {
        let Some(Reverse(at)) = self.waiting.pop() else { return };
        let Some(last) = self.last.replace(at) else { return };
        let Ok(distance) = u64::try_from(at.saturating_sub(last)) else { return };
        self.shortest_us = if self.total == 0 { distance } else { self.shortest_us.min(distance) };
        self.longest_us = self.longest_us.max(distance);
        self.total += 1;
        let step = (distance + STEP_US / 2) / STEP_US;
        if self.steps.len() < STEPS_MAX || self.steps.contains_key(&step) {
            let sum = self.steps.entry(step).or_default();
            *sum = sum.add(IntervalSum { count: 1, sum_us: distance });
        }
    }

    /// The median distance; 0 with fewer than two frames.
    pub(crate) fn median_us(&self) -> u64 {
        self.find_position_us(self.counted().div_ceil(2))
    }

    /// The distance than which one in ten is not longer, repeated time stamps left aside; 0 with fewer than two frames.
    pub(crate) fn low_decile_us(&self) -> u64 {
        let repeated = self.steps.get(&0).map_or(0, |sum| sum.count);
        let counted = self.counted() - repeated;
        self.find_position_us(repeated + counted.div_ceil(10))
    }

    /// The distances from `low_us` to `high_us`.
    pub(crate) fn summarize(&self, low_us: f64, high_us: f64) -> IntervalSum {
        let is_meant = |step: u64| (low_us..=high_us).contains(&((step * STEP_US) as f64));
        let meant = self.steps.iter().filter(|(step, _)| is_meant(**step));
        meant.fold(IntervalSum::default(), |all, (_, sum)| all.add(*sum))
    }

    /// The most frequent distance and those that are `ratio` times as long, or as short, whichever are more; the shorter first.
    pub(crate) fn nearest_pair(&self, ratio: f64) -> (IntervalSum, IntervalSum) {
        let most = self.steps.iter().max_by_key(|(_, sum)| sum.count).map_or(0, |(step, _)| step * STEP_US);
        let about = |us: f64| self.summarize(us * 0.93, us * 1.07);
        let (own, shorter, longer) =
            (about(most as f64), about(most as f64 / ratio), about(most as f64 * ratio));
        if shorter.count > longer.count { (shorter, own) } else { (own, longer) }
    }

    fn counted(&self) -> u64 {
        self.steps.values().map(|sum| sum.count).sum()
    }

    /// The distance at a place of the sorted list, from 1.
    fn find_position_us(&self, position: u64) -> u64 {
        let mut passed = 0;
        for (step, sum) in &self.steps {
            passed += sum.count;
            if passed >= position.max(1) {
                return step * STEP_US;
            }
        }
        0
    }

    /// Whether more than one distance in fifty is off the usual one by more than a fifth.
    pub(crate) fn is_variable(&self) -> bool {
        let usual = self.median_us();
        let is_off = |step: u64| (step * STEP_US).abs_diff(usual) * 5 > usual;
        let off: u64 = self.steps.iter().filter(|(step, _)| is_off(**step)).map(|(_, sum)| sum.count).sum();
        off * 50 > self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(timestamps: &[i64]) -> TrackStatistics {
        let mut tally = TrackStatistics::new(Rational(1, 1000), 0, 0, 0);
        for pts in timestamps {
            let seen = PacketSummary {
                pts: Some(*pts),
                duration: 0,
                size_bytes: 10,
                is_key: *pts == 0,
                is_corrupt: false,
                is_encrypted: false,
                skip_samples: 0,
            };
            tally.add_packet(seen);
        }
        tally.finish();
        tally
    }

    #[test]
    fn order_of_storage_does_not_matter() {
        let stored = tally(&[0, 120, 40, 80, 240, 160, 200]);
        assert_eq!(stored.intervals.median_us(), 40_000);
        assert_eq!((stored.intervals.shortest_us, stored.intervals.longest_us), (40_000, 40_000));
        assert_eq!((stored.start_us, stored.end_us()), (Some(0), Some(280_000)));
        assert!(!stored.intervals.is_variable());
    }

    #[test]
    fn uneven_frames_are_variable_and_rounded_ones_are_not() {
        let rounded: Vec<i64> = (0..300).map(|n| (n * 1001 + 15) / 30).collect();
        assert!(!tally(&rounded).intervals.is_variable());
        let uneven: Vec<i64> = (0..300).map(|n| n * 40 + if n % 3 == 0 { 20 } else { 0 }).collect();
        assert!(tally(&uneven).intervals.is_variable());
        assert!(!tally(&[5]).intervals.is_variable());
    }
}
