//! CMAF out of FFmpeg's mp4 muxer: one track, an init segment, then one fragment for each segment.
//!
//! Limits: one segment in memory, which must fit a protocol frame.

use std::io::{self, Write};
use std::sync::Arc;

use ffmpeg_next::format::context::{Output, StreamIo};
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, format};
use media::protocol::ChildMessage;
use parking_lot::Mutex;

use crate::composition;
use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult};
use crate::ffi;
use crate::parent_pipe::ParentPipe;

/// Writes the segments of one rendition.
pub(crate) struct SegmentMuxer {
    wire: Arc<ParentPipe>,
    output: Output,
    bytes: MuxedBytes,
    rendition: u16,
    timescale: u32,
    delay_ticks: u32,
    time_base: Rational,
    has_init: bool,
    open: Option<OpenSegment>,
}

/// The segment being collected.
#[derive(Debug, Clone, Copy)]
struct OpenSegment {
    number: u32,
    start_ticks: u64,
    sample_ticks: u64,
    sample_count: u32,
}

/// How a rendition is packaged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MuxerSettings {
    pub(crate) rendition: u16,
    pub(crate) timescale: u32,
    /// Number of the first segment.
    pub(crate) first_segment: u32,
    /// How much later than it is decoded the first picture is presented, by what the encoder may reorder; 0 for sound.
    pub(crate) delay_ticks: u32,
}

impl SegmentMuxer {
    /// A track for what an opened encoder makes.
    pub(crate) fn new(
        wire: Arc<ParentPipe>,
        track: MuxerSettings,
        codec: ffmpeg_next::Codec,
        encoder: impl AsRef<codec::Context>,
    ) -> MediaChildResult<Self> {
        Self::open(wire, track, Some(codec), encoder.into())
    }

    /// A track for samples that a file describes.
    pub(crate) fn of_track(
        wire: Arc<ParentPipe>,
        track: MuxerSettings,
        parameters: codec::Parameters,
    ) -> MediaChildResult<Self> {
        Self::open(wire, track, None, parameters)
    }

    fn open(
        wire: Arc<ParentPipe>,
        track: MuxerSettings,
        codec: Option<ffmpeg_next::Codec>,
        parameters: codec::Parameters,
    ) -> MediaChildResult<Self> {
        let is_copied = codec.is_none();
        let bytes = MuxedBytes::default();
        let io = StreamIo::from_write(bytes.clone()).or_failed("make the output")?;
        let mut output = format::output_to_stream(io, None, Some("mp4")).or_failed("make the muxer")?;
        output.add_stream(codec).or_failed("add the track")?;
        let Some(mut stream) = output.stream_mut(0) else {
            return Err(MediaChildError::Failed("no track".into()));
        };
        stream.set_parameters(parameters);
        if is_copied {
            ffi::clear_codec_tag(&mut stream);
        }
        stream.set_time_base(Rational(1, i32::try_from(track.timescale).unwrap_or(i32::MAX)));
        ffi::keep_timestamps(&mut output);
        let mut options = Dictionary::new();
        // `frag_discont` keeps the given times: the muxer would count from the start of its own part.
        options.set("movflags", "+cmaf+frag_custom+delay_moov+skip_trailer+frag_discont");
        // Run-in of encoders would become an edit list, which players treat differently.
        options.set("use_editlist", "0");
        options.set("video_track_timescale", &track.timescale.to_string());
        options.set("fragment_index", &track.first_segment.saturating_add(1).to_string());
        output.write_header_with(options).or_failed("write the header")?;
        let time_base = output.stream(0).map_or(Rational(0, 1), |stream| stream.time_base());
        // The muxer may choose another one, and every time of the plan would be wrong by a factor.
        if time_base != Rational(1, i32::try_from(track.timescale).unwrap_or(i32::MAX)) {
            return Err(MediaChildError::Failed(format!("the muxer chose the time base {time_base}")));
        }
        Ok(Self {
            wire,
            output,
            bytes,
            rendition: track.rendition,
            timescale: track.timescale,
            delay_ticks: track.delay_ticks,
            time_base,
            has_init: false,
            open: None,
        })
    }

    /// Begins a segment; the one before must be ended.
    pub(crate) fn begin_segment(&mut self, number: u32, start_ticks: u64, sample_ticks: u32) {
        self.open =
            Some(OpenSegment { number, start_ticks, sample_ticks: u64::from(sample_ticks), sample_count: 0 });
    }

    /// Adds a packet, whose timestamps are in `time_base`, to the segment.
    pub(crate) fn add_packet(&mut self, packet: &mut Packet, time_base: Rational) -> MediaChildResult<()> {
        let Some(open) = &mut self.open else {
            return Err(MediaChildError::Failed("a packet before its segment".into()));
        };
        packet.rescale_ts(time_base, self.time_base);
        packet.set_stream(0);
        // Encoders may leave it out, and the muxer would guess that of the last sample of a fragment.
        packet.set_duration(i64::try_from(open.sample_ticks).unwrap_or(i64::MAX));
        packet.set_position(-1);
        open.sample_count += 1;
        packet.write(&mut self.output).or_failed("add a packet").map(|_is_flushed| ())
    }

    /// Ends the segment and hands it on, after the init segment if it is the first.
    pub(crate) fn end_segment(&mut self) -> MediaChildResult<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        // With `delay_moov` the first flush writes the init segment alone; the packets follow with the next one.
        if !self.has_init {
            self.has_init = true;
            ffi::end_fragment(&mut self.output).or_failed("end the init segment")?;
            let mut bytes = self.bytes.take_bytes();
            if self.delay_ticks > 0 {
                composition::add_edit_list(&mut bytes, self.delay_ticks).map_err(refuse_output)?;
            }
            self.wire.send(&ChildMessage::Init { rendition: self.rendition, bytes: bytes.into() })?;
        }
        ffi::end_fragment(&mut self.output).or_failed("end a segment")?;
        let mut bytes = self.bytes.take_bytes();
        if self.delay_ticks > 0 {
            composition::delay_composition(&mut bytes, self.delay_ticks).map_err(refuse_output)?;
        }
        self.wire.send(&ChildMessage::Segment {
            rendition: self.rendition,
            number: open.number,
            start_ticks: open.start_ticks,
            duration_ticks: u64::from(open.sample_count) * open.sample_ticks,
            timescale: self.timescale,
            sample_count: open.sample_count,
            bytes: bytes.into(),
        })
    }
}

fn refuse_output(error: composition::UnexpectedBox) -> MediaChildError {
    MediaChildError::Failed(error.to_string())
}

/// What the muxer wrote and nobody took yet.
#[derive(Debug, Clone, Default)]
struct MuxedBytes(Arc<Mutex<Vec<u8>>>);

impl MuxedBytes {
    fn take_bytes(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Write for MuxedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The encoder of a name, which the self-check made sure of.
pub(crate) fn find_encoder(name: &str) -> MediaChildResult<ffmpeg_next::Codec> {
    encoder::find_by_name(name)
        .ok_or_else(|| MediaChildError::Failed(format!("FFmpeg lacks the encoder {name}")))
}
