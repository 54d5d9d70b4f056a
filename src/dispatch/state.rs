//! What the dispatcher knows: the jobs that wait, those of which parts were let in, and the workers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use schemas::{
    dispatch_query::DispatchPosition,
    ids::JobId,
    job::{JobKind, JobRecord},
    pause::QueuePauses,
    subjects::JobPriority,
};
use tokio::time::Instant;

use crate::{
    DispatchConfig,
    open_job::{OpenJob, PendingPart},
    queue::{FairQueue, WaitingJob},
    rate::RecentRate,
    version_waits::VersionWaits,
    worker_table::WorkerTable,
};

/// Share of a new job in the mean number of parts of a job.
const MEAN_SHARE: f64 = 0.1;

/// How often it is looked whether workers came that make what jobs wait for.
const VERSIONS_PERIOD: Duration = Duration::from_secs(1);

/// Most jobs that are looked at in one turn since nothing of them lies in the queue; the others come next.
const IDLE_JOBS_MAX: usize = 64;

/// Most held back parts that are looked at in one turn.
const HELD_BACK_PARTS_MAX: usize = 256;

/// All that is known, in memory only.
#[derive(Debug, Default)]
pub(crate) struct DispatchState {
    config: DispatchConfig,
    /// Jobs that have parts to let in.
    pub(crate) queue: FairQueue,
    /// Whose the parts are that lie in the queue, by subject; only where owners have limits. By the queue itself: what is known of a job
    /// may be forgotten while its parts are worked on.
    queued_owners: HashMap<String, String>,
    /// Jobs of which parts were let in or are next.
    pub(crate) open: HashMap<JobId, OpenJob>,
    /// Jobs whose records are read before parts are let in: as long as one is not, nothing else keeps it from being forgotten.
    pub(crate) unread: BTreeSet<JobId>,
    pub(crate) workers: WorkerTable,
    /// Jobs that no live worker can make.
    version_waits: VersionWaits,
    /// What is paused, as it was read last.
    pauses: QueuePauses,
    /// Jobs that wait, and are kept out of their turns by one of those.
    paused: HashMap<JobId, WaitingJob>,
    /// When the broker was asked for its time, and the answer.
    clock: Option<(Instant, u64)>,
    versions_checked: Option<Instant>,
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
    pub(crate) fn new(config: DispatchConfig) -> Self {
        let queue = FairQueue::new(config.owner_weights.clone());
        Self { config, queue, ..Self::default() }
    }

    /// The job whose turn it is, among the owners that have not as many parts at once as they may.
    pub(crate) fn next_job(&self) -> Option<JobId> {
        if !self.config.has_parts_max() {
            return self.queue.next();
        }
        let parts = self.owner_parts();
        self.queue.next_of(|owner| !self.is_at_limit(owner, parts.get(owner).copied().unwrap_or_default()))
    }

    /// The priority by which a job's parts go into the queue.
    pub(crate) fn priority_of(&self, owner: &str, kind: &str, said: JobPriority) -> JobPriority {
        self.config.priority_of(owner, kind, said)
    }

    /// Moves jobs of the last priority that have waited for long to the one before.
    pub(crate) fn promote_aged(&mut self, now_ms: u64) {
        self.queue.promote_aged(now_ms, self.config.ageing_ms);
    }

    /// Parts that lie in the queue or are worked on, by owner.
    fn owner_parts(&self) -> HashMap<&str, usize> {
        let mut parts: HashMap<&str, usize> = HashMap::new();
        for owner in self.queued_owners.values() {
            *parts.entry(owner).or_default() += 1;
        }
        parts
    }

    /// Forgets whose the parts were that left the queue; answers those in it of which that is not known. Without limits nobody asks.
    pub(crate) fn parts_without_owner(&mut self, listing: &BTreeSet<String>) -> Vec<String> {
        if !self.config.has_parts_max() {
            return Vec::new();
        }
        self.queued_owners.retain(|subject, _| listing.contains(subject));
        listing.iter().filter(|subject| !self.queued_owners.contains_key(*subject)).cloned().collect()
    }

    /// Notes whose a part in the queue is; nobody's where its job is gone.
    pub(crate) fn note_owner(&mut self, subject: String, owner: String) {
        self.queued_owners.insert(subject, owner);
    }

    /// Notes that a part of a waiting job was let in.
    pub(crate) fn note_let_in(&mut self, job_id: JobId, subject: &str, now: Instant) {
        self.let_in.record(now);
        if self.config.has_parts_max()
            && let Some((owner, _)) = self.queue.owner_of(job_id)
        {
            self.queued_owners.insert(subject.to_owned(), owner.to_owned());
        }
    }

    fn is_at_limit(&self, owner: &str, parts: usize) -> bool {
        self.config.parts_max_of(owner).is_some_and(|parts_max| parts >= parts_max as usize)
    }

    /// Most parts at once of the owner of a waiting job, where it has as many; `None` where that hinders nothing.
    fn limit_reached(&self, job_id: JobId) -> Option<u32> {
        let (owner, _) = self.queue.owner_of(job_id).filter(|(_, is_urgent)| !is_urgent)?;
        let parts_max = self.config.parts_max_of(owner)?;
        let parts = self.owner_parts().get(owner).copied().unwrap_or_default();
        (parts >= parts_max as usize).then_some(parts_max)
    }

    /// A job as its record says: it waits, unless parts of it were let in already.
    pub(crate) fn let_wait(&mut self, job: &WaitingJob) -> bool {
        let priority = self.priority_of(&job.owner, job.kind.name(), job.priority);
        let job = &WaitingJob { priority, ..job.clone() };
        let open = self.open.get_mut(&job.job_id);
        let is_new = open.is_none();
        let has_pending = open.is_some_and(|open| {
            open.set_priority(job.priority);
            !open.pending.is_empty()
        });
        // One that waits already takes its place at the priority that it has now.
        if is_new || has_pending {
            self.enqueue(job);
        }
        is_new
    }

    /// Lets a job wait for its turn, or until its owner and its kind are resumed.
    fn enqueue(&mut self, job: &WaitingJob) {
        if self.pauses.find(&job.owner, job.kind.name()).is_some() {
            self.queue.remove(job.job_id);
            self.paused.insert(job.job_id, job.clone());
        } else {
            self.paused.remove(&job.job_id);
            self.queue.insert(job);
        }
    }

    /// Notes what is paused from now on. What was let in already is made to its end.
    pub(crate) fn set_pauses(&mut self, pauses: QueuePauses) {
        if self.pauses == pauses {
            return;
        }
        self.pauses = pauses;
        let pauses = &self.pauses;
        let out = self.queue.extract(|owner, kind| pauses.find(owner, kind.name()).is_some());
        let back = self.paused.extract_if(|_, job| pauses.find(&job.owner, job.kind.name()).is_none());
        let back: Vec<WaitingJob> = back.map(|(_, job)| job).collect();
        for job in out.into_iter().chain(back) {
            self.enqueue(&job);
        }
    }

    /// A job that ended, or is not to be run.
    pub(crate) fn forget_job(&mut self, job_id: JobId) {
        self.queue.remove(job_id);
        self.open.remove(&job_id);
        self.version_waits.remove(job_id);
        self.paused.remove(&job_id);
    }

    /// Has the record of a job read before anything is done about it: what is known of it may be wrong.
    pub(crate) fn look_anew(&mut self, job_id: JobId) {
        // Forgotten first, then read: who resumes it meanwhile is seen then, or by the follower afterwards.
        self.forget_job(job_id);
        self.unread.insert(job_id);
    }

    /// The same for all of which parts were let in.
    pub(crate) fn look_at_open_jobs_anew(&mut self) {
        let open: Vec<JobId> = self.open.keys().copied().collect();
        for job_id in open {
            self.look_anew(job_id);
        }
    }

    /// Takes a job out of its turn for as long as no live worker makes what its parts are made of; false when one does.
    pub(crate) fn hold_for_version(&mut self, job_id: JobId, now: Instant) -> bool {
        let now_ms = self.broker_now_ms(now);
        let Some((version, created_at_ms)) = self.queue.version_of(job_id) else { return false };
        if version.is_empty() || !self.workers.lack_version(version, created_at_ms, now, now_ms) {
            return false;
        }
        if let Some(job) = self.queue.remove(job_id) {
            self.version_waits.insert(job);
        }
        self.open.remove(&job_id);
        true
    }

    /// Lets jobs wait for a turn again whose version a live worker makes now, or gives up.
    pub(crate) fn return_held_jobs(&mut self, now: Instant) {
        if self.versions_checked.is_some_and(|checked| now.duration_since(checked) < VERSIONS_PERIOD) {
            return;
        }
        self.versions_checked = Some(now);
        let (workers, now_ms) = (&self.workers, self.broker_now_ms(now));
        let must_wait =
            |version: &str, created_at_ms| workers.lack_version(version, created_at_ms, now, now_ms);
        for job in self.version_waits.take_released(must_wait) {
            self.enqueue(&job);
        }
    }

    /// Notes the time of the broker.
    pub(crate) const fn set_clock(&mut self, now: Instant, broker_now_ms: u64) {
        self.clock = Some((now, broker_now_ms));
    }

    /// Unix time in milliseconds by the broker that keeps the records of jobs, since it was asked last: workers ask it, too, whether a
    /// part may be tried.
    pub(crate) fn broker_now_ms(&self, now: Instant) -> u64 {
        let Some((asked, broker_ms)) = self.clock else { return nats::estimated_broker_now_ms() };
        let since = u64::try_from(now.duration_since(asked).as_millis()).unwrap_or(u64::MAX);
        broker_ms.saturating_add(since)
    }

    /// A job that is next, with what is left of it.
    pub(crate) fn open_job(&mut self, job_id: JobId, job: OpenJob) {
        let parts = f64::from(u32::try_from(job.pending.len()).unwrap_or(u32::MAX));
        self.parts_mean += if self.parts_mean > 0.0 { (parts - self.parts_mean) * MEAN_SHARE } else { parts };
        self.open.insert(job_id, job);
    }

    /// Nothing is known of the jobs yet.
    pub(crate) fn forget_jobs(&mut self) {
        self.queue = FairQueue::new(self.config.owner_weights.clone());
        self.open.clear();
        self.unread.clear();
        self.version_waits = VersionWaits::default();
        self.paused.clear();
        self.is_followed = false;
    }

    /// Lets a part of an open job wait for a turn again, before its others. Its owner has paid for it.
    pub(crate) fn put_back(&mut self, job: &JobRecord, part: String) {
        let Some(open) = self.open.get_mut(&job.job_id) else { return };
        open.pending.push_front(PendingPart { name: part, cost: 1 });
        if let Some(job) = WaitingJob::of(job) {
            self.enqueue(&job);
        }
    }

    /// Parts that were queued and are not there any more, as `listing` shows the queue, and held back ones that are due.
    pub(crate) fn parts_to_settle(&self, listing: &BTreeSet<String>, now: Instant) -> Vec<(JobId, String)> {
        let (mut gone, mut due) = (Vec::new(), Vec::new());
        for (job_id, job) in &self.open {
            let queued = job.queued.iter().filter(|(_, subject)| !listing.contains(*subject));
            gone.extend(queued.map(|(part, _)| (*job_id, part.clone())));
            let held_back = job.held_back.iter().filter(|(_, held)| held.check_at <= now);
            due.extend(held_back.map(|(part, held)| (held.check_at, *job_id, part.clone())));
        }
        // Who waits for longest first: what is looked at becomes due again.
        due.sort_unstable();
        gone.extend(due.into_iter().take(HELD_BACK_PARTS_MAX).map(|(_, job_id, part)| (job_id, part)));
        gone
    }

    /// Jobs of which nothing is pending, queued or held back, and that are to be looked at by now.
    pub(crate) fn idle_jobs(&self, now: Instant) -> Vec<JobId> {
        let is_due = |job: &OpenJob| job.is_idle() && job.check_at <= now;
        let due = self.open.iter().filter(|(_, job)| is_due(job));
        let mut due: Vec<(Instant, JobId)> = due.map(|(job_id, job)| (job.check_at, *job_id)).collect();
        due.sort_unstable();
        due.into_iter().take(IDLE_JOBS_MAX).map(|(_, job_id)| job_id).collect()
    }

    /// Jobs that are next and are not let in, at most `count_max`: of each owner the first that waits for a turn, the oldest of each owner and kind that are kept out
    /// of their turns, and those of which parts lie where no worker takes them or are held back.
    pub(crate) fn hindered_jobs(&self, count_max: usize, now: Instant) -> Vec<JobId> {
        let lacks_workers = self.workers.count(now).0 == 0;
        let is_hindered = |job: &OpenJob| {
            if job.queued.is_empty() { !job.held_back.is_empty() } else { lacks_workers }
        };
        let open = self.open.iter().filter(|(_, job)| is_hindered(job)).map(|(job_id, _)| *job_id);
        // Of those that one pause keeps out the oldest stands for all.
        let mut oldest_paused: HashMap<(&str, JobKind), (u64, JobId)> = HashMap::new();
        for job in self.paused.values() {
            let this = (job.created_at_ms, job.job_id);
            let oldest = oldest_paused.entry((&*job.owner, job.kind)).or_insert(this);
            *oldest = this.min(*oldest);
        }
        let paused = oldest_paused.into_values().map(|(_, job_id)| job_id);
        let heads = self
            .queue
            .heads(count_max)
            .into_iter()
            .filter(|job_id| self.open.get(job_id).is_none_or(|job| job.queued.is_empty()));
        // None of them takes the places of the others.
        let share = count_max / 4;
        let others =
            paused.take(share).chain(self.version_waits.oldest().take(share)).chain(open.take(share));
        heads.take(count_max - 3 * share).chain(others).collect()
    }

    /// Owner and kind of a job that waits or is kept out of its turns, and when it was created.
    pub(crate) fn describe_waiting(&self, job_id: JobId) -> Option<(Arc<str>, JobKind, u64)> {
        let paused =
            || self.paused.get(&job_id).map(|job| (Arc::clone(&job.owner), job.kind, job.created_at_ms));
        self.queue.describe(job_id).or_else(paused)
    }

    /// True while a job waits, or parts of it are let in.
    pub(crate) fn is_known(&self, job_id: JobId) -> bool {
        self.queue.contains(job_id)
            || self.open.contains_key(&job_id)
            || self.paused.contains_key(&job_id)
            || self.version_waits.contains(job_id)
    }

    /// What is paused.
    pub(crate) const fn pauses(&self) -> &QueuePauses {
        &self.pauses
    }

    /// Where a job stands.
    pub(crate) fn position(&self, job_id: JobId, now: Instant) -> DispatchPosition {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (workers, slots) = self.workers.count(now);
        let place = self.queue.position(job_id);
        let open = self.open.get(&job_id);
        let retries = open.into_iter().flat_map(|job| job.held_back.values().map(|held| held.retry_at_ms));
        let retries: Vec<Option<u64>> = retries.collect();
        let delayed: Vec<u64> = retries.iter().copied().flatten().collect();
        DispatchPosition {
            is_waiting: place.is_some(),
            queued_parts: open.map_or(0, |job| count(job.queued.len())),
            parked_parts: count(retries.len() - delayed.len()),
            delayed_parts: count(delayed.len()),
            retry_at_ms: delayed.into_iter().min(),
            lacks_version: self.version_waits.contains(job_id),
            own_jobs_ahead: place.map_or(0, |place| count(place.own_jobs_ahead)),
            owners_waiting: place.map_or(0, |place| count(place.owners)),
            jobs_waiting: count(self.queue.len()),
            queue_parts: count(self.queue_parts),
            queue_parts_max: count(self.workers.parts_max(now)),
            workers,
            slots,
            parts_ahead: place.map_or(0, |place| self.parts_ahead(place.own_jobs_ahead, place.owners)),
            parts_per_minute: self.let_in.per_minute(now),
            owner_parts_max: self.limit_reached(job_id),
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
