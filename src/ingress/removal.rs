//! What is going on around a removed medium is ended: stages find a tombstone, its jobs are cancelled. The ingress does it with the
//! removal, the keeper again for what a crash left undone, before it purges.
//!
//! Limits: the jobs of a medium are asked for by the numbers of its encodes, as far as `NUMBERS_AHEAD_MAX` behind the last one
//! found.

use crate::{
    jobs::{
        cancellation::{CancelOutcome, JobCanceller, cancel_job},
        fetch::fetch_job_id,
    },
    uploads,
};
use nats::{Bus, BusError, Outbox};
use packaging::plan;
use schemas::{document, ids::MediaId, media};

/// Numbers of encodes without a job that are asked for before the search ends.
const NUMBERS_AHEAD_MAX: u32 = 2;

/// Ends what is going on. Repeating it is harmless.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn end_media_work(bus: &Bus, removed: &document::MediaDocumentRecord) -> Result<(), BusError> {
    let media_id = removed.media_id;
    let key = media_id.to_string();
    let known = bus.load_with_tombstone::<media::MediaRecord>(&key).await?;
    let (newest, verification) = known.map_or((0, None), |held| {
        let newest = held.record.attempt.encode.max(held.record.encode.map_or(0, |encode| encode.number));
        (newest, held.record.verification)
    });
    // The tombstone before the jobs: a planner that comes later finds no medium and makes no new one.
    let left = Box::pin(bus.change_record::<media::MediaRecord>(&key, |found| {
        // Nobody restores what is removed for good; removals of before have no number.
        let is_restored = removed.is_restorable
            && removed.removal_count > 0
            && found.is_some_and(|medium| medium.restored_removal >= removed.removal_count);
        (!is_restored).then(|| (make_tombstone(found, removed), Outbox::new()))
    }))
    .await?;
    if left.is_some_and(|left| left.record.removed_at_ms.is_none()) {
        return Ok(());
    }
    end_upload(bus, removed).await?;
    if let Some(job_id) = verification {
        cancel_job(bus, job_id, JobCanceller::Removal).await?;
    }
    let (mut number, mut absent_count) = (1, 0);
    while number <= newest || absent_count < NUMBERS_AHEAD_MAX {
        // Those of a medium that is restored in this moment go on.
        if bus.load_record::<media::MediaRecord>(&key).await?.is_some() {
            return Ok(());
        }
        let job_id = plan::derive_job_id(media_id, number);
        let is_there =
            !matches!(cancel_job(bus, job_id, JobCanceller::Removal).await?, CancelOutcome::Absent);
        absent_count = if is_there { 0 } else { absent_count + 1 };
        number += 1;
    }
    Ok(())
}

/// Ends the upload of a removed medium, if it is still open: no byte more is taken. The keeper frees what it has.
async fn end_upload(bus: &Bus, removed: &document::MediaDocumentRecord) -> Result<(), BusError> {
    let Some(upload_id) = removed.upload_id else { return Ok(()) };
    match uploads::end_removed_upload(bus, upload_id).await {
        Ok(()) | Err(uploads::UploadRefusal::NotFound | uploads::UploadRefusal::Displaced { .. }) => {}
        Err(refusal) => {
            return Err(BusError::unavailable(format!("the upload of a removed medium: {refusal:?}")));
        }
    }
    // The job that fetches it, if there is one.
    cancel_job(bus, fetch_job_id(removed.media_id, upload_id), JobCanceller::Removal).await?;
    Ok(())
}

/// What the stages find; made also where they know nothing yet, so that they never begin.
fn make_tombstone(
    found: Option<&media::MediaRecord>,
    removed: &document::MediaDocumentRecord,
) -> media::MediaRecord {
    let record = found.cloned().unwrap_or_else(|| media::MediaRecord {
        changed_at_ms: removed.changed_at_ms,
        ..media::MediaRecord::new(
            removed.media_id,
            removed.owner.clone(),
            media::MediaStatus::Uploading,
            removed.created_at_ms,
        )
    });
    media::MediaRecord { removed_at_ms: removed.removed_at_ms, ..record }
}

/// Ends the work on a medium by its id alone, for a caller that found its tombstone.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn end_removed_media_work(bus: &Bus, media_id: MediaId) -> Result<(), BusError> {
    match bus.load_with_tombstone::<document::MediaDocumentRecord>(&media_id.to_string()).await? {
        Some(held) if held.record.removed_at_ms.is_some() => end_media_work(bus, &held.record).await,
        _ => Ok(()),
    }
}
