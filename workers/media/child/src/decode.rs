//! Decoded frames of one track, in presentation order.
//!
//! Limits: pixels of a picture, and a thousand unreadable packets in a row.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as LibError, Packet, Rational, codec, decoder, frame};
use media::MediaErrorCode;

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi;
use crate::input::{self, CheckedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};

/// Unreadable packets in a row after which a file counts as ended.
const BAD_PACKETS_MAX: u32 = 1000;

/// Pictures with more pixels than these are decoded by one thread: each further thread holds pictures of its own.
const LARGE_PICTURE_PIXELS: u64 = 4096 * 2304;

/// Frames between two signs of life: on the way to a range there is no progress to report.
const SIGN_FRAMES: u64 = 50;

/// Reads and decodes one track.
pub(crate) struct TrackDecoder {
    wire: Arc<ParentPipe>,
    opened: CheckedInput,
    decoder: decoder::Opened,
    stream: usize,
    pub(crate) time_base: Rational,
    is_draining: bool,
    /// After a seek, what comes before the first keyframe cannot be decoded.
    needs_key: bool,
    pub(crate) first_key: Option<i64>,
    last_timestamp: i64,
    pub(crate) decoded: u64,
    pub(crate) errors: u64,
}

impl TrackDecoder {
    /// Opens the source and the decoder of one track.
    pub(crate) fn open(
        wire: &Arc<ParentPipe>,
        job: &ChildJob,
        stream: u32,
        threads: u16,
    ) -> MediaChildResult<Self> {
        let mut opened = input::open_source(wire, job)?;
        let index = usize::try_from(stream).unwrap_or(usize::MAX);
        let pixels_max = input::pixels_max(&job.limits, &opened.format);
        let (context, time_base, pixels) = {
            let Some(track) = opened.input.stream(index) else {
                return Err(source_refused_error(
                    MediaErrorCode::MediaSpecMismatch,
                    format!("no stream {stream}"),
                ));
            };
            let context = codec::Context::from_parameters(track.parameters()).or_failed("make a decoder")?;
            let parameters = ffi::read_parameters(&track);
            let pixels = u64::from(parameters.width) * u64::from(parameters.height);
            (context, track.time_base(), pixels)
        };
        ffi::discard_other_streams(&mut opened.input, index);
        let decoder = open_decoder(context, time_base, threads, (pixels, pixels_max))?;
        Ok(Self {
            wire: Arc::clone(wire),
            opened,
            decoder,
            stream: index,
            time_base,
            is_draining: false,
            needs_key: false,
            first_key: None,
            last_timestamp: 0,
            decoded: 0,
            errors: 0,
        })
    }

    /// The track.
    pub(crate) fn track(&self) -> MediaChildResult<ffmpeg_next::Stream<'_>> {
        let track = self.opened.input.stream(self.stream);
        track.ok_or_else(|| source_refused_error(MediaErrorCode::MediaSpecMismatch, "the stream is gone"))
    }

    /// Goes to a keyframe at or before a time on the file's own clock; false when the file cannot do that.
    pub(crate) fn seek(&mut self, at_us: i64) -> bool {
        let (num, den) = (i128::from(self.time_base.0.max(1)), i128::from(self.time_base.1.max(1)));
        let at = i128::from(at_us) * den / (num * 1_000_000);
        let Ok(at) = i64::try_from(at) else { return false };
        if ffi::seek_keyframe(&mut self.opened.input, self.stream, at).is_err() {
            return false;
        }
        self.decoder.flush();
        self.is_draining = false;
        self.needs_key = true;
        self.first_key = None;
        true
    }

    /// The next frame, with its timestamp set; false at the end.
    pub(crate) fn next_frame(&mut self, frame: &mut frame::Frame) -> MediaChildResult<bool> {
        loop {
            match self.decoder.receive_frame(frame) {
                Ok(()) => {
                    self.decoded += 1;
                    let timestamp = frame.pts().or_else(|| frame.timestamp());
                    let timestamp = timestamp.unwrap_or_else(|| self.last_timestamp.saturating_add(1));
                    self.last_timestamp = timestamp;
                    frame.set_pts(Some(timestamp));
                    if self.decoded.is_multiple_of(SIGN_FRAMES) {
                        self.wire.send_heartbeat(self.decoded)?;
                    }
                    return Ok(true);
                }
                Err(LibError::Other { errno }) if errno == EAGAIN => self.feed_packet()?,
                Err(LibError::Eof) => return Ok(false),
                Err(error) => {
                    self.count_decode_error(error)?;
                    if self.is_draining {
                        return Ok(false);
                    }
                    self.feed_packet()?;
                }
            }
        }
    }

    /// Gives the decoder one more packet, or the end.
    fn feed_packet(&mut self) -> MediaChildResult<()> {
        let mut bad = 0;
        loop {
            // A fresh one each time: reading does not free what the packet held before.
            let mut packet = Packet::empty();
            match packet.read(&mut self.opened.input) {
                Ok(()) => {}
                Err(LibError::InvalidData) if bad < BAD_PACKETS_MAX => {
                    bad += 1;
                    self.errors += 1;
                    continue;
                }
                Err(error) => {
                    // A source that breaks off is an end too: what was read of it is shown.
                    if error != LibError::Eof {
                        self.count_decode_error(error)?;
                    }
                    self.is_draining = true;
                    return self.decoder.send_eof().or_else(|error| self.count_decode_error(error));
                }
            }
            if packet.stream() != self.stream || (self.needs_key && !packet.is_key()) {
                continue;
            }
            if self.needs_key {
                self.needs_key = false;
                self.first_key = packet.pts().or_else(|| packet.dts());
            }
            return self.decoder.send_packet(&packet).or_else(|error| self.count_decode_error(error));
        }
    }

    /// A damaged packet costs its frames; running out of memory ends the task.
    fn count_decode_error(&mut self, error: LibError) -> MediaChildResult<()> {
        self.errors += 1;
        match Err::<(), _>(error).or_refused(MediaErrorCode::MediaCorrupt, "decode") {
            Err(error @ MediaChildError::Failed(_)) => Err(error),
            _ => Ok(()),
        }
    }
}

fn open_decoder(
    mut context: codec::Context,
    time_base: Rational,
    threads: u16,
    (pixels, pixels_max): (u64, u64),
) -> MediaChildResult<decoder::Opened> {
    let Some(codec) = decoder::find(context.id()) else {
        return Err(source_refused_error(
            MediaErrorCode::MediaUnsupportedCodec,
            format!("no decoder for {}", context.id().name()),
        ));
    };
    let threads = if pixels > LARGE_PICTURE_PIXELS { 1 } else { ffi::thread_count(threads) };
    ffi::limit_decoder(&mut context, threads, pixels_max).or_failed("limit the decoder")?;
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(time_base);
    decoder.open_as(codec).or_refused(MediaErrorCode::MediaUnsupportedCodec, "open the decoder")
}
