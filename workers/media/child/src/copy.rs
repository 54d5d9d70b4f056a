//! Samples of a file put into CMAF segments as they are: nothing is decoded, and nothing encoded.
//!
//! Frames get the times of the frame grid, and decode times that the order of the file gives them; the first packet of sound that is
//! taken begins at 0.
//!
//! Limits: one segment in memory, as of an encode.

use std::sync::Arc;

use ffmpeg_next::{Error as LibError, Packet, Rational, Rescale};
use media::protocol::MediaTaskReport;
use media::{AUDIO_FRAME_SAMPLES, FrameCopySpec, MediaErrorCode, SoundCopySpec, VideoGrid};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi;
use crate::fragment::{MuxerSettings, SegmentMuxer};
use crate::input::{self, CheckedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::survey::frame_number;

/// An open file of which one track is read.
struct TrackReader {
    opened: CheckedInput,
    stream: usize,
    time_base: Rational,
    wire: Arc<ParentPipe>,
    /// Packets that were read, also those that are skipped.
    steps: u64,
}

impl TrackReader {
    fn open(wire: &Arc<ParentPipe>, job: &ChildJob, stream: u32) -> MediaChildResult<Self> {
        let mut opened = input::open_source(wire, job)?;
        let index = usize::try_from(stream).unwrap_or(usize::MAX);
        let time_base = opened.input.stream(index).map(|track| track.time_base());
        let Some(time_base) = time_base else { return Err(mismatch(format!("no stream {stream}"))) };
        ffi::discard_other_streams(&mut opened.input, &[index]);
        let steps = wire.last_step();
        Ok(Self { opened, stream: index, time_base, wire: Arc::clone(wire), steps })
    }

    /// The muxer of a rendition that is described as the track is.
    fn open_muxer(&self, wire: &Arc<ParentPipe>, settings: MuxerSettings) -> MediaChildResult<SegmentMuxer> {
        let Some(track) = self.opened.input.stream(self.stream) else {
            return Err(mismatch("the stream is gone".into()));
        };
        SegmentMuxer::of_track(Arc::clone(wire), settings, track.parameters())
    }

    /// The next packet of the track; none at the end.
    fn next_packet(&mut self) -> MediaChildResult<Option<Packet>> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.opened.input) {
                Ok(()) => {
                    self.steps += 1;
                    self.wire.send_heartbeat(self.steps)?;
                    if packet.stream() == self.stream {
                        return Ok(Some(packet));
                    }
                }
                Err(LibError::Eof) => return Ok(None),
                Err(error) => return Err(error).or_refused(MediaErrorCode::MediaCorrupt, "read a packet"),
            }
        }
    }
}

/// Another file than the one that was surveyed.
fn mismatch(detail: String) -> MediaChildError {
    source_refused_error(MediaErrorCode::MediaSpecMismatch, detail)
}

/// Runs the task with frames.
pub(crate) fn copy_frames(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &FrameCopySpec,
) -> MediaChildResult<MediaTaskReport> {
    let grid = spec.check().map_err(MediaChildError::Failed)?;
    let mut reader = TrackReader::open(wire, job, spec.stream)?;
    let settings = MuxerSettings {
        rendition: spec.rendition,
        timescale: grid.timescale,
        first_segment: spec.first_segment,
        delay_ticks: spec.delay_frames.saturating_mul(grid.frame_ticks),
    };
    let muxer = reader.open_muxer(wire, settings)?;
    seek_start(&mut reader, spec)?;
    let mut lane = FrameLane { spec, grid, muxer, copied: 0, segment: 0 };
    while let Some(mut packet) = reader.next_packet()? {
        let place = packet.pts().map(|pts| pts.saturating_sub(spec.first_ticks));
        let place = place.ok_or_else(|| mismatch("a frame without a time".into()))?;
        let (number, _) = frame_number(place, reader.time_base, spec.frame_rate);
        if !lane.push_packet(&mut packet, number)? {
            break;
        }
        wire.send_progress(u64::from(lane.copied))?;
    }
    lane.finish()?;
    Ok(MediaTaskReport { frames_written: u64::from(spec.frame_count), ..MediaTaskReport::default() })
}

/// Goes to the keyframe that the range begins with.
fn seek_start(reader: &mut TrackReader, spec: &FrameCopySpec) -> MediaChildResult<()> {
    if spec.start_frame == 0 {
        return Ok(());
    }
    let start = i64::try_from(spec.start_frame).unwrap_or(i64::MAX);
    let frame = Rational(
        i32::try_from(spec.frame_rate.den).unwrap_or(i32::MAX),
        i32::try_from(spec.frame_rate.num).unwrap_or(i32::MAX),
    );
    let at = start.rescale(frame, reader.time_base).saturating_add(spec.first_ticks);
    ffi::seek_keyframe(&mut reader.opened.input, reader.stream, at)
        .or_refused(MediaErrorCode::MediaSpecMismatch, "go to a keyframe")
}

/// One rendition on its way.
struct FrameLane<'a> {
    spec: &'a FrameCopySpec,
    grid: VideoGrid,
    muxer: SegmentMuxer,
    copied: u32,
    segment: u32,
}

impl FrameLane<'_> {
    /// Takes the next packet of the file, which holds frame `number`; false once the range is over.
    fn push_packet(&mut self, packet: &mut Packet, number: i64) -> MediaChildResult<bool> {
        let start = i64::try_from(self.spec.start_frame).unwrap_or(i64::MAX);
        let end = start.saturating_add(i64::from(self.spec.frame_count));
        if number < start {
            return match self.copied {
                // Before the range, on the way to it.
                0 => Ok(true),
                _ => Err(mismatch(format!(
                    "frame {number} is decoded behind a keyframe that is shown after it"
                ))),
            };
        }
        if number >= end || self.copied == self.spec.frame_count {
            return Ok(false);
        }
        let boundary = u64::from(self.segment) * u64::from(self.spec.segment_frames);
        if u64::from(self.copied) == boundary {
            if !packet.is_key() || u64::try_from(number - start).ok() != Some(boundary) {
                return Err(mismatch(format!("frame {} is no keyframe", self.spec.start_frame + boundary)));
            }
            self.muxer.end_segment()?;
            let segment_number = self.spec.first_segment.saturating_add(self.segment);
            let start_ticks = self.grid.frame_start_ticks(self.spec.start_frame + boundary);
            self.muxer.begin_segment(segment_number, start_ticks, self.grid.frame_ticks);
            self.segment += 1;
        }
        let decoded = start + i64::from(self.copied) - i64::from(self.spec.delay_frames);
        if decoded > number {
            return Err(mismatch(format!("frame {number} is decoded after it is shown")));
        }
        packet.set_pts(Some(number));
        packet.set_dts(Some(decoded));
        self.copied += 1;
        let rate = self.spec.frame_rate;
        let term = |term: u32| i32::try_from(term).unwrap_or(i32::MAX);
        self.muxer.add_packet(packet, Rational(term(rate.den), term(rate.num)))?;
        Ok(true)
    }

    fn finish(mut self) -> MediaChildResult<()> {
        if self.copied != self.spec.frame_count {
            return Err(mismatch(format!("{} frames instead of {}", self.copied, self.spec.frame_count)));
        }
        self.muxer.end_segment()
    }
}

/// Runs the task with sound.
pub(crate) fn copy_sound(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &SoundCopySpec,
) -> MediaChildResult<MediaTaskReport> {
    let grid = spec.check().map_err(MediaChildError::Failed)?;
    let mut reader = TrackReader::open(wire, job, spec.stream)?;
    let settings = MuxerSettings {
        rendition: spec.rendition,
        timescale: spec.sample_rate_hz,
        first_segment: 0,
        delay_ticks: 0,
    };
    let mut muxer = reader.open_muxer(wire, settings)?;
    let time_base = Rational(1, i32::try_from(spec.sample_rate_hz).unwrap_or(i32::MAX));
    let (mut seen, mut copied, mut segment) = (0_u64, 0_u64, 0_u32);
    while copied < grid.frame_count() {
        let Some(mut packet) = reader.next_packet()? else {
            return Err(mismatch(format!("{copied} packets of sound instead of {}", grid.frame_count())));
        };
        // As they were counted.
        if packet.pts().is_none() {
            continue;
        }
        seen += 1;
        if seen <= spec.skipped_packets {
            continue;
        }
        let start = copied * u64::from(AUDIO_FRAME_SAMPLES);
        if copied == grid.first_frame(segment) {
            muxer.end_segment()?;
            muxer.begin_segment(segment, start, AUDIO_FRAME_SAMPLES);
            segment += 1;
        }
        let at = i64::try_from(start).ok();
        packet.set_pts(at);
        packet.set_dts(at);
        copied += 1;
        muxer.add_packet(&mut packet, time_base)?;
        wire.send_progress(copied)?;
    }
    muxer.end_segment()?;
    Ok(MediaTaskReport { frames_written: copied, ..MediaTaskReport::default() })
}
