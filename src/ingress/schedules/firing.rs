//! Firing a schedule: one compare-and-set takes it to its next time and says that this one is begun; then the job is begun, and another
//! one says what came of it. Who ends in between leaves a run that says it is starting, and the keeper goes on from there.
//!
//! Limits: what an outage keeps from being begun is tried for [`START_MS_MAX`].

use nats::{Bus, BusError, Outbox, VersionedRecord};
use schedule::{DueRun, Timing, find_due_run};
use schemas::{
    KvRecord as _,
    encode::EncodeSettings,
    media::MediaRecord,
    schedule::{
        JobRequest, RUNS_MAX, RunOutcome, RunTrigger, ScheduleFired, ScheduleMissed, ScheduleRecord,
        ScheduleRefused, ScheduleRun, ScheduledRun, TranscodeJobRequest,
    },
};
use store::Store;
use web::problem_code::ProblemCode;

use crate::{
    capacity::{CapacityMonitor, ENCODE, JOB},
    jobs::{
        retry::{NextEncode, NextEncodeError, begin_scheduled_encode, require_encode_room},
        tasks::{TaskBeginning, TaskRequest, begin_scheduled_task},
    },
    quotas::{self, QuotaConfig},
    transcode::check_range,
};

/// How long a job is tried to be begun, in milliseconds: an hour.
pub const START_MS_MAX: u64 = 3_600_000;

/// Within how many milliseconds a time is looked for that no other run has.
const FREE_MS_MAX: u64 = 1_000;

/// What firing needs.
#[derive(Debug, Clone)]
pub struct ScheduleRunner {
    /// The bus.
    pub bus: Bus,
    /// Where the sources are.
    pub store: Store,
    /// Whether there is room for what is begun.
    pub capacity: CapacityMonitor,
    /// How much each owner may have done.
    pub quotas: QuotaConfig,
    /// How long a schedule without a time is kept, in milliseconds.
    pub ended_kept_ms: u64,
}

/// Who sets off a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunCause<'a> {
    /// Its time.
    Time,
    /// A person, by the account's name.
    Person(&'a str),
}

/// How a schedule was found, and what was done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleLook {
    /// It is not there any more.
    Gone,
    /// It was left as it is: it is not due, a run of it is starting, or only a newer version understands it.
    Left(ScheduleRecord),
    /// It went on to its next time, which may have come, too.
    Fired(ScheduleRecord),
}

impl ScheduleRunner {
    /// Fires the schedule if it is due at `now_ms`, by the broker's clock. Where a run of it is starting then, its job is still to be
    /// begun by [`ScheduleRunner::finish_run`].
    ///
    /// # Errors
    /// [`BusError`] when it is to be tried again later: nothing is lost.
    pub async fn fire_due(&self, key: &str, now_ms: u64) -> Result<ScheduleLook, BusError> {
        let Some(held) = self.bus.load_record::<ScheduleRecord>(key).await? else {
            return Ok(ScheduleLook::Gone);
        };
        match find_due(&held.record, now_ms) {
            Some(due) => self.fire(held, due, RunCause::Time, now_ms).await.map(ScheduleLook::Fired),
            None => Ok(ScheduleLook::Left(held.record)),
        }
    }

    /// Has a schedule run out of turn, which changes none of its times; answers how it is then, or nothing while its last run is
    /// still being begun.
    ///
    /// # Errors
    /// [`BusError`]; it did not fire then. What keeps the job of one that fired from being begun is tried again by the keeper.
    pub async fn run_now(
        &self,
        held: VersionedRecord<ScheduleRecord>,
        person: &str,
        now_ms: u64,
    ) -> Result<Option<ScheduleRecord>, BusError> {
        if held.record.starting_run().is_some() {
            return Ok(None);
        }
        let timing = read_timing(&held.record);
        let is_taken = |ms: &u64| {
            held.record.runs.iter().any(|run| run.planned_at_ms == *ms)
                || timing.as_ref().is_some_and(|timing| timing.find_from(*ms) == Some(*ms))
        };
        // A run is known by its time: none of those that are planned.
        let planned_at_ms =
            (now_ms..=now_ms.saturating_add(FREE_MS_MAX)).find(|ms| !is_taken(ms)).unwrap_or(now_ms);
        let next_run_at_ms = held.record.next_run_at_ms;
        let due = DueRun { planned_at_ms: Some(planned_at_ms), missed_at_ms: None, next_run_at_ms };
        let fired = self.fire(held, due, RunCause::Person(person), now_ms).await?;
        match self.finish_run(&fired, now_ms).await {
            Ok(finished) => Ok(Some(finished)),
            Err(error) => {
                tracing::warn!(%error, schedule.id = %fired.schedule_id, "the keeper begins what was to run now");
                Ok(Some(fired))
            }
        }
    }

    async fn fire(
        &self,
        mut held: VersionedRecord<ScheduleRecord>,
        due: DueRun,
        cause: RunCause<'_>,
        now_ms: u64,
    ) -> Result<ScheduleRecord, BusError> {
        let record = &mut held.record;
        let mut outbox = Outbox::new();
        if let Some((first_at_ms, last_at_ms)) = due.missed_at_ms {
            let (schedule_id, owner) = (record.schedule_id, record.owner.clone());
            outbox = outbox.with_event(&ScheduleMissed { schedule_id, owner, first_at_ms, last_at_ms });
        }
        if let Some(planned_at_ms) = due.planned_at_ms {
            let (trigger, fired_by) = match cause {
                RunCause::Time => (RunTrigger::Time, None),
                RunCause::Person(account) => (RunTrigger::Person, Some(account.to_owned())),
            };
            let fired = ScheduleFired {
                schedule_id: record.schedule_id,
                owner: record.owner.clone(),
                planned_at_ms,
                trigger,
                job: record.job.clone(),
                fired_by,
            };
            outbox = outbox.with_event(&fired);
            let outcome = self.prepare(record).await?;
            if let Some(refused) = describe_refusal(record, planned_at_ms, &outcome) {
                outbox = outbox.with_event(&refused);
            }
            record.runs.push(ScheduleRun { planned_at_ms, fired_at_ms: now_ms, trigger, outcome });
            let surplus = record.runs.len().saturating_sub(RUNS_MAX);
            record.runs.drain(..surplus);
        }
        record.next_run_at_ms = due.next_run_at_ms;
        if due.next_run_at_ms.is_none() {
            record.kept_until_ms = Some(now_ms.saturating_add(self.ended_kept_ms));
        }
        self.bus.commit_record(&mut held, outbox).await?;
        Ok(held.record)
    }

    /// What is known before the job is begun.
    async fn prepare(&self, record: &ScheduleRecord) -> Result<RunOutcome, BusError> {
        let Some(media_id) = record.job.media_id() else {
            return Ok(refuse(ProblemCode::JobKindUnknown, "this version knows no jobs of that kind"));
        };
        Ok(match self.bus.load_record::<MediaRecord>(&media_id.to_string()).await? {
            None => refuse(ProblemCode::NotFound, "the medium is not there any more"),
            Some(medium) if medium.record.owner != record.owner => {
                refuse(ProblemCode::NotOwner, "the medium belongs to somebody else now")
            }
            Some(medium) => RunOutcome::Starting {
                job: Box::new(record.job.clone()),
                attempt_before: medium.record.attempt.number,
            },
        })
    }

    /// Begins the job of the run that says it is starting, if there is one, and writes down what came of it; answers how the schedule
    /// is then.
    ///
    /// # Errors
    /// [`NextEncodeError`] when it is to be tried again later: nothing is lost.
    pub async fn finish_run(
        &self,
        record: &ScheduleRecord,
        now_ms: u64,
    ) -> Result<ScheduleRecord, NextEncodeError> {
        let Some(run) = record.starting_run().filter(|_| !record.is_of_newer_version()) else {
            return Ok(record.clone());
        };
        let RunOutcome::Starting { job, attempt_before } = &run.outcome else { return Ok(record.clone()) };
        let name = record.scheduled_run(run.planned_at_ms);
        let outcome = match self.begin_job(&record.owner, job, (name, *attempt_before)).await {
            Ok(outcome) => outcome,
            Err(error) if is_passing(&error) && now_ms < run.fired_at_ms.saturating_add(START_MS_MAX) => {
                return Err(error);
            }
            Err(error) => RunOutcome::Refused { code: error.code().to_owned(), detail: error.to_string() },
        };
        let change = |found: Option<&ScheduleRecord>| {
            // Also one of a newer version that came meanwhile: its keeper finds what was begun.
            let mut next = found.filter(|found| !found.is_of_newer_version())?.clone();
            let is_it = |other: &&mut ScheduleRun| {
                other.planned_at_ms == run.planned_at_ms
                    && matches!(other.outcome, RunOutcome::Starting { .. })
            };
            next.runs.iter_mut().find(is_it)?.outcome = outcome.clone();
            let refused = describe_refusal(&next, run.planned_at_ms, &outcome);
            let outbox = refused.iter().fold(Outbox::new(), Outbox::with_event);
            Some((next, outbox))
        };
        let stored = self.bus.change_record::<ScheduleRecord>(&record.key(), change).await?;
        Ok(stored.map_or_else(|| record.clone(), |held| held.record))
    }

    async fn begin_job(
        &self,
        owner: &str,
        job: &JobRequest,
        (run, attempt_before): (ScheduledRun, u32),
    ) -> Result<RunOutcome, NextEncodeError> {
        if let JobRequest::Transcode(wanted) = job {
            return Box::pin(self.begin_encode(owner, wanted, (run, attempt_before))).await;
        }
        let Some(request) = TaskRequest::of(job) else {
            return Ok(refuse(ProblemCode::JobKindUnknown, "this version knows no jobs of that kind"));
        };
        if let Some(full) = self.capacity.find_full(&JOB) {
            return Err(NextEncodeError::NoRoom(full));
        }
        let room = quotas::require_work_room(&self.bus, &self.quotas, owner, (None, 0));
        room.await.map_err(NextEncodeError::refused_by_quota)?;
        Ok(match begin_scheduled_task(&self.bus, owner, run, request).await? {
            TaskBeginning::Begun(job) | TaskBeginning::Found(job) => RunOutcome::Begun { job_id: job.job_id },
            TaskBeginning::Refused(why) => refuse(ProblemCode::NothingStored, why),
        })
    }

    async fn begin_encode(
        &self,
        owner: &str,
        wanted: &TranscodeJobRequest,
        (run, attempt_before): (ScheduledRun, u32),
    ) -> Result<RunOutcome, NextEncodeError> {
        if let Some(full) = self.capacity.find_full(&ENCODE) {
            return Err(NextEncodeError::NoRoom(full));
        }
        let found = self.bus.load_record::<MediaRecord>(&wanted.media_id.to_string()).await?;
        let found = found.map(|held| held.record);
        // What a keeper before this one began is no other encode.
        if !found.as_ref().is_some_and(|record| record.attempt.scheduled == Some(run)) {
            let technical = found.as_ref().and_then(|record| record.technical.as_ref());
            let whole_ms = technical.map_or(0, |technical| technical.duration_ms);
            // When it was asked for, the source may not have been looked at.
            if let Some(Err(why)) = wanted.range.map(|range| check_range(range, technical)) {
                return Ok(refuse(ProblemCode::EncodeRangeInvalid, &why));
            }
            let encode_ms = wanted.range.map_or(whole_ms, |range| range.duration_ms_of(whole_ms));
            let (medium, work) = ((found.as_ref(), owner), (Some(encode_ms), 0));
            require_encode_room(&self.bus, &self.quotas, medium, work)
                .await
                .map_err(NextEncodeError::refused_by_quota)?;
        }
        let (profile, priority) = (wanted.profile.clone(), wanted.priority);
        let settings = EncodeSettings { profile, priority, range: wanted.range, ..EncodeSettings::default() };
        let medium = (wanted.media_id, owner, attempt_before);
        Ok(match begin_scheduled_encode(&self.bus, &self.store, medium, (run, settings)).await? {
            NextEncode::Begun { job_id, .. } => RunOutcome::Begun { job_id },
            NextEncode::Superseded(why) => refuse(ProblemCode::NotEncodable, why),
        })
    }
}

pub(super) fn refuse(code: ProblemCode, detail: &str) -> RunOutcome {
    RunOutcome::Refused { code: code.code().to_owned(), detail: detail.to_owned() }
}

/// The event of a run without a job.
pub(super) fn describe_refusal(
    record: &ScheduleRecord,
    planned_at_ms: u64,
    outcome: &RunOutcome,
) -> Option<ScheduleRefused> {
    let RunOutcome::Refused { code, detail } = outcome else { return None };
    Some(ScheduleRefused {
        schedule_id: record.schedule_id,
        owner: record.owner.clone(),
        planned_at_ms,
        code: code.clone(),
        detail: detail.clone(),
    })
}

/// True for what may go by itself: the broker, or the store, is away or full.
fn is_passing(error: &NextEncodeError) -> bool {
    match error {
        NextEncodeError::Bus(BusError::Invalid { .. }) => false,
        // Also what only a newer version can read: one of it may be the next keeper.
        NextEncodeError::Bus(_) | NextEncodeError::NoRoom(_) => true,
        NextEncodeError::Store(error) => error.is_outage(),
        // Also an index that does not answer.
        NextEncodeError::Quota(problem) => problem.code() != ProblemCode::QuotaExceeded.code(),
        _ => false,
    }
}

/// The timing of a record; none of one that only a newer version understands.
pub(super) fn read_timing(record: &ScheduleRecord) -> Option<Timing> {
    Timing::parse(&record.timing, record.created_at_ms)
        .inspect_err(
            |error| tracing::warn!(%error, schedule.id = %record.schedule_id, "its times can't be read here"),
        )
        .ok()
}

fn find_due(record: &ScheduleRecord, now_ms: u64) -> Option<DueRun> {
    let next_run_at_ms = record.next_run_at_ms.filter(|ms| record.paused_at_ms.is_none() && *ms <= now_ms)?;
    // One after the other; and what a newer version made is fired by a keeper of it.
    if record.starting_run().is_some() || record.is_of_newer_version() {
        return None;
    }
    find_due_run(&read_timing(record)?, record.missed, next_run_at_ms, now_ms)
}
