//! Jobs that fetch the bytes of an upload from an address: begun with the upload, and ended with it.

use nats::{Bus, BusError, Outbox, VersionedRecord};
use outbound::OutboundUrl;
use packaging::plan;
use schemas::{
    KvRecord as _,
    ids::{JobId, MediaId, UploadId},
    job::{self, EncodePlan, FetchSource, JobQueued, JobRecord},
    subjects,
    upload::UploadRecord,
};

/// The job that fetches the bytes of an upload: one, however often it is begun.
pub(crate) fn fetch_job_id(media_id: MediaId, upload_id: UploadId) -> JobId {
    plan::derive_task_id(media_id, &[b"fetch", upload_id.as_bytes()])
}

/// Begins the job that fetches `url` for an upload. Repeating it is harmless.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer; it may have begun then or not.
pub(crate) async fn begin_fetch_job(
    bus: &Bus,
    upload: &UploadRecord,
    url: &OutboundUrl,
) -> Result<(), BusError> {
    let job_id = fetch_job_id(upload.media_id, upload.upload_id);
    // The broker's clock, as everywhere in the record.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let about = (upload.media_id, upload.owner.as_str());
    let work = (EncodePlan::default(), upload.settings.priority);
    let source =
        FetchSource { upload_id: upload.upload_id, url: Some(url.expose().to_owned()), shown: url.shown() };
    let record =
        JobRecord { fetch: Some(source), ..JobRecord::new_task(job_id, job::FETCH, about, work, now_ms) };
    let queued = JobQueued {
        job_id,
        media_id: record.media_id,
        owner: record.owner.clone(),
        kind: record.kind.clone(),
        part_count: 1,
        total_ms: 0,
    };
    match bus.commit_record(&mut VersionedRecord::new(record), Outbox::new().with_event(&queued)).await {
        // Also a repetition of a request whose answer was lost.
        Ok(()) | Err(BusError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
