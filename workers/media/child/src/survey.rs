//! Says where the samples of a file lie, so that they can be copied as they are: a scan of its packets without decoding.
//!
//! Limits: those of a probe, `KEY_FRAMES_MAX` keyframes; frames wait to be put in order, at most `DELAY_FRAMES_MAX` of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use ffmpeg_next::{Error as LibError, Packet, Rational, Stream, packet};
use media::{
    DELAY_FRAMES_MAX, FrameFault, FrameIndex, KEY_FRAMES_MAX, MediaErrorCode, MediaProbe, MediaRatio,
    MediaSurvey, SoundIndex,
};

use crate::error::{MediaChildError, MediaChildResult, is_out_of_memory, source_refused_error};
use crate::ffi;
use crate::input;
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::probe;

/// Runs the task.
pub(crate) fn survey_source(wire: &Arc<ParentPipe>, job: &ChildJob) -> MediaChildResult<MediaSurvey> {
    let probe = probe::probe_source(wire, job)?;
    let mut opened = input::open_source(wire, job)?;
    let time_base = |index: u32| opened.input.stream(usize::try_from(index).unwrap_or(usize::MAX));
    let mut frames = probe.best_video().and_then(|stream| {
        let rate = stream.video.as_ref()?.average_frame_rate;
        Some(FrameScan::new(&time_base(stream.index)?, stream.index, rate))
    });
    let mut sound = find_sound(&probe).and_then(|(stream, rate_hz)| {
        let track = time_base(stream)?;
        let packet_samples = ffi::read_parameters(&track).packet_samples;
        Some(SoundScan::new(stream, track.time_base(), rate_hz, packet_samples))
    });
    // The probe has reported steps of its own, and they only grow.
    let mut steps = wire.last_step();
    loop {
        let mut packet = Packet::empty();
        match packet.read(&mut opened.input) {
            Ok(()) => {}
            Err(LibError::Eof) => break,
            Err(error) if is_out_of_memory(error) => {
                return Err(MediaChildError::Failed("read a packet: out of memory".into()));
            }
            // What is copied has to be whole.
            Err(error) => {
                return Err(source_refused_error(
                    MediaErrorCode::MediaCorrupt,
                    format!("read a packet: {error}"),
                ));
            }
        }
        let stream = u32::try_from(packet.stream()).unwrap_or(u32::MAX);
        if let Some(scan) = frames.as_mut().filter(|scan| scan.index.stream == stream) {
            scan.add_packet(&packet);
        }
        if let Some(scan) = sound.as_mut().filter(|scan| scan.index.stream == stream) {
            scan.add_packet(&packet);
        }
        steps += 1;
        wire.send_heartbeat(steps)?;
    }
    let frames = frames.map(FrameScan::finish);
    Ok(MediaSurvey { probe, frames, sound: sound.map(|scan| scan.index) })
}

/// Index and sample rate of the first track of sound.
fn find_sound(probe: &MediaProbe) -> Option<(u32, u32)> {
    let stream = *probe.audio_streams().first()?;
    Some((stream.index, stream.audio.as_ref()?.sample_rate_hz))
}

fn to_ratio(time_base: Rational) -> MediaRatio {
    let term = |term: i32| u32::try_from(term).unwrap_or(0);
    MediaRatio::new(term(time_base.0), term(time_base.1))
}

/// The number of the frame that is shown at a time, counted from the first one; the flag says that it is shown exactly then, apart
/// from what the ticks of the track round.
pub(crate) fn frame_number(ticks: i64, time_base: Rational, rate: MediaRatio) -> (i64, bool) {
    let num = i128::from(ticks) * i128::from(time_base.0) * i128::from(rate.num);
    let den = i128::from(time_base.1.max(1)) * i128::from(rate.den.max(1));
    let number = (2 * num + den).div_euclid(2 * den);
    let off = (num - number * den).abs();
    (i64::try_from(number).unwrap_or(i64::MAX), off * 4 <= den)
}

/// The frames of a track so far.
struct FrameScan {
    index: FrameIndex,
    time_base: Rational,
    /// None where NAL units are not looked at.
    nal_length_bytes: Option<usize>,
    /// Numbers that are shown next, not yet in order.
    waiting: BinaryHeap<Reverse<i64>>,
    next_number: i64,
}

impl FrameScan {
    fn new(track: &Stream<'_>, stream: u32, frame_rate: MediaRatio) -> Self {
        let time_base = track.time_base();
        let index = FrameIndex {
            stream,
            first_ticks: 0,
            tick: to_ratio(time_base),
            frame_rate,
            frame_count: 0,
            key_frames: Vec::new(),
            delay_frames: 0,
            fault: (!frame_rate.is_usable()).then_some(FrameFault::Irregular { at_ms: 0 }),
        };
        let nal_length_bytes = ffi::read_nal_length_bytes(track);
        Self { index, time_base, nal_length_bytes, waiting: BinaryHeap::new(), next_number: 0 }
    }

    fn add_packet(&mut self, packet: &Packet) {
        if self.index.fault.is_some() {
            return;
        }
        if ffi::is_discarded(packet) {
            return self.note_fault(FrameFault::Hidden);
        }
        let changes = |kind| packet.side_data().any(|data| data.kind() == kind);
        if changes(packet::side_data::Type::NewExtraData) || changes(packet::side_data::Type::ParamChange) {
            return self.note_fault(FrameFault::Changing);
        }
        let Some(pts) = packet.pts() else { return self.note_fault(FrameFault::Irregular { at_ms: 0 }) };
        if self.index.frame_count == 0 {
            if !packet.is_key() {
                return self.note_fault(FrameFault::Keyframes);
            }
            self.index.first_ticks = pts;
        }
        let place = pts.saturating_sub(self.index.first_ticks);
        let (number, is_exact) = frame_number(place, self.time_base, self.index.frame_rate);
        if !is_exact || number < 0 {
            return self.note_irregular(number);
        }
        let decoded = i64::try_from(self.index.frame_count).unwrap_or(i64::MAX);
        let delay = u32::try_from(decoded.saturating_sub(number)).unwrap_or(0);
        self.index.delay_frames = self.index.delay_frames.max(delay);
        if delay > DELAY_FRAMES_MAX {
            return self.note_irregular(number);
        }
        let units = NalUnits::of(packet.data().unwrap_or_default(), self.nal_length_bytes);
        if units.has_parameters {
            return self.note_fault(FrameFault::ParameterSets);
        }
        if packet.is_key() && units.has_slices && !units.has_idr {
            return self.note_fault(FrameFault::OpenGroups { at_ms: self.to_ms(number) });
        }
        self.index.frame_count += 1;
        if packet.is_key() {
            match u32::try_from(number) {
                Ok(number)
                    if self.index.key_frames.len() < KEY_FRAMES_MAX
                        && self.index.key_frames.last().is_none_or(|last| *last < number) =>
                {
                    self.index.key_frames.push(number);
                }
                _ => return self.note_fault(FrameFault::Keyframes),
            }
        }
        self.waiting.push(Reverse(number));
        if self.waiting.len() > usize::try_from(DELAY_FRAMES_MAX).unwrap_or(usize::MAX) {
            self.take_next();
        }
    }

    /// Takes the earliest that waits: no number is missing, and none comes twice.
    fn take_next(&mut self) {
        let Some(Reverse(number)) = self.waiting.pop() else { return };
        if number == self.next_number {
            self.next_number += 1;
        } else if self.index.fault.is_none() {
            self.note_irregular(self.next_number.min(number));
        }
    }

    fn finish(mut self) -> FrameIndex {
        while !self.waiting.is_empty() {
            self.take_next();
        }
        self.index
    }

    /// When a frame is shown, in milliseconds.
    fn to_ms(&self, number: i64) -> u64 {
        let rate = self.index.frame_rate;
        let ms = i128::from(number.max(0)) * i128::from(rate.den) * 1_000 / i128::from(rate.num.max(1));
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    fn note_irregular(&mut self, number: i64) {
        self.note_fault(FrameFault::Irregular { at_ms: self.to_ms(number) });
    }

    fn note_fault(&mut self, fault: FrameFault) {
        self.index.fault.get_or_insert(fault);
    }
}

/// What NAL units an H.264 sample holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct NalUnits {
    /// Sets of parameters of sequences or pictures.
    has_parameters: bool,
    /// Slices of pictures of any kind.
    has_slices: bool,
    /// Slices of a picture that forgets all before it.
    has_idr: bool,
}

impl NalUnits {
    /// Looks at a sample whose units stand behind lengths of so many bytes; what is cut off is not looked at. Types as in ITU-T H.264,
    /// table 7-1.
    fn of(mut bytes: &[u8], length_bytes: Option<usize>) -> Self {
        let mut found = Self::default();
        let Some(length_bytes) = length_bytes else { return found };
        while let Some((length, rest)) = bytes.split_at_checked(length_bytes) {
            let length = length.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
            let Some((unit, behind)) = rest.split_at_checked(length) else { break };
            match unit.first().map(|header| header & 0x1f) {
                Some(1..=4) => found.has_slices = true,
                Some(5) => (found.has_slices, found.has_idr) = (true, true),
                Some(7 | 8) => found.has_parameters = true,
                _ => {}
            }
            bytes = behind;
        }
        found
    }
}

/// The packets of a track of sound so far.
struct SoundScan {
    index: SoundIndex,
    time_base: Rational,
}

impl SoundScan {
    fn new(stream: u32, time_base: Rational, sample_rate_hz: u32, packet_samples: u32) -> Self {
        let index = SoundIndex {
            stream,
            first_ticks: 0,
            tick: to_ratio(time_base),
            sample_rate_hz,
            packet_samples,
            packet_count: 0,
            gap_at_ms: None,
        };
        Self { index, time_base }
    }

    fn add_packet(&mut self, packet: &Packet) {
        let Some(pts) = packet.pts() else { return };
        if self.index.packet_count == 0 {
            self.index.first_ticks = pts;
        }
        let packets_a_second = MediaRatio::new(self.index.sample_rate_hz, self.index.packet_samples.max(1));
        let place = pts.saturating_sub(self.index.first_ticks);
        let (number, _) = frame_number(place, self.time_base, packets_a_second);
        if u64::try_from(number).ok() != Some(self.index.packet_count) && self.index.gap_at_ms.is_none() {
            let seconds = f64::from(self.time_base) * (place as f64);
            self.index.gap_at_ms = Some(to_millis(seconds));
        }
        self.index.packet_count += 1;
    }
}

/// Seconds in whole milliseconds, at least 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is too large becomes the largest number"
)]
fn to_millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1_000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_sample_are_found() {
        let units = |has_parameters, has_slices, has_idr| NalUnits { has_parameters, has_slices, has_idr };
        for (bytes, length_bytes, wanted) in [
            (&[0, 0, 0, 2, 0x06, 0, 0, 0, 0, 1, 0x65][..], Some(4), units(false, true, true)),
            (&[0, 0, 0, 1, 0x41], Some(4), units(false, true, false)),
            (&[0, 1, 0x67, 0, 1, 0x68, 0, 1, 0x65], Some(2), units(true, true, true)),
            // Cut off, and of another codec.
            (&[0, 0, 0, 9, 0x65], Some(4), units(false, false, false)),
            (&[0, 0], Some(4), units(false, false, false)),
            (&[0, 0, 0, 1, 0x65], None, units(false, false, false)),
        ] {
            assert_eq!(NalUnits::of(bytes, length_bytes), wanted, "{bytes:x?}");
        }
    }

    #[test]
    fn frames_are_counted_by_their_rate() {
        let film = MediaRatio::new(30_000, 1_001);
        for (ticks, time_base, rate, wanted) in [
            (3_600, Rational(1, 90_000), MediaRatio::new(25, 1), (1, true)),
            (-3_600, Rational(1, 90_000), MediaRatio::new(25, 1), (-1, true)),
            (1_800, Rational(1, 90_000), MediaRatio::new(25, 1), (1, false)),
            // Containers with milliseconds round 33.37 to 33, and 66.73 to 67.
            (33, Rational(1, 1_000), film, (1, true)),
            (67, Rational(1, 1_000), film, (2, true)),
            (3_003, Rational(1, 90_000), film, (1, true)),
        ] {
            assert_eq!(frame_number(ticks, time_base, rate), wanted, "{ticks}");
        }
    }
}
