//! A second chance for what was given up. Nothing is published a second time: a medium begins a new attempt, whose event its
//! stages receive; a failed encode becomes a new job; a part that was put aside goes back to its queue.
//!
//! Limits: at most [`ENCODES_MAX`] encodes of a medium are looked at for the number of the next one.

use nats::{Bus, Outbox, VersionedRecord, dead_letter::DeadLetter};
use packaging::plan;
use schemas::{
    BusEvent as _,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartTask},
    media::{self, MediaAttempt, MediaReopened, MediaStatus, ReopenStep},
    subjects,
    upload::UploadReceived,
};
use store::Store;

/// Most encodes of a medium.
pub const ENCODES_MAX: u32 = 1_000;

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedriveOutcome {
    /// Its medium is taken up again.
    Reopened {
        /// The medium.
        media_id: MediaId,
        /// Which attempt begins.
        attempt: u32,
    },
    /// A part that was put aside is in its queue again.
    Resumed {
        /// The job.
        job_id: JobId,
        /// The part.
        part: String,
    },
    /// Nothing was to be done; why.
    Superseded(&'static str),
}

/// Why a letter can't have a second chance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedriveError {
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Bus(#[from] nats::BusError),
    /// The store does not answer.
    #[error("the source can't be looked at")]
    Store(#[from] store::StoreError),
    /// The letter holds what its stage does not take.
    #[error("the letter can't be read, and would be given up again")]
    Unreadable,
    /// The medium, or the job, is not there any more.
    #[error("{0} is not there any more")]
    Unknown(String),
    /// The source was removed: there is nothing to begin with.
    #[error("the source of {0} is gone; upload it again")]
    SourceGone(MediaId),
    /// A person ended it.
    #[error("the job {0} was cancelled")]
    Cancelled(JobId),
    /// There is no number left for another encode.
    #[error("{0} has {ENCODES_MAX} encodes")]
    TooManyEncodes(MediaId),
}

impl RedriveError {
    /// A stable code; those that the API knows are spelled alike.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bus(error) => error.code(),
            Self::Store(_) => "store_unavailable",
            Self::Unreadable => "letter_unreadable",
            Self::Unknown(_) => "not_found",
            Self::SourceGone(_) => "source_gone",
            Self::Cancelled(_) => "job_cancelled",
            Self::TooManyEncodes(_) => "encodes_too_many",
        }
    }
}

/// Gives a letter its second chance.
///
/// # Errors
/// [`RedriveError`]; nothing has changed then.
pub async fn redrive_letter(
    bus: &Bus,
    store: &Store,
    letter: &DeadLetter,
) -> Result<RedriveOutcome, RedriveError> {
    let site = LetterRedriver { bus, store };
    if letter.stream == subjects::JOBS {
        let task: JobPartTask = decode_letter(letter)?;
        return site.redrive_part(&task).await;
    }
    let (entity, verb, _) = subjects::parse_event_subject(&letter.subject).ok_or(RedriveError::Unreadable)?;
    if (entity, verb) == (UploadReceived::ENTITY, UploadReceived::VERB) {
        return site.redrive_verification(decode_letter(letter)?).await;
    }
    if (entity, verb) == (MediaReopened::ENTITY, MediaReopened::VERB) {
        let reopened: MediaReopened = decode_letter(letter)?;
        return match reopened.step {
            ReopenStep::Verify { received } => site.redrive_verification(*received).await,
            ReopenStep::Encode { encode, .. } => site.redrive_encode(reopened.media_id, encode).await,
            ReopenStep::Describe => site.redrive_description(reopened.media_id).await,
        };
    }
    if (entity, verb) == (media::MediaStored::ENTITY, media::MediaStored::VERB) {
        let stored: media::MediaStored = decode_letter(letter)?;
        return match letter.stage.as_str() {
            transcode::PLAN_DURABLE => site.redrive_encode(stored.media_id, 1).await,
            _ => site.redrive_description(stored.media_id).await,
        };
    }
    if (entity, verb) == (media::MediaReady::ENTITY, media::MediaReady::VERB) {
        let ready: media::MediaReady = decode_letter(letter)?;
        return site.redrive_description(ready.media_id).await;
    }
    Err(RedriveError::Unreadable)
}

fn decode_letter<T: serde::de::DeserializeOwned>(letter: &DeadLetter) -> Result<T, RedriveError> {
    nats::decode_message(&letter.subject, &letter.payload).map_err(|_| RedriveError::Unreadable)
}

struct LetterRedriver<'a> {
    bus: &'a Bus,
    store: &'a Store,
}

impl LetterRedriver<'_> {
    async fn load_medium(
        &self,
        media_id: MediaId,
    ) -> Result<VersionedRecord<media::MediaRecord>, RedriveError> {
        let found = self.bus.load_record::<media::MediaRecord>(&media_id.to_string()).await?;
        found.ok_or_else(|| RedriveError::Unknown(format!("the medium {media_id}")))
    }

    async fn check_source(&self, media_id: MediaId, key: &str) -> Result<(), RedriveError> {
        match self.store.head(key).await {
            Ok(_) => Ok(()),
            Err(store::StoreError::NotFound { .. }) => Err(RedriveError::SourceGone(media_id)),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes that could not be verified.
    async fn redrive_verification(&self, received: UploadReceived) -> Result<RedriveOutcome, RedriveError> {
        let held = self.load_medium(received.media_id).await?;
        match held.record.status {
            MediaStatus::Rejected => {}
            MediaStatus::Uploading => return Ok(RedriveOutcome::Superseded("it is being verified")),
            MediaStatus::Stored | MediaStatus::Playable | MediaStatus::Ready | MediaStatus::Failed => {
                return Ok(RedriveOutcome::Superseded("it was verified since"));
            }
        }
        if held.record.source_removed_at_ms.is_some() {
            return Err(RedriveError::SourceGone(received.media_id));
        }
        self.check_source(received.media_id, &received.key).await?;
        let encode = held.record.attempt.encode;
        self.reopen_medium(
            held,
            MediaStatus::Uploading,
            encode,
            ReopenStep::Verify { received: Box::new(received) },
        )
        .await
    }

    /// An encode that came to nothing; `failed` is its number.
    async fn redrive_encode(&self, media_id: MediaId, failed: u32) -> Result<RedriveOutcome, RedriveError> {
        let held = self.load_medium(media_id).await?;
        let record = &held.record;
        if record.attempt.encode > failed {
            return Ok(RedriveOutcome::Superseded("a newer encode was begun"));
        }
        match record.status {
            MediaStatus::Failed => {}
            MediaStatus::Ready if record.encode.as_ref().is_some_and(|encode| encode.number < failed) => {}
            MediaStatus::Ready => return Ok(RedriveOutcome::Superseded("it is ready")),
            MediaStatus::Uploading | MediaStatus::Rejected => {
                return Ok(RedriveOutcome::Superseded("it is not verified"));
            }
            MediaStatus::Stored | MediaStatus::Playable => {
                return Ok(RedriveOutcome::Superseded("it is being encoded"));
            }
        }
        let (Some(source), Some(technical)) = (record.source.clone(), record.technical.clone()) else {
            return Err(RedriveError::SourceGone(media_id));
        };
        self.check_source(media_id, &source.key).await?;
        let encode = self.next_encode_number(record).await?;
        let status = if record.status == MediaStatus::Failed { MediaStatus::Stored } else { record.status };
        let step = ReopenStep::Encode { encode, source, technical: Box::new(technical) };
        self.reopen_medium(held, status, encode, step).await
    }

    /// A number that no encode of the medium ever had.
    async fn next_encode_number(&self, record: &media::MediaRecord) -> Result<u32, RedriveError> {
        let known =
            record.attempt.encode.max(record.encode.as_ref().map_or(0, |encode| encode.number)).max(1);
        for number in known.saturating_add(1)..=ENCODES_MAX {
            let key = plan::derive_job_id(record.media_id, number).to_string();
            if self.bus.load_record::<job::JobRecord>(&key).await?.is_none() {
                return Ok(number);
            }
        }
        Err(RedriveError::TooManyEncodes(record.media_id))
    }

    async fn reopen_medium(
        &self,
        mut held: VersionedRecord<media::MediaRecord>,
        status: MediaStatus,
        encode: u32,
        step: ReopenStep,
    ) -> Result<RedriveOutcome, RedriveError> {
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
        self.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
        Ok(RedriveOutcome::Reopened { media_id, attempt })
    }

    /// Metadata that could not be written: the record stays as it is.
    async fn redrive_description(&self, media_id: MediaId) -> Result<RedriveOutcome, RedriveError> {
        let mut held = self.load_medium(media_id).await?;
        let (owner, attempt) = (held.record.owner.clone(), held.record.attempt.number);
        let event = MediaReopened { media_id, owner, attempt, step: ReopenStep::Describe };
        self.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
        Ok(RedriveOutcome::Reopened { media_id, attempt })
    }

    /// A part of a job.
    async fn redrive_part(&self, task: &JobPartTask) -> Result<RedriveOutcome, RedriveError> {
        let found = self.bus.load_record::<job::JobRecord>(&task.job_id.to_string()).await?;
        let job = found.ok_or_else(|| RedriveError::Unknown(format!("the job {}", task.job_id)))?.record;
        match job.status {
            job::JobStatus::Failed => self.redrive_encode(job.media_id, job.encode).await,
            job::JobStatus::Cancelled => Err(RedriveError::Cancelled(job.job_id)),
            job::JobStatus::Succeeded => Ok(RedriveOutcome::Superseded("its job succeeded since")),
            job::JobStatus::Active => self.resume_part(&job, task).await,
        }
    }

    /// Lets a part that was put aside be tried again.
    async fn resume_part(
        &self,
        job: &job::JobRecord,
        task: &JobPartTask,
    ) -> Result<RedriveOutcome, RedriveError> {
        let mut was_parked = false;
        self.bus
            .change_record::<JobPartRecord>(&subjects::part_key(job.job_id, &task.part), |found| {
                let part = found.filter(|part| part.is_parked())?;
                was_parked = true;
                Some((JobPartRecord { lost: None, last_seen_ms: 0, ..part.clone() }, Outbox::new()))
            })
            .await?;
        if !was_parked {
            return Ok(RedriveOutcome::Superseded("its job goes on"));
        }
        let subject = subjects::job_part_subject(&job.kind, job.priority, job.job_id, &task.part);
        self.bus.publish_once(subjects::JOBS, &subject, task).await?;
        self.bus
            .change_record::<media::MediaRecord>(&job.media_id.to_string(), |found| {
                Some((found?.with_work_resumed(nats::now_ms())?, Outbox::new()))
            })
            .await?;
        Ok(RedriveOutcome::Resumed { job_id: job.job_id, part: task.part.clone() })
    }
}
