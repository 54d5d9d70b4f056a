//! An encode without an encoder, for tests: what a probe would have found, its plan, and its finished parts.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test with a plan that can't be made fails at once"
)]

use schemas::{
    examples,
    ids::JobId,
    job::{EncodePlan, JobPartRecord, JobPartStatus, StoredSegment, StoredTrack},
    media::{AudioTrack, MediaSource, SubtitleTrack, TechnicalMetadata, VideoTrack},
};

use crate::{EncodeProfile, plan, subtitle_timeline::SubtitleTimeline};

/// What a probe would find: a video of 25 frames a second, and one audio track in English.
pub fn build_technical(seconds: i64, width: u32, height: u32) -> TechnicalMetadata {
    TechnicalMetadata {
        container: "mp4".into(),
        duration_ms: u64::try_from(seconds).unwrap() * 1_000,
        bit_rate_bps: 1,
        video: vec![VideoTrack {
            width,
            height,
            frame_count: 1,
            end_us: seconds * 1_000_000,
            ..examples::video_track()
        }],
        audio: vec![AudioTrack {
            channels: 2,
            language: Some("en".into()),
            title: Some("English".into()),
            start_us: 0,
            end_us: seconds * 1_000_000,
            ..examples::audio_track()
        }],
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The plan of it, by the profile `default`.
pub fn build_plan(technical: &TechnicalMetadata, profile: &EncodeProfile) -> EncodePlan {
    let source = MediaSource { key: "media/x/source".into(), size_bytes: 7, sha256: "00".into() };
    plan::plan_encode(&plan::EncodePlanInput {
        source: &source,
        technical,
        profile_name: "default",
        profile,
        range: None,
    })
    .unwrap()
}

fn build_part(name: &str, tracks: Vec<StoredTrack>, status: JobPartStatus) -> JobPartRecord {
    JobPartRecord { status, attempt: 1, tracks, ..JobPartRecord::new(JobId::from_bytes([7; 16]), name) }
}

/// Parts as a worker would have recorded them, with sizes that grow with the segment's number.
pub fn build_finished_parts(plan: &EncodePlan) -> Vec<JobPartRecord> {
    let mut parts = Vec::new();
    let video = plan.video.as_ref();
    for (index, range) in video.iter().flat_map(|v| &v.ranges).enumerate() {
        let video = video.unwrap();
        let tracks = video.rungs.iter().enumerate().map(|(rank, rung)| {
            let grid =
                media::VideoGrid::new(media::MediaRatio::new(video.frame_rate.num, video.frame_rate.den))
                    .unwrap();
            let mut segments = Vec::new();
            let mut frame = range.start_frame;
            let end = range.start_frame + range.frame_count;
            while frame < end {
                let count = u64::from(video.segment_frames).min(end - frame);
                segments.push(StoredSegment {
                    start_ticks: grid.frame_start_ticks(frame),
                    duration_ticks: grid.frame_start_ticks(count),
                    size_bytes: (100_000 + 1_000 * frame) / (u64::try_from(rank).unwrap() + 1),
                });
                frame += count;
            }
            StoredTrack {
                rendition: rung.name.clone(),
                timescale: grid.timescale,
                init_sha256: format!("sha of {}", rung.name),
                init_bytes: 700,
                codecs: format!("avc1.6400{:02x}", rung.level),
                first_segment: range.first_segment,
                segments,
            }
        });
        parts.push(build_part(&plan::video_part_name(index), tracks.collect(), JobPartStatus::Done));
    }
    for audio in &plan.audio {
        let seconds = media::MediaRatio::new(audio.segment_seconds.num, audio.segment_seconds.den);
        let grid = media::AudioGrid::new(seconds, audio.duration_samples).unwrap();
        let segment = |n| StoredSegment {
            start_ticks: grid.first_frame(n) * 1024,
            duration_ticks: (grid.first_frame(n + 1) - grid.first_frame(n)) * 1024,
            size_bytes: (grid.first_frame(n + 1) - grid.first_frame(n)) * 340,
        };
        let track = StoredTrack {
            rendition: audio.name.clone(),
            timescale: 48_000,
            init_sha256: "sha of audio".into(),
            init_bytes: 600,
            codecs: "mp4a.40.2".into(),
            first_segment: 1,
            segments: (0..grid.segment_count()).map(segment).collect(),
        };
        parts.push(build_part(&audio.name, vec![track], JobPartStatus::Done));
    }
    parts.extend(build_subtitle_part(plan));
    parts
}

fn build_subtitle_part(plan: &EncodePlan) -> Option<JobPartRecord> {
    let timeline = SubtitleTimeline::new(plan);
    let tracks = plan.subtitles.iter().map(|subtitles| StoredTrack {
        rendition: subtitles.name.clone(),
        timescale: timeline.timescale,
        init_sha256: "sha of subtitles".into(),
        init_bytes: 500,
        codecs: "wvtt".into(),
        first_segment: 1,
        segments: Vec::new(),
    });
    (!plan.subtitles.is_empty()).then(|| build_part(plan::SUBTITLES, tracks.collect(), JobPartStatus::Done))
}

/// Three subtitle tracks: English, English for the deaf and hard of hearing, and forced French.
pub fn build_subtitles() -> Vec<SubtitleTrack> {
    let track = |index, language: &str, title: Option<&str>| SubtitleTrack {
        index,
        codec: "subrip".into(),
        language: Some(language.into()),
        title: title.map(str::to_owned),
        is_forced: false,
        is_hearing_impaired: false,
    };
    vec![
        track(2, "eng", None),
        SubtitleTrack { is_hearing_impaired: true, ..track(3, "en", Some("English \"SDH\"")) },
        SubtitleTrack { is_forced: true, ..track(4, "fre", None) },
    ]
}

/// The encode of [`build_example`] with [`build_subtitles`].
pub fn build_subtitled_example() -> (EncodePlan, Vec<JobPartRecord>) {
    let technical = TechnicalMetadata { subtitles: build_subtitles(), ..build_technical(61, 640, 360) };
    let plan = build_plan(&technical, &EncodeProfile::default());
    let parts = build_finished_parts(&plan);
    (plan, parts)
}

/// A minute and a second of 360p: its plan and its finished parts.
pub fn build_example() -> (EncodePlan, Vec<JobPartRecord>) {
    let plan = build_plan(&build_technical(61, 640, 360), &EncodeProfile::default());
    let parts = build_finished_parts(&plan);
    (plan, parts)
}
