//! Cancelling a job: its record says so by compare-and-set, its workers stop, and the medium of an encode says why nothing plays.
//!
//! The record decides; the hint to the workers and what becomes of the medium are repeated where they are missing: workers
//! read the record each `renew_interval_ms`, and the keeper looks at cancelled jobs before it removes what they had stored.

use nats::{Bus, BusError, Outbox};
use schemas::{
    KvRecord,
    ids::{JobId, UploadId},
    job::{self, JobRecord, JobStatus},
    media, subjects,
    upload::{UploadRecord, UploadStatus},
};

use crate::uploads::{UploadRefusal, end_fetched_upload};

/// Tries to end the upload of a cancelled job while bytes of it are written down.
const END_ATTEMPTS_MAX: usize = 8;

/// Who cancels a job.
#[derive(Debug, Clone, Copy)]
pub enum JobCanceller<'a> {
    /// A person, by the name of the account; refused once the result is being published.
    Person(&'a str),
    /// Its medium was removed: nothing can be published.
    Removal,
}

/// What asking for an end led to.
#[derive(Debug)]
pub enum CancelOutcome {
    /// It is cancelled, now or before.
    Cancelled(Box<nats::VersionedRecord<JobRecord>>),
    /// It had ended.
    Ended(JobStatus),
    /// Its result is being published.
    Publishing,
    /// There is no such job.
    Absent,
}

/// Cancels a job that has not ended. Repeating it is harmless.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn cancel_job(
    bus: &Bus,
    job_id: JobId,
    canceller: JobCanceller<'_>,
) -> Result<CancelOutcome, BusError> {
    let cancelled_by = match canceller {
        JobCanceller::Person(name) => Some(name),
        JobCanceller::Removal => None,
    };
    if cancelled_by.is_some() && Box::pin(is_fetched(bus, job_id)).await? {
        return Ok(CancelOutcome::Publishing);
    }
    // The broker's clock, as everywhere in the record.
    let now_ms = Box::pin(bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET))).await?;
    let change = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_cancellation(cancelled_by, now_ms, schemas::ENDED_KEPT_MS)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = Box::pin(bus.change_record::<JobRecord>(&job_id.to_string(), change)).await?;
    let Some(held) = held else { return Ok(CancelOutcome::Absent) };
    match held.record.status {
        JobStatus::Active => Ok(CancelOutcome::Publishing),
        JobStatus::Cancelled => {
            // Only a hint that makes workers look at once; the record is what ends the job.
            bus.publish_core(subjects::job_cancel_subject(job_id), Vec::new()).await?;
            if let Some(fetch) = &held.record.fetch {
                end_upload(bus, fetch.upload_id).await?;
            }
            if held.record.is_encode() {
                fail_cancelled_medium(bus, &held.record).await?;
            }
            Ok(CancelOutcome::Cancelled(Box::new(held)))
        }
        ended @ (JobStatus::Succeeded | JobStatus::Failed) => Ok(CancelOutcome::Ended(ended)),
    }
}

/// Cancels a job that is paused, and nobody works on, for the account `by`; false when it is not, or somebody else did.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn cancel_paused_job(bus: &Bus, job_id: JobId, by: &str) -> Result<bool, BusError> {
    let now_ms = Box::pin(bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET))).await?;
    let mut is_cancelled = false;
    let change = |found: Option<&JobRecord>| {
        // Another call may come after a conflict, and find that somebody resumed it.
        is_cancelled = false;
        let paused = found.filter(|job| job.is_paused())?;
        let (record, event) = paused.with_cancellation(Some(by), now_ms, schemas::ENDED_KEPT_MS)?;
        is_cancelled = true;
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = Box::pin(bus.change_record::<JobRecord>(&job_id.to_string(), change)).await?;
    if let Some(held) = held.filter(|_| is_cancelled) {
        fail_cancelled_medium(bus, &held.record).await?;
    }
    Ok(is_cancelled)
}

/// True when all that a job was to fetch is there: its medium goes its way, and the job only has to say so.
async fn is_fetched(bus: &Bus, job_id: JobId) -> Result<bool, BusError> {
    let Some(job) = bus.load_record::<JobRecord>(&job_id.to_string()).await? else { return Ok(false) };
    let Some(fetch) = job.record.fetch.filter(|_| job.record.ended_at_ms.is_none()) else { return Ok(false) };
    let upload = bus.load_record::<UploadRecord>(&fetch.upload_id.to_string()).await?;
    Ok(upload.is_some_and(|held| held.record.status == UploadStatus::Received))
}

/// Ends the upload for which a cancelled job fetched; its worker, or the keeper, frees what it has.
async fn end_upload(bus: &Bus, upload_id: UploadId) -> Result<(), BusError> {
    for _ in 0..END_ATTEMPTS_MAX {
        match end_fetched_upload(bus, upload_id).await {
            Ok(()) | Err(UploadRefusal::NotFound) => return Ok(()),
            // The worker wrote down what came in this moment.
            Err(UploadRefusal::Displaced { .. }) => {}
            Err(UploadRefusal::Bus(error)) => return Err(error),
            Err(refusal) => {
                return Err(BusError::unavailable(format!("the upload of a cancelled job: {refusal:?}")));
            }
        }
    }
    // Its worker stops, and ends it then.
    Ok(())
}

/// Says in the record of the medium that its job was cancelled, unless something plays or is being made; answers how the
/// medium is then, `None` once it was removed. Repeating it is harmless.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn fail_cancelled_medium(
    bus: &Bus,
    job: &JobRecord,
) -> Result<Option<media::MediaRecord>, BusError> {
    let failed = |found: Option<&media::MediaRecord>| {
        let detail = "what was being made of it was cancelled";
        let record =
            found?.with_failure(job.encode, job::JOB_CANCELLED, detail, nats::estimated_broker_now_ms())?;
        Some((record, Outbox::new()))
    };
    let held = Box::pin(bus.change_record::<media::MediaRecord>(&job.media_id.to_string(), failed)).await?;
    Ok(held.map(|held| held.record))
}
