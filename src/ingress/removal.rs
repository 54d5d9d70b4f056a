//! What is going on around a removed medium is ended: stages find a tombstone, its jobs are cancelled. The ingress does it with the
//! removal, the keeper again for what a crash left undone, before it purges.
//!
//! Limits: the jobs of a medium are asked for by the numbers of its encodes, as far as `NUMBERS_AHEAD_MAX` behind the last one found.

use nats::{Bus, Error, Outbox};
use packaging::plan;
use schemas::{
    document,
    ids::{JobId, MediaId},
    job, media, subjects,
};

/// Numbers of encodes without a job that are asked for before the search ends.
const NUMBERS_AHEAD_MAX: u32 = 2;

/// Ends what is going on. Repeating it is harmless.
///
/// # Errors
/// [`Error::Unavailable`] when the broker does not answer.
pub async fn end_work(bus: &Bus, removed: &document::Record) -> Result<(), Error> {
    let media_id = removed.media_id;
    let key = media_id.to_string();
    let known = bus.load_any::<media::Record>(&key).await?;
    let newest = known.map_or(0, |held| {
        held.record.attempt.encode.max(held.record.encode.map_or(0, |encode| encode.number))
    });
    Box::pin(bus.change::<media::Record>(&key, |found| Some((tombstone(found, removed), Outbox::new()))))
        .await?;
    let (mut number, mut absent_count) = (1, 0);
    while number <= newest || absent_count < NUMBERS_AHEAD_MAX {
        let is_there = cancel(bus, plan::job_id(media_id, number)).await?;
        absent_count = if is_there { 0 } else { absent_count + 1 };
        number += 1;
    }
    Ok(())
}

/// What the stages find; made also where they know nothing yet, so that they never begin.
fn tombstone(found: Option<&media::Record>, removed: &document::Record) -> media::Record {
    let record = found.cloned().unwrap_or_else(|| media::Record {
        changed_at_ms: removed.changed_at_ms,
        ..media::Record::new(
            removed.media_id,
            removed.owner.clone(),
            media::Status::Uploading,
            removed.created_at_ms,
        )
    });
    media::Record { removed_at_ms: removed.removed_at_ms, ..record }
}

/// Cancels a job that has not ended, and tells whoever works on it; false when there is no such job.
///
/// # Errors
/// [`Error::Unavailable`] when the broker does not answer.
pub async fn cancel(bus: &Bus, job_id: JobId) -> Result<bool, Error> {
    let cancelled = |found: Option<&job::Record>| {
        let job = found.filter(|job| job.status == job::Status::Active)?;
        let event = job::Cancelled {
            job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
        };
        let mut record = job.clone();
        record.end(job::Status::Cancelled, nats::now_ms(), schemas::ENDED_KEPT_MS);
        Some((record, Outbox::new().event(&event)))
    };
    let held = Box::pin(bus.change::<job::Record>(&job_id.to_string(), cancelled)).await?;
    let Some(held) = held else { return Ok(false) };
    if held.record.status == job::Status::Cancelled {
        bus.tell(subjects::control_job(job_id), Vec::new()).await?;
    }
    Ok(true)
}

/// Ends the work on a medium by its id alone, for whoever found its tombstone.
///
/// # Errors
/// [`Error::Unavailable`] when the broker does not answer.
pub async fn end_work_of(bus: &Bus, media_id: MediaId) -> Result<(), Error> {
    match bus.load_any::<document::Record>(&media_id.to_string()).await? {
        Some(held) if held.record.removed_at_ms.is_some() => end_work(bus, &held.record).await,
        _ => Ok(()),
    }
}
