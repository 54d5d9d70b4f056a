//! What became of the parts that left the queue, of those that are held back, and of jobs of which nothing is left to let in.

use std::collections::BTreeSet;

use nats::{BusError, VersionedRecord};
use schemas::{
    ids::JobId,
    job::{self, JobRecord},
};
use tokio::time::Instant;

use crate::{
    dispatcher::Dispatcher,
    records::{self, FinishState, PartFate},
};

impl Dispatcher {
    /// Finds out what became of the parts that left the queue, and of those that are held back and due.
    pub(crate) async fn settle_parts(&self, listing: &BTreeSet<String>) -> Result<(), BusError> {
        let parts = {
            let (mut state, now) = (self.state.lock(), Instant::now());
            state.return_held_jobs(now);
            state.parts_to_settle(listing, now)
        };
        for (job_id, part) in parts {
            self.settle_part(job_id, part).await?;
        }
        Ok(())
    }

    async fn settle_part(&self, job_id: JobId, part: String) -> Result<(), BusError> {
        let fate = records::load_fate(self.bus(), job_id, &part, self.broker_now_ms()).await?;
        let mut job = None;
        if fate == PartFate::Open {
            // A worker dropped it that found its job over or paused or the part not due, or it got lost.
            job = records::load_runnable_job(self.bus(), job_id).await?;
            if job.is_none() {
                self.look_anew(job_id);
                return Ok(());
            }
        }
        let now_ms = self.broker_now_ms();
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&job_id) else { return Ok(()) };
        open.queued.remove(&part);
        open.held_back.remove(&part);
        open.check_at = Instant::now();
        match (fate, job) {
            (PartFate::Over, _) if part == job::FINISH => {
                // Its end is on its way here.
                open.check_at += records::FINISH_PERIOD;
            }
            (PartFate::Over, _) => {}
            // A worker may be at it in the place of the last part: looked at next.
            (PartFate::Open, _) if part == job::FINISH => {}
            (PartFate::Open, Some(job)) => {
                tracing::info!(job.id = %job_id, part, "it is to be made, and waits for a turn again");
                state.put_back(&job.record, part);
            }
            (fate, _) => open.note_fate(("", &part), fate, Instant::now(), now_ms),
        }
        Ok(())
    }

    /// Ends what has ended, and lets lost finishes in.
    pub(crate) async fn look_at_idle_jobs(&self) -> Result<(), BusError> {
        let idle = self.state.lock().idle_jobs(Instant::now());
        for job_id in idle {
            match records::load_runnable_job(self.bus(), job_id).await? {
                Some(job) => self.look_at_finish(&job).await?,
                None => self.look_anew(job_id),
            }
        }
        Ok(())
    }

    async fn look_at_finish(&self, held: &VersionedRecord<JobRecord>) -> Result<(), BusError> {
        let job = &held.record;
        let (finish, mut missing) = (job.part_subject(job::FINISH), Vec::new());
        let fate = match records::load_finish_state(self.bus(), job.job_id).await? {
            FinishState::Held => None,
            FinishState::HeldBack(fate) => Some(fate),
            FinishState::Free => {
                missing = records::find_missing_parts(self.bus(), job, self.broker_now_ms()).await?;
                missing.is_empty().then_some(PartFate::Open)
            }
        };
        if fate == Some(PartFate::Open) {
            // Whatever the queue holds: it is short, and all else of the job is done.
            self.publish_part((job.job_id, held.trace()), &finish, job::FINISH).await?;
        }
        let now_ms = self.broker_now_ms();
        let age_ms = now_ms.saturating_sub(job.created_at_ms);
        if age_ms <= records::MADE_WAIT_MS {
            missing.clear();
        }
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(&job.job_id) {
            open.check_at = Instant::now() + records::FINISH_PERIOD;
            if let Some(fate) = fate {
                open.note_fate((&finish, job::FINISH), fate, Instant::now(), now_ms);
            }
        }
        for part in missing {
            state.put_back(job, part);
        }
        Ok(())
    }
}
