//! One real message of every kind: input of tests, documentation, and the source of the golden bytes.
//!
//! The golden bytes of a version are history: they are written once and must decode to the example for ever. An optional field
//! that is added later therefore stays absent here.

use std::{collections::BTreeMap, fmt::Debug};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{
    Event, access, ask, audit, document, envelope, gate, idempotency,
    ids::{ChallengeId, JobId, KeyId, MediaId, PlaybackId, RequestId, SessionId, StoreId, UploadId},
    job, keys, limit,
    media::{self, Rational},
    session, store,
    subjects::{self, Priority},
    upload, view,
};

/// What every kind of message can do.
pub trait Message: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug {}
impl<M: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug> Message for M {}

/// Is shown each example once.
pub trait Visitor {
    /// `name` is that of the catalog.
    fn visit<M: Message>(&mut self, name: &str, example: M);
}

/// Shows every example, in the order of the catalog.
pub fn visit_all(visitor: &mut impl Visitor) {
    uploads(visitor);
    media_events(visitor);
    job_events(visitor);
    visit_event(visitor, access::KeyCreated { key_id: KEY, owner: owner(), role: access::Role::Owner });
    session_events(visitor);
    gate_events(visitor);
    let summed = view::Summed { media_id: MEDIA, owner: owner(), hour_ms: MADE_AT_MS, opened_count: 37 };
    visit_event(visitor, summed);
    visit_event(visitor, exceeded());
    records(visitor);
    session_records(visitor);
    others(visitor);
}

fn visit_event<E: Event + PartialEq + Debug>(visitor: &mut impl Visitor, event: E) {
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
const KEY: KeyId = KeyId::from_bytes(*b"\x01\x9a\xb0\x00\x01\x01\x7a\x01\x80sample-");
const STORE: StoreId = StoreId::from_bytes(*b"\x01\x9a\xb0\x00\x01\x02\x7a\x01\x80sample-");
/// 2025-11-23T12:26:54.467Z, when the ids above were made.
const MADE_AT_MS: u64 = 0x019a_b001_0203;
const OPTIONS_DIGEST: &str = "3fd1a7c2b94e5d60";

fn owner() -> String {
    "admin".to_owned()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn digest() -> upload::Digest {
    let value = (0_u8..32).map(|byte| byte.wrapping_mul(37)).collect::<Vec<u8>>();
    upload::Digest { algorithm: text("sha-256"), value: ByteBuf::from(value) }
}

fn created() -> upload::Created {
    upload::Created {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: owner(),
        length_bytes: Some(788_493),
        filename: Some(text("Big Buck Bunny.mp4")),
        expires_at_ms: MADE_AT_MS + 86_400_000,
    }
}

fn received() -> upload::Received {
    upload::Received {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: owner(),
        key: keys::source(MEDIA),
        size_bytes: 788_493,
        filename: Some(text("Big Buck Bunny.mp4")),
        content_type: Some(text("video/mp4")),
        digest: Some(digest()),
    }
}

fn uploads(visitor: &mut impl Visitor) {
    visit_event(visitor, created());
    visit_event(visitor, received());
    visit_event(
        visitor,
        upload::Expired { upload_id: UPLOAD, media_id: MEDIA, owner: owner(), offset_bytes: 65_536 },
    );
    visit_event(
        visitor,
        upload::Terminated {
            upload_id: UPLOAD,
            media_id: MEDIA,
            owner: owner(),
            offset_bytes: 65_536,
            code: Some(text("upload_damaged")),
        },
    );
}

fn source() -> media::Source {
    media::Source {
        key: keys::source(MEDIA),
        size_bytes: 788_493,
        sha256: text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581"),
    }
}

/// The video of the example: 720p with 25 frames a second, 5.28 s long.
pub fn video_track() -> media::VideoTrack {
    media::VideoTrack {
        index: 0,
        codec: text("h264"),
        width: 1280,
        height: 720,
        sample_aspect: Rational { num: 1, den: 1 },
        rotation_degrees: 0,
        frame_rate: Rational { num: 25, den: 1 },
        variable_frame_rate: false,
        pixel_format: text("yuv420p"),
        bit_depth: 8,
        color_transfer: Some(text("bt709")),
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
        codec: text("aac"),
        sample_rate_hz: 48_000,
        channels: 6,
        language: Some(text("und")),
        title: None,
        is_default: true,
        start_us: -21_333,
        end_us: 5_312_000,
    }
}

fn technical() -> media::Technical {
    media::Technical {
        container: text("mp4"),
        duration_ms: 5_312,
        bit_rate_bps: 1_187_488,
        video: vec![video_track()],
        audio: vec![audio_track()],
        still: false,
    }
}

fn rendition(name: &str, codecs: &str, (width, height): (u32, u32), peak_bps: u64) -> media::Rendition {
    media::Rendition {
        name: text(name),
        codecs: text(codecs),
        width,
        height,
        peak_bps,
        average_bps: peak_bps * 4 / 5,
        segment_count: 2,
        size_bytes: peak_bps / 2,
    }
}

fn encode() -> media::Encode {
    media::Encode {
        number: 1,
        job_id: JOB,
        prefix: keys::encode(MEDIA, 1, OPTIONS_DIGEST),
        duration_ms: 5_280,
        renditions: vec![
            rendition("v720", "avc1.64001f", (1280, 720), 2_611_208),
            rendition("v360", "avc1.64001e", (640, 360), 831_440),
            rendition("a0", "mp4a.40.2", (0, 0), 129_872),
        ],
        has_poster: true,
    }
}

fn media_events(visitor: &mut impl Visitor) {
    visit_event(
        visitor,
        media::Stored {
            media_id: MEDIA,
            upload_id: UPLOAD,
            owner: owner(),
            source: source(),
            technical: technical(),
        },
    );
    visit_event(
        visitor,
        media::Rejected {
            media_id: MEDIA,
            upload_id: UPLOAD,
            owner: owner(),
            code: text("type_unsupported"),
            detail: text("the content is text, not a media file"),
        },
    );
    visit_event(visitor, media::Playable { media_id: MEDIA, owner: owner(), job_id: JOB, encode: 1 });
    visit_event(visitor, media::Ready { media_id: MEDIA, owner: owner(), encode: encode() });
    visit_event(visitor, media::Removed { media_id: MEDIA, owner: owner(), removed_by: text("admin") });
    visit_event(
        visitor,
        media::Delayed {
            media_id: MEDIA,
            owner: owner(),
            job_id: Some(JOB),
            stage: text("transcode"),
            code: text("store_unavailable"),
        },
    );
    let step = media::Step::Verify { received: Box::new(received()) };
    visit_event(visitor, media::Reopened { media_id: MEDIA, owner: owner(), attempt: 1, step });
    let changed = document::Changed {
        media_id: MEDIA,
        owner: owner(),
        changed_by: owner(),
        title: text("Big Buck Bunny"),
        mint_tx: None,
        encryption: document::Encryption::Aes128,
    };
    visit_event(visitor, changed);
}

fn job_events(visitor: &mut impl Visitor) {
    let (job_id, media_id, kind) = (JOB, MEDIA, || text("transcode"));
    let queued =
        job::Queued { job_id, media_id, owner: owner(), kind: kind(), part_count: 3, total_ms: 10_592 };
    visit_event(visitor, queued);
    let worker = text("transcode-7f3a91c2");
    visit_event(visitor, job::Started { job_id, media_id, owner: owner(), kind: kind(), worker });
    let retried = job::Retried {
        job_id,
        media_id,
        owner: owner(),
        kind: kind(),
        part: text("v0001"),
        attempt: 2,
        code: text("child_crashed"),
    };
    visit_event(visitor, retried);
    let succeeded =
        job::Succeeded { job_id, media_id, owner: owner(), kind: kind(), wall_ms: 6_214, cpu_ms: 9_870 };
    visit_event(visitor, succeeded);
    let failed = job::Failed {
        job_id,
        media_id,
        owner: owner(),
        kind: kind(),
        code: text("check_failed"),
        detail: text("v720: segment 2 does not begin with a key frame"),
    };
    visit_event(visitor, failed);
    visit_event(visitor, job::Cancelled { job_id, media_id, owner: owner(), kind: kind() });
    let (part, code) = (text("v0001"), text("child_crashed"));
    visit_event(visitor, job::Dead { job_id, media_id, owner: owner(), kind: kind(), part, code });
    let (part, workers) = (text("v0001"), 9);
    visit_event(visitor, job::Parked { job_id, media_id, owner: owner(), kind: kind(), part, workers });
}

fn upload_record() -> upload::Record {
    upload::Record {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: owner(),
        status: upload::Status::Open,
        length_bytes: Some(788_493),
        offset_bytes: 65_536,
        generation: 2,
        holder: Some(text("ingress-51b0c7e4")),
        metadata_raw: text("filename QmlnIEJ1Y2sgQnVubnkubXA0"),
        filename: Some(text("Big Buck Bunny.mp4")),
        content_type: Some(text("video/mp4")),
        mint_tx: None,
        digest: Some(digest()),
        multipart: Some(upload::Multipart {
            multipart_id: Some(text("2~Yx0dJ1")),
            part_bytes: 16 << 20,
            parts: vec![text("\"5d41402abc4b2a76b9719d911017c592\"")],
            tail: Some(upload::Tail { generation: 2, part: 1, size_bytes: 4_096 }),
        }),
        freed: false,
        created_at_ms: MADE_AT_MS,
        expires_at_ms: MADE_AT_MS + 86_400_000,
        code: None,
        kept_until_ms: None,
    }
}

fn asset_record() -> media::Record {
    media::Record {
        media_id: MEDIA,
        owner: owner(),
        status: media::Status::Ready,
        source: Some(source()),
        technical: Some(technical()),
        summary: Some(summary()),
        encode: Some(encode()),
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS,
        changed_at_ms: MADE_AT_MS + 8_000,
        source_removed_at_ms: None,
        removed_at_ms: None,
        waiting: None,
        attempt: media::Attempt::default(),
    }
}

fn summary() -> media::Summary {
    media::Summary {
        container: text("mp4"),
        duration_ms: 5_312,
        width: 1280,
        height: 720,
        frame_rate_milli: 25_000,
        video_codec: Some(text("h264")),
        audio_codecs: vec![text("aac")],
        languages: vec![text("und")],
        renditions: vec![text("v720"), text("v360"), text("a0")],
    }
}

fn rung(name: &str, (width, height): (u32, u32), level: u32, rate_max_bps: u64) -> job::Rung {
    job::Rung {
        name: text(name),
        width,
        height,
        frame_step: 1,
        crf: 23,
        rate_max_bps,
        buffer_bits: rate_max_bps * 2,
        profile: text("high"),
        level,
        threads: 2,
    }
}

fn plan() -> job::Plan {
    let video = job::VideoPlan {
        stream_index: 0,
        frame_rate: Rational { num: 25, den: 1 },
        frame_count: 132,
        gop_frames: 50,
        segment_frames: 100,
        ranges: vec![
            job::Range { start_frame: 0, frame_count: 100, first_segment: 1 },
            job::Range { start_frame: 100, frame_count: 32, first_segment: 2 },
        ],
        rungs: vec![rung("v720", (1280, 720), 31, 3_000_000), rung("v360", (640, 360), 30, 900_000)],
        preset: text("veryfast"),
        deinterlace: false,
    };
    let audio = job::AudioPlan {
        name: text("a0"),
        stream_index: 1,
        language: text("und"),
        label: text("Audio 1"),
        channels: 2,
        sample_rate_hz: 48_000,
        bit_rate_bps: 128_000,
        duration_samples: 253_440,
        segment_seconds: Rational { num: 4, den: 1 },
    };
    job::Plan {
        source_key: keys::source(MEDIA),
        source_bytes: 788_493,
        origin_us: 0,
        duration_ms: 5_280,
        video: Some(video),
        audio: vec![audio],
        poster: Some(job::PosterPlan { stream_index: 0, at_us: 528_000, side_pixels_max: 1280 }),
        profile: text("standard"),
        options_digest: text(OPTIONS_DIGEST),
        reasons: vec![text("the source has 720 lines: no rung above")],
    }
}

fn job_record() -> job::Record {
    job::Record {
        job_id: JOB,
        kind: text("transcode"),
        priority: Priority::P1,
        media_id: MEDIA,
        owner: owner(),
        status: job::Status::Active,
        encode: 1,
        prefix: keys::encode(MEDIA, 1, OPTIONS_DIGEST),
        plan: plan(),
        parts: vec![text("a0"), text("v0000"), text("v0001"), text("finish")],
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS + 1_000,
        ended_at_ms: None,
        kept_until_ms: None,
        folded: None,
    }
}

fn part_record() -> job::Part {
    let segment = job::Segment { start_ticks: 0, duration_ticks: 51_200, size_bytes: 402_117 };
    let track = job::Track {
        rendition: text("v720"),
        timescale: 12_800,
        init_sha256: text("51f0d3b9c7a2684e10fd5c93b2e7a86401c9f3d57e8b2a60f4d1937c85ae2b06"),
        init_bytes: 812,
        codecs: text("avc1.64001f"),
        first_segment: 1,
        segments: vec![segment],
    };
    job::Part {
        status: job::PartStatus::Done,
        attempt: 1,
        worker: text("transcode-7f3a91c2"),
        last_seen_ms: MADE_AT_MS + 4_000,
        tracks: vec![track],
        cpu_ms: 6_120,
        wall_ms: 3_544,
        rss_bytes_max: 187_236_352,
        ..job::Part::new(JOB, "v0000")
    }
}

fn records(visitor: &mut impl Visitor) {
    visitor.visit("kv.uploads", upload_record());
    let position =
        view::Position { partition: 3, stream_created_us: MADE_AT_MS * 1_000, sequence: 37, media_id: None };
    visitor.visit("kv.limits.views", position);
    let document = document::Record {
        media_id: MEDIA,
        owner: owner(),
        title: text("Big Buck Bunny"),
        mint_tx: None,
        gate: None,
        encryption: document::Encryption::None,
        created_at_ms: MADE_AT_MS,
        changed_at_ms: MADE_AT_MS,
        removed_at_ms: None,
    };
    let open =
        upload::OpenUploads { key: upload::OpenUploads::key_of(&digest().value), upload_ids: vec![UPLOAD] };
    visitor.visit("kv.limits.uploads", open);
    visitor.visit("kv.media", document);
    visitor.visit("kv.assets", asset_record());
    visitor.visit("kv.jobs", job_record());
    visitor.visit("kv.jobs.part", part_record());
    let key = access::ApiKey {
        key_id: KEY,
        secret_sha256: digest().value,
        owner: owner(),
        role: access::Role::Admin,
        created_at_ms: MADE_AT_MS,
        scopes: None,
        label: None,
        contact_email: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    visitor.visit("kv.apikeys", key);
    let secret = access::Secret { name: text("playback"), bytes: digest().value, created_at_ms: MADE_AT_MS };
    visitor.visit("kv.secrets", secret);
    let bytes = ByteBuf::from((0_u8..16).map(|byte| byte.wrapping_mul(17)).collect::<Vec<u8>>());
    visitor.visit(
        "kv.keys",
        document::SegmentKey { media_id: MEDIA, bytes, created_at_ms: MADE_AT_MS + 60_000 },
    );
    let identity =
        store::Identity { store_id: STORE, created_at_ms: MADE_AT_MS, marked_at_ms: Some(MADE_AT_MS + 20) };
    visitor.visit("kv.store", identity);
    grants(visitor);
}

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
const CONTRACT: &str = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359";
const SLOT: &str = "slot.5d5b09f6dcb2d53a5fffc60c4ac0d55fabdf556069d6631545f42aa6e3500f2e";

fn blocks() -> Vec<gate::Block> {
    let hash = text("0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6");
    vec![gate::Block { chain_id: 1, number: 23_868_000, hash }]
}

fn rule_digest() -> String {
    text("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
}

fn gate_events(visitor: &mut impl Visitor) {
    let (media_id, viewer) = (MEDIA, text(WALLET));
    let changed = gate::Changed {
        media_id,
        owner: owner(),
        changed_by: owner(),
        gate_epoch: 1,
        rule_digest: rule_digest(),
    };
    visit_event(visitor, changed);
    let granted = gate::Granted {
        media_id,
        owner: owner(),
        playback_id: PLAYBACK,
        viewer: viewer.clone(),
        rule_digest: rule_digest(),
        blocks: blocks(),
        code: gate::Code::RuleHolds,
    };
    visit_event(visitor, granted);
    let denied = gate::Denied {
        media_id,
        owner: owner(),
        viewer: viewer.clone(),
        rule_digest: rule_digest(),
        blocks: blocks(),
        code: gate::Code::NotOwner,
        untold: None,
    };
    visit_event(visitor, denied);
    let revoked = gate::Revoked {
        media_id,
        owner: owner(),
        playback_id: PLAYBACK,
        viewer,
        rule_digest: rule_digest(),
        blocks: blocks(),
        code: gate::Code::NotOwner,
    };
    visit_event(visitor, revoked);
    let doubted = gate::Doubted {
        chain_id: 1,
        what: gate::Doubt::Disagreement,
        contract: None,
        providers: vec![text("1"), text("3")],
    };
    visit_event(visitor, doubted);
}

fn grants(visitor: &mut impl Visitor) {
    let session = gate::Session {
        playback_id: PLAYBACK,
        media_id: MEDIA,
        owner: owner(),
        viewer: text(WALLET),
        wallet: Some(text(WALLET)),
        wallet_chain_id: None,
        rights: gate::Rights::Owner,
        opener: None,
        gate_epoch: 1,
        rule_digest: rule_digest(),
        slots: vec![text(SLOT)],
        watches: vec![gate::Watch { chain_id: 1, contract: text(CONTRACT) }],
        blocks: blocks(),
        opened_at_ms: MADE_AT_MS,
        granted_until_ms: MADE_AT_MS + 60_000,
        expires_at_ms: MADE_AT_MS + 43_200_000,
        unused_until_ms: None,
        played_at_ms: None,
        revoked: None,
    };
    visitor.visit("kv.grants", session);
    let slot =
        gate::Slot { key: text(SLOT), holders: vec![PLAYBACK], expires_at_ms: MADE_AT_MS + 43_200_000 };
    visitor.visit("kv.grants.slot", slot);
    visitor.visit("kv.grants.cursor", gate::Cursor { chain_id: 1, blocks: blocks() });
}

fn wallet_owner() -> String {
    format!("eip155:{ADDRESS}")
}

fn session_events(visitor: &mut impl Visitor) {
    let (request_id, session_id, owner) = (REQUEST, SESSION, wallet_owner);
    let challenged = session::Challenged {
        request_id,
        challenge_id: CHALLENGE,
        domain: text("media.example.org"),
        address: Some(text(ADDRESS)),
    };
    visit_event(visitor, challenged);
    let code = text("signature_refused");
    visit_event(
        visitor,
        session::Refused { request_id, challenge_id: CHALLENGE, code, address: text(ADDRESS) },
    );
    visit_event(visitor, session::Denied { request_id, code: text("unauthorized"), denied_count: 3 });
    let method = session::Method::Key;
    visit_event(
        visitor,
        session::SignedIn {
            request_id,
            session_id,
            owner: owner(),
            chain_id: 1,
            method,
            is_checksummed: true,
        },
    );
    visit_event(visitor, session::Refreshed { request_id, session_id, owner: owner(), generation: 2 });
    visit_event(visitor, session::Reused { request_id, session_id, owner: owner(), generation: 1 });
    let end = session::End::SignedOut;
    visit_event(visitor, session::SignedOut { request_id, session_id, owner: owner(), end });
    let created = session::KeyCreated {
        request_id,
        key_id: KEY,
        owner: owner(),
        role: access::Role::Owner,
        scopes: Some(vec![access::Scope::Upload]),
        by: owner(),
    };
    visit_event(visitor, created);
    visit_event(visitor, session::KeyRevoked { request_id, key_id: KEY, owner: owner(), by: owner() });
}

fn session_records(visitor: &mut impl Visitor) {
    let expires_at_ms = MADE_AT_MS + 300_000;
    let challenge = session::Challenge {
        challenge_id: CHALLENGE,
        binding_sha256: digest().value,
        domain: text("media.example.org"),
        address: Some(text(ADDRESS)),
        chain_id: Some(1),
        created_at_ms: MADE_AT_MS,
        expires_at_ms,
        used_at_ms: Some(MADE_AT_MS + 20_000),
        code: Some(text("signature_refused")),
    };
    visitor.visit("kv.nonces", challenge);
    let hash = || text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581");
    visitor.visit("kv.nonces.prefix", session::Prefix { prefix_sha256: hash(), count: 3, expires_at_ms });
    let expires_at_ms = MADE_AT_MS + 2_592_000_000;
    let session = session::Session {
        session_id: SESSION,
        address: text(ADDRESS),
        chain_id: 1,
        method: session::Method::Contract,
        account_chain_id: None,
        generation: 2,
        refresh_sha256: digest().value,
        refreshed_at_ms: None,
        refreshed_by: None,
        created_at_ms: MADE_AT_MS,
        expires_at_ms,
        ended_at_ms: Some(MADE_AT_MS + 600_000),
        end: Some(session::End::SignedOut),
        proof: Some(session::Proof { digest: digest().value, signature: ByteBuf::from(vec![1, 2, 3]) }),
    };
    visitor.visit("kv.sessions", session);
    let sessions = vec![session::Held { session_id: SESSION, expires_at_ms }];
    visitor.visit(
        "kv.sessions.wallet",
        session::Wallet { address: text(ADDRESS), chain_id: None, sessions, expires_at_ms },
    );
    let keys = vec![session::RingKey { key_id: KEY, bytes: digest().value, signs_from_ms: MADE_AT_MS }];
    visitor.visit("kv.secrets.ring", session::Ring { name: text("access"), keys });
    visitor.visit("kv.apikeys.owner", session::OwnerKeys { owner_sha256: hash(), key_ids: vec![KEY] });
    limits(visitor);
}

fn exceeded() -> limit::Exceeded {
    limit::Exceeded {
        request_id: RequestId::from_bytes(*UPLOAD.as_bytes()),
        group: text("auth"),
        scope: text("client"),
        owner: None,
        denied_count: 12,
    }
}

fn limits(visitor: &mut impl Visitor) {
    let replicas = limit::Replicas {
        expires_at_ms: BTreeMap::from([(
            RequestId::from_bytes(*UPLOAD.as_bytes()).to_string(),
            MADE_AT_MS + 10_000,
        )]),
    };
    visitor.visit("kv.limits.replicas", replicas);
    let reported = limit::Reported { minute_started_at_ms: MADE_AT_MS, events_count: 3, untold_count: 0 };
    visitor.visit("kv.limits.reported", reported);
    let answered = idempotency::State::Answered {
        status: 201,
        headers: BTreeMap::from([(text("location"), format!("/v1/media/{MEDIA}"))]),
        body: ByteBuf::from(format!("{{\"media_id\":\"{MEDIA}\"}}").into_bytes()),
    };
    let record = idempotency::Record {
        key: text("9f2c5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581"),
        fingerprint: digest().value,
        state: answered,
        expires_at_ms: MADE_AT_MS + 86_400_000,
    };
    visitor.visit("kv.idempotency", record);
}

fn media_page() -> ask::MediaPage {
    let item = ask::MediaItem {
        media_id: MEDIA,
        owner: owner(),
        title: text("Big Buck Bunny"),
        status: media::Status::Ready,
        summary: Some(summary()),
        size_bytes: Some(788_493),
        encode: Some(1),
        has_poster: true,
        code: None,
        detail: None,
        created_at_ms: MADE_AT_MS,
        changed_at_ms: MADE_AT_MS + 8_000,
        document_revision: 12,
        asset_revision: 19,
    };
    ask::MediaPage { items: vec![item], next: Some(text("019ab0010203")), revision: 12 }
}

fn job_page() -> ask::JobPage {
    let item = ask::JobItem {
        job_id: JOB,
        kind: text("transcode"),
        priority: Priority::P1,
        media_id: MEDIA,
        owner: owner(),
        status: job::Status::Failed,
        encode: 1,
        duration_ms: 5_280,
        parts_total: 4,
        parts_done: 3,
        parts_claimed: 0,
        parts_failed: 1,
        cpu_ms: 9_870,
        code: Some(text("check_failed")),
        detail: Some(text("v720: segment 2 does not begin with a key frame")),
        created_at_ms: MADE_AT_MS + 1_000,
        ended_at_ms: Some(MADE_AT_MS + 8_000),
        revision: 44,
    };
    ask::JobPage { items: vec![item], next: None, revision: 44 }
}

fn audit_record() -> audit::Record {
    let event = job::Cancelled { job_id: JOB, media_id: MEDIA, owner: owner(), kind: text("transcode") };
    audit::Record {
        n: 1,
        source: audit::Source {
            stream: text(subjects::EVENTS),
            sequence: 1,
            id: text("5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e581c0ff"),
            epoch: None,
        },
        time: text("2025-11-23T12:26:54.467Z"),
        stored_at: text("2025-11-23T12:26:54.468Z"),
        kind: text("job.cancelled"),
        subject: subjects::event(&event),
        entity_id: JOB.to_string(),
        owner: Some(owner()),
        media_id: Some(MEDIA.to_string()),
        job_id: Some(JOB.to_string()),
        data: serde_json::to_value(&event).unwrap_or_default(),
        prev_hash: text(audit::FIRST_PREV_HASH),
    }
}

fn others(visitor: &mut impl Visitor) {
    let unsent = envelope::Unsent {
        subject: subjects::event(&created()),
        id: text("c0ffee5b1e07d3a84466ce90f1b2a7d85e13c4f60972ab58e1d03f4c96b7a2e5"),
        headers: BTreeMap::from([(text(crate::headers::TYPE), text("upload.created"))]),
        payload: ByteBuf::from(vec![0x80]),
        once: true,
        after_sequence: None,
    };
    let envelope = envelope::Envelope {
        record: ByteBuf::from(vec![0x80]),
        unsent: vec![unsent],
        changed_at_ms: MADE_AT_MS,
        expires_at_ms: None,
    };
    visitor.visit("kv.envelope", envelope);
    let opened = view::Opened { media_id: MEDIA, owner: owner(), playback_id: PLAYBACK };
    visitor.visit("view.opened", opened);
    visitor.visit("job.task", job::Task { job_id: JOB, part: text("v0000") });
    let progress = job::Progress {
        job_id: JOB,
        media_id: MEDIA,
        owner: owner(),
        part: text("v0000"),
        done_ms: 2_000,
        total_ms: 4_000,
    };
    visitor.visit("job.progress", progress);
    visitor.visit("audit.record", audit_record());
    let media = ask::ListMedia {
        owner: Some(owner()),
        status: Some(media::Status::Ready),
        cursor: None,
        limit: 50,
        min_revision: Some(12),
    };
    visitor.visit("ask.media", media);
    visitor.visit("ask.media.answer", ask::Answer::Page(media_page()));
    let jobs = ask::ListJobs {
        owner: None,
        media_id: Some(MEDIA),
        status: None,
        cursor: None,
        limit: 50,
        min_revision: None,
    };
    visitor.visit("ask.jobs", jobs);
    visitor.visit("ask.jobs.answer", ask::Answer::Page(job_page()));
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

    impl Visitor for Names {
        fn visit<M: Message>(&mut self, name: &str, _: M) {
            self.0.push(name.to_owned());
        }
    }

    #[test]
    fn every_kind_has_one_example() {
        let mut names = Names::default();
        visit_all(&mut names);
        let wanted: Vec<String> = catalog::all().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names.0, wanted);
    }

    struct Golden;

    impl Visitor for Golden {
        fn visit<M: Message>(&mut self, name: &str, example: M) {
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

    impl Visitor for Newer {
        fn visit<M: Message>(&mut self, name: &str, example: M) {
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

    impl Visitor for Published {
        fn visit<M: Message>(&mut self, name: &str, example: M) {
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
