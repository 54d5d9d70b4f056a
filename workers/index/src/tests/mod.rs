mod broker;
mod core;
mod search;
mod search_files;
mod search_outage;

use schemas::{
    document, examples,
    ids::{JobId, MediaId, UploadId},
    job,
    media::{
        self, AudioTrack, EncodedRendition, MediaEncode, MediaSource, Rational, TechnicalMetadata, VideoTrack,
    },
    subjects::JobPriority,
};

/// An id that says which one it is.
pub(crate) fn media_id(number: u8) -> MediaId {
    MediaId::from_bytes([number; 16])
}

pub(crate) fn job_id(number: u8) -> JobId {
    JobId::from_bytes([number; 16])
}

pub(crate) fn upload_id(number: u8) -> UploadId {
    UploadId::from_bytes([number; 16])
}

pub(crate) fn document(number: u8, owner: &str, created_at_ms: u64) -> document::MediaDocumentRecord {
    document::MediaDocumentRecord {
        title: format!("clip {number}"),
        ..document::MediaDocumentRecord::new(media_id(number), owner.into(), created_at_ms)
    }
}

pub(crate) fn video(width: u32, height: u32) -> VideoTrack {
    VideoTrack {
        width,
        height,
        frame_rate: Rational { num: 30_000, den: 1_001 },
        color_transfer: None,
        color_primaries: None,
        end_us: 10_010_000,
        ..examples::video_track()
    }
}

pub(crate) fn audio(codec: &str, language: Option<&str>) -> AudioTrack {
    AudioTrack {
        codec: codec.into(),
        channels: 2,
        language: language.map(str::to_owned),
        start_us: 0,
        end_us: 10_010_000,
        ..examples::audio_track()
    }
}

pub(crate) fn technical(video: Vec<VideoTrack>, audio: Vec<AudioTrack>) -> TechnicalMetadata {
    TechnicalMetadata {
        container: "mp4".into(),
        duration_ms: 10_010,
        bit_rate_bps: 1_000_000,
        video,
        audio,
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn asset(number: u8, owner: &str, status: media::MediaStatus) -> media::MediaRecord {
    media::MediaRecord {
        source: Some(MediaSource { key: "k".into(), size_bytes: 1_234, sha256: "00".repeat(32) }),
        technical: Some(technical(vec![video(1_920, 1_080)], vec![audio("aac", Some("eng"))])),
        ..media::MediaRecord::new(media_id(number), owner.into(), status, 1_000 + u64::from(number))
    }
}

pub(crate) fn encode(names: &[(&str, u32, u32, u64)]) -> MediaEncode {
    let rendition = |&(name, width, height, average_bps): &(&str, u32, u32, u64)| EncodedRendition {
        name: name.into(),
        codecs: "avc1.64001f".into(),
        width,
        height,
        peak_bps: average_bps * 2,
        average_bps,
        segment_count: 3,
        size_bytes: 100,
    };
    MediaEncode {
        number: 1,
        job_id: job_id(1),
        prefix: "p".into(),
        duration_ms: 10_010,
        renditions: names.iter().map(rendition).collect(),
        subtitles: Vec::new(),
        has_poster: true,
        has_storyboard: false,
        has_checksums: false,
        warnings: Vec::new(),
    }
}

pub(crate) fn job(number: u8, medium: u8, owner: &str, status: job::JobStatus) -> job::JobRecord {
    let plan = job::EncodePlan {
        source_key: "k".into(),
        source_bytes: 1_234,
        duration_ms: 10_010,
        profile: "default".into(),
        options_digest: "d".into(),
        ..job::EncodePlan::default()
    };
    job::JobRecord {
        status,
        encode: 1,
        prefix: "p".into(),
        parts: vec!["v0000".into(), "v0001".into(), "a0".into()],
        ..job::JobRecord::new_task(
            job_id(number),
            job::TRANSCODE,
            (media_id(medium), owner),
            (plan, JobPriority::P1),
            2_000 + u64::from(number),
        )
    }
}

pub(crate) fn part(number: u8, name: &str, status: job::JobPartStatus, cpu_ms: u64) -> job::JobPartRecord {
    job::JobPartRecord {
        status,
        attempt: 1,
        cpu_ms,
        wall_ms: cpu_ms,
        ..job::JobPartRecord::new(job_id(number), name)
    }
}
