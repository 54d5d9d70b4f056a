//! Another encode of a medium: one that goes on from a job that came to nothing, and one that takes the place of what plays.
//!
//! The medium decides: the compare-and-set that gives it a new attempt names the encode, and the planner makes its job.
//!
//! Limits: at most [`ENCODES_MAX`] encodes of a medium are looked at for the number of the next one.

use nats::{Bus, Outbox, VersionedRecord};
use packaging::plan;
use schemas::{
    encode::{EncodeSettings, SUPERSEDED_ENCODES_MAX},
    ids::{JobId, MediaId},
    job::{JobPartRecord, JobRecord, JobStatus},
    media::{self, MediaAttempt, MediaReopened, MediaStatus, ReopenStep},
    renditions::RenditionFile,
    schedule::ScheduledRun,
    subjects,
    upload::{UploadRecord, UploadStatus},
};
use store::Store;

use super::cancellation::cancel_paused_job;
use crate::{
    capacity::CapacityLimit,
    quotas::{QuotaConfig, give_back_encode, require_work_room},
};
use web::error::Problem;

/// Most encodes of a medium.
pub const ENCODES_MAX: u32 = 1_000;

/// What asking for another encode led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextEncode {
    /// It begins.
    Begun {
        /// Which attempt of the medium it is.
        attempt: u32,
        /// Number of the encode.
        encode: u32,
        /// The job, which is there once a worker has planned it.
        job_id: JobId,
    },
    /// Nothing is to be done; why.
    Superseded(&'static str),
}

/// Why there can't be another encode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NextEncodeError {
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Bus(#[from] nats::BusError),
    /// The store does not answer.
    #[error("the source can't be looked at")]
    Store(#[source] store::StoreError),
    /// The medium is not there any more.
    #[error("the medium {0} is not there any more")]
    UnknownMedium(MediaId),
    /// The source was removed: there is nothing to begin with.
    #[error("the source of {0} is gone; upload it again")]
    SourceGone(MediaId),
    /// The upload of a rendition has ended, or belongs to a final upload.
    #[error("the upload of the rendition {0} has ended; upload the files again")]
    RenditionGone(String),
    /// There is no number left for another encode.
    #[error("{0} has {ENCODES_MAX} encodes")]
    TooManyEncodes(MediaId),
    /// Its owner may not have it done.
    #[error("the owner's quota does not take it")]
    Quota(Box<Problem>),
    /// There is no room for what it makes.
    #[error("there is no room: {} is full", .0.name)]
    NoRoom(CapacityLimit),
    /// Those that it replaced are still played.
    #[error("{SUPERSEDED_ENCODES_MAX} replaced encodes of {0} wait for their sessions to end")]
    TooManySuperseded(MediaId),
}

impl NextEncodeError {
    /// What its owner may not have done, and why.
    pub(crate) fn refused_by_quota(problem: Problem) -> Self {
        Self::Quota(Box::new(problem))
    }

    /// A stable code; those that the API knows are spelled alike.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bus(error) => error.code(),
            Self::Store(_) => "store_unavailable",
            Self::UnknownMedium(_) => "not_found",
            Self::SourceGone(_) => "source_gone",
            Self::RenditionGone(_) => "renditions_invalid",
            Self::TooManyEncodes(_) => "encodes_too_many",
            Self::Quota(problem) => problem.code(),
            Self::NoRoom(limit) => limit.problem_code().code(),
            Self::TooManySuperseded(_) => "encodes_in_use",
        }
    }
}

/// How a job was asked for, for the one that goes on from it.
pub fn settings_of_job(job: &JobRecord) -> EncodeSettings {
    let profile = Some(job.plan.profile.clone()).filter(|name| !name.is_empty());
    let renditions = job.plan.copy.as_ref().map(|copy| copy.files.clone()).unwrap_or_default();
    EncodeSettings {
        profile,
        priority: job.priority,
        scheduled: None,
        range: job.plan.range,
        paused: false,
        renditions,
    }
}

/// Begins the encode behind number `ended` of the medium, which came to nothing.
///
/// # Errors
/// [`NextEncodeError`]; nothing has changed then.
pub async fn begin_next_encode(
    bus: &Bus,
    store: &Store,
    (media_id, ended): (MediaId, u32),
    settings: EncodeSettings,
) -> Result<NextEncode, NextEncodeError> {
    let held = load_reopenable(bus, media_id).await?;
    let record = &held.record;
    let newest = record.attempt.encode.max(ended);
    let job = find_job(bus, media_id, newest).await?;
    if is_being_encoded(record, newest, job.as_ref()) {
        return Ok(NextEncode::Superseded("it is being encoded"));
    }
    if job.is_some() && newest > ended {
        return Ok(NextEncode::Superseded("a newer encode was begun"));
    }
    match record.status {
        MediaStatus::Failed => {}
        MediaStatus::Ready if record.encode.as_ref().is_some_and(|encode| encode.number < ended) => {}
        MediaStatus::Ready => return Ok(NextEncode::Superseded("it is ready")),
        MediaStatus::Uploading | MediaStatus::Rejected => {
            return Ok(NextEncode::Superseded("it is not verified"));
        }
        MediaStatus::Stored | MediaStatus::Playable => {
            return Ok(NextEncode::Superseded("it is being encoded"));
        }
    }
    begin_encode(bus, store, held, settings).await
}

/// How long the job of an encode that was begun may be missing, in milliseconds: workers plan it when they come to it. Afterwards its
/// event was given up, or its record went with its age.
pub(crate) const PLANNING_MS_MAX: u64 = 3_600_000;

/// Begins another encode of a medium that was verified, whatever came of those before, for the account `asked_by`: also in place of one
/// that waits: the first one of a medium, which is paused and of which nothing was begun.
///
/// # Errors
/// [`NextEncodeError`]; nothing has changed then, but that what waited may be cancelled, as its medium says.
pub async fn begin_new_encode(
    bus: &Bus,
    store: &Store,
    (media_id, asked_by): (MediaId, &str),
    settings: EncodeSettings,
) -> Result<NextEncode, NextEncodeError> {
    let held = load_reopenable(bus, media_id).await?;
    let held = cancel_waiting_encode(bus, store, held, (&settings, asked_by)).await?;
    begin_encode_of(bus, store, held, settings).await
}

/// Ends what waits for another encode, if something does; answers the medium as it is then.
async fn cancel_waiting_encode(
    bus: &Bus,
    store: &Store,
    held: VersionedRecord<media::MediaRecord>,
    (settings, asked_by): (&EncodeSettings, &str),
) -> Result<VersionedRecord<media::MediaRecord>, NextEncodeError> {
    let Some(waiting) = find_waiting_encode(bus, &held.record).await? else { return Ok(held) };
    // Before anything ends: without these there is no other encode.
    if let Some(source) = &held.record.source {
        check_source(store, held.record.media_id, &source.key).await?;
    }
    keep_renditions(bus, &settings.renditions).await?;
    if cancel_paused_job(bus, waiting.job_id, asked_by).await? {
        give_back_encode(bus, &waiting).await;
    }
    load_reopenable(bus, held.record.media_id).await
}

/// The job of the newest encode of a medium that does not play, if it is paused and nothing of it was begun.
///
/// # Errors
/// When the broker does not answer.
async fn find_waiting_encode(
    bus: &Bus,
    record: &media::MediaRecord,
) -> Result<Option<JobRecord>, nats::BusError> {
    if record.status != MediaStatus::Stored {
        return Ok(None);
    }
    let job = find_job(bus, record.media_id, record.attempt.encode.max(1)).await?;
    let Some(job) = job.filter(JobRecord::is_paused) else { return Ok(None) };
    for part in &job.parts {
        if bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, part)).await?.is_some() {
            return Ok(None);
        }
    }
    Ok(Some(job))
}

/// Refuses an encode of a medium for which its owner has no room, by what [`require_work_room`] takes as `work`. One that takes the place
/// of an encode that waits needs none: that one counts already, and is given back.
///
/// # Errors
/// Those of [`require_work_room`]; that of a broker that does not answer.
pub(crate) async fn require_encode_room(
    bus: &Bus,
    quotas: &QuotaConfig,
    (record, owner): (Option<&media::MediaRecord>, &str),
    work: (Option<u64>, u64),
) -> Result<(), Problem> {
    if let Some(record) = record
        && find_waiting_encode(bus, record).await?.is_some()
    {
        return Ok(());
    }
    require_work_room(bus, quotas, owner, work).await
}

/// Begins what a run of a schedule of `owner` asks for, once: a medium that the run has reopened is left as it is. `attempt_before` is
/// the attempt at which the medium was when the schedule fired.
///
/// # Errors
/// [`NextEncodeError`]; nothing has changed then.
pub async fn begin_scheduled_encode(
    bus: &Bus,
    store: &Store,
    (media_id, owner, attempt_before): (MediaId, &str, u32),
    (run, settings): (ScheduledRun, EncodeSettings),
) -> Result<NextEncode, NextEncodeError> {
    let settings = EncodeSettings { scheduled: Some(run), ..settings };
    let mut tries = 0;
    loop {
        let held = load_reopenable(bus, media_id).await?;
        let attempt = held.record.attempt;
        if attempt.scheduled == Some(run) {
            let job_id = plan::derive_job_id(media_id, attempt.encode);
            return Ok(NextEncode::Begun { attempt: attempt.number, encode: attempt.encode, job_id });
        }
        if held.record.owner != owner {
            return Ok(NextEncode::Superseded("the medium belongs to somebody else now"));
        }
        if attempt.number != attempt_before {
            return Ok(match find_scheduled_job(bus, media_id, attempt.encode, run).await? {
                Some(job) => {
                    NextEncode::Begun { attempt: attempt.number, encode: job.encode, job_id: job.job_id }
                }
                None => NextEncode::Superseded("it was taken up again by others meanwhile"),
            });
        }
        let held = cancel_waiting_encode(bus, store, held, (&settings, owner)).await?;
        match begin_encode_of(bus, store, held, settings.clone()).await {
            // Also the keeper and a replica that begin the same run.
            Err(NextEncodeError::Bus(nats::BusError::Conflict { .. })) if tries < CONFLICTS_MAX => tries += 1,
            other => return other,
        }
    }
}

/// The job of a run among those of the newest encodes of a medium: others may have had it encoded since.
async fn find_scheduled_job(
    bus: &Bus,
    media_id: MediaId,
    newest: u32,
    run: ScheduledRun,
) -> Result<Option<JobRecord>, nats::BusError> {
    for encode in (1..=newest).rev().take(SCHEDULED_JOBS_MAX) {
        let job = find_job(bus, media_id, encode).await?;
        if let Some(job) = job.filter(|job| job.scheduled == Some(run)) {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// Most encodes among which that of a run is looked for.
const SCHEDULED_JOBS_MAX: usize = 16;

/// Most times that others may change a medium while a run begins.
const CONFLICTS_MAX: u32 = 8;

async fn begin_encode_of(
    bus: &Bus,
    store: &Store,
    held: VersionedRecord<media::MediaRecord>,
    settings: EncodeSettings,
) -> Result<NextEncode, NextEncodeError> {
    let record = &held.record;
    match record.status {
        MediaStatus::Ready | MediaStatus::Failed => {}
        MediaStatus::Uploading | MediaStatus::Rejected => {
            return Ok(NextEncode::Superseded("it is not verified"));
        }
        MediaStatus::Stored | MediaStatus::Playable => {
            return Ok(NextEncode::Superseded("it is being encoded"));
        }
    }
    let known = record.encode.as_ref().map_or(0, |encode| encode.number);
    let newest = record.attempt.encode.max(known).max(1);
    let job = find_job(bus, record.media_id, newest).await?;
    if is_being_encoded(record, newest, job.as_ref()) {
        return Ok(NextEncode::Superseded("it is being encoded"));
    }
    begin_encode(bus, store, held, settings).await
}

/// True while the newest encode of a medium is made, or waits to be planned; `job` is its job, if there is one.
fn is_being_encoded(record: &media::MediaRecord, newest: u32, job: Option<&JobRecord>) -> bool {
    let known = record.encode.as_ref().map_or(0, |encode| encode.number).max(1);
    match job {
        Some(job) => job.status == JobStatus::Active,
        // What failed has no job to wait for; what was begun, and never planned since its event was given up, is no obstacle.
        None if record.status == MediaStatus::Failed => false,
        None => newest > known && nats::now_ms() < record.changed_at_ms.saturating_add(PLANNING_MS_MAX),
    }
}

/// Begins the next encode of a medium on which nobody works.
async fn begin_encode(
    bus: &Bus,
    store: &Store,
    held: VersionedRecord<media::MediaRecord>,
    settings: EncodeSettings,
) -> Result<NextEncode, NextEncodeError> {
    let (record, media_id) = (&held.record, held.record.media_id);
    if record.superseded.len() >= SUPERSEDED_ENCODES_MAX {
        return Err(NextEncodeError::TooManySuperseded(media_id));
    }
    let (Some(source), Some(technical)) = (record.source.clone(), record.technical.clone()) else {
        return Err(NextEncodeError::SourceGone(media_id));
    };
    check_source(store, media_id, &source.key).await?;
    keep_renditions(bus, &settings.renditions).await?;
    let encode = next_encode_number(bus, record).await?;
    let status = if record.status == MediaStatus::Failed { MediaStatus::Stored } else { record.status };
    let step = ReopenStep::Encode { encode, source, technical: Box::new(technical), settings };
    let attempt = reopen_medium(bus, held, status, encode, step).await?;
    Ok(NextEncode::Begun { attempt, encode, job_id: plan::derive_job_id(media_id, encode) })
}

/// The record of a medium that is to be taken up again.
///
/// # Errors
/// [`NextEncodeError::UnknownMedium`] when it is gone; [`NextEncodeError::Bus`] when the broker does not answer.
pub async fn load_reopenable(
    bus: &Bus,
    media_id: MediaId,
) -> Result<VersionedRecord<media::MediaRecord>, NextEncodeError> {
    let found = bus.load_record::<media::MediaRecord>(&media_id.to_string()).await?;
    found.ok_or(NextEncodeError::UnknownMedium(media_id))
}

/// Looks whether the bytes of a medium are still there.
///
/// # Errors
/// [`NextEncodeError::SourceGone`] when they are not; [`NextEncodeError::Store`] when the store does not answer.
pub async fn check_source(store: &Store, media_id: MediaId, key: &str) -> Result<(), NextEncodeError> {
    match store.head(key).await {
        Ok(_) => Ok(()),
        Err(store::StoreError::NotFound { .. }) => Err(NextEncodeError::SourceGone(media_id)),
        Err(error) => Err(NextEncodeError::Store(error)),
    }
}

/// How long uploads of renditions are kept at least from when an encode of them begins, in milliseconds.
const RENDITIONS_KEPT_MS: u64 = 86_400_000;

/// Keeps the uploads of renditions for an encode of them, also for one that is tried again.
async fn keep_renditions(bus: &Bus, files: &[RenditionFile]) -> Result<(), NextEncodeError> {
    let until_ms = nats::now_ms().saturating_add(RENDITIONS_KEPT_MS);
    let is_free =
        |upload: &UploadRecord| upload.status == UploadStatus::Received && upload.final_upload_id().is_none();
    for file in files {
        let key = file.upload_id.to_string();
        let kept = bus.change_record::<UploadRecord>(&key, |found| {
            let record = found.filter(|upload| is_free(upload) && upload.expires_at_ms < until_ms)?;
            Some((UploadRecord { expires_at_ms: until_ms, ..record.clone() }, Outbox::new()))
        });
        if Box::pin(kept).await?.is_none_or(|held| !is_free(&held.record)) {
            return Err(NextEncodeError::RenditionGone(file.name.clone()));
        }
    }
    Ok(())
}

/// A number that no encode of the medium ever had.
async fn next_encode_number(bus: &Bus, record: &media::MediaRecord) -> Result<u32, NextEncodeError> {
    let known = record.attempt.encode.max(record.encode.as_ref().map_or(0, |encode| encode.number)).max(1);
    for number in known.saturating_add(1)..=ENCODES_MAX {
        if find_job(bus, record.media_id, number).await?.is_none() {
            return Ok(number);
        }
    }
    Err(NextEncodeError::TooManyEncodes(record.media_id))
}

/// The job of an encode, if it was planned.
async fn find_job(bus: &Bus, media_id: MediaId, encode: u32) -> Result<Option<JobRecord>, nats::BusError> {
    let key = plan::derive_job_id(media_id, encode).to_string();
    let held = bus.load_record::<JobRecord>(&key).await?;
    // What is begun anew has a trace of its own.
    nats::spans::link_current(held.as_ref().and_then(nats::VersionedRecord::trace));
    Ok(held.map(|held| held.record))
}

/// Gives a medium its next attempt, which begins with `step`; answers its number.
///
/// # Errors
/// [`NextEncodeError::Bus`] when somebody else was first, or the broker does not answer.
pub async fn reopen_medium(
    bus: &Bus,
    mut held: VersionedRecord<media::MediaRecord>,
    status: MediaStatus,
    encode: u32,
    step: ReopenStep,
) -> Result<u32, NextEncodeError> {
    let record = &mut held.record;
    let (media_id, attempt) = (record.media_id, record.attempt.number.saturating_add(1));
    if status != MediaStatus::Ready {
        (record.code, record.detail) = (None, None);
    }
    record.status = status;
    record.waiting = None;
    let scheduled = match &step {
        ReopenStep::Encode { settings, .. } => settings.scheduled,
        _ => None,
    };
    record.attempt = MediaAttempt { number: attempt, faults: 0, encode, scheduled };
    record.changed_at_ms = nats::now_ms();
    let event = MediaReopened { media_id, owner: record.owner.clone(), attempt, step };
    bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    Ok(attempt)
}
