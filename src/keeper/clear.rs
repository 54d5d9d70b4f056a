//! What a cancelled job had stored is removed once its workers have stopped, and what a failed one had once it is folded: until then a
//! retry keeps the parts that were made.
//!
//! Limits: one pass over the jobs each period, which clears at most [`CLEARED_MAX`] of them.

use std::{collections::HashSet, time::Duration};

use ingress::jobs::cancellation::fail_cancelled_medium;
use nats::{Bus, BusError, Outbox, ReaderStart, reader};
use schemas::{KvRecord, job, keys, media, subjects};
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Most jobs whose objects one pass removes.
pub const CLEARED_MAX: u64 = 100;

/// How long after its end a cancelled job is cleared once more, in milliseconds: a worker without a connection may have gone on.
const LATE_OBJECTS_MS: u64 = 10 * 60_000;

/// How long ago a holder must have shown itself last to count as stopped, in milliseconds.
const HOLDER_SEEN_MS: u64 = 60_000;

/// Clears until `held` fires.
pub async fn run_clearing(bus: Bus, store: Store, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.clear_period_ms);
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        match clear_ended_jobs(&bus, &store).await {
            Ok(0) => {}
            Ok(cleared_count) => {
                tracing::info!(cleared_count, "what jobs without a result had stored is removed");
            }
            Err(error) => tracing::warn!(%error, "jobs without a result could not be looked at"),
        }
    }
}

/// Removes what jobs without a result have stored on which nobody works any more; answers how many jobs that were.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn clear_ended_jobs(bus: &Bus, store: &Store) -> Result<u64, BusError> {
    let bucket = job::JobRecord::BUCKET;
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(bucket)).await?;
    let seen = read_job_bucket(bus, bucket, now_ms).await?;
    let is_held = |job: &&job::JobRecord| {
        let prefix = format!("{}.", job.job_id);
        seen.continued.contains(&job.prefix) || seen.held.iter().any(|key| key.starts_with(&prefix))
    };
    let mut count = 0;
    for record in seen.ended.iter().filter(|job| !is_held(job)) {
        if count >= CLEARED_MAX {
            break;
        }
        match clear_ended_job(bus, store, record, now_ms).await {
            Ok(()) => count += 1,
            Err(ClearError::Bus(error @ BusError::Unavailable(_))) => return Err(error),
            Err(ClearError::Bus(error)) => {
                tracing::warn!(%error, job.id = %record.job_id, "an ended job is cleared in a later pass");
            }
            Err(ClearError::Store(error)) => {
                tracing::warn!(%error, job.id = %record.job_id, "what an ended job has stored stays for now");
                // It is away for the others, too.
                if error.is_outage() {
                    break;
                }
            }
        }
    }
    Ok(count)
}

/// Why a job could not be cleared.
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

/// Removes the objects of a job, unless its medium plays them: a worker of an older version may have published them without saying so
/// in the job.
async fn clear_ended_job(
    bus: &Bus,
    store: &Store,
    record: &job::JobRecord,
    now_ms: u64,
) -> Result<(), ClearError> {
    let medium = match record.status {
        job::JobStatus::Cancelled => fail_cancelled_medium(bus, record).await?,
        _ => {
            bus.load_record::<media::MediaRecord>(&record.media_id.to_string()).await?.map(|held| held.record)
        }
    };
    let is_played = medium.is_some_and(|medium| {
        let plays = matches!(medium.status, media::MediaStatus::Playable | media::MediaStatus::Ready);
        let replaced = medium.superseded.iter().map(|old| &old.encode);
        plays && replaced.chain(&medium.encode).any(|encode| encode.prefix == record.prefix)
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

/// True for a cancelled job that was not cleared, or not since its late objects may have come, and for a failed one of whose parts no
/// retry can keep any.
fn is_to_be_cleared(job: &job::JobRecord, now_ms: u64) -> bool {
    if job.status == job::JobStatus::Failed {
        return job.folded.is_some() && job.cleared_at_ms.is_none();
    }
    let late_ms = job.ended_at_ms.unwrap_or_default().saturating_add(LATE_OBJECTS_MS);
    let is_due = job.cleared_at_ms.is_none_or(|cleared_ms| cleared_ms < late_ms && late_ms <= now_ms);
    job.status == job::JobStatus::Cancelled && is_due
}

/// What lies in the bucket of the jobs.
#[derive(Debug, Default)]
struct JobBucketSnapshot {
    /// Keys of all parts whose holder showed itself lately.
    held: HashSet<String>,
    /// Jobs without a result whose objects may still be there.
    ended: Vec<job::JobRecord>,
    /// Folders of which a job that did not begin them has something: what it makes, has made, or may leave to a retry.
    continued: HashSet<String>,
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
            let is_held = part.status == job::JobPartStatus::Claimed && part.last_seen_ms > 0;
            // By the time of the broker: what a holder says of itself is of its own clock.
            if is_held && entry.stored_at_ms.saturating_add(HOLDER_SEEN_MS) > now_ms {
                seen.held.insert(key.to_owned());
            }
        } else if let Ok((_, record)) = nats::decode_record::<job::JobRecord>(key, &entry.payload) {
            // Nothing is stored by a job that makes no encode.
            if !record.is_encode() {
                continue;
            }
            if is_to_be_cleared(&record, now_ms) {
                seen.ended.push(record);
            } else if record.cleared_at_ms.is_none()
                && keys::encode_folder(&record.prefix) != Some(record.encode)
            {
                seen.continued.insert(record.prefix);
            }
        }
    }
    Ok(seen)
}
