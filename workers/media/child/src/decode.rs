//! Decoded frames of one track, in presentation order.
//!
//! Limits: pixels of a picture, and a thousand unreadable packets in a row.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as LibError, Packet, Rational, Rescale, codec, decoder, frame};
use media::{ClockMap, MediaErrorCode};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi::{self, FrameLength};
use crate::input::{self, CheckedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};

/// Unreadable packets in a row after which a file counts as ended.
pub(crate) const BAD_PACKETS_MAX: u32 = 1000;

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
    clock: FrameClock,
    /// The container's shape of a pixel, which counts before that of the codec.
    aspect: Option<Rational>,
    /// How time stamps are read where the file's clock jumps.
    jumps: ClockMap,
    /// Where the last packet that knew it began, in bytes.
    position_bytes: u64,
    pub(crate) decoded: u64,
    pub(crate) errors: u64,
    pub(crate) last_error: Option<LibError>,
    /// Packets of the track that may still be read; none for all.
    packets_left: Option<u64>,
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
        let (context, time_base, usual_frame, aspect, pixels) = {
            let Some(track) = opened.input.stream(index) else {
                return Err(source_refused_error(
                    MediaErrorCode::MediaSpecMismatch,
                    format!("no stream {stream}"),
                ));
            };
            let context = codec::Context::from_parameters(track.parameters()).or_failed("make a decoder")?;
            let parameters = ffi::read_parameters(&track);
            let pixels = u64::from(parameters.width) * u64::from(parameters.height);
            let usual_frame = track.avg_frame_rate().invert();
            (context, track.time_base(), usual_frame, ffi::container_aspect(&track), pixels)
        };
        ffi::discard_other_streams(&mut opened.input, &[index]);
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
            clock: FrameClock::new(time_base, usual_frame),
            aspect,
            jumps: job.task.clock().cloned().unwrap_or_default(),
            position_bytes: 0,
            decoded: 0,
            errors: 0,
            last_error: None,
            packets_left: None,
        })
    }

    /// The track.
    pub(crate) fn track(&self) -> MediaChildResult<ffmpeg_next::Stream<'_>> {
        let track = self.opened.input.stream(self.stream);
        track.ok_or_else(|| source_refused_error(MediaErrorCode::MediaSpecMismatch, "the stream is gone"))
    }

    /// Reads at most so many packets of the track from here on, as if the file ended then.
    pub(crate) fn limit_packets(&mut self, packets_max: u64) {
        self.packets_left = Some(packets_max);
    }

    /// Goes to a keyframe at or before a time on the file's own clock; false when the file cannot do that.
    pub(crate) fn seek(&mut self, at_us: i64) -> bool {
        let moved = if self.jumps.is_empty() {
            let (num, den) = (i128::from(self.time_base.0.max(1)), i128::from(self.time_base.1.max(1)));
            let at = i128::from(at_us) * den / (num * 1_000_000);
            let Ok(at) = i64::try_from(at) else { return false };
            ffi::seek_keyframe(&mut self.opened.input, self.stream, at)
        } else {
            // The library searches by time stamps, which it takes to grow through the file.
            let Some(position) = self.jumps.start_bytes(at_us) else { return false };
            self.position_bytes = position;
            ffi::seek_byte(&mut self.opened.input, position)
        };
        if moved.is_err() {
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
                    frame.set_pts(Some(self.clock.place_frame(timestamp, ffi::frame_length(frame))));
                    if let Some(aspect) = self.aspect {
                        ffi::set_sample_aspect(frame, aspect);
                    }
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
            if self.packets_left == Some(0) {
                self.is_draining = true;
                return self.decoder.send_eof().or_else(|error| self.count_decode_error(error));
            }
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
            self.join_clock(&mut packet);
            if self.needs_key {
                self.needs_key = false;
                self.first_key = packet.pts().or_else(|| packet.dts());
            }
            self.packets_left = self.packets_left.map(|left| left.saturating_sub(1));
            return self.decoder.send_packet(&packet).or_else(|error| self.count_decode_error(error));
        }
    }

    /// Moves the time stamps of a packet behind a jump of the file's clock.
    fn join_clock(&mut self, packet: &mut Packet) {
        self.position_bytes = u64::try_from(packet.position()).unwrap_or(self.position_bytes);
        let offset_us = self.jumps.offset_us(self.position_bytes);
        if offset_us != 0 {
            let offset = offset_us.rescale(Rational(1, 1_000_000), self.time_base);
            packet.set_pts(packet.pts().map(|pts| pts.saturating_add(offset)));
            packet.set_dts(packet.dts().map(|dts| dts.saturating_add(offset)));
        }
    }

    /// A damaged packet costs its frames; running out of memory ends the task.
    fn count_decode_error(&mut self, error: LibError) -> MediaChildResult<()> {
        self.errors += 1;
        self.last_error = Some(error);
        match Err::<(), _>(error).or_refused(MediaErrorCode::MediaCorrupt, "decode") {
            Err(error @ MediaChildError::Failed(_)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Gives every frame a time stamp. Of several frames in a packet only the first has one, and some formats have none at all: such
/// a frame follows the one before, by the length of that.
#[derive(Debug)]
struct FrameClock {
    time_base: Rational,
    /// How long a frame of the track lasts that does not say it itself, in seconds; not above zero when that is unknown.
    usual_frame: Rational,
    /// The last time stamp of the file.
    last: i64,
    /// Time from there to the end of the last frame, as a count of units of so many seconds each.
    since: (i64, Rational),
}

impl FrameClock {
    fn new(time_base: Rational, usual_frame: Rational) -> Self {
        Self { time_base, usual_frame, last: 0, since: (0, time_base) }
    }

    /// The time stamp of the next frame.
    fn place_frame(&mut self, timestamp: Option<i64>, length: FrameLength) -> i64 {
        let (length, unit) = match length {
            FrameLength::Samples { count, rate_hz } => (count, Rational(1, rate_hz.max(1))),
            FrameLength::Ticks(ticks) if ticks > 0 => (ticks, self.time_base),
            FrameLength::Ticks(_) if self.usual_frame.0 > 0 && self.usual_frame.1 > 0 => {
                (1, self.usual_frame)
            }
            FrameLength::Ticks(_) => (1, self.time_base),
        };
        // Summed in its own unit, so that what the time base rounds away does not add up.
        let so_far = self.since.0.rescale(self.since.1, unit);
        let placed = timestamp
            .unwrap_or_else(|| self.last.saturating_add(self.since.0.rescale(self.since.1, self.time_base)));
        if timestamp.is_some() {
            (self.last, self.since) = (placed, (length, unit));
        } else {
            self.since = (so_far.saturating_add(length), unit);
        }
        placed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_without_a_time_stamp_follow_the_one_before() {
        let sound = |count| FrameLength::Samples { count, rate_hz: 44_100 };
        let mut clock = FrameClock::new(Rational(1, 1_000), Rational(0, 0));
        let placed: Vec<i64> = [Some(100), None, None, None, Some(500), None]
            .map(|timestamp| clock.place_frame(timestamp, sound(1_017)))
            .to_vec();
        // 1017 samples are 23.06 ms: the third is at 146.12, not at 100 + 2 * 23.
        assert_eq!(placed, [100, 123, 146, 169, 500, 523]);
        let mut clock = FrameClock::new(Rational(1, 1_000), Rational(1, 25));
        let ticks = |n| FrameLength::Ticks(n);
        let placed: Vec<i64> =
            [ticks(0), ticks(0), ticks(20), ticks(0)].map(|length| clock.place_frame(None, length)).to_vec();
        assert_eq!(placed, [0, 40, 80, 100], "a picture lasts as long as it says, or as usual");
        assert_eq!(clock.place_frame(Some(i64::MAX), ticks(9)), i64::MAX);
        assert_eq!(clock.place_frame(None, ticks(9)), i64::MAX);
    }
}
