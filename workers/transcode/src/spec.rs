//! From the plan's words to the media child's.

use media::{
    AudioSpec, ClockMap, ClockMark, EncodeSpec, EncoderPreset, H264Profile, MediaRatio, StillsSpec,
    StoryboardSpec, SubtitlesSpec,
};
use packaging::storyboard::{self, StoryboardSheet};
use schemas::{
    job::{AudioPlan, EncodePlan, FrameRange, PosterPlan, StoryboardPlan, SubtitlePlan, VideoPlan},
    media::Rational,
};

use crate::error::TranscodeError;

/// JPEG quantiser of posters, 2 (best) to 31.
const POSTER_QUANTIZER: u8 = 4;

/// JPEG quantiser of storyboards, 2 (best) to 31: their tiles are small and there are many.
const STORYBOARD_QUANTIZER: u8 = 6;

/// Decoder threads of a usual run: two slots then keep two cores busy without thrashing.
const DECODE_THREADS: u16 = 2;

/// How careful a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncodeMode {
    /// As fast as the machine allows.
    Usual,
    /// One decoder thread, after crashes. Encoders always have one thread per rung and the output does not depend on the
    /// decoder's threads, so bytes and options digest stay the same and finished parts stay valid.
    Safe,
}

/// One range, all rungs; rendition `n` is rung `n` of the plan.
pub(crate) fn build_encode_spec(
    plan: &EncodePlan,
    video: &VideoPlan,
    range: FrameRange,
    care: EncodeMode,
) -> Result<EncodeSpec, TranscodeError> {
    let rungs = video.rungs.iter().zip(0_u16..).map(|(rung, rendition)| {
        Ok(media::EncodeRung {
            rendition,
            width: rung.width,
            height: rung.height,
            crf: to_crf(rung.crf),
            rate_bits_per_second_max: rung.rate_max_bps,
            buffer_bits: rung.buffer_bits,
            profile: parse_profile(&rung.profile)?,
            level: u8::try_from(rung.level).map_err(|_| unknown_value("level", rung.level))?,
            threads: u16::try_from(rung.threads).map_err(|_| unknown_value("threads", rung.threads))?,
        })
    });
    Ok(EncodeSpec {
        stream: video.stream_index,
        origin_us: plan.origin_us,
        frame_rate: to_media_ratio(video.frame_rate),
        start_frame: range.start_frame,
        frame_count: u32::try_from(range.frame_count)
            .map_err(|_| unknown_value("frame count", range.frame_count))?,
        first_segment: range.first_segment,
        segment_frames: video.segment_frames,
        gop_frames: video.gop_frames,
        deinterlace: video.deinterlace,
        decode_threads: if care == EncodeMode::Safe { 1 } else { DECODE_THREADS },
        preset: parse_preset(&video.preset)?,
        rungs: rungs.collect::<Result<_, TranscodeError>>()?,
        storyboard: video.storyboard.and_then(|plan| {
            storyboard::find_sheet(&plan, range).map(|sheet| build_storyboard_spec(&plan, sheet))
        }),
        clock: to_clock_map(plan),
    })
}

/// A sheet of a storyboard.
pub(crate) fn build_storyboard_spec(plan: &StoryboardPlan, sheet: StoryboardSheet) -> StoryboardSpec {
    StoryboardSpec {
        first_frame: sheet.first_frame,
        interval_frames: plan.interval_frames,
        tile_count: sheet.tile_count,
        columns: plan.columns,
        tile_width: plan.tile_width,
        tile_height: plan.tile_height,
        quantizer: STORYBOARD_QUANTIZER,
    }
}

/// One audio track; it is rendition 0.
pub(crate) fn build_audio_spec(plan: &EncodePlan, audio: &AudioPlan) -> Result<AudioSpec, TranscodeError> {
    Ok(AudioSpec {
        stream: audio.stream_index,
        origin_us: plan.origin_us,
        rendition: 0,
        duration_samples: audio.duration_samples,
        segment_seconds: to_media_ratio(audio.segment_seconds),
        rate_bits_per_second: u32::try_from(audio.bit_rate_bps)
            .map_err(|_| unknown_value("rate", audio.bit_rate_bps))?,
        loudness_lufs: audio.loudness_lufs,
        clock: to_clock_map(plan),
    })
}

/// All subtitle tracks; the one at position `n` is rendition `n`.
pub(crate) fn build_subtitles_spec(
    plan: &EncodePlan,
    tracks: &[SubtitlePlan],
    duration_us: u64,
) -> SubtitlesSpec {
    SubtitlesSpec {
        streams: tracks.iter().map(|track| track.stream_index).collect(),
        origin_us: plan.origin_us,
        duration_us,
        clock: to_clock_map(plan),
    }
}

/// The poster.
pub(crate) fn build_poster_spec(plan: &EncodePlan, poster: &PosterPlan) -> StillsSpec {
    StillsSpec {
        is_exact: false,
        stream: poster.stream_index,
        origin_us: plan.origin_us,
        at_us: vec![poster.at_us],
        side_pixels_max: poster.side_pixels_max,
        quantizer: POSTER_QUANTIZER,
        // A cover is one whole picture; the filter would wait for a second one.
        deinterlace: !poster.is_cover && plan.video.as_ref().is_some_and(|v| v.deinterlace),
        clock: to_clock_map(plan),
    }
}

fn to_clock_map(plan: &EncodePlan) -> ClockMap {
    let marks = plan.clock.iter().map(|mark| ClockMark {
        position_bytes: mark.position_bytes,
        offset_us: mark.offset_us,
        at_us: mark.at_us,
    });
    ClockMap(marks.collect())
}

pub(crate) fn to_media_ratio(value: Rational) -> MediaRatio {
    MediaRatio::new(value.num, value.den)
}

fn to_crf(value: u32) -> f32 {
    u8::try_from(value).map_or(51.0, f32::from)
}

fn parse_profile(name: &str) -> Result<H264Profile, TranscodeError> {
    match name {
        "baseline" => Ok(H264Profile::Baseline),
        "main" => Ok(H264Profile::Main),
        "high" => Ok(H264Profile::High),
        other => Err(unknown_value("profile", other)),
    }
}

pub(crate) fn parse_preset(name: &str) -> Result<EncoderPreset, TranscodeError> {
    match name {
        "ultrafast" => Ok(EncoderPreset::Ultrafast),
        "superfast" => Ok(EncoderPreset::Superfast),
        "veryfast" => Ok(EncoderPreset::Veryfast),
        "faster" => Ok(EncoderPreset::Faster),
        "fast" => Ok(EncoderPreset::Fast),
        "medium" => Ok(EncoderPreset::Medium),
        "slow" => Ok(EncoderPreset::Slow),
        other => Err(unknown_value("preset", other)),
    }
}

fn unknown_value(what: &str, value: impl std::fmt::Display) -> TranscodeError {
    TranscodeError::Unknown(format!("{what} {value:.40}"))
}
