//! From what the probe found to what will be made: the plan of one job. Pure: the same input gives the same plan.
//!
//! Parts are cut on the output frame grid, each a whole number of segments, the first one a single segment for a fast
//! start. Each audio track is one part, whole, so that no joint is ever audible.
//!
//! Limits: at most [`schemas::job::PARTS_MAX`] parts; the range length grows with the title.

use data_encoding::HEXLOWER;
use schemas::{
    encode::EncodeRange,
    ids::{JobId, MediaId},
    job::{AudioPlan, EncodePlan, FrameRange, LadderRung, PARTS_MAX, PosterPlan, SubtitlePlan, VideoPlan},
    media::{
        AudioTrack, MediaSource, MediaWarning, Rational, SubtitleTrack, TechnicalMetadata, VideoTrack,
        warning_codes,
    },
};
use sha2::{Digest, Sha256};

use crate::{
    EncodeProfile,
    audio_frame::{AUDIO_FRAME_SAMPLES, fill_last_frame},
    changes,
    ladder::{self, PictureSize},
    language,
    ratio::{reduce_ratio, scale_floor, scale_rounded},
    storyboard,
};

/// Sample rate of every audio rendition, in hertz.
pub const AUDIO_RATE_HZ: u32 = 48_000;

/// Channels of every audio rendition.
pub const AUDIO_CHANNELS: u32 = 2;

pub use schemas::job::FINISH;
use schemas::job::TASK;

/// Segments that an unfinished encode has before it can be played. Players ask for more a target duration after they got a playlist
/// (RFC 8216, 6.3.4): with one segment they have just played it then, and stall every time.
pub const GROWING_SEGMENTS_MIN: u32 = 2;

/// Name of the part that makes all subtitles.
pub const SUBTITLES: &str = "subtitles";

/// Part of every plan and its digest; raised when the same plan gives other bytes than before.
pub const OPTIONS_VERSION: &str = "transcode/3";

/// Codecs, by FFmpeg's names, that code frames of a fixed length and fill the last one up.
const LOSSY_CODECS: [&str; 8] = ["aac", "mp3", "mp2", "ac3", "eac3", "dts", "amr_nb", "amr_wb"];

/// Hexadecimal digits of an options digest.
const DIGEST_CHARS: usize = 20;

/// Latest time of a poster, in microseconds.
const POSTER_AT_US_MAX: u64 = 60_000_000;

/// Longest side of a poster, in pixels.
const POSTER_SIDE_PIXELS_MAX: u32 = 1_280;

/// A source from which nothing can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no track that could be encoded")]
pub struct NoEncodableTrack;

/// What the planner decides from.
#[derive(Debug, Clone, Copy)]
pub struct EncodePlanInput<'a> {
    /// The verified source.
    pub source: &'a MediaSource,
    /// What the probe found.
    pub technical: &'a TechnicalMetadata,
    /// Name of the profile.
    pub profile_name: &'a str,
    /// The profile.
    pub profile: &'a EncodeProfile,
    /// The part of the source that is encoded; all of it when absent.
    pub range: Option<EncodeRange>,
}

/// Plans an encode.
pub fn plan_encode(input: &EncodePlanInput<'_>) -> Result<EncodePlan, NoEncodableTrack> {
    let technical = input.technical;
    // The best comes first: the default one, else the largest.
    let picture = technical.video.first();
    let audio: Vec<&AudioTrack> = technical.audio.iter().take(input.profile.audio_tracks_max).collect();
    let video = if technical.still { None } else { picture };
    if picture.is_none() && audio.is_empty() {
        return Err(NoEncodableTrack);
    }
    let whole = measure_time_span(video, &audio, technical.duration_ms);
    let frame_rate = video.map(|track| ladder::choose_frame_rate(track, input.profile.frame_rate_max));
    let range = input.range.filter(|_| !technical.still);
    let span = range.map_or(whole, |range| cut_time_span(whole, range, frame_rate));
    let mut reasons = Vec::new();
    let other_parts = audio.len() + usize::from(!technical.subtitles.is_empty());
    let video =
        video.map(|track| plan_video(track, span.duration_us, input.profile, other_parts, &mut reasons));
    let left_out = technical.audio.len() - audio.len();
    if left_out > 0 {
        reasons.push(format!("{left_out} audio tracks left out: the profile takes {}", audio.len()));
    }
    if technical.still {
        reasons.push("a still image: a poster only".to_owned());
    }
    // Sound is as long as the frames of the picture, or renditions would end at different times.
    let duration_samples =
        video.as_ref().map_or_else(|| audio_samples(&audio, span.duration_us), video_samples).max(1);
    let segment_seconds = video.as_ref().map_or_else(
        || reduce_ratio(u64::from(input.profile.gop_ms) * u64::from(input.profile.segment_gops), 1_000),
        |v| {
            reduce_ratio(
                u64::from(v.segment_frames) * u64::from(v.frame_rate.den),
                u64::from(v.frame_rate.num),
            )
        },
    );
    let mut plan = EncodePlan {
        source_key: input.source.key.clone(),
        source_bytes: input.source.size_bytes,
        origin_us: span.origin_us,
        range,
        duration_ms: if technical.still { 0 } else { duration_samples.div_ceil(48) },
        subtitles: if technical.still { Vec::new() } else { plan_subtitles(&technical.subtitles) },
        poster: plan_poster(technical, span.duration_us),
        video,
        audio: if technical.still {
            Vec::new()
        } else {
            plan_audio(&audio, duration_samples, segment_seconds, input.profile)
        },
        profile: input.profile_name.to_owned(),
        options_digest: String::new(),
        options_version: OPTIONS_VERSION.to_owned(),
        clock: technical.clock.clone(),
        reasons: Vec::new(),
        warnings: Vec::new(),
        copy: None,
    };
    plan.options_digest = compute_digest(&plan);
    plan.reasons = reasons;
    plan.warnings = changes::list_changes(technical, &plan);
    plan.warnings.extend(range.map(|_| describe_range(whole, span)));
    Ok(plan)
}

/// Stands in the record of a job that could not be planned: nothing is made, by a profile of that name.
pub fn unplanned(source: &MediaSource, technical: &TechnicalMetadata, profile_name: &str) -> EncodePlan {
    EncodePlan {
        source_key: source.key.clone(),
        source_bytes: source.size_bytes,
        origin_us: 0,
        range: None,
        duration_ms: technical.duration_ms,
        subtitles: Vec::new(),
        poster: None,
        video: None,
        audio: Vec::new(),
        profile: profile_name.to_owned(),
        options_digest: "unplanned".to_owned(),
        options_version: OPTIONS_VERSION.to_owned(),
        clock: Vec::new(),
        reasons: Vec::new(),
        warnings: Vec::new(),
        copy: None,
    }
}

/// Names of the parts in queue order: the first audio track and the ranges that playing begins with, so that it starts early, then the
/// rest. The finish is not among them: it is queued when they are done.
pub fn part_names(plan: &EncodePlan) -> Vec<String> {
    let ranges = plan.video.as_ref().map_or(0, |v| v.ranges.len());
    let mut names: Vec<String> = plan.audio.iter().map(|a| a.name.clone()).collect();
    // In the order of the queue: what playing needs first is made first.
    names.truncate(plan.audio.len().min(1));
    let is_first = |range: &FrameRange| range.first_segment <= GROWING_SEGMENTS_MIN;
    let first =
        plan.video.as_ref().map_or(0, |v| v.ranges.iter().take_while(|range| is_first(range)).count());
    names.extend((0..first).map(video_part_name));
    names.extend((!plan.subtitles.is_empty()).then(|| SUBTITLES.to_owned()));
    names.extend(plan.audio.iter().skip(1).map(|a| a.name.clone()));
    names.extend((first..ranges).map(video_part_name));
    names
}

/// Name of the part of the range at `index`.
pub fn video_part_name(index: usize) -> String {
    format!("v{index:04}")
}

/// What a part's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartWork<'a> {
    /// All rungs of one range.
    Video {
        /// The video.
        video: &'a VideoPlan,
        /// The range.
        range: FrameRange,
    },
    /// One audio track.
    Audio(&'a AudioPlan),
    /// All subtitle tracks.
    Subtitles(&'a [SubtitlePlan]),
    /// Playlists, check and report.
    Finish,
}

/// Finds the work a part's name stands for.
pub fn find_part_work<'a>(plan: &'a EncodePlan, part: &str) -> Option<PartWork<'a>> {
    if part == FINISH {
        return Some(PartWork::Finish);
    }
    if part == SUBTITLES && !plan.subtitles.is_empty() {
        return Some(PartWork::Subtitles(&plan.subtitles));
    }
    if let Some(audio) = plan.audio.iter().find(|a| a.name == part) {
        return Some(PartWork::Audio(audio));
    }
    let video = plan.video.as_ref()?;
    let index: usize = part.strip_prefix('v').filter(|digits| digits.len() >= 4)?.parse().ok()?;
    let range = *video.ranges.get(index)?;
    // `v00001` parses like `v0001`: only the name as it is written names a part.
    (video_part_name(index) == part).then_some(PartWork::Video { video, range })
}

/// Milliseconds of output a part makes.
pub fn part_duration_ms(plan: &EncodePlan, part: &str) -> u64 {
    match find_part_work(plan, part) {
        Some(PartWork::Video { video, range }) => frames_to_ms(range.frame_count, video.frame_rate),
        Some(PartWork::Audio(audio)) => {
            audio.duration_samples * 1_000 / u64::from(audio.sample_rate_hz.max(1))
        }
        // What goes through a whole medium is as far as it is in there.
        None if part == TASK => plan.duration_ms,
        // Text takes no time worth counting.
        Some(PartWork::Subtitles(_) | PartWork::Finish) | None => 0,
    }
}

/// Bytes of a source that count as one in the cost of a job that goes through it: 64 MiB.
const TASK_COST_BYTES: u64 = 64 << 20;

/// Declared cost of a part, from 1: millions of pixels that are encoded, by which owners share the workers. A second of sound
/// counts as one, since an AAC encoder takes about as long for it as x264 for a million pixels at the presets used here. The part of a job
/// that makes no encode counts one for each 64 MiB of the source: it does not share workers with the others.
pub fn part_cost(plan: &EncodePlan, part: &str) -> u64 {
    let cost = match find_part_work(plan, part) {
        // Copying takes next to nothing of what encoding takes.
        _ if plan.copy.is_some() => 0,
        Some(PartWork::Video { video, range }) => {
            let pixels = |rung: &LadderRung| {
                let frames = range.frame_count.div_ceil(u64::from(rung.frame_step.max(1)));
                u64::from(rung.width).saturating_mul(u64::from(rung.height)).saturating_mul(frames)
            };
            video.rungs.iter().map(pixels).fold(0, u64::saturating_add) / 1_000_000
        }
        Some(PartWork::Audio(audio)) => audio.duration_samples / u64::from(audio.sample_rate_hz.max(1)),
        None if part == TASK => plan.source_bytes / TASK_COST_BYTES,
        Some(PartWork::Subtitles(_) | PartWork::Finish) | None => 0,
    };
    cost.max(1)
}

/// How long the whole presentation is, as so many units of a part of a second: frames of the picture, else samples of the sound.
pub fn presentation_length(plan: &EncodePlan) -> (u64, Rational) {
    let video = plan.video.as_ref().map(|video| (video.frame_count, video.frame_rate));
    let audio = plan.audio.first().map(|audio| {
        (fill_last_frame(audio.duration_samples), Rational { num: audio.sample_rate_hz, den: 1 })
    });
    video.or(audio).unwrap_or((0, Rational { num: 1, den: 1 }))
}

/// Duration of frames in whole milliseconds.
pub fn frames_to_ms(frames: u64, rate: Rational) -> u64 {
    scale_floor(frames, u64::from(rate.den) * 1_000, u64::from(rate.num))
}

/// The job that makes the encode `number` of a medium: always the same, so that planning twice is planning once.
pub fn derive_job_id(media_id: MediaId, number: u32) -> JobId {
    derive_id(media_id, &[b"transcode", media_id.as_bytes(), &number.to_be_bytes()])
}

/// A job of a medium that makes no encode, by what asked for it: always the same, so that beginning it twice is beginning it once.
pub fn derive_task_id(media_id: MediaId, asked_by: &[&[u8]]) -> JobId {
    derive_id(media_id, &[&[b"task" as &[u8]], asked_by].concat())
}

fn derive_id(media_id: MediaId, seed: &[&[u8]]) -> JobId {
    let mut hash = Sha256::new();
    for part in seed {
        hash.update(part);
    }
    let hash = hash.finalize();
    let mut bytes = *media_id.as_bytes();
    // The time of the medium stays in front, so that ids sort as they were made; the rest says which encode.
    for (byte, from) in bytes.iter_mut().skip(6).zip(hash.iter()) {
        *byte = *from;
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    JobId::from_bytes(bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SourceTimeSpan {
    origin_us: i64,
    duration_us: u64,
}

/// From the first start to the last end of the chosen tracks; the container's duration where they say nothing.
fn measure_time_span(video: Option<&VideoTrack>, audio: &[&AudioTrack], duration_ms: u64) -> SourceTimeSpan {
    let tracks = || {
        video.map(|t| (t.start_us, t.end_us)).into_iter().chain(audio.iter().map(|t| (t.start_us, t.end_us)))
    };
    let origin_us = tracks().map(|(start, _)| start).min().unwrap_or(0);
    let end_us = tracks().map(|(_, end)| end).max().unwrap_or(0);
    let measured = u64::try_from(end_us.saturating_sub(origin_us)).unwrap_or(0);
    SourceTimeSpan {
        origin_us,
        duration_us: if measured > 0 { measured } else { (duration_ms * 1_000).max(1) },
    }
}

/// A part of a source whose ends are those of output frames, so that pictures and sound begin and end together; at least one frame.
fn cut_time_span(whole: SourceTimeSpan, range: EncodeRange, frame_rate: Option<Rational>) -> SourceTimeSpan {
    // Without a picture to the microsecond: less than a sample.
    let rate = frame_rate.unwrap_or(Rational { num: 1_000_000, den: 1 });
    let (num, den) = (u64::from(rate.num), u64::from(rate.den) * 1_000_000);
    let to_frame = |us: u64| scale_rounded(us, num, den);
    let to_us = |frame: u64| scale_rounded(frame, den, num);
    let frame_count = to_frame(whole.duration_us).max(1);
    let start = to_frame(range.start_ms.saturating_mul(1_000)).min(frame_count - 1);
    let end = range.end_ms.map_or(frame_count, |end_ms| to_frame(end_ms.saturating_mul(1_000)));
    let end = end.min(frame_count).max(start + 1);
    SourceTimeSpan {
        origin_us: whole.origin_us.saturating_add(i64::try_from(to_us(start)).unwrap_or(i64::MAX)),
        duration_us: to_us(end - start).max(1),
    }
}

fn describe_range(whole: SourceTimeSpan, part: SourceTimeSpan) -> MediaWarning {
    let start_us = u64::try_from(part.origin_us.saturating_sub(whole.origin_us)).unwrap_or(0);
    let seconds = |us: u64| format!("{}.{:03}", us / 1_000_000, us / 1_000 % 1_000);
    let (start, end, all) = (start_us, start_us + part.duration_us, whole.duration_us);
    let detail = format!("{} s to {} s of {} s", seconds(start), seconds(end), seconds(all));
    MediaWarning { code: warning_codes::RANGE_ENCODED.to_owned(), detail }
}

fn plan_video(
    track: &VideoTrack,
    duration_us: u64,
    profile: &EncodeProfile,
    other_parts: usize,
    reasons: &mut Vec<String>,
) -> VideoPlan {
    let frame_rate = ladder::choose_frame_rate(track, profile.frame_rate_max);
    let size: PictureSize = ladder::display_size(track);
    let (rungs, why) = ladder::choose_rungs(size, frame_rate, profile);
    reasons.extend(why);
    let frames = scale_rounded(duration_us, u64::from(frame_rate.num), u64::from(frame_rate.den) * 1_000_000);
    let frame_count = frames.max(1);
    let gop = scale_rounded(
        u64::from(profile.gop_ms),
        u64::from(frame_rate.num),
        u64::from(frame_rate.den) * 1_000,
    );
    let gop_frames = u32::try_from(gop.max(1)).unwrap_or(1);
    let segment_frames = gop_frames.saturating_mul(profile.segment_gops.max(1));
    let ranges = cut_ranges(frame_count, segment_frames, profile, PARTS_MAX.saturating_sub(other_parts));
    reasons.push(format!("{} parts of video", ranges.len()));
    let storyboard = Some(storyboard::plan_storyboard(size, gop_frames, &ranges));
    VideoPlan {
        stream_index: track.index,
        frame_rate,
        frame_count,
        gop_frames,
        segment_frames,
        ranges,
        rungs,
        preset: profile.preset.name().to_owned(),
        deinterlace: track.interlaced,
        storyboard,
    }
}

/// Cuts the frame grid: a short title stays whole; else one segment first, then ranges of equally many segments.
pub(crate) fn cut_ranges(
    frame_count: u64,
    segment_frames: u32,
    profile: &EncodeProfile,
    parts_max: usize,
) -> Vec<FrameRange> {
    let segment = u64::from(segment_frames);
    let segments = frame_count.div_ceil(segment);
    if segments <= u64::from(profile.single_part_segments_max) {
        return vec![FrameRange { start_frame: 0, frame_count, first_segment: 1 }];
    }
    let parts_max = u64::try_from(parts_max).unwrap_or(2).max(2);
    let length = u64::from(profile.part_segments).max((segments - 1).div_ceil(parts_max - 1)).max(1);
    let mut ranges = Vec::new();
    let mut first = 0;
    while first < segments {
        // The first part has one segment, so that playing can begin soon.
        let count = if first == 0 { 1 } else { length.min(segments - first) };
        let start_frame = first * segment;
        ranges.push(FrameRange {
            start_frame,
            frame_count: (count * segment).min(frame_count - start_frame),
            first_segment: u32::try_from(first + 1).unwrap_or(u32::MAX),
        });
        first += count;
    }
    ranges
}

/// Samples as long as the video, rounded.
fn video_samples(video: &VideoPlan) -> u64 {
    let rate = video.frame_rate;
    scale_rounded(video.frame_count, u64::from(rate.den) * u64::from(AUDIO_RATE_HZ), u64::from(rate.num))
}

/// Samples of sound alone. The last frame of a lossy codec is padded by its encoder, so the nearest whole frame is meant: another
/// frame would add silence to silence. Exact sound is kept to its last sample.
fn audio_samples(tracks: &[&AudioTrack], duration_us: u64) -> u64 {
    let samples = duration_us * u64::from(AUDIO_RATE_HZ / 1_000) / 1_000;
    let frame = AUDIO_FRAME_SAMPLES;
    let is_padded = |track: &&AudioTrack| LOSSY_CODECS.contains(&track.codec.as_str());
    if tracks.iter().all(is_padded) { ((samples + frame / 2) / frame).max(1) * frame } else { samples }
}

fn plan_audio(
    tracks: &[&AudioTrack],
    duration_samples: u64,
    segment_seconds: Rational,
    profile: &EncodeProfile,
) -> Vec<AudioPlan> {
    let mut plans: Vec<AudioPlan> = Vec::new();
    for (position, track) in tracks.iter().enumerate() {
        let taken: Vec<&str> = plans.iter().map(|plan| plan.label.as_str()).collect();
        let (language, label) =
            name_track(position, track.language.as_deref(), track.title.as_deref(), &taken);
        plans.push(AudioPlan {
            name: format!("a{position}"),
            stream_index: track.index,
            language,
            label,
            channels: AUDIO_CHANNELS,
            sample_rate_hz: AUDIO_RATE_HZ,
            bit_rate_bps: profile.audio_rate_bps,
            duration_samples,
            segment_seconds,
            loudness_lufs: profile.loudness_lufs,
        });
    }
    plans
}

fn plan_subtitles(tracks: &[SubtitleTrack]) -> Vec<SubtitlePlan> {
    let mut plans: Vec<SubtitlePlan> = Vec::new();
    for (position, track) in tracks.iter().enumerate() {
        let taken: Vec<&str> = plans.iter().map(|plan| plan.label.as_str()).collect();
        let (language, label) =
            name_track(position, track.language.as_deref(), track.title.as_deref(), &taken);
        plans.push(SubtitlePlan {
            name: format!("s{position}"),
            stream_index: track.index,
            codec: track.codec.clone(),
            language,
            label,
            is_forced: track.is_forced,
            is_hearing_impaired: track.is_hearing_impaired,
        });
    }
    plans
}

/// The language of a track, and its name for people, which none of its group has (RFC 8216, 4.3.4.1): its title, else its language.
pub(crate) fn name_track(
    position: usize,
    language: Option<&str>,
    title: Option<&str>,
    taken: &[&str],
) -> (String, String) {
    let language = language::to_language_tag(language.unwrap_or_default());
    let wished = title.map(sanitize_label).filter(|title| !title.is_empty()).unwrap_or_else(|| {
        language::language_name(&language).unwrap_or_else(|| format!("Track {}", position + 1))
    });
    let numbered = (position + 1..).map(|number| format!("{wished} ({number})"));
    let mut labels = std::iter::once(wished.clone()).chain(numbered);
    let label = labels.find(|label| !taken.contains(&label.as_str())).unwrap_or(wished);
    (language, label)
}

/// The cover that the source brings, else a frame of the film.
fn plan_poster(technical: &TechnicalMetadata, duration_us: u64) -> Option<PosterPlan> {
    let cover = technical.cover_index.map(|stream_index| PosterPlan {
        stream_index,
        at_us: 0,
        side_pixels_max: POSTER_SIDE_PIXELS_MAX,
        is_cover: true,
    });
    let duration_us = if technical.still { 0 } else { duration_us };
    cover.or_else(|| technical.video.first().map(|track| frame_poster(track.index, duration_us)))
}

/// The poster of a plan whose cover can't be decoded: a frame of its film.
pub fn plan_frame_poster(plan: &EncodePlan) -> Option<PosterPlan> {
    plan.video.as_ref().map(|video| frame_poster(video.stream_index, plan.duration_ms.saturating_mul(1_000)))
}

fn frame_poster(stream_index: u32, duration_us: u64) -> PosterPlan {
    PosterPlan {
        stream_index,
        at_us: (duration_us / 10).min(POSTER_AT_US_MAX),
        side_pixels_max: POSTER_SIDE_PIXELS_MAX,
        is_cover: false,
    }
}

/// Text for a quoted attribute of a playlist: no quotes, no control characters, at most 64 characters.
fn sanitize_label(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').take(64).collect();
    kept.trim().to_owned()
}

/// SHA-256 over everything that decides about the bytes, shortened.
pub(crate) fn compute_digest(plan: &EncodePlan) -> String {
    let mut hash = Sha256::new();
    // Struct fields are written in the order of their definition, so equal plans give equal text.
    hash.update(serde_json::to_vec(plan).unwrap_or_default());
    let mut text = HEXLOWER.encode(&hash.finalize());
    text.truncate(DIGEST_CHARS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn technical(duration_us: i64, frame_rate: (u32, u32)) -> TechnicalMetadata {
        TechnicalMetadata {
            container: "mp4".into(),
            duration_ms: 1,
            bit_rate_bps: 1,
            video: vec![VideoTrack {
                width: 640,
                height: 360,
                frame_rate: Rational { num: frame_rate.0, den: frame_rate.1 },
                frame_count: 1,
                end_us: duration_us,
                ..schemas::examples::video_track()
            }],
            audio: vec![AudioTrack {
                sample_rate_hz: 44_100,
                channels: 2,
                language: Some("en".into()),
                start_us: 0,
                end_us: duration_us,
                ..schemas::examples::audio_track()
            }],
            subtitles: Vec::new(),
            chapters: Vec::new(),
            cover_index: None,
            still: false,
            clock: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn planned(technical: &TechnicalMetadata, profile: &EncodeProfile) -> EncodePlan {
        let source = MediaSource { key: "k".into(), size_bytes: 7, sha256: "00".into() };
        plan_encode(&EncodePlanInput {
            source: &source,
            technical,
            profile_name: "default",
            profile,
            range: None,
        })
        .unwrap()
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        let mut nothing = technical(1, (25, 1));
        nothing.video.clear();
        nothing.audio.clear();
        let source = MediaSource { key: "k".into(), size_bytes: 7, sha256: "00".into() };
        let profile = EncodeProfile::default();
        let input = EncodePlanInput {
            source: &source,
            technical: &nothing,
            profile_name: "x",
            profile: &profile,
            range: None,
        };
        assert_eq!(plan_encode(&input), Err(NoEncodableTrack));
    }

    #[test]
    fn ranges_cover_the_grid_once() {
        for (seconds, rate) in [
            (1, (25, 1)),
            (7, (30_000, 1001)),
            (180, (25, 1)),
            (3_601, (60, 1)),
            (86_400, (25, 1)),
            (86_400, (1, 1)),
        ] {
            let plan = planned(&technical(seconds * 1_000_000, rate), &EncodeProfile::default());
            let video = plan.video.as_ref().unwrap();
            let mut next = 0;
            for (index, range) in video.ranges.iter().enumerate() {
                assert_eq!(range.start_frame, next, "{seconds} s part {index}");
                assert_eq!(u64::from(range.first_segment - 1) * u64::from(video.segment_frames), next);
                assert!(range.frame_count > 0);
                next += range.frame_count;
            }
            assert_eq!(next, video.frame_count, "{seconds} s at {rate:?}");
            assert!(part_names(&plan).len() <= PARTS_MAX, "{seconds} s");
            if video.ranges.len() > 1 {
                assert_eq!(
                    video.ranges[0].frame_count,
                    u64::from(video.segment_frames),
                    "the first part is short"
                );
            }
        }
    }

    #[test]
    fn durations_agree() {
        let check = |duration_us, rate, frames, gop, segment, samples| {
            let plan = planned(&technical(duration_us, rate), &EncodeProfile::default());
            let video = plan.video.as_ref().unwrap();
            let found =
                (video.frame_count, video.gop_frames, video.segment_frames, plan.audio[0].duration_samples);
            assert_eq!(found, (frames, gop, segment, samples), "{duration_us} us at {rate:?}");
        };
        check(10_000_000, (25, 1), 250, 50, 150, 480_000);
        check(10_010_000, (30_000, 1001), 300, 60, 180, 480_480);
        check(40_000, (25, 1), 1, 50, 150, 1_920);
        check(1, (25, 1), 1, 50, 150, 1_920);
        check(10_000_000, (1, 1), 10, 2, 6, 480_000);
        check(10_000_000, (24_000, 1001), 240, 48, 144, 480_480);
    }

    #[test]
    fn parts_have_names_and_names_have_parts() {
        let plan = planned(&technical(180_000_000, (25, 1)), &EncodeProfile::default());
        let names = part_names(&plan);
        assert_eq!(names, ["a0", "v0000", "v0001", "v0002", "v0003", "v0004", "v0005", "v0006"]);
        for name in &names {
            assert!(find_part_work(&plan, name).is_some(), "{name}");
        }
        assert_eq!(find_part_work(&plan, FINISH), Some(PartWork::Finish));
        for name in ["", "v", "v0", "v0007", "v00001", "a1", "../v0000", "v-001", "x0000"] {
            assert_eq!(find_part_work(&plan, name), None, "{name}");
        }
        assert_eq!(names.iter().map(|n| part_duration_ms(&plan, n)).sum::<u64>(), 360_000);
    }

    #[test]
    fn starts_before_or_after_zero_are_shifted() {
        let mut shifted = technical(10_000_000, (25, 1));
        shifted.video[0].start_us = 1_400_000;
        shifted.audio[0].start_us = 1_379_000;
        let plan = planned(&shifted, &EncodeProfile::default());
        assert_eq!((plan.origin_us, plan.video.unwrap().frame_count), (1_379_000, 216));
    }

    #[test]
    fn hostile_names_become_harmless() {
        let mut hostile = technical(10_000_000, (25, 1));
        hostile.audio[0].title = Some("a\"b\n#EXT-X-ENDLIST".into());
        hostile.audio[0].language = Some("\",URI=\"x".into());
        let copy = hostile.audio[0].clone();
        hostile.audio.push(copy);
        let plan = planned(&hostile, &EncodeProfile::default());
        assert_eq!(
            (plan.audio[0].label.as_str(), plan.audio[0].language.as_str()),
            ("ab#EXT-X-ENDLIST", "und")
        );
        assert_eq!(plan.audio[1].label, "ab#EXT-X-ENDLIST (2)");
    }

    #[test]
    fn stills_get_a_poster_and_audio_gets_playlists() {
        let mut still = technical(40_000, (25, 1));
        still.audio.clear();
        still.still = true;
        let plan = planned(&still, &EncodeProfile::default());
        assert_eq!(
            (plan.video.is_none(), plan.audio.len(), plan.duration_ms, part_names(&plan).len()),
            (true, 0, 0, 0)
        );
        assert_eq!(plan.poster.unwrap().at_us, 0);

        let mut sound = technical(10_000_000, (25, 1));
        sound.video.clear();
        let plan = planned(&sound, &EncodeProfile::default());
        // 10 s are 468.75 frames of AAC, of which the source's encoder filled up the last one.
        assert_eq!((plan.video.is_none(), plan.poster.is_none(), plan.duration_ms), (true, true, 10_006));
        sound.audio[0].codec = "flac".into();
        let plan = planned(&sound, &EncodeProfile::default());
        assert_eq!(plan.duration_ms, 10_000, "exact sound keeps its last sample");
        assert_eq!(plan.audio[0].segment_seconds, Rational { num: 6, den: 1 });
    }

    #[test]
    fn a_part_has_its_ends_on_the_frame_grid() {
        let source = MediaSource { key: "s".into(), size_bytes: 1, sha256: "0".into() };
        let profile = EncodeProfile::default();
        let planned_part = |rate, start_ms, end_ms| {
            let technical = technical(10_000_000, rate);
            let range = Some(EncodeRange { start_ms, end_ms });
            let (technical, profile) = (&technical, &profile);
            let input =
                EncodePlanInput { source: &source, technical, profile_name: "default", profile, range };
            let plan = plan_encode(&input).unwrap();
            let video = plan.video.as_ref().unwrap();
            assert_eq!(plan.audio[0].duration_samples, video_samples(video), "sound is as long");
            assert_eq!(plan.warnings.last().unwrap().code, warning_codes::RANGE_ENCODED);
            (plan.origin_us, video.frame_count)
        };
        for (rate, start_ms, end_ms, wanted) in [
            ((25, 1), 2_000, Some(4_000), (2_000_000, 50)),
            // To the nearest frame, either way.
            ((25, 1), 2_019, Some(4_021), (2_000_000, 51)),
            ((25, 1), 2_021, None, (2_040_000, 199)),
            ((25, 1), 0, Some(1), (0, 1)),
            ((25, 1), 99_000, Some(100_000), (9_960_000, 1)),
            ((30_000, 1_001), 1_001, Some(2_002), (1_001_000, 30)),
            // Frame 100 begins at 3.336666... s.
            ((30_000, 1_001), 3_337, Some(6_673), (3_336_667, 100)),
        ] {
            assert_eq!(planned_part(rate, start_ms, end_ms), wanted, "{rate:?} {start_ms} {end_ms:?}");
        }
    }

    #[test]
    fn digest_follows_what_decides_about_the_bytes() {
        let profile = EncodeProfile::default();
        let one = planned(&technical(10_000_000, (25, 1)), &profile);
        assert_eq!(one, planned(&technical(10_000_000, (25, 1)), &profile));
        assert_eq!(one.options_digest.len(), DIGEST_CHARS);
        let other = planned(&technical(10_000_000, (25, 1)), &EncodeProfile { crf: 24, ..profile });
        assert_ne!(one.options_digest, other.options_digest);
    }

    #[test]
    fn job_id_is_the_same_each_time_and_sorts_with_its_medium() {
        let media_id = MediaId::from_bytes([1; 16]);
        assert_eq!(derive_job_id(media_id, 1), derive_job_id(media_id, 1));
        assert_ne!(derive_job_id(media_id, 1), derive_job_id(media_id, 2));
        assert_eq!(derive_job_id(media_id, 1).as_bytes()[..6], [1; 6]);
    }
}
