//! Schedules: jobs that are begun at set times, without a person.
//!
//! A schedule's record is the truth: the compare-and-set that advances it to its next time is what fires it, so that no time is fired
//! twice, whichever keeper holds the timer.
//!
//! A version that knows no such kind of job, timing or outcome leaves a schedule alone, as does one that finds a member in a job or a timing
//! that it does not know: half understood it would do something else.
//!
//! Limits: the newest [`RUNS_MAX`] runs stand in the record, all of them in the events; an account has at most [`SCHEDULES_MAX`]
//! schedules; two times are at least [`INTERVAL_MS_MIN`] apart.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext, KvRecord,
    encode_settings::EncodeRange,
    export::ExportJobRequest,
    ids::{JobId, MediaId, ScheduleId},
    subjects::JobPriority,
    thumbnails::{self, ThumbnailOrder},
};

/// Most runs that a record keeps.
pub const RUNS_MAX: usize = 20;

/// Most schedules of one account that have not ended.
pub const SCHEDULES_MAX: usize = 100;

/// Shortest time between two times of a schedule, in milliseconds: a minute.
pub const INTERVAL_MS_MIN: u64 = 60_000;

/// Longest interval, in milliseconds: a year of 366 days.
pub const INTERVAL_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// Longest name of a schedule, in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// Longest cron expression, and longest name of a time zone, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 100;

/// How long a removed schedule stays as a tombstone, in milliseconds: an hour.
const REMOVED_KEPT_MS: u64 = 3_600_000;

/// What is to be done, apart from when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobRequest {
    /// Encodes a medium again, as `POST /v1/media/{media_id}/transcode` does.
    Transcode(TranscodeJobRequest),
    /// Reads all that is stored of a medium, the source and what plays, and compares it with the checksums that were written down when
    /// it was stored.
    Verify(VerifyJobRequest),
    /// Makes pictures of what plays of a medium, which `GET /v1/media/{media_id}/thumbnail` answers then.
    Thumbnails(ThumbnailsJobRequest),
    /// Sends a file of a medium to an address by PUT: the one that was uploaded, or what plays as one MP4 file. It begins at once: schedules
    /// keep no address.
    Export(ExportJobRequest),
    /// A kind that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Which medium is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyJobRequest {
    /// The medium.
    pub media_id: MediaId,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    #[serde(default)]
    pub priority: JobPriority,
}

/// Of which medium pictures are made, and when they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThumbnailsJobRequest {
    /// The medium.
    pub media_id: MediaId,
    /// When each of them is shown, in milliseconds from the beginning of what plays; within it.
    #[schemars(length(min = 1, max = thumbnails::TIMES_MAX))]
    pub times_ms: Vec<u64>,
    /// Their width in pixels, 320 when absent; smaller media are not enlarged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = thumbnails::WIDTH_PIXELS_MIN, max = thumbnails::WIDTH_PIXELS_MAX))]
    pub width: Option<u32>,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    #[serde(default)]
    pub priority: JobPriority,
}

impl ThumbnailsJobRequest {
    /// What the job makes.
    pub fn order(&self) -> ThumbnailOrder {
        ThumbnailOrder {
            times_ms: self.times_ms.clone(),
            width: self.width.unwrap_or(thumbnails::WIDTH_PIXELS),
        }
    }
}

/// Which medium is encoded again, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TranscodeJobRequest {
    /// The medium.
    pub media_id: MediaId,
    /// Name of a profile, from `GET /v1/profiles`; the one by which uploads are encoded at that time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub profile: Option<String>,
    /// The part of it that is encoded, and plays alone then; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<EncodeRange>,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    #[serde(default)]
    pub priority: JobPriority,
}

/// How [`JobRequest`] is described to readers: a kind that is new to them comes as an object of which they know no more than its kind.
pub fn open_job_request(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let known = generator.subschema_for::<JobRequest>();
    schemars::json_schema!({
        "anyOf": [
            known,
            { "type": "object", "required": ["kind"], "properties": { "kind": { "type": "string" } } },
        ],
    })
}

impl JobRequest {
    /// The medium that it is about.
    pub const fn media_id(&self) -> Option<MediaId> {
        match self {
            Self::Transcode(wanted) => Some(wanted.media_id),
            Self::Verify(wanted) => Some(wanted.media_id),
            Self::Thumbnails(wanted) => Some(wanted.media_id),
            Self::Export(wanted) => Some(wanted.media_id),
            Self::Unknown => None,
        }
    }

    /// Priority of the job; `None` of a kind that only newer versions know.
    pub const fn priority(&self) -> Option<JobPriority> {
        match self {
            Self::Transcode(wanted) => Some(wanted.priority),
            Self::Verify(wanted) => Some(wanted.priority),
            Self::Thumbnails(wanted) => Some(wanted.priority),
            Self::Export(wanted) => Some(wanted.priority),
            Self::Unknown => None,
        }
    }
}

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleTiming {
    /// At one time.
    Once {
        /// Unix time in milliseconds.
        at_ms: u64,
    },
    /// At each time that a cron expression names, by the clock on a wall of its time zone.
    Cron {
        /// Five fields: minute, hour, day of the month, month, day of the week. `L`, `W`, `#` and names are understood. With `*` or a step
        /// in minute or hour it is an interval, else it names fixed times.
        #[schemars(length(min = 1, max = EXPRESSION_BYTES_MAX))]
        expression: String,
        /// Name in the IANA time zone database, such as `Europe/Berlin`; `UTC` when absent.
        #[serde(default = "utc")]
        #[schemars(length(min = 1, max = EXPRESSION_BYTES_MAX))]
        time_zone: String,
    },
    /// At regular distances, whatever the clocks on the walls do.
    Every {
        /// Milliseconds from one time to the next.
        #[schemars(range(min = INTERVAL_MS_MIN, max = INTERVAL_MS_MAX))]
        interval_ms: u64,
        /// Unix time in milliseconds of the first one; one interval from when it is made when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_at_ms: Option<u64>,
    },
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What becomes of times that passed while no keeper ran, or the broker was away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedRunPolicy {
    /// None of them is made up for.
    Skip,
    /// The last of them is.
    #[default]
    Once,
    /// Each is, the earliest first; of more than 100, the last 100.
    All,
}

/// Who set off a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunTrigger {
    /// The time.
    Time,
    /// A person, out of turn.
    Person,
    /// Somebody whom only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Which run of which schedule something comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ScheduledRun {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Unix time in milliseconds for which it was planned; of a run that a person set off, when that was.
    pub planned_at_ms: u64,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunOutcome {
    /// The job is about to be begun; after a crash the keeper goes on from here.
    Starting {
        /// What is begun: the schedule may be changed meanwhile.
        #[schemars(schema_with = "open_job_request")]
        job: Box<JobRequest>,
        /// The attempt that the medium was at before: if it is at another one that is not this run's, somebody else came first.
        attempt_before: u32,
    },
    /// The job was begun.
    Begun {
        /// The job.
        job_id: JobId,
    },
    /// There is no job.
    Refused {
        /// Why: a stable code.
        code: String,
        /// The same for people.
        detail: String,
    },
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// One time that a schedule fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleRun {
    /// Unix time in milliseconds for which it was planned; unique within the schedule.
    pub planned_at_ms: u64,
    /// Unix time in milliseconds at which it fired, by the broker's clock.
    pub fired_at_ms: u64,
    /// Who set it off.
    pub trigger: RunTrigger,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: RunOutcome,
}

/// One schedule in the bucket `schedules`, key `<owner_key>.<schedule_id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ScheduleRecord")]
pub struct ScheduleRecord {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Whose it is: the owner of the medium when it was made.
    pub owner: String,
    /// The first 32 hexadecimal digits of the owner's SHA-256, for the key.
    pub owner_key: String,
    /// The account that made it.
    pub created_by: String,
    /// What people call it; may be empty.
    pub name: String,
    /// When it fires.
    pub timing: ScheduleTiming,
    /// What becomes of times that passed.
    pub missed: MissedRunPolicy,
    /// What is done then.
    #[schemars(schema_with = "open_job_request")]
    pub job: JobRequest,
    /// Unix time in milliseconds at which it was made.
    pub created_at_ms: u64,
    /// Unix time in milliseconds at which it fires next; absent once it has no time left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<u64>,
    /// Unix time in milliseconds at which a person paused it; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at_ms: Option<u64>,
    /// Its newest runs, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<ScheduleRun>,
    /// Unix time in milliseconds until which one that has no time left is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until_ms: Option<u64>,
    /// Unix time in milliseconds at which it was removed: from then on it is a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at_ms: Option<u64>,
}

impl ScheduleRecord {
    /// How other records and events call the run of that time.
    pub const fn scheduled_run(&self, planned_at_ms: u64) -> ScheduledRun {
        ScheduledRun { schedule_id: self.schedule_id, planned_at_ms }
    }

    /// True when a newer version made it, or fired it, as this one can't: only removing it is right here, for writing it would lose
    /// what is not understood.
    pub fn is_of_newer_version(&self) -> bool {
        let is_newer = |run: &ScheduleRun| {
            run.trigger == RunTrigger::Unknown
                || match &run.outcome {
                    RunOutcome::Unknown => true,
                    RunOutcome::Starting { job, .. } => **job == JobRequest::Unknown,
                    RunOutcome::Begun { .. } | RunOutcome::Refused { .. } => false,
                }
        };
        self.job == JobRequest::Unknown || self.runs.iter().any(is_newer)
    }

    /// The run that was to be begun when its keeper or its replica ended, or is begun right now.
    pub fn starting_run(&self) -> Option<&ScheduleRun> {
        self.runs.iter().find(|run| matches!(run.outcome, RunOutcome::Starting { .. }))
    }
}

impl KvRecord for ScheduleRecord {
    const BUCKET: &'static str = "schedules";

    fn key(&self) -> String {
        schedule_key(&self.owner_key, &self.schedule_id.to_string())
    }

    fn expires_at_ms(&self) -> Option<u64> {
        match self.removed_at_ms {
            Some(removed_ms) => Some(removed_ms.saturating_add(REMOVED_KEPT_MS)),
            None => self.kept_until_ms,
        }
    }

    fn is_removed(&self) -> bool {
        self.removed_at_ms.is_some()
    }
}

/// Key of a schedule; either may be `*` where a filter is wanted.
pub fn schedule_key(owner_key: &str, schedule_id: &str) -> String {
    format!("{owner_key}.{schedule_id}")
}

macro_rules! schedule_event {
    ($(#[$doc:meta])* $name:ident, $verb:literal { $($(#[$field_attr:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// The schedule.
            pub schedule_id: ScheduleId,
            /// Whose it is.
            pub owner: String,
            $($(#[$field_attr])* pub $field: $type,)*
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = "schedule";
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.schedule_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), ..EventContext::default() }
            }
        }
    };
}

schedule_event! {
    /// Somebody made a schedule.
    ScheduleCreated, "created" {
        /// When it fires.
        timing: ScheduleTiming,
        /// What is done then.
        #[schemars(schema_with = "open_job_request")]
        job: JobRequest,
        /// Unix time in milliseconds of its first time.
        next_run_at_ms: Option<u64>,
        /// The account that did.
        created_by: String,
    }
}

schedule_event! {
    /// Somebody changed, paused or resumed a schedule; how it is now.
    ScheduleChanged, "changed" {
        /// When it fires.
        timing: ScheduleTiming,
        /// What becomes of times that passed.
        missed: MissedRunPolicy,
        /// What is done then.
        #[schemars(schema_with = "open_job_request")]
        job: JobRequest,
        /// True while it is paused.
        is_paused: bool,
        /// Unix time in milliseconds of its next time.
        next_run_at_ms: Option<u64>,
        /// The account that did.
        changed_by: String,
    }
}

schedule_event! {
    /// Somebody removed a schedule.
    ScheduleRemoved, "removed" {
        /// The account that did.
        removed_by: String,
    }
}

schedule_event! {
    /// A schedule fired: once for each of its times, and for each time that a person has it run.
    ScheduleFired, "fired" {
        /// Unix time in milliseconds for which it was planned.
        planned_at_ms: u64,
        /// Who set it off.
        trigger: RunTrigger,
        /// What is begun.
        #[schemars(schema_with = "open_job_request")]
        job: JobRequest,
        /// The account that had it run out of turn; absent where its time came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fired_by: Option<String>,
    }
}

schedule_event! {
    /// A run of a schedule came to no job.
    ScheduleRefused, "refused" {
        /// Unix time in milliseconds for which it was planned.
        planned_at_ms: u64,
        /// Why: a stable code.
        code: String,
        /// The same for people.
        detail: String,
    }
}

schedule_event! {
    /// Times of a schedule passed unused, and are not made up for.
    ScheduleMissed, "missed" {
        /// Unix time in milliseconds of the first of them.
        first_at_ms: u64,
        /// Unix time in milliseconds of the last of them.
        last_at_ms: u64,
    }
}
