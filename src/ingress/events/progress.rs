//! How far running jobs are: the reports of their parts, added up to what the records said when the first of them came.
//!
//! Limits: [`JOBS_MAX`] jobs.

use std::collections::{BTreeMap, HashMap};

use nats::Bus;
use packaging::plan;
use schemas::{
    ids::JobId,
    job::{JobPartProgress, JobRecord, JobStatus},
};

use crate::jobs;

/// Jobs whose progress is added up at once; the one whose progress is oldest is forgotten first.
pub const JOBS_MAX: usize = 1_000;

/// The parts of running jobs, added up.
#[derive(Debug, Default)]
pub(super) struct ProgressTotals {
    jobs: HashMap<JobId, JobProgressTotal>,
    clock: u64,
}

/// How far one job is.
#[derive(Debug, Default)]
pub(super) struct JobProgressTotal {
    /// Milliseconds of output there will be.
    pub(super) total_ms: u64,
    /// Milliseconds that are made, by part.
    pub(super) parts: BTreeMap<String, u64>,
    updated: u64,
}

/// What the records say of a job of which a first report came: most of a long one was made before this process began to follow.
///
/// # Errors
/// [`nats::BusError::Unavailable`] when the broker does not answer.
pub(super) async fn load_total(
    bus: &Bus,
    reported: &JobPartProgress,
) -> Result<JobProgressTotal, nats::BusError> {
    // Of a job that has ended nobody waits for more; reports of the last hour come at the start of a process.
    let active = |held: &nats::VersionedRecord<JobRecord>| held.record.status == JobStatus::Active;
    let Some(held) = bus.load_record::<JobRecord>(&reported.job_id.to_string()).await?.filter(active) else {
        return Ok(JobProgressTotal { total_ms: reported.total_ms, ..JobProgressTotal::default() });
    };
    let job = held.record;
    let total_ms = job.parts.iter().map(|part| plan::part_duration_ms(&job.plan, part)).sum();
    let known = jobs::load_part_summaries(bus, job.job_id, &job.parts).await?;
    let parts = known
        .iter()
        .map(|part| (part.part.clone(), jobs::part_done_ms(&job, &part.part, Some(part), 0)))
        .collect();
    Ok(JobProgressTotal { total_ms, parts, updated: 0 })
}

impl ProgressTotals {
    pub(super) fn find(&self, job_id: JobId) -> Option<&JobProgressTotal> {
        self.jobs.get(&job_id)
    }

    /// Begins a job, in place of the one of which nothing came for longest where there are too many.
    pub(super) fn insert(&mut self, job_id: JobId, total: JobProgressTotal) {
        if self.jobs.len() >= JOBS_MAX
            && let Some(oldest) = self.jobs.iter().min_by_key(|(_, sum)| sum.updated).map(|(id, _)| *id)
        {
            self.jobs.remove(&oldest);
        }
        self.clock += 1;
        self.jobs.insert(job_id, JobProgressTotal { updated: self.clock, ..total });
    }

    /// Milliseconds that are made of the whole job, and there will be; a part that is tried again does not take the sum back below
    /// it. `None` for a job that was not begun.
    pub(super) fn add_progress(&mut self, reported: &JobPartProgress) -> Option<(u64, u64)> {
        self.clock += 1;
        let sum = self.jobs.get_mut(&reported.job_id)?;
        sum.updated = self.clock;
        let part = sum.parts.entry(reported.part.clone()).or_default();
        // A repeated try of a part begins at zero; what was shown must not go back.
        *part = (*part).max(reported.done_ms);
        Some((sum.parts.values().sum::<u64>().min(sum.total_ms), sum.total_ms))
    }
}

#[cfg(test)]
mod tests {
    use schemas::ids::MediaId;

    use super::*;

    fn progress(job: u16, part: &str, done_ms: u64) -> JobPartProgress {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&job.to_be_bytes());
        JobPartProgress {
            job_id: JobId::from_bytes(bytes),
            media_id: MediaId::from_bytes([2; 16]),
            owner: "ann".into(),
            part: part.into(),
            done_ms,
            total_ms: 10_000,
            kind: String::new(),
        }
    }

    #[test]
    fn parts_add_up_and_never_go_back() {
        let mut sums = ProgressTotals::default();
        let known = BTreeMap::from([("v0001".to_owned(), 500)]);
        sums.insert(
            progress(1, "", 0).job_id,
            JobProgressTotal { total_ms: 20_000, parts: known, updated: 0 },
        );
        for (part, done_ms, wanted) in [
            ("v0000", 1_000, 1_500),
            ("a0", 4_000, 5_500),
            ("v0000", 3_000, 7_500),
            ("v0000", 0, 7_500),
            ("v0001", 90_000, 20_000),
        ] {
            let sum = sums.add_progress(&progress(1, part, done_ms));
            assert_eq!(sum, Some((wanted, 20_000)), "{part} {done_ms}");
        }
        assert_eq!(sums.add_progress(&progress(2, "a0", 1)), None, "of how much is not known yet");
    }

    #[test]
    fn only_so_many_jobs_are_remembered() {
        let mut sums = ProgressTotals::default();
        for job in 0..u16::try_from(JOBS_MAX + 10).unwrap() {
            let total = JobProgressTotal { total_ms: 2, ..JobProgressTotal::default() };
            sums.insert(progress(job, "a0", 1).job_id, total);
            sums.add_progress(&progress(job, "a0", 1));
        }
        assert_eq!(sums.jobs.len(), JOBS_MAX);
        assert!(sums.find(progress(0, "a0", 1).job_id).is_none(), "the oldest is gone");
    }
}
