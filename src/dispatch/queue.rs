//! The order in which waiting jobs get their turns: fair over owners, by what their parts cost.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) rather than deficit round-robin: the
//! part with the least start tag goes first, and a part of cost `c` moves its owner's tag on by `c / weight`. An owner that comes
//! new begins at the tag that was served last, so that of `N` owners at most `N - 1` parts go before its first one, whatever the
//! parts cost; with deficit round-robin that depends on the quantum.
//!
//! Each priority has such an order of its own. They take turns as the workers' queues do ([`nats::consume::priority_order`]), so
//! that none starves; a job of the last priority counts as one of the middle once it has waited for long.
//!
//! Limits: an owner's memory of what it got ends when nobody waits who got less.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use schemas::{
    ids::JobId,
    job::{JobKind, JobRecord},
    subjects::JobPriority,
};

/// Tag units of one unit of cost at weight 1.
const TAG_SCALE: u64 = 1_000;

/// Weight of an owner that the settings do not name.
const WEIGHT_DEFAULT: u32 = 1;

/// Jobs of one owner that are counted before one of it.
pub const JOBS_AHEAD_COUNTED_MAX: usize = 10_000;

/// A job that waits for a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// The job.
    pub job_id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its owner, among whom turns are shared.
    pub owner: Arc<str>,
    /// Its priority.
    pub priority: JobPriority,
    /// Unix time in milliseconds; older jobs of an owner go first.
    pub created_at_ms: u64,
    /// Version of the encoder options with which its parts are made; empty where it does not matter.
    pub options_version: Arc<str>,
}

impl WaitingJob {
    /// A job, as its record says; `None` when it is of a kind that only newer versions know.
    pub fn of(job: &JobRecord) -> Option<Self> {
        Some(Self {
            job_id: job.job_id,
            kind: JobKind::parse(&job.kind)?,
            owner: job.owner.as_str().into(),
            priority: job.priority,
            created_at_ms: job.created_at_ms,
            options_version: job.plan.options_version.as_str().into(),
        })
    }
}

/// Where a job stands among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// Jobs of the same owner and priority that go first; [`JOBS_AHEAD_COUNTED_MAX`] also for more.
    pub own_jobs_ahead: usize,
    /// Owners that have something waiting at this priority, with its own.
    pub owners: usize,
}

/// What waits, in order.
#[derive(Debug, Default)]
pub struct FairQueue {
    classes: [PriorityClass; JobPriority::ALL.len()],
    places: HashMap<JobId, JobPlace>,
    /// Jobs of the last priority by age.
    ageing: BTreeSet<(u64, JobId)>,
    weights: HashMap<String, u32>,
    turn: u64,
    /// Shared by jobs that come one after another: nearly all have the same.
    last_version: Option<Arc<str>>,
}

#[derive(Debug)]
struct JobPlace {
    owner: Arc<str>,
    created_at_ms: u64,
    options_version: Arc<str>,
    kind: JobKind,
    class: u8,
}

/// What waits at one priority.
#[derive(Debug, Default)]
struct PriorityClass {
    owners: HashMap<Arc<str>, OwnerQueue>,
    /// Owners with jobs, the next one first: start tag, arrival, name.
    order: BTreeSet<(u64, u64, Arc<str>)>,
    /// Start tag of what was served last.
    virtual_time: u64,
    arrivals: u64,
}

#[derive(Debug, Default)]
struct OwnerQueue {
    jobs: BTreeSet<(u64, JobId)>,
    start_tag: u64,
    arrival: u64,
}

impl FairQueue {
    /// An empty queue; `weights` are the shares of owners, 1 for those that it does not name.
    pub fn new(weights: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self { weights: weights.into_iter().collect(), ..Self::default() }
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// True when a job waits.
    pub fn contains(&self, job_id: JobId) -> bool {
        self.places.contains_key(&job_id)
    }

    /// Lets a job wait; one that waits already takes its new place.
    pub fn insert(&mut self, job: &WaitingJob) {
        let class = class_of(job.priority);
        if self.places.get(&job.job_id).is_some_and(|place| place.class == class) {
            return;
        }
        self.remove(job.job_id);
        if job.priority == JobPriority::P2 {
            self.ageing.insert((job.created_at_ms, job.job_id));
        }
        self.place(job, class);
    }

    fn place(&mut self, job: &WaitingJob, class: u8) {
        let WaitingJob { job_id, created_at_ms, .. } = *job;
        let Some(waiting) = self.classes.get_mut(usize::from(class)) else { return };
        let owner = waiting.insert(&job.owner, created_at_ms, job_id);
        let options_version = match &self.last_version {
            Some(last) if **last == *job.options_version => Arc::clone(last),
            _ => Arc::clone(self.last_version.insert(Arc::clone(&job.options_version))),
        };
        self.places.insert(job_id, JobPlace { owner, created_at_ms, options_version, kind: job.kind, class });
    }

    /// Version of the encoder options of a waiting job, and when it was created.
    pub(crate) fn version_of(&self, job_id: JobId) -> Option<(&str, u64)> {
        self.places.get(&job_id).map(|place| (&*place.options_version, place.created_at_ms))
    }

    /// Takes a job out; answers how it waited, with the priority that it counted as. `None` when it did not wait.
    pub fn remove(&mut self, job_id: JobId) -> Option<WaitingJob> {
        let JobPlace { owner, created_at_ms, options_version, kind, class } = self.places.remove(&job_id)?;
        self.ageing.remove(&(created_at_ms, job_id));
        if let Some(class) = self.classes.get_mut(usize::from(class)) {
            class.remove(&owner, created_at_ms, job_id);
        }
        let priority = JobPriority::ALL.get(usize::from(class)).copied().unwrap_or_default();
        Some(WaitingJob { job_id, kind, owner, priority, created_at_ms, options_version })
    }

    /// Moves jobs of the last priority that have waited for `ageing_ms` to the one before.
    pub fn promote_aged(&mut self, now_ms: u64, ageing_ms: u64) {
        while let Some((created_at_ms, job_id)) = self.ageing.first().copied() {
            if created_at_ms.saturating_add(ageing_ms) > now_ms {
                return;
            }
            self.ageing.pop_first();
            let Some(job) = self.remove(job_id) else { continue };
            self.place(&job, class_of(JobPriority::P1));
        }
    }

    /// The job whose turn it is. It stays in front until it is charged or taken out.
    pub fn next(&self) -> Option<JobId> {
        self.next_of(|_| true)
    }

    /// The same among the owners of whom `may_go` is true; the others keep their places. What goes before everybody's goes in any case.
    pub(crate) fn next_of(&self, may_go: impl Fn(&str) -> bool) -> Option<JobId> {
        let urgent = usize::from(class_of(JobPriority::P0));
        nats::consume::priority_order(self.turn, self.classes.len())
            .into_iter()
            .filter_map(|class| Some((class, self.classes.get(class)?)))
            .find_map(|(class, waiting)| waiting.front_of(|owner| class == urgent || may_go(owner)))
    }

    /// Owner and kind of a waiting job, and when it was created.
    pub(crate) fn describe(&self, job_id: JobId) -> Option<(Arc<str>, JobKind, u64)> {
        let place = self.places.get(&job_id)?;
        Some((Arc::clone(&place.owner), place.kind, place.created_at_ms))
    }

    /// The job that is next of each owner at each priority, owners in the order of their turns; at most `count_max`.
    pub(crate) fn heads(&self, count_max: usize) -> Vec<JobId> {
        let owners = self.classes.iter().flat_map(|class| {
            class.order.iter().filter_map(|(_, _, owner)| Some(class.owners.get(owner)?.jobs.first()?.1))
        });
        owners.take(count_max).collect()
    }

    /// Whose a waiting job is, and whether it goes before everybody's.
    pub(crate) fn owner_of(&self, job_id: JobId) -> Option<(&str, bool)> {
        let place = self.places.get(&job_id)?;
        Some((&*place.owner, place.class == class_of(JobPriority::P0)))
    }

    /// Books a part of a waiting job that was let in, by its cost.
    pub fn charge(&mut self, job_id: JobId, cost: u64) {
        self.turn = self.turn.wrapping_add(1);
        let Some(place) = self.places.get(&job_id) else { return };
        let weight = self.weights.get(&*place.owner).copied().unwrap_or(WEIGHT_DEFAULT).max(1);
        let step = cost.max(1).saturating_mul(TAG_SCALE).div_ceil(u64::from(weight)).max(1);
        if let Some(class) = self.classes.get_mut(usize::from(place.class)) {
            class.charge(&place.owner, step);
        }
    }

    /// Takes out the jobs of which `is_wanted` is true, asked by owner and kind.
    pub(crate) fn extract(&mut self, is_wanted: impl Fn(&str, JobKind) -> bool) -> Vec<WaitingJob> {
        let wanted = self.places.iter().filter(|(_, place)| is_wanted(&place.owner, place.kind));
        let wanted: Vec<JobId> = wanted.map(|(job_id, _)| *job_id).collect();
        wanted.into_iter().filter_map(|job_id| self.remove(job_id)).collect()
    }

    /// Where a job stands; `None` when it does not wait.
    pub fn position(&self, job_id: JobId) -> Option<QueuePosition> {
        let place = self.places.get(&job_id)?;
        let class = self.classes.get(usize::from(place.class))?;
        let queue = class.owners.get(&place.owner)?;
        let ahead = queue.jobs.range(..(place.created_at_ms, job_id)).take(JOBS_AHEAD_COUNTED_MAX).count();
        Some(QueuePosition { own_jobs_ahead: ahead, owners: class.order.len() })
    }
}

impl PriorityClass {
    fn front_of(&self, may_go: impl Fn(&str) -> bool) -> Option<JobId> {
        let (_, _, owner) = self.order.iter().find(|(_, _, owner)| may_go(owner))?;
        Some(self.owners.get(owner)?.jobs.first()?.1)
    }

    /// Answers the owner's name as it is kept here, so that all of its jobs share one.
    fn insert(&mut self, owner: &Arc<str>, created_at_ms: u64, job_id: JobId) -> Arc<str> {
        let name = self.owners.get_key_value(owner).map_or(owner, |(name, _)| name).clone();
        let queue = self.owners.entry(name.clone()).or_default();
        if queue.jobs.is_empty() {
            self.arrivals += 1;
            queue.arrival = self.arrivals;
            queue.start_tag = queue.start_tag.max(self.virtual_time);
            self.order.insert((queue.start_tag, queue.arrival, name.clone()));
        }
        queue.jobs.insert((created_at_ms, job_id));
        name
    }

    fn remove(&mut self, owner: &Arc<str>, created_at_ms: u64, job_id: JobId) {
        let Some(queue) = self.owners.get_mut(owner) else { return };
        if queue.jobs.remove(&(created_at_ms, job_id)) && queue.jobs.is_empty() {
            self.order.remove(&(queue.start_tag, queue.arrival, owner.clone()));
            self.forget_served();
        }
    }

    fn charge(&mut self, owner: &Arc<str>, step: u64) {
        let Some(queue) = self.owners.get_mut(owner) else { return };
        self.virtual_time = self.virtual_time.max(queue.start_tag);
        let waits = self.order.remove(&(queue.start_tag, queue.arrival, owner.clone()));
        // Who was passed over saves nothing up.
        queue.start_tag = queue.start_tag.max(self.virtual_time).saturating_add(step);
        if waits {
            // Behind all who have the same tag, and came before.
            self.arrivals += 1;
            queue.arrival = self.arrivals;
            self.order.insert((queue.start_tag, queue.arrival, owner.clone()));
        }
    }

    /// What owners got counts until nobody waits who got less. Without it, an owner that submits one job at a time would always be
    /// new.
    fn forget_served(&mut self) {
        if self.order.is_empty() {
            self.owners.clear();
            self.virtual_time = 0;
        } else if self.owners.len() > self.order.len().saturating_mul(2).saturating_add(1_024) {
            let now = self.virtual_time;
            self.owners.retain(|_, queue| !queue.jobs.is_empty() || queue.start_tag > now);
        }
    }
}

/// Index of a priority's order.
const fn class_of(priority: JobPriority) -> u8 {
    match priority {
        JobPriority::P0 => 0,
        JobPriority::P1 => 1,
        JobPriority::P2 => 2,
    }
}
