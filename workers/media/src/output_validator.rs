//! What a child may say next: every frame is held against the plan that its task implies.
//!
//! Limits: segments and pictures by number and size, bytes of output, progress that never goes back.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::copy::{FrameIndex, KEY_FRAMES_MAX, MediaSurvey};
use crate::error::MediaTaskError;
use crate::grid::{AudioGrid, VideoGrid};
use crate::probe::{
    MediaProbe, MediaStream, MediaStreamKind, SOURCE_CHAPTERS_MAX, SourceChapter, TEXT_CHARS_MAX,
};
use crate::protocol::{MediaLimits, MediaTask, MediaTaskReport, to_printable};
use crate::spec::{
    CUE_TEXT_BYTES_MAX, CUES_BYTES_MAX, CUES_MAX, MediaTaskOutput, StoryboardSpec, SubtitleCue, SubtitlesSpec,
};

/// Smallest possible file of each kind, in bytes: less is no segment.
const FILE_BYTES_MIN: usize = 16;

/// The plan of one task and how much of it has been seen.
#[derive(Debug)]
pub(crate) struct OutputValidator {
    task: MediaTask,
    plan: ExpectedOutput,
    next: BTreeMap<u16, RenditionProgress>,
    images: u16,
    cues: usize,
    cues_bytes: usize,
    progress: u64,
    steps: u64,
    output_bytes: u64,
    output_bytes_max: u64,
    packets_max: u64,
    streams_max: u32,
}

#[derive(Debug)]
enum ExpectedOutput {
    Video(FrameRangePlan, VideoGrid),
    Audio(AudioGrid),
    Images(u16),
    Cues(SubtitlesSpec),
    Probe,
    Survey,
}

/// The frames of a range, and how they are cut.
#[derive(Debug, Clone, Copy)]
struct FrameRangePlan {
    start_frame: u64,
    frame_count: u32,
    first_segment: u32,
    segment_frames: u32,
    sheet: Option<StoryboardSpec>,
}

impl FrameRangePlan {
    fn segment_count(self) -> u32 {
        self.frame_count.div_ceil(self.segment_frames.max(1))
    }
}

#[derive(Debug, Default)]
struct RenditionProgress {
    has_init: bool,
    segments: u32,
}

/// The numbers of a segment as claimed by the child, or as planned.
#[derive(Debug, PartialEq, Eq)]
struct SegmentTiming {
    number: u32,
    start_ticks: u64,
    duration_ticks: u64,
    timescale: u32,
    sample_count: u32,
}

impl OutputValidator {
    /// The plan of a task; fails when the task is impossible.
    pub(crate) fn new(
        task: &MediaTask,
        limits: &MediaLimits,
        output_bytes_max: u64,
    ) -> Result<Self, MediaTaskError> {
        let mut renditions = Vec::new();
        let plan = match task {
            MediaTask::Encode(spec) => {
                renditions.extend(spec.rungs.iter().map(|rung| rung.rendition));
                let grid = spec.check().map_err(MediaTaskError::Spec)?;
                let range = FrameRangePlan {
                    start_frame: spec.start_frame,
                    frame_count: spec.frame_count,
                    first_segment: spec.first_segment,
                    segment_frames: spec.segment_frames,
                    sheet: spec.storyboard,
                };
                ExpectedOutput::Video(range, grid)
            }
            MediaTask::CopyFrames(spec) => {
                renditions.push(spec.rendition);
                let grid = spec.check().map_err(MediaTaskError::Spec)?;
                let range = FrameRangePlan {
                    start_frame: spec.start_frame,
                    frame_count: spec.frame_count,
                    first_segment: spec.first_segment,
                    segment_frames: spec.segment_frames,
                    sheet: None,
                };
                ExpectedOutput::Video(range, grid)
            }
            MediaTask::CopySound(spec) => {
                renditions.push(spec.rendition);
                ExpectedOutput::Audio(spec.check().map_err(MediaTaskError::Spec)?)
            }
            MediaTask::Audio(spec) => {
                renditions.push(spec.rendition);
                ExpectedOutput::Audio(spec.check().map_err(MediaTaskError::Spec)?)
            }
            MediaTask::Stills(spec) => {
                spec.check().map_err(MediaTaskError::Spec)?;
                ExpectedOutput::Images(u16::try_from(spec.at_us.len()).unwrap_or(u16::MAX))
            }
            MediaTask::Subtitles(spec) => {
                spec.check().map_err(MediaTaskError::Spec)?;
                ExpectedOutput::Cues(spec.clone())
            }
            MediaTask::Probe => ExpectedOutput::Probe,
            MediaTask::Survey => ExpectedOutput::Survey,
        };
        Ok(Self {
            task: task.clone(),
            plan,
            next: renditions.into_iter().map(|rendition| (rendition, RenditionProgress::default())).collect(),
            images: 0,
            cues: 0,
            cues_bytes: 0,
            progress: 0,
            steps: 0,
            output_bytes: 0,
            output_bytes_max,
            packets_max: limits.packets_max,
            streams_max: limits.streams_max,
        })
    }

    /// Accepts one product, or says what is wrong with it.
    pub(crate) fn check_output(&mut self, output: &MediaTaskOutput) -> Result<(), MediaTaskError> {
        match output {
            MediaTaskOutput::Init { rendition, bytes } => {
                self.count_bytes(bytes, *b"ftyp")?;
                let next = self.find_rendition(*rendition)?;
                if next.has_init {
                    return protocol_error("second init segment");
                }
                next.has_init = true;
                Ok(())
            }
            MediaTaskOutput::Segment {
                rendition,
                number,
                start_ticks,
                duration_ticks,
                timescale,
                sample_count,
                bytes,
            } => {
                self.count_bytes(bytes, *b"moof")?;
                let seen = self.find_rendition(*rendition)?;
                if !seen.has_init {
                    return protocol_error("segment before its init segment");
                }
                let index = seen.segments;
                seen.segments += 1;
                let claim = SegmentTiming {
                    number: *number,
                    start_ticks: *start_ticks,
                    duration_ticks: *duration_ticks,
                    timescale: *timescale,
                    sample_count: *sample_count,
                };
                match self.planned_segment(index) {
                    Some(planned) if planned == claim => Ok(()),
                    planned => protocol_error(&format!("segment {claim:?}, planned {planned:?}")),
                }
            }
            MediaTaskOutput::Image { position, width, height, bytes, .. } => {
                self.count_bytes(bytes, [0, 0, 0, 0])?;
                let side = self.side_pixels_max();
                let (count, is_size) = match &self.plan {
                    ExpectedOutput::Images(count) => (*count, *width <= side && *height <= side),
                    ExpectedOutput::Video(FrameRangePlan { sheet: Some(sheet), .. }, _) => {
                        (1, sheet.sheet_size() == (*width, *height))
                    }
                    _ => return protocol_error("picture without asking"),
                };
                if *position != self.images || self.images >= count || !is_size {
                    return protocol_error("picture out of order or too large");
                }
                self.images += 1;
                Ok(())
            }
            MediaTaskOutput::Cues { position, cues } => self.check_cues(*position, cues),
            MediaTaskOutput::Progress { frames_done } => self.check_progress(*frames_done),
        }
    }

    /// Accepts cues of a planned track that lie within the presentation.
    fn check_cues(&mut self, position: u16, cues: &[SubtitleCue]) -> Result<(), MediaTaskError> {
        let ExpectedOutput::Cues(spec) = &self.plan else { return protocol_error("cues without asking") };
        let is_in = |cue: &SubtitleCue| {
            cue.start_us < cue.end_us
                && cue.end_us <= spec.duration_us
                && cue.text.len() <= CUE_TEXT_BYTES_MAX
        };
        if usize::from(position) >= spec.streams.len() || !cues.iter().all(is_in) {
            return protocol_error("cues of no planned track, or out of range");
        }
        self.cues += cues.len();
        self.cues_bytes += cues.iter().map(|cue| cue.text.len()).sum::<usize>();
        if self.cues > CUES_MAX || self.cues_bytes > CUES_BYTES_MAX {
            protocol_error("more cues than CUES_MAX or CUES_BYTES_MAX")
        } else {
            Ok(())
        }
    }

    /// Accepts progress, which must grow and stay within the task.
    pub(crate) fn check_progress(&mut self, done: u64) -> Result<(), MediaTaskError> {
        let done_max = match &self.plan {
            ExpectedOutput::Video(spec, _) => u64::from(spec.frame_count),
            ExpectedOutput::Audio(grid) => grid.frame_count(),
            ExpectedOutput::Images(count) => u64::from(*count),
            ExpectedOutput::Cues(_) | ExpectedOutput::Probe | ExpectedOutput::Survey => self.packets_max,
        };
        if done <= self.progress || done > done_max {
            return protocol_error(&format!("progress {done} after {} of {done_max}", self.progress));
        }
        self.progress = done;
        Ok(())
    }

    /// Accepts a sign of life, which must grow; there are at most as many steps as a file may have packets.
    pub(crate) fn check_heartbeat(&mut self, steps: u64) -> Result<(), MediaTaskError> {
        if steps <= self.steps || steps > self.packets_max {
            return protocol_error(&format!("step {steps} after {} of {}", self.steps, self.packets_max));
        }
        self.steps = steps;
        Ok(())
    }

    /// Accepts the end of the task only when everything planned was seen.
    pub(crate) fn check_report(&self, report: MediaTaskReport) -> Result<MediaTaskReport, MediaTaskError> {
        // A child that ended well may still have left a segment out: the playlist would have a hole.
        let segments = match &self.plan {
            ExpectedOutput::Video(spec, _) => spec.segment_count(),
            ExpectedOutput::Audio(grid) => grid.segment_count(),
            ExpectedOutput::Images(count) if self.images == *count => return check_measured(report),
            ExpectedOutput::Cues(_) => return check_measured(report),
            ExpectedOutput::Images(_) | ExpectedOutput::Probe | ExpectedOutput::Survey => {
                return protocol_error("result before the work was done");
            }
        };
        let lacks_sheet = matches!(&self.plan, ExpectedOutput::Video(range, _) if range.sheet.is_some())
            && self.images == 0;
        if lacks_sheet || self.next.values().any(|next| next.segments != segments) {
            return protocol_error("result before all segments and the sheet");
        }
        check_measured(report)
    }

    /// Accepts the result of a survey, with its texts made printable.
    pub(crate) fn check_survey(
        &self,
        survey: MediaSurvey,
        size_bytes: u64,
    ) -> Result<MediaSurvey, MediaTaskError> {
        if !matches!(self.plan, ExpectedOutput::Survey) {
            return protocol_error("survey without asking");
        }
        let probe = self.check_probe_texts(survey.probe, size_bytes)?;
        let is_sorted = |index: &FrameIndex| {
            let keys = &index.key_frames;
            let is_inside = keys.last().is_none_or(|key| u64::from(*key) < index.frame_count);
            keys.len() <= KEY_FRAMES_MAX && is_inside && keys.is_sorted_by(|a, b| a < b)
        };
        if survey.frames.as_ref().is_some_and(|index| index.fault.is_none() && !is_sorted(index)) {
            return protocol_error("keyframes out of order");
        }
        Ok(MediaSurvey { probe, ..survey })
    }

    /// Accepts the result of a probe, with its texts made printable.
    pub(crate) fn check_probe(
        &self,
        probe: MediaProbe,
        size_bytes: u64,
    ) -> Result<MediaProbe, MediaTaskError> {
        if !matches!(self.plan, ExpectedOutput::Probe) {
            return protocol_error("probe without asking");
        }
        self.check_probe_texts(probe, size_bytes)
    }

    fn check_probe_texts(
        &self,
        mut probe: MediaProbe,
        size_bytes: u64,
    ) -> Result<MediaProbe, MediaTaskError> {
        if probe.size_bytes != size_bytes
            || probe.streams.len() > usize::try_from(self.streams_max).unwrap_or(0)
        {
            return protocol_error("probe of another file or with too many streams");
        }
        probe.container = to_printable(&probe.container, TEXT_CHARS_MAX);
        for (index, stream) in probe.streams.iter_mut().enumerate() {
            if usize::try_from(stream.index).ok() != Some(index) {
                return protocol_error("streams out of order");
            }
            check_stream(stream)?;
        }
        check_chapters(&mut probe.chapters)?;
        Ok(probe)
    }

    fn find_rendition(&mut self, rendition: u16) -> Result<&mut RenditionProgress, MediaTaskError> {
        match self.next.get_mut(&rendition) {
            Some(next) => Ok(next),
            None => Err(MediaTaskError::Protocol(format!("rendition {rendition} is not planned"))),
        }
    }

    fn planned_segment(&self, index: u32) -> Option<SegmentTiming> {
        match &self.plan {
            ExpectedOutput::Video(spec, grid) => {
                let skipped = u64::from(index) * u64::from(spec.segment_frames);
                let left = u64::from(spec.frame_count).checked_sub(skipped).filter(|left| *left > 0)?;
                let sample_count = u32::try_from(left.min(u64::from(spec.segment_frames))).ok()?;
                Some(SegmentTiming {
                    number: spec.first_segment.checked_add(index)?,
                    start_ticks: grid.frame_start_ticks(spec.start_frame + skipped),
                    duration_ticks: grid.frame_start_ticks(u64::from(sample_count)),
                    timescale: grid.timescale,
                    sample_count,
                })
            }
            ExpectedOutput::Audio(grid) => {
                let (start, end) = (grid.first_frame(index), grid.first_frame(index.checked_add(1)?));
                let samples = u64::from(crate::AUDIO_FRAME_SAMPLES);
                (start < end).then_some(SegmentTiming {
                    number: index,
                    start_ticks: start * samples,
                    duration_ticks: (end - start) * samples,
                    timescale: grid.rate_hz,
                    sample_count: u32::try_from(end - start).ok()?,
                })
            }
            ExpectedOutput::Images(_)
            | ExpectedOutput::Cues(_)
            | ExpectedOutput::Probe
            | ExpectedOutput::Survey => None,
        }
    }

    fn side_pixels_max(&self) -> u32 {
        if let MediaTask::Stills(spec) = &self.task { spec.side_pixels_max } else { 0 }
    }

    /// Counts the bytes and looks at the first box type where one is given.
    fn count_bytes(&mut self, bytes: &Bytes, kind: [u8; 4]) -> Result<(), MediaTaskError> {
        self.output_bytes = self.output_bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.output_bytes > self.output_bytes_max {
            return protocol_error("more output than output_bytes_max");
        }
        if bytes.len() < FILE_BYTES_MIN || (kind != [0; 4] && bytes.get(4..8) != Some(&kind[..])) {
            return protocol_error("a product that is not what it says");
        }
        Ok(())
    }
}

/// Leaves control characters of a text of the file out, and cuts it to [`TEXT_CHARS_MAX`].
fn clean_text(text: &mut String) {
    *text = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
}

fn check_chapters(chapters: &mut [SourceChapter]) -> Result<(), MediaTaskError> {
    if chapters.len() > SOURCE_CHAPTERS_MAX {
        return protocol_error("more chapters than are asked for");
    }
    for title in chapters.iter_mut().filter_map(|chapter| chapter.title.as_mut()) {
        clean_text(title);
    }
    Ok(())
}

fn check_stream(stream: &mut MediaStream) -> Result<(), MediaTaskError> {
    if (stream.kind == MediaStreamKind::Audio) != stream.audio.is_some() {
        return protocol_error("an audio stream without its part");
    }
    stream.codec = to_printable(&stream.codec, TEXT_CHARS_MAX);
    for text in [&mut stream.profile, &mut stream.language, &mut stream.title].into_iter().flatten() {
        clean_text(text);
    }
    if let Some(video) = &mut stream.video {
        let sides = [video.width, video.height, video.display_width, video.display_height];
        if sides.iter().any(|side| *side > 1 << 20) || video.rotation_degrees >= 360 {
            return protocol_error("a geometry out of range");
        }
        for text in [
            &mut video.pixel_format,
            &mut video.color_primaries,
            &mut video.color_transfer,
            &mut video.color_space,
            &mut video.color_range,
            &mut video.field_order,
        ] {
            *text = to_printable(text, TEXT_CHARS_MAX);
        }
    }
    if let Some(audio) = &mut stream.audio {
        audio.layout = to_printable(&audio.layout, TEXT_CHARS_MAX);
        audio.sample_format = to_printable(&audio.sample_format, TEXT_CHARS_MAX);
    }
    Ok(())
}

/// Times and loudness are measured by the child itself; what is not a number would poison every sum made of it.
fn check_measured(report: MediaTaskReport) -> Result<MediaTaskReport, MediaTaskError> {
    let measured = [report.cpu_seconds, report.wall_seconds, report.loudness_missing_lu];
    if measured.iter().all(|number| number.is_finite() && *number >= 0.0) {
        Ok(report)
    } else {
        protocol_error("a time or a loudness that is none")
    }
}

fn protocol_error<T>(what: &str) -> Result<T, MediaTaskError> {
    Err(MediaTaskError::Protocol(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::MediaRatio;
    use crate::spec::{AudioSpec, EncodeRung, EncodeSpec, EncoderPreset, H264Profile};

    fn encode() -> MediaTask {
        MediaTask::Encode(EncodeSpec {
            clock: crate::ClockMap::default(),
            stream: 0,
            origin_us: 0,
            frame_rate: MediaRatio::new(25, 1),
            start_frame: 100,
            frame_count: 60,
            first_segment: 2,
            segment_frames: 50,
            gop_frames: 50,
            deinterlace: false,
            storyboard: None,
            decode_threads: 1,
            preset: EncoderPreset::Ultrafast,
            rungs: vec![EncodeRung {
                rendition: 7,
                width: 320,
                height: 180,
                crf: 23.0,
                rate_bits_per_second_max: 1_000_000,
                buffer_bits: 2_000_000,
                profile: H264Profile::High,
                level: 31,
                threads: 1,
            }],
        })
    }

    fn file(kind: &[u8]) -> Bytes {
        let mut bytes = vec![0, 0, 0, 16];
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(&[0; 8]);
        Bytes::from(bytes)
    }

    fn init() -> MediaTaskOutput {
        MediaTaskOutput::Init { rendition: 7, bytes: file(b"ftyp") }
    }

    fn segment(number: u32, start_ticks: u64, sample_count: u32) -> MediaTaskOutput {
        MediaTaskOutput::Segment {
            rendition: 7,
            number,
            start_ticks,
            duration_ticks: u64::from(sample_count) * 512,
            timescale: 12_800,
            sample_count,
            bytes: file(b"moof"),
        }
    }

    fn check(outputs: &[MediaTaskOutput], is_accepted: bool) {
        let mut expect = OutputValidator::new(&encode(), &MediaLimits::default(), 1000).unwrap();
        let last = outputs.iter().map(|output| expect.check_output(output)).last().unwrap();
        assert_eq!(last.is_ok(), is_accepted, "{outputs:?}: {last:?}");
    }

    #[test]
    fn segments_must_follow_the_plan() {
        check(&[init(), segment(2, 51_200, 50)], true);
        check(&[init(), segment(2, 51_200, 50), segment(3, 76_800, 10)], true);
        check(&[init(), segment(2, 51_200, 50), segment(3, 76_800, 11)], false);
        check(&[init(), segment(2, 51_200, 50), segment(3, 76_800, 10), segment(4, 81_920, 10)], false);
        check(&[init(), segment(3, 76_800, 10)], false);
        check(&[init(), segment(2, 0, 50)], false);
        check(&[segment(2, 51_200, 50)], false);
        check(&[init(), init()], false);
        check(&[MediaTaskOutput::Init { rendition: 8, bytes: file(b"ftyp") }], false);
        check(&[MediaTaskOutput::Init { rendition: 7, bytes: file(b"moof") }], false);
        check(&[MediaTaskOutput::Init { rendition: 7, bytes: Bytes::from(vec![0; 2000]) }], false);
    }

    #[test]
    fn progress_must_grow_within_the_task() {
        check(&[MediaTaskOutput::Progress { frames_done: 60 }], true);
        check(&[MediaTaskOutput::Progress { frames_done: 61 }], false);
        check(&[MediaTaskOutput::Progress { frames_done: 0 }], false);
        check(
            &[MediaTaskOutput::Progress { frames_done: 5 }, MediaTaskOutput::Progress { frames_done: 5 }],
            false,
        );
    }

    #[test]
    fn cues_lie_within_the_presentation() {
        let spec = SubtitlesSpec {
            streams: vec![2, 3],
            origin_us: 0,
            duration_us: 1_000,
            clock: crate::ClockMap::default(),
        };
        let cue = |start_us, end_us, bytes| SubtitleCue { start_us, end_us, text: "a".repeat(bytes) };
        for (position, cue, is_accepted) in [
            (1, cue(0, 1_000, 4_096), true),
            (2, cue(0, 1_000, 1), false),
            (0, cue(5, 5, 1), false),
            (0, cue(5, 1_001, 1), false),
            (0, cue(0, 1_000, 4_097), false),
        ] {
            let task = MediaTask::Subtitles(spec.clone());
            let mut expect = OutputValidator::new(&task, &MediaLimits::default(), 1000).unwrap();
            let output = MediaTaskOutput::Cues { position, cues: vec![cue] };
            assert_eq!(expect.check_output(&output).is_ok(), is_accepted, "{output:?}");
            assert!(expect.check_output(&init()).is_err(), "only cues come of it");
        }
        let mut encode = OutputValidator::new(&encode(), &MediaLimits::default(), 1000).unwrap();
        assert!(encode.check_output(&MediaTaskOutput::Cues { position: 0, cues: Vec::new() }).is_err());
        let twice = SubtitlesSpec { streams: vec![2, 2], ..spec };
        assert!(OutputValidator::new(&MediaTask::Subtitles(twice), &MediaLimits::default(), 1).is_err());
    }

    #[test]
    fn a_result_needs_every_segment() {
        let mut expect = OutputValidator::new(&encode(), &MediaLimits::default(), 1000).unwrap();
        for output in [init(), segment(2, 51_200, 50)] {
            expect.check_output(&output).unwrap();
        }
        assert!(matches!(expect.check_report(MediaTaskReport::default()), Err(MediaTaskError::Protocol(_))));
        expect.check_output(&segment(3, 76_800, 10)).unwrap();
        for poisoned in [
            MediaTaskReport { cpu_seconds: f64::NAN, ..MediaTaskReport::default() },
            MediaTaskReport { loudness_missing_lu: f64::INFINITY, ..MediaTaskReport::default() },
        ] {
            assert!(matches!(expect.check_report(poisoned), Err(MediaTaskError::Protocol(_))));
        }
        assert!(expect.check_report(MediaTaskReport::default()).is_ok());
    }

    #[test]
    fn impossible_tasks_are_refused_before_a_child_starts() {
        let MediaTask::Encode(good) = encode() else { unreachable!() };
        let odd =
            EncodeSpec { rungs: vec![EncodeRung { width: 321, ..good.rungs[0].clone() }], ..good.clone() };
        let twice = EncodeSpec { rungs: vec![good.rungs[0].clone(), good.rungs[0].clone()], ..good.clone() };
        let still = EncodeSpec { frame_rate: MediaRatio::new(25, 0), ..good.clone() };
        let none = EncodeSpec { frame_count: 0, ..good };
        for spec in [odd, twice, still, none] {
            let made = OutputValidator::new(&MediaTask::Encode(spec), &MediaLimits::default(), 1);
            assert!(matches!(made, Err(MediaTaskError::Spec(_))));
        }
        let silent = AudioSpec {
            loudness_lufs: None,
            clock: crate::ClockMap::default(),
            stream: 0,
            origin_us: 0,
            rendition: 0,
            duration_samples: 0,
            segment_seconds: MediaRatio::new(2, 1),
            rate_bits_per_second: 128_000,
        };
        assert!(matches!(
            OutputValidator::new(&MediaTask::Audio(silent), &MediaLimits::default(), 1),
            Err(MediaTaskError::Spec(_))
        ));
    }
}
