//! What the records of jobs and parts say about letting them in.

use std::time::Duration;

use nats::{Bus, BusError, VersionedRecord};
use schemas::{
    KvRecord as _,
    fault::error_chain,
    ids::JobId,
    job::{self, JobPartRecord, JobPartStatus, JobRecord},
    pause::QueuePauses,
    subjects,
};

/// How soon a job is looked at again whose finish a worker holds, or has just ended.
pub(crate) const FINISH_PERIOD: Duration = Duration::from_secs(2);

/// How long after a job its planner may write the records of what was made before, in milliseconds; then that is made anew.
pub(crate) const MADE_WAIT_MS: u64 = 120_000;

/// How long ago the holder of a finish must have shown itself last to count as gone, in milliseconds: it does so every two seconds.
const HOLDER_SEEN_MS: u64 = 10_000;

/// What became of a part, by its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartFate {
    /// It is done or given up.
    Over,
    /// Somebody has to resume it.
    Parked,
    /// It lost workers, and is tried again later.
    Delayed {
        /// Unix time in milliseconds.
        retry_at_ms: u64,
    },
    /// It is to be made.
    Open,
}

/// The job, if its parts are to be run.
pub(crate) async fn load_runnable_job(
    bus: &Bus,
    job_id: JobId,
) -> Result<Option<VersionedRecord<JobRecord>>, BusError> {
    match bus.load_record::<JobRecord>(&job_id.to_string()).await {
        Ok(held) => Ok(held.filter(|held| held.record.is_to_be_run())),
        Err(error @ BusError::Undecodable { .. }) => {
            // One record that can't be read must not stop all others.
            tracing::error!(error = error_chain(&error), job.id = %job_id, "this job is left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whose a job is; `None` where it is gone or can't be read.
pub(crate) async fn load_owner(bus: &Bus, job_id: JobId) -> Result<Option<String>, BusError> {
    match bus.load_record::<JobRecord>(&job_id.to_string()).await {
        Ok(held) => Ok(held.map(|held| held.record.owner)),
        Err(BusError::Undecodable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is paused; `None` when that can't be read here, and what was known before holds.
pub(crate) async fn load_pauses(bus: &Bus) -> Result<Option<QueuePauses>, BusError> {
    match bus.load_record::<QueuePauses>(QueuePauses::KEY).await {
        Ok(held) => Ok(Some(held.map(|held| held.record).unwrap_or_default())),
        Err(error @ BusError::Undecodable { .. }) => {
            tracing::error!(error = error_chain(&error), "what is paused can't be read, and stays as it was");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What became of a part, at `now_ms` of the broker's time.
pub(crate) async fn load_fate(
    bus: &Bus,
    job_id: JobId,
    part: &str,
    now_ms: u64,
) -> Result<PartFate, BusError> {
    let found = match load_part(bus, job_id, part).await {
        Err(error @ BusError::Undecodable { .. }) => {
            // Left to a person: one record that can't be read must not stop all others.
            tracing::error!(error = error_chain(&error), job.id = %job_id, part, "this part is left out");
            return Ok(PartFate::Parked);
        }
        found => found?,
    };
    Ok(found.map_or(PartFate::Open, |held| fate_of(&held.record, now_ms)))
}

fn fate_of(part: &JobPartRecord, now_ms: u64) -> PartFate {
    match part.retry_at_ms() {
        _ if part.status != JobPartStatus::Claimed => PartFate::Over,
        _ if part.is_parked() => PartFate::Parked,
        Some(retry_at_ms) if retry_at_ms > now_ms => PartFate::Delayed { retry_at_ms },
        _ => PartFate::Open,
    }
}

/// Parts that the job before this one has made and that are not over: the planner writes their records behind the job's own.
pub(crate) async fn find_missing_parts(
    bus: &Bus,
    job: &JobRecord,
    now_ms: u64,
) -> Result<Vec<String>, BusError> {
    let mut missing = Vec::new();
    for part in &job.made {
        if load_fate(bus, job.job_id, part, now_ms).await? != PartFate::Over {
            missing.push(part.clone());
        }
    }
    Ok(missing)
}

/// Where the finish of a job stands whose parts are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishState {
    /// A worker is at it.
    Held,
    /// It is tried later, or resumed by somebody.
    HeldBack(PartFate),
    /// Nobody is at it. It may be over by its record: a worker ends the job, then.
    Free,
}

/// Looks at the finish of a job whose parts are over.
pub(crate) async fn load_finish_state(bus: &Bus, job_id: JobId) -> Result<FinishState, BusError> {
    let found = match load_part(bus, job_id, job::FINISH).await {
        // Left to a person, as in `load_fate`.
        Err(BusError::Undecodable { .. }) => return Ok(FinishState::HeldBack(PartFate::Parked)),
        found => found?,
    };
    let Some(held) = found else { return Ok(FinishState::Free) };
    // By the time of the broker: what a holder says of itself is of its own clock.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(JobPartRecord::BUCKET)).await?;
    match fate_of(&held.record, now_ms) {
        fate @ (PartFate::Parked | PartFate::Delayed { .. }) => return Ok(FinishState::HeldBack(fate)),
        PartFate::Over => return Ok(FinishState::Free),
        PartFate::Open => {}
    }
    let was_seen = held.record.seen_at_ms(held.stored_at_ms()).saturating_add(HOLDER_SEEN_MS) > now_ms;
    Ok(if held.record.last_seen_ms > 0 && was_seen { FinishState::Held } else { FinishState::Free })
}

async fn load_part(
    bus: &Bus,
    job_id: JobId,
    part: &str,
) -> Result<Option<VersionedRecord<JobPartRecord>>, BusError> {
    bus.load_record::<JobPartRecord>(&subjects::part_key(job_id, part)).await
}
