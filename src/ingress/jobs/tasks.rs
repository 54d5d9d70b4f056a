//! Jobs that make no encode: begun by their record alone, which has its one part in it.
//!
//! Beginning one is idempotent by its id: who repeats a request, a retry or the run of a schedule finds what the first one began.

use nats::{Bus, BusError, Outbox, VersionedRecord};
use packaging::plan;
use schemas::{
    ids::{JobId, MediaId},
    job::{self, EncodePlan, JobQueued, JobRecord},
    media::{MediaRecord, MediaStatus},
    schedule::{JobRequest, ScheduledRun, VerifyJobRequest},
    subjects::{self, JobPriority},
};

use super::retry::NextEncodeError;

/// A job that makes no encode, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRequest {
    /// Its kind, such as [`job::VERIFY`].
    pub kind: &'static str,
    /// The medium it is about.
    pub media_id: MediaId,
    /// Priority of its part.
    pub priority: JobPriority,
}

impl TaskRequest {
    /// What a request asks for; `None` when it is for an encode, or of a kind that this version does not know.
    pub fn of(request: &JobRequest) -> Option<Self> {
        match request {
            JobRequest::Verify(VerifyJobRequest { media_id, priority }) => {
                Some(Self { kind: job::VERIFY, media_id: *media_id, priority: *priority })
            }
            JobRequest::Transcode(_) | JobRequest::Unknown => None,
        }
    }

    /// What a job that came to nothing was asked for; `None` when it made an encode, or is of a kind that this version does not know.
    pub fn of_job(record: &JobRecord) -> Option<Self> {
        let kind = [job::VERIFY].into_iter().find(|kind| *kind == record.kind)?;
        Some(Self { kind, media_id: record.media_id, priority: record.priority })
    }
}

/// Where a job comes from, beside a person's request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskOrigin {
    /// The run of a schedule that asks for it.
    pub scheduled: Option<ScheduledRun>,
    /// The job that came to nothing, of which it is another try.
    pub retry_of: Option<JobId>,
}

/// What asking for a job led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskBeginning {
    /// It is there.
    Begun(Box<JobRecord>),
    /// It was there before, with this id.
    Found(Box<JobRecord>),
    /// There is nothing to do it with; why.
    Refused(&'static str),
}

/// Begins a job with this id.
///
/// # Errors
/// [`NextEncodeError::UnknownMedium`]; [`NextEncodeError::Bus`], after which it may have begun or not.
pub async fn begin_task(
    bus: &Bus,
    job_id: JobId,
    request: TaskRequest,
    origin: TaskOrigin,
) -> Result<TaskBeginning, NextEncodeError> {
    let TaskRequest { kind, media_id, priority } = request;
    if let Some(found) = load_job(bus, job_id).await? {
        return Ok(TaskBeginning::Found(Box::new(found)));
    }
    let medium = bus.load_record::<MediaRecord>(&media_id.to_string()).await?;
    let medium = medium.ok_or(NextEncodeError::UnknownMedium(media_id))?.record;
    let Some(plan) = describe_source(&medium) else {
        return Ok(TaskBeginning::Refused(
            "it is not verified, waits for its first encode, or its source was removed",
        ));
    };
    // The broker's clock, as everywhere in the record.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(job_bucket())).await?;
    let total_ms = plan.duration_ms;
    let record = JobRecord {
        scheduled: origin.scheduled,
        retry_of: origin.retry_of,
        ..JobRecord::new_task(job_id, kind, (media_id, &medium.owner), (plan, priority), now_ms)
    };
    let queued =
        JobQueued { job_id, media_id, owner: medium.owner, kind: kind.to_owned(), part_count: 1, total_ms };
    let mut held = VersionedRecord::new(record);
    match bus.commit_record(&mut held, Outbox::new().with_event(&queued)).await {
        Ok(()) => Ok(TaskBeginning::Begun(Box::new(held.record))),
        Err(error @ BusError::Conflict { .. }) => match load_job(bus, job_id).await? {
            Some(found) => Ok(TaskBeginning::Found(Box::new(found))),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Tries a job again that came to nothing: once, however often it is asked for.
///
/// # Errors
/// As [`begin_task`].
pub async fn retry_task(
    bus: &Bus,
    ended: &JobRecord,
    request: TaskRequest,
) -> Result<TaskBeginning, NextEncodeError> {
    let job_id = plan::derive_task_id(request.media_id, &[b"retry", ended.job_id.as_bytes()]);
    let origin = TaskOrigin { retry_of: Some(ended.job_id), scheduled: None };
    begin_task(bus, job_id, request, origin).await
}

/// Begins the job of a run of a schedule of `owner`: once, however often it is begun.
///
/// # Errors
/// As [`begin_task`].
pub async fn begin_scheduled_task(
    bus: &Bus,
    owner: &str,
    run: ScheduledRun,
    request: TaskRequest,
) -> Result<TaskBeginning, NextEncodeError> {
    let medium = bus.load_record::<MediaRecord>(&request.media_id.to_string()).await?;
    if medium.is_some_and(|medium| medium.record.owner != owner) {
        return Ok(TaskBeginning::Refused("the medium belongs to somebody else now"));
    }
    let seed: [&[u8]; 3] = [b"schedule", run.schedule_id.as_bytes(), &run.planned_at_ms.to_be_bytes()];
    let job_id = plan::derive_task_id(request.media_id, &seed);
    begin_task(bus, job_id, request, TaskOrigin { scheduled: Some(run), retry_of: None }).await
}

fn job_bucket() -> &'static str {
    <JobRecord as schemas::KvRecord>::BUCKET
}

async fn load_job(bus: &Bus, job_id: JobId) -> Result<Option<JobRecord>, BusError> {
    Ok(bus.load_record::<JobRecord>(&job_id.to_string()).await?.map(|held| held.record))
}

/// What is read of a medium; `None` when nothing verified is kept of it, or it is about to be encoded for the first time.
fn describe_source(medium: &MediaRecord) -> Option<EncodePlan> {
    // Of one that was stored a moment ago there is nothing to be said; versions of before would fail it with a job of it that is
    // cancelled.
    let is_settled =
        matches!(medium.status, MediaStatus::Playable | MediaStatus::Ready | MediaStatus::Failed);
    let is_kept = is_settled && medium.source_removed_at_ms.is_none();
    let source = medium.source.as_ref().filter(|_| is_kept)?;
    Some(EncodePlan {
        source_key: source.key.clone(),
        source_bytes: source.size_bytes,
        duration_ms: medium.technical.as_ref().map_or(0, |technical| technical.duration_ms),
        ..EncodePlan::default()
    })
}
