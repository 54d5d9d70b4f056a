//! What the dispatcher knows: the jobs that wait, those of which parts were let in, and the workers.

use std::collections::{BTreeSet, HashMap};

use schemas::{
    dispatch_query::DispatchPosition,
    ids::JobId,
    job::{self, JobRecord},
    subjects::JobPriority,
};
use tokio::time::Instant;

use crate::{
    open_job::{OpenJob, PendingPart},
    queue::{FairQueue, WaitingJob},
    rate::RecentRate,
    worker_table::{WorkerTable, queue_parts_max},
};

/// Share of a new job in the mean number of parts of a job.
const MEAN_SHARE: f64 = 0.1;

/// All that is known, in memory only.
#[derive(Debug, Default)]
pub(crate) struct DispatchState {
    /// Jobs that have parts to let in.
    pub(crate) queue: FairQueue,
    /// Jobs of which parts were let in or are next.
    pub(crate) open: HashMap<JobId, OpenJob>,
    pub(crate) workers: WorkerTable,
    /// When parts were let in.
    pub(crate) let_in: RecentRate,
    /// Parts in the queue when it was looked at last.
    pub(crate) queue_parts: usize,
    /// True once every job that there was is known.
    pub(crate) is_followed: bool,
    /// Parts of a job in the mean, over those that were opened; 0 before there was one.
    parts_mean: f64,
}

impl DispatchState {
    pub(crate) fn new(queue: FairQueue) -> Self {
        Self { queue, ..Self::default() }
    }

    /// A job as its record says: it waits, unless parts of it were let in already.
    pub(crate) fn let_wait(&mut self, job: &WaitingJob) -> bool {
        let is_new = !self.open.contains_key(&job.job_id);
        if is_new {
            self.queue.insert(job);
        }
        is_new
    }

    /// A job that ended, or is not to be run.
    pub(crate) fn forget_job(&mut self, job_id: JobId) {
        self.queue.remove(job_id);
        self.open.remove(&job_id);
    }

    /// A job that is next, with what is left of it.
    pub(crate) fn open_job(&mut self, job_id: JobId, job: OpenJob) {
        let parts = f64::from(u32::try_from(job.pending.len()).unwrap_or(u32::MAX));
        self.parts_mean += if self.parts_mean > 0.0 { (parts - self.parts_mean) * MEAN_SHARE } else { parts };
        self.open.insert(job_id, job);
    }

    /// Lets a part of an open job wait for a turn again, before its others.
    pub(crate) fn put_back(&mut self, job: &JobRecord, part: String) {
        let Some(open) = self.open.get_mut(&job.job_id) else { return };
        let cost = packaging::plan::part_cost(&job.plan, &part);
        let priority = if part == job::FINISH { JobPriority::P0 } else { job.priority };
        open.pending.push_front(PendingPart { name: part, cost });
        self.queue.insert(&WaitingJob::of(job, priority));
    }

    /// Parts that were queued and are not there any more, as `listing` shows the queue.
    pub(crate) fn gone_parts(&self, listing: &BTreeSet<String>) -> Vec<(JobId, String)> {
        let mut gone = Vec::new();
        for (job_id, job) in &self.open {
            let is_gone = |part: &&String| !listing.contains(&job.part_subject(*job_id, part));
            gone.extend(job.queued.iter().filter(is_gone).map(|part| (*job_id, part.clone())));
        }
        gone
    }

    /// Jobs of which nothing is pending or queued, and that are to be looked at by now.
    pub(crate) fn idle_jobs(&self, now: Instant) -> Vec<JobId> {
        let is_due = |job: &OpenJob| job.is_idle() && job.check_at <= now;
        self.open.iter().filter(|(_, job)| is_due(job)).map(|(job_id, _)| *job_id).collect()
    }

    /// Where a job stands.
    pub(crate) fn position(&self, job_id: JobId, now: Instant) -> DispatchPosition {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (workers, slots) = self.workers.count(now);
        let place = self.queue.position(job_id);
        let open = self.open.get(&job_id);
        DispatchPosition {
            is_waiting: place.is_some(),
            queued_parts: open.map_or(0, |job| count(job.queued.len())),
            parked_parts: open.map_or(0, |job| count(job.parked.len())),
            own_jobs_ahead: place.map_or(0, |place| count(place.own_jobs_ahead)),
            owners_waiting: place.map_or(0, |place| count(place.owners)),
            jobs_waiting: count(self.queue.len()),
            queue_parts: count(self.queue_parts),
            queue_parts_max: count(queue_parts_max(slots)),
            workers,
            slots,
            parts_ahead: place.map_or(0, |place| self.parts_ahead(place.own_jobs_ahead, place.owners)),
            parts_per_minute: self.let_in.per_minute(now),
        }
    }

    /// Each part of its owner that goes first lets one of every other owner go first, too.
    fn parts_ahead(&self, own_jobs_ahead: usize, owners: usize) -> u64 {
        let owners = u32::try_from(owners).unwrap_or(u32::MAX);
        let jobs = u32::try_from(own_jobs_ahead).unwrap_or(u32::MAX);
        let own_parts = f64::from(jobs) * self.parts_mean;
        let ahead = own_parts * f64::from(owners) + f64::from(owners.saturating_sub(1));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, not negative, and casts saturate"
        )]
        let ahead = ahead as u64;
        ahead
    }
}
