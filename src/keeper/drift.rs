//! Queue and store against state: an active job whose part is neither done nor queued would wait for ever; it is queued again. What
//! a cancelled job had stored is removed once its workers have stopped.
//!
//! The other direction, a queued part of an ended job, is harmless: the worker drops it at its claim. A part that was put
//! aside since it loses its workers stays off the queue until somebody resumes it.
//!
//! Limits: one pass over the active jobs each period; a job must be older than two periods to be looked at.

use std::{collections::HashSet, time::Duration};

use ingress::jobs::cancellation::fail_cancelled_medium;
use nats::{Bus, BusError, Outbox, ReaderStart, reader};
use schemas::{KvRecord, job, subjects};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// How long ago a holder must have shown itself last to count as stopped, in milliseconds.
const HOLDER_SEEN_MS: u64 = 60_000;

/// Compares until `held` fires.
pub async fn run_drift_repair(bus: Bus, store: Store, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.drift_period_ms);
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        match repair_drift(&bus, &store, config.drift_period_ms * 2).await {
            Ok(DriftReport { queued_count: 0, cleared_count: 0 }) => {}
            Ok(DriftReport { queued_count: 0, cleared_count }) => {
                tracing::info!(cleared_count, "what cancelled jobs had stored is removed");
            }
            Ok(DriftReport { queued_count, cleared_count }) => {
                tracing::warn!(
                    queued_count,
                    cleared_count,
                    "parts were missing from the queue and are queued again"
                );
            }
            Err(error) => tracing::warn!(%error, "queue and state could not be compared"),
        }
    }
}

/// What one comparison mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriftReport {
    /// Parts that were queued again.
    pub queued_count: u64,
    /// Cancelled jobs whose objects were removed.
    pub cleared_count: u64,
}

/// Queues what active jobs older than `age_ms` miss, and removes what cancelled ones left in the store.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn repair_drift(bus: &Bus, store: &Store, age_ms: u64) -> Result<DriftReport, BusError> {
    let bucket = job::JobRecord::BUCKET;
    // Only jobs of some age: the parts of a new one may be on their way to the queue.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(bucket)).await?;
    let seen = read_job_bucket(bus, bucket, now_ms).await?;
    let mut report = DriftReport::default();
    for record in seen.jobs.iter().filter(|job| job.created_at_ms.saturating_add(age_ms) <= now_ms) {
        report.queued_count += queue_missing_parts(bus, record, &seen).await?;
    }
    for record in &seen.cancelled {
        let is_held = seen.held.iter().any(|key| key.starts_with(&format!("{}.", record.job_id)));
        if !is_held && clear_cancelled_job(bus, store, record, now_ms).await? {
            report.cleared_count += 1;
        }
    }
    Ok(report)
}

/// Queues the parts of a job that are neither over nor queued; answers how many.
async fn queue_missing_parts(
    bus: &Bus,
    record: &job::JobRecord,
    seen: &JobBucketSnapshot,
) -> Result<u64, BusError> {
    let key = |part: &str| subjects::part_key(record.job_id, part);
    let open: Vec<&str> =
        record.parts.iter().map(String::as_str).filter(|part| !seen.done.contains(&key(part))).collect();
    // With every part done only the finish can be missing; the worker of the last part may be at it.
    let missing = if open.is_empty() { vec![job::FINISH] } else { open };
    let is_missing = |part: &&str| {
        !seen.parked.contains(&key(part)) && !(*part == job::FINISH && seen.held.contains(&key(part)))
    };
    let mut count = 0;
    for part in missing.into_iter().filter(is_missing) {
        let task = job::JobPartTask { job_id: record.job_id, part: part.to_owned() };
        // A part that is queued or being worked on still has its message: the subject takes no second one.
        let queued = bus.publish_once(subjects::JOBS, &record.part_subject(part), &task).await?;
        count += u64::from(matches!(queued, nats::PublishOutcome::Stored(_)));
    }
    Ok(count)
}

/// Removes the objects of a job that nobody works on any more; false when the store does not answer.
async fn clear_cancelled_job(
    bus: &Bus,
    store: &Store,
    record: &job::JobRecord,
    now_ms: u64,
) -> Result<bool, BusError> {
    fail_cancelled_medium(bus, record).await?;
    if let Err(error) = store.remove_folder(&record.prefix).await {
        tracing::warn!(%error, job.id = %record.job_id, "what a cancelled job had stored stays for now");
        return Ok(false);
    }
    bus.change_record::<job::JobRecord>(&record.key(), |found| {
        let cleared = found.filter(|job| is_to_be_cleared(job))?.clone();
        Some((job::JobRecord { cleared_at_ms: Some(now_ms), ..cleared }, Outbox::new()))
    })
    .await?;
    Ok(true)
}

fn is_to_be_cleared(job: &job::JobRecord) -> bool {
    job.status == job::JobStatus::Cancelled && job.cleared_at_ms.is_none()
}

/// What lies in the bucket of the jobs.
#[derive(Debug, Default)]
struct JobBucketSnapshot {
    /// The active jobs.
    jobs: Vec<job::JobRecord>,
    /// Keys of all parts that ended.
    done: HashSet<String>,
    /// Keys of all parts that were put aside.
    parked: HashSet<String>,
    /// Keys of all parts whose holder showed itself lately.
    held: HashSet<String>,
    /// Cancelled jobs whose objects may still be there.
    cancelled: Vec<job::JobRecord>,
}

async fn read_job_bucket(bus: &Bus, bucket: &str, now_ms: u64) -> Result<JobBucketSnapshot, BusError> {
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(bucket),
        vec![subjects::kv_subject(bucket, ">")],
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.open_reader(settings).await?;
    let mut seen = JobBucketSnapshot::default();
    let prefix = subjects::kv_subject(bucket, "");
    while let Some(entry) = entries.next_pending().await? {
        let Some(key) = entry.subject.strip_prefix(&prefix) else { continue };
        if key.contains('.') {
            let Ok((_, part)) = nats::decode_record::<job::JobPartRecord>(key, &entry.payload) else {
                continue;
            };
            if part.status != job::JobPartStatus::Claimed {
                seen.done.insert(key.to_owned());
            } else if part.is_parked() {
                seen.parked.insert(key.to_owned());
            } else if part.last_seen_ms > 0 && entry.stored_at_ms.saturating_add(HOLDER_SEEN_MS) > now_ms {
                // By the time of the broker: what a holder says of itself is of its own clock.
                seen.held.insert(key.to_owned());
            }
        } else if let Ok((_, record)) = nats::decode_record::<job::JobRecord>(key, &entry.payload) {
            if record.status == job::JobStatus::Active {
                seen.jobs.push(record);
            } else if is_to_be_cleared(&record) {
                seen.cancelled.push(record);
            }
        }
    }
    Ok(seen)
}
