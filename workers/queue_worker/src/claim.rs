//! The claim of a part: who works on it, held by compare-and-set. The broker does not fence; this does.
//!
//! A worker that vanishes says nothing about the work, a media child that crashes does: they are counted apart. A part
//! that keeps losing workers is slowed, runs alone in its worker, and after a day is put aside for somebody to look at.
//!
//! Limits: a holder shows itself every [`RENEW_PERIOD_MAX`]. Its part is taken over only when it was not seen for `claim_fresh_ms` of
//! the broker's time, and could have been: the broker answered the next worker all that time (`uptime.rs`), and stored, half of that
//! time ago, that the holder is missed ([`JobPartRecord::missed_since_ms`]), which its next renewal takes back. How often a message
//! was delivered says nothing. [`LostWorkerPolicy`] says what becomes of a part that loses workers.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nats::metrics::table::{PARTS_CLAIMED, WORKERS_LOST};
use nats::{Bus, Outbox, StageOutcome, VersionedRecord};
use schemas::{
    KvRecord as _,
    job::{self, JobPartDead, JobPartRecord, JobPartStatus, JobRetried, JobStarted, LostWorkers},
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{BrokerUptime, ClaimError};

/// Longest time between two renewals of a claim, whatever its holder does meanwhile.
pub const RENEW_PERIOD_MAX: Duration = Duration::from_secs(2);

/// How long ago a holder may have shown itself for its part not to be taken over, unless the settings say otherwise.
pub const CLAIM_FRESH: Duration = Duration::from_secs(6);

/// Shortest time for one try of a renewal; `claim_fresh_ms` may be set very low.
const RENEW_TRY_MIN: Duration = Duration::from_millis(500);

/// Most times that the time for one try is doubled, where the broker is slow rather than silent.
const RENEW_DOUBLINGS_MAX: u32 = 3;

/// How long a change of the claim is tried that must not be lost.
pub const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);

/// Most tries of letting go; our own renewals may be ahead of what is known of the record.
const RELEASE_ATTEMPTS_MAX: u32 = 3;

/// What asking for a part led to.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// It is ours.
    Ours(Box<PartClaim>),
    /// Somebody else holds it: ask again after this time.
    Held(Duration),
    /// It is done or given up.
    Over(Box<JobPartRecord>),
    /// Its job has ended meanwhile.
    JobOver,
    /// It lost workers, and is tried again later: its record says when.
    Delayed,
    /// It was put aside until somebody resumes it.
    Parked(LostWorkers),
}

/// What looking at a part led to.
#[derive(Debug)]
pub enum PartAvailability {
    /// Nobody holds it.
    Free(Box<VersionedRecord<JobPartRecord>>),
    /// It can't be had.
    Taken(ClaimOutcome),
}

/// How a try ended that left its part undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartAttemptFailure {
    /// Something else was away, or the process had to stop: the try does not count.
    Interrupted,
    /// The work failed with a code.
    Failed,
    /// The media child crashed.
    Crashed,
}

/// What becomes of a part that loses workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostWorkerPolicy {
    /// Workers that may vanish while they hold a part before it is slowed.
    pub workers_max: u32,
    /// How long the part of the last of them waits for its next try, in milliseconds; doubled with each further one.
    pub delay_ms: u64,
    /// Longest such wait, in milliseconds.
    pub delay_ms_max: u64,
    /// How long after the first loss a part that goes on losing workers is put aside, in milliseconds.
    pub park_ms: u64,
}

impl Default for LostWorkerPolicy {
    fn default() -> Self {
        Self { workers_max: 3, delay_ms: 10_000, delay_ms_max: 600_000, park_ms: 86_400_000 }
    }
}

/// Settings of claims.
#[derive(Debug, Clone, Copy)]
pub struct PartClaimSettings<'a> {
    /// Name of this worker process.
    pub worker: &'a str,
    /// How long a holder counts as alive after it was seen.
    pub fresh: Duration,
    /// Most failed tries.
    pub attempts_max: u32,
    /// What becomes of parts that lose workers.
    pub policy: LostWorkerPolicy,
    /// Whether holders could show themselves.
    pub uptime: &'a BrokerUptime,
}

impl PartClaimSettings<'_> {
    /// Pause before the next try of a part that lost that many workers.
    fn pause_ms(&self, workers: u32) -> u64 {
        let Some(times) = workers.checked_sub(self.policy.workers_max.max(1)) else { return 0 };
        let doubled = self.policy.delay_ms.saturating_mul(1 << times.min(20));
        doubled.min(self.policy.delay_ms_max)
    }

    fn should_park(&self, lost: LostWorkers) -> bool {
        lost.workers >= self.policy.workers_max
            && lost.last_at_ms.saturating_sub(lost.first_at_ms) >= self.policy.park_ms
    }
}

/// A part that is ours until a compare-and-set fails.
#[derive(Debug)]
pub struct PartClaim {
    bus: Bus,
    held: tokio::sync::Mutex<VersionedRecord<JobPartRecord>>,
    worker: String,
    attempt: u32,
    faults: u32,
    crashes: u32,
    /// Time for one try of a renewal.
    try_time: Duration,
    /// Whether the last try was not answered in time.
    is_unanswered: AtomicBool,
    lost: CancellationToken,
}

impl PartClaim {
    /// Looks whether a part of `job` can be had; a holder that was not seen for long is missed, and that is written down.
    pub async fn check_availability(
        bus: &Bus,
        job: &job::JobRecord,
        part: &str,
        rules: PartClaimSettings<'_>,
    ) -> Result<PartAvailability, ClaimError> {
        let found = bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, part)).await?;
        let Some(mut held) = found else {
            return Ok(PartAvailability::Free(Box::new(VersionedRecord::new(JobPartRecord::new(
                job.job_id, part,
            )))));
        };
        if held.record.status != JobPartStatus::Claimed {
            return Ok(PartAvailability::Taken(ClaimOutcome::Over(Box::new(held.record))));
        }
        if let Some(lost) = held.record.lost.filter(|lost| lost.parked_at_ms.is_some()) {
            return Ok(PartAvailability::Taken(ClaimOutcome::Parked(lost)));
        }
        if held.record.faults >= rules.attempts_max {
            let last = held.record.code.unwrap_or_else(|| job::WORKER_LOST.to_owned());
            return Err(ClaimError::Exhausted { attempts: held.record.faults, last });
        }
        let is_released = held.record.last_seen_ms == 0;
        let retry_at_ms = held.record.retry_at_ms();
        if is_released && retry_at_ms.is_none() {
            return Ok(PartAvailability::Free(Box::new(held)));
        }
        let now_ms = rules.uptime.probe_broker(bus).await?;
        if !is_released {
            return match Self::remaining_time(bus, &mut held, now_ms, rules).await? {
                Some(rest) => Ok(PartAvailability::Taken(ClaimOutcome::Held(rest))),
                None => {
                    Self::record_lost_worker(bus, job, &mut held, now_ms, rules).await.map(
                        |asked| match asked {
                            Some(asked) => PartAvailability::Taken(asked),
                            None => PartAvailability::Free(Box::new(held)),
                        },
                    )
                }
            };
        }
        if retry_at_ms > Some(now_ms) {
            return Ok(PartAvailability::Taken(ClaimOutcome::Delayed));
        }
        Ok(PartAvailability::Free(Box::new(held)))
    }

    /// How long a holder may still show itself; `None` when it has vanished.
    ///
    /// A broker that answers may store nothing, as a new leader does until it has caught up: that a holder is missed is stored
    /// itself, and from then on there is time for the holder's next renewal.
    async fn remaining_time(
        bus: &Bus,
        held: &mut VersionedRecord<JobPartRecord>,
        now_ms: u64,
        rules: PartClaimSettings<'_>,
    ) -> Result<Option<Duration>, ClaimError> {
        let (half, stored_at_ms) = (rules.fresh / 2, held.stored_at_ms());
        // All times are the broker's: `last_seen_ms` was written by the clock of another host. While the broker was away nobody
        // could show itself.
        let passed_since =
            |at_ms: u64| Duration::from_millis(now_ms.saturating_sub(at_ms)).min(rules.uptime.unbroken_for());
        if let Some(seen_at_ms) = held.record.missed_since_ms {
            let unseen = rules.fresh.saturating_sub(passed_since(seen_at_ms));
            let rest = unseen.max(half.saturating_sub(passed_since(stored_at_ms)));
            return Ok(Some(rest).filter(|rest| !rest.is_zero()));
        }
        let rest = half.saturating_sub(passed_since(stored_at_ms));
        if rest.is_zero() {
            held.record.missed_since_ms = Some(stored_at_ms);
            match bus.commit_record(held, Outbox::new()).await {
                // Otherwise somebody else wrote it, or the holder showed itself.
                Ok(()) | Err(nats::BusError::Conflict { .. }) => return Ok(Some(half)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(rest))
    }

    /// The holder vanished. `None` when the part can be taken at once, with what was changed in it.
    async fn record_lost_worker(
        bus: &Bus,
        job: &job::JobRecord,
        held: &mut VersionedRecord<JobPartRecord>,
        now_ms: u64,
        rules: PartClaimSettings<'_>,
    ) -> Result<Option<ClaimOutcome>, ClaimError> {
        let record = &mut held.record;
        let before = record.lost.unwrap_or(LostWorkers {
            workers: 0,
            first_at_ms: now_ms,
            last_at_ms: now_ms,
            parked_at_ms: None,
            retry_at_ms: None,
        });
        let mut lost =
            LostWorkers { workers: before.workers.saturating_add(1), last_at_ms: now_ms, ..before };
        let pause_ms = Some(rules.pause_ms(lost.workers)).filter(|pause_ms| *pause_ms > 0);
        lost.retry_at_ms = pause_ms.map(|pause_ms| now_ms.saturating_add(pause_ms));
        let mut outbox = Outbox::new();
        if rules.should_park(lost) {
            lost.parked_at_ms = Some(now_ms);
            let workers = lost.workers;
            tracing::error!(part = record.part, job.id = %job.job_id, workers, "put aside: its workers vanish one after another");
            outbox = outbox.with_event(&job::JobParked {
                job_id: job.job_id,
                media_id: job.media_id,
                owner: job.owner.clone(),
                kind: job.kind.clone(),
                part: record.part.clone(),
                workers,
            });
        }
        record.lost = Some(lost);
        (record.last_seen_ms, record.missed_since_ms) = (0, None);
        record.code = Some(job::WORKER_LOST.to_owned());
        // Not written here: taking the part writes the loss together with the new claim.
        if lost.parked_at_ms.is_none() && lost.retry_at_ms.is_none() {
            return Ok(None);
        }
        let written = bus.commit_record(held, outbox).await;
        if written.is_ok() {
            WORKERS_LOST.increment(());
        }
        match written {
            Ok(()) if lost.parked_at_ms.is_some() => Ok(Some(ClaimOutcome::Parked(lost))),
            Ok(()) => Ok(Some(ClaimOutcome::Delayed)),
            Err(nats::BusError::Conflict { .. }) => Ok(Some(ClaimOutcome::Held(Duration::from_secs(1)))),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a part that is free.
    pub async fn take_part(
        bus: &Bus,
        job: &job::JobRecord,
        mut held: VersionedRecord<JobPartRecord>,
        rules: PartClaimSettings<'_>,
    ) -> Result<ClaimOutcome, ClaimError> {
        // Both are times of the broker: a loss later than the record is written with this claim.
        let stored_at_ms = held.stored_at_ms();
        let is_lost = held.record.lost.is_some_and(|lost| lost.last_at_ms > stored_at_ms);
        let record = &mut held.record;
        let is_counted = !record.is_interrupted;
        record.attempt += u32::from(is_counted);
        record.is_interrupted = false;
        // The compare-and-set below is the fence: of two workers that saw the part free, one takes it.
        rules.worker.clone_into(&mut record.worker);
        (record.last_seen_ms, record.missed_since_ms) = (nats::now_ms(), None);
        let outbox = if is_counted { build_attempt_events(job, record) } else { Outbox::new() };
        (record.code, record.detail) = (None, None);
        let (attempt, faults, crashes) = (record.attempt, record.faults, record.crashes);
        let is_new = held.revision() == 0;
        match bus.commit_record(&mut held, outbox).await {
            Ok(()) => WORKERS_LOST.add((), u64::from(is_lost)),
            Err(nats::BusError::Conflict { .. }) => return Ok(ClaimOutcome::Held(Duration::from_secs(1))),
            Err(error) => return Err(error.into()),
        }
        if is_new && is_job_inactive(bus, job).await? {
            // Made too late: the parts of an ended job are folded and gone. What a crash leaves here the keeper removes.
            let removed = bus
                .purge_revision(
                    JobPartRecord::BUCKET,
                    &held.record.key(),
                    held.revision(),
                    Duration::from_millis(schemas::REMOVAL_MARKER_MS),
                )
                .await;
            return removed.map(|()| ClaimOutcome::JobOver).or_else(|error| match error {
                nats::BusError::Conflict { .. } => Ok(ClaimOutcome::JobOver),
                error => Err(error.into()),
            });
        }
        PARTS_CLAIMED.increment(());
        Ok(ClaimOutcome::Ours(Box::new(Self {
            bus: bus.clone(),
            held: tokio::sync::Mutex::new(held),
            worker: rules.worker.to_owned(),
            attempt,
            faults,
            crashes,
            // Of three tries in the time two may be lost.
            try_time: (rules.fresh / 3).clamp(RENEW_TRY_MIN, RENEW_PERIOD_MAX),
            is_unanswered: AtomicBool::new(false),
            lost: CancellationToken::new(),
        })))
    }

    /// Tries before this one that failed.
    pub const fn fault_count(&self) -> u32 {
        self.faults
    }

    /// Tries before this one that ended in a crash of the media child.
    pub const fn crash_count(&self) -> u32 {
        self.crashes
    }

    /// Fires when somebody else took the part.
    pub const fn lost_token(&self) -> &CancellationToken {
        &self.lost
    }

    /// The record as last written.
    pub async fn current_record(&self) -> JobPartRecord {
        self.held.lock().await.record.clone()
    }

    /// Shows that the holder lives, and writes what `change` changes, in one try: who does so again and again need not wait for an
    /// answer that was lost. False when the part is lost; a broker that is away is not a loss, the next renewal finds out.
    pub async fn renew(&self, change: impl FnOnce(&mut JobPartRecord)) -> Result<bool, ClaimError> {
        change(&mut self.held.lock().await.record);
        // After one that may have been stored the next has to read what is there before it writes.
        let is_second = self.is_unanswered.load(Ordering::Relaxed);
        let try_time = if is_second { self.try_time * 2 } else { self.try_time };
        self.try_renewal(try_time).await.unwrap_or_else(|| Err(ClaimError::from(unanswered())))
    }

    /// The same for what must not be lost: tries for [`CHANGE_TIME_MAX`] when no answer comes.
    pub async fn write_change(&self, change: impl FnOnce(&mut JobPartRecord)) -> Result<bool, ClaimError> {
        let begun = Instant::now();
        change(&mut self.held.lock().await.record);
        // The first lost answer costs one short try; a broker that is only slow gets the time it needs. A renewal gets little
        // more: what is stored shows the holder also where its answer comes late, and a lost one must not hold up the next.
        let mut doublings = 0;
        while begun.elapsed() < CHANGE_TIME_MAX {
            if let Some(ended) = self.try_renewal(self.try_time * (1 << doublings)).await {
                return ended;
            }
            doublings = (doublings + 1).min(RENEW_DOUBLINGS_MAX);
        }
        Err(ClaimError::from(unanswered()))
    }

    /// Writes what is known of the record. `None` when no answer came in `try_time`: it may be stored or not, which the next try
    /// finds out.
    async fn try_renewal(&self, try_time: Duration) -> Option<Result<bool, ClaimError>> {
        let mut held = self.held.lock().await;
        if self.lost.is_cancelled() {
            return Some(Ok(false));
        }
        // It was let go meanwhile, and nobody is to think otherwise.
        if held.record.last_seen_ms == 0 {
            return Some(Ok(true));
        }
        held.record.last_seen_ms = nats::now_ms();
        let ended = tokio::time::timeout(try_time, self.write_renewal(&mut held)).await.ok();
        self.is_unanswered.store(ended.is_none(), Ordering::Relaxed);
        ended
    }

    async fn write_renewal(&self, held: &mut VersionedRecord<JobPartRecord>) -> Result<bool, ClaimError> {
        match self.bus.commit_record(held, Outbox::new()).await {
            Ok(()) => Ok(true),
            Err(nats::BusError::Conflict { .. }) => self.recover_conflict(held).await,
            Err(error) => Err(error.into()),
        }
    }

    /// After a failed compare-and-set: the part is still ours when only the sweeper, a lost answer or a renewal that was
    /// dropped halfway moved the revision.
    async fn reload(
        &self,
        wanted: &JobPartRecord,
    ) -> Result<Option<VersionedRecord<JobPartRecord>>, ClaimError> {
        let found =
            self.bus.load_record::<JobPartRecord>(&subjects::part_key(wanted.job_id, &wanted.part)).await?;
        Ok(found.filter(|found| {
            found.record.worker == self.worker
                && found.record.attempt == self.attempt
                // Done when that was stored and only its answer lost.
                && (found.record.status == JobPartStatus::Claimed || found.record.status == wanted.status)
        }))
    }

    async fn recover_conflict(&self, held: &mut VersionedRecord<JobPartRecord>) -> Result<bool, ClaimError> {
        let wanted = held.record.clone();
        if let Some(found) = self.reload(&wanted).await? {
            *held = found;
            held.record = wanted.clone();
            match self.bus.commit_record(held, Outbox::new()).await {
                Ok(()) => return Ok(true),
                Err(nats::BusError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tracing::warn!(part = wanted.part, job.id = %wanted.job_id, attempt = self.attempt, "the claim is lost");
        self.lost.cancel();
        Ok(false)
    }

    /// Lets go of a part whose job ended first: nobody works on it any more, and its record says so.
    pub async fn release_ended(&self) -> Result<(), ClaimError> {
        self.release("job_ended", "its job ended first", PartAttemptFailure::Interrupted).await.map(drop)
    }

    /// Lets go of a part whose worker has to stop, without counting the try, so that another worker has it at once; answers what that
    /// means for its message.
    ///
    /// # Errors
    /// [`ClaimError::Bus`] when the broker does not answer.
    pub async fn release_stopped(&self) -> Result<StageOutcome, ClaimError> {
        let left = PartAttemptFailure::Interrupted;
        let is_ours = self.release("worker_stopped", "the worker had to stop", left).await?;
        Ok(if is_ours { StageOutcome::Later { delay_ms: 1 } } else { StageOutcome::Lost })
    }

    /// Lets go of the part, so that the next try need not wait.
    pub async fn release(
        &self,
        code: &str,
        detail: &str,
        left: PartAttemptFailure,
    ) -> Result<bool, ClaimError> {
        if self.lost.is_cancelled() {
            return Ok(false);
        }
        let mut held = self.held.lock().await;
        for _ in 0..RELEASE_ATTEMPTS_MAX {
            let record = &mut held.record;
            // What is made stays so, also where that could not be written before.
            if record.status == JobPartStatus::Claimed {
                record.code = Some(code.to_owned());
                record.detail = Some(detail.to_owned());
                (record.last_seen_ms, record.missed_since_ms) = (0, None);
                record.crashes = self.crashes + u32::from(left == PartAttemptFailure::Crashed);
                record.faults = self.faults + u32::from(left != PartAttemptFailure::Interrupted);
                record.is_interrupted = left == PartAttemptFailure::Interrupted;
            }
            match self.bus.commit_record(&mut held, Outbox::new()).await {
                Ok(()) => return Ok(true),
                Err(nats::BusError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let Some(found) = self.reload(&held.record).await? else { break };
            *held = found;
        }
        Ok(false)
    }
}

/// `started` with the first try of the part in front of the queue, `retried` with every later try of any part.
fn build_attempt_events(job: &job::JobRecord, part: &JobPartRecord) -> Outbox {
    let outbox = Outbox::new();
    if part.attempt > 1 {
        return outbox.with_event(&JobRetried {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            part: part.part.clone(),
            attempt: part.attempt,
            code: part.code.clone().unwrap_or_else(|| job::WORKER_LOST.to_owned()),
        });
    }
    let front = job.parts.first().map_or(job::FINISH, String::as_str);
    // The front part of a retry may be made already: of its other parts the first one counts, since the event is sent once.
    if part.part == front || job.retry_of.is_some() {
        return outbox.with_event(&JobStarted {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            worker: part.worker.clone(),
        });
    }
    outbox
}

/// Says in the record of a part that it was given up, and lies in the dead letters.
///
/// # Errors
/// [`ClaimError::Bus`] when the broker does not answer.
pub async fn fail_part(
    bus: &Bus,
    job: &job::JobRecord,
    part: &str,
    (code, detail): (&str, &str),
) -> Result<(), ClaimError> {
    bus.change_record::<JobPartRecord>(&subjects::part_key(job.job_id, part), |found| {
        let mut record = found.filter(|part| part.status == JobPartStatus::Claimed)?.clone();
        record.status = JobPartStatus::Failed;
        (record.code, record.detail) = (Some(code.to_owned()), Some(detail.to_owned()));
        let dead = JobPartDead {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            part: record.part.clone(),
            code: code.to_owned(),
        };
        Some((record, Outbox::new().with_event(&dead)))
    })
    .await?;
    Ok(())
}

/// True when a job has ended, or is not there any more.
///
/// # Errors
/// [`ClaimError::Bus`] when the broker does not answer.
pub async fn is_job_inactive(bus: &Bus, job: &job::JobRecord) -> Result<bool, ClaimError> {
    let found = bus.load_record::<job::JobRecord>(&job.job_id.to_string()).await?;
    Ok(found.is_none_or(|held| held.record.status != job::JobStatus::Active))
}

/// A renewal that the broker did not answer in time.
fn unanswered() -> nats::BusError {
    nats::BusError::unavailable(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

#[cfg(test)]
pub(crate) mod tests {
    use nats::{Role, testing::TestBroker};
    use schemas::ids::{JobId, MediaId};

    use super::*;

    pub(crate) const FRESH: Duration = CLAIM_FRESH;

    pub(crate) async fn ask_as(
        worker: &str,
        uptime: &BrokerUptime,
        bus: &Bus,
        job: &job::JobRecord,
        part: &str,
    ) -> Result<ClaimOutcome, ClaimError> {
        let policy = LostWorkerPolicy::default();
        let rules = PartClaimSettings { worker, fresh: FRESH, attempts_max: 5, policy, uptime };
        match PartClaim::check_availability(bus, job, part, rules).await? {
            PartAvailability::Free(held) => PartClaim::take_part(bus, job, *held, rules).await,
            PartAvailability::Taken(asked) => Ok(asked),
        }
    }

    pub(crate) async fn ask(bus: &Bus, job: &job::JobRecord, part: &str) -> ClaimOutcome {
        ask_as("w", &BrokerUptime::default(), bus, job, part).await.unwrap()
    }

    pub(crate) fn job() -> job::JobRecord {
        let plan = job::EncodePlan {
            source_key: "k".into(),
            source_bytes: 1,
            duration_ms: 1,
            profile: "default".into(),
            options_digest: "d".into(),
            ..job::EncodePlan::default()
        };
        job::JobRecord {
            encode: 1,
            prefix: "p".into(),
            parts: vec!["v0000".into(), "v0001".into()],
            ..job::JobRecord::new_task(
                JobId::from_bytes([1; 16]),
                job::TRANSCODE,
                (MediaId::from_bytes([2; 16]), "olga"),
                (plan, subjects::JobPriority::P1),
                1,
            )
        }
    }

    /// A worker read the job while it was active, and asks for a part when its job is long over.
    #[tokio::test]
    async fn a_late_claim_makes_no_part_of_an_ended_job() {
        let broker = TestBroker::start().await;
        let bus = broker.bus(Role::Transcode).await;
        let active = job();
        let mut held = VersionedRecord::new(active.clone());
        bus.commit_record(&mut held, Outbox::new()).await.unwrap();
        let asked = ask(&bus, &active, "v0000").await;
        assert!(matches!(asked, ClaimOutcome::Ours(_)), "the job is active");
        held.record.mark_ended(job::JobStatus::Failed, nats::now_ms(), schemas::ENDED_KEPT_MS);
        bus.commit_record(&mut held, Outbox::new()).await.unwrap();
        let asked = ask(&bus, &active, "v0001").await;
        assert!(matches!(asked, ClaimOutcome::JobOver), "the job has ended");
        assert!(
            bus.load_record::<JobPartRecord>(&subjects::part_key(active.job_id, "v0001"))
                .await
                .unwrap()
                .is_none()
        );
        // The same for a job that is kept no more.
        let gone = job::JobRecord { job_id: JobId::from_bytes([3; 16]), ..active };
        assert!(matches!(ask(&bus, &gone, "v0000").await, ClaimOutcome::JobOver));
        assert!(
            bus.load_record::<JobPartRecord>(&subjects::part_key(gone.job_id, "v0000"))
                .await
                .unwrap()
                .is_none()
        );
    }
}
