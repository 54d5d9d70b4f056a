//! A second chance for what was given up. Nothing is published a second time: a medium begins a new attempt, which its stages
//! hear of; a failed encode becomes a new job; a part that was put aside goes back to its queue.
//!
//! Limits: at most [`ENCODES_MAX`] encodes of a medium are looked at for the number of the next one.

use nats::{Bus, Held, Outbox, dead::Letter};
use packaging::plan;
use schemas::{
    Event as _,
    ids::{JobId, MediaId},
    job::{self, Part, Task},
    media::{self, Attempt, Reopened, Status, Step},
    subjects,
    upload::Received,
};
use store::Store;

/// Most encodes of a medium.
pub const ENCODES_MAX: u32 = 1_000;

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redriven {
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
pub enum Refusal {
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Bus(#[from] nats::Error),
    /// The store does not answer.
    #[error("the source can't be looked at")]
    Store(#[from] store::Error),
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

impl Refusal {
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
/// [`Refusal`]; nothing has changed then.
pub async fn redrive(bus: &Bus, store: &Store, letter: &Letter) -> Result<Redriven, Refusal> {
    let site = Site { bus, store };
    if letter.stream == subjects::JOBS {
        let task: Task = read(letter)?;
        return site.part(&task).await;
    }
    let (entity, verb, _) = subjects::event_parts(&letter.subject).ok_or(Refusal::Unreadable)?;
    if (entity, verb) == (Received::ENTITY, Received::VERB) {
        return site.verify(read(letter)?).await;
    }
    if (entity, verb) == (Reopened::ENTITY, Reopened::VERB) {
        let reopened: Reopened = read(letter)?;
        return match reopened.step {
            Step::Verify { received } => site.verify(*received).await,
            Step::Encode { encode, .. } => site.encode(reopened.media_id, encode).await,
            Step::Describe => site.describe(reopened.media_id).await,
        };
    }
    if (entity, verb) == (media::Stored::ENTITY, media::Stored::VERB) {
        let stored: media::Stored = read(letter)?;
        return match letter.stage.as_str() {
            transcode::PLAN_DURABLE => site.encode(stored.media_id, 1).await,
            _ => site.describe(stored.media_id).await,
        };
    }
    if (entity, verb) == (media::Ready::ENTITY, media::Ready::VERB) {
        let ready: media::Ready = read(letter)?;
        return site.describe(ready.media_id).await;
    }
    Err(Refusal::Unreadable)
}

fn read<T: serde::de::DeserializeOwned>(letter: &Letter) -> Result<T, Refusal> {
    nats::decode(&letter.subject, &letter.payload).map_err(|_| Refusal::Unreadable)
}

struct Site<'a> {
    bus: &'a Bus,
    store: &'a Store,
}

impl Site<'_> {
    async fn medium(&self, media_id: MediaId) -> Result<Held<media::Record>, Refusal> {
        let found = self.bus.load::<media::Record>(&media_id.to_string()).await?;
        found.ok_or_else(|| Refusal::Unknown(format!("the medium {media_id}")))
    }

    async fn check_source(&self, media_id: MediaId, key: &str) -> Result<(), Refusal> {
        match self.store.head(key).await {
            Ok(_) => Ok(()),
            Err(store::Error::NotFound { .. }) => Err(Refusal::SourceGone(media_id)),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes that could not be verified.
    async fn verify(&self, received: Received) -> Result<Redriven, Refusal> {
        let held = self.medium(received.media_id).await?;
        match held.record.status {
            Status::Rejected => {}
            Status::Uploading => return Ok(Redriven::Superseded("it is being verified")),
            Status::Stored | Status::Playable | Status::Ready | Status::Failed => {
                return Ok(Redriven::Superseded("it was verified since"));
            }
        }
        if held.record.source_removed_at_ms.is_some() {
            return Err(Refusal::SourceGone(received.media_id));
        }
        self.check_source(received.media_id, &received.key).await?;
        let encode = held.record.attempt.encode;
        self.reopen(held, Status::Uploading, encode, Step::Verify { received: Box::new(received) }).await
    }

    /// An encode that came to nothing; `failed` is its number.
    async fn encode(&self, media_id: MediaId, failed: u32) -> Result<Redriven, Refusal> {
        let held = self.medium(media_id).await?;
        let record = &held.record;
        if record.attempt.encode > failed {
            return Ok(Redriven::Superseded("a newer encode was begun"));
        }
        match record.status {
            Status::Failed => {}
            Status::Ready if record.encode.as_ref().is_some_and(|encode| encode.number < failed) => {}
            Status::Ready => return Ok(Redriven::Superseded("it is ready")),
            Status::Uploading | Status::Rejected => return Ok(Redriven::Superseded("it is not verified")),
            Status::Stored | Status::Playable => return Ok(Redriven::Superseded("it is being encoded")),
        }
        let (Some(source), Some(technical)) = (record.source.clone(), record.technical.clone()) else {
            return Err(Refusal::SourceGone(media_id));
        };
        self.check_source(media_id, &source.key).await?;
        let encode = self.next_encode(record).await?;
        let status = if record.status == Status::Failed { Status::Stored } else { record.status };
        let step = Step::Encode { encode, source, technical: Box::new(technical) };
        self.reopen(held, status, encode, step).await
    }

    /// A number that no encode of the medium ever had.
    async fn next_encode(&self, record: &media::Record) -> Result<u32, Refusal> {
        let known =
            record.attempt.encode.max(record.encode.as_ref().map_or(0, |encode| encode.number)).max(1);
        for number in known.saturating_add(1)..=ENCODES_MAX {
            let key = plan::job_id(record.media_id, number).to_string();
            if self.bus.load::<job::Record>(&key).await?.is_none() {
                return Ok(number);
            }
        }
        Err(Refusal::TooManyEncodes(record.media_id))
    }

    async fn reopen(
        &self,
        mut held: Held<media::Record>,
        status: Status,
        encode: u32,
        step: Step,
    ) -> Result<Redriven, Refusal> {
        let record = &mut held.record;
        let (media_id, attempt) = (record.media_id, record.attempt.number.saturating_add(1));
        if status != Status::Ready {
            (record.code, record.detail) = (None, None);
        }
        record.status = status;
        record.waiting = None;
        record.attempt = Attempt { number: attempt, faults: 0, encode };
        record.changed_at_ms = nats::now_ms();
        let event = Reopened { media_id, owner: record.owner.clone(), attempt, step };
        self.bus.commit(&mut held, Outbox::new().event(&event)).await?;
        Ok(Redriven::Reopened { media_id, attempt })
    }

    /// Metadata that could not be written: the record stays as it is.
    async fn describe(&self, media_id: MediaId) -> Result<Redriven, Refusal> {
        let mut held = self.medium(media_id).await?;
        let (owner, attempt) = (held.record.owner.clone(), held.record.attempt.number);
        let event = Reopened { media_id, owner, attempt, step: Step::Describe };
        self.bus.commit(&mut held, Outbox::new().event(&event)).await?;
        Ok(Redriven::Reopened { media_id, attempt })
    }

    /// A part of a job.
    async fn part(&self, task: &Task) -> Result<Redriven, Refusal> {
        let found = self.bus.load::<job::Record>(&task.job_id.to_string()).await?;
        let job = found.ok_or_else(|| Refusal::Unknown(format!("the job {}", task.job_id)))?.record;
        match job.status {
            job::Status::Failed => self.encode(job.media_id, job.encode).await,
            job::Status::Cancelled => Err(Refusal::Cancelled(job.job_id)),
            job::Status::Succeeded => Ok(Redriven::Superseded("its job succeeded since")),
            job::Status::Active => self.resume(&job, task).await,
        }
    }

    /// Lets a part that was put aside be tried again.
    async fn resume(&self, job: &job::Record, task: &Task) -> Result<Redriven, Refusal> {
        let mut was_parked = false;
        self.bus
            .change::<Part>(&subjects::part_key(job.job_id, &task.part), |found| {
                let part = found.filter(|part| part.is_parked())?;
                was_parked = true;
                Some((Part { lost: None, last_seen_ms: 0, ..part.clone() }, Outbox::new()))
            })
            .await?;
        if !was_parked {
            return Ok(Redriven::Superseded("its job goes on"));
        }
        let subject = subjects::job_part(&job.kind, job.priority, job.job_id, &task.part);
        self.bus.publish_once(subjects::JOBS, &subject, task).await?;
        self.bus
            .change::<media::Record>(&job.media_id.to_string(), |found| {
                Some((found?.resumed(nats::now_ms())?, Outbox::new()))
            })
            .await?;
        Ok(Redriven::Resumed { job_id: job.job_id, part: task.part.clone() })
    }
}
