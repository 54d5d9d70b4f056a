//! Folding: some time after a job has ended, what its parts came to goes into its own record, and their records are removed.
//!
//! First the job's record is written, then the parts are removed, each at the revision that was folded, so a crash in between
//! leaves parts that the next pass removes. So does a part that was made too late, after its job was folded or is kept no more.
//! Records with unsent events wait for the sweeper.
//!
//! Limits: one pass over the bucket `jobs` each [`super::KeeperConfig::fold_period_ms`]; at most [`REMOVALS_MAX`] parts are removed
//! at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use nats::{Bus, BusError, Outbox, ReaderStart, reader};
use schemas::{
    KvRecord,
    ids::JobId,
    job::{self, JobPartSummary, JobStatus},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Parts that are removed at once.
pub const REMOVALS_MAX: usize = 16;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Jobs whose parts were folded.
    pub folded_count: u64,
    /// Parts that were removed.
    pub removed_count: u64,
}

/// Folds until `held` fires.
pub async fn run_folding(bus: Bus, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.fold_period_ms);
    loop {
        let stream = subjects::kv_stream_name(job::JobRecord::BUCKET);
        let turn = async { run_fold_pass(&bus, bus.broker_now_ms(&stream).await?, &config).await };
        // On the heap: a record of a job is large, and so is what waits for one.
        match Box::pin(turn).await {
            Ok(done) if done == FoldReport::default() => {}
            Ok(done) => {
                tracing::info!(jobs = done.folded_count, parts = done.removed_count, "folded ended jobs");
            }
            Err(error) => tracing::warn!(%error, "ended jobs could not be folded"),
        }
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

/// One pass over all jobs as of `now_ms`.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer; what changes meanwhile waits for the next pass.
pub async fn run_fold_pass(bus: &Bus, now_ms: u64, config: &KeeperConfig) -> Result<FoldReport, BusError> {
    let mut done = FoldReport::default();
    for (job_id, seen) in read_candidates(bus, now_ms, config.fold_age_ms).await? {
        match fold_job(bus, job_id, seen, now_ms, config).await {
            Ok(one) => {
                done.folded_count += one.folded_count;
                done.removed_count += one.removed_count;
            }
            Err(error @ BusError::Unavailable(_)) => return Err(error),
            Err(error) => tracing::warn!(%error, job.id = %job_id, "a job waits for the next pass"),
        }
    }
    Ok(done)
}

/// Folds one job unless it was, and removes what is left of its parts.
async fn fold_job(
    bus: &Bus,
    job_id: JobId,
    seen: FoldCandidate,
    now_ms: u64,
    config: &KeeperConfig,
) -> Result<FoldReport, BusError> {
    let key = job_id.to_string();
    let job = bus.load_record::<job::JobRecord>(&key).await?.map(|held| held.record);
    if job.as_ref().is_some_and(|job| job.status == JobStatus::Active) {
        return Ok(FoldReport::default());
    }
    let is_new = job.as_ref().is_some_and(|job| job.folded.is_none());
    if is_new && !seen.is_due {
        return Ok(FoldReport::default());
    }
    let Some(found) = load_parts(bus, job_id, job, seen.parts).await? else {
        return Ok(FoldReport::default());
    };
    if is_new {
        // Folded first: a crash in between leaves the parts for the next pass, and never a job without any.
        write_fold(bus, &key, &found, now_ms.saturating_add(config.ended_kept_ms)).await?;
    }
    Ok(FoldReport {
        folded_count: u64::from(is_new),
        removed_count: remove_parts(bus, &found, config).await?,
    })
}

/// A part as it is now.
struct RevisionedPart {
    revision: u64,
    part: job::JobPartRecord,
}

/// What was seen of a job.
#[derive(Debug, Default)]
struct FoldCandidate {
    /// It ended long enough ago and is not folded.
    is_due: bool,
    /// Names of its parts.
    parts: BTreeSet<String>,
}

/// Jobs that are due, and jobs of which parts are left that should not be.
async fn read_candidates(
    bus: &Bus,
    now_ms: u64,
    age_ms: u64,
) -> Result<BTreeMap<JobId, FoldCandidate>, BusError> {
    let bucket = job::JobRecord::BUCKET;
    let stream = subjects::kv_stream_name(bucket);
    let settings = reader::ReaderConfig::new(
        stream,
        vec![subjects::kv_subject(bucket, ">")],
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.open_reader(settings).await?;
    let (mut due, mut resting) = (BTreeSet::new(), BTreeSet::new());
    let mut parts: BTreeMap<JobId, BTreeSet<String>> = BTreeMap::new();
    let prefix = subjects::kv_subject(bucket, "");
    while let Some(entry) = entries.next_pending().await? {
        let Some(key) = entry.subject.strip_prefix(&prefix).filter(|_| !entry.payload.is_empty()) else {
            continue;
        };
        if let Some((job_id, part)) = key.split_once('.') {
            if let Ok(job_id) = job_id.parse() {
                parts.entry(job_id).or_default().insert(part.to_owned());
            }
        } else if let Ok((_, job)) = nats::decode_record::<job::JobRecord>(key, &entry.payload) {
            // The time at which the broker stored the end, or something later.
            let is_old = entry.stored_at_ms.saturating_add(age_ms) <= now_ms;
            match (job.status, job.folded) {
                (JobStatus::Active, _) => _ = resting.insert(job.job_id),
                (_, None) if is_old => _ = due.insert(job.job_id),
                (_, None) => _ = resting.insert(job.job_id),
                (_, Some(_)) => {}
            }
        }
    }
    let mut all: BTreeMap<JobId, FoldCandidate> = BTreeMap::new();
    for (job_id, names) in parts.into_iter().filter(|(job_id, _)| !resting.contains(job_id)) {
        all.entry(job_id).or_default().parts = names;
    }
    for job_id in due {
        all.entry(job_id).or_default().is_due = true;
    }
    Ok(all)
}

/// The parts of a job as they are now; `None` when one of them has unsent events, which go first.
async fn load_parts(
    bus: &Bus,
    job_id: JobId,
    job: Option<job::JobRecord>,
    seen: BTreeSet<String>,
) -> Result<Option<Vec<RevisionedPart>>, BusError> {
    let mut names = job.filter(|job| job.folded.is_none()).map(|job| job.parts).unwrap_or_default();
    names.push(job::FINISH.to_owned());
    let others: Vec<String> = seen.into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(others);
    let mut found = Vec::new();
    for name in names {
        let key = subjects::part_key(job_id, &name);
        let Some(raw) = bus.read_value(job::JobPartRecord::BUCKET, &key).await? else { continue };
        let Some(value) = raw.value else { continue };
        let (envelope, part) = nats::decode_record::<job::JobPartRecord>(&key, &value)?;
        // Events would be lost with their record: the sweeper sends them before a later pass.
        if !envelope.unsent.is_empty() {
            return Ok(None);
        }
        found.push(RevisionedPart { revision: raw.revision, part });
    }
    Ok(Some(found))
}

/// Writes what the parts came to into their job's record, unless somebody did.
async fn write_fold(
    bus: &Bus,
    key: &str,
    found: &[RevisionedPart],
    kept_until_ms: u64,
) -> Result<(), BusError> {
    let parts: Vec<JobPartSummary> = found.iter().map(|found| JobPartSummary::from(&found.part)).collect();
    let change = |job: Option<&job::JobRecord>| {
        let mut job = job.filter(|job| job.status != JobStatus::Active && job.folded.is_none())?.clone();
        job.folded = Some(parts.clone());
        job.kept_until_ms.get_or_insert(kept_until_ms);
        Some((job, Outbox::new()))
    };
    bus.change_record::<job::JobRecord>(key, change).await.map(drop)
}

/// Removes the parts as they were folded; answers how many. One that changed meanwhile waits for the next pass.
async fn remove_parts(bus: &Bus, found: &[RevisionedPart], config: &KeeperConfig) -> Result<u64, BusError> {
    let marker_ttl = Duration::from_millis(config.removal_told_ms);
    let keys: Vec<(String, u64)> = found.iter().map(|found| (found.part.key(), found.revision)).collect();
    let removals = futures::stream::iter(keys).map(|(key, revision)| async move {
        match bus.purge_revision(job::JobPartRecord::BUCKET, &key, revision, marker_ttl).await {
            Ok(()) => Ok(1),
            // Somebody wrote the part after it was folded: it is looked at again in the next pass.
            Err(BusError::Conflict { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    });
    let counts: Vec<u64> = removals.buffer_unordered(REMOVALS_MAX).try_collect().await?;
    Ok(counts.iter().sum())
}

#[cfg(test)]
mod tests;
