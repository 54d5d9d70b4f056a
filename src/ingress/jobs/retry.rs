//! Another encode of a medium whose last one came to nothing: a new job, which begins with what a failed one had made.
//!
//! The medium decides: the compare-and-set that gives it a new attempt names the encode, and the planner makes its job.
//!
//! Limits: at most [`ENCODES_MAX`] encodes of a medium are looked at for the number of the next one.

use nats::{Bus, Outbox, VersionedRecord};
use packaging::plan;
use schemas::{
    ids::{JobId, MediaId},
    job::{JobRecord, JobStatus},
    media::{self, MediaAttempt, MediaReopened, MediaStatus, ReopenStep},
};
use store::Store;

/// Most encodes of a medium.
pub const ENCODES_MAX: u32 = 1_000;

/// What asking for another encode led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextEncode {
    /// It begins.
    Begun {
        /// Which attempt of the medium it is.
        attempt: u32,
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
    /// There is no number left for another encode.
    #[error("{0} has {ENCODES_MAX} encodes")]
    TooManyEncodes(MediaId),
}

impl NextEncodeError {
    /// A stable code; those that the API knows are spelled alike.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bus(error) => error.code(),
            Self::Store(_) => "store_unavailable",
            Self::UnknownMedium(_) => "not_found",
            Self::SourceGone(_) => "source_gone",
            Self::TooManyEncodes(_) => "encodes_too_many",
        }
    }
}

/// Begins the encode behind number `ended`, which came to nothing.
///
/// # Errors
/// [`NextEncodeError`]; nothing has changed then.
pub async fn begin_next_encode(
    bus: &Bus,
    store: &Store,
    media_id: MediaId,
    ended: u32,
) -> Result<NextEncode, NextEncodeError> {
    let held = load_reopenable(bus, media_id).await?;
    let record = &held.record;
    match find_job(bus, media_id, record.attempt.encode.max(ended)).await?.map(|job| job.status) {
        Some(JobStatus::Active) => return Ok(NextEncode::Superseded("it is being encoded")),
        Some(_) if record.attempt.encode > ended => {
            return Ok(NextEncode::Superseded("a newer encode was begun"));
        }
        // One that was begun and never planned, since its event was given up, is no obstacle.
        Some(_) | None => {}
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
    let (Some(source), Some(technical)) = (record.source.clone(), record.technical.clone()) else {
        return Err(NextEncodeError::SourceGone(media_id));
    };
    check_source(store, media_id, &source.key).await?;
    let encode = next_encode_number(bus, record).await?;
    let status = if record.status == MediaStatus::Failed { MediaStatus::Stored } else { record.status };
    let step = ReopenStep::Encode { encode, source, technical: Box::new(technical) };
    let attempt = reopen_medium(bus, held, status, encode, step).await?;
    Ok(NextEncode::Begun { attempt, job_id: plan::derive_job_id(media_id, encode) })
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
    Ok(bus.load_record::<JobRecord>(&key).await?.map(|held| held.record))
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
    record.attempt = MediaAttempt { number: attempt, faults: 0, encode };
    record.changed_at_ms = nats::now_ms();
    let event = MediaReopened { media_id, owner: record.owner.clone(), attempt, step };
    bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    Ok(attempt)
}
