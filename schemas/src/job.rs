//! Jobs: work in parts. The job's own record is written by planner, finisher and cancel; each part has its own claim record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext,
    encode_settings::EncodeRange,
    export::{ExportOrder, ExportReport},
    ids::{JobId, MediaId, UploadId},
    job_action::{JobActionOrder, JobActionProgress, JobActionReport},
    media::{ClockMark, MediaWarning, Rational},
    renditions::CopyPlan,
    schedule::ScheduledRun,
    subjects::{self, JobPriority},
    thumbnails::ThumbnailOrder,
    value::is_zero,
};

/// Most parts a job may have: their records are read together, when the job is finished and when people look at it.
pub const PARTS_MAX: usize = 900;

/// Kind of the jobs that make an encode.
pub const TRANSCODE: &str = "transcode";

/// Kind of the jobs that compare what is stored of a medium with what was written down of it.
pub const VERIFY: &str = "verify";

/// Kind of the jobs that do one thing with all jobs of a filter.
pub const JOB_ACTION: &str = "job_action";

/// Kind of the jobs that bring the bytes of an upload from an address.
pub const FETCH: &str = "fetch";

/// Kind of the jobs that make pictures of a medium at times of its owner's choice.
pub const THUMBNAILS: &str = "thumbnails";

/// Kind of the jobs that send a file of a medium to an address.
pub const EXPORT: &str = "export";

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    /// Makes an encode of its medium.
    Transcode,
    /// Compares what is stored of its medium with what was written down of it.
    Verify,
    /// Does one thing with all jobs of a filter.
    JobAction,
    /// Brings the bytes of an upload from an address.
    Fetch,
    /// Makes pictures of its medium.
    Thumbnails,
    /// Sends a file of its medium to an address.
    Export,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Transcode, Self::Verify, Self::JobAction, Self::Fetch, Self::Thumbnails, Self::Export];

    /// Its name in records, events and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transcode => TRANSCODE,
            Self::Verify => VERIFY,
            Self::JobAction => JOB_ACTION,
            Self::Fetch => FETCH,
            Self::Thumbnails => THUMBNAILS,
            Self::Export => EXPORT,
        }
    }

    /// The kind of a name; `None` for those that only newer versions know.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Which workers make the parts of such a job.
    pub const fn queue(self) -> JobQueue {
        match self {
            Self::Transcode => JobQueue::Transcode,
            Self::Verify | Self::JobAction | Self::Fetch | Self::Thumbnails | Self::Export => JobQueue::Tasks,
        }
    }
}

/// Name of the one part of a job that makes no encode.
pub const TASK: &str = "task";

/// Code of a medium of which something is lost or damaged in the store, as a job of the kind [`VERIFY`] found.
pub const MEDIA_DAMAGED: &str = "media_damaged";

/// Durable on EVENTS of the stage that plans those jobs, and its name.
pub const PLAN_TRANSCODE: &str = "transcode-plan";

/// Name of the part that finishes a job, behind all those that [`JobRecord::parts`] names.
pub const FINISH: &str = "finish";

/// Code of a part that was put aside since its workers vanished one after another.
pub const WORKERS_LOST: &str = "workers_lost";

/// Code of a part that failed without saying why, and of a job that ends with it.
pub const PART_FAILED: &str = "part_failed";

/// Code of a job that was cancelled with its medium; of one that a person cancelled there is none.
pub const MEDIA_REMOVED: &str = "media_removed";

/// Code of a medium whose job was ended by a person.
pub const JOB_CANCELLED: &str = "job_cancelled";

/// Code of a job whose result came when a newer encode of its medium had begun.
pub const JOB_SUPERSEDED: &str = "job_superseded";

/// Code of a try whose worker vanished.
pub const WORKER_LOST: &str = "worker_lost";

/// Which workers make the parts of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobQueue {
    /// Those that encode.
    Transcode,
    /// Those that do all else.
    Tasks,
}

impl JobQueue {
    /// All queues.
    pub const ALL: [Self; 2] = [Self::Transcode, Self::Tasks];

    /// Its name: in subjects, durables, records of workers, and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transcode => TRANSCODE,
            Self::Tasks => "tasks",
        }
    }

    /// The queue of a kind of jobs; `None` for kinds that only newer versions know.
    pub fn of_kind(kind: &str) -> Option<Self> {
        JobKind::parse(kind).map(JobKind::queue)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobStatus")]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Planned; parts wait or run.
    Active,
    /// Done and checked.
    Succeeded,
    /// Ended with `code`.
    Failed,
    /// Ended by a person.
    Cancelled,
}

/// A range of the output frame grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Range")]
pub struct FrameRange {
    /// First frame, from 0.
    pub start_frame: u64,
    /// Frames in the range.
    pub frame_count: u64,
    /// Number of the range's first segment, from 1.
    pub first_segment: u32,
}

/// One rung of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Rung")]
pub struct LadderRung {
    /// Folder name, such as `v720`.
    pub name: String,
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Keeps every n-th frame of the grid: 1, or 2 where 50 or 60 fps is too much for a low rung.
    pub frame_step: u32,
    /// Constant rate factor of x264.
    pub crf: u32,
    /// Peak bits per second (x264 `vbv-maxrate`).
    pub rate_max_bps: u64,
    /// Decoder buffer in bits (x264 `vbv-bufsize`).
    pub buffer_bits: u64,
    /// H.264 profile.
    pub profile: String,
    /// H.264 level times 10, such as 31.
    pub level: u32,
    /// Encoder threads, fixed so that output is reproducible.
    pub threads: u32,
}

/// How the video is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VideoPlan {
    /// Stream index in the source.
    pub stream_index: u32,
    /// Output frames per second.
    pub frame_rate: Rational,
    /// Output frames.
    pub frame_count: u64,
    /// Frames between IDR pictures.
    pub gop_frames: u32,
    /// Frames in each segment but the last; a multiple of `gop_frames`.
    pub segment_frames: u32,
    /// Parts on the output frame grid, the first one short.
    pub ranges: Vec<FrameRange>,
    /// Rungs, best first.
    pub rungs: Vec<LadderRung>,
    /// x264 preset.
    pub preset: String,
    /// True when frames marked as interlaced are deinterlaced.
    #[serde(default)]
    pub deinterlace: bool,
    /// Small pictures of the whole film; plans of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storyboard: Option<StoryboardPlan>,
}

/// Small pictures of a film, for people who search in it: a sheet of tiles for each range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoryboardPlan {
    /// Output frames from one tile to the next; the first is frame 0.
    pub interval_frames: u32,
    /// Width of a tile in pixels.
    pub tile_width: u32,
    /// Height of a tile in pixels.
    pub tile_height: u32,
    /// Tiles side by side.
    pub columns: u32,
}

/// Which picture stands for the medium before it plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PosterPlan {
    /// Stream index in the source.
    pub stream_index: u32,
    /// When it is shown, in microseconds from the presentation start; the next one that is not black is taken.
    pub at_us: u64,
    /// Longest side in pixels.
    pub side_pixels_max: u32,
    /// The track is a cover picture of the source, and no frame of a film.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cover: bool,
}

/// How one audio track is made: always as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioPlan {
    /// Folder name, such as `a0`.
    pub name: String,
    /// Stream index in the source.
    pub stream_index: u32,
    /// Language, `und` when unknown.
    pub language: String,
    /// Name for people.
    pub label: String,
    /// Channels of the output.
    pub channels: u32,
    /// Samples per second of the output.
    pub sample_rate_hz: u32,
    /// Target bits per second.
    pub bit_rate_bps: u64,
    /// Samples of the whole output.
    pub duration_samples: u64,
    /// Nominal segment length in seconds, equal to the video's.
    pub segment_seconds: Rational,
    /// Loudness of the output in LUFS (EBU R 128); as the source is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loudness_lufs: Option<i32>,
}

/// A subtitle track as it will be: WebVTT in segments of the same times as the picture's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubtitlePlan {
    /// Folder name, such as `s0`.
    pub name: String,
    /// Stream index in the source.
    pub stream_index: u32,
    /// Codec of the source, by FFmpeg's name.
    pub codec: String,
    /// Language, `und` when unknown.
    pub language: String,
    /// Name for people.
    pub label: String,
    /// Shown also to those who want no subtitles.
    pub is_forced: bool,
    /// Also names sounds beside speech.
    pub is_hearing_impaired: bool,
}

/// What is made, decided once by the planner. In a job that makes no encode it names the source and its duration,
/// and nothing that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub struct EncodePlan {
    /// Object key of the source.
    pub source_key: String,
    /// Size of the source in bytes.
    pub source_bytes: u64,
    /// Presentation time of the source, in microseconds, that becomes 0.
    pub origin_us: i64,
    /// The part of the source that is encoded, as it was asked for; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<EncodeRange>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// The video, if there is any.
    pub video: Option<VideoPlan>,
    /// The audio tracks.
    pub audio: Vec<AudioPlan>,
    /// The subtitle tracks; one part makes them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subtitles: Vec<SubtitlePlan>,
    /// The poster, if there is any picture.
    #[serde(default)]
    pub poster: Option<PosterPlan>,
    /// Name of the profile.
    #[serde(default)]
    pub profile: String,
    /// Digest of the options, part of every object key.
    pub options_digest: String,
    /// Version of the options: only workers of the same make the same bytes of this plan. Empty before there was one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options_version: String,
    /// How time stamps of the source are read where its clock jumps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<ClockMark>,
    /// Why the ladder is what it is, for the report.
    pub reasons: Vec<String>,
    /// What of the source is left out or changed by the profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<MediaWarning>,
    /// The files whose samples are copied in place of encoding; absent where the source is encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Box<CopyPlan>>,
}

/// One job in the bucket `jobs`, key `<job_id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct JobRecord {
    /// The job.
    pub job_id: JobId,
    /// Kind: `transcode`, `verify`, `job_action`, `fetch`, `thumbnails` or `export`; others may come.
    pub kind: String,
    /// Priority of its parts.
    pub priority: JobPriority,
    /// The medium it works on; zeros where it works on none.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Number of the encode it makes; 0 where it makes none.
    pub encode: u32,
    /// Folder of its objects; of a job that stores none, one that is never there.
    pub prefix: String,
    /// What is made.
    pub plan: EncodePlan,
    /// Names of its parts, in queue order, without [`FINISH`].
    pub parts: Vec<String>,
    /// Why it failed: a stable code.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds at which it ended.
    pub ended_at_ms: Option<u64>,
    /// Unix time in milliseconds until which a job that ended is kept; absent while it is active. Its history is in the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until_ms: Option<u64>,
    /// What its parts came to, in queue order, once their own records are gone: some time after the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<Vec<JobPartSummary>>,
    /// Unix time in milliseconds at which the publishing of its result began; from then on it can't be cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishing_at_ms: Option<u64>,
    /// The job that came to nothing and of which this one takes what was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// Unix time in milliseconds at which what it had stored was removed, since it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared_at_ms: Option<u64>,
    /// Names of the parts that the job before it had made in the same folder: they are not queued.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<String>,
    /// Unix time in milliseconds at which a person paused it: until it is resumed none of its parts is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at_ms: Option<u64>,
    /// The run of a schedule that asked for it; absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<ScheduledRun>,
    /// What a job of the kind [`VERIFY`] found; absent until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifyReport>,
    /// What a job of the kind [`JOB_ACTION`] does, and with which jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<JobActionOrder>,
    /// What came of it, or of a part of it where it was cancelled; absent until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acted: Option<JobActionReport>,
    /// Where a job of the kind [`FETCH`] has its bytes from, and where they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchSource>,
    /// What a job of the kind [`THUMBNAILS`] makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnails: Option<ThumbnailOrder>,
    /// What a job of the kind [`EXPORT`] sends, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Box<ExportOrder>>,
    /// What it sent; absent until it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<Box<ExportReport>>,
}

/// Where the bytes of an upload are fetched from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FetchSource {
    /// The upload that takes them.
    pub upload_id: UploadId,
    /// The address with its query, which may hold a secret; absent once the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Scheme, host and path: what its owner is shown.
    pub shown: String,
}

/// Without the address: records are written into logs.
impl std::fmt::Debug for FetchSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchSource").field("upload_id", &self.upload_id).finish_non_exhaustive()
    }
}

/// Most faults that a [`VerifyReport`] names.
pub const VERIFY_FAULTS_MAX: usize = 50;

/// What comparing a medium with what was written down of it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyReport {
    /// Number of the encode that was compared; absent where none was whole, so that the source alone was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<u32>,
    /// Objects that were looked for.
    pub objects: u64,
    /// Bytes that were read and compared by their SHA-256.
    pub read_bytes: u64,
    /// Bytes of objects that could be compared by their size alone, since they were stored without a checksum: what older versions
    /// encoded.
    pub sized_bytes: u64,
    /// What was found wrong; most of it about one object each.
    pub faults: u64,
    /// The first of them, at most [`VERIFY_FAULTS_MAX`].
    pub first_faults: Vec<VerifyFault>,
}

/// An object that is not as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyFault {
    /// Which: its path below the folder of the medium, such as `source` or `e1/3fd1a7c2b94e5d60/v720/3.m4s`.
    pub object: String,
    /// What about it: `missing`, `size_differs`, `digest_differs`, `unreadable` by the disk, `no_checksum` where it should have one, or
    /// `malformed`, of a list of checksums; others may come.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

impl JobRecord {
    /// A job that makes no encode: one part, which is all of it. Its plan says what is read: the source and its duration.
    pub fn new_task(
        job_id: JobId,
        kind: &str,
        (media_id, owner): (MediaId, &str),
        (plan, priority): (EncodePlan, JobPriority),
        now_ms: u64,
    ) -> Self {
        Self {
            job_id,
            kind: kind.to_owned(),
            priority,
            media_id,
            owner: owner.to_owned(),
            status: JobStatus::Active,
            encode: 0,
            prefix: crate::keys::task_prefix(media_id, job_id),
            plan,
            parts: vec![TASK.to_owned()],
            code: None,
            detail: None,
            created_at_ms: now_ms,
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

    /// Which workers make its parts; `None` for a kind that only newer versions know.
    pub fn queue(&self) -> Option<JobQueue> {
        JobQueue::of_kind(&self.kind)
    }

    /// True when it makes an encode of its medium, and says there what became of it.
    pub fn is_encode(&self) -> bool {
        self.queue() == Some(JobQueue::Transcode)
    }

    /// Ends the job; from now on it is kept for `kept_ms`, in milliseconds, without the address that it fetched or sent to.
    pub fn mark_ended(&mut self, status: JobStatus, now_ms: u64, kept_ms: u64) {
        if let Some(fetch) = &mut self.fetch {
            fetch.url = None;
        }
        if let Some(export) = &mut self.export {
            export.url = None;
        }
        self.status = status;
        self.ended_at_ms = Some(now_ms);
        self.kept_until_ms = Some(now_ms.saturating_add(kept_ms));
    }

    /// The record once its result is being published, after which nobody cancels it. `None` when it has ended, or it is.
    pub fn with_publishing_begun(&self, now_ms: u64) -> Option<Self> {
        let is_new = self.status == JobStatus::Active && self.publishing_at_ms.is_none();
        is_new.then(|| Self { publishing_at_ms: Some(now_ms), ..self.clone() })
    }

    /// The record once it is cancelled, kept for `kept_ms` milliseconds, with the event. `None` when it has ended, and while its result
    /// is being published, unless nobody names the person: then its medium was removed, and nothing can be published.
    pub fn with_cancellation(
        &self,
        cancelled_by: Option<&str>,
        now_ms: u64,
        kept_ms: u64,
    ) -> Option<(Self, JobCancelled)> {
        let is_too_late = cancelled_by.is_some() && self.publishing_at_ms.is_some();
        if self.status != JobStatus::Active || is_too_late {
            return None;
        }
        let event = JobCancelled {
            job_id: self.job_id,
            media_id: self.media_id,
            owner: self.owner.clone(),
            kind: self.kind.clone(),
            cancelled_by: cancelled_by.map(ToOwned::to_owned),
        };
        let mut record = self.clone();
        record.mark_ended(JobStatus::Cancelled, now_ms, kept_ms);
        record.code = cancelled_by.is_none().then(|| MEDIA_REMOVED.to_owned());
        Some((record, event))
    }

    /// True when its parts may be begun: it has not ended, and nobody paused it.
    pub const fn is_to_be_run(&self) -> bool {
        matches!(self.status, JobStatus::Active) && self.paused_at_ms.is_none()
    }

    /// True while it waits for a person to resume it: none of its parts is begun before.
    pub const fn is_paused(&self) -> bool {
        matches!(self.status, JobStatus::Active) && self.paused_at_ms.is_some()
    }

    /// The record once it is paused by the account `paused_by`, with the event. `None` when it has ended or is paused already.
    pub fn with_pause(&self, paused_by: &str, now_ms: u64) -> Option<(Self, JobPaused)> {
        self.is_to_be_run().then(|| {
            let event = JobPaused {
                job_id: self.job_id,
                media_id: self.media_id,
                owner: self.owner.clone(),
                kind: self.kind.clone(),
                paused_by: paused_by.to_owned(),
            };
            (Self { paused_at_ms: Some(now_ms), ..self.clone() }, event)
        })
    }

    /// The record at another priority, with the event. `None` when it has ended or has that priority.
    pub fn with_priority(&self, priority: JobPriority, changed_by: &str) -> Option<(Self, JobReprioritized)> {
        (self.status == JobStatus::Active && self.priority != priority).then(|| {
            let event = JobReprioritized {
                job_id: self.job_id,
                media_id: self.media_id,
                owner: self.owner.clone(),
                kind: self.kind.clone(),
                priority,
                changed_by: changed_by.to_owned(),
            };
            (Self { priority, ..self.clone() }, event)
        })
    }

    /// The record once its parts may be begun again, with the event. `None` when it has ended or is not paused.
    pub fn with_resumption(&self, resumed_by: &str) -> Option<(Self, JobResumed)> {
        self.is_paused().then(|| {
            let event = JobResumed {
                job_id: self.job_id,
                media_id: self.media_id,
                owner: self.owner.clone(),
                kind: self.kind.clone(),
                resumed_by: resumed_by.to_owned(),
            };
            (Self { paused_at_ms: None, ..self.clone() }, event)
        })
    }

    /// Queue subject of one of its parts.
    pub fn part_subject(&self, part: &str) -> String {
        part_subject(&self.kind, self.priority, self.job_id, part)
    }
}

/// Queue subject of a part of a job. The finish goes before all others: it is short, and all else of the job is done.
pub fn part_subject(kind: &str, priority: JobPriority, job_id: JobId, part: &str) -> String {
    let priority = if part == FINISH { JobPriority::P0 } else { priority };
    let queue = JobQueue::of_kind(kind);
    subjects::job_part_subject(queue.map_or(kind, |queue| queue.name()), priority, job_id, part)
}

impl crate::KvRecord for JobRecord {
    const BUCKET: &'static str = "jobs";
    const KEEPS_TRACE: bool = true;
    fn key(&self) -> String {
        self.job_id.to_string()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        self.kept_until_ms
    }
}

/// Where a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PartStatus")]
pub enum JobPartStatus {
    /// A worker holds it.
    Claimed,
    /// Its objects are stored.
    Done,
    /// It can't be done; `code` says why.
    Failed,
}

/// One stored segment. Its number is `first_segment` of the track plus its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Segment")]
pub struct StoredSegment {
    /// Decode time of the first sample, in ticks.
    pub start_ticks: u64,
    /// Sum of the sample durations, in ticks.
    pub duration_ticks: u64,
    /// Bytes.
    pub size_bytes: u64,
}

/// What a part has stored of one rendition so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Track")]
pub struct StoredTrack {
    /// Folder name of the rendition.
    pub rendition: String,
    /// Ticks per second.
    pub timescale: u32,
    /// SHA-256 of the init segment in lower-case hex.
    pub init_sha256: String,
    /// Bytes of the init segment.
    pub init_bytes: u64,
    /// RFC 6381 codec string, parsed from the init segment.
    #[serde(default)]
    pub codecs: String,
    /// Number of the first segment in `segments`.
    pub first_segment: u32,
    /// Segments in order, without gaps.
    pub segments: Vec<StoredSegment>,
}

impl StoredTrack {
    /// Milliseconds of output that are stored, rounded down.
    pub fn stored_ms(&self) -> u64 {
        let ticks: u64 = self.segments.iter().map(|segment| segment.duration_ticks).sum();
        ticks.saturating_mul(1_000) / u64::from(self.timescale.max(1))
    }
}

/// What is known of workers that vanished while they held a part. Times are the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Lost")]
pub struct LostWorkers {
    /// How many.
    pub workers: u32,
    /// Unix time in milliseconds at which the first one was missed.
    pub first_at_ms: u64,
    /// Unix time in milliseconds at which the last one was missed.
    pub last_at_ms: u64,
    /// Unix time in milliseconds at which the part was put aside until somebody resumes it; absent while it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_at_ms: Option<u64>,
    /// Unix time in milliseconds, by the broker's time, before which it is not tried again; absent where it is tried at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
}

/// One part in the bucket `jobs`, key `<job_id>.<part>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Part")]
pub struct JobPartRecord {
    /// The job.
    pub job_id: JobId,
    /// Name of the part: `v0000`, `a0`, `finish`.
    pub part: String,
    /// Where it stands.
    pub status: JobPartStatus,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Tries that ended in a crash of the media child.
    pub crashes: u32,
    /// Who holds it: a random name per worker process.
    pub worker: String,
    /// Unix time in milliseconds at which the holder last showed itself.
    pub last_seen_ms: u64,
    /// The broker's Unix time in milliseconds of what the holder last wrote, where another worker misses it since; the next renewal of
    /// the holder takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_since_ms: Option<u64>,
    /// What is stored so far.
    pub tracks: Vec<StoredTrack>,
    /// CPU milliseconds the media child used for what is stored.
    pub cpu_ms: u64,
    /// Milliseconds the media child ran for what is stored.
    #[serde(default)]
    pub wall_ms: u64,
    /// Largest resident set of the media child, in bytes.
    #[serde(default)]
    pub rss_bytes_max: u64,
    /// How much quieter its sound is than the plan wants it, in thousandths of a LU; absent where it is not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub loudness_missing_mlu: u32,
    /// Why it failed: a stable code.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Tries that failed: crashes of the media child and faults with a code. Outages and lost workers are none.
    #[serde(default)]
    pub faults: u32,
    /// Workers that vanished while they held it; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostWorkers>,
    /// True when its last try was interrupted through no fault of its own; the next one goes on counting from it.
    #[serde(default)]
    pub is_interrupted: bool,
    /// True when the SHA-256 of each object that it stored is stored beside them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_checksums: bool,
    /// How far an action on other jobs is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acted: Option<JobActionProgress>,
}

impl JobPartRecord {
    /// A part that nobody has held yet.
    pub fn new(job_id: JobId, name: impl Into<String>) -> Self {
        Self {
            job_id,
            part: name.into(),
            status: JobPartStatus::Claimed,
            attempt: 0,
            crashes: 0,
            worker: String::new(),
            last_seen_ms: 0,
            missed_since_ms: None,
            tracks: Vec::new(),
            cpu_ms: 0,
            wall_ms: 0,
            rss_bytes_max: 0,
            loudness_missing_mlu: 0,
            code: None,
            detail: None,
            faults: 0,
            lost: None,
            is_interrupted: false,
            has_checksums: false,
            acted: None,
        }
    }

    /// The broker's Unix time in milliseconds at which its holder last showed itself, of a record that was stored at `stored_at_ms`.
    pub fn seen_at_ms(&self, stored_at_ms: u64) -> u64 {
        self.missed_since_ms.unwrap_or(stored_at_ms)
    }

    /// Unix time in milliseconds before which it is not tried again, while nobody holds it; `None` where it may be tried.
    pub fn retry_at_ms(&self) -> Option<u64> {
        self.lost.and_then(|lost| lost.retry_at_ms).filter(|_| self.last_seen_ms == 0)
    }

    /// True when it was put aside until somebody resumes it.
    pub fn is_parked(&self) -> bool {
        self.lost.is_some_and(|lost| lost.parked_at_ms.is_some())
    }
}

impl crate::KvRecord for JobPartRecord {
    const BUCKET: &'static str = "jobs";
    const KEEPS_TRACE: bool = true;
    fn key(&self) -> String {
        subjects::part_key(self.job_id, &self.part)
    }
}

/// Most characters of a part's reason that [`JobPartSummary`] keeps.
pub const SUMMARY_DETAIL_CHARS_MAX: usize = 400;

/// What a part came to: all that is asked of a part once its job has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PartSummary")]
pub struct JobPartSummary {
    /// Name of the part.
    pub part: String,
    /// Where it stood.
    pub status: JobPartStatus,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// Tries that ended in a crash of the media child.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// Who held it: a random name per worker process.
    pub worker: String,
    /// Unix time in milliseconds at which the holder last showed itself.
    pub last_seen_ms: u64,
    /// Segments that are stored, over all renditions.
    pub segments: u32,
    /// Milliseconds of output that are stored in every rendition.
    pub stored_ms: u64,
    /// CPU milliseconds the media child used for what is stored.
    pub cpu_ms: u64,
    /// Milliseconds the media child ran for what is stored.
    pub wall_ms: u64,
    /// Largest resident set of the media child, in bytes.
    pub rss_bytes_max: u64,
    /// Why it failed: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people, at most [`SUMMARY_DETAIL_CHARS_MAX`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl From<&JobPartRecord> for JobPartSummary {
    fn from(part: &JobPartRecord) -> Self {
        let segments: usize = part.tracks.iter().map(|track| track.segments.len()).sum();
        Self {
            part: part.part.clone(),
            status: part.status,
            attempt: part.attempt,
            crashes: part.crashes,
            worker: part.worker.clone(),
            last_seen_ms: part.last_seen_ms,
            segments: u32::try_from(segments).unwrap_or(u32::MAX),
            stored_ms: part.tracks.iter().map(StoredTrack::stored_ms).min().unwrap_or(0),
            cpu_ms: part.cpu_ms,
            wall_ms: part.wall_ms,
            rss_bytes_max: part.rss_bytes_max,
            code: part.code.clone(),
            detail: part.detail.as_ref().map(|text| text.chars().take(SUMMARY_DETAIL_CHARS_MAX).collect()),
        }
    }
}

/// A message of the work queue: do this part. All else is in the job's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Task")]
pub struct JobPartTask {
    /// The job.
    pub job_id: JobId,
    /// Name of the part.
    pub part: String,
}

/// How far a part is; lives in memory on the broker, newest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Progress")]
pub struct JobPartProgress {
    /// The job.
    pub job_id: JobId,
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Name of the part.
    pub part: String,
    /// Milliseconds of output made by this part; in a job of the kind [`FETCH`] bytes that came.
    pub done_ms: u64,
    /// Milliseconds of output this part will have; in a job of the kind [`FETCH`] bytes that the source has, 0 while it does not say.
    pub total_ms: u64,
    /// Kind of the job; empty from workers of before, which encode.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

macro_rules! job_event {
    ($(#[$doc:meta])* $name:ident, $verb:literal, $once:literal { $($(#[$field_attr:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// The job.
            pub job_id: JobId,
            /// The medium it works on; zeros where it works on none.
            pub media_id: MediaId,
            /// Its owner.
            pub owner: String,
            /// Kind, such as `transcode`.
            pub kind: String,
            $($(#[$field_attr])* pub $field: $type,)*
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = "job";
            const VERB: &'static str = $verb;
            const ONCE: bool = $once;
            fn entity_id(&self) -> String {
                self.job_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), media_id: self.media_id.if_any(), job_id: Some(self.job_id) }
            }
        }
    };
}

job_event!(
    /// `evt.job.queued`: the job is planned and its parts wait.
    #[schemars(rename = "Queued")]
    JobQueued, "queued", true {
        /// Parts to do, without the finish.
        part_count: u32,
        /// Milliseconds of output over all parts, what progress adds up to.
        total_ms: u64,
    }
);
job_event!(
    /// `evt.job.waiting`: it waits for its turn for a while, and what hinders it is another thing than before. It is published of the jobs
    /// that are next of their owners, not of all that wait behind them.
    #[schemars(rename = "Waiting")]
    JobWaiting, "waiting", false {
        /// What hinders it most, as `GET /v1/jobs/{job_id}/why` names it; others may come.
        reason: String,
        /// The same for people.
        sentence: String,
    }
);
job_event!(
    /// `evt.job.started`: a worker took the first part.
    #[schemars(rename = "Started")]
    JobStarted, "started", true {
        /// Who: a random name per worker process.
        worker: String,
    }
);
job_event!(
    /// `evt.job.retried`: a part is tried again.
    #[schemars(rename = "Retried")]
    JobRetried, "retried", false {
        /// Name of the part.
        part: String,
        /// Which try this is, from 2.
        attempt: u32,
        /// Why: a stable code.
        code: String,
    }
);
job_event!(
    /// `evt.job.succeeded`: done and checked.
    #[schemars(rename = "Succeeded")]
    JobSucceeded, "succeeded", true {
        /// Milliseconds from planning to the end.
        wall_ms: u64,
        /// CPU milliseconds of all media children.
        cpu_ms: u64,
        /// What was sent, with its digest; absent where the job is of another kind than [`EXPORT`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exported: Option<ExportReport>,
    }
);
job_event!(
    /// `evt.job.failed`: ended without a result.
    #[schemars(rename = "Failed")]
    JobFailed, "failed", true {
        /// A stable code.
        code: String,
        /// The same for people.
        detail: String,
    }
);
job_event!(
    /// `evt.job.cancelled`: ended by a person.
    #[schemars(rename = "Cancelled")]
    JobCancelled, "cancelled", true {
        /// The account of the person; absent where the medium was removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cancelled_by: Option<String>,
    }
);
job_event!(
    /// `evt.job.paused`: none of its parts is begun until somebody resumes it.
    #[schemars(rename = "Paused")]
    JobPaused, "paused", false {
        /// The account of the person.
        paused_by: String,
    }
);
job_event!(
    /// `evt.job.resumed`: its parts are begun again.
    #[schemars(rename = "Resumed")]
    JobResumed, "resumed", false {
        /// The account of the person.
        resumed_by: String,
    }
);
job_event!(
    /// `evt.job.reprioritized`: what is not let into the queue yet of it waits at another priority.
    #[schemars(rename = "Reprioritized")]
    JobReprioritized, "reprioritized", false {
        /// Its priority now.
        priority: JobPriority,
        /// The account of the person.
        changed_by: String,
    }
);
job_event!(
    /// `evt.job.dead`: a part was given up and lies in the dead-letter stream.
    #[schemars(rename = "Dead")]
    JobPartDead, "dead", false {
        /// Name of the part.
        part: String,
        /// A stable code.
        code: String,
    }
);
job_event!(
    /// `evt.job.parked`: a part lost one worker after another for long, and waits until somebody resumes it.
    #[schemars(rename = "Parked")]
    JobParked, "parked", false {
        /// Name of the part.
        part: String,
        /// Workers that vanished while they held it.
        workers: u32,
    }
);
