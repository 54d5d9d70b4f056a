//! One real message of every kind: input of tests, documentation, and the source of the golden bytes.
//!
//! The golden bytes of a version are history: they are written once and must decode to the example for ever. An optional field
//! that is added later therefore stays absent here.

use std::{collections::BTreeMap, fmt::Debug};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{
    BusEvent, access, access_sum, alert, audit, cached, dead_letter, dispatch_query, document,
    encode::EncodeSettings,
    envelope, experience, gate, hook, hook_delivery, hook_event, idempotency,
    ids::{
        ChallengeId, DeliveryId, HookId, JobId, KeyId, MediaId, PlaybackId, RequestId, ScheduleId, SessionId,
        StoreId, UploadGrantId, UploadId,
    },
    index_query, job, keys, limit, log_level,
    media::{self, Rational},
    media_details::MediaDetails,
    monitor_query, pause, process_report, schedule, search_query, session, store,
    subjects::{self, JobPriority},
    upload, upload_grant, usage, view, worker,
};

/// What every kind of message can do.
pub trait ExampleMessage: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug {}
impl<M: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug> ExampleMessage for M {}

/// Is shown each example once.
pub trait ExampleVisitor {
    /// `name` is that of the catalog.
    fn visit<M: ExampleMessage>(&mut self, name: &str, example: M);
}

/// Shows every example, in the order of the catalog.
pub fn visit_all(visitor: &mut impl ExampleVisitor) {
    visit_upload_events(visitor);
    visit_media_events(visitor);
    visit_job_events(visitor);
    visit_event(
        visitor,
        access::AdminKeyCreated { key_id: KEY, owner: example_owner(), role: access::PrincipalRole::Owner },
    );
    let changed = worker::AdminWorkerChanged {
        worker: owned_text(WORKER),
        state: worker::WorkerState::Paused,
        changed_by: example_owner(),
    };
    visit_event(visitor, changed);
    let changed = dead_letter::AdminLetterChanged {
        sequence: 17,
        stage: owned_text(job::TRANSCODE),
        action: dead_letter::LetterAction::Redriven,
        changed_by: example_owner(),
    };
    visit_event(visitor, changed);
    visit_session_events(visitor);
    visit_gate_events(visitor);
    let summed =
        view::ViewSummed { media_id: MEDIA, owner: example_owner(), hour_ms: MADE_AT_MS, opened_count: 37 };
    visit_event(visitor, summed);
    visit_event(visitor, limit_exceeded());
    visit_event(visitor, access_summed());
    visit_schedule_events(visitor);
    visit_hook_events(visitor);
    visit_records(visitor);
    visit_session_records(visitor);
    visit_others(visitor);
}

fn visit_event<E: BusEvent + PartialEq + Debug>(visitor: &mut impl ExampleVisitor, event: E) {
    visitor.visit(&format!("{}.{}", E::ENTITY, E::VERB), event);
}

const MEDIA: MediaId = MediaId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x03\x7a\x01\x80sample-");
const UPLOAD: UploadId = UploadId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x02\x7a\x01\x80sample-");
const JOB: JobId = JobId::from_bytes(*b"\x01\x9a\xb0\x01\x0a\x05\x7a\x01\x80sample-");
const REQUEST: RequestId = RequestId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x04\x7a\x01\x80sample-");
const SESSION: SessionId = SessionId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x05\x7a\x01\x80sample-");
const CHALLENGE: ChallengeId = ChallengeId::from_bytes(*b"a sample of nonc");
const ADDRESS: &str = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed";
const PLAYBACK: PlaybackId = PlaybackId::from_bytes(*b"\x01\x9a\xb0\x02\x0b\x07\x7a\x01\x80sample-");
const GRANT: UploadGrantId = UploadGrantId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x06\x7a\x01\x80sample-");
const KEY: KeyId = KeyId::from_bytes(*b"\x01\x9a\xb0\x00\x01\x01\x7a\x01\x80sample-");
const SCHEDULE: ScheduleId = ScheduleId::from_bytes(*b"\x01\x9a\xb0\x01\x03\x08\x7a\x01\x80sample-");
const HOOK: HookId = HookId::from_bytes(*b"\x01\x9a\xb0\x01\x04\x09\x7a\x01\x80sample-");
const DELIVERY: DeliveryId = DeliveryId::from_bytes(*b"\x01\x9a\xb0\x01\x0c\x0a\x7a\x01\x80sample-");
const STORE: StoreId = StoreId::from_bytes(*b"\x01\x9a\xb0\x00\x01\x02\x7a\x01\x80sample-");
/// 2025-11-23T12:26:54.467Z, when the ids above were made.
const MADE_AT_MS: u64 = 0x019a_b001_0203;
const WORKER: &str = "019ab00102037a018073616d706c652d";
const OPTIONS_DIGEST: &str = "3fd1a7c2b94e5d60";

fn example_owner() -> String {
    "admin".to_owned()
}

fn owned_text(text: &str) -> String {
    text.to_owned()
}

fn example_digest() -> upload::UploadDigest {
    let value = (0_u8..32).map(|byte| byte.wrapping_mul(37)).collect::<Vec<u8>>();
    upload::UploadDigest { algorithm: owned_text("sha-256"), value: ByteBuf::from(value) }
}

fn upload_created() -> upload::UploadCreated {
    upload::UploadCreated {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: example_owner(),
        length_bytes: Some(788_493),
        filename: Some(owned_text("Big Buck Bunny.mp4")),
        expires_at_ms: MADE_AT_MS + 86_400_000,
        is_partial: false,
    }
}

fn upload_received() -> upload::UploadReceived {
    upload::UploadReceived {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: example_owner(),
        key: keys::source_key(MEDIA),
        size_bytes: 788_493,
        filename: Some(owned_text("Big Buck Bunny.mp4")),
        content_type: Some(owned_text("video/mp4")),
        digest: Some(example_digest()),
        settings: EncodeSettings::default(),
    }
}

fn visit_upload_events(visitor: &mut impl ExampleVisitor) {
    visit_event(visitor, upload_created());
    visit_event(visitor, upload_received());
    visit_event(
        visitor,
        upload::UploadExpired {
            upload_id: UPLOAD,
            media_id: MEDIA,
            owner: example_owner(),
            offset_bytes: 65_536,
        },
    );
    visit_event(
        visitor,
        upload::UploadTerminated {
            upload_id: UPLOAD,
            media_id: MEDIA,
            owner: example_owner(),
            offset_bytes: 65_536,
            code: Some(owned_text("upload_damaged")),
        },
    );
}

fn media_source() -> media::MediaSource {
    media::MediaSource {
        key: keys::source_key(MEDIA),
        size_bytes: 788_493,
        sha256: owned_text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581"),
    }
}

/// The video of the example: 720p with 25 frames a second, 5.28 s long.
pub fn video_track() -> media::VideoTrack {
    media::VideoTrack {
        index: 0,
        codec: owned_text("h264"),
        width: 1280,
        height: 720,
        sample_aspect: Rational { num: 1, den: 1 },
        rotation_degrees: 0,
        frame_rate: Rational { num: 25, den: 1 },
        variable_frame_rate: false,
        pixel_format: owned_text("yuv420p"),
        bit_depth: 8,
        color_transfer: Some(owned_text("bt709")),
        color_primaries: None,
        interlaced: false,
        frame_count: 132,
        start_us: 0,
        end_us: 5_280_000,
    }
}

/// The audio of the example: six channels at 48 kHz.
pub fn audio_track() -> media::AudioTrack {
    media::AudioTrack {
        index: 1,
        codec: owned_text("aac"),
        sample_rate_hz: 48_000,
        channels: 6,
        language: Some(owned_text("und")),
        title: None,
        is_default: true,
        start_us: -21_333,
        end_us: 5_312_000,
    }
}

fn technical_metadata() -> media::TechnicalMetadata {
    media::TechnicalMetadata {
        container: owned_text("mp4"),
        duration_ms: 5_312,
        bit_rate_bps: 1_187_488,
        video: vec![video_track()],
        audio: vec![audio_track()],
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    }
}

fn encoded_rendition(
    name: &str,
    codecs: &str,
    (width, height): (u32, u32),
    peak_bps: u64,
) -> media::EncodedRendition {
    media::EncodedRendition {
        name: owned_text(name),
        codecs: owned_text(codecs),
        width,
        height,
        peak_bps,
        average_bps: peak_bps * 4 / 5,
        segment_count: 2,
        size_bytes: peak_bps / 2,
    }
}

fn media_encode() -> media::MediaEncode {
    media::MediaEncode {
        number: 1,
        job_id: JOB,
        prefix: keys::encode_prefix(MEDIA, 1, OPTIONS_DIGEST),
        duration_ms: 5_280,
        renditions: vec![
            encoded_rendition("v720", "avc1.64001f", (1280, 720), 2_611_208),
            encoded_rendition("v360", "avc1.64001e", (640, 360), 831_440),
            encoded_rendition("a0", "mp4a.40.2", (0, 0), 129_872),
        ],
        subtitles: Vec::new(),
        has_poster: true,
        has_storyboard: false,
        has_checksums: false,
        warnings: Vec::new(),
    }
}

fn visit_media_events(visitor: &mut impl ExampleVisitor) {
    visit_event(
        visitor,
        media::MediaStored {
            media_id: MEDIA,
            upload_id: UPLOAD,
            owner: example_owner(),
            source: media_source(),
            technical: technical_metadata(),
            settings: EncodeSettings::default(),
        },
    );
    visit_event(
        visitor,
        media::MediaRejected {
            media_id: MEDIA,
            upload_id: UPLOAD,
            owner: example_owner(),
            code: owned_text("type_unsupported"),
            detail: owned_text("the content is text, not a media file"),
        },
    );
    visit_event(
        visitor,
        media::MediaPlayable { media_id: MEDIA, owner: example_owner(), job_id: JOB, encode: 1 },
    );
    visit_event(
        visitor,
        media::MediaReady { media_id: MEDIA, owner: example_owner(), encode: media_encode() },
    );
    visit_event(
        visitor,
        media::MediaRemoved {
            media_id: MEDIA,
            owner: example_owner(),
            removed_by: owned_text("admin"),
            is_final: false,
        },
    );
    visit_event(
        visitor,
        media::MediaRestored { media_id: MEDIA, owner: example_owner(), restored_by: owned_text("admin") },
    );
    visit_event(visitor, media::MediaPurged { media_id: MEDIA, owner: example_owner() });
    visit_event(
        visitor,
        media::MediaDelayed {
            media_id: MEDIA,
            owner: example_owner(),
            job_id: Some(JOB),
            stage: owned_text("transcode"),
            code: owned_text("store_unavailable"),
        },
    );
    let step = media::ReopenStep::Verify { received: Box::new(upload_received()) };
    visit_event(visitor, media::MediaReopened { media_id: MEDIA, owner: example_owner(), attempt: 1, step });
    let document = document::MediaDocumentRecord {
        title: owned_text("Big Buck Bunny"),
        encryption: document::SegmentEncryption::Aes128,
        ..document::MediaDocumentRecord::new(MEDIA, example_owner(), MADE_AT_MS)
    };
    let changed = document::MediaChanged::new(&document, &document.owner, &[]);
    visit_event(visitor, changed);
}

/// What people do with jobs.
fn visit_job_changes(visitor: &mut impl ExampleVisitor) {
    let cancelled_by = None;
    visit_event(
        visitor,
        job::JobCancelled {
            job_id: JOB,
            media_id: MEDIA,
            owner: example_owner(),
            kind: owned_text(job::TRANSCODE),
            cancelled_by,
        },
    );
    visit_event(
        visitor,
        job::JobPaused {
            job_id: JOB,
            media_id: MEDIA,
            owner: example_owner(),
            kind: owned_text(job::TRANSCODE),
            paused_by: example_owner(),
        },
    );
    visit_event(
        visitor,
        job::JobResumed {
            job_id: JOB,
            media_id: MEDIA,
            owner: example_owner(),
            kind: owned_text(job::TRANSCODE),
            resumed_by: example_owner(),
        },
    );
    visit_event(
        visitor,
        job::JobReprioritized {
            job_id: JOB,
            media_id: MEDIA,
            owner: example_owner(),
            kind: owned_text(job::TRANSCODE),
            priority: JobPriority::P2,
            changed_by: example_owner(),
        },
    );
}

fn visit_job_events(visitor: &mut impl ExampleVisitor) {
    let (job_id, media_id, kind) = (JOB, MEDIA, || owned_text("transcode"));
    let queued = job::JobQueued {
        job_id,
        media_id,
        owner: example_owner(),
        kind: kind(),
        part_count: 3,
        total_ms: 10_592,
    };
    visit_event(visitor, queued);
    let waiting = job::JobWaiting {
        job_id,
        media_id,
        owner: example_owner(),
        kind: kind(),
        reason: owned_text("owner_share"),
        sentence: owned_text(
            "The queue holds 4 of 4 parts, and it is one of 3 owners that take turns: about 2 parts go first.",
        ),
    };
    visit_event(visitor, waiting);
    let worker = owned_text("transcode-7f3a91c2");
    visit_event(visitor, job::JobStarted { job_id, media_id, owner: example_owner(), kind: kind(), worker });
    let retried = job::JobRetried {
        job_id,
        media_id,
        owner: example_owner(),
        kind: kind(),
        part: owned_text("v0001"),
        attempt: 2,
        code: owned_text("child_crashed"),
    };
    visit_event(visitor, retried);
    let succeeded = job::JobSucceeded {
        job_id,
        media_id,
        owner: example_owner(),
        kind: kind(),
        wall_ms: 6_214,
        cpu_ms: 9_870,
        exported: None,
    };
    visit_event(visitor, succeeded);
    let failed = job::JobFailed {
        job_id,
        media_id,
        owner: example_owner(),
        kind: kind(),
        code: owned_text("check_failed"),
        detail: owned_text("v720: segment 2 does not begin with a key frame"),
    };
    visit_event(visitor, failed);
    visit_job_changes(visitor);
    let (part, code) = (owned_text("v0001"), owned_text("child_crashed"));
    visit_event(
        visitor,
        job::JobPartDead { job_id, media_id, owner: example_owner(), kind: kind(), part, code },
    );
    let (part, workers) = (owned_text("v0001"), 9);
    visit_event(
        visitor,
        job::JobParked { job_id, media_id, owner: example_owner(), kind: kind(), part, workers },
    );
}

/// An upload that takes bytes, with parts of a multipart upload.
pub fn upload_record() -> upload::UploadRecord {
    upload::UploadRecord {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: example_owner(),
        status: upload::UploadStatus::Open,
        length_bytes: Some(788_493),
        offset_bytes: 65_536,
        generation: 2,
        holder: Some(owned_text("ingress-51b0c7e4")),
        metadata_raw: owned_text("filename QmlnIEJ1Y2sgQnVubnkubXA0"),
        filename: Some(owned_text("Big Buck Bunny.mp4")),
        content_type: Some(owned_text("video/mp4")),
        mint_tx: None,
        settings: EncodeSettings::default(),
        digest: Some(example_digest()),
        multipart: Some(upload::MultipartState {
            multipart_id: Some(owned_text("2~Yx0dJ1")),
            part_bytes: 16 << 20,
            parts: vec![owned_text("\"5d41402abc4b2a76b9719d911017c592\"")],
            tail: Some(upload::UploadTail { generation: 2, part: 1, size_bytes: 4_096 }),
        }),
        concat: None,
        title: None,
        description: None,
        details: MediaDetails::default(),
        is_public: false,
        is_unlisted: false,
        protocol: upload::UploadProtocol::Tus,
        fetch: None,
        grant_id: None,
        freed: false,
        created_at_ms: MADE_AT_MS,
        expires_at_ms: MADE_AT_MS + 86_400_000,
        code: None,
        kept_until_ms: None,
    }
}

fn asset_record() -> media::MediaRecord {
    media::MediaRecord {
        media_id: MEDIA,
        owner: example_owner(),
        status: media::MediaStatus::Ready,
        source: Some(media_source()),
        technical: Some(technical_metadata()),
        summary: Some(media_summary()),
        encode: Some(media_encode()),
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS,
        changed_at_ms: MADE_AT_MS + 8_000,
        source_removed_at_ms: None,
        restored_removal: 0,
        removed_at_ms: None,
        waiting: None,
        superseded: Vec::new(),
        verification: None,
        attempt: media::MediaAttempt::default(),
    }
}

fn media_summary() -> media::MediaSummary {
    media::MediaSummary {
        container: owned_text("mp4"),
        duration_ms: 5_312,
        width: 1280,
        height: 720,
        frame_rate_milli: 25_000,
        video_codec: Some(owned_text("h264")),
        audio_codecs: vec![owned_text("aac")],
        languages: vec![owned_text("und")],
        renditions: vec![owned_text("v720"), owned_text("v360"), owned_text("a0")],
    }
}

fn ladder_rung(name: &str, (width, height): (u32, u32), level: u32, rate_max_bps: u64) -> job::LadderRung {
    job::LadderRung {
        name: owned_text(name),
        width,
        height,
        frame_step: 1,
        crf: 23,
        rate_max_bps,
        buffer_bits: rate_max_bps * 2,
        profile: owned_text("high"),
        level,
        threads: 2,
    }
}

fn encode_plan() -> job::EncodePlan {
    let video = job::VideoPlan {
        stream_index: 0,
        frame_rate: Rational { num: 25, den: 1 },
        frame_count: 132,
        gop_frames: 50,
        segment_frames: 100,
        ranges: vec![
            job::FrameRange { start_frame: 0, frame_count: 100, first_segment: 1 },
            job::FrameRange { start_frame: 100, frame_count: 32, first_segment: 2 },
        ],
        rungs: vec![
            ladder_rung("v720", (1280, 720), 31, 3_000_000),
            ladder_rung("v360", (640, 360), 30, 900_000),
        ],
        preset: owned_text("veryfast"),
        deinterlace: false,
        storyboard: None,
    };
    let audio = job::AudioPlan {
        loudness_lufs: None,
        name: owned_text("a0"),
        stream_index: 1,
        language: owned_text("und"),
        label: owned_text("Audio 1"),
        channels: 2,
        sample_rate_hz: 48_000,
        bit_rate_bps: 128_000,
        duration_samples: 253_440,
        segment_seconds: Rational { num: 4, den: 1 },
    };
    job::EncodePlan {
        source_key: keys::source_key(MEDIA),
        source_bytes: 788_493,
        origin_us: 0,
        range: None,
        duration_ms: 5_280,
        video: Some(video),
        audio: vec![audio],
        subtitles: Vec::new(),
        poster: Some(job::PosterPlan {
            stream_index: 0,
            at_us: 528_000,
            side_pixels_max: 1280,
            is_cover: false,
        }),
        profile: owned_text("standard"),
        options_digest: owned_text(OPTIONS_DIGEST),
        options_version: String::new(),
        clock: Vec::new(),
        reasons: vec![owned_text("the source has 720 lines: no rung above")],
        warnings: Vec::new(),
        copy: None,
    }
}

/// A job that succeeded.
pub fn job_record() -> job::JobRecord {
    job::JobRecord {
        job_id: JOB,
        kind: owned_text("transcode"),
        priority: JobPriority::P1,
        media_id: MEDIA,
        owner: example_owner(),
        status: job::JobStatus::Active,
        encode: 1,
        prefix: keys::encode_prefix(MEDIA, 1, OPTIONS_DIGEST),
        plan: encode_plan(),
        parts: vec![owned_text("a0"), owned_text("v0000"), owned_text("v0001"), owned_text("finish")],
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS + 1_000,
        ended_at_ms: None,
        kept_until_ms: None,
        folded: None,
        publishing_at_ms: None,
        retry_of: None,
        cleared_at_ms: None,
        made: Vec::new(),
        paused_at_ms: None,
        scheduled: None,
        verified: None,
        action: None,
        acted: None,
        fetch: None,
        thumbnails: None,
        export: None,
        exported: None,
    }
}

fn part_record() -> job::JobPartRecord {
    let segment = job::StoredSegment { start_ticks: 0, duration_ticks: 51_200, size_bytes: 402_117 };
    let track = job::StoredTrack {
        rendition: owned_text("v720"),
        timescale: 12_800,
        init_sha256: owned_text("51f0d3b9c7a2684e10fd5c93b2e7a86401c9f3d57e8b2a60f4d1937c85ae2b06"),
        init_bytes: 812,
        codecs: owned_text("avc1.64001f"),
        first_segment: 1,
        segments: vec![segment],
    };
    job::JobPartRecord {
        status: job::JobPartStatus::Done,
        attempt: 1,
        worker: owned_text("transcode-7f3a91c2"),
        last_seen_ms: MADE_AT_MS + 4_000,
        tracks: vec![track],
        cpu_ms: 6_120,
        wall_ms: 3_544,
        rss_bytes_max: 187_236_352,
        ..job::JobPartRecord::new(JOB, "v0000")
    }
}

fn media_experience() -> experience::MediaExperience {
    let mut sum = experience::ExperienceSum {
        views: 3,
        failed_views: 0,
        starts: Vec::new(),
        stalls: 1,
        stalled_ms: 420,
        played_ms: 95_000,
        rated_ms: 93_500,
        rated_bytes: 32_725_000,
    };
    for start_ms in [640, 710, 2_300] {
        sum.add_start(start_ms);
    }
    let hour_ms = experience::MediaExperience::hour_of_ms(MADE_AT_MS);
    experience::MediaExperience::with_added(None, MEDIA, hour_ms, &sum)
}

fn visit_records(visitor: &mut impl ExampleVisitor) {
    visitor.visit("kv.uploads", upload_record());
    let position = view::ViewPosition {
        partition: 3,
        stream_created_us: MADE_AT_MS * 1_000,
        sequence: 37,
        media_id: None,
    };
    visitor.visit("kv.limits.views", position);
    let document = document::MediaDocumentRecord {
        title: owned_text("Big Buck Bunny"),
        ..document::MediaDocumentRecord::new(MEDIA, example_owner(), MADE_AT_MS)
    };
    let open = upload::OpenUploads {
        key: upload::OpenUploads::key_for_owner(&example_digest().value),
        upload_ids: vec![UPLOAD],
        length_bytes: Vec::new(),
    };
    visitor.visit("kv.limits.uploads", open);
    let usage = usage::OwnerUsage::with_added(None, (&example_digest().value, 20_787), (1_048_576, 65_000));
    visitor.visit("kv.limits.usage", usage);
    visitor.visit("kv.experience", media_experience());
    visitor.visit("kv.media", document);
    visitor.visit("kv.assets", asset_record());
    visitor.visit("kv.jobs", job_record());
    visitor.visit("kv.jobs.part", part_record());
    let key = access::ApiKey {
        key_id: KEY,
        secret_sha256: example_digest().value,
        owner: example_owner(),
        role: access::PrincipalRole::Admin,
        created_at_ms: MADE_AT_MS,
        scopes: None,
        label: None,
        contact_email: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    visitor.visit("kv.apikeys", key);
    let secret = access::SigningSecret {
        name: owned_text("playback"),
        bytes: example_digest().value,
        created_at_ms: MADE_AT_MS,
    };
    visitor.visit("kv.secrets", secret);
    let bytes = ByteBuf::from((0_u8..16).map(|byte| byte.wrapping_mul(17)).collect::<Vec<u8>>());
    visitor.visit(
        "kv.keys",
        document::SegmentKey { media_id: MEDIA, bytes, created_at_ms: MADE_AT_MS + 60_000 },
    );
    let identity = store::StoreIdentity {
        store_id: STORE,
        created_at_ms: MADE_AT_MS,
        marked_at_ms: Some(MADE_AT_MS + 20),
    };
    visitor.visit("kv.store", identity);
    visit_grants(visitor);
}

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
const CONTRACT: &str = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359";
const SLOT: &str = "slot.5d5b09f6dcb2d53a5fffc60c4ac0d55fabdf556069d6631545f42aa6e3500f2e";

fn chain_blocks() -> Vec<gate::ChainBlock> {
    let hash = owned_text("0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6");
    vec![gate::ChainBlock { chain_id: 1, number: 23_868_000, hash }]
}

fn rule_digest() -> String {
    owned_text("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
}

fn visit_gate_events(visitor: &mut impl ExampleVisitor) {
    let (media_id, viewer) = (MEDIA, owned_text(WALLET));
    let changed = gate::GateChanged {
        media_id,
        owner: example_owner(),
        changed_by: example_owner(),
        gate_epoch: 1,
        rule_digest: rule_digest(),
    };
    visit_event(visitor, changed);
    let granted = gate::GateGranted {
        media_id,
        owner: example_owner(),
        playback_id: PLAYBACK,
        viewer: viewer.clone(),
        rule_digest: rule_digest(),
        blocks: chain_blocks(),
        code: gate::GateReasonCode::RuleHolds,
    };
    visit_event(visitor, granted);
    let denied = gate::GateDenied {
        media_id,
        owner: example_owner(),
        viewer: viewer.clone(),
        rule_digest: rule_digest(),
        blocks: chain_blocks(),
        code: gate::GateReasonCode::NotOwner,
        untold: None,
    };
    visit_event(visitor, denied);
    let revoked = gate::GateRevoked {
        media_id,
        owner: example_owner(),
        playback_id: PLAYBACK,
        viewer,
        rule_digest: rule_digest(),
        blocks: chain_blocks(),
        code: gate::GateReasonCode::NotOwner,
    };
    visit_event(visitor, revoked);
    let doubted = gate::GateDoubted {
        chain_id: 1,
        what: gate::ChainDataIssue::Disagreement,
        contract: None,
        providers: vec![owned_text("1"), owned_text("3")],
    };
    visit_event(visitor, doubted);
}

fn visit_grants(visitor: &mut impl ExampleVisitor) {
    let session = gate::PlaybackSession {
        playback_id: PLAYBACK,
        media_id: MEDIA,
        owner: example_owner(),
        viewer: owned_text(WALLET),
        wallet: Some(owned_text(WALLET)),
        wallet_chain_id: None,
        rights: gate::ViewerRights::Owner,
        opener: None,
        gate_epoch: 1,
        rule_digest: rule_digest(),
        slots: vec![owned_text(SLOT)],
        watches: vec![gate::WatchedContract { chain_id: 1, contract: owned_text(CONTRACT) }],
        blocks: chain_blocks(),
        opened_at_ms: MADE_AT_MS,
        granted_until_ms: MADE_AT_MS + 60_000,
        expires_at_ms: MADE_AT_MS + 43_200_000,
        unused_until_ms: None,
        played_at_ms: None,
        revoked: None,
    };
    visitor.visit("kv.grants", session);
    let slot = gate::TokenSlot {
        key: owned_text(SLOT),
        holders: vec![PLAYBACK],
        expires_at_ms: MADE_AT_MS + 43_200_000,
    };
    visitor.visit("kv.grants.slot", slot);
    visitor.visit("kv.grants.cursor", gate::ChainCursor { chain_id: 1, blocks: chain_blocks() });
}

fn wallet_owner() -> String {
    format!("eip155:{ADDRESS}")
}

fn visit_session_events(visitor: &mut impl ExampleVisitor) {
    let (request_id, session_id, owner) = (REQUEST, SESSION, wallet_owner);
    let challenged = session::AuthChallenged {
        request_id,
        challenge_id: CHALLENGE,
        domain: owned_text("media.example.org"),
        address: Some(owned_text(ADDRESS)),
    };
    visit_event(visitor, challenged);
    let code = owned_text("signature_refused");
    visit_event(
        visitor,
        session::AuthRefused { request_id, challenge_id: CHALLENGE, code, address: owned_text(ADDRESS) },
    );
    let method = session::SignInMethod::Key;
    visit_event(
        visitor,
        session::AuthSignedIn {
            request_id,
            session_id,
            owner: owner(),
            chain_id: 1,
            method,
            is_checksummed: true,
        },
    );
    visit_event(visitor, session::AuthRefreshed { request_id, session_id, owner: owner(), generation: 2 });
    visit_event(visitor, session::AuthReused { request_id, session_id, owner: owner(), generation: 1 });
    let end = session::SessionEndReason::SignedOut;
    visit_event(visitor, session::AuthSignedOut { request_id, session_id, owner: owner(), end });
    let created = session::AuthKeyCreated {
        request_id,
        key_id: KEY,
        owner: owner(),
        role: access::PrincipalRole::Owner,
        scopes: Some(vec![access::ApiKeyScope::Upload]),
        by: owner(),
    };
    visit_event(visitor, created);
    visit_event(visitor, session::AuthLinkCreated { request_id, owner: owner(), by: owner() });
    visit_event(visitor, session::AuthUploadTokenCreated { request_id, owner: owner() });
    visit_event(visitor, session::AuthKeyRevoked { request_id, key_id: KEY, owner: owner(), by: owner() });
    let grant = upload_grant();
    let created = upload_grant::UploadGrantCreated {
        grant_id: GRANT,
        owner: owner(),
        size_bytes_max: grant.size_bytes_max,
        types: grant.types,
        expires_at_ms: grant.expires_at_ms,
    };
    visit_event(visitor, created);
    let used = upload_grant::UploadGrantUsed { grant_id: GRANT, owner: owner(), upload_id: UPLOAD };
    visit_event(visitor, used);
    let revoked = upload_grant::UploadGrantRevoked { grant_id: GRANT, owner: owner(), by: owner() };
    visit_event(visitor, revoked);
}

fn visit_grant_records(visitor: &mut impl ExampleVisitor, owner_sha256: String) {
    visitor.visit("kv.apikeys.grant", upload_grant());
    let expires_at_ms = MADE_AT_MS + 3_600_000;
    let listed = upload_grant::OwnerUploadGrants { owner_sha256, grant_ids: vec![GRANT], expires_at_ms };
    visitor.visit("kv.apikeys.grants", listed);
}

/// A right to bring one film, which was used.
pub(crate) fn upload_grant() -> upload_grant::UploadGrant {
    upload_grant::UploadGrant {
        grant_id: GRANT,
        secret_sha256: ByteBuf::from(vec![7; 32]),
        owner: example_owner(),
        credential: gate::PlaybackCredential::Key(KEY),
        size_bytes_max: 1 << 30,
        types: vec![owned_text("video/*")],
        title: None,
        created_at_ms: MADE_AT_MS,
        expires_at_ms: MADE_AT_MS + 3_600_000,
        used: Some(upload_grant::UploadGrantUse { upload_id: UPLOAD, until_ms: MADE_AT_MS + 86_400_000 }),
        revoked_at_ms: None,
    }
}

fn visit_session_records(visitor: &mut impl ExampleVisitor) {
    let expires_at_ms = MADE_AT_MS + 300_000;
    let challenge = session::SignInChallenge {
        challenge_id: CHALLENGE,
        binding_sha256: example_digest().value,
        domain: owned_text("media.example.org"),
        address: Some(owned_text(ADDRESS)),
        chain_id: Some(1),
        created_at_ms: MADE_AT_MS,
        expires_at_ms,
        used_at_ms: Some(MADE_AT_MS + 20_000),
        code: Some(owned_text("signature_refused")),
    };
    visitor.visit("kv.nonces", challenge);
    let hash = || owned_text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581");
    visitor.visit(
        "kv.nonces.prefix",
        session::ChallengeCounter { prefix_sha256: hash(), count: 3, expires_at_ms },
    );
    let link = session::SignInLink {
        code_sha256: hash(),
        owner: example_owner(),
        role: crate::access::PrincipalRole::Owner,
        created_at_ms: MADE_AT_MS,
        expires_at_ms: MADE_AT_MS + 600_000,
        used_at_ms: Some(MADE_AT_MS + 20_000),
        key: None,
    };
    visitor.visit("kv.nonces.link", link);
    let token = session::UploadToken {
        token_sha256: hash(),
        credential: gate::PlaybackCredential::Key(KEY),
        redirect_url: Some(owned_text("https://blog.example.org/thanks")),
        created_at_ms: MADE_AT_MS,
        expires_at_ms: MADE_AT_MS + 3_600_000,
        used_at_ms: None,
    };
    visitor.visit("kv.nonces.upload", token);
    visit_grant_records(visitor, hash());
    let expires_at_ms = MADE_AT_MS + 2_592_000_000;
    let session = session::AuthSession {
        session_id: SESSION,
        address: owned_text(ADDRESS),
        chain_id: 1,
        method: session::SignInMethod::Contract,
        account_chain_id: None,
        generation: 2,
        refresh_sha256: example_digest().value,
        refreshed_at_ms: None,
        refreshed_by: None,
        created_at_ms: MADE_AT_MS,
        expires_at_ms,
        ended_at_ms: Some(MADE_AT_MS + 600_000),
        end: Some(session::SessionEndReason::SignedOut),
        proof: Some(session::ContractProof {
            digest: example_digest().value,
            signature: ByteBuf::from(vec![1, 2, 3]),
        }),
    };
    visitor.visit("kv.sessions", session);
    let sessions = vec![session::WalletSessionEntry { session_id: SESSION, expires_at_ms }];
    visitor.visit(
        "kv.sessions.wallet",
        session::WalletSessions { address: owned_text(ADDRESS), chain_id: None, sessions, expires_at_ms },
    );
    let keys =
        vec![session::KeyRingEntry { key_id: KEY, bytes: example_digest().value, signs_from_ms: MADE_AT_MS }];
    visitor.visit("kv.secrets.ring", session::KeyRing { name: owned_text("access"), keys });
    visitor.visit("kv.apikeys.owner", session::OwnerApiKeys { owner_sha256: hash(), key_ids: vec![KEY] });
    visit_limits(visitor);
}

fn limit_exceeded() -> limit::RateLimitExceeded {
    limit::RateLimitExceeded {
        request_id: RequestId::from_bytes(*UPLOAD.as_bytes()),
        group: owned_text("auth"),
        scope: owned_text("client"),
        owner: None,
        denied_count: 12,
    }
}

fn access_summed() -> access_sum::AccessSummed {
    let refused = access_sum::AccessSum {
        class: access_sum::AccessClass::Refusal,
        what: owned_text("api_key"),
        role: None,
        who: Some(format!("sg_{KEY}")),
        outcome: owned_text("unauthorized"),
        count: 41,
    };
    let read = access_sum::AccessSum {
        class: access_sum::AccessClass::Read,
        what: owned_text("GET /v1/audit"),
        role: Some(access::PrincipalRole::Operator),
        who: Some(wallet_owner()),
        outcome: owned_text("ok"),
        count: 2,
    };
    let until_ms = MADE_AT_MS + 60_000;
    access_sum::AccessSummed { request_id: REQUEST, from_ms: MADE_AT_MS, until_ms, sums: vec![refused, read] }
}

fn visit_limits(visitor: &mut impl ExampleVisitor) {
    let replicas = limit::IngressReplicas {
        expires_at_ms: BTreeMap::from([(
            RequestId::from_bytes(*UPLOAD.as_bytes()).to_string(),
            MADE_AT_MS + 10_000,
        )]),
    };
    visitor.visit("kv.limits.replicas", replicas);
    let reported =
        limit::RateLimitEventCounter { minute_started_at_ms: MADE_AT_MS, events_count: 3, untold_count: 0 };
    visitor.visit("kv.limits.reported", reported);
    let pause = pause::QueuePause {
        paused_at_ms: MADE_AT_MS,
        paused_by: owned_text("admin"),
        reason: Some(owned_text("its uploads are looked into")),
    };
    let pauses =
        pause::QueuePauses { owners: BTreeMap::from([(example_owner(), pause)]), kinds: BTreeMap::new() };
    visitor.visit("kv.limits.pauses", pauses);
    visitor.visit("kv.limits.log_levels", example_log_levels());
    visitor.visit("kv.limits.alerts", example_board());
    let entry = cached::CachedEntry {
        owner_digest: owned_text("9f86d081884c7d659a2feaa0c55ad015"),
        key_digest: owned_text("2c26b46b68ffc68ff99b453c1d304134"),
        content_type: owned_text("application/json"),
        value: ByteBuf::from(b"{}".to_vec()),
        epoch: 1,
        expires_at_ms: MADE_AT_MS + 300_000,
        writer_expires_at_ms: MADE_AT_MS + 300_000,
    };
    visitor.visit("kv.cache", entry);
    visitor.visit("kv.limits.cache_epoch", cached::CacheEpoch { epoch: 1 });
    visitor.visit("kv.cache.flush", cached::CacheFlush { epoch: 1 });
    let tick = cached::CacheTick { replica: owned_text("51b0c7e4"), number: 7, written_at_ms: MADE_AT_MS };
    visitor.visit("kv.cache.tick", tick);
    let answered = idempotency::IdempotencyState::Answered {
        status: 201,
        headers: BTreeMap::from([(owned_text("location"), format!("/v1/media/{MEDIA}"))]),
        body: ByteBuf::from(format!("{{\"media_id\":\"{MEDIA}\"}}").into_bytes()),
    };
    let record = idempotency::IdempotencyRecord {
        key: owned_text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581"),
        fingerprint: example_digest().value,
        state: answered,
        expires_at_ms: MADE_AT_MS + 86_400_000,
    };
    visitor.visit("kv.idempotency", record);
    visitor.visit("kv.schedules", schedule_record());
    visit_hook_records(visitor);
    visitor.visit("kv.workers", worker_record());
}

fn media_page() -> index_query::MediaIndexPage {
    let item = index_query::MediaIndexItem {
        media_id: MEDIA,
        owner: example_owner(),
        title: owned_text("Big Buck Bunny"),
        status: media::MediaStatus::Ready,
        summary: Some(media_summary()),
        size_bytes: Some(788_493),
        encode: Some(1),
        has_poster: true,
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS,
        changed_at_ms: MADE_AT_MS + 8_000,
        document_revision: 12,
        asset_revision: 19,
        removed_at_ms: None,
    };
    index_query::MediaIndexPage { items: vec![item], next: Some(owned_text("019ab0010203")), revision: 12 }
}

fn visit_search(visitor: &mut impl ExampleVisitor) {
    let question = search_query::MediaSearchQuery {
        visible_owner: Some(example_owner()),
        text: owned_text("big bunny"),
        filters: search_query::MediaSearchFilters {
            status: Some(media::MediaStatus::Ready),
            duration_ms_max: Some(600_000),
            ..search_query::MediaSearchFilters::default()
        },
        limit: 50,
        min_revision: Some(12),
        facets: vec![search_query::MediaSearchFacet::Status],
        ..search_query::MediaSearchQuery::default()
    };
    visitor.visit("ask.search_media", question);
    visitor.visit("ask.search_media.answer", index_query::IndexReply::Page(media_search_page()));
}

/// A page of hits.
pub fn media_search_page() -> search_query::MediaSearchPage {
    let marked = |start, end| search_query::CharacterRange { start, end };
    let highlight = search_query::SearchHighlight {
        field: owned_text("title"),
        text: owned_text("Big Buck Bunny"),
        ranges: vec![marked(0, 3), marked(9, 14)],
    };
    let hits = media_page().items.into_iter();
    let hits = hits.map(|item| search_query::MediaSearchHit { item, highlights: vec![highlight.clone()] });
    let ready = search_query::FacetCount { value: owned_text("ready"), count: 1 };
    search_query::MediaSearchPage {
        hits: hits.collect(),
        next: None,
        total: 1,
        total_is_lower_bound: false,
        facets: [(search_query::MediaSearchFacet::Status, vec![ready])].into(),
        revisions: search_query::SearchRevisions { media: 12, assets: 19 },
        lag_ms: 0,
    }
}

/// A job of a list.
pub fn job_index_item() -> index_query::JobIndexItem {
    index_query::JobIndexItem {
        job_id: JOB,
        kind: owned_text("transcode"),
        priority: JobPriority::P1,
        media_id: MEDIA,
        owner: example_owner(),
        status: job::JobStatus::Failed,
        encode: 1,
        duration_ms: 5_280,
        parts_total: 4,
        parts_done: 3,
        parts_claimed: 0,
        parts_failed: 1,
        cpu_ms: 9_870,
        code: Some(owned_text("check_failed")),
        detail: Some(owned_text("v720: segment 2 does not begin with a key frame")),
        created_at_ms: MADE_AT_MS + 1_000,
        ended_at_ms: Some(MADE_AT_MS + 8_000),
        paused_at_ms: None,
        revision: 44,
    }
}

fn job_page() -> index_query::JobIndexPage {
    let item = job_index_item();
    index_query::JobIndexPage { items: vec![item], next: None, revision: 44 }
}

fn audit_record() -> audit::AuditRecord {
    let event = job::JobCancelled {
        job_id: JOB,
        media_id: MEDIA,
        owner: example_owner(),
        kind: owned_text("transcode"),
        cancelled_by: None,
    };
    audit::AuditRecord {
        n: 1,
        source: audit::AuditSource {
            stream: owned_text(subjects::EVENTS),
            sequence: 1,
            id: owned_text("5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581c0ff"),
            epoch: None,
        },
        time: owned_text("2025-11-23T12:26:54.467Z"),
        stored_at: owned_text("2025-11-23T12:26:54.468Z"),
        kind: owned_text("job.cancelled"),
        subject: subjects::event_subject(&event),
        entity_id: JOB.to_string(),
        owner: Some(example_owner()),
        media_id: Some(MEDIA.to_string()),
        job_id: Some(JOB.to_string()),
        trace_id: None,
        data: serde_json::to_value(&event).unwrap_or_default(),
        prev_hash: owned_text(audit::FIRST_PREV_HASH),
    }
}

fn dispatch_position() -> dispatch_query::DispatchPosition {
    dispatch_query::DispatchPosition {
        is_waiting: true,
        queued_parts: 0,
        parked_parts: 0,
        delayed_parts: 0,
        retry_at_ms: None,
        lacks_version: false,
        own_jobs_ahead: 3,
        owners_waiting: 2,
        jobs_waiting: 14,
        queue_parts: 4,
        queue_parts_max: 4,
        workers: 1,
        slots: 2,
        parts_ahead: 31,
        parts_per_minute: Some(12),
        owner_parts_max: None,
    }
}

/// A schedule with two runs.
pub fn schedule_record() -> schedule::ScheduleRecord {
    let run = |planned_at_ms, outcome| schedule::ScheduleRun {
        planned_at_ms,
        fired_at_ms: planned_at_ms + 40,
        trigger: schedule::RunTrigger::Time,
        outcome,
    };
    schedule::ScheduleRecord {
        schedule_id: SCHEDULE,
        owner: example_owner(),
        owner_key: owned_text("8c6976e5b5410415bde908bd4dee15df"),
        created_by: example_owner(),
        name: owned_text("Nightly"),
        timing: schedule_timing(),
        missed: schedule::MissedRunPolicy::Once,
        job: job_request(),
        created_at_ms: MADE_AT_MS,
        next_run_at_ms: Some(MADE_AT_MS + 86_400_000),
        paused_at_ms: None,
        runs: vec![
            run(MADE_AT_MS - 86_400_000, schedule::RunOutcome::Begun { job_id: JOB }),
            run(
                MADE_AT_MS,
                schedule::RunOutcome::Refused {
                    code: owned_text("not_encodable"),
                    detail: owned_text("it is being encoded"),
                },
            ),
        ],
        kept_until_ms: None,
        removed_at_ms: None,
    }
}

fn schedule_timing() -> schedule::ScheduleTiming {
    schedule::ScheduleTiming::Cron {
        expression: owned_text("30 2 * * *"),
        time_zone: owned_text("Europe/Berlin"),
    }
}

fn job_request() -> schedule::JobRequest {
    schedule::JobRequest::Transcode(schedule::TranscodeJobRequest {
        media_id: MEDIA,
        profile: Some(owned_text("default")),
        range: None,
        priority: JobPriority::P2,
    })
}

const HOOK_POSITION: hook::HookPosition = hook::HookPosition { created_at_ms: MADE_AT_MS, sequence: 41 };

/// A hook that is paused.
pub fn hook_record() -> hook::HookRecord {
    hook::HookRecord {
        hook_id: HOOK,
        owner: example_owner(),
        owner_key: owned_text("8c6976e5b5410415bde908bd4dee15df"),
        created_by: example_owner(),
        name: owned_text("Catalogue"),
        url: owned_text("https://films.example/hooks?key=1f3a"),
        types: vec![owned_text("media"), owned_text("job.failed")],
        media_id: None,
        job_id: None,
        is_for_all: false,
        secrets: vec![hook::HookSecret {
            bytes: ByteBuf::from(vec![7; 32]),
            made_at_ms: MADE_AT_MS,
            signs_until_ms: None,
        }],
        begins: HOOK_POSITION,
        created_at_ms: MADE_AT_MS,
        paused: Some(hook::HookPause {
            at_ms: MADE_AT_MS + 60_000,
            reason: hook::HookPauseReason::Gone,
            by: None,
        }),
        resumed_at_ms: None,
        removed_at_ms: None,
        is_given_away: false,
        log_from_ms: None,
    }
}

fn visit_hook_records(visitor: &mut impl ExampleVisitor) {
    visitor.visit("kv.hooks", hook_record());
    let lane = hook::HookLane {
        media_id: Some(MEDIA),
        waiting: vec![hook::WaitingEvent { sequence: 39, since_ms: MADE_AT_MS }],
        tries: 2,
        next_try_at_ms: MADE_AT_MS + 10_000,
        code: Some(owned_text("connect_failed")),
        is_expedited: false,
    };
    let progress = hook::HookProgress {
        lanes: vec![lane],
        failing_since_ms: Some(MADE_AT_MS),
        ..hook::HookProgress::new(HOOK, HOOK_POSITION)
    };
    visitor.visit("kv.hooks.progress", progress);
    let asked = hook::AskedDelivery {
        delivery_id: DELIVERY,
        content: hook::AskedContent::Event { sequence: 39, media_id: Some(MEDIA), event_id: None },
        asked_at_ms: MADE_AT_MS,
    };
    let replay = hook::AskedReplay { position: HOOK_POSITION, asked_at_ms: MADE_AT_MS };
    let requests =
        hook::HookRequests { hook_id: HOOK, deliveries: vec![asked], replay: Some(replay), done_at_ms: None };
    visitor.visit("kv.hooks.requests", requests);
}

/// A delivery that failed.
pub fn hook_delivery() -> hook_delivery::HookDelivery {
    hook_delivery::HookDelivery {
        delivery_id: DELIVERY,
        hook_id: HOOK,
        trigger: hook_delivery::DeliveryTrigger::Event,
        event_id: owned_text("b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78"),
        event_type: owned_text("media.ready"),
        sequence: Some(39),
        media_id: Some(MEDIA),
        attempt: 2,
        sent_at_ms: MADE_AT_MS,
        took_ms: 31,
        url: owned_text("https://films.example/hooks"),
        outcome: hook_delivery::DeliveryOutcome::Failed,
        code: Some(owned_text("status_refused")),
        detail: Some(owned_text("films.example answered with the status 503")),
        status: Some(503),
        body: Some(owned_text("{\"type\":\"media.ready\"}")),
        answer: Some(owned_text("later")),
        next_try_at_ms: Some(MADE_AT_MS + 10_000),
    }
}

fn visit_hook_events(visitor: &mut impl ExampleVisitor) {
    let (hook_id, owner, url) = (HOOK, example_owner(), owned_text("https://films.example/hooks"));
    let types = vec![owned_text("media")];
    let created = hook_event::HookCreated {
        hook_id,
        owner: owner.clone(),
        url: url.clone(),
        types: types.clone(),
        media_id: None,
        job_id: None,
        is_for_all: false,
        created_by: owner.clone(),
    };
    visit_event(visitor, created);
    let changed = hook_event::HookChanged {
        hook_id,
        owner: owner.clone(),
        url,
        types,
        media_id: Some(MEDIA),
        job_id: None,
        is_for_all: false,
        changed_by: owner.clone(),
    };
    visit_event(visitor, changed);
    visit_event(
        visitor,
        hook_event::HookRemoved { hook_id, owner: owner.clone(), removed_by: owner.clone() },
    );
    let paused = hook_event::HookPaused {
        hook_id,
        owner: owner.clone(),
        reason: hook::HookPauseReason::Failing,
        code: Some(owned_text("timed_out")),
        paused_by: None,
    };
    visit_event(visitor, paused);
    visit_event(
        visitor,
        hook_event::HookResumed { hook_id, owner: owner.clone(), resumed_by: owner.clone() },
    );
    let rotated = hook_event::HookRotated {
        hook_id,
        owner: owner.clone(),
        old_signs_until_ms: MADE_AT_MS + 86_400_000,
        rotated_by: owner.clone(),
    };
    visit_event(visitor, rotated);
    visit_asked_hook_events(visitor);
    let skipped = hook_event::HookSkipped {
        hook_id,
        owner,
        reason: hook_event::HookSkipReason::GivenUp,
        first_sequence: 39,
        last_sequence: 39,
        media_id: Some(MEDIA),
        tries: 84,
        code: Some(owned_text("status_refused")),
    };
    visit_event(visitor, skipped);
}

fn visit_asked_hook_events(visitor: &mut impl ExampleVisitor) {
    let (hook_id, owner, delivery_id) = (HOOK, example_owner(), DELIVERY);
    let tested =
        hook_event::HookTested { hook_id, owner: owner.clone(), delivery_id, tested_by: owner.clone() };
    visit_event(visitor, tested);
    let redelivered = hook_event::HookRedelivered {
        hook_id,
        owner: owner.clone(),
        delivery_id,
        sequence: 39,
        redelivered_by: owner.clone(),
    };
    visit_event(visitor, redelivered);
    let replayed = hook_event::HookReplayed {
        hook_id,
        owner: owner.clone(),
        position: HOOK_POSITION,
        replayed_by: owner,
    };
    visit_event(visitor, replayed);
}

fn visit_schedule_events(visitor: &mut impl ExampleVisitor) {
    let (schedule_id, owner) = (SCHEDULE, example_owner());
    let created = schedule::ScheduleCreated {
        schedule_id,
        owner: owner.clone(),
        timing: schedule_timing(),
        job: job_request(),
        next_run_at_ms: Some(MADE_AT_MS),
        created_by: owner.clone(),
    };
    visit_event(visitor, created);
    let changed = schedule::ScheduleChanged {
        schedule_id,
        owner: owner.clone(),
        timing: schedule::ScheduleTiming::Every { interval_ms: 3_600_000, first_at_ms: Some(MADE_AT_MS) },
        missed: schedule::MissedRunPolicy::Skip,
        job: job_request(),
        is_paused: true,
        next_run_at_ms: Some(MADE_AT_MS),
        changed_by: owner.clone(),
    };
    visit_event(visitor, changed);
    let removed = schedule::ScheduleRemoved { schedule_id, owner: owner.clone(), removed_by: owner.clone() };
    visit_event(visitor, removed);
    let fired = schedule::ScheduleFired {
        schedule_id,
        owner: owner.clone(),
        planned_at_ms: MADE_AT_MS,
        trigger: schedule::RunTrigger::Time,
        job: job_request(),
        fired_by: None,
    };
    visit_event(visitor, fired);
    let refused = schedule::ScheduleRefused {
        schedule_id,
        owner: owner.clone(),
        planned_at_ms: MADE_AT_MS,
        code: owned_text("not_encodable"),
        detail: owned_text("it is being encoded"),
    };
    visit_event(visitor, refused);
    let missed = schedule::ScheduleMissed {
        schedule_id,
        owner,
        first_at_ms: MADE_AT_MS,
        last_at_ms: MADE_AT_MS + 86_400_000,
    };
    visit_event(visitor, missed);
    let request_id = RequestId::from_bytes(*UPLOAD.as_bytes());
    let paused = pause::QueuePaused {
        request_id,
        scope: pause::PauseScope::Owner,
        name: example_owner(),
        paused_by: owned_text("admin"),
        reason: Some(owned_text("its uploads are looked into")),
    };
    visit_event(visitor, paused);
    let resumed = pause::QueueResumed {
        request_id,
        scope: pause::PauseScope::Kind,
        name: owned_text(job::TRANSCODE),
        resumed_by: owned_text("admin"),
    };
    visit_event(visitor, resumed);
    visit_event(visitor, cached::CacheCleared { request_id, cleared_by: owned_text("admin"), epoch: 2 });
    visit_event(visitor, log_level_changed(request_id));
    visit_alert_events(visitor, request_id);
}

fn log_level_changed(request_id: RequestId) -> log_level::AdminLogLevelChanged {
    log_level::AdminLogLevelChanged {
        request_id,
        role: Some(owned_text("upload")),
        instance: None,
        filter: Some(owned_text("debug")),
        until_ms: MADE_AT_MS + log_level::FOR_MS_DEFAULT,
        changed_by: owned_text("admin"),
        reason: Some(owned_text("files are rejected that play elsewhere")),
    }
}

fn example_log_levels() -> log_level::LogLevels {
    let of_upload = log_level::LogLevelOverride {
        role: Some(owned_text("upload")),
        instance: None,
        filter: owned_text("debug,nats::consume=trace"),
        set_at_ms: MADE_AT_MS,
        until_ms: MADE_AT_MS + log_level::FOR_MS_DEFAULT,
        set_by: owned_text("admin"),
        reason: Some(owned_text("files are rejected that play elsewhere")),
    };
    log_level::LogLevels { overrides: vec![of_upload] }
}

/// What fires, one silence, and one acknowledgement.
fn example_board() -> alert::AlertBoard {
    let mark = alert::AlertMark {
        made_at_ms: MADE_AT_MS + 65_000,
        until_ms: MADE_AT_MS + 7_200_000,
        made_by: owned_text("admin"),
        reason: Some(owned_text("the disk is being replaced")),
    };
    let fired = example_alert();
    let state = alert::AlertState {
        alert_id: fired.alert_id,
        name: fired.name,
        severity: fired.severity,
        labels: fired.labels,
        phase: alert::AlertPhase::Firing,
        summary: fired.summary,
        value: fired.value,
        since_ms: fired.since_ms,
        fired_at_ms: Some(fired.fired_at_ms),
        resolved_at_ms: None,
        notified_at_ms: BTreeMap::from([(owned_text("webhook-1"), MADE_AT_MS + 61_000)]),
    };
    alert::AlertBoard {
        evaluated_at_ms: MADE_AT_MS + 66_000,
        acknowledgements: BTreeMap::from([(state.alert_id.clone(), mark.clone())]),
        silences: BTreeMap::from([(owned_text("StreamGateStreamFilling"), mark)]),
        alerts: vec![state],
        omitted_count: 0,
    }
}

fn example_alert() -> alert::AlertFired {
    alert::AlertFired {
        alert_id: owned_text("5d5ba0a1b2c3d4e5"),
        name: owned_text("StreamGateDeadLetters"),
        severity: alert::AlertSeverity::Ticket,
        labels: BTreeMap::from([(owned_text("stage"), owned_text("transcode"))]),
        summary: owned_text("3 dead letters of transcode; see `streamgate dead ls`"),
        value: 3.0,
        since_ms: MADE_AT_MS,
        fired_at_ms: MADE_AT_MS + 60_000,
        is_silenced: false,
    }
}

fn visit_alert_events(visitor: &mut impl ExampleVisitor, request_id: RequestId) {
    let fired = example_alert();
    let resolved = alert::AlertResolved {
        alert_id: fired.alert_id.clone(),
        name: fired.name.clone(),
        severity: fired.severity,
        labels: fired.labels.clone(),
        fired_at_ms: fired.fired_at_ms,
        resolved_at_ms: fired.fired_at_ms + 600_000,
    };
    visit_event(visitor, fired);
    visit_event(visitor, resolved);
    let silenced = alert::AlertSilenced {
        request_id,
        alert: owned_text("StreamGateStreamFilling"),
        until_ms: MADE_AT_MS + 7_200_000,
        silenced_by: owned_text("admin"),
        reason: Some(owned_text("the disk is being replaced")),
    };
    visit_event(visitor, silenced);
    let acknowledged = alert::AlertAcknowledged {
        request_id,
        alert: owned_text("5d5ba0a1b2c3d4e5"),
        until_ms: MADE_AT_MS + 7_200_000,
        acknowledged_by: owned_text("admin"),
        reason: None,
    };
    visit_event(visitor, acknowledged);
}

/// A worker that holds a part.
pub fn worker_record() -> worker::WorkerRecord {
    let held = worker::HeldPart { job_id: JOB, part: owned_text("v0001"), since_ms: MADE_AT_MS + 61_000 };
    worker::WorkerRecord {
        worker: owned_text(WORKER),
        queue: owned_text(job::TRANSCODE),
        slots: 2,
        held: vec![held],
        state: worker::WorkerState::Running,
        version: owned_text("1.0.0"),
        // As in the bytes that an earlier version wrote.
        options_version: String::new(),
        other_version_wait_ms: 0,
        host: owned_text("encoder-3"),
        started_at_ms: MADE_AT_MS,
        speed: Some(2_450),
    }
}

fn visit_activity(visitor: &mut impl ExampleVisitor) {
    let asked = index_query::EncodeActivityQuery { owner: Some(example_owner()), ended_from_ms: MADE_AT_MS };
    visitor.visit("ask.encode_activity", asked);
    let activity = index_query::ProfileActivity {
        profile: owned_text("default"),
        succeeded: 12,
        failed: 1,
        cancelled: 0,
        output_ms: 3_600_000,
        work_ms: 1_800_000,
        cpu_ms: 1_750_000,
        speed: Some(2_000),
        job_ms_median: Some(95_000),
        job_ms_p95: Some(410_000),
    };
    let activity = index_query::EncodeActivity { profiles: vec![activity], is_cut: false, revision: 5_120 };
    visitor.visit("ask.encode_activity.answer", index_query::IndexReply::Page(activity));
    visit_history(visitor);
}

fn visit_history(visitor: &mut impl ExampleVisitor) {
    let asked = index_query::HistoryIndexQuery {
        media_id: Some(MEDIA),
        job_id: None,
        behind_sequence: 17,
        limit: 50,
        wait_for_sequence: 5_120,
    };
    visitor.visit("ask.history", asked);
    let page = index_query::HistoryIndexPage {
        created_at_ms: MADE_AT_MS,
        sequences: vec![18, 40, 41],
        has_more: false,
        seen_sequence: 5_120,
    };
    visitor.visit("ask.history.answer", index_query::IndexReply::Page(page));
}

fn visit_others(visitor: &mut impl ExampleVisitor) {
    let unsent = envelope::UnsentEvent {
        subject: subjects::event_subject(&upload_created()),
        id: owned_text("c0ffee5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e5"),
        headers: BTreeMap::from([(owned_text(crate::headers::TYPE), owned_text("upload.created"))]),
        payload: ByteBuf::from(vec![0x80]),
        once: true,
        after_sequence: None,
    };
    let envelope = envelope::RecordEnvelope {
        record: ByteBuf::from(vec![0x80]),
        unsent: vec![unsent],
        changed_at_ms: MADE_AT_MS,
        expires_at_ms: None,
        trace: None,
    };
    visitor.visit("kv.envelope", envelope);
    let opened = view::ViewOpened { media_id: MEDIA, owner: example_owner(), playback_id: PLAYBACK };
    visitor.visit("view.opened", opened);
    visitor.visit("job.task", job::JobPartTask { job_id: JOB, part: owned_text("v0000") });
    let progress = job::JobPartProgress {
        job_id: JOB,
        media_id: MEDIA,
        owner: example_owner(),
        part: owned_text("v0000"),
        done_ms: 2_000,
        total_ms: 4_000,
        kind: String::new(),
    };
    visitor.visit("job.progress", progress);
    visitor.visit("audit.record", audit_record());
    visitor.visit("hooklog.delivery", hook_delivery());
    let media = index_query::MediaIndexQuery {
        owner: Some(example_owner()),
        status: Some(media::MediaStatus::Ready),
        removed: false,
        ids: Vec::new(),
        cursor: None,
        limit: 50,
        min_revision: Some(12),
    };
    visitor.visit("ask.media", media);
    visitor.visit("ask.media.answer", index_query::IndexReply::Page(media_page()));
    visit_activity(visitor);
    let counted = index_query::JobCountsQuery { owner: Some(example_owner()), min_revision: None };
    visitor.visit("ask.job_counts", counted);
    let counts = index_query::JobCounts {
        active: 2,
        succeeded: 940,
        failed: 3,
        cancelled: 1,
        revision: 5_120,
        ..Default::default()
    };
    visitor.visit("ask.job_counts.answer", index_query::IndexReply::Page(counts));
    let public = index_query::PublicMediaIndexQuery { cursor: None, limit: 30 };
    visitor.visit("ask.public_media", public);
    visitor.visit("ask.public_media.answer", index_query::IndexReply::Page(media_page()));
    visit_search(visitor);
    let jobs = index_query::JobIndexQuery { media_id: Some(MEDIA), limit: 50, ..Default::default() };
    visitor.visit("ask.jobs", jobs);
    visitor.visit("ask.jobs.answer", index_query::IndexReply::Page(job_page()));
    visitor.visit("ask.position", dispatch_query::DispatchPositionQuery { job_id: JOB });
    visitor.visit("ask.position.answer", dispatch_position());
    visitor.visit("ask.tasks_position", dispatch_query::DispatchPositionQuery { job_id: JOB });
    visitor.visit("ask.tasks_position.answer", dispatch_position());
    visitor.visit("ask.worker", worker::WorkerCommand { action: worker::WorkerAction::Pause });
    visitor.visit("ask.worker.answer", worker::WorkerCommandReply { state: worker::WorkerState::Paused });
    visit_monitor_questions(visitor);
}

fn log_line() -> process_report::LogLine {
    process_report::LogLine {
        at_ms: MADE_AT_MS,
        severity: process_report::LogSeverity::Warn,
        target: owned_text("upload::verify"),
        message: owned_text("a file was rejected"),
        fields: [(owned_text("media.id"), MEDIA.to_string())].into(),
    }
}

fn health_cause() -> process_report::HealthCause {
    let detail = owned_text("store: it does not answer");
    process_report::HealthCause { code: owned_text("store_unavailable"), detail }
}

fn visit_monitor_questions(visitor: &mut impl ExampleVisitor) {
    let (instance, roles) = (owned_text("51b0c7e40a9d3f26"), vec![owned_text("upload")]);
    let report = process_report::ProcessReport {
        instance: instance.clone(),
        roles: roles.clone(),
        version: owned_text("0.1.0"),
        started_at_ms: MADE_AT_MS,
        causes: vec![health_cause()],
        lines: vec![log_line()],
        dropped_lines: 3,
    };
    visitor.visit("log", report);
    visitor.visit("ask.processes", monitor_query::ProcessQuery {});
    let seen = monitor_query::SeenProcess {
        instance: instance.clone(),
        roles,
        version: owned_text("0.1.0"),
        started_at_ms: MADE_AT_MS,
        silent_ms: 1_200,
        causes: vec![health_cause()],
        dropped_lines: 3,
    };
    let list =
        monitor_query::ProcessList { processes: vec![seen], omitted_count: 0, listening_ms: 3_600_000 };
    visitor.visit("ask.processes.answer", list);
    let question = monitor_query::LogQuery {
        behind: Some(16),
        severity_min: Some(process_report::LogSeverity::Warn),
        limit: 100,
        ..monitor_query::LogQuery::default()
    };
    visitor.visit("ask.logs", question);
    let kept = monitor_query::KeptLine {
        number: 17,
        role: owned_text("upload"),
        instance: instance.clone(),
        line: log_line(),
    };
    visitor.visit(
        "ask.logs.answer",
        monitor_query::LogPage {
            lines: vec![kept],
            last: 17,
            monitor: owned_text("9a0d3f2651b0c7e4"),
            lost: 0,
        },
    );
    let question = monitor_query::MetricQuery {
        prefix: owned_text("streamgate_ready"),
        behind: String::new(),
        limit: 20,
    };
    visitor.visit("ask.metrics", question);
    let sample = monitor_query::MetricSampleView {
        name: owned_text("streamgate_ready"),
        labels: [(owned_text("instance"), instance)].into(),
        value: owned_text("1"),
    };
    let family = monitor_query::MetricFamilyView {
        name: owned_text("streamgate_ready"),
        kind: owned_text("gauge"),
        help: owned_text("1 when the process can do its work."),
        samples: vec![sample],
        omitted_samples: 0,
    };
    visitor.visit("ask.metrics.answer", monitor_query::MetricPage { families: vec![family], next: None });
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::catalog;

    fn folder(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[derive(Default)]
    struct Names(Vec<String>);

    impl ExampleVisitor for Names {
        fn visit<M: ExampleMessage>(&mut self, name: &str, _: M) {
            self.0.push(name.to_owned());
        }
    }

    #[test]
    fn every_kind_has_one_example() {
        let mut names = Names::default();
        visit_all(&mut names);
        let wanted: Vec<String> = catalog::all_entries().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names.0, wanted);
    }

    struct Golden;

    impl ExampleVisitor for Golden {
        fn visit<M: ExampleMessage>(&mut self, name: &str, example: M) {
            let is_line = catalog::content_type(name) == crate::LINE_CONTENT_TYPE;
            let ending = if is_line { "json" } else { "msgpack" };
            let file = folder("golden").join(format!("{name}.v1.{ending}"));
            let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let decoded: M = if is_line {
                serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
            } else {
                rmp_serde::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
            };
            assert_eq!(decoded, example, "{name}");
        }
    }

    #[test]
    fn bytes_of_every_version_decode() {
        visit_all(&mut Golden);
    }

    /// A message of a newer version has fields we do not know.
    struct Newer;

    impl ExampleVisitor for Newer {
        fn visit<M: ExampleMessage>(&mut self, name: &str, example: M) {
            let rmp_bytes = rmp_serde::to_vec_named(&example).unwrap();
            // Answers are enums: their fields lie one level deeper.
            if name.ends_with(".answer") {
                return;
            }
            let mut rest = rmp_bytes[1..].to_vec();
            let fields = match rmp_bytes[0] {
                head @ 0x80..=0x8e => head & 0x0f,
                0xde => {
                    let count = rmp_bytes[2];
                    rest.drain(..2);
                    count
                }
                // 15 fields: one more needs the longer form, too.
                0x8f => 15,
                head => panic!("{name} is no map: {head:#x}"),
            };
            let mut newer = vec![0xde, 0, fields + 1];
            newer.extend(rmp_serde::to_vec("added_later").unwrap());
            newer.extend(rmp_serde::to_vec(&[1, 2, 3]).unwrap());
            newer.extend(rest);
            let decoded: M = rmp_serde::from_slice(&newer).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(decoded, example, "{name}");
        }
    }

    #[test]
    fn fields_added_later_are_ignored() {
        visit_all(&mut Newer);
    }

    struct Published;

    impl ExampleVisitor for Published {
        fn visit<M: ExampleMessage>(&mut self, name: &str, example: M) {
            let file = folder("json").join(format!("{name}.v1.json"));
            let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            let value = serde_json::to_value(&example).unwrap();
            validator.validate(&value).unwrap_or_else(|e| panic!("{name}: {e}"));
            let wrong = serde_json::json!([]);
            assert!(!validator.is_valid(&wrong), "the schema of {name} accepts anything");
        }
    }

    #[test]
    fn every_example_is_valid_by_its_published_schema() {
        visit_all(&mut Published);
    }
}
