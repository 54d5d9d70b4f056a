//! Media as the stages see them: status, technical metadata, the current encode. Written by stages only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext,
    chapters::Chapter,
    encode::{EncodeSettings, SupersededEncode},
    ids::{JobId, MediaId, UploadId},
    schedule::ScheduledRun,
    upload,
    value::is_zero,
};

/// A ratio of two integers, such as a frame rate in frames per second or a pixel aspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Rational {
    /// Numerator.
    pub num: u32,
    /// Denominator, never 0.
    pub den: u32,
}

impl Rational {
    /// The ratio as a float, for people.
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den.max(1))
    }
}

/// Where a medium stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaStatus")]
#[serde(rename_all = "snake_case")]
pub enum MediaStatus {
    /// Bytes are still arriving or being verified.
    Uploading,
    /// Verified and waiting for its first encode.
    Stored,
    /// Refused; `code` says why.
    Rejected,
    /// The first segments play while the rest is being made.
    Playable,
    /// Everything is made and checked.
    Ready,
    /// The encode failed; `code` says why.
    Failed,
}

/// The verified source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Source")]
pub struct MediaSource {
    /// Object key.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// A video track of the source. Sizes are in pixels as coded, before rotation and pixel aspect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VideoTrack {
    /// Stream index in the container.
    pub index: u32,
    /// Codec name.
    pub codec: String,
    /// Coded width.
    pub width: u32,
    /// Coded height.
    pub height: u32,
    /// Sample aspect ratio; 1/1 when square or unknown.
    pub sample_aspect: Rational,
    /// Clockwise rotation to apply for display: 0, 90, 180 or 270 degrees.
    pub rotation_degrees: u32,
    /// Average frame rate in frames per second.
    pub frame_rate: Rational,
    /// True when frames are not evenly spaced.
    pub variable_frame_rate: bool,
    /// Pixel format name.
    pub pixel_format: String,
    /// Bits per sample.
    pub bit_depth: u32,
    /// Transfer characteristic name, such as `bt709` or `smpte2084`.
    pub color_transfer: Option<String>,
    /// FFmpeg's name of the colour primaries, such as `smpte432`; absent when the file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_primaries: Option<String>,
    /// True when fields are interleaved.
    pub interlaced: bool,
    /// Frames, by packet count.
    pub frame_count: u64,
    /// First presentation time in microseconds.
    pub start_us: i64,
    /// End of the last frame in microseconds.
    pub end_us: i64,
}

/// An audio track of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioTrack {
    /// Stream index in the container.
    pub index: u32,
    /// Codec name.
    pub codec: String,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Channels.
    pub channels: u32,
    /// BCP 47 or ISO 639 code as the container gives it.
    pub language: Option<String>,
    /// Title as the container gives it, cleaned.
    pub title: Option<String>,
    /// True when the container marks it as the default.
    pub is_default: bool,
    /// First presentation time in microseconds.
    pub start_us: i64,
    /// End of the last sample in microseconds.
    pub end_us: i64,
}

/// A subtitle track of the source that is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubtitleTrack {
    /// Stream index in the file.
    pub index: u32,
    /// Codec name as FFmpeg has it, such as `mov_text` or `subrip`.
    pub codec: String,
    /// BCP 47 or ISO 639 code as the container gives it.
    pub language: Option<String>,
    /// Title as the container gives it, cleaned.
    pub title: Option<String>,
    /// True when it is shown also to those who want no subtitles: what is said in another language than the rest.
    #[serde(default)]
    pub is_forced: bool,
    /// True when it also names sounds beside speech.
    #[serde(default)]
    pub is_hearing_impaired: bool,
}

/// What the probe found in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Technical")]
pub struct TechnicalMetadata {
    /// Container family, such as `mp4` or `matroska`.
    pub container: String,
    /// Duration in milliseconds, from first presentation to last end.
    pub duration_ms: u64,
    /// Average bits per second of the whole file.
    pub bit_rate_bps: u64,
    /// Video tracks; cover art is none.
    pub video: Vec<VideoTrack>,
    /// Audio tracks.
    pub audio: Vec<AudioTrack>,
    /// Subtitle tracks that are text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subtitles: Vec<SubtitleTrack>,
    /// Chapters that the file names, in order of time; the first begins at 0. They are shown where the owner sets none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chapters: Vec<Chapter>,
    /// Stream index of the cover picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover_index: Option<u32>,
    /// True for a still picture.
    pub still: bool,
    /// How time stamps are read where the clock of the source jumps; all times here are read that way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<ClockMark>,
    /// What of the source is left out or changed, though it plays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<MediaWarning>,
}

/// From a place of the source on, its time stamps are read with an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockMark {
    /// First byte of the source to which it applies.
    pub position_bytes: u64,
    /// What is added to time stamps from there on, in microseconds.
    pub offset_us: i64,
    /// The time of the first packet there, in microseconds, the offset added: decoding may begin here for what comes later.
    pub at_us: i64,
}

/// Something of a source that is left out of what plays, or changed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaWarning {
    /// Which kind, such as `trailing_bytes`: one of [`warning_codes`].
    pub code: String,
    /// What it is in this source, for people.
    pub detail: String,
}

/// The codes of [`MediaWarning`]. A code keeps its meaning for ever; readers take one that they don't know for a warning all the same.
pub mod warning_codes {
    /// Bytes lie behind the end of the file's structure; they are not read.
    pub const TRAILING_BYTES: &str = "trailing_bytes";
    /// Bytes lie before the first packet; they are not read.
    pub const LEADING_BYTES: &str = "leading_bytes";
    /// The file ends before its structure does; it plays to where it goes.
    pub const TRUNCATED: &str = "truncated";
    /// The clock of the file jumps; what comes behind a jump follows what was before it.
    pub const CLOCK_JOINED: &str = "clock_joined";
    /// A track can't be decoded.
    pub const TRACK_UNDECODABLE: &str = "track_undecodable";
    /// A further video track is left out.
    pub const VIDEO_TRACK_DROPPED: &str = "video_track_dropped";
    /// A subtitle track is left out: it is no text, or one too many.
    pub const SUBTITLE_TRACK_DROPPED: &str = "subtitle_track_dropped";
    /// A cover picture is left out: it can't be decoded, or another one is the poster.
    pub const COVER_DROPPED: &str = "cover_dropped";
    /// A track of data, such as time codes or camera motion, or an attachment, such as a font, is left out.
    pub const DATA_TRACK_DROPPED: &str = "data_track_dropped";
    /// Chapters are left out: they begin at the same time as others or behind the end, or are too many.
    pub const CHAPTERS_DROPPED: &str = "chapters_dropped";
    /// Captions inside the picture's stream (CTA-608, CTA-708) are left out.
    pub const CLOSED_CAPTIONS_DROPPED: &str = "closed_captions_dropped";
    /// An audio track beyond those that the profile takes is left out.
    pub const AUDIO_TRACK_DROPPED: &str = "audio_track_dropped";
    /// Sound of more than two channels is mixed down to two.
    pub const AUDIO_DOWNMIXED: &str = "audio_downmixed";
    /// Sound is more than half a LU quieter than its profile wants it: more gain is not given, or its peaks leave no room for it.
    pub const LOUDNESS_MISSED: &str = "loudness_missed";
    /// A wider gamut becomes that of BT.709.
    pub const GAMUT_CONVERTED: &str = "gamut_converted";
    /// High dynamic range becomes standard range.
    pub const HDR_CONVERTED: &str = "hdr_converted";
    /// The picture has fewer frames a second than the source.
    pub const FRAME_RATE_REDUCED: &str = "frame_rate_reduced";
    /// The picture is smaller than the source.
    pub const PICTURE_REDUCED: &str = "picture_reduced";
    /// A part of the source plays alone, as its owner asked for.
    pub const RANGE_ENCODED: &str = "range_encoded";
    /// A subtitle track is left out since no text could be read from it.
    pub const SUBTITLE_TRACK_EMPTY: &str = "subtitle_track_empty";
}

/// One rendition of a finished encode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Rendition")]
pub struct EncodedRendition {
    /// Folder name, such as `v720` or `a0`.
    pub name: String,
    /// RFC 6381 codec string, parsed from the init segment.
    pub codecs: String,
    /// Width in pixels; 0 for audio.
    pub width: u32,
    /// Height in pixels; 0 for audio.
    pub height: u32,
    /// Peak bits per second over any segment.
    pub peak_bps: u64,
    /// Average bits per second.
    pub average_bps: u64,
    /// Segments.
    pub segment_count: u32,
    /// Bytes of init and segments.
    pub size_bytes: u64,
}

/// Subtitles of a finished encode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EncodedSubtitles {
    /// Folder name, such as `s0`.
    pub name: String,
    /// Language tag (BCP 47), `und` when unknown.
    pub language: String,
    /// Name for people.
    pub label: String,
    /// True when they are shown also to those who want no subtitles.
    pub is_forced: bool,
    /// True when they name sounds beside speech, too; not known of encodes of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_hearing_impaired: Option<bool>,
    /// Bytes of all of them.
    pub size_bytes: u64,
}

/// An encode that plays or is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Encode")]
pub struct MediaEncode {
    /// Number of the encode, from 1.
    pub number: u32,
    /// The job that makes it.
    pub job_id: JobId,
    /// Folder of its objects.
    pub prefix: String,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Renditions, once final.
    pub renditions: Vec<EncodedRendition>,
    /// Subtitles as WebVTT, once final.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subtitles: Vec<EncodedSubtitles>,
    /// True when a poster was made.
    pub has_poster: bool,
    /// True when there is a storyboard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_storyboard: bool,
    /// True when the SHA-256 of each of its objects is stored beside them; encodes of before have none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_checksums: bool,
    /// What of the source this encode leaves out or changes, by the profile that it was made with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<MediaWarning>,
}

/// What work waits for while something that it needs is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Waiting")]
pub struct MediaWaitReason {
    /// A stable code, such as `store_unavailable`.
    pub code: String,
    /// Unix time in milliseconds since which it waits.
    pub since_ms: u64,
}

/// Which attempt at a medium this is: one that was given up and is taken up again begins a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Attempt")]
pub struct MediaAttempt {
    /// How often it was taken up again; 0 at first.
    pub number: u32,
    /// Failed tries of verifying in this attempt; an outage is none.
    pub faults: u32,
    /// Number of the encode that this attempt makes; 0 while the first one does.
    pub encode: u32,
    /// The run of a schedule that began it; absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<ScheduledRun>,
}

impl MediaAttempt {
    /// True before anything failed or was taken up again.
    pub fn is_first(&self) -> bool {
        *self == Self::default()
    }
}

/// One medium in the bucket `assets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct MediaRecord {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Where it stands.
    pub status: MediaStatus,
    /// The verified source.
    pub source: Option<MediaSource>,
    /// What the probe found.
    pub technical: Option<TechnicalMetadata>,
    /// What the index made of it for lists and search.
    #[serde(default)]
    pub summary: Option<MediaSummary>,
    /// The encode that plays.
    pub encode: Option<MediaEncode>,
    /// Why it was rejected or failed: a stable code.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds.
    pub changed_at_ms: u64,
    /// Unix time in milliseconds at which the source of a rejected medium was removed from the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_removed_at_ms: Option<u64>,
    /// Unix time in milliseconds at which the medium was removed: stages write nothing of it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at_ms: Option<u64>,
    /// The removal after which it was restored last, by the count in its document; 0 for none. Work is not ended for that one any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restored_removal: u32,
    /// What its work waits for; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<MediaWaitReason>,
    /// Which attempt at it this is.
    #[serde(default, skip_serializing_if = "MediaAttempt::is_first")]
    pub attempt: MediaAttempt,
    /// Encodes that played before, the newest last, while sessions may still play them; at most
    /// [`SUPERSEDED_ENCODES_MAX`](crate::encode::SUPERSEDED_ENCODES_MAX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<SupersededEncode>,
    /// The job that verifies what is stored of it, or did so last: there is one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<JobId>,
}

impl MediaRecord {
    /// A medium of which nothing else is known.
    pub fn new(media_id: MediaId, owner: String, status: MediaStatus, created_at_ms: u64) -> Self {
        Self {
            media_id,
            owner,
            status,
            source: None,
            technical: None,
            summary: None,
            encode: None,
            code: None,
            detail: None,
            created_at_ms,
            changed_at_ms: created_at_ms,
            source_removed_at_ms: None,
            removed_at_ms: None,
            restored_removal: 0,
            waiting: None,
            attempt: MediaAttempt::default(),
            superseded: Vec::new(),
            verification: None,
        }
    }

    /// The source, if it was verified and is kept.
    pub fn kept_source(&self) -> Option<&MediaSource> {
        let is_kept = !matches!(self.status, MediaStatus::Uploading | MediaStatus::Rejected)
            && self.source_removed_at_ms.is_none();
        self.source.as_ref().filter(|_| is_kept)
    }

    /// The record once `encode` is what plays, at `now_ms` by the broker's clock. An encode that was ready before stays beside it.
    #[must_use]
    pub fn with_ready_encode(&self, encode: &MediaEncode, now_ms: u64) -> Self {
        let mut record = self.clone();
        let is_replaced =
            |old: &MediaEncode| self.status == MediaStatus::Ready && old.number != encode.number;
        if let Some(old) = self.encode.clone().filter(is_replaced) {
            record.superseded.push(SupersededEncode { encode: old, superseded_at_ms: now_ms });
        }
        record.status = MediaStatus::Ready;
        (record.code, record.detail, record.waiting) = (None, None, None);
        record.encode = Some(encode.clone());
        record
    }

    /// The record once what was being made of it has come to nothing: the encode of that number. `None` where something else plays
    /// or is being made, and where nothing was to come.
    pub fn with_failure(&self, encode: u32, code: &str, detail: &str, now_ms: u64) -> Option<Self> {
        // What a stored medium names is what came to nothing before.
        let is_current = self.status == MediaStatus::Stored
            || self.encode.as_ref().is_none_or(|current| current.number == encode);
        let is_newest = self.attempt.encode <= encode;
        if self.status == MediaStatus::Ready && is_newest {
            // It plays what it has, and nothing is made any more that could wait.
            return self.with_work_resumed(now_ms);
        }
        if !matches!(self.status, MediaStatus::Stored | MediaStatus::Playable) || !is_current || !is_newest {
            return None;
        }
        Some(Self {
            status: MediaStatus::Failed,
            waiting: None,
            code: Some(code.to_owned()),
            detail: Some(detail.to_owned()),
            changed_at_ms: now_ms,
            ..self.clone()
        })
    }

    /// The record that says what its work waits for, with the event that reports it. `None` when it says so already, since an
    /// outage is reported once, and when the work has ended.
    pub fn with_delay(
        &self,
        stage: &str,
        job_id: Option<JobId>,
        code: &str,
        now_ms: u64,
    ) -> Option<(Self, MediaDelayed)> {
        let has_ended = matches!(self.status, MediaStatus::Rejected | MediaStatus::Failed);
        if self.waiting.is_some() || has_ended || self.removed_at_ms.is_some() {
            return None;
        }
        let event = MediaDelayed {
            media_id: self.media_id,
            owner: self.owner.clone(),
            job_id,
            stage: stage.to_owned(),
            code: code.to_owned(),
        };
        let waiting = Some(MediaWaitReason { code: code.to_owned(), since_ms: now_ms });
        Some((Self { waiting, changed_at_ms: now_ms, ..self.clone() }, event))
    }

    /// The record once the work goes on; `None` when it did not wait.
    pub fn with_work_resumed(&self, now_ms: u64) -> Option<Self> {
        self.waiting.as_ref()?;
        Some(Self { waiting: None, changed_at_ms: now_ms, ..self.clone() })
    }
}

impl crate::KvRecord for MediaRecord {
    const BUCKET: &'static str = "assets";
    fn key(&self) -> String {
        self.media_id.to_string()
    }
    fn is_removed(&self) -> bool {
        self.removed_at_ms.is_some()
    }
}

/// Technical metadata in the form that lists and search use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Summary")]
pub struct MediaSummary {
    /// Container family.
    pub container: String,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Display width in pixels, after rotation and pixel aspect; 0 without video.
    pub width: u32,
    /// Display height in pixels; 0 without video.
    pub height: u32,
    /// Frames per second, times 1000, rounded; 0 without video.
    pub frame_rate_milli: u32,
    /// Video codec of the source.
    pub video_codec: Option<String>,
    /// Audio codecs of the source.
    pub audio_codecs: Vec<String>,
    /// Audio languages of the source.
    pub languages: Vec<String>,
    /// Names of the renditions that play, best first; empty until ready.
    pub renditions: Vec<String>,
}

macro_rules! media_event {
    ($name:ident, $verb:literal, $once:literal, $job:expr) => {
        impl BusEvent for $name {
            const ENTITY: &'static str = "media";
            const VERB: &'static str = $verb;
            const ONCE: bool = $once;
            fn entity_id(&self) -> String {
                self.media_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                let job: fn(&Self) -> Option<JobId> = $job;
                EventContext {
                    owner: Some(self.owner.clone()),
                    media_id: Some(self.media_id),
                    job_id: job(self),
                }
            }
        }
    };
}

/// `evt.media.stored`: the bytes are what they claim to be; the planner takes it from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Stored")]
pub struct MediaStored {
    /// The medium.
    pub media_id: MediaId,
    /// The upload it came by.
    pub upload_id: UploadId,
    /// Its owner.
    pub owner: String,
    /// The verified source.
    pub source: MediaSource,
    /// What the probe found.
    pub technical: TechnicalMetadata,
    /// How its first encode is to be made.
    #[serde(default, skip_serializing_if = "EncodeSettings::is_default")]
    pub settings: EncodeSettings,
}
media_event!(MediaStored, "stored", true, |_| None);

/// `evt.media.rejected`: the bytes can't be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Rejected")]
pub struct MediaRejected {
    /// The medium.
    pub media_id: MediaId,
    /// The upload it came by.
    pub upload_id: UploadId,
    /// Its owner.
    pub owner: String,
    /// A stable code: one of `x-rejections` in the description of the HTTP API.
    pub code: String,
    /// What was found, for people.
    pub detail: String,
}
media_event!(MediaRejected, "rejected", true, |_| None);

/// `evt.media.playable`: the first segments can be played while the rest is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Playable")]
pub struct MediaPlayable {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The job that makes it.
    pub job_id: JobId,
    /// Number of the encode.
    pub encode: u32,
}
media_event!(MediaPlayable, "playable", false, |e| Some(e.job_id));

/// `evt.media.ready`: everything is made and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Ready")]
pub struct MediaReady {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The encode that plays from now on.
    pub encode: MediaEncode,
}
media_event!(MediaReady, "ready", false, |e| Some(e.encode.job_id));

/// `evt.media.removed`: the medium is gone for everybody, and playback of it ends. It can be restored for a time, unless it was removed
/// for good; then its objects and records go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Removed")]
pub struct MediaRemoved {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Who removed it.
    pub removed_by: String,
    /// True when it can't be restored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
}
media_event!(MediaRemoved, "removed", false, |_| None);

/// `evt.media.restored`: a removed medium is there again, as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Restored")]
pub struct MediaRestored {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Who restored it.
    pub restored_by: String,
}
media_event!(MediaRestored, "restored", false, |_| None);

/// `evt.media.purged`: nothing is left of a removed medium: no object, no key, no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Purged")]
pub struct MediaPurged {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
}
media_event!(MediaPurged, "purged", true, |_| None);

/// `evt.media.delayed`: its work waits until something that it needs is back. Told once an outage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Delayed")]
pub struct MediaDelayed {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The job that waits; absent before there is one.
    pub job_id: Option<JobId>,
    /// The stage that waits.
    pub stage: String,
    /// What it waits for: a stable code.
    pub code: String,
}
media_event!(MediaDelayed, "delayed", false, |e| e.job_id);

/// Where a medium is taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Step")]
pub enum ReopenStep {
    /// Its bytes are verified anew.
    Verify {
        /// The upload that brought them.
        received: Box<upload::UploadReceived>,
    },
    /// It is encoded anew, by a new job.
    Encode {
        /// Number of the encode.
        encode: u32,
        /// The verified source.
        source: MediaSource,
        /// What the probe found.
        technical: Box<TechnicalMetadata>,
        /// How it is to be made.
        #[serde(default, skip_serializing_if = "EncodeSettings::is_default")]
        settings: EncodeSettings,
    },
    /// Its technical metadata are written anew.
    Describe,
}

/// `evt.media.reopened`: a medium that was given up is taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Reopened")]
pub struct MediaReopened {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Which attempt begins; 1 is the first one after the one that came with the upload.
    pub attempt: u32,
    /// Where it begins.
    pub step: ReopenStep,
}
media_event!(MediaReopened, "reopened", false, |_| None);
