//! One term of the dispatcher: looks at the queue, finds out what became of the parts that left it, and lets the next ones in.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nats::{
    Bus, BusError, PublishOutcome,
    spans::{self, TraceContext},
};
use parking_lot::Mutex;
use schemas::{
    KvRecord as _,
    fault::{FailureClass, error_chain},
    ids::JobId,
    job::{JobPartTask, JobQueue, JobRecord},
    subjects,
    worker::WorkerRecord,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    DispatchConfig, DispatchMetrics,
    open_job::{OpenJob, PendingPart},
    queue::WaitingJob,
    records::{self, PartFate},
    state::DispatchState,
    worker_table::SeenWorker,
};

/// How soon a full queue is looked at again while something waits.
pub const FULL_PERIOD: Duration = Duration::from_millis(50);

/// How soon the queue is looked at again otherwise, unless a new job comes first.
pub const QUIET_PERIOD: Duration = Duration::from_millis(500);

/// How soon it is tried again when the broker does not answer.
const FAULT_PERIOD: Duration = Duration::from_secs(1);

/// What a turn led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnOutcome {
    /// A part was let in.
    LetIn,
    /// The job in front has nothing to let in now.
    Skipped,
    /// Nothing waits.
    NothingWaits,
}

/// Shared by the followers and the term.
#[derive(Debug, Clone)]
pub(crate) struct Dispatcher {
    bus: Bus,
    queue: JobQueue,
    metrics: DispatchMetrics,
    pub(crate) state: Arc<Mutex<DispatchState>>,
    changed: Arc<Notify>,
}

impl Dispatcher {
    pub(crate) fn new(bus: Bus, queue: JobQueue, config: DispatchConfig, metrics: DispatchMetrics) -> Self {
        let state = DispatchState::new(config);
        Self { bus, queue, metrics, state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whose parts it lets in.
    pub(crate) const fn queue(&self) -> JobQueue {
        self.queue
    }

    /// Nothing is known of the jobs yet.
    pub(crate) fn begin_following(&self) {
        self.state.lock().forget_jobs();
    }

    /// Unix time in milliseconds by the broker.
    pub(crate) fn broker_now_ms(&self) -> u64 {
        self.state.lock().broker_now_ms(Instant::now())
    }

    /// Every job that there was is known.
    pub(crate) fn note_followed(&self) {
        self.state.lock().is_followed = true;
        self.changed.notify_one();
    }

    pub(crate) fn let_wait(&self, job: &WaitingJob) {
        if self.state.lock().let_wait(job) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn forget_job(&self, job_id: JobId) {
        self.state.lock().forget_job(job_id);
    }

    pub(crate) fn note_worker(&self, key: &str, worker: &WorkerRecord) {
        if self.state.lock().workers.record(key, SeenWorker::new(worker, Instant::now())) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn forget_worker(&self, key: &str) {
        self.state.lock().workers.remove(key);
    }

    pub(crate) fn position(&self, job_id: JobId) -> schemas::dispatch_query::DispatchPosition {
        self.state.lock().position(job_id, Instant::now())
    }

    /// Looks at a job as if it came new: somebody changed what its parts may do, or it is not to be run, as far as is known.
    pub(crate) fn look_anew(&self, job_id: JobId) {
        self.state.lock().look_anew(job_id);
        self.changed.notify_one();
    }

    /// Reads the jobs that are to be looked at anew. One that can't be read now is read with the next look.
    async fn read_unread_jobs(&self) -> Result<(), BusError> {
        loop {
            let Some(job_id) = self.state.lock().unread.first().copied() else { return Ok(()) };
            let found = records::load_runnable_job(&self.bus, job_id).await?;
            let mut state = self.state.lock();
            state.unread.remove(&job_id);
            if let Some(job) = found
                .as_ref()
                .and_then(|held| WaitingJob::of(&held.record))
                .filter(|job| job.kind.queue() == self.queue)
            {
                state.let_wait(&job);
            }
        }
    }

    /// Lets parts in until `held` fires.
    pub(crate) async fn run_term(&self, held: CancellationToken) {
        tracing::debug!("parts are let in by this process");
        self.metrics.record_term(self.queue, true);
        // What an earlier term knew of the queue is old: all is opened anew.
        self.state.lock().look_at_open_jobs_anew();
        let answering = crate::answer::answer_questions(self, &held);
        let letting = async {
            while !held.is_cancelled() {
                let pause = self.run_turns(&held).await.unwrap_or_else(|error| {
                    tracing::warn!(error = error_chain(&error), "no parts can be let in for now");
                    FAULT_PERIOD
                });
                tokio::select! {
                    () = held.cancelled() => return,
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        let reporting = Box::pin(crate::wait_reports::report_waits(&self.bus, &self.state, &held));
        tokio::join!(answering, letting, reporting);
        self.metrics.record_term(self.queue, false);
    }

    /// Answers how soon the queue is to be looked at again.
    async fn run_turns(&self, held: &CancellationToken) -> Result<Duration, BusError> {
        if !self.state.lock().is_followed {
            return Ok(QUIET_PERIOD);
        }
        let jobs = subjects::kv_stream_name(JobRecord::BUCKET);
        let (broker_now_ms, pauses) =
            tokio::try_join!(self.bus.broker_now_ms(&jobs), records::load_pauses(&self.bus))?;
        self.state.lock().set_clock(Instant::now(), broker_now_ms);
        if let Some(pauses) = pauses {
            self.state.lock().set_pauses(pauses);
        }
        self.read_unread_jobs().await?;
        let mut listing =
            self.bus.stream_subjects(subjects::JOBS, &subjects::job_filter(self.queue.name())).await?;
        self.find_owners(&listing).await?;
        self.settle_parts(&listing).await?;
        self.look_at_idle_jobs().await?;
        self.state.lock().promote_aged(broker_now_ms);
        while !held.is_cancelled() && listing.len() < self.note_listing(&listing) {
            if self.take_turn(&mut listing).await? == TurnOutcome::NothingWaits {
                break;
            }
        }
        Ok(if self.state.lock().queue.is_empty() { QUIET_PERIOD } else { FULL_PERIOD })
    }

    /// Finds out whose the parts in the queue are that others let in, or an earlier term did.
    async fn find_owners(&self, listing: &BTreeSet<String>) -> Result<(), BusError> {
        let unknown = self.state.lock().parts_without_owner(listing);
        for subject in unknown {
            let owner = match subjects::parse_job_part_subject(&subject) {
                Some(job_id) => records::load_owner(&self.bus, job_id).await?,
                None => None,
            };
            self.state.lock().note_owner(subject, owner.unwrap_or_default());
        }
        Ok(())
    }

    /// Notes how full the queue is; answers how many parts it takes.
    fn note_listing(&self, listing: &BTreeSet<String>) -> usize {
        let mut state = self.state.lock();
        state.queue_parts = listing.len();
        let now = Instant::now();
        let (workers, slots) = state.workers.count(now);
        self.metrics.record_look(self.queue, state.queue.len(), listing.len(), (workers, slots));
        let has_waiting = !state.queue.is_empty();
        state.workers.queue_room(listing.len(), has_waiting, now)
    }

    /// Lets the next part in.
    async fn take_turn(&self, listing: &mut BTreeSet<String>) -> Result<TurnOutcome, BusError> {
        let Some(job_id) = self.state.lock().next_job() else { return Ok(TurnOutcome::NothingWaits) };
        let Some((subject, part)) = self.front_part(job_id).await? else { return Ok(TurnOutcome::Skipped) };
        let mut fate = if !subjects::is_subject_token(&part.name) {
            // It would break the connection.
            tracing::error!(job.id = %job_id, part = part.name, "this part has no name, and is left out");
            PartFate::Parked
        } else if listing.contains(&subject) {
            PartFate::Open
        } else {
            records::load_fate(&self.bus, job_id, &part.name, self.broker_now_ms()).await?
        };
        let is_new = fate == PartFate::Open && !listing.contains(&subject);
        if is_new {
            let trace = self.state.lock().open.get(&job_id).and_then(|open| open.trace);
            match self.publish_part((job_id, trace), &subject, &part.name).await {
                Ok(()) => _ = listing.insert(subject.clone()),
                Err(error) if error.failure_class() == FailureClass::Outage => return Err(error),
                Err(error) => {
                    // Left to a person: one part that can't be let in must not stop all others.
                    tracing::error!(error = error_chain(&error), job.id = %job_id, "this part is left out");
                    fate = PartFate::Parked;
                }
            }
        }
        let is_new = is_new && fate == PartFate::Open;
        let now_ms = self.broker_now_ms();
        let mut state = self.state.lock();
        if is_new {
            state.note_let_in(job_id, &subject, Instant::now());
            state.queue.charge(job_id, part.cost);
        }
        let Some(open) = state.open.get_mut(&job_id) else { return Ok(TurnOutcome::Skipped) };
        if open.pending.front() == Some(&part) {
            open.pending.pop_front();
        }
        open.note_fate((&subject, &part.name), fate, Instant::now(), now_ms);
        if open.pending.is_empty() {
            open.check_at = Instant::now();
            state.queue.remove(job_id);
        }
        Ok(if is_new { TurnOutcome::LetIn } else { TurnOutcome::Skipped })
    }

    /// Lets a part of a job in, in the trace that the job was made in. Another dispatcher may have been first, or it came between two looks.
    pub(crate) async fn publish_part(
        &self,
        (job_id, trace): (JobId, Option<TraceContext>),
        subject: &str,
        part: &str,
    ) -> Result<(), BusError> {
        let task = JobPartTask { job_id, part: part.to_owned() };
        let publishing = self.bus.publish_once(subjects::JOBS, subject, &task);
        let outcome = spans::with_context(trace, publishing).await?;
        if matches!(outcome, PublishOutcome::Stored(_)) {
            self.metrics.count_let_in(self.queue);
            tracing::debug!(job.id = %job_id, part, "let in");
        }
        Ok(())
    }

    /// The next part of a job with its subject; opens the job if that was not done. `None` when there is none.
    async fn front_part(&self, job_id: JobId) -> Result<Option<(String, PendingPart)>, BusError> {
        let is_open = {
            let mut state = self.state.lock();
            // By what is known without reading: there may be many.
            if state.hold_for_version(job_id, Instant::now()) {
                return Ok(None);
            }
            state.open.contains_key(&job_id)
        };
        if !is_open {
            let Some(job) = records::load_runnable_job(&self.bus, job_id).await? else {
                self.look_anew(job_id);
                return Ok(None);
            };
            let mut state = self.state.lock();
            // It may have ended since it was read.
            if state.queue.contains(job_id) {
                let trace = job.trace();
                let job = job.record;
                let priority = state.priority_of(&job.owner, &job.kind, job.priority);
                state.open_job(job_id, OpenJob::new(&job, priority, trace));
            }
        }
        let mut state = self.state.lock();
        let front = state.open.get(&job_id).and_then(|open| {
            let part = open.pending.front()?.clone();
            Some((open.part_subject(job_id, &part.name), part))
        });
        // One that is not open came anew since it was read, and is opened with its next turn.
        if front.is_none() && state.open.contains_key(&job_id) {
            state.queue.remove(job_id);
        }
        Ok(front)
    }
}
