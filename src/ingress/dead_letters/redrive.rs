//! A second chance for what was given up. Nothing is published a second time: a medium begins a new attempt, whose event its
//! stages receive; a failed encode becomes a new job; a part that was put aside goes back to its queue.

use nats::{
    Bus, Outbox,
    dead_letter::{DeadLetter, LetterMark},
};
use schemas::{
    BusEvent as _,
    dead_letter::{AdminLetterChanged, LetterAction},
    encode::EncodeSettings,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartTask},
    media::{self, MediaReopened, MediaStatus, ReopenStep},
    subjects,
    upload::UploadReceived,
};
use store::Store;

use crate::jobs::{
    retry::{self, NextEncode, NextEncodeError},
    tasks::{TaskBeginning, TaskRequest, retry_task},
};

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
    /// Its job is tried again.
    Retried {
        /// The next job.
        job_id: JobId,
    },
    /// Nothing was to be done.
    Superseded {
        /// Why.
        reason: &'static str,
    },
}

impl RedriveOutcome {
    const fn superseded(reason: &'static str) -> Self {
        Self::Superseded { reason }
    }
}

/// Why a letter can't have a second chance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedriveError {
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Bus(nats::BusError),
    /// The medium can't be taken up again.
    #[error(transparent)]
    NextEncode(NextEncodeError),
    /// The letter holds what its stage does not take.
    #[error("the letter can't be read, and would be given up again")]
    Unreadable,
    /// There is no letter with this sequence.
    #[error("there is no dead letter {0}")]
    UnknownLetter(u64),
    /// The job is not there any more.
    #[error("the job {0} is not there any more")]
    UnknownJob(JobId),
    /// A person ended it.
    #[error("the job {0} was cancelled")]
    Cancelled(JobId),
    /// A job of its kind is not tried again; what to do instead.
    #[error("a job of its kind is not tried again: {0}; then discard the letter")]
    NotRepeatable(&'static str),
}

impl From<nats::BusError> for RedriveError {
    fn from(error: nats::BusError) -> Self {
        Self::Bus(error)
    }
}

impl From<NextEncodeError> for RedriveError {
    fn from(error: NextEncodeError) -> Self {
        match error {
            NextEncodeError::Bus(error) => Self::Bus(error),
            other => Self::NextEncode(other),
        }
    }
}

impl RedriveError {
    /// A stable code; those that the API knows are spelled alike.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bus(error) => error.code(),
            Self::NextEncode(error) => error.code(),
            Self::Unreadable => "letter_unreadable",
            Self::UnknownLetter(_) | Self::UnknownJob(_) => "not_found",
            Self::Cancelled(_) => "job_cancelled",
            Self::NotRepeatable(_) => "job_not_repeatable",
        }
    }
}

/// Gives a letter its second chance, and notes that `changed_by` did so.
///
/// # Errors
/// [`RedriveError`]; nothing has changed then, unless the broker went away behind it: it can be repeated.
pub async fn redrive_letter(
    bus: &Bus,
    store: &Store,
    sequence: u64,
    changed_by: &str,
) -> Result<RedriveOutcome, RedriveError> {
    let letter = bus.dead_letter(sequence).await?.ok_or(RedriveError::UnknownLetter(sequence))?;
    // The second chance is of the trace of who gives it.
    nats::spans::link_current(letter.trace);
    let outcome = Box::pin(begin_second_chance(bus, store, &letter)).await?;
    note_change(bus, &letter, LetterMark::Redriven, changed_by).await?;
    Ok(outcome)
}

/// Notes that nothing is to be done about a letter; false when there is none.
///
/// # Errors
/// [`nats::BusError::Unavailable`] when the broker does not answer.
pub async fn discard_letter(bus: &Bus, sequence: u64, changed_by: &str) -> Result<bool, nats::BusError> {
    let Some(letter) = bus.dead_letter(sequence).await? else { return Ok(false) };
    note_change(bus, &letter, LetterMark::Discarded, changed_by).await?;
    Ok(true)
}

async fn note_change(
    bus: &Bus,
    letter: &DeadLetter,
    mark: LetterMark,
    changed_by: &str,
) -> Result<(), nats::BusError> {
    bus.mark_dead_letter(letter, mark).await?;
    let action = match mark {
        LetterMark::Redriven => LetterAction::Redriven,
        LetterMark::Discarded => LetterAction::Discarded,
    };
    let (sequence, stage) = (letter.sequence, letter.stage.clone());
    tracing::info!(sequence, stage, ?action, by = changed_by, "a dead letter was dealt with");
    let event = AdminLetterChanged { sequence, stage, action, changed_by: changed_by.to_owned() };
    bus.publish_event(&event, "asked").await
}

async fn begin_second_chance(
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
            ReopenStep::Encode { encode, settings, .. } => {
                site.redrive_encode(reopened.media_id, encode, settings).await
            }
            ReopenStep::Describe => site.redrive_description(reopened.media_id).await,
        };
    }
    if (entity, verb) == (media::MediaStored::ENTITY, media::MediaStored::VERB) {
        let stored: media::MediaStored = decode_letter(letter)?;
        return match letter.stage.as_str() {
            job::PLAN_TRANSCODE => site.redrive_encode(stored.media_id, 1, stored.settings).await,
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
    /// Bytes that could not be verified.
    async fn redrive_verification(&self, received: UploadReceived) -> Result<RedriveOutcome, RedriveError> {
        let held = retry::load_reopenable(self.bus, received.media_id).await?;
        match held.record.status {
            MediaStatus::Rejected => {}
            MediaStatus::Uploading => return Ok(RedriveOutcome::superseded("it is being verified")),
            MediaStatus::Stored | MediaStatus::Playable | MediaStatus::Ready | MediaStatus::Failed => {
                return Ok(RedriveOutcome::superseded("it was verified since"));
            }
        }
        if held.record.source_removed_at_ms.is_some() {
            return Err(NextEncodeError::SourceGone(received.media_id).into());
        }
        retry::check_source(self.store, received.media_id, &received.key).await?;
        let (media_id, encode) = (received.media_id, held.record.attempt.encode);
        let step = ReopenStep::Verify { received: Box::new(received) };
        let attempt = retry::reopen_medium(self.bus, held, MediaStatus::Uploading, encode, step).await?;
        Ok(RedriveOutcome::Reopened { media_id, attempt })
    }

    /// An encode that came to nothing; `failed` is its number.
    async fn redrive_encode(
        &self,
        media_id: MediaId,
        failed: u32,
        settings: EncodeSettings,
    ) -> Result<RedriveOutcome, RedriveError> {
        match retry::begin_next_encode(self.bus, self.store, (media_id, failed), settings).await? {
            NextEncode::Begun { attempt, .. } => Ok(RedriveOutcome::Reopened { media_id, attempt }),
            NextEncode::Superseded(why) => Ok(RedriveOutcome::superseded(why)),
        }
    }

    /// Metadata that could not be written: the record stays as it is.
    async fn redrive_description(&self, media_id: MediaId) -> Result<RedriveOutcome, RedriveError> {
        let mut held = retry::load_reopenable(self.bus, media_id).await?;
        let (owner, attempt) = (held.record.owner.clone(), held.record.attempt.number);
        let event = MediaReopened { media_id, owner, attempt, step: ReopenStep::Describe };
        self.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
        Ok(RedriveOutcome::Reopened { media_id, attempt })
    }

    /// A part of a job.
    async fn redrive_part(&self, task: &JobPartTask) -> Result<RedriveOutcome, RedriveError> {
        let found = self.bus.load_record::<job::JobRecord>(&task.job_id.to_string()).await?;
        let job = found.ok_or(RedriveError::UnknownJob(task.job_id))?.record;
        match job.status {
            job::JobStatus::Failed if !job.is_encode() => self.redrive_task(&job).await,
            job::JobStatus::Failed => {
                self.redrive_encode(job.media_id, job.encode, retry::settings_of_job(&job)).await
            }
            job::JobStatus::Cancelled => Err(RedriveError::Cancelled(job.job_id)),
            job::JobStatus::Succeeded => Ok(RedriveOutcome::superseded("its job succeeded since")),
            job::JobStatus::Active => self.resume_part(&job, task).await,
        }
    }

    /// A job that makes no encode.
    async fn redrive_task(&self, job: &job::JobRecord) -> Result<RedriveOutcome, RedriveError> {
        let request = TaskRequest::of_job(job).map_err(RedriveError::NotRepeatable)?;
        Ok(match retry_task(self.bus, job, request).await? {
            TaskBeginning::Begun(next) => RedriveOutcome::Retried { job_id: next.job_id },
            TaskBeginning::Found(_) => RedriveOutcome::superseded("it was tried again since"),
            TaskBeginning::Refused(why) => RedriveOutcome::superseded(why),
        })
    }

    /// Lets a part that was put aside be tried again.
    async fn resume_part(
        &self,
        job: &job::JobRecord,
        task: &JobPartTask,
    ) -> Result<RedriveOutcome, RedriveError> {
        let key = subjects::part_key(job.job_id, &task.part);
        let found = self.bus.load_record::<JobPartRecord>(&key).await?;
        if !found.is_some_and(|held| held.record.is_parked()) {
            return Ok(RedriveOutcome::superseded("its job goes on"));
        }
        // The part last: while its record says that it was put aside, who asks again has all of it done.
        if job.is_encode() {
            self.bus
                .change_record::<media::MediaRecord>(&job.media_id.to_string(), |found| {
                    Some((found?.with_work_resumed(nats::now_ms())?, Outbox::new()))
                })
                .await?;
        }
        let mut was_parked = false;
        self.bus
            .change_record::<JobPartRecord>(&key, |found| {
                let parked = found.filter(|part| part.is_parked());
                // Of the last try: somebody else may have been first.
                was_parked = parked.is_some();
                let part = parked?;
                Some((JobPartRecord { lost: None, last_seen_ms: 0, ..part.clone() }, Outbox::new()))
            })
            .await?;
        if !was_parked {
            return Ok(RedriveOutcome::superseded("its job goes on"));
        }
        // Only a hint: the keeper looks at such jobs by itself, too.
        if let Err(error) =
            self.bus.publish_core(subjects::dispatch_look_subject(job.job_id), Vec::new()).await
        {
            tracing::debug!(%error, job.id = %job.job_id, "the keeper finds out by itself");
        }
        Ok(RedriveOutcome::Resumed { job_id: job.job_id, part: task.part.clone() })
    }
}
