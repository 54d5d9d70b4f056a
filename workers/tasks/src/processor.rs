//! One message of the queue: claim the part, do the job, and say what came of it.
//!
//! Order of effects: the job's own record, then that of its part, then the acknowledgement. Who takes over finds one or none of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use nats::metrics::table::TASK_SECONDS;
use nats::spans::{Span, SpanAttribute, SpanKind};
use nats::{BusError, FailureClass, MessageDelivery, PipelineStage, StageFault, StageOutcome};
use parking_lot::Mutex;
use queue_worker::{
    ActiveClaims, BrokerUptime, CLAIM_FRESH, ClaimOutcome, LostWorkerPolicy, PartAttemptFailure,
    PartAvailability, PartClaim, PartClaimSettings, RENEW_PERIOD_MAX,
};
use schemas::{
    job::{self, FINISH, JobKind, JobPartRecord, JobPartStatus, JobPartTask, JobQueue, JobRecord, TASK},
    job_action::JobActionProgress,
    subjects,
};
use tokio::sync::Semaphore;

use crate::{
    TasksContext,
    error::TaskError,
    export::{self, ExportError},
    fetch::{self, FetchError},
    job_actions,
    job_result::{TaskOutcome, end_job, keep_report, kind_name},
    progress::TaskProgress,
    thumbnails, verify,
};

/// How soon a job of another version is looked at again, in milliseconds.
const OTHER_VERSION_DELAY_MS: u64 = 10_000;

/// How long before the end of a try a fetch or an export is given up, in milliseconds.
const FETCH_MARGIN_MS: u64 = 2_000;

/// How soon a fetch or an export is looked at again for which there is no slot, in milliseconds.
const FETCH_WAIT_MS: u64 = 2_000;

/// Does jobs.
pub(crate) struct TaskProcessor {
    context: Arc<TasksContext>,
    /// Slots that fetches and exports may hold: one is left to jobs that wait for no host of somebody else, where there are several.
    fetch_slots: Semaphore,
    /// Whether those who hold parts could show themselves.
    uptime: BrokerUptime,
    active: ActiveClaims,
}

/// How a try ended that did not fail.
enum TryEnding {
    /// It has come to something.
    Done(TaskOutcome),
    /// The job ended meanwhile.
    JobOver,
    /// The process has to stop.
    Stopped,
    /// Another worker has it.
    Lost,
}

impl PipelineStage for TaskProcessor {
    const NAME: &'static str = "tasks";
    const RENEW_PERIOD_MAX: Duration = RENEW_PERIOD_MAX;
    type Message = JobPartTask;

    async fn handle(
        &self,
        task: &JobPartTask,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        let bus = &self.context.bus;
        let found = match bus.load_record::<JobRecord>(&task.job_id.to_string()).await {
            // A newer version wrote into it what this one does not understand.
            Err(BusError::Undecodable { .. }) => return self.leave_to_other_version("newer", delivery),
            found => found?,
        };
        let Some(held) = found else {
            tracing::info!(job.id = %task.job_id, "the job is gone with its medium, or long over");
            return Ok(StageOutcome::Done);
        };
        let job = held.record;
        // A paused one: the dispatcher lets it in again once it is resumed.
        if !job.is_to_be_run() {
            if job.ended_at_ms.is_some() {
                self.keep_noted_report(&job).await?;
            }
            return Ok(StageOutcome::Done);
        }
        if job.queue() != Some(JobQueue::Tasks) {
            return self.leave_to_other_version(&job.kind, delivery);
        }
        if task.part == FINISH {
            return Ok(self.end_after_part(&job).await.map(|()| StageOutcome::Done)?);
        }
        let waits_for_host = job.fetch.is_some() || job.export.is_some();
        let fetch_slot = waits_for_host.then(|| self.fetch_slots.try_acquire());
        if matches!(fetch_slot, Some(Err(_))) {
            return Ok(StageOutcome::Later { delay_ms: FETCH_WAIT_MS });
        }
        let claim = match self.claim_part(&job).await? {
            ClaimOutcome::Ours(claim) => Arc::new(*claim),
            ClaimOutcome::Held(rest) => {
                let delay_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
                return Ok(StageOutcome::Later { delay_ms: delay_ms.saturating_add(50) });
            }
            // What is tried later leaves the queue until then: the dispatcher lets it in again.
            ClaimOutcome::JobOver | ClaimOutcome::Delayed => return Ok(StageOutcome::Done),
            ClaimOutcome::Over(_) => {
                return Ok(self.end_after_part(&job).await.map(|()| StageOutcome::Done)?);
            }
            ClaimOutcome::Parked(lost) => return Err(TaskError::Parked { workers: lost.workers }.into()),
        };
        let _active =
            self.active.register(&self.context.status, (&delivery.subject, &claim), (job.job_id, TASK));
        // What an action has done with other jobs is known also where it is cut off.
        let acted = Mutex::new(claim.current_record().await.acted.unwrap_or_default());
        let tried = async {
            let ending = self.run_try(&job, (&claim, &acted), delivery).await?;
            self.conclude_try(&job, (&claim, &acted), ending).await
        };
        match Box::pin(tried).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                if job.action.is_some()
                    && let Err(other) = job_actions::note_progress(&claim, &acted).await
                {
                    tracing::debug!(error = other.describe(), "what an action has done is not noted");
                }
                fail_try(&claim, error).await
            }
        }
    }

    async fn renew_claim(&self, _task: &JobPartTask, delivery: &MessageDelivery) -> bool {
        self.active.renew(&delivery.subject).await
    }

    async fn on_dead_letter(
        &self,
        task: &JobPartTask,
        _delivery: &MessageDelivery,
        fault: &StageFault,
    ) -> Result<(), StageFault> {
        let found = self.context.bus.load_record::<JobRecord>(&task.job_id.to_string()).await?;
        // Workers that vanish are no fault of the job: it waits for somebody who resumes it.
        let Some(held) = found.filter(|_| fault.code != job::WORKERS_LOST) else { return Ok(()) };
        let (code, detail) = (fault.code, fault.describe());
        queue_worker::fail_part(&self.context.bus, &held.record, TASK, (code, &detail)).await?;
        let outcome = TaskOutcome::Failed(code.to_owned(), detail);
        self.keep_noted_report(&held.record).await?;
        Ok(self.end_job(&held.record, &outcome).await?)
    }
}

impl TaskProcessor {
    pub(crate) fn new(context: Arc<TasksContext>) -> Self {
        let fetch_slots = Semaphore::new(context.config.parts.slots.saturating_sub(1).max(1));
        Self { context, fetch_slots, uptime: BrokerUptime::default(), active: ActiveClaims::default() }
    }

    /// Asks the broker all the time whether it is there. Never ends.
    pub(crate) async fn watch_broker(&self) {
        self.uptime.watch_broker(&self.context.bus).await;
    }

    async fn claim_part(&self, job: &JobRecord) -> Result<ClaimOutcome, TaskError> {
        let TasksContext { bus, config, status, .. } = &*self.context;
        let rules = PartClaimSettings {
            worker: status.worker(),
            fresh: CLAIM_FRESH,
            attempts_max: config.parts.attempts_max,
            policy: LostWorkerPolicy::default(),
            uptime: &self.uptime,
        };
        match PartClaim::check_availability(bus, job, TASK, rules).await? {
            PartAvailability::Free(held) => Ok(PartClaim::take_part(bus, job, *held, rules).await?),
            PartAvailability::Taken(asked) => Ok(asked),
        }
    }

    /// Does the job until it is done, not wanted any more, or somebody else's.
    async fn run_try(
        &self,
        job: &JobRecord,
        (claim, acted): (&PartClaim, &Mutex<JobActionProgress>),
        delivery: &MessageDelivery,
    ) -> Result<TryEnding, TaskError> {
        let try_time_ms_max = self.context.config.try_time_ms_max;
        let working = async {
            let began = Instant::now();
            let span = Span::begin(SpanKind::Internal, || format!("run {} job", kind_name(job)).into());
            span.set(|| SpanAttribute::JobId(job.job_id.to_string()));
            span.set(|| SpanAttribute::MediaId(job.media_id.to_string()));
            let done = span.scope(self.run_kind(job, (claim, acted))).await;
            if let Err(error) = &done {
                span.fail(error.code());
            }
            TASK_SECONDS.series(&[kind_name(job)]).observe(began.elapsed().as_secs_f64());
            done
        };
        let working = tokio::time::timeout(Duration::from_millis(try_time_ms_max), working);
        tokio::select! {
            biased;
            () = delivery.cancel.cancelled() => Ok(TryEnding::Stopped),
            () = claim.lost_token().cancelled() => Ok(TryEnding::Lost),
            done = working => {
                let done = done.map_err(|_| TaskError::TooLong { try_time_ms_max })?;
                Ok(TryEnding::Done(done?))
            }
            ended = self.wait_until_inactive(job) => ended.map(|()| TryEnding::JobOver),
        }
    }

    /// Until the job has ended, as far as the broker says so.
    async fn wait_until_inactive(&self, job: &JobRecord) -> Result<(), TaskError> {
        let bus = &self.context.bus;
        // Only a hint: without it the record is looked at all the same.
        let mut control = match bus.subscribe_core(subjects::job_cancel_subject(job.job_id)).await {
            Ok(control) => control.left_stream(),
            Err(_) => futures::stream::pending().right_stream(),
        };
        loop {
            // First: what was cancelled before we listened nobody says again.
            match queue_worker::is_job_inactive(bus, job).await {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) if error.is_outage() => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                Some(_) = control.next() => {}
                () = tokio::time::sleep(RENEW_PERIOD_MAX) => {}
            }
        }
    }

    async fn run_kind(
        &self,
        job: &JobRecord,
        held: (&PartClaim, &Mutex<JobActionProgress>),
    ) -> Result<TaskOutcome, TaskError> {
        let TasksContext { bus, config, services, .. } = &*self.context;
        let progress = TaskProgress::new(bus, job, config.progress_interval_ms);
        let done = match JobKind::parse(&job.kind) {
            Some(JobKind::Verify) => {
                let verified = verify::verify_medium(&self.context, job.media_id, &progress).await;
                verified.map(TaskOutcome::Verified)
            }
            Some(JobKind::JobAction) => {
                job_actions::act_on_jobs(bus, &*services.actor, job, held).await.map(TaskOutcome::Acted)
            }
            Some(JobKind::Fetch) => {
                // Before the try is over: how slow somebody else's host is concerns the owner, and the next try goes on from here.
                let limit = Duration::from_millis(config.try_time_ms_max.saturating_sub(FETCH_MARGIN_MS));
                let fetching = fetch::fetch_medium(&self.context, job, &progress);
                let fetched = tokio::time::timeout(limit, Box::pin(fetching)).await;
                let fetched = fetched.unwrap_or(Err(FetchError::TooSlow));
                fetched.map(|()| TaskOutcome::Fetched).map_err(TaskError::from)
            }
            Some(JobKind::Thumbnails) => {
                let making = thumbnails::make_thumbnails(&self.context, job, &progress);
                Box::pin(making).await.map(|()| TaskOutcome::Pictured)
            }
            Some(JobKind::Export) => {
                // As of a fetch: how slow somebody else's host is concerns the owner.
                let limit = Duration::from_millis(config.try_time_ms_max.saturating_sub(FETCH_MARGIN_MS));
                let exporting = export::export_medium(&self.context, job, &progress);
                let exported = tokio::time::timeout(limit, Box::pin(exporting)).await;
                let exported = exported.unwrap_or_else(|_| Err(ExportError::TooSlow.into()));
                exported.map(TaskOutcome::Exported)
            }
            Some(JobKind::Transcode) | None => Err(TaskError::UnknownKind { kind: job.kind.clone() }),
        };
        match done {
            // Its owner removed it, or it never came to anything: nobody has to look into that.
            Err(error @ (TaskError::MediaGone | TaskError::NothingStored)) => {
                Ok(TaskOutcome::Failed(error.code().to_owned(), error.to_string()))
            }
            // It would be the same each time.
            Err(TaskError::Picture(error)) if error.class == FailureClass::Reject => {
                let error = TaskError::Picture(error);
                Ok(TaskOutcome::Failed(error.code().to_owned(), error.describe()))
            }
            // Somebody else's host: after the last try its owner has to look into that, and no operator.
            Err(error @ (TaskError::Fetch(_) | TaskError::Export(_)))
                if match error.class() {
                    FailureClass::Reject => true,
                    FailureClass::Fault => held.0.fault_count() + 1 >= config.parts.attempts_max,
                    FailureClass::Outage => false,
                } =>
            {
                Ok(TaskOutcome::Failed(error.code().to_owned(), error.describe()))
            }
            done => done,
        }
    }

    async fn conclude_try(
        &self,
        job: &JobRecord,
        (claim, acted): (&PartClaim, &Mutex<JobActionProgress>),
        ending: TryEnding,
    ) -> Result<StageOutcome, TaskError> {
        let outcome = match ending {
            TryEnding::Done(outcome) => outcome,
            TryEnding::JobOver => {
                let report = acted.lock().report.clone();
                keep_report(&self.context.bus, job, report).await?;
                // Who cancelled it has ended the upload; what that held is freed now, or by the keeper.
                if let Err(error) = self.end_upload(job, job::JOB_CANCELLED).await {
                    tracing::debug!(
                        error = error.describe(),
                        "the upload of a job that is over is freed later"
                    );
                }
                claim.release_ended().await?;
                return Ok(StageOutcome::Done);
            }
            TryEnding::Lost => return Ok(StageOutcome::Lost),
            TryEnding::Stopped => {
                if job.action.is_some() {
                    job_actions::note_progress(claim, acted).await?;
                }
                return Ok(claim.release_stopped().await?);
            }
        };
        // Fenced once more: another worker may have taken it over, and come to something else.
        let progress = job.action.is_some().then(|| acted.lock().clone());
        if !claim.write_change(|part| part.acted = progress.or_else(|| part.acted.take())).await? {
            return Ok(StageOutcome::Lost);
        }
        self.end_job(job, &outcome).await?;
        let is_ours = claim.write_change(|part| part.status = JobPartStatus::Done).await?;
        Ok(if is_ours { StageOutcome::Done } else { StageOutcome::Lost })
    }

    /// Notes in a job what its part's record says that an action had done, if nobody has.
    async fn keep_noted_report(&self, job: &JobRecord) -> Result<(), TaskError> {
        if job.action.is_none() || job.acted.is_some() {
            return Ok(());
        }
        let key = subjects::part_key(job.job_id, TASK);
        let part = self.context.bus.load_record::<JobPartRecord>(&key).await?;
        let Some(progress) = part.and_then(|part| part.record.acted) else { return Ok(()) };
        keep_report(&self.context.bus, job, progress.report).await
    }

    /// Leaves a job of a kind that this version does not know to workers that do, for as long as an upgrade may take.
    fn leave_to_other_version(
        &self,
        kind: &str,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        // Since it was let in: it may have waited for its turn before.
        let age_ms = nats::estimated_broker_now_ms().saturating_sub(delivery.stored_at_ms);
        if age_ms < self.context.config.other_version_wait_ms {
            return Ok(StageOutcome::Later { delay_ms: OTHER_VERSION_DELAY_MS });
        }
        Err(TaskError::UnknownKind { kind: kind.to_owned() }.into())
    }

    /// Ends a job whose part is over: something went away before that could be written.
    async fn end_after_part(&self, job: &JobRecord) -> Result<(), TaskError> {
        let bus = &self.context.bus;
        let found = bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, TASK)).await?;
        let Some(part) = found.map(|held| held.record).filter(|part| part.status == JobPartStatus::Failed)
        else {
            return Ok(());
        };
        let code = part.code.unwrap_or_else(|| job::PART_FAILED.to_owned());
        let outcome = TaskOutcome::Failed(code, part.detail.unwrap_or_default());
        self.end_job(job, &outcome).await
    }

    /// Ends a job, and before that the upload of one that came to nothing: no job is left that would do it later.
    async fn end_job(&self, job: &JobRecord, outcome: &TaskOutcome) -> Result<(), TaskError> {
        if let TaskOutcome::Failed(code, _) = outcome {
            self.end_upload(job, code).await?;
        }
        end_job(&self.context.bus, job, outcome, self.context.config.ended_kept_ms).await
    }

    /// Ends the upload that a job fetches for, if it does, and it is open.
    async fn end_upload(&self, job: &JobRecord, code: &str) -> Result<(), TaskError> {
        let Some(fetch) = &job.fetch else { return Ok(()) };
        Ok(self.context.services.uploads.end(fetch.upload_id, code).await?)
    }
}

/// After an error: an outage is waited out, everything else counts as a try. The claim is let go either way.
async fn fail_try(claim: &PartClaim, error: TaskError) -> Result<StageOutcome, StageFault> {
    let left = match error.class() {
        FailureClass::Outage => PartAttemptFailure::Interrupted,
        FailureClass::Fault | FailureClass::Reject => PartAttemptFailure::Failed,
    };
    match claim.release(error.code(), &error.describe(), left).await {
        Ok(true) => {}
        Ok(false) => return Ok(StageOutcome::Lost),
        Err(other) => {
            let error = other.describe();
            tracing::warn!(error, "the claim could not be let go; it runs out by itself");
        }
    }
    // By the record: what the loop counts ends with the process, and other workers know nothing of it.
    Err(StageFault::from(error).with_attempt(claim.fault_count() + 1))
}
