//! One message of the work queue: claim the part, make it, record it, and see whether it was the last one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use nats::{
    FailureClass, MessageDelivery, PipelineStage, StageFault, StageOutcome,
    metrics::LabelValue as _,
    spans::{Span, SpanAttribute, SpanKind},
};
use packaging::plan::{self, PartWork};
use queue_worker::{
    ActiveClaims, BrokerUptime, ClaimOutcome, PartAttemptFailure, PartAvailability, PartClaim,
    PartClaimSettings, RENEW_PERIOD_MAX,
};
use schemas::{
    job::{self, JobPartRecord, JobPartStatus, JobPartTask},
    subjects,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    TranscodeContext,
    encode::{self, PartRun, PartRunOutcome},
    error::TranscodeError,
    finish, job_result, outage, part_metrics, playable,
};

/// Makes parts.
pub(crate) struct PartProcessor {
    context: Arc<TranscodeContext>,
    /// Whether those who hold parts could show themselves.
    uptime: BrokerUptime,
    active: ActiveClaims,
    /// Held by each running part, and alone by one that lost workers: it may take the process with it.
    room: Arc<RwLock<()>>,
    started: Instant,
}

/// A place among the running parts of this process.
#[derive(Debug)]
enum PartPermit {
    Shared(#[expect(dead_code, reason = "held, never read")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held, never read")] OwnedRwLockWriteGuard<()>),
}

/// How soon a part is asked for again when its worker is to run another one alone.
const ROOM_DELAY: Duration = Duration::from_secs(2);

/// How soon a part of another version is looked at again.
const OTHER_VERSION_DELAY: Duration = Duration::from_secs(10);

impl PipelineStage for PartProcessor {
    const NAME: &'static str = "transcode";
    // Not by the ack wait alone: the durables may have been made with a longer one.
    const RENEW_PERIOD_MAX: Duration = RENEW_PERIOD_MAX;
    type Message = JobPartTask;

    async fn handle(
        &self,
        task: &JobPartTask,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        let bus = &self.context.bus;
        let job = match bus.load_record::<job::JobRecord>(&task.job_id.to_string()).await {
            Ok(Some(held)) => held.record,
            Ok(None) => {
                tracing::info!(job.id = %task.job_id, part = task.part, "the job is gone with its medium, or long over");
                return Ok(StageOutcome::Done);
            }
            Err(error) => return self.handle_error(TranscodeError::from(error), None).await,
        };
        // A paused one: the dispatcher lets its parts in again once it is resumed.
        if !job.is_to_be_run() {
            return Ok(StageOutcome::Done);
        }
        let Some(work) = plan::find_part_work(&job.plan, &task.part) else {
            return Err(TranscodeError::Unknown(format!("part {:.40}", task.part)).into());
        };
        // What is finished is only described: any version can do that.
        if job.plan.options_version != plan::OPTIONS_VERSION && work != PartWork::Finish {
            return self.leave_to_other_version(&job).await;
        }
        let mut room = None;
        let claim = match self.claim_part(&job, &task.part, delivery, &mut room).await {
            Ok(ClaimOutcome::Ours(claim)) => Arc::new(*claim),
            Ok(ClaimOutcome::Held(rest)) => return Ok(delay_with_jitter(rest)),
            // What is tried later leaves the queue until then: the dispatcher lets it in again.
            Ok(ClaimOutcome::JobOver | ClaimOutcome::Delayed) => return Ok(StageOutcome::Done),
            Ok(ClaimOutcome::Over(part)) => return self.handle_ended_part(&job, &part, delivery).await,
            Ok(ClaimOutcome::Parked(lost)) => {
                return Err(TranscodeError::Parked { workers: lost.workers }.into());
            }
            Err(error) => return self.handle_error(error, None).await,
        };
        let _active =
            self.active.register(&self.context.status, (&delivery.subject, &claim), (job.job_id, &task.part));
        let run = PartRun {
            context: &self.context,
            job: &job,
            part: &task.part,
            work,
            claim: &claim,
            stop: &delivery.cancel,
        };
        match Box::pin(self.run_part(&run)).await {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => match self.note_ended_part(&job, &task.part, delivery).await {
                Ok(()) => Ok(StageOutcome::Done),
                Err(error) => self.handle_error(error, None).await,
            },
            Err(error) => self.handle_error(error, Some(&claim)).await,
        }
    }

    async fn renew_claim(&self, _task: &JobPartTask, delivery: &MessageDelivery) -> bool {
        self.active.renew(&delivery.subject).await
    }

    async fn on_outage(&self, task: &JobPartTask, _delivery: &MessageDelivery, fault: &StageFault) {
        outage::report_job_delay(&self.context.bus, task.job_id, fault).await;
    }

    async fn on_dead_letter(
        &self,
        task: &JobPartTask,
        _delivery: &MessageDelivery,
        fault: &StageFault,
    ) -> Result<(), StageFault> {
        Ok(self.fail_dead_part(task, fault).await?)
    }
}

impl PartProcessor {
    pub(crate) fn new(context: Arc<TranscodeContext>) -> Self {
        Self {
            context,
            uptime: BrokerUptime::default(),
            active: ActiveClaims::default(),
            room: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Asks the broker all the time whether it is there. Never ends.
    pub(crate) async fn watch_broker(&self) {
        self.uptime.watch_broker(&self.context.bus).await;
    }

    async fn claim_part(
        &self,
        job: &job::JobRecord,
        part: &str,
        delivery: &MessageDelivery,
        room: &mut Option<PartPermit>,
    ) -> Result<ClaimOutcome, TranscodeError> {
        let config = &self.context.config;
        let rules = PartClaimSettings {
            worker: &self.context.worker,
            fresh: Duration::from_millis(config.claim_fresh_ms),
            attempts_max: config.parts.attempts_max,
            policy: config.lost_worker_policy(),
            uptime: &self.uptime,
        };
        let held = match PartClaim::check_availability(&self.context.bus, job, part, rules).await? {
            PartAvailability::Free(held) => *held,
            PartAvailability::Taken(asked) => return Ok(asked),
        };
        // Room before the claim: a claim counts a try, and waiting for room is none.
        let workers_lost = held.record.lost.map_or(0, |lost| lost.workers);
        let is_alone = workers_lost >= config.lost_workers_max;
        if is_alone && !delivery.subject.ends_with(part) {
            // A finish in the place of a part, whose room is held meanwhile: it would wait for itself.
            return Ok(ClaimOutcome::Held(ROOM_DELAY));
        }
        *room = self.acquire_permit(is_alone, delivery).await;
        if room.is_none() {
            return Ok(ClaimOutcome::Held(ROOM_DELAY));
        }
        Ok(PartClaim::take_part(&self.context.bus, job, held, rules).await?)
    }

    /// Leaves a part to workers that make the bytes its other parts are made of, for as long as an upgrade may take.
    async fn leave_to_other_version(&self, job: &job::JobRecord) -> Result<StageOutcome, StageFault> {
        let wait_ms = self.context.config.other_version_wait_ms;
        let now_ms = nats::estimated_broker_now_ms();
        // From the start of this worker, too: a long encode that is under way has been queued long ago.
        let is_new = self.started.elapsed() < Duration::from_millis(wait_ms);
        if is_new || now_ms.saturating_sub(job.created_at_ms) < wait_ms {
            return Ok(delay_with_jitter(OTHER_VERSION_DELAY));
        }
        let planned = job.plan.options_version.clone();
        self.handle_error(TranscodeError::OtherVersion { planned }, None).await
    }

    /// A place to run a part in. Who runs alone waits for the others to end, and no other begins meanwhile.
    async fn acquire_permit(&self, is_alone: bool, delivery: &MessageDelivery) -> Option<PartPermit> {
        if !is_alone {
            return Arc::clone(&self.room).try_read_owned().ok().map(PartPermit::Shared);
        }
        tokio::select! {
            room = Arc::clone(&self.room).write_owned() => Some(PartPermit::Alone(room)),
            () = delivery.cancel.cancelled() => None,
        }
    }

    /// `None`: the part is made, and its record says so.
    async fn run_part(&self, run: &PartRun<'_>) -> Result<Option<StageOutcome>, TranscodeError> {
        let began = Instant::now();
        let kind = part_metrics::work_kind(run.work).text();
        let span = Span::begin(SpanKind::Internal, || format!("make {kind} part").into());
        span.set(|| SpanAttribute::JobId(run.job.job_id.to_string()));
        span.set(|| SpanAttribute::MediaId(run.job.media_id.to_string()));
        span.set(|| SpanAttribute::Part(run.part.to_owned()));
        let ended = span.scope(Box::pin(self.try_part(run))).await;
        if let Err(error) = &ended {
            span.fail(error.code());
        }
        part_metrics::count_try(run.work, began, &ended);
        ended
    }

    async fn try_part(&self, run: &PartRun<'_>) -> Result<Option<StageOutcome>, TranscodeError> {
        if run.work == PartWork::Finish {
            return Box::pin(self.finish_job(run)).await.map(Some);
        }
        let began = Instant::now();
        match Box::pin(run.make_part()).await? {
            PartRunOutcome::JobOver => {
                run.claim.release_ended().await?;
                Ok(Some(StageOutcome::Done))
            }
            PartRunOutcome::Stopped => Ok(Some(run.claim.release_stopped().await?)),
            PartRunOutcome::Made { report, tracks } => {
                let is_ours =
                    // Recorded before the others are looked at: of two parts that end together, one at least sees
                    // both as done.
                    run.claim.write_change(|part| mark_part_done(part, &report, tracks)).await?;
                if !is_ours {
                    return Ok(Some(StageOutcome::Lost));
                }
                let output_ms = plan::part_duration_ms(&run.job.plan, run.part);
                self.context.status.record_made(began, output_ms);
                part_metrics::count_made(run.work, output_ms, &report);
                outage::clear_delay(&self.context.bus, run.job.media_id).await;
                encode::publish_part_progress(&self.context.bus, run.job, run.part, output_ms).await;
                Ok(None)
            }
        }
    }

    async fn finish_job(&self, run: &PartRun<'_>) -> Result<StageOutcome, TranscodeError> {
        let control = self.context.bus.subscribe_core(subjects::job_cancel_subject(run.job.job_id)).await?;
        tokio::pin!(control);
        let finishing = finish::finish_job(&self.context, run.job, run.claim, run.stop);
        tokio::pin!(finishing);
        let interval = Duration::from_millis(self.context.config.renew_interval_ms.max(100));
        loop {
            tokio::select! {
                biased;
                () = run.stop.cancelled() => return Ok(run.claim.release_stopped().await?),
                () = run.claim.lost_token().cancelled() => return Ok(StageOutcome::Lost),
                ended = &mut finishing => {
                    ended?;
                    outage::clear_delay(&self.context.bus, run.job.media_id).await;
                    // It ends early when it finds the claim lost; the message is the new holder's then.
                    let is_ours = !run.claim.lost_token().is_cancelled();
                    return Ok(if is_ours { StageOutcome::Done } else { StageOutcome::Lost });
                }
                Some(_) = control.next() => {}
                () = tokio::time::sleep(interval) => {}
            }
            let found = self.context.bus.load_record::<job::JobRecord>(&run.job.job_id.to_string()).await?;
            match found.map(|held| held.record.status) {
                // Also where it is this finish that has just ended the job: it says so next.
                Some(job::JobStatus::Active | job::JobStatus::Succeeded) => {}
                Some(job::JobStatus::Failed | job::JobStatus::Cancelled) | None => {
                    outage::clear_delay(&self.context.bus, run.job.media_id).await;
                    run.claim.release_ended().await?;
                    return Ok(StageOutcome::Done);
                }
            }
        }
    }

    /// A part that ended before: its message is a repeat, but its job may not be finished yet.
    async fn handle_ended_part(
        &self,
        job: &job::JobRecord,
        part: &JobPartRecord,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        let ended = if part.status == JobPartStatus::Failed {
            // It was given up, and something went away before its job could be ended.
            let code = part.code.as_deref().unwrap_or(job::PART_FAILED);
            self.fail_job(job, code, part.detail.as_deref().unwrap_or_default()).await
        } else {
            self.note_ended_part(job, &part.part, delivery).await
        };
        match ended {
            Ok(()) => {
                tracing::debug!(part = part.part, job.id = %job.job_id, "over before, nothing to do");
                Ok(StageOutcome::Done)
            }
            Err(error) => self.handle_error(error, None).await,
        }
    }

    /// After a part: the medium may be playable now, if that could not be written while it was made, and the finish may be due.
    async fn note_ended_part(
        &self,
        job: &job::JobRecord,
        part: &str,
        delivery: &MessageDelivery,
    ) -> Result<(), TranscodeError> {
        if playable::is_first_part(&job.plan, part) {
            playable::mark_playable(&self.context.bus, job).await?;
        }
        if part == plan::FINISH || !self.are_parts_over(job).await? {
            return Ok(());
        }
        // A job that was paused meanwhile is not finished before it is resumed.
        let found = self.context.bus.load_record::<job::JobRecord>(&job.job_id.to_string()).await?;
        if !found.is_some_and(|held| held.record.is_to_be_run()) {
            return Ok(());
        }
        // At once, and before the message of the last part is acknowledged, which brings it back if this process ends: a finish in
        // the queue would wait for the parts of everybody else. Whatever else hinders it, the dispatcher lets it in.
        match self.finish_now(job, delivery).await {
            // Another worker is at it, whose own message brings the finish back if it vanishes.
            Ok(_) => {}
            Err(error) => {
                tracing::info!(job.id = %job.job_id, error = error.describe(), "the finish is left to the queue");
            }
        }
        Ok(())
    }

    /// Finishes a job whose parts are over, in the place of its last part.
    async fn finish_now(
        &self,
        job: &job::JobRecord,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, TranscodeError> {
        let mut room = None;
        let claim = match self.claim_part(job, plan::FINISH, delivery, &mut room).await? {
            ClaimOutcome::Ours(claim) => Arc::new(*claim),
            ClaimOutcome::JobOver => return Ok(StageOutcome::Done),
            ClaimOutcome::Held(_)
            | ClaimOutcome::Delayed
            | ClaimOutcome::Over(_)
            | ClaimOutcome::Parked(_) => {
                return Ok(StageOutcome::Lost);
            }
        };
        let _active = self.active.register(
            &self.context.status,
            (&delivery.subject, &claim),
            (job.job_id, plan::FINISH),
        );
        let run = PartRun {
            context: &self.context,
            job,
            part: plan::FINISH,
            work: PartWork::Finish,
            claim: &claim,
            stop: &delivery.cancel,
        };
        match Box::pin(self.run_part(&run)).await {
            Ok(outcome) => Ok(outcome.unwrap_or(StageOutcome::Done)),
            Err(error) => {
                release_claim(&claim, &error).await;
                Err(error)
            }
        }
    }

    /// True when every part is over, looking at the last parts first: usually one read is enough.
    async fn are_parts_over(&self, job: &job::JobRecord) -> Result<bool, TranscodeError> {
        let bus = &self.context.bus;
        for name in job.parts.iter().rev() {
            let found = bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, name)).await?;
            match found.map(|held| held.record.status) {
                Some(JobPartStatus::Done) => {}
                // One failed part is enough: the finish ends the job with its code.
                Some(JobPartStatus::Failed) => break,
                Some(JobPartStatus::Claimed) | None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// After an error: an outage is waited out, everything else counts as a try. The claim is let go either way.
    async fn handle_error(
        &self,
        error: TranscodeError,
        claim: Option<&Arc<PartClaim>>,
    ) -> Result<StageOutcome, StageFault> {
        if let Some(claim) = claim
            && !release_claim(claim, &error).await
        {
            return Ok(StageOutcome::Lost);
        }
        let fault = StageFault::from(error);
        Err(match claim {
            // By the record: what the loop counts ends with the process, and other workers know nothing of it.
            Some(claim) => fault.with_attempt(claim.fault_count() + 1),
            None => fault,
        })
    }

    async fn fail_job(&self, job: &job::JobRecord, code: &str, detail: &str) -> Result<(), TranscodeError> {
        let TranscodeContext { bus, config, .. } = &*self.context;
        job_result::fail_job(bus, job, code, detail, config.ended_kept_ms).await
    }

    /// Records that a part lies in the dead letters, and ends its job.
    async fn fail_dead_part(&self, task: &JobPartTask, fault: &StageFault) -> Result<(), TranscodeError> {
        let bus = &self.context.bus;
        let Some(held) = bus.load_record::<job::JobRecord>(&task.job_id.to_string()).await? else {
            return Ok(());
        };
        let job = held.record;
        if fault.code == job::WORKERS_LOST {
            // The work is not to blame: the job waits for somebody who resumes the part.
            outage::report_job_delay(bus, job.job_id, fault).await;
            return Ok(());
        }
        let detail = fault.describe();
        if plan::find_part_work(&job.plan, &task.part).is_some() {
            queue_worker::fail_part(bus, &job, &task.part, (fault.code, &detail)).await?;
        }
        self.fail_job(&job, fault.code, &detail).await?;
        outage::clear_delay(bus, job.media_id).await;
        Ok(())
    }
}

/// Lets a claim go after an error; false when somebody else has it.
async fn release_claim(claim: &PartClaim, error: &TranscodeError) -> bool {
    let left = match error.class() {
        FailureClass::Outage => PartAttemptFailure::Interrupted,
        _ if error.is_crash() => PartAttemptFailure::Crashed,
        FailureClass::Fault | FailureClass::Reject => PartAttemptFailure::Failed,
    };
    match claim.release(error.code(), &error.describe(), left).await {
        Ok(is_ours) => is_ours,
        Err(other) => {
            let error = other.describe();
            tracing::warn!(error, "the claim could not be let go; it runs out by itself");
            true
        }
    }
}

fn mark_part_done(part: &mut JobPartRecord, report: &media::MediaTaskReport, tracks: Vec<job::StoredTrack>) {
    part.status = JobPartStatus::Done;
    part.has_checksums = true;
    part.tracks = tracks;
    part.cpu_ms = to_thousandths(report.cpu_seconds);
    part.wall_ms = to_thousandths(report.wall_seconds);
    part.rss_bytes_max = report.rss_bytes_max;
    let missing_mlu = to_thousandths(report.loudness_missing_lu);
    part.loudness_missing_mlu = u32::try_from(missing_mlu).unwrap_or(u32::MAX);
}

/// Thousandths of a number as the child reports it, such as milliseconds of seconds; nonsense counts as nothing.
pub(crate) fn to_thousandths(reported: f64) -> u64 {
    Duration::try_from_secs_f64(reported).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A little later than the rest, each time another little: workers that wait for the same part do not come together.
fn delay_with_jitter(rest: Duration) -> StageOutcome {
    let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
    StageOutcome::Later { delay_ms: rest_ms.saturating_add(50 + nats::now_ms() % 200) }
}
