//! Reads the text of subtitle tracks, all in one pass over the file.
//!
//! Limits: [`CUES_MAX`] cues of [`CUE_TEXT_BYTES_MAX`] bytes, and [`CUES_BYTES_MAX`] of all; what is more is left out.

use std::sync::Arc;

use ffmpeg_next::{Error as LibError, Packet, Rational, Rescale, codec, decoder};
use media::protocol::{ChildMessage, MediaTaskReport};
use media::{CUE_TEXT_BYTES_MAX, CUES_BYTES_MAX, CUES_MAX, MediaErrorCode, SubtitleCue, SubtitlesSpec};

use crate::decode::BAD_PACKETS_MAX;
use crate::error::{
    LibraryErrorExt, MediaChildError, MediaChildResult, is_out_of_memory, source_refused_error,
};
use crate::ffi::{self, DecodedCue};
use crate::input::{self, CheckedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};

/// Cues in one message.
const CUES_A_MESSAGE: usize = 256;

/// How long a cue is shown of which nobody knows it, in microseconds; less when another one follows.
const UNKNOWN_LENGTH_US: i64 = 5_000_000;

/// Fields before the text of a dialogue event, as FFmpeg writes it: order, layer, style, name, three margins, effect.
const DIALOGUE_FIELDS: usize = 8;

/// Microseconds.
const MICROS: Rational = Rational(1, 1_000_000);

/// Runs the task.
pub(crate) fn read_subtitles(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &SubtitlesSpec,
) -> MediaChildResult<MediaTaskReport> {
    let mut opened = input::open_source(wire, job)?;
    let mut report = MediaTaskReport::default();
    let mut tracks = Vec::with_capacity(spec.streams.len());
    for (stream, position) in spec.streams.iter().zip(0_u16..) {
        match SubtitleReader::open(&opened, *stream, position, spec) {
            Ok(track) => tracks.push(track),
            // Without this one the others are shown all the same.
            Err(MediaChildError::Refused { code: MediaErrorCode::MediaUnsupportedCodec, .. }) => {
                report.decode_errors += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let indexes: Vec<usize> = tracks.iter().map(|track| track.stream).collect();
    ffi::discard_other_streams(&mut opened.input, &indexes);
    let mut room = CueRoom { cues: CUES_MAX, bytes: CUES_BYTES_MAX };
    let (mut steps, mut bad) = (0_u64, 0_u32);
    loop {
        // A fresh one each time: reading does not free what the packet held before.
        let mut packet = Packet::empty();
        match packet.read(&mut opened.input) {
            Ok(()) => bad = 0,
            Err(LibError::InvalidData) if bad < BAD_PACKETS_MAX => {
                bad += 1;
                continue;
            }
            Err(error) if is_out_of_memory(error) => {
                return Err(error).or_failed("read a packet");
            }
            // A source that breaks off is an end too: what was read of it is shown.
            Err(_) => break,
        }
        steps += 1;
        wire.send_heartbeat(steps)?;
        let Some(track) = tracks.iter_mut().find(|track| track.stream == packet.stream()) else { continue };
        report.decode_errors += u64::from(!track.take_packet(&packet)?);
        if track.cues.len() >= CUES_A_MESSAGE {
            report.frames_written += track.send_cues(wire, &mut room)?;
        }
    }
    for track in &mut tracks {
        track.take_packet(&Packet::empty())?;
        track.end_pending(None);
        report.frames_written += track.send_cues(wire, &mut room)?;
    }
    Ok(report)
}

/// One track on its way from packets to cues.
struct SubtitleReader {
    stream: usize,
    position: u16,
    decoder: decoder::Subtitle,
    time_base: Rational,
    timeline: CueTimeline,
    /// A cue whose end is known when the next one comes, by its start on the file's clock, in microseconds.
    pending: Vec<(i64, String)>,
    cues: Vec<SubtitleCue>,
}

/// Where times of the file are on the presentation's clock.
#[derive(Debug, Clone)]
struct CueTimeline {
    origin_us: i64,
    duration_us: u64,
    clock: media::ClockMap,
    /// Where the last packet that knew it began, in bytes.
    position_bytes: u64,
}

impl CueTimeline {
    /// A cue of the file's clock, as far as it lies in the presentation.
    fn place_cue(&self, start_us: i64, end_us: i64, text: String) -> Option<SubtitleCue> {
        let offset_us = self.clock.offset_us(self.position_bytes);
        let place = |at_us: i64| {
            let at_us = at_us.saturating_add(offset_us).saturating_sub(self.origin_us);
            u64::try_from(at_us).unwrap_or(0).min(self.duration_us)
        };
        let (start_us, end_us) = (place(start_us), place(end_us));
        (start_us < end_us).then_some(SubtitleCue { start_us, end_us, text })
    }
}

impl SubtitleReader {
    fn open(
        opened: &CheckedInput,
        stream: u32,
        position: u16,
        spec: &SubtitlesSpec,
    ) -> MediaChildResult<Self> {
        let index = usize::try_from(stream).unwrap_or(usize::MAX);
        let Some(track) = opened.input.stream(index) else {
            return Err(source_refused_error(
                MediaErrorCode::MediaSpecMismatch,
                format!("no stream {stream}"),
            ));
        };
        if !ffi::is_text_subtitle(&track) {
            let detail = format!("stream {stream} is no subtitle track of text");
            return Err(source_refused_error(MediaErrorCode::MediaSpecMismatch, detail));
        }
        let context = codec::Context::from_parameters(track.parameters()).or_failed("make a decoder")?;
        let time_base = track.time_base();
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(time_base);
        let decoder =
            decoder.subtitle().or_refused(MediaErrorCode::MediaUnsupportedCodec, "open the decoder")?;
        let timeline = CueTimeline {
            origin_us: spec.origin_us,
            duration_us: spec.duration_us,
            clock: spec.clock.clone(),
            position_bytes: 0,
        };
        Ok(Self {
            stream: index,
            position,
            decoder,
            time_base,
            timeline,
            pending: Vec::new(),
            cues: Vec::new(),
        })
    }

    /// Takes the cues of a packet, of what the decoder holds when it is empty; false when they can't be read.
    fn take_packet(&mut self, packet: &Packet) -> MediaChildResult<bool> {
        let found = match ffi::decode_cues(&mut self.decoder, packet) {
            Ok(found) => found,
            Err(error) if is_out_of_memory(error) => return Err(error).or_failed("decode subtitles"),
            Err(_) => return Ok(false),
        };
        let to_us = |ticks: i64| ticks.rescale(self.time_base, MICROS);
        let packet_us = packet.pts().or_else(|| packet.dts()).map(to_us);
        let length_us = to_us(packet.duration().max(0));
        if let Some(at_us) = packet_us {
            // What is shown until the next one ends here, also when here nothing begins.
            self.end_pending(Some(at_us));
        }
        self.timeline.position_bytes =
            u64::try_from(packet.position()).unwrap_or(self.timeline.position_bytes);
        for cue in &found {
            self.take_cue(cue, packet_us, length_us);
        }
        Ok(true)
    }

    fn take_cue(&mut self, cue: &DecodedCue, packet_us: Option<i64>, length_us: i64) {
        let Some(text) = dialogue_text(&cue.dialogue) else { return };
        let Some(at_us) = cue.start_us.or(packet_us) else { return };
        let start_us = at_us.saturating_add(i64::from(cue.begin_ms) * 1_000);
        let end_us = match cue.end_ms {
            0 | u32::MAX if length_us > 0 => at_us.saturating_add(length_us),
            0 | u32::MAX => {
                self.pending.push((start_us, text));
                return;
            }
            end_ms => at_us.saturating_add(i64::from(end_ms) * 1_000),
        };
        self.cues.extend(self.timeline.place_cue(start_us, end_us, text));
    }

    /// Ends the cues of which nobody knew the end where the next packet begins.
    fn end_pending(&mut self, next_us: Option<i64>) {
        for (start_us, text) in std::mem::take(&mut self.pending) {
            let longest_us = start_us.saturating_add(UNKNOWN_LENGTH_US);
            let end_us =
                next_us.filter(|next| *next > start_us).map_or(longest_us, |next| next.min(longest_us));
            self.cues.extend(self.timeline.place_cue(start_us, end_us, text));
        }
    }

    /// Sends what there is, as far as there is room; says how many.
    fn send_cues(&mut self, wire: &ParentPipe, room: &mut CueRoom) -> MediaChildResult<u64> {
        let mut cues = std::mem::take(&mut self.cues);
        cues.retain(|cue| room.take_cue(cue));
        let count = u64::try_from(cues.len()).unwrap_or(0);
        if count > 0 {
            wire.send(&ChildMessage::Cues { position: self.position, cues })?;
        }
        Ok(count)
    }
}

/// What may still be sent.
#[derive(Debug)]
struct CueRoom {
    cues: usize,
    bytes: usize,
}

impl CueRoom {
    /// Takes the room of a cue; false when there is none.
    fn take_cue(&mut self, cue: &SubtitleCue) -> bool {
        let left = (self.cues.checked_sub(1), self.bytes.checked_sub(cue.text.len()));
        let (Some(cues), Some(bytes)) = left else { return false };
        (self.cues, self.bytes) = (cues, bytes);
        true
    }
}

/// The text behind the fields of a dialogue event, cut to the limit; none when there is none.
fn dialogue_text(dialogue: &str) -> Option<String> {
    let text = dialogue.splitn(DIALOGUE_FIELDS + 1, ',').nth(DIALOGUE_FIELDS)?;
    let end = (0..=text.len().min(CUE_TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end))?;
    let text = text.get(..end)?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_follow_the_fields_of_a_dialogue_event() {
        assert_eq!(
            dialogue_text("0,0,Default,,0,0,0,,Hello, you\\Nthere").as_deref(),
            Some("Hello, you\\Nthere")
        );
        assert_eq!(dialogue_text("0,0,Default,,0,0,0,, "), None);
        assert_eq!(dialogue_text("0,0,Default"), None);
        let long = format!("0,0,Default,,0,0,0,,{}", "é".repeat(4_000));
        assert_eq!(dialogue_text(&long).map(|text| text.len()), Some(4_096));
        let odd = format!("0,0,Default,,0,0,0,,a{}", "é".repeat(4_000));
        assert_eq!(dialogue_text(&odd).map(|text| text.len()), Some(4_095), "cut between characters");
    }

    #[test]
    fn cues_are_cut_to_the_presentation() {
        let timeline = CueTimeline {
            origin_us: 1_000,
            duration_us: 10_000,
            clock: media::ClockMap::default(),
            position_bytes: 0,
        };
        let place = |start_us, end_us| {
            timeline.place_cue(start_us, end_us, "x".into()).map(|cue| (cue.start_us, cue.end_us))
        };
        assert_eq!(place(2_000, 3_000), Some((1_000, 2_000)));
        assert_eq!(place(0, 3_000), Some((0, 2_000)));
        assert_eq!(place(9_000, i64::MAX), Some((8_000, 10_000)));
        assert_eq!(place(0, 1_000), None);
        assert_eq!(place(11_000, 12_000), None);
        assert_eq!(place(i64::MIN, i64::MIN), None);
    }
}
