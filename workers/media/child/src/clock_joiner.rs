//! Finds where the clock of a file jumps, and joins what comes behind to what was before.
//!
//! A recording that was joined of several, or a stream that was started again, has time stamps that begin anew. As FFmpeg's
//! `dts_delta_threshold` does, a jump of more than ten seconds, or backwards, is a joint: what follows is moved so that it goes on
//! where the track was. Time stamps are moved by the place of the packet in the file, so that every reader moves them alike.
//!
//! Limits: [`media::CLOCK_MARKS_MAX`] marks, of which half may be joints.

use media::{CLOCK_MARKS_MAX, ClockMap, ClockMark};

/// A gap of more than this is a jump of the clock: ten seconds.
const GAP_US_MAX: i64 = 10_000_000;

/// Time stamps go back by less than this where tracks are interleaved badly: 100 ms.
const BACK_US_MAX: i64 = 100_000;

/// Tracks of a recording begin and end, and are interleaved, by at most this much apart: a second.
const TRACKS_APART_US_MAX: i64 = 1_000_000;

/// Most joints of one file.
const JOINTS_MAX: usize = CLOCK_MARKS_MAX / 2;

/// Places at which reading may begin are first taken at this distance; when there are too many, every second one goes.
const ANCHOR_US: i64 = 10_000_000;

/// A packet as the joiner sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedPacket {
    pub(crate) stream: usize,
    /// First byte in the file; packets that don't know it lie where the one before does.
    pub(crate) position_bytes: Option<u64>,
    /// Decoding time on the file's own clock, in microseconds.
    pub(crate) at_us: i64,
    pub(crate) duration_us: i64,
    pub(crate) is_key: bool,
}

/// Where a track goes on, and behind how many joints that was seen.
#[derive(Debug, Clone, Copy)]
struct TrackEnd {
    joints: usize,
    end_us: i64,
}

/// More joints than a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyJoints;

/// Follows the packets of a file in order.
#[derive(Debug)]
pub(crate) struct ClockJoiner {
    /// The track by which the joints are made exact: pictures are counted, sound can be stretched.
    main: Option<usize>,
    joints: ClockMap,
    anchors: Vec<ClockMark>,
    anchor_us: i64,
    ends: Vec<Option<TrackEnd>>,
    /// The last joint that the main track has not reached yet.
    unsettled: Option<usize>,
    position_bytes: u64,
}

impl ClockJoiner {
    pub(crate) fn new(tracks: usize, main: Option<usize>) -> Self {
        Self {
            main,
            joints: ClockMap::default(),
            anchors: Vec::new(),
            anchor_us: ANCHOR_US,
            ends: vec![None; tracks],
            unsettled: None,
            position_bytes: 0,
        }
    }

    /// What is added to the time stamps of the next packet, in microseconds.
    pub(crate) fn join_packet(&mut self, packet: PlacedPacket) -> Result<i64, TooManyJoints> {
        self.position_bytes = packet.position_bytes.unwrap_or(self.position_bytes);
        let mut joints = self.joints.0.partition_point(|mark| mark.position_bytes <= self.position_bytes);
        if !self.goes_on(packet, joints) {
            if joints < self.joints.0.len() && self.goes_on(packet, self.joints.0.len()) {
                // It lies before the packet that showed the joint: packets of several tracks end in another order than they begin.
                joints = self.joints.0.len();
                if let Some(mark) = self.joints.0.last_mut() {
                    mark.position_bytes = self.position_bytes;
                }
            } else {
                joints = self.add_joint(packet)?;
            }
        }
        self.settle_joint(packet, joints);
        let offset_us = self.offset_us(joints);
        let at_us = packet.at_us.saturating_add(offset_us);
        let end_us = at_us.saturating_add(packet.duration_us.max(0));
        if let Some(end) = self.ends.get_mut(packet.stream) {
            *end = Some(TrackEnd { joints, end_us });
        }
        self.add_anchor(packet, offset_us);
        Ok(offset_us)
    }

    /// The map of the file and how many joints it has; empty when its clock runs on.
    pub(crate) fn finish(mut self) -> (ClockMap, usize) {
        // What was settled to the offset of before is none.
        let mut offset_us = 0;
        self.joints.0.retain(|mark| std::mem::replace(&mut offset_us, mark.offset_us) != mark.offset_us);
        if self.joints.is_empty() {
            return (ClockMap::default(), 0);
        }
        let mut marks = self.anchors;
        // By their place only: the offset of an anchor is that of the joint before it, as it was settled later.
        for mark in &mut marks {
            let offset_us = self.joints.offset_us(mark.position_bytes);
            mark.at_us = mark.at_us.saturating_sub(mark.offset_us).saturating_add(offset_us);
            mark.offset_us = offset_us;
        }
        let joints = self.joints.0.len();
        marks.extend(self.joints.0);
        marks.sort_by_key(|mark| mark.position_bytes);
        marks.dedup_by_key(|mark| mark.position_bytes);
        (ClockMap(marks), joints)
    }

    fn end_of(&self, stream: usize) -> Option<TrackEnd> {
        self.ends.get(stream).copied().flatten()
    }

    fn offset_us(&self, joints: usize) -> i64 {
        joints.checked_sub(1).and_then(|last| self.joints.0.get(last)).map_or(0, |mark| mark.offset_us)
    }

    /// Whether a packet goes on where its track was, when it is read behind so many joints.
    fn goes_on(&self, packet: PlacedPacket, joints: usize) -> bool {
        let at_us = packet.at_us.saturating_add(self.offset_us(joints));
        let is_near = |end_us: i64, back_us: i64| {
            (end_us.saturating_sub(back_us)..=end_us.saturating_add(GAP_US_MAX)).contains(&at_us)
        };
        match self.end_of(packet.stream) {
            // The first packet of a track, or one that comes late from before a joint.
            None => true,
            Some(end) if end.joints > joints => true,
            Some(end) if end.joints == joints => {
                // Silent for long while another track went on: a pause and no jump.
                let others = self.ends.iter().enumerate().filter(|(stream, _)| *stream != packet.stream);
                let others = others.filter_map(|(_, end)| end.filter(|end| end.joints == joints));
                let others_us = others.map(|end| end.end_us).max();
                let is_pause = at_us > end.end_us
                    && others_us.is_some_and(|other_us| is_near(other_us, TRACKS_APART_US_MAX));
                is_pause || is_near(end.end_us, BACK_US_MAX)
            }
            Some(end) => is_near(end.end_us, TRACKS_APART_US_MAX),
        }
    }

    fn add_joint(&mut self, packet: PlacedPacket) -> Result<usize, TooManyJoints> {
        if self.joints.0.len() >= JOINTS_MAX {
            return Err(TooManyJoints);
        }
        let own = self.end_of(packet.stream);
        let all = self.ends.iter().flatten().map(|end| end.end_us).max();
        let at_us =
            if Some(packet.stream) == self.main { own.map(|end| end.end_us) } else { all }.unwrap_or(0);
        let last = self.joints.0.last().map_or(0, |mark| mark.position_bytes + 1);
        self.joints.0.push(ClockMark {
            position_bytes: self.position_bytes.max(last),
            offset_us: at_us.saturating_sub(packet.at_us),
            at_us,
        });
        self.unsettled = Some(self.joints.0.len());
        Ok(self.joints.0.len())
    }

    /// Makes the last joint exact once the main track reaches it.
    fn settle_joint(&mut self, packet: PlacedPacket, joints: usize) {
        if self.unsettled != Some(joints) || Some(packet.stream) != self.main {
            return;
        }
        self.unsettled = None;
        let Some(end) = self.end_of(packet.stream) else { return };
        if let Some(mark) = joints.checked_sub(1).and_then(|last| self.joints.0.get_mut(last)) {
            let shift_us = end.end_us.saturating_sub(packet.at_us.saturating_add(mark.offset_us));
            // More is a beginning at another time, not another place in the same moment.
            if shift_us.unsigned_abs() < TRACKS_APART_US_MAX.unsigned_abs() {
                mark.offset_us = mark.offset_us.saturating_add(shift_us);
                mark.at_us = mark.at_us.saturating_add(shift_us);
            }
        }
    }

    /// Takes note of a place at which reading may begin.
    fn add_anchor(&mut self, packet: PlacedPacket, offset_us: i64) {
        if !packet.is_key
            || packet.position_bytes.is_none()
            || self.main.is_some_and(|main| main != packet.stream)
        {
            return;
        }
        let at_us = packet.at_us.saturating_add(offset_us);
        let last = self.anchors.last();
        let is_due = last.is_none_or(|last| {
            at_us.saturating_sub(last.at_us) >= self.anchor_us && self.position_bytes > last.position_bytes
        });
        if !is_due {
            return;
        }
        self.anchors.push(ClockMark { position_bytes: self.position_bytes, offset_us, at_us });
        if self.anchors.len() >= CLOCK_MARKS_MAX - JOINTS_MAX {
            let mut kept = false;
            self.anchors.retain(|_| {
                kept = !kept;
                kept
            });
            self.anchor_us = self.anchor_us.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(stream: usize, position: u64, at_ms: i64) -> PlacedPacket {
        PlacedPacket {
            stream,
            position_bytes: Some(position),
            at_us: at_ms * 1_000,
            duration_us: 40_000,
            is_key: true,
        }
    }

    fn join(packets: &[PlacedPacket]) -> (Vec<i64>, ClockMap) {
        let mut joiner = ClockJoiner::new(2, Some(0));
        let offsets = packets.iter().map(|packet| joiner.join_packet(*packet).unwrap() / 1_000).collect();
        (offsets, joiner.finish().0)
    }

    #[test]
    fn a_clock_that_runs_on_is_left_alone() {
        // Reordering, a pause of nine seconds, tracks that are interleaved badly.
        let (offsets, map) = join(&[
            packet(0, 0, 0),
            packet(1, 10, 0),
            packet(0, 20, 40),
            packet(1, 30, 300),
            packet(0, 40, 80),
            packet(0, 50, 9_000),
            packet(1, 60, 9_000),
        ]);
        assert_eq!((offsets, map), (vec![0; 7], ClockMap::default()));
    }

    #[test]
    fn what_begins_anew_goes_on() {
        let (offsets, map) = join(&[
            packet(0, 0, 1_000),
            packet(1, 10, 1_000),
            packet(0, 20, 1_040),
            packet(1, 30, 1_040),
            // A second recording: its sound is seen first, though its picture lies before it.
            packet(1, 50, 480),
            packet(0, 40, 500),
            packet(0, 60, 540),
            packet(1, 70, 520),
        ]);
        // The picture goes on at 1080; the sound keeps its distance of 20 ms to it.
        assert_eq!(offsets, [0, 0, 0, 0, 600, 580, 580, 580]);
        assert_eq!((map.offset_us(39), map.offset_us(40)), (0, 580_000));
    }

    #[test]
    fn a_track_that_pauses_while_another_goes_on_makes_no_joint() {
        // No picture for 13 s, the sound runs; then a third track that says something once in a while.
        let mut packets = vec![packet(0, 0, 0), packet(1, 1, 0)];
        packets.extend((1..330).map(|n| packet(1, u64::try_from(n).unwrap() + 1, n * 40)));
        packets.extend([packet(0, 400, 13_200), packet(1, 401, 13_200), packet(0, 402, 13_240)]);
        let (offsets, map) = join(&packets);
        assert!(offsets.iter().all(|offset| *offset == 0) && map.is_empty(), "{map:?}");
    }

    #[test]
    fn a_jump_of_an_hour_is_no_hour() {
        let (offsets, map) =
            join(&[packet(0, 0, 0), packet(0, 10, 40), packet(0, 20, 3_600_000), packet(0, 30, 3_600_040)]);
        assert_eq!(offsets, [0, 0, -3_599_920, -3_599_920]);
        assert_eq!(map.start_bytes(100_000), Some(20));
    }

    #[test]
    fn joints_and_places_are_bounded() {
        let mut joiner = ClockJoiner::new(1, Some(0));
        for n in 0..100_000_u64 {
            let at_ms = i64::try_from(n).unwrap() * 5_000;
            joiner.join_packet(packet(0, n, at_ms)).unwrap();
        }
        assert!(joiner.anchors.len() < CLOCK_MARKS_MAX - JOINTS_MAX);
        let mut joiner = ClockJoiner::new(1, Some(0));
        let jumps = (0..1_000_u64)
            .find(|n| joiner.join_packet(packet(0, *n, -i64::try_from(*n).unwrap() * 1_000)).is_err());
        assert_eq!(jumps, Some(257));
    }
}
