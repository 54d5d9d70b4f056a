//! How far a part is, for those who follow its job.

use nats::Bus;
use schemas::{
    job::{JobPartProgress, JobRecord},
    subjects,
};

/// Publishes that `done_ms` of the `total_ms` milliseconds of a part are done. What can't be published is no harm.
pub async fn publish_progress(bus: &Bus, job: &JobRecord, part: &str, (done_ms, total_ms): (u64, u64)) {
    let progress = JobPartProgress {
        job_id: job.job_id,
        media_id: job.media_id,
        owner: job.owner.clone(),
        part: part.to_owned(),
        done_ms: done_ms.min(total_ms),
        total_ms,
        kind: job.kind.clone(),
    };
    let subject = subjects::progress_subject(job.job_id, part);
    let published = match nats::encode_message(&subject, &progress) {
        Ok(payload) => bus.publish_core(subject, payload).await,
        Err(error) => Err(error),
    };
    if let Err(error) = published {
        tracing::debug!(%error, part, "progress could not be reported");
    }
}
