//! How a job ends: succeeded with a ready medium, or failed with a code.

use nats::{Bus, Outbox};
use schemas::{
    ids::MediaId,
    job::{self, Failed, Succeeded},
    media::{self, Encode, Ready, Status},
};

use crate::error::Error;

/// Publishes a finished encode: the medium is ready, then the job has succeeded. Repeating it is harmless.
pub(crate) async fn succeed(bus: &Bus, job: &job::Record, encode: &Encode, cpu_ms: u64) -> Result<(), Error> {
    bus.change::<media::Record>(&job.media_id.to_string(), |found| {
        let found = found?;
        let is_newer = found.encode.as_ref().is_none_or(|e| e.number <= encode.number);
        let is_done = found.status == Status::Ready && found.encode.as_ref() == Some(encode);
        if !is_newer || is_done || found.status == Status::Rejected {
            return None;
        }
        let mut record = found.clone();
        record.status = Status::Ready;
        (record.code, record.detail) = (None, None);
        record.encode = Some(encode.clone());
        record.waiting = None;
        record.changed_at_ms = nats::now_ms();
        let ready = Ready { media_id: job.media_id, owner: job.owner.clone(), encode: encode.clone() };
        Some((record, Outbox::new().event(&ready)))
    })
    .await?;
    bus.change::<job::Record>(&job.job_id.to_string(), |found| {
        let mut record = found.filter(|job| job.status == job::Status::Active)?.clone();
        let now_ms = nats::now_ms();
        record.status = job::Status::Succeeded;
        record.ended_at_ms = Some(now_ms);
        let succeeded = Succeeded {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            wall_ms: now_ms.saturating_sub(job.created_at_ms),
            cpu_ms,
        };
        Some((record, Outbox::new().event(&succeeded)))
    })
    .await?;
    Ok(())
}

/// Ends a job without a result. A medium that plays an older encode keeps playing it. Repeating it is harmless.
pub(crate) async fn fail(bus: &Bus, job: &job::Record, code: &str, detail: &str) -> Result<(), Error> {
    fail_medium(bus, job.media_id, Some(job.encode), code, detail).await?;
    bus.change::<job::Record>(&job.job_id.to_string(), |found| {
        let mut record = found.filter(|job| job.status == job::Status::Active)?.clone();
        record.status = job::Status::Failed;
        record.code = Some(code.to_owned());
        record.detail = Some(detail.to_owned());
        record.ended_at_ms = Some(nats::now_ms());
        let failed = Failed {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            code: code.to_owned(),
            detail: detail.to_owned(),
        };
        Some((record, Outbox::new().event(&failed)))
    })
    .await?;
    tracing::warn!(media.id = %job.media_id, job.id = %job.job_id, code, detail, "the job failed");
    Ok(())
}

/// Marks a medium that nothing plays of as failed. `encode` names the one that failed; `None` before there was one.
pub(crate) async fn fail_medium(
    bus: &Bus,
    media_id: MediaId,
    encode: Option<u32>,
    code: &str,
    detail: &str,
) -> Result<(), Error> {
    bus.change::<media::Record>(&media_id.to_string(), |found| {
        let found = found?;
        let is_current = found.encode.as_ref().is_none_or(|e| Some(e.number) == encode);
        if !matches!(found.status, Status::Stored | Status::Playable) || !is_current {
            return None;
        }
        let mut record = found.clone();
        record.status = Status::Failed;
        record.waiting = None;
        record.code = Some(code.to_owned());
        record.detail = Some(detail.to_owned());
        record.changed_at_ms = nats::now_ms();
        Some((record, Outbox::new()))
    })
    .await?;
    Ok(())
}
