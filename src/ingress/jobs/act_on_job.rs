//! One of the things that an action does with a job of its filter, by the rules that hold for a request about that job alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::{Bus, BusError, FailureClass, Outbox};
use schemas::{
    fault::error_chain,
    ids::JobId,
    job::JobRecord,
    job_action::{JobAction, JobActionOrder, JobActionOutcome},
};
use store::{Store, StoreError};

use super::{
    cancellation::{CancelOutcome, JobCanceller, cancel_job},
    retry::NextEncodeError,
    tasks::TaskRequest,
    try_again::{TryContext, TryOutcome, try_job_again},
};
use crate::{
    capacity::{CapacityLimit, CapacityMonitor, ENCODE},
    quotas::QuotaConfig,
    transcode::ProfileCatalog,
};
use web::problem_code::ProblemCode;

/// What actions on jobs need.
#[derive(Debug, Clone)]
pub struct JobActionContext {
    /// Where the jobs are.
    pub bus: Bus,
    /// Where the sources are of what is encoded again.
    pub store: Store,
    /// The profiles that there are now.
    pub profiles: ProfileCatalog,
    /// How much each owner may have done.
    pub quotas: QuotaConfig,
    /// Whether there is room for what begins.
    capacity: CapacityMonitor,
    looked_at: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// What is away.
#[derive(Debug, thiserror::Error)]
pub enum ActionOutage {
    /// The broker.
    #[error("the broker is away")]
    Bus(#[source] BusError),
    /// The store.
    #[error("the store is away")]
    Store(#[source] StoreError),
}

/// How long it is believed what was found of the room for what begins.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

impl JobActionContext {
    /// Nothing is known yet of the room there is.
    pub fn new(
        bus: Bus,
        store: Store,
        (profiles, quotas): (ProfileCatalog, QuotaConfig),
        capacity: CapacityMonitor,
    ) -> Self {
        Self { bus, store, profiles, quotas, capacity, looked_at: Arc::default() }
    }

    /// What is full of that which another encode needs. Looks at it now and then: actions are rare.
    async fn find_full(&self) -> Option<CapacityLimit> {
        let mut looked_at = self.looked_at.lock().await;
        if looked_at.is_none_or(|at| at.elapsed() > LOOK_PERIOD) {
            self.capacity.poll_limits().await;
            *looked_at = Some(Instant::now());
        }
        drop(looked_at);
        self.capacity.find_full(&ENCODE)
    }

    /// Does what `order` says with a job, if it is one of those that are meant; `None` when it is none of them any more. `by` is the job
    /// that says so. Repeating it is harmless. One job that can't be read, or whose medium can't be, must not stop the others: it is
    /// refused.
    ///
    /// # Errors
    /// [`ActionOutage`] while the broker or the store is away: it can be tried again.
    pub async fn act_on_job(
        &self,
        job_id: JobId,
        order: &JobActionOrder,
        by: &JobRecord,
    ) -> Result<Option<JobActionOutcome>, ActionOutage> {
        match self.act(job_id, order, by).await {
            Err(NextEncodeError::Bus(error)) if error.failure_class() == FailureClass::Outage => {
                Err(ActionOutage::Bus(error))
            }
            Err(NextEncodeError::Store(error)) if error.is_outage() => Err(ActionOutage::Store(error)),
            Err(error) => {
                let (code, detail) = (error.code().to_owned(), error_chain(&error));
                Ok(Some(JobActionOutcome::Refused { code, detail }))
            }
            Ok(outcome) => Ok(outcome),
        }
    }

    async fn act(
        &self,
        job_id: JobId,
        order: &JobActionOrder,
        by: &JobRecord,
    ) -> Result<Option<JobActionOutcome>, NextEncodeError> {
        let found = self.bus.load_record::<JobRecord>(&job_id.to_string()).await?;
        let Some(job) = found.map(|held| held.record).filter(|job| order.matches(job, by)) else {
            return Ok(None);
        };
        if order.is_dry_run {
            return Ok(Some(foresee(order.action, &job)));
        }
        match order.action {
            JobAction::Cancel {} => self.cancel(job_id, order).await,
            JobAction::Retry {} => self.try_again(&job, order).await,
            JobAction::Pause {} | JobAction::Resume {} | JobAction::Prioritize { .. } => {
                self.change(job_id, order, by).await
            }
        }
    }

    async fn cancel(
        &self,
        job_id: JobId,
        order: &JobActionOrder,
    ) -> Result<Option<JobActionOutcome>, NextEncodeError> {
        Ok(match cancel_job(&self.bus, job_id, JobCanceller::Person(&order.asked_by)).await? {
            CancelOutcome::Cancelled(_) => Some(JobActionOutcome::Changed),
            CancelOutcome::Publishing => {
                Some(refuse(ProblemCode::JobPublishing, "its result is being published"))
            }
            CancelOutcome::Ended(_) | CancelOutcome::Absent => None,
        })
    }

    async fn try_again(
        &self,
        job: &JobRecord,
        order: &JobActionOrder,
    ) -> Result<Option<JobActionOutcome>, NextEncodeError> {
        if let Some(full) = self.find_full().await {
            return Ok(Some(refuse(full.problem_code(), &format!("{} is full", full.name))));
        }
        let context = TryContext {
            bus: &self.bus,
            store: &self.store,
            profiles: &self.profiles,
            quotas: &self.quotas,
            may_take_p0: order.only_owner.is_none(),
        };
        Ok(Some(match try_job_again(context, job).await {
            Ok(TryOutcome::Begun(_)) => JobActionOutcome::Changed,
            Ok(TryOutcome::Nothing(why)) => refuse(ProblemCode::JobGoesOn, &why),
            Ok(TryOutcome::NotRepeatable(instead)) => refuse(ProblemCode::JobNotRepeatable, instead),
            Ok(TryOutcome::NothingStored(why)) => refuse(ProblemCode::NothingStored, why),
            // Somebody else changed its medium meanwhile.
            Err(NextEncodeError::Bus(BusError::Conflict { .. })) => {
                refuse(ProblemCode::Conflict, "its medium was changed meanwhile")
            }
            Err(error) => return Err(error),
        }))
    }

    /// A change of the record alone.
    async fn change(
        &self,
        job_id: JobId,
        order: &JobActionOrder,
        by: &JobRecord,
    ) -> Result<Option<JobActionOutcome>, NextEncodeError> {
        let mut outcome = None;
        let change = |found: Option<&JobRecord>| {
            let job = found.filter(|job| order.matches(job, by));
            let changed = job.and_then(|job| with_change(order, job, nats::estimated_broker_now_ms()));
            let what =
                if changed.is_some() { JobActionOutcome::Changed } else { JobActionOutcome::Unchanged };
            outcome = job.map(|_| what);
            changed
        };
        self.bus.change_record::<JobRecord>(&job_id.to_string(), change).await?;
        Ok(outcome)
    }
}

/// The record once it is paused, resumed or at another priority; `None` when it is so.
fn with_change(order: &JobActionOrder, job: &JobRecord, now_ms: u64) -> Option<(JobRecord, Outbox)> {
    let by = order.asked_by.as_str();
    match order.action {
        JobAction::Pause {} => {
            let (record, event) = job.with_pause(by, now_ms)?;
            Some((record, Outbox::new().with_event(&event)))
        }
        JobAction::Resume {} => {
            let (record, event) = job.with_resumption(by)?;
            Some((record, Outbox::new().with_event(&event)))
        }
        JobAction::Prioritize { priority } => {
            let (record, event) = job.with_priority(priority, by)?;
            Some((record, Outbox::new().with_event(&event)))
        }
        JobAction::Cancel {} | JobAction::Retry {} => None,
    }
}

/// What an action would do with a job of its filter, as far as its record says.
fn foresee(action: JobAction, job: &JobRecord) -> JobActionOutcome {
    let is_so = match action {
        JobAction::Pause {} => job.paused_at_ms.is_some(),
        JobAction::Resume {} => job.paused_at_ms.is_none(),
        JobAction::Prioritize { priority } => job.priority == priority,
        JobAction::Cancel {} if job.publishing_at_ms.is_some() => {
            return refuse(ProblemCode::JobPublishing, "its result is being published");
        }
        JobAction::Retry {} if !job.is_encode() => match TaskRequest::of_job(job) {
            Ok(_) => false,
            Err(instead) => return refuse(ProblemCode::JobNotRepeatable, instead),
        },
        JobAction::Cancel {} | JobAction::Retry {} => false,
    };
    if is_so { JobActionOutcome::Unchanged } else { JobActionOutcome::Changed }
}

fn refuse(code: ProblemCode, detail: &str) -> JobActionOutcome {
    JobActionOutcome::Refused { code: code.code().to_owned(), detail: detail.to_owned() }
}
