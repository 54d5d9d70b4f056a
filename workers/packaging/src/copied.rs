//! The plan of an encode whose samples are copied from files that were made elsewhere. Pure, as all plans.

use schemas::{
    job::{AudioPlan, EncodePlan, LadderRung, PARTS_MAX, VideoPlan},
    media::{MediaWarning, Rational, warning_codes},
    renditions::{CopyPlan, FrameCopy, RenditionFile, SoundCopy},
};

use crate::{
    ladder::{self, PictureSize},
    plan::{
        EncodePlanInput, NoEncodableTrack, compute_digest, cut_ranges, frames_to_ms, name_track, plan_encode,
    },
    ratio::reduce_ratio,
    storyboard,
};

/// What is copied of files in place of being encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTracks {
    /// The files.
    pub files: Vec<RenditionFile>,
    /// Frames per second of all of them.
    pub frame_rate: Rational,
    /// Frames of each.
    pub frame_count: u64,
    /// Frames of a segment: each begins with a keyframe in every file.
    pub segment_frames: u32,
    /// Frames of a group of pictures, of which a segment has a whole number.
    pub gop_frames: u32,
    /// The rungs, best first.
    pub rungs: Vec<CopiedRung>,
    /// The sound, if there is any.
    pub sound: Option<CopiedSound>,
    /// Tracks of the files that are left out.
    pub warnings: Vec<MediaWarning>,
}

/// A rung whose frames are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedRung {
    /// Where they are from.
    pub copy: FrameCopy,
    /// Size of the pictures.
    pub size: PictureSize,
    /// Bits per second, on average.
    pub bit_rate_bps: u64,
    /// H.264 level times 10.
    pub level: u32,
}

/// A track of sound that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedSound {
    /// Where it is from.
    pub copy: SoundCopy,
    /// Language as its file says it.
    pub language: Option<String>,
    /// Name as its file says it.
    pub title: Option<String>,
    /// Channels.
    pub channels: u32,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Bits per second, on average.
    pub bit_rate_bps: u64,
    /// Samples that are taken.
    pub duration_samples: u64,
}

/// Stands in a plan for what an encoder would be set to: workers of versions that copy nothing refuse it.
const COPIED: &str = "copied";

/// By how much a film that is copied may differ in length from the source for its subtitles to fit, in milliseconds.
const SUBTITLES_OFF_MS_MAX: u64 = 1_000;

/// Plans an encode of samples that are copied. Poster and subtitles are those of the source.
pub fn plan_copied(
    input: &EncodePlanInput<'_>,
    copied: CopiedTracks,
) -> Result<EncodePlan, NoEncodableTrack> {
    let mut plan = plan_encode(input)?;
    let mut warnings = copied.warnings;
    let duration_ms = frames_to_ms(copied.frame_count, copied.frame_rate);
    if duration_ms.abs_diff(plan.duration_ms) > SUBTITLES_OFF_MS_MAX {
        warnings.extend(plan.subtitles.drain(..).map(|track| MediaWarning {
            code: warning_codes::SUBTITLE_TRACK_DROPPED.to_owned(),
            detail: format!("track {} of the source: the files are of another length", track.stream_index),
        }));
    }
    let parts_max = PARTS_MAX.saturating_sub(2);
    let ranges = cut_ranges(copied.frame_count, copied.segment_frames, input.profile, parts_max);
    let storyboard =
        copied.rungs.first().map(|top| storyboard::plan_storyboard(top.size, copied.gop_frames, &ranges));
    let frames: Vec<FrameCopy> = copied.rungs.iter().map(|rung| rung.copy).collect();
    let segment_seconds = reduce_ratio(
        u64::from(copied.segment_frames) * u64::from(copied.frame_rate.den),
        u64::from(copied.frame_rate.num),
    );
    plan.video = Some(VideoPlan {
        stream_index: frames.first().map_or(0, |copy| copy.stream_index),
        frame_rate: copied.frame_rate,
        frame_count: copied.frame_count,
        gop_frames: copied.gop_frames,
        segment_frames: copied.segment_frames,
        ranges,
        rungs: name_rungs(&copied.rungs),
        preset: COPIED.to_owned(),
        deinterlace: false,
        storyboard,
    });
    let sound = copied.sound.as_ref();
    plan.audio = sound.map(|sound| plan_copied_sound(sound, segment_seconds)).into_iter().collect();
    plan.duration_ms = duration_ms;
    plan.range = None;
    plan.reasons = vec![format!("{} files are copied", copied.files.len())];
    let source_sound = input.technical.audio.iter().skip(plan.audio.len());
    warnings.extend(source_sound.map(|track| MediaWarning {
        code: warning_codes::AUDIO_TRACK_DROPPED.to_owned(),
        detail: format!("track {} of the source: {}", track.index, track.codec),
    }));
    plan.warnings = warnings;
    plan.copy =
        Some(Box::new(CopyPlan { files: copied.files, frames, sound: copied.sound.map(|sound| sound.copy) }));
    plan.options_digest = String::new();
    plan.options_digest = compute_digest(&plan);
    Ok(plan)
}

/// Rungs by the short side of their pictures; those behind the first of a size get a letter.
fn name_rungs(rungs: &[CopiedRung]) -> Vec<LadderRung> {
    let mut named: Vec<LadderRung> = Vec::new();
    for rung in rungs {
        let side = rung.size.width.min(rung.size.height);
        let letters = std::iter::once(String::new()).chain(('b'..='z').map(String::from));
        let mut candidates = letters.map(|letter| format!("v{side}{letter}"));
        let is_free = |name: &String| named.iter().all(|other| other.name != *name);
        named.push(LadderRung {
            name: candidates.find(is_free).unwrap_or_default(),
            width: rung.size.width,
            height: rung.size.height,
            frame_step: 1,
            crf: 0,
            rate_max_bps: rung.bit_rate_bps,
            buffer_bits: 0,
            profile: COPIED.to_owned(),
            level: rung.level,
            threads: ladder::THREADS,
        });
    }
    named
}

fn plan_copied_sound(sound: &CopiedSound, segment_seconds: Rational) -> AudioPlan {
    let (language, label) = name_track(0, sound.language.as_deref(), sound.title.as_deref(), &[]);
    AudioPlan {
        name: "a0".to_owned(),
        stream_index: sound.copy.stream_index,
        language,
        label,
        channels: sound.channels,
        sample_rate_hz: sound.sample_rate_hz,
        bit_rate_bps: sound.bit_rate_bps,
        duration_samples: sound.duration_samples,
        segment_seconds,
        loudness_lufs: None,
    }
}
