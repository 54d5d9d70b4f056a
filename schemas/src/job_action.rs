//! One action on all jobs of a filter: itself a job, of the kind [`crate::job::JOB_ACTION`], whose record says what was asked for and
//! what came of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{JobId, MediaId},
    job::{JobRecord, JobStatus},
    pause::NAME_CHARS_MAX,
    subjects::JobPriority,
};

/// Most refusals that a [`JobActionReport`] names.
pub const REFUSALS_MAX: usize = 50;

/// Longest code and longest kind that a filter names, in characters.
pub const CODE_CHARS_MAX: usize = 64;

/// What is done with each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
// With braces: of a variant without, serde takes members that nobody reads.
pub enum JobAction {
    /// Cancels it.
    Cancel {},
    /// Tries it again, once it has failed or was cancelled.
    Retry {},
    /// Begins none of its parts until it is resumed.
    Pause {},
    /// Lets it go on.
    Resume {},
    /// Has it wait at another priority.
    Prioritize {
        /// The priority.
        priority: JobPriority,
    },
}

impl JobAction {
    /// Whether it can be done with jobs that stand there.
    pub const fn takes(self, status: JobStatus) -> bool {
        match self {
            Self::Cancel {} | Self::Pause {} | Self::Resume {} | Self::Prioritize { .. } => {
                matches!(status, JobStatus::Active)
            }
            Self::Retry {} => matches!(status, JobStatus::Failed | JobStatus::Cancelled),
        }
    }

    /// Where jobs stand with which it is done if the filter does not say so.
    pub const fn usual_status(self) -> JobStatus {
        match self {
            Self::Cancel {} | Self::Pause {} | Self::Resume {} | Self::Prioritize { .. } => JobStatus::Active,
            Self::Retry {} => JobStatus::Failed,
        }
    }
}

/// Which jobs: those of which all that is named is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct JobFilter {
    /// Only jobs of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = NAME_CHARS_MAX))]
    pub owner: Option<String>,
    /// Only jobs on this medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
    /// Only jobs of this kind, such as `transcode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = CODE_CHARS_MAX))]
    pub kind: Option<String>,
    /// Only jobs that stand there; where it is absent, active jobs, and failed ones where they are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
    /// Only jobs that failed with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = CODE_CHARS_MAX))]
    pub code: Option<String>,
    /// Only jobs of this priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<JobPriority>,
    /// Only jobs that were asked for at this time or later: Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from_ms: Option<u64>,
    /// Only jobs that were asked for before this time: Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_until_ms: Option<u64>,
}

impl JobFilter {
    /// True when a job is one of those, apart from where it stands.
    pub fn matches(&self, job: &JobRecord) -> bool {
        let Self { owner, media_id, kind, status: _, code, priority, created_from_ms, created_until_ms } =
            self;
        owner.as_ref().is_none_or(|owner| *owner == job.owner)
            && media_id.is_none_or(|media_id| media_id == job.media_id)
            && kind.as_ref().is_none_or(|kind| *kind == job.kind)
            && code.as_ref().is_none_or(|code| job.code.as_ref() == Some(code))
            && priority.is_none_or(|priority| priority == job.priority)
            && created_from_ms.is_none_or(|from_ms| job.created_at_ms >= from_ms)
            && created_until_ms.is_none_or(|until_ms| job.created_at_ms < until_ms)
    }
}

/// An action that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobActionOrder {
    /// What is done with each job.
    pub action: JobAction,
    /// With which.
    pub filter: JobFilter,
    /// Nothing is changed: the report says what would be.
    pub is_dry_run: bool,
    /// The account that asked for it.
    pub asked_by: String,
    /// Jobs of this owner alone, who asked for it; of everybody where an admin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_owner: Option<String>,
}

impl JobActionOrder {
    /// Where jobs stand with which it is done.
    pub fn status(&self) -> JobStatus {
        self.filter.status.unwrap_or(self.action.usual_status())
    }

    /// True when something is to be done with `job`: one of the filter, which this action's own job `by` is not, nor what came later.
    pub fn matches(&self, job: &JobRecord, by: &JobRecord) -> bool {
        job.job_id != by.job_id
            && job.created_at_ms <= by.created_at_ms
            && job.status == self.status()
            && self.only_owner.as_ref().is_none_or(|owner| *owner == job.owner)
            && self.filter.matches(job)
    }
}

/// What an action came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobActionReport {
    /// Jobs of the filter.
    pub matched: u64,
    /// Jobs that were changed, or that would be in a dry run.
    pub changed: u64,
    /// Jobs that were as they should be.
    pub unchanged: u64,
    /// Jobs with which it could not be done.
    pub refused: u64,
    /// The first of them, at most [`REFUSALS_MAX`].
    pub first_refusals: Vec<JobActionRefusal>,
}

impl JobActionReport {
    /// Counts one job.
    pub fn count(&mut self, job_id: JobId, outcome: JobActionOutcome) {
        self.matched += 1;
        match outcome {
            JobActionOutcome::Changed => self.changed += 1,
            JobActionOutcome::Unchanged => self.unchanged += 1,
            JobActionOutcome::Refused { code, detail } => {
                self.refused += 1;
                if self.first_refusals.len() < REFUSALS_MAX {
                    self.first_refusals.push(JobActionRefusal { job_id, code, detail });
                }
            }
        }
    }
}

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobActionOutcome {
    /// It was changed.
    Changed,
    /// It was so before.
    Unchanged,
    /// It can't be done.
    Refused {
        /// A stable code.
        code: String,
        /// The same for people.
        detail: String,
    },
}

/// A job with which an action could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobActionRefusal {
    /// The job.
    pub job_id: JobId,
    /// Why: a stable code, that of the same request about this job alone.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// How far an action is: what came of the pages of the list that were done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobActionProgress {
    /// Where the list goes on; absent before its first page is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Jobs of the page behind it that are done already: a page that an outage cut off is begun again without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<JobId>,
    /// What came of all that is done.
    pub report: JobActionReport,
}
