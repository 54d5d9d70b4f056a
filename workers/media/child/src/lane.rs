//! One rung: scale, encode by libx264, cut into segments.
//!
//! Everything that shapes the bytes is fixed by the task: thread count, options, the places of IDR frames.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Dictionary, Error as LibError, Packet, Rational, codec, color, encoder, frame, picture};
use media::{EncodeSpec, Preset, Profile, Rung, VideoGrid};

use crate::error::{Blame, Error, Result};
use crate::ffi;
use crate::fragment::{Packager, Track, find_encoder};
use crate::shape::{Shaper, Work};
use crate::timeline::Shown;
use crate::wire::Wire;

/// The encoder of one rung.
pub(crate) struct Lane<'a> {
    spec: &'a EncodeSpec,
    grid: VideoGrid,
    scale: Shaper,
    encoder: encoder::video::Encoder,
    packager: Packager,
    time_base: Rational,
    /// Output frame at which the next segment begins.
    boundary: u64,
    segment: u32,
}

impl<'a> Lane<'a> {
    /// Opens the encoder and the muxer of a rung.
    pub(crate) fn open(wire: Arc<Wire>, spec: &'a EncodeSpec, grid: VideoGrid, index: usize) -> Result<Self> {
        let Some(rung) = spec.rungs.get(index) else { return Err(Error::Failed("no such rung".into())) };
        let term = |term: u32| i32::try_from(term).unwrap_or(i32::MAX);
        let rate = Rational(term(spec.frame_rate.num), term(spec.frame_rate.den));
        let time_base = rate.invert();
        let codec = find_encoder("libx264")?;
        let encoder = open_encoder(codec, spec, rung, rate)?;
        let track =
            Track { rendition: rung.rendition, timescale: grid.timescale, first_segment: spec.first_segment };
        let packager = Packager::new(wire, track, codec, &encoder)?;
        let scale = Shaper::new(Work::Scale { width: rung.width, height: rung.height }, time_base);
        Ok(Self { spec, grid, scale, encoder, packager, time_base, boundary: spec.start_frame, segment: 0 })
    }

    /// Encodes a picture for every output frame that shows it.
    pub(crate) fn show(&mut self, shown: &mut Shown<frame::Video>) -> Result<()> {
        let mut picture = self.scale.shape(&mut shown.frame)?;
        picture.set_color_space(color::Space::BT709);
        picture.set_color_primaries(color::Primaries::BT709);
        picture.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        picture.set_color_range(color::Range::MPEG);
        for output in shown.first..shown.first + shown.count {
            let mut frame = ffi::share(&picture).fail("share a picture")?;
            frame.set_pts(i64::try_from(output).ok());
            // The source's own picture types would be taken for orders.
            frame.set_kind(if self.is_idr(output) { picture::Type::I } else { picture::Type::None });
            self.encoder.send_frame(&frame).fail("encode")?;
            self.take_packets()?;
        }
        Ok(())
    }

    /// Encodes what the encoder still holds and ends the last segment.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.encoder.send_eof().fail("end the encoder")?;
        self.take_packets()?;
        self.packager.end()
    }

    fn is_idr(&self, output: u64) -> bool {
        let from_start = output - self.spec.start_frame;
        output.is_multiple_of(u64::from(self.spec.gop_frames))
            || from_start.is_multiple_of(u64::from(self.spec.segment_frames))
    }

    fn take_packets(&mut self) -> Result<()> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(LibError::Eof) => return Ok(()),
                Err(LibError::Other { errno }) if errno == EAGAIN => return Ok(()),
                Err(error) => return Err(error).fail("take a packet"),
            }
            // No frame is reordered across an IDR, so its packet begins the segment.
            if packet.pts() == i64::try_from(self.boundary).ok() {
                if !packet.is_key() {
                    return Err(Error::Failed(format!("frame {} is no IDR", self.boundary)));
                }
                self.packager.end()?;
                let number = self.spec.first_segment.saturating_add(self.segment);
                self.packager.begin(number, self.grid.ticks(self.boundary), self.grid.frame_ticks);
                self.segment += 1;
                self.boundary += u64::from(self.spec.segment_frames);
            }
            self.packager.add(&mut packet, self.time_base)?;
        }
    }
}

fn open_encoder(
    codec: ffmpeg_next::Codec,
    spec: &EncodeSpec,
    rung: &Rung,
    rate: Rational,
) -> Result<encoder::video::Encoder> {
    let mut video = codec::Context::new_with_codec(codec).encoder().video().fail("make the encoder")?;
    video.set_width(rung.width);
    video.set_height(rung.height);
    video.set_format(Pixel::YUV420P);
    video.set_time_base(rate.invert());
    video.set_frame_rate(Some(rate));
    video.set_aspect_ratio(Rational(1, 1));
    video.set_colorspace(color::Space::BT709);
    video.set_color_primaries(color::Primaries::BT709);
    video.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
    video.set_color_range(color::Range::MPEG);
    let mut options = Dictionary::new();
    for (name, value) in options_of(spec, rung) {
        options.set(name, &value);
    }
    video.open_with(options).fail("open the encoder")
}

/// Options by FFmpeg's names. Captions of the source stay out, so that no in-band data differs between ranges.
fn options_of(spec: &EncodeSpec, rung: &Rung) -> Vec<(&'static str, String)> {
    let gop = spec.gop_frames.to_string();
    vec![
        ("preset", preset(spec.preset).into()),
        ("profile", profile(rung.profile).into()),
        ("level", format!("{}.{}", rung.level / 10, rung.level % 10)),
        ("crf", rung.crf.to_string()),
        ("maxrate", rung.rate_bits_per_second_max.to_string()),
        ("bufsize", rung.buffer_bits.to_string()),
        ("threads", rung.threads.to_string()),
        ("g", gop.clone()),
        ("keyint_min", gop),
        ("sc_threshold", "0".into()),
        ("forced-idr", "1".into()),
        ("a53cc", "0".into()),
        ("flags", "+global_header+cgop+bitexact".into()),
        ("x264-params", "stitchable=1:open-gop=0".into()),
    ]
}

fn preset(preset: Preset) -> &'static str {
    match preset {
        Preset::Ultrafast => "ultrafast",
        Preset::Superfast => "superfast",
        Preset::Veryfast => "veryfast",
        Preset::Faster => "faster",
        Preset::Fast => "fast",
        Preset::Medium => "medium",
        Preset::Slow => "slow",
    }
}

fn profile(profile: Profile) -> &'static str {
    match profile {
        Profile::Baseline => "baseline",
        Profile::Main => "main",
        Profile::High => "high",
    }
}
