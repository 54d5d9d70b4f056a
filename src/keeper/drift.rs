//! Queue against state: an active job whose part is neither done nor queued would wait for ever; it is queued again.
//!
//! The other direction, a queued part of an ended job, is harmless: the worker drops it at its claim. A part that was put
//! aside since it loses its workers stays off the queue until somebody resumes it.
//!
//! Limits: one pass over the active jobs each period; a job must be older than two periods to be looked at.

use std::{collections::HashSet, time::Duration};

use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{KvRecord, job, subjects};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Compares until `held` fires.
pub async fn run_drift_repair(bus: Bus, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.drift_period_ms);
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        match repair_drift(&bus, config.drift_period_ms * 2).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "parts were missing from the queue and are queued again"),
            Err(error) => tracing::warn!(%error, "queue and state could not be compared"),
        }
    }
}

/// Queues what active jobs older than `age_ms` miss; answers how many parts that were.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn repair_drift(bus: &Bus, age_ms: u64) -> Result<u64, BusError> {
    let bucket = job::JobRecord::BUCKET;
    // Only jobs of some age: the parts of a new one may be on their way to the queue.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(bucket)).await?;
    let JobBucketSnapshot { jobs, done, parked } = read_job_bucket(bus, bucket).await?;
    let mut count = 0;
    for record in jobs.iter().filter(|job| job.created_at_ms.saturating_add(age_ms) <= now_ms) {
        let open: Vec<&String> = record
            .parts
            .iter()
            .filter(|part| !done.contains(&subjects::part_key(record.job_id, part)))
            .collect();
        // With every part done only the finish can be missing.
        let finish = job::FINISH.to_owned();
        let missing = if open.is_empty() { vec![&finish] } else { open };
        for part in
            missing.into_iter().filter(|part| !parked.contains(&subjects::part_key(record.job_id, part)))
        {
            let subject = subjects::job_part_subject(&record.kind, record.priority, record.job_id, part);
            let task = job::JobPartTask { job_id: record.job_id, part: part.clone() };
            // A part that is queued or being worked on still has its message: the subject takes no second one.
            if let nats::PublishOutcome::Stored(_) = bus.publish_once(subjects::JOBS, &subject, &task).await?
            {
                count += 1;
            }
        }
    }
    Ok(count)
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
}

async fn read_job_bucket(bus: &Bus, bucket: &str) -> Result<JobBucketSnapshot, BusError> {
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
            }
        } else if let Ok((_, record)) = nats::decode_record::<job::JobRecord>(key, &entry.payload)
            && record.status == job::JobStatus::Active
        {
            seen.jobs.push(record);
        }
    }
    Ok(seen)
}
