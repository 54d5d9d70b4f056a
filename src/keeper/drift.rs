//! Queue and store against state: an active job whose part is neither done nor queued would wait for ever; it is queued again. What
//! a cancelled job had stored is removed once its workers have stopped.
//!
//! The other direction, a queued part of an ended job, is harmless: the worker drops it at its claim. A part that was put
//! aside since it loses its workers stays off the queue until somebody resumes it.
//!
//! Limits: one pass over the jobs each period; an active job must be older than two periods to be looked at, and at most
//! [`CLEARED_MAX`] cancelled ones are cleared.

use std::{collections::HashSet, time::Duration};

use ingress::jobs::cancellation::fail_cancelled_medium;
use nats::{Bus, BusError, Outbox, ReaderStart, reader};
use schemas::{KvRecord, job, media, subjects};
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Most cancelled jobs whose objects one comparison removes.
pub const CLEARED_MAX: u64 = 100;

/// How long after its end a cancelled job is cleared once more, in milliseconds: a worker without a connection may have gone on.
const LATE_OBJECTS_MS: u64 = 10 * 60_000;

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
    // The queue first: what is cleared waits for the store.
    report.cleared_count = clear_cancelled_jobs(bus, store, &seen, now_ms).await?;
    Ok(report)
}

/// Removes what cancelled jobs have stored on which nobody works any more; answers how many jobs that were.
async fn clear_cancelled_jobs(
    bus: &Bus,
    store: &Store,
    seen: &JobBucketSnapshot,
    now_ms: u64,
) -> Result<u64, BusError> {
    let is_held = |job: &&job::JobRecord| {
        let prefix = format!("{}.", job.job_id);
        seen.held.iter().any(|key| key.starts_with(&prefix))
    };
    let mut count = 0;
    for record in seen.cancelled.iter().filter(|job| !is_held(job)) {
        if count >= CLEARED_MAX {
            break;
        }
        match clear_cancelled_job(bus, store, record, now_ms).await {
            Ok(()) => count += 1,
            Err(ClearError::Bus(error @ BusError::Unavailable(_))) => return Err(error),
            Err(ClearError::Bus(error)) => {
                tracing::warn!(%error, job.id = %record.job_id, "a cancelled job is cleared in a later pass");
            }
            Err(ClearError::Store(error)) => {
                tracing::warn!(%error, job.id = %record.job_id, "what a cancelled job has stored stays for now");
                // It is away for the others, too.
                if error.is_outage() {
                    break;
                }
            }
        }
    }
    Ok(count)
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
        let is_being_finished = *part == job::FINISH && seen.held.contains(&key(part));
        !is_being_finished && !seen.parked.contains(&key(part))
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

/// Why a cancelled job could not be cleared.
#[derive(Debug)]
enum ClearError {
    Bus(BusError),
    Store(StoreError),
}

impl From<BusError> for ClearError {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

/// Removes the objects of a cancelled job, unless its medium plays them: a worker of an older version may have published them
/// without saying so in the job.
async fn clear_cancelled_job(
    bus: &Bus,
    store: &Store,
    record: &job::JobRecord,
    now_ms: u64,
) -> Result<(), ClearError> {
    let is_played = fail_cancelled_medium(bus, record).await?.is_some_and(|medium| {
        let plays = matches!(medium.status, media::MediaStatus::Playable | media::MediaStatus::Ready);
        plays && medium.encode.is_some_and(|encode| encode.prefix == record.prefix)
    });
    if !is_played {
        store.remove_folder(&record.prefix).await.map_err(ClearError::Store)?;
    }
    bus.change_record::<job::JobRecord>(&record.key(), |found| {
        let cleared = found.filter(|job| is_to_be_cleared(job, now_ms))?.clone();
        Some((job::JobRecord { cleared_at_ms: Some(now_ms), ..cleared }, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// True for a cancelled job that was not cleared, or not since its late objects may have come.
fn is_to_be_cleared(job: &job::JobRecord, now_ms: u64) -> bool {
    let late_ms = job.ended_at_ms.unwrap_or_default().saturating_add(LATE_OBJECTS_MS);
    let is_due = job.cleared_at_ms.is_none_or(|cleared_ms| cleared_ms < late_ms && late_ms <= now_ms);
    job.status == job::JobStatus::Cancelled && is_due
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
            } else if is_to_be_cleared(&record, now_ms) {
                seen.cancelled.push(record);
            }
        }
    }
    Ok(seen)
}
