//! One rung: scale, encode by libx264, cut into segments.
//!
//! Everything that shapes the bytes is fixed by the task: thread count, options, the places of IDR frames.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Dictionary, Error as LibError, Packet, Rational, codec, color, encoder, frame, picture};
use media::{EncodeRung, EncodeSpec, EncoderPreset, H264Profile, VideoGrid};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult};
use crate::ffi;
use crate::fragment::{MuxerSettings, SegmentMuxer, find_encoder};
use crate::parent_pipe::ParentPipe;
use crate::picture_filter::{FilterOperation, PictureFilter};
use crate::timeline::PlacedFrame;

/// The encoder of one rung.
pub(crate) struct RungEncoder<'a> {
    spec: &'a EncodeSpec,
    grid: VideoGrid,
    scale: PictureFilter,
    encoder: encoder::video::Encoder,
    packager: SegmentMuxer,
    time_base: Rational,
    /// Output frame at which the next segment begins.
    boundary: u64,
    segment: u32,
}

impl<'a> RungEncoder<'a> {
    /// Opens the encoder and the muxer of a rung.
    pub(crate) fn open(
        wire: Arc<ParentPipe>,
        spec: &'a EncodeSpec,
        grid: VideoGrid,
        index: usize,
    ) -> MediaChildResult<Self> {
        let Some(rung) = spec.rungs.get(index) else {
            return Err(MediaChildError::Failed("no such rung".into()));
        };
        let term = |term: u32| i32::try_from(term).unwrap_or(i32::MAX);
        let rate = Rational(term(spec.frame_rate.num), term(spec.frame_rate.den));
        let time_base = rate.invert();
        let codec = find_encoder("libx264")?;
        let encoder = open_encoder(codec, spec, rung, rate)?;
        let track = MuxerSettings {
            rendition: rung.rendition,
            timescale: grid.timescale,
            first_segment: spec.first_segment,
            delay_ticks: ffi::reordered_frames(&encoder).saturating_mul(grid.frame_ticks),
        };
        let packager = SegmentMuxer::new(wire, track, codec, &encoder)?;
        let scale =
            PictureFilter::new(FilterOperation::Scale { width: rung.width, height: rung.height }, time_base);
        Ok(Self { spec, grid, scale, encoder, packager, time_base, boundary: spec.start_frame, segment: 0 })
    }

    /// Encodes a picture for every output frame that shows it.
    pub(crate) fn encode_picture(&mut self, shown: &mut PlacedFrame<frame::Video>) -> MediaChildResult<()> {
        let mut picture = self.scale.filter_picture(&mut shown.frame)?;
        picture.set_color_space(color::Space::BT709);
        picture.set_color_primaries(color::Primaries::BT709);
        picture.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        picture.set_color_range(color::Range::MPEG);
        for output in shown.first..shown.first + shown.count {
            let mut frame = ffi::share_picture(&picture).or_failed("share a picture")?;
            frame.set_pts(i64::try_from(output).ok());
            // The source's own picture types would be taken for orders.
            frame.set_kind(if self.is_idr(output) { picture::Type::I } else { picture::Type::None });
            self.encoder.send_frame(&frame).or_failed("encode")?;
            self.take_packets()?;
        }
        Ok(())
    }

    /// Encodes what the encoder still holds and ends the last segment.
    pub(crate) fn finish(mut self) -> MediaChildResult<()> {
        self.encoder.send_eof().or_failed("end the encoder")?;
        self.take_packets()?;
        self.packager.end_segment()
    }

    fn is_idr(&self, output: u64) -> bool {
        let from_start = output - self.spec.start_frame;
        // By the number in the whole output: parts that are made apart place their IDRs alike, also across joints.
        output.is_multiple_of(u64::from(self.spec.gop_frames))
            || from_start.is_multiple_of(u64::from(self.spec.segment_frames))
    }

    fn take_packets(&mut self) -> MediaChildResult<()> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(LibError::Eof) => return Ok(()),
                Err(LibError::Other { errno }) if errno == EAGAIN => return Ok(()),
                Err(error) => return Err(error).or_failed("take a packet"),
            }
            // No frame is reordered across an IDR, so its packet begins the segment.
            if packet.pts() == i64::try_from(self.boundary).ok() {
                if !packet.is_key() {
                    return Err(MediaChildError::Failed(format!("frame {} is no IDR", self.boundary)));
                }
                self.packager.end_segment()?;
                let number = self.spec.first_segment.saturating_add(self.segment);
                self.packager.begin_segment(
                    number,
                    self.grid.frame_start_ticks(self.boundary),
                    self.grid.frame_ticks,
                );
                self.segment += 1;
                self.boundary += u64::from(self.spec.segment_frames);
            }
            self.packager.add_packet(&mut packet, self.time_base)?;
        }
    }
}

fn open_encoder(
    codec: ffmpeg_next::Codec,
    spec: &EncodeSpec,
    rung: &EncodeRung,
    rate: Rational,
) -> MediaChildResult<encoder::video::Encoder> {
    let mut video = codec::Context::new_with_codec(codec).encoder().video().or_failed("make the encoder")?;
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
    for (name, value) in encoder_options(spec, rung) {
        options.set(name, &value);
    }
    video.open_with(options).or_failed("open the encoder")
}

/// Options by FFmpeg's names. Captions of the source stay out, so that no in-band data differs between ranges.
fn encoder_options(spec: &EncodeSpec, rung: &EncodeRung) -> Vec<(&'static str, String)> {
    let gop = spec.gop_frames.to_string();
    vec![
        ("preset", preset_name(spec.preset).into()),
        ("profile", profile_name(rung.profile).into()),
        ("level", format!("{}.{}", rung.level / 10, rung.level % 10)),
        ("crf", rung.crf.to_string()),
        ("maxrate", rung.rate_bits_per_second_max.to_string()),
        ("bufsize", rung.buffer_bits.to_string()),
        ("threads", rung.threads.to_string()),
        ("g", gop.clone()),
        ("keyint_min", gop),
        // An IDR at a cut of scenes would begin no segment, and renditions would have different ones.
        ("sc_threshold", "0".into()),
        // Without it a forced I picture is no IDR, and a segment could not be decoded from its start.
        ("forced-idr", "1".into()),
        ("a53cc", "0".into()),
        ("flags", "+global_header+cgop+bitexact".into()),
        // `stitchable`: the parameter sets must not depend on the part, since all parts share one init segment.
        ("x264-params", "stitchable=1:open-gop=0".into()),
    ]
}

fn preset_name(preset: EncoderPreset) -> &'static str {
    match preset {
        EncoderPreset::Ultrafast => "ultrafast",
        EncoderPreset::Superfast => "superfast",
        EncoderPreset::Veryfast => "veryfast",
        EncoderPreset::Faster => "faster",
        EncoderPreset::Fast => "fast",
        EncoderPreset::Medium => "medium",
        EncoderPreset::Slow => "slow",
    }
}

fn profile_name(profile: H264Profile) -> &'static str {
    match profile {
        H264Profile::Baseline => "baseline",
        H264Profile::Main => "main",
        H264Profile::High => "high",
    }
}
