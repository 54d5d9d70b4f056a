//! The planner: from `evt.media.stored` to a job record and its parts in the queue.

use std::sync::Arc;

use nats::{Delivery, Fault, Held, Outbox, Outcome, Stage};
use schemas::{
    job::{self, Queued, Task},
    keys, media,
    subjects::{self, Priority},
};

use crate::{Context, KIND, close, error::Error, plan};

/// Number of the first encode of a medium.
const FIRST_ENCODE: u32 = 1;

/// Plans what was stored.
pub(crate) struct Planner {
    pub(crate) context: Arc<Context>,
}

impl Stage for Planner {
    const NAME: &'static str = "transcode-plan";
    type Message = media::Stored;

    async fn handle(&self, stored: &media::Stored, _delivery: &Delivery) -> Result<Outcome, Fault> {
        self.plan(stored).await?;
        Ok(Outcome::Done)
    }

    async fn dead(&self, stored: &media::Stored, _delivery: &Delivery, fault: &Fault) -> Result<(), Fault> {
        close::fail_medium(&self.context.bus, stored.media_id, None, fault.code, &fault.describe()).await?;
        Ok(())
    }
}

impl Planner {
    async fn plan(&self, stored: &media::Stored) -> Result<(), Error> {
        if self.context.bus.load::<media::Record>(&stored.media_id.to_string()).await?.is_none() {
            tracing::info!(media.id = %stored.media_id, "removed meanwhile, nothing to plan");
            return Ok(());
        }
        let config = &self.context.config;
        let profile = config
            .profile(&config.profile)
            .ok_or_else(|| Error::Unknown(format!("profile {}", config.profile)))?;
        let input = plan::Input {
            source: &stored.source,
            technical: &stored.technical,
            profile_name: &config.profile,
            profile,
        };
        let plan = plan::plan(&input)?;
        match self.record(stored, record(stored, plan)).await? {
            Some(job) if job.status == job::Status::Active => self.queue(&job).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Stores the job, unless it is there already; then that one counts. `None`: it ended so long ago that it is not kept any more.
    async fn record(&self, stored: &media::Stored, job: job::Record) -> Result<Option<job::Record>, Error> {
        let bus = &self.context.bus;
        let key = job.job_id.to_string();
        if let Some(held) = bus.load::<job::Record>(&key).await? {
            return Ok(Some(held.record));
        }
        // An old event that comes again must not make again what its medium outlived.
        let medium = bus.load::<media::Record>(&stored.media_id.to_string()).await?;
        if medium.is_some_and(|held| has_ended(held.record.status)) {
            return Ok(None);
        }
        let queued = Queued {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            part_count: u32::try_from(job.parts.len()).unwrap_or(u32::MAX),
            total_ms: job.parts.iter().map(|part| plan::part_ms(&job.plan, part)).sum(),
        };
        let mut held = Held::new(job);
        match bus.commit(&mut held, Outbox::new().event(&queued)).await {
            Ok(()) => {
                tracing::info!(media.id = %stored.media_id, job.id = key, parts = held.record.parts.len(), "planned");
                Ok(Some(held.record))
            }
            Err(nats::Error::Conflict { .. }) => {
                let found = bus.load::<job::Record>(&key).await?;
                found.map(|held| Some(held.record)).ok_or_else(|| Error::Unknown(format!("job {key}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Queues every part at once or none. Parts that are there already are a repeat and fine.
    async fn queue(&self, job: &job::Record) -> Result<(), Error> {
        let finish = [plan::FINISH.to_owned()];
        let parts: &[String] = if job.parts.is_empty() { &finish } else { &job.parts };
        let mut messages = Vec::with_capacity(parts.len());
        for part in parts {
            let subject = subjects::job_part(KIND, job.priority, job.job_id, part);
            let payload = nats::encode(&subject, &Task { job_id: job.job_id, part: part.clone() })?;
            messages.push((subject, payload));
        }
        self.context.bus.publish_batch(subjects::JOBS, messages).await?;
        Ok(())
    }
}

/// True once the first job of a medium must have ended.
const fn has_ended(status: media::Status) -> bool {
    match status {
        media::Status::Uploading | media::Status::Stored | media::Status::Playable => false,
        media::Status::Ready | media::Status::Failed | media::Status::Rejected => true,
    }
}

fn record(stored: &media::Stored, plan: job::Plan) -> job::Record {
    let job_id = plan::job_id(stored.media_id, FIRST_ENCODE);
    job::Record {
        job_id,
        kind: KIND.to_owned(),
        priority: Priority::default(),
        media_id: stored.media_id,
        owner: stored.owner.clone(),
        status: job::Status::Active,
        encode: FIRST_ENCODE,
        prefix: keys::encode(stored.media_id, FIRST_ENCODE, &plan.options_digest),
        parts: plan::part_names(&plan),
        plan,
        code: None,
        detail: None,
        created_at_ms: nats::now_ms(),
        ended_at_ms: None,
        kept_until_ms: None,
        folded: None,
    }
}
