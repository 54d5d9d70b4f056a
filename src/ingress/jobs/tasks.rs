//! Jobs that make no encode: begun by their record alone, which has its one part in it.
//!
//! Beginning one is idempotent by its id: who repeats a request, a retry or the run of a schedule finds what the first one began. A
//! medium is verified by one job at a time: who asks while it is gets that one.
//!
//! Limits: of a medium the newest verification is kept as other jobs are, those before it for [`PREVIOUS_KEPT_MS`] more.

use nats::{Bus, BusError, Outbox, VersionedRecord};
use packaging::plan;
use schemas::{
    KvRecord as _,
    export::{ExportFile, ExportOrder},
    ids::{JobId, MediaId},
    job::{self, EncodePlan, JobKind, JobQueued, JobRecord, JobStatus},
    media::{MediaRecord, MediaStatus},
    schedule::{JobRequest, ScheduledRun, VerifyJobRequest},
    subjects::{self, JobPriority},
    thumbnails::ThumbnailOrder,
};

use super::retry::NextEncodeError;

/// A job that makes no encode, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRequest {
    /// Its kind, such as [`job::VERIFY`].
    pub kind: &'static str,
    /// The medium it is about.
    pub media_id: MediaId,
    /// Priority of its part.
    pub priority: JobPriority,
    /// What one of the kind [`job::THUMBNAILS`] makes.
    pub thumbnails: Option<ThumbnailOrder>,
    /// What one of the kind [`job::EXPORT`] sends, and where.
    pub export: Option<ExportOrder>,
}

impl TaskRequest {
    /// One of this kind that says no more.
    pub const fn new(kind: &'static str, media_id: MediaId, priority: JobPriority) -> Self {
        Self { kind, media_id, priority, thumbnails: None, export: None }
    }

    /// What a request asks for; `None` when it is for an encode, or of a kind that this version does not know.
    pub fn of(request: &JobRequest) -> Option<Self> {
        match request {
            JobRequest::Verify(VerifyJobRequest { media_id, priority }) => {
                Some(Self::new(job::VERIFY, *media_id, *priority))
            }
            JobRequest::Thumbnails(wanted) => Some(Self {
                thumbnails: Some(wanted.order()),
                ..Self::new(job::THUMBNAILS, wanted.media_id, wanted.priority)
            }),
            // Only a person asks for it: its address is in no other record.
            JobRequest::Export(_) | JobRequest::Transcode(_) | JobRequest::Unknown => None,
        }
    }

    /// What a job that came to nothing was asked for, for another try.
    ///
    /// # Errors
    /// Why there is none, and what to do instead, for people. Also for a job that made an encode: the next one goes on from it.
    pub fn of_job(record: &JobRecord) -> Result<Self, &'static str> {
        let kind = match JobKind::parse(&record.kind) {
            Some(JobKind::Verify) => job::VERIFY,
            Some(JobKind::Thumbnails) => job::THUMBNAILS,
            Some(JobKind::Transcode) => {
                return Err("ask for an encode: it goes on from the one that came to nothing");
            }
            Some(JobKind::JobAction) => {
                return Err("ask for the action anew: the jobs of its filter are others now");
            }
            Some(JobKind::Export) => {
                return Err("ask for the export anew: the address of an ended one is not kept");
            }
            // Its upload has ended, too.
            Some(JobKind::Fetch) => {
                return Err("ask for the medium anew: the address of an ended one is not kept");
            }
            None => return Err("only another version knows its kind"),
        };
        Ok(Self {
            thumbnails: record.thumbnails.clone(),
            ..Self::new(kind, record.media_id, record.priority)
        })
    }
}

/// Where a job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskOrigin<'a> {
    /// Whose the medium has to be; anybody's when absent, for those who have asked for that before.
    pub owner: Option<&'a str>,
    /// The run of a schedule that asks for it.
    pub scheduled: Option<ScheduledRun>,
    /// The job that came to nothing, of which it is another try.
    pub retry_of: Option<JobId>,
}

impl TaskOrigin<'_> {
    /// The request of a person who may have it done.
    pub const PERSON: Self = Self { owner: None, scheduled: None, retry_of: None };
}

/// What asking for a job led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskBeginning {
    /// It is there.
    Begun(Box<JobRecord>),
    /// It was there before; or there is another one that does the same for the same medium, and has not ended.
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
    origin: TaskOrigin<'_>,
) -> Result<TaskBeginning, NextEncodeError> {
    let TaskRequest { kind, media_id, priority, thumbnails, export } = request;
    if let Some(found) = load_job(bus, job_id).await? {
        return Ok(TaskBeginning::Found(Box::new(found)));
    }
    let held = bus.load_record::<MediaRecord>(&media_id.to_string()).await?;
    let held = held.ok_or(NextEncodeError::UnknownMedium(media_id))?;
    if origin.owner.is_some_and(|owner| owner != held.record.owner) {
        return Ok(TaskBeginning::Refused("the medium belongs to somebody else now"));
    }
    let described = match (&thumbnails, &export) {
        (Some(order), _) => describe_pictures(&held.record, order),
        (_, Some(ExportOrder { file: ExportFile::Mp4, .. })) => describe_encode(&held.record),
        _ => describe_source(&held.record)
            .ok_or("it is not verified, waits for its first encode, or its source was removed"),
    };
    let plan = match described {
        Ok(plan) => plan,
        Err(why) => return Ok(TaskBeginning::Refused(why)),
    };
    let owner = held.record.owner.clone();
    let (other, previous) = match kind {
        job::VERIFY => take_place(bus, &held.record, job_id).await?,
        _ => (None, None),
    };
    if let Some(found) = other {
        return Ok(TaskBeginning::Found(Box::new(found)));
    }
    // The broker's clock, as everywhere in the record.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let total_ms = plan.duration_ms;
    let record = JobRecord {
        scheduled: origin.scheduled,
        retry_of: origin.retry_of,
        thumbnails,
        export: export.map(Box::new),
        ..JobRecord::new_task(job_id, kind, (media_id, &owner), (plan, priority), now_ms)
    };
    let queued = JobQueued { job_id, media_id, owner, kind: kind.to_owned(), part_count: 1, total_ms };
    let mut held = VersionedRecord::new(record);
    match bus.commit_record(&mut held, Outbox::new().with_event(&queued)).await {
        Ok(()) => {
            if let Some(previous) = previous
                && let Err(error) = shorten_previous(bus, previous, now_ms).await
            {
                tracing::debug!(%error, job.id = %previous, "it is kept as long as others");
            }
            Ok(TaskBeginning::Begun(Box::new(held.record)))
        }
        Err(error @ BusError::Conflict { .. }) => match load_job(bus, job_id).await? {
            Some(found) => Ok(TaskBeginning::Found(Box::new(found))),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Makes the job the one that verifies its medium; answers another one that does so and is to be run, or else the one that did before.
async fn take_place(
    bus: &Bus,
    medium: &MediaRecord,
    job_id: JobId,
) -> Result<(Option<JobRecord>, Option<JobId>), NextEncodeError> {
    let previous = medium.verification.filter(|previous| *previous != job_id);
    if let Some(previous) = previous {
        // One that is paused, or somebody else's from before, must not keep the owner from knowing.
        let goes_on = |job: &JobRecord| job.is_to_be_run() && job.owner == medium.owner;
        if let Some(found) = load_job(bus, previous).await?.filter(goes_on) {
            return Ok((Some(found), None));
        }
    }
    // Stages change the record, too.
    let (key, judged) = (medium.media_id.to_string(), medium.verification);
    let taken = bus.change_record::<MediaRecord>(&key, |found| {
        let medium = found.filter(|medium| medium.verification == judged)?;
        Some((MediaRecord { verification: Some(job_id), ..medium.clone() }, Outbox::new()))
    });
    let held = Box::pin(taken).await?.ok_or(NextEncodeError::UnknownMedium(medium.media_id))?;
    match held.record.verification.filter(|other| *other != job_id) {
        Some(other) => Ok((load_job(bus, other).await?, None)),
        None => Ok((None, previous)),
    }
}

/// Keeps a job that another one has followed for [`PREVIOUS_KEPT_MS`] from `now_ms` on, if it found nothing wrong: who has a medium
/// verified again and again fills the bucket of all jobs otherwise.
async fn shorten_previous(bus: &Bus, previous: JobId, now_ms: u64) -> Result<(), BusError> {
    let until_ms = now_ms.saturating_add(PREVIOUS_KEPT_MS);
    bus.change_record::<JobRecord>(&previous.to_string(), |found| {
        let is_longer = |job: &&JobRecord| job.kept_until_ms.is_none_or(|kept_ms| kept_ms > until_ms);
        let record = found.filter(|job| job.status == JobStatus::Succeeded).filter(is_longer)?;
        Some((JobRecord { kept_until_ms: Some(until_ms), ..record.clone() }, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// How long the job is kept that verified a medium before another one did, in milliseconds: an hour. Its events are kept as others are.
pub const PREVIOUS_KEPT_MS: u64 = 3_600_000;

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
    let origin = TaskOrigin { owner: Some(&ended.owner), scheduled: None, retry_of: Some(ended.job_id) };
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
    let seed: [&[u8]; 3] = [b"schedule", run.schedule_id.as_bytes(), &run.planned_at_ms.to_be_bytes()];
    let job_id = plan::derive_task_id(request.media_id, &seed);
    begin_task(bus, job_id, request, TaskOrigin { owner: Some(owner), scheduled: Some(run), retry_of: None })
        .await
}

async fn load_job(bus: &Bus, job_id: JobId) -> Result<Option<JobRecord>, BusError> {
    let held = bus.load_record::<JobRecord>(&job_id.to_string()).await?;
    nats::spans::link_current(held.as_ref().and_then(nats::VersionedRecord::trace));
    Ok(held.map(|held| held.record))
}

/// What is sent as one file: the best pictures of the encode that plays, and some of its sound, by whose bytes it counts.
fn describe_encode(medium: &MediaRecord) -> Result<EncodePlan, &'static str> {
    let encode = medium.encode.as_ref().filter(|_| medium.status == MediaStatus::Ready);
    let encode = encode.ok_or("it is not ready: wait for media.ready")?;
    let largest = |is_picture: bool| {
        let found = encode.renditions.iter().filter(|rendition| (rendition.width > 0) == is_picture);
        found.map(|rendition| rendition.size_bytes).max().unwrap_or_default()
    };
    let source_bytes = largest(true).saturating_add(largest(false));
    Ok(EncodePlan { source_bytes, duration_ms: encode.duration_ms, ..EncodePlan::default() })
}

/// Of what pictures are made: the encode that plays.
fn describe_pictures(medium: &MediaRecord, order: &ThumbnailOrder) -> Result<EncodePlan, &'static str> {
    let encode = medium.encode.as_ref().filter(|_| medium.status == MediaStatus::Ready);
    let encode = encode.ok_or("it is not ready: wait for media.ready")?;
    if encode.renditions.iter().all(|rendition| rendition.width == 0) {
        return Err("it has no moving pictures");
    }
    if order.times_ms.iter().any(|at_ms| *at_ms >= encode.duration_ms.max(1)) {
        return Err("a time lies behind its end");
    }
    Ok(EncodePlan { duration_ms: encode.duration_ms, ..EncodePlan::default() })
}

/// What is read of a medium; `None` when nothing verified is kept of it, or it is about to be encoded for the first time.
fn describe_source(medium: &MediaRecord) -> Option<EncodePlan> {
    // Of one that was stored a moment ago there is nothing to be said; versions of before would fail it with a job of it that is
    // cancelled.
    let is_settled =
        matches!(medium.status, MediaStatus::Playable | MediaStatus::Ready | MediaStatus::Failed);
    let source = medium.kept_source().filter(|_| is_settled)?;
    Some(EncodePlan {
        source_key: source.key.clone(),
        source_bytes: source.size_bytes,
        duration_ms: medium.technical.as_ref().map_or(0, |technical| technical.duration_ms),
        ..EncodePlan::default()
    })
}
