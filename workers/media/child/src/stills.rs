//! Pictures out of a track, as JPEG.
//!
//! Limits: ten seconds are searched for a picture that is not black.

use std::sync::Arc;

use bytes::Bytes;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Packet, Rational, Rescale, codec, frame};
use media::protocol::{ChildMessage, MediaTaskReport};
use media::{MediaErrorCode, StillsSpec};

use crate::decode::TrackDecoder;
use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::fragment::find_encoder;
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::picture_filter::{DisplayRotation, FilterOperation, PictureFilter, display_size};

/// How far after the wanted time a picture may be, in microseconds.
const SEARCH_US: i64 = 10_000_000;

/// Only every so many-th picture of the search is looked at.
const SEARCH_STEP: u64 = 12;

/// Mean luma (0 to 255) below which a picture counts as black.
const BLACK_LUMA_MAX: u64 = 24;

/// FFmpeg's `FF_QP2LAMBDA`: its quality unit for one step of the quantiser.
const LAMBDA: i32 = 118;

/// A frame this much before the wanted time still counts as at it: half a frame at 25 per second.
const EARLY_US: i64 = 20_000;

/// A frame this much behind an exact time is the one that is shown then: times are asked for in milliseconds.
const ROUNDING_US: i64 = 500;

/// Runs the task.
pub(crate) fn extract_stills(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &StillsSpec,
) -> MediaChildResult<MediaTaskReport> {
    spec.check().map_err(MediaChildError::Failed)?;
    let mut report = MediaTaskReport::default();
    for (position, at_us) in spec.at_us.iter().enumerate() {
        let mut at_us = spec.origin_us.saturating_add(i64::try_from(*at_us).unwrap_or(i64::MAX));
        let mut reader = TrackDecoder::open(wire, job, spec.stream, 0)?;
        if reader.track()?.disposition().contains(Disposition::ATTACHED_PIC) {
            // One packet, of no time: without a limit the file would be read to its end for a second one.
            reader.limit_packets(1);
            at_us = i64::MIN;
        }
        if at_us > spec.origin_us && !reader.seek(at_us) {
            drop(reader);
            reader = TrackDecoder::open(wire, job, spec.stream, 0)?;
        }
        let found = if spec.is_exact {
            find_shown_still(&mut reader, spec, at_us)?
        } else {
            find_still(&mut reader, spec, at_us)?
        };
        let bytes = encode_jpeg(&found.picture, spec.quantizer)?;
        wire.send(&ChildMessage::Image {
            position: u16::try_from(position).unwrap_or(u16::MAX),
            at_us: u64::try_from(found.at_us.saturating_sub(spec.origin_us)).unwrap_or(0),
            width: found.picture.width(),
            height: found.picture.height(),
            bytes,
        })?;
        report.frames_decoded += reader.decoded;
        report.decode_errors += reader.errors;
        report.frames_written += 1;
        wire.send_progress(report.frames_written)?;
    }
    Ok(report)
}

/// A picture ready for JPEG.
struct StillPicture {
    picture: frame::Video,
    at_us: i64,
    luma: u64,
}

/// The first picture at or after a time that is not black, else the brightest, else the last of the track.
fn find_still(reader: &mut TrackDecoder, spec: &StillsSpec, at_us: i64) -> MediaChildResult<StillPicture> {
    let mut studio = StillRenderer::new(reader, spec)?;
    let mut best: Option<StillPicture> = None;
    let mut last = None;
    let mut seen = 0_u64;
    let mut stored = frame::Video::empty();
    while reader.next_frame(&mut stored)? {
        for picture in studio.deinterlace(std::mem::replace(&mut stored, frame::Video::empty()))? {
            let own_us = picture.pts().unwrap_or(0).rescale(reader.time_base, Rational(1, 1_000_000));
            if own_us.saturating_add(EARLY_US) < at_us {
                last = Some((picture, own_us));
                continue;
            }
            let is_over = own_us.saturating_sub(at_us) > SEARCH_US;
            if let Some(best) = best.take_if(|_| is_over) {
                return Ok(best);
            }
            seen += 1;
            if !(seen - 1).is_multiple_of(SEARCH_STEP) {
                continue;
            }
            let found = studio.render_still(picture, own_us)?;
            if found.luma > BLACK_LUMA_MAX || is_over {
                return Ok(found);
            }
            if best.as_ref().is_none_or(|best| found.luma > best.luma) {
                best = Some(found);
            }
        }
    }
    match (best, last) {
        (Some(best), _) => Ok(best),
        (None, Some((picture, own_us))) => studio.render_still(picture, own_us),
        (None, None) => Err(source_refused_error(
            MediaErrorCode::MediaNoFrames,
            "no picture of the stream could be decoded",
        )),
    }
}

/// The picture that is shown at a time: the last one that does not begin later, or else the first.
fn find_shown_still(
    reader: &mut TrackDecoder,
    spec: &StillsSpec,
    at_us: i64,
) -> MediaChildResult<StillPicture> {
    let mut studio = StillRenderer::new(reader, spec)?;
    let mut shown = None;
    let mut stored = frame::Video::empty();
    'frames: while reader.next_frame(&mut stored)? {
        for picture in studio.deinterlace(std::mem::replace(&mut stored, frame::Video::empty()))? {
            let own_us = picture.pts().unwrap_or(0).rescale(reader.time_base, Rational(1, 1_000_000));
            let is_later = own_us > at_us.saturating_add(ROUNDING_US);
            if !is_later || shown.is_none() {
                shown = Some((picture, own_us));
            }
            if is_later {
                break 'frames;
            }
        }
    }
    let (picture, own_us) = shown.ok_or_else(|| {
        source_refused_error(MediaErrorCode::MediaNoFrames, "no picture of the stream could be decoded")
    })?;
    studio.render_still(picture, own_us)
}

/// From stored pictures to those of the wanted size.
struct StillRenderer {
    deinterlace: Option<PictureFilter>,
    upright: PictureFilter,
    turn: DisplayRotation,
    side_max: u32,
    time_base: Rational,
    picture: Option<((u32, u32), PictureFilter)>,
}

impl StillRenderer {
    fn new(reader: &TrackDecoder, spec: &StillsSpec) -> MediaChildResult<Self> {
        let turn = DisplayRotation::from_stream(&reader.track()?);
        let time_base = reader.time_base;
        Ok(Self {
            deinterlace: spec
                .deinterlace
                .then(|| PictureFilter::new(FilterOperation::Deinterlace, time_base)),
            upright: PictureFilter::new(FilterOperation::Upright(turn), time_base),
            turn,
            side_max: spec.side_pixels_max,
            time_base,
            picture: None,
        })
    }

    fn deinterlace(&mut self, mut picture: frame::Video) -> MediaChildResult<Vec<frame::Video>> {
        match &mut self.deinterlace {
            Some(shaper) => shaper.push(&mut picture),
            None => Ok(vec![picture]),
        }
    }

    fn render_still(&mut self, mut picture: frame::Video, at_us: i64) -> MediaChildResult<StillPicture> {
        let shown = display_size(picture.width(), picture.height(), picture.aspect_ratio(), self.turn);
        let size = fit_size(shown, self.side_max);
        let mut upright = self.upright.filter_picture(&mut picture)?;
        if self.picture.as_ref().is_none_or(|(made, _)| *made != size) {
            let work = FilterOperation::Picture { width: size.0, height: size.1 };
            self.picture = Some((size, PictureFilter::new(work, self.time_base)));
        }
        let Some((_, shaper)) = &mut self.picture else {
            return Err(MediaChildError::Failed("no scaler".into()));
        };
        let picture = shaper.filter_picture(&mut upright)?;
        let luma = mean_luma(&picture);
        Ok(StillPicture { picture, at_us, luma })
    }
}

/// A size with the same shape whose longest side is bounded; even, so that chroma fits.
fn fit_size((width, height): (u32, u32), side_max: u32) -> (u32, u32) {
    let longest = u64::from(width.max(height).max(1));
    let scale = u64::from(side_max).min(longest);
    let fit = |side: u32| {
        let fitted = (2 * u64::from(side) * scale + longest) / (2 * longest);
        u32::try_from((fitted & !1).max(2)).unwrap_or(2)
    };
    (fit(width), fit(height))
}

fn mean_luma(picture: &frame::Video) -> u64 {
    let (width, stride) = (usize::try_from(picture.width()).unwrap_or(0), picture.stride(0));
    let rows = picture.data(0).chunks(stride.max(1)).take(usize::try_from(picture.height()).unwrap_or(0));
    let (mut sum, mut count) = (0_u64, 0_u64);
    for row in rows {
        let row = row.get(..width).unwrap_or(row);
        sum += row.iter().map(|luma| u64::from(*luma)).sum::<u64>();
        count += u64::try_from(row.len()).unwrap_or(0);
    }
    sum / count.max(1)
}

/// A picture of full range as JPEG.
pub(crate) fn encode_jpeg(picture: &frame::Video, quantizer: u8) -> MediaChildResult<Bytes> {
    let codec = find_encoder("mjpeg")?;
    let mut video = codec::Context::new_with_codec(codec).encoder().video().or_failed("make the encoder")?;
    video.set_width(picture.width());
    video.set_height(picture.height());
    video.set_format(Pixel::YUVJ420P);
    video.set_time_base(Rational(1, 25));
    video.set_color_range(ffmpeg_next::color::Range::JPEG);
    let mut options = Dictionary::new();
    let quality = i32::from(quantizer) * LAMBDA;
    options.set("flags", "+qscale+bitexact");
    options.set("global_quality", &quality.to_string());
    options.set("threads", "1");
    options.set("strict", "unofficial");
    let mut encoder = video.open_with(options).or_failed("open the encoder")?;
    let mut frame = crate::ffi::share_picture(picture).or_failed("share a picture")?;
    frame.set_pts(Some(0));
    crate::ffi::set_quality(&mut frame, quality);
    encoder.send_frame(&frame).or_failed("encode")?;
    encoder.send_eof().or_failed("end the encoder")?;
    let mut packet = Packet::empty();
    encoder.receive_packet(&mut packet).or_failed("take a picture")?;
    Ok(Bytes::copy_from_slice(packet.data().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_shape_within_the_bound() {
        assert_eq!(fit_size((1920, 1080), 640), (640, 360));
        assert_eq!(fit_size((1080, 1920), 640), (360, 640));
        assert_eq!(fit_size((101, 51), 640), (100, 50));
        assert_eq!(fit_size((5000, 3), 640), (640, 2));
    }
}
