//! From the plan's words to the media child's.

use media::{AudioSpec, EncodeSpec, Preset, Profile, Ratio, StillsSpec};
use schemas::{
    job::{AudioPlan, Plan, PosterPlan, Range, VideoPlan},
    media::Rational,
};

use crate::error::Error;

/// JPEG quantiser of posters, 2 (best) to 31.
const POSTER_QUANTIZER: u8 = 4;

/// Decoder threads of a usual run: two slots then keep two cores busy without thrashing.
const DECODE_THREADS: u16 = 2;

/// How careful a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// As fast as the machine allows.
    Usual,
    /// One decoder thread, after crashes. Encoders always have one thread per rung and the output does not depend on the
    /// decoder's threads, so bytes and options digest stay the same and finished parts stay valid.
    Safe,
}

/// One range, all rungs; rendition `n` is rung `n` of the plan.
pub(crate) fn encode(plan: &Plan, video: &VideoPlan, range: Range, care: Care) -> Result<EncodeSpec, Error> {
    let rungs = video.rungs.iter().zip(0_u16..).map(|(rung, rendition)| {
        Ok(media::Rung {
            rendition,
            width: rung.width,
            height: rung.height,
            crf: crf(rung.crf),
            rate_bits_per_second_max: rung.rate_max_bps,
            buffer_bits: rung.buffer_bits,
            profile: profile(&rung.profile)?,
            level: u8::try_from(rung.level).map_err(|_| unknown("level", rung.level))?,
            threads: u16::try_from(rung.threads).map_err(|_| unknown("threads", rung.threads))?,
        })
    });
    Ok(EncodeSpec {
        stream: video.stream_index,
        origin_us: plan.origin_us,
        frame_rate: ratio(video.frame_rate),
        start_frame: range.start_frame,
        frame_count: u32::try_from(range.frame_count)
            .map_err(|_| unknown("frame count", range.frame_count))?,
        first_segment: range.first_segment,
        segment_frames: video.segment_frames,
        gop_frames: video.gop_frames,
        deinterlace: video.deinterlace,
        decode_threads: if care == Care::Safe { 1 } else { DECODE_THREADS },
        preset: preset(&video.preset)?,
        rungs: rungs.collect::<Result<_, Error>>()?,
    })
}

/// One audio track; it is rendition 0.
pub(crate) fn audio(plan: &Plan, audio: &AudioPlan) -> Result<AudioSpec, Error> {
    Ok(AudioSpec {
        stream: audio.stream_index,
        origin_us: plan.origin_us,
        rendition: 0,
        duration_samples: audio.duration_samples,
        segment_seconds: ratio(audio.segment_seconds),
        rate_bits_per_second: u32::try_from(audio.bit_rate_bps)
            .map_err(|_| unknown("rate", audio.bit_rate_bps))?,
    })
}

/// The poster.
pub(crate) fn poster(plan: &Plan, poster: &PosterPlan) -> StillsSpec {
    StillsSpec {
        stream: poster.stream_index,
        origin_us: plan.origin_us,
        at_us: vec![poster.at_us],
        side_pixels_max: poster.side_pixels_max,
        quantizer: POSTER_QUANTIZER,
        deinterlace: plan.video.as_ref().is_some_and(|v| v.deinterlace),
    }
}

fn ratio(value: Rational) -> Ratio {
    Ratio::new(value.num, value.den)
}

fn crf(value: u32) -> f32 {
    u8::try_from(value).map_or(51.0, f32::from)
}

fn profile(name: &str) -> Result<Profile, Error> {
    match name {
        "baseline" => Ok(Profile::Baseline),
        "main" => Ok(Profile::Main),
        "high" => Ok(Profile::High),
        other => Err(unknown("profile", other)),
    }
}

fn preset(name: &str) -> Result<Preset, Error> {
    match name {
        "ultrafast" => Ok(Preset::Ultrafast),
        "superfast" => Ok(Preset::Superfast),
        "veryfast" => Ok(Preset::Veryfast),
        "faster" => Ok(Preset::Faster),
        "fast" => Ok(Preset::Fast),
        "medium" => Ok(Preset::Medium),
        "slow" => Ok(Preset::Slow),
        other => Err(unknown("preset", other)),
    }
}

fn unknown(what: &str, value: impl std::fmt::Display) -> Error {
    Error::Unknown(format!("{what} {value:.40}"))
}
