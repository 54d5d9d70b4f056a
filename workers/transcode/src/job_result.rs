//! How a job ends: succeeded with a ready medium, or failed with a code.

use nats::{Bus, Outbox};
use schemas::{
    ids::MediaId,
    job::{self, JobFailed, JobSucceeded},
    media::{self, MediaEncode, MediaReady, MediaStatus},
};

use crate::{TranscodeContext, error::TranscodeError};

/// Publishes a finished encode: the medium is ready, then the job has succeeded. Repeating it is harmless.
pub(crate) async fn complete_job(
    context: &TranscodeContext,
    job: &job::JobRecord,
    encode: &MediaEncode,
    cpu_ms: u64,
) -> Result<(), TranscodeError> {
    let bus = &context.bus;
    // The medium first: a crash in between leaves the job active, and its finish is repeated. The other way round
    // nothing would make the medium ready.
    bus.change_record::<media::MediaRecord>(&job.media_id.to_string(), |found| {
        let found = found?;
        let is_newer = found.encode.as_ref().is_none_or(|e| e.number <= encode.number);
        let is_done = found.status == MediaStatus::Ready && found.encode.as_ref() == Some(encode);
        if !is_newer || is_done || found.status == MediaStatus::Rejected {
            return None;
        }
        let mut record = found.clone();
        record.status = MediaStatus::Ready;
        (record.code, record.detail) = (None, None);
        record.encode = Some(encode.clone());
        record.waiting = None;
        record.changed_at_ms = nats::now_ms();
        let ready = MediaReady { media_id: job.media_id, owner: job.owner.clone(), encode: encode.clone() };
        Some((record, Outbox::new().with_event(&ready)))
    })
    .await?;
    bus.change_record::<job::JobRecord>(&job.job_id.to_string(), |found| {
        let mut record = found.filter(|job| job.status == job::JobStatus::Active)?.clone();
        let now_ms = nats::now_ms();
        record.mark_ended(job::JobStatus::Succeeded, now_ms, context.config.ended_kept_ms);
        let succeeded = JobSucceeded {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            wall_ms: now_ms.saturating_sub(job.created_at_ms),
            cpu_ms,
        };
        Some((record, Outbox::new().with_event(&succeeded)))
    })
    .await?;
    Ok(())
}

/// Ends a job without a result. A medium that plays an older encode keeps playing it. Repeating it is harmless.
pub(crate) async fn fail_job(
    context: &TranscodeContext,
    job: &job::JobRecord,
    code: &str,
    detail: &str,
) -> Result<(), TranscodeError> {
    let bus = &context.bus;
    // The medium first, as in `complete_job`: an ended job is never looked at again.
    fail_medium(bus, job.media_id, Some(job.encode), code, detail).await?;
    bus.change_record::<job::JobRecord>(&job.job_id.to_string(), |found| {
        let mut record = found.filter(|job| job.status == job::JobStatus::Active)?.clone();
        record.mark_ended(job::JobStatus::Failed, nats::now_ms(), context.config.ended_kept_ms);
        record.code = Some(code.to_owned());
        record.detail = Some(detail.to_owned());
        let failed = JobFailed {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            code: code.to_owned(),
            detail: detail.to_owned(),
        };
        Some((record, Outbox::new().with_event(&failed)))
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
) -> Result<(), TranscodeError> {
    bus.change_record::<media::MediaRecord>(&media_id.to_string(), |found| {
        let found = found?;
        let is_current = found.encode.as_ref().is_none_or(|e| Some(e.number) == encode);
        if !matches!(found.status, MediaStatus::Stored | MediaStatus::Playable) || !is_current {
            return None;
        }
        let mut record = found.clone();
        record.status = MediaStatus::Failed;
        record.waiting = None;
        record.code = Some(code.to_owned());
        record.detail = Some(detail.to_owned());
        record.changed_at_ms = nats::now_ms();
        Some((record, Outbox::new()))
    })
    .await?;
    Ok(())
}
