//! Questions to the index and its answers, over core request/reply: subject `ask.index.<verb>`, MessagePack both ways.
//!
//! Limits: a question has at most [`QUESTION_BYTES_MAX`] bytes, a page at most [`ITEMS_MAX`] items; one names at most [`IDS_MAX`] media.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{JobId, MediaId},
    job,
    media::{self, MediaSummary},
    subjects::JobPriority,
};

/// Most items of one page.
pub const ITEMS_MAX: u32 = 200;

/// Most items that are looked at for one page, whether or not they are of the filter; the page's `next` goes on behind them.
pub const LOOKED_AT_MAX: usize = 10_000;

/// Largest question in bytes.
pub const QUESTION_BYTES_MAX: usize = 8 * 1024;

/// Verb: list media.
pub const MEDIA: &str = "media";

/// Verb: list what everybody may watch. A verb of its own: an index that does not know it answers nothing, and never everything.
pub const PUBLIC_MEDIA: &str = "public_media";

/// Verb: list jobs.
pub const JOBS: &str = "jobs";

/// Verb: count jobs.
pub const JOB_COUNTS: &str = "job_counts";

/// Verb: say what was encoded lately, by profile.
pub const ENCODE_ACTIVITY: &str = "encode_activity";

/// Verb: list the events of one thing.
pub const HISTORY: &str = "history";

/// Most ended jobs that an [`EncodeActivity`] is made of.
pub const ACTIVITY_JOBS_MAX: usize = 10_000;

/// Code of a refusal: the question can't be read.
pub const QUESTION_MALFORMED: &str = "question_malformed";

/// Code of a refusal: the cursor is none that the index gave out.
pub const CURSOR_MALFORMED: &str = "cursor_malformed";

/// Code of a refusal: there is no such revision of the bucket yet.
pub const REVISION_UNKNOWN: &str = "revision_unknown";

/// Code of a refusal: the index has not seen that revision yet.
pub const INDEX_BEHIND: &str = "index_behind";

/// Most media that one question names.
pub const IDS_MAX: usize = 100;

/// Which media to list; newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListMedia")]
pub struct MediaIndexQuery {
    /// Whose media; `None` for everybody's, which only an admin may ask.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only media that stand there.
    #[serde(default)]
    pub status: Option<media::MediaStatus>,
    /// Media that were removed and can be restored; the one removed last comes first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// Only these media, at most [`IDS_MAX`]; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = IDS_MAX))]
    pub ids: Vec<MediaId>,
    /// Where the page before ended: its `next`.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most items, from 1 to [`ITEMS_MAX`]; larger values are cut.
    pub limit: u32,
    /// Answer only once the index has seen this revision of the bucket `media`; it waits a short while for it.
    #[serde(default)]
    pub min_revision: Option<u64>,
}

/// A page of the media that everybody may watch and that play, newest first; answered with a [`MediaIndexPage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListPublicMedia")]
pub struct PublicMediaIndexQuery {
    /// Where the page before ended: its `next`.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most items, from 1 to [`ITEMS_MAX`]; larger values are cut.
    pub limit: u32,
}

/// One medium of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaItem")]
pub struct MediaIndexItem {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Title for people; empty while there is no document.
    pub title: String,
    /// Where it stands.
    pub status: media::MediaStatus,
    /// Technical metadata, once indexed.
    pub summary: Option<MediaSummary>,
    /// Size of the verified source in bytes.
    pub size_bytes: Option<u64>,
    /// Number of the encode that plays or is being made.
    pub encode: Option<u32>,
    /// True when that encode has a poster.
    pub has_poster: bool,
    /// Why it was rejected or failed: a stable code.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds of the last change of document or asset.
    pub changed_at_ms: u64,
    /// Revision of the document in the bucket `media`; 0 while there is none.
    pub document_revision: u64,
    /// Revision of the asset in the bucket `assets`; 0 while there is none.
    pub asset_revision: u64,
    /// Unix time in milliseconds at which it was removed; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at_ms: Option<u64>,
}

/// A page of media.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaPage")]
pub struct MediaIndexPage {
    /// Newest first. Fewer than asked for, or none, also before the end, once [`LOOKED_AT_MAX`] media were looked at.
    pub items: Vec<MediaIndexItem>,
    /// Cursor of the next page; `None` at the end.
    pub next: Option<String>,
    /// Revision of the bucket `media` the index has seen.
    pub revision: u64,
}

/// Which jobs to list; newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListJobs")]
pub struct JobIndexQuery {
    /// Whose jobs; `None` for everybody's, which only an admin may ask.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only jobs on this medium.
    #[serde(default)]
    pub media_id: Option<MediaId>,
    /// Only jobs that stand there.
    #[serde(default)]
    pub status: Option<job::JobStatus>,
    /// Only jobs of this kind, such as `transcode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only jobs of this priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<JobPriority>,
    /// Only jobs that failed with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Only jobs that are paused, or only those that are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Where the page before ended: its `next`.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most items, from 1 to [`ITEMS_MAX`]; larger values are cut.
    pub limit: u32,
    /// Answer only once the index has seen this revision of the bucket `jobs`; it waits a short while for it.
    #[serde(default)]
    pub min_revision: Option<u64>,
}

impl JobIndexQuery {
    /// True when a job is one of those.
    pub fn matches(&self, job: &JobIndexItem) -> bool {
        let Self { owner, media_id, status, kind, priority, code, paused, .. } = self;
        owner.as_ref().is_none_or(|owner| *owner == job.owner)
            && media_id.is_none_or(|media_id| media_id == job.media_id)
            && status.is_none_or(|status| status == job.status)
            && kind.as_ref().is_none_or(|kind| *kind == job.kind)
            && priority.is_none_or(|priority| priority == job.priority)
            && code.as_ref().is_none_or(|code| job.code.as_ref() == Some(code))
            && paused.is_none_or(|is_paused| is_paused == job.paused_at_ms.is_some())
    }
}

/// One job of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobItem")]
pub struct JobIndexItem {
    /// The job.
    pub job_id: JobId,
    /// Kind: `transcode`, `verify` or `job_action`; others may come.
    pub kind: String,
    /// Priority of its parts.
    pub priority: JobPriority,
    /// The medium it works on; zeros where it works on none.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Where it stands.
    pub status: job::JobStatus,
    /// Number of the encode it makes; 0 where it makes none.
    pub encode: u32,
    /// Duration of the output in milliseconds, or of the medium that it goes through.
    pub duration_ms: u64,
    /// Parts it has, with the one that finishes an encode.
    pub parts_total: u32,
    /// Parts that are stored.
    pub parts_done: u32,
    /// Parts that a worker holds.
    pub parts_claimed: u32,
    /// Parts that can't be done.
    pub parts_failed: u32,
    /// CPU milliseconds of the media child for what is stored.
    pub cpu_ms: u64,
    /// Why it failed: a stable code.
    pub code: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds at which it ended.
    pub ended_at_ms: Option<u64>,
    /// Unix time in milliseconds at which a person paused it; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at_ms: Option<u64>,
    /// Revision of the job's record in the bucket `jobs`.
    pub revision: u64,
}

/// A page of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobPage")]
pub struct JobIndexPage {
    /// Newest first. Fewer than asked for, or none, also before the end, once [`LOOKED_AT_MAX`] jobs were looked at.
    pub items: Vec<JobIndexItem>,
    /// Cursor of the next page; `None` at the end.
    pub next: Option<String>,
    /// Revision of the bucket `jobs` the index has seen.
    pub revision: u64,
}

/// What was encoded since a time?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ReadEncodeActivity")]
pub struct EncodeActivityQuery {
    /// Whose jobs; `None` for everybody's, which only an operator may ask.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only jobs that ended then or later: Unix time in milliseconds.
    pub ended_from_ms: u64,
}

/// What was encoded, of the jobs that ended in a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EncodeActivity")]
pub struct EncodeActivity {
    /// By name of the profile.
    pub profiles: Vec<ProfileActivity>,
    /// True when more jobs ended than are looked at, the last [`ACTIVITY_JOBS_MAX`].
    pub is_cut: bool,
    /// Revision of the bucket `jobs` the index has seen.
    pub revision: u64,
}

/// What was encoded by a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProfileActivity")]
pub struct ProfileActivity {
    /// Its name.
    pub profile: String,
    /// Jobs that came to an encode.
    pub succeeded: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were cancelled, or whose medium was removed.
    pub cancelled: u64,
    /// Milliseconds that the media of those that succeeded play.
    pub output_ms: u64,
    /// Milliseconds that media children ran for those, all parts added up.
    pub work_ms: u64,
    /// CPU milliseconds of those media children.
    pub cpu_ms: u64,
    /// Milliseconds of output in each 1,000 milliseconds that a media child ran: what one slot makes, as a multiple of real time; null
    /// while nothing was made.
    pub speed: Option<u64>,
    /// Milliseconds from the planning of a job to its end, of those that succeeded, in the median; null without any.
    pub job_ms_median: Option<u64>,
    /// The same of the slowest twentieth: 95 % ended sooner.
    pub job_ms_p95: Option<u64>,
}

/// How many jobs stand where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CountJobs")]
pub struct JobCountsQuery {
    /// Whose jobs; `None` for everybody's, which only an admin may ask.
    #[serde(default)]
    pub owner: Option<String>,
    /// Answer only once the index has seen this revision of the bucket `jobs`; it waits a short while for it.
    #[serde(default)]
    pub min_revision: Option<u64>,
}

/// Jobs by where they stand: those that are active, and those that ended and are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobCounts", example = serde_json::json!({
    "active": 2, "paused": 1, "succeeded": 940, "failed": 3, "cancelled": 1, "revision": 5_120,
}))]
pub struct JobCounts {
    /// Jobs whose parts wait or run.
    pub active: u64,
    /// Those of the active ones that a person paused.
    #[serde(default)]
    pub paused: u64,
    /// Jobs that are done and checked.
    pub succeeded: u64,
    /// Jobs that ended with a code.
    pub failed: u64,
    /// Jobs that a person ended.
    pub cancelled: u64,
    /// Revision of the bucket `jobs` the index has seen.
    pub revision: u64,
}

/// What the index answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Answer")]
pub enum IndexReply<P> {
    /// The page asked for.
    Page(P),
    /// No page.
    Refused {
        /// `question_malformed`, `text_malformed`, `cursor_malformed`, `revision_unknown`, `index_behind`, `index_busy` or
        /// `index_damaged`.
        code: String,
        /// The same for people.
        detail: String,
    },
}
/// The events about a medium or a job, oldest first; answered with a [`HistoryIndexPage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListHistory")]
pub struct HistoryIndexQuery {
    /// The medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
    /// The job, where no medium is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Sequence in EVENTS behind which to begin; 0 for the first.
    #[serde(default)]
    pub behind_sequence: u64,
    /// Most sequences, from 1 to [`ITEMS_MAX`]; larger values are cut.
    pub limit: u32,
    /// Sequence in EVENTS that the index waits for a short while; it answers with what it has after that.
    #[serde(default)]
    pub wait_for_sequence: u64,
}

/// Where the events of one thing lie in EVENTS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HistorySequences")]
pub struct HistoryIndexPage {
    /// When EVENTS was made, as Unix time in milliseconds: sequences of another stream mean nothing.
    pub created_at_ms: u64,
    /// Sequences in order.
    pub sequences: Vec<u64>,
    /// True when there are more.
    pub has_more: bool,
    /// Sequence up to which the index knows EVENTS.
    pub seen_sequence: u64,
}
