//! One message of the work queue: claim the part, make it, record it, and see whether it was the last one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nats::{Class, Delivery, Fault, Outbox, Outcome, Stage};
use packaging::plan::{self, Work};
use parking_lot::Mutex;
use schemas::{
    job::{self, Dead, Part, PartStatus, Task},
    subjects,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    Context, KIND,
    claim::{Asked, Claim, Found, Left, Reconnects, Rules},
    close,
    encode::{self, Ended, Run},
    error::Error,
    finish, outage,
};

/// Makes parts.
pub(crate) struct Parts {
    context: Arc<Context>,
    reconnects: Reconnects,
    /// Claims of this process by queue subject, for the fence check before each progress ping.
    active: Mutex<HashMap<String, Arc<Claim>>>,
    /// Held by each running part, and alone by one that lost workers: it may take the process with it.
    room: Arc<RwLock<()>>,
}

/// A place among the running parts of this process.
#[derive(Debug)]
enum Room {
    Shared(#[expect(dead_code, reason = "held, never read")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held, never read")] OwnedRwLockWriteGuard<()>),
}

/// How soon a part is asked for again when its worker is to run another one alone.
const ROOM_DELAY: Duration = Duration::from_secs(2);

impl Stage for Parts {
    const NAME: &'static str = "transcode";
    type Message = Task;

    async fn handle(&self, task: &Task, delivery: &Delivery) -> Result<Outcome, Fault> {
        let bus = &self.context.bus;
        let job = match bus.load::<job::Record>(&task.job_id.to_string()).await {
            Ok(Some(held)) => held.record,
            Ok(None) => {
                tracing::info!(job.id = %task.job_id, part = task.part, "the job is gone with its medium, or long over");
                return Ok(Outcome::Done);
            }
            Err(error) => return self.after(Error::from(error), None).await,
        };
        if job.status != job::Status::Active {
            return Ok(Outcome::Done);
        }
        let Some(work) = plan::work(&job.plan, &task.part) else {
            return Err(Error::Unknown(format!("part {:.40}", task.part)).into());
        };
        let mut room = None;
        let claim = match self.claim(&job, &task.part, delivery, &mut room).await {
            Ok(Asked::Ours(claim)) => Arc::new(*claim),
            Ok(Asked::Held(rest)) => return Ok(later(rest)),
            Ok(Asked::JobOver) => return Ok(Outcome::Done),
            Ok(Asked::Over(part)) => return self.over(&job, &part).await,
            Ok(Asked::Parked(lost)) => return Err(Error::Parked { workers: lost.workers }.into()),
            Err(error) => return self.after(error, None).await,
        };
        let _active = self.activate(&delivery.subject, &claim);
        let run = Run {
            context: &self.context,
            job: &job,
            part: &task.part,
            work,
            claim: &claim,
            stop: &delivery.cancel,
        };
        match Box::pin(self.work(&run)).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => self.after(error, Some(&claim)).await,
        }
    }

    async fn renew(&self, _task: &Task, delivery: &Delivery) -> bool {
        let claim = self.active.lock().get(&delivery.subject).cloned();
        let Some(claim) = claim else { return true };
        match claim.renew(Outbox::new(), |_| {}).await {
            Ok(is_ours) => is_ours,
            Err(error) => {
                tracing::warn!(
                    error = error.describe(),
                    subject = delivery.subject,
                    "the fence could not be checked"
                );
                true
            }
        }
    }

    async fn waiting(&self, task: &Task, _delivery: &Delivery, fault: &Fault) {
        outage::say(&self.context.bus, task.job_id, fault).await;
    }

    async fn dead(&self, task: &Task, _delivery: &Delivery, fault: &Fault) -> Result<(), Fault> {
        Ok(self.give_up(task, fault).await?)
    }
}

/// Takes a claim off the list when its handling ends, however it ends.
struct Active<'a> {
    parts: &'a Parts,
    subject: &'a str,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.parts.active.lock().remove(self.subject);
    }
}

impl Parts {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let reconnects = Reconnects::new(&context.bus);
        Self { context, reconnects, active: Mutex::new(HashMap::new()), room: Arc::default() }
    }

    async fn claim(
        &self,
        job: &job::Record,
        part: &str,
        delivery: &Delivery,
        room: &mut Option<Room>,
    ) -> Result<Asked, Error> {
        let config = &self.context.config;
        let fresh = Duration::from_millis(config.claim_fresh_ms);
        let grace = self.reconnects.grace(&self.context.bus, fresh);
        if delivery.delivered > 1 && !grace.is_zero() {
            return Ok(Asked::Held(grace));
        }
        let attempts_max = config.parts.attempts_max;
        let rules = Rules { worker: &self.context.worker, fresh, attempts_max, config };
        let held = match Claim::look(&self.context.bus, job, part, rules).await? {
            Found::Free(held) => *held,
            Found::Taken(asked) => return Ok(asked),
        };
        let workers_lost = held.record.lost.map_or(0, |lost| lost.workers);
        *room = self.enter(workers_lost >= config.lost_workers_max, delivery).await;
        if room.is_none() {
            return Ok(Asked::Held(ROOM_DELAY));
        }
        Claim::take(&self.context.bus, job, held, rules).await
    }

    /// A place to run a part in. Who runs alone waits for the others to end, and no other begins meanwhile.
    async fn enter(&self, is_alone: bool, delivery: &Delivery) -> Option<Room> {
        if !is_alone {
            return Arc::clone(&self.room).try_read_owned().ok().map(Room::Shared);
        }
        tokio::select! {
            room = Arc::clone(&self.room).write_owned() => Some(Room::Alone(room)),
            () = delivery.cancel.cancelled() => None,
        }
    }

    fn activate<'a>(&'a self, subject: &'a str, claim: &Arc<Claim>) -> Active<'a> {
        let mut active = self.active.lock();
        active.insert(subject.to_owned(), Arc::clone(claim));
        Active { parts: self, subject }
    }

    async fn work(&self, run: &Run<'_>) -> Result<Outcome, Error> {
        if run.work == Work::Finish {
            return self.finish(run).await;
        }
        match Box::pin(run.make()).await? {
            Ended::JobOver => Ok(Outcome::Done),
            Ended::Stopped => stopped(run).await,
            Ended::Made { report, tracks } => {
                let is_ours = run.claim.renew(Outbox::new(), |part| done(part, &report, tracks)).await?;
                if !is_ours {
                    return Ok(Outcome::Lost);
                }
                outage::over(&self.context.bus, run.job.media_id).await;
                encode::progress(
                    &self.context.bus,
                    run.job,
                    run.part,
                    plan::part_ms(&run.job.plan, run.part),
                )
                .await;
                self.queue_finish(run.job).await?;
                Ok(Outcome::Done)
            }
        }
    }

    async fn finish(&self, run: &Run<'_>) -> Result<Outcome, Error> {
        let finishing = finish::finish(&self.context, run.job, run.claim, run.stop);
        tokio::pin!(finishing);
        let interval = Duration::from_millis(self.context.config.renew_interval_ms.max(100));
        loop {
            tokio::select! {
                biased;
                () = run.stop.cancelled() => return stopped(run).await,
                () = run.claim.lost().cancelled() => return Ok(Outcome::Lost),
                ended = &mut finishing => {
                    ended?;
                    outage::over(&self.context.bus, run.job.media_id).await;
                    // It ends early when it finds the claim lost; the message is the new holder's then.
                    let is_ours = !run.claim.lost().is_cancelled();
                    return Ok(if is_ours { Outcome::Done } else { Outcome::Lost });
                }
                () = tokio::time::sleep(interval) => {
                    if encode::is_over(&self.context.bus, run.job).await? {
                        return Ok(Outcome::Done);
                    }
                }
            }
        }
    }

    /// A part that ended before: its message is a repeat, but the finish may not be queued yet.
    async fn over(&self, job: &job::Record, part: &Part) -> Result<Outcome, Fault> {
        let ended = if part.status == PartStatus::Failed {
            // It was given up, and something went away before its job could be ended.
            let code = part.code.as_deref().unwrap_or(job::PART_FAILED);
            close::fail(&self.context, job, code, part.detail.as_deref().unwrap_or_default()).await
        } else {
            self.queue_finish(job).await
        };
        match ended {
            Ok(()) => {
                tracing::debug!(part = part.part, job.id = %job.job_id, "over before, nothing to do");
                Ok(Outcome::Done)
            }
            Err(error) => self.after(error, None).await,
        }
    }

    /// Queues the finish when every part is over, looking at the last parts first: usually one read tells.
    async fn queue_finish(&self, job: &job::Record) -> Result<(), Error> {
        let bus = &self.context.bus;
        for name in job.parts.iter().rev() {
            let found = bus.load::<Part>(&subjects::part_key(job.job_id, name)).await?;
            match found.map(|held| held.record.status) {
                Some(PartStatus::Done) => {}
                Some(PartStatus::Failed) => break,
                Some(PartStatus::Claimed) | None => return Ok(()),
            }
        }
        let subject = subjects::job_part(KIND, job.priority, job.job_id, plan::FINISH);
        let task = Task { job_id: job.job_id, part: plan::FINISH.to_owned() };
        bus.publish_once(subjects::JOBS, &subject, &task).await?;
        Ok(())
    }

    /// After an error: an outage is waited out, everything else counts as a try. The claim is let go either way.
    async fn after(&self, error: Error, claim: Option<&Arc<Claim>>) -> Result<Outcome, Fault> {
        if let Some(claim) = claim {
            let detail = error.describe();
            let left = match error.class() {
                Class::Outage => Left::Interrupted,
                _ if error.is_crash() => Left::Crashed,
                Class::Fault | Class::Reject => Left::Failed,
            };
            match claim.release(error.code(), &detail, left).await {
                Ok(true) => {}
                Ok(false) => return Ok(Outcome::Lost),
                Err(other) => tracing::warn!(
                    error = other.describe(),
                    "the claim could not be let go; it runs out by itself"
                ),
            }
        }
        let fault = Fault::from(error);
        Err(match claim {
            Some(claim) => fault.at_attempt(claim.faults() + 1),
            None => fault,
        })
    }

    /// Records that a part lies in the dead letters, and ends its job.
    async fn give_up(&self, task: &Task, fault: &Fault) -> Result<(), Error> {
        let bus = &self.context.bus;
        let Some(held) = bus.load::<job::Record>(&task.job_id.to_string()).await? else { return Ok(()) };
        let job = held.record;
        if fault.code == job::WORKERS_LOST {
            // The work is not to blame: the job waits for somebody who resumes the part.
            outage::say(bus, job.job_id, fault).await;
            return Ok(());
        }
        let detail = fault.describe();
        if plan::work(&job.plan, &task.part).is_some() {
            bus.change::<Part>(&subjects::part_key(job.job_id, &task.part), |found| {
                let mut part = found.filter(|part| part.status == PartStatus::Claimed)?.clone();
                part.status = PartStatus::Failed;
                part.code = Some(fault.code.to_owned());
                part.detail = Some(detail.clone());
                let dead = Dead {
                    job_id: job.job_id,
                    media_id: job.media_id,
                    owner: job.owner.clone(),
                    kind: job.kind.clone(),
                    part: part.part.clone(),
                    code: fault.code.to_owned(),
                };
                Some((part, Outbox::new().event(&dead)))
            })
            .await?;
        }
        close::fail(&self.context, &job, fault.code, &detail).await?;
        outage::over(bus, job.media_id).await;
        Ok(())
    }
}

/// The process has to stop, or the part was taken over.
async fn stopped(run: &Run<'_>) -> Result<Outcome, Error> {
    if run.claim.lost().is_cancelled() {
        return Ok(Outcome::Lost);
    }
    // Letting go without counting the try hands the part to another worker at once.
    if run.claim.release("worker_stopped", "the worker had to stop", Left::Interrupted).await? {
        return Ok(Outcome::Later { delay_ms: 1 });
    }
    Ok(Outcome::Lost)
}

fn done(part: &mut Part, report: &media::Report, tracks: Vec<job::Track>) {
    part.status = PartStatus::Done;
    part.tracks = tracks;
    part.cpu_ms = milliseconds(report.cpu_seconds);
    part.wall_ms = milliseconds(report.wall_seconds);
    part.rss_bytes_max = report.rss_bytes_max;
}

/// Seconds as the child reports them; nonsense counts as nothing.
fn milliseconds(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A little later than the rest, each time another little: workers that wait for the same part do not come together.
fn later(rest: Duration) -> Outcome {
    let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
    Outcome::Later { delay_ms: rest_ms.saturating_add(50 + nats::now_ms() % 200) }
}
