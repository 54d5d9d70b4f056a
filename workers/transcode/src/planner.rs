//! The planner: from `evt.media.stored`, or `evt.media.reopened`, to a job record and its parts in the queue.

use std::sync::Arc;

use nats::{Delivery, Fault, Held, Outbox, Outcome, Stage};
use packaging::plan;
use schemas::{
    Event as _,
    ids::MediaId,
    job::{self, Queued, Task},
    keys, media,
    subjects::{self, Priority},
};

use crate::{Context, KIND, PLAN_DURABLE, close, error::Error, outage};

/// Number of the first encode of a medium.
const FIRST_ENCODE: u32 = 1;

/// Plans what was stored, and what is encoded anew.
pub(crate) struct Planner {
    pub(crate) context: Arc<Context>,
}

/// An event of the durable.
#[derive(Debug)]
pub(crate) enum Seen {
    /// This is to be encoded.
    Wanted(Box<Wanted>),
    /// Nothing here depends on it.
    Other,
}

/// What is to be encoded.
#[derive(Debug)]
pub(crate) struct Wanted {
    media_id: MediaId,
    owner: String,
    encode: u32,
    source: media::Source,
    technical: media::Technical,
}

impl nats::Message for Seen {
    fn decode(delivery: &Delivery, payload: &[u8]) -> Result<Self, nats::Error> {
        let kind = subjects::event_parts(&delivery.subject).map(|(entity, verb, _)| (entity, verb));
        if kind != Some((media::Reopened::ENTITY, media::Reopened::VERB)) {
            let media::Stored { media_id, owner, source, technical, .. } =
                nats::decode(&delivery.subject, payload)?;
            let wanted = Wanted { media_id, owner, encode: FIRST_ENCODE, source, technical };
            return Ok(Self::Wanted(Box::new(wanted)));
        }
        let media::Reopened { media_id, owner, step, .. } = nats::decode(&delivery.subject, payload)?;
        let media::Step::Encode { encode, source, technical } = step else { return Ok(Self::Other) };
        Ok(Self::Wanted(Box::new(Wanted { media_id, owner, encode, source, technical: *technical })))
    }
}

impl Stage for Planner {
    const NAME: &'static str = PLAN_DURABLE;
    type Message = Seen;

    async fn handle(&self, seen: &Seen, _delivery: &Delivery) -> Result<Outcome, Fault> {
        if let Seen::Wanted(wanted) = seen {
            self.plan(wanted).await?;
            outage::over(&self.context.bus, wanted.media_id).await;
        }
        Ok(Outcome::Done)
    }

    async fn waiting(&self, seen: &Seen, _delivery: &Delivery, fault: &Fault) {
        if let Seen::Wanted(wanted) = seen {
            outage::say_planning(&self.context.bus, wanted.media_id, fault).await;
        }
    }

    async fn dead(&self, seen: &Seen, _delivery: &Delivery, fault: &Fault) -> Result<(), Fault> {
        if let Seen::Wanted(wanted) = seen {
            let (bus, detail) = (&self.context.bus, fault.describe());
            close::fail_medium(bus, wanted.media_id, None, fault.code, &detail).await?;
        }
        Ok(())
    }
}

impl Planner {
    async fn plan(&self, wanted: &Wanted) -> Result<(), Error> {
        if self.context.bus.load::<media::Record>(&wanted.media_id.to_string()).await?.is_none() {
            tracing::info!(media.id = %wanted.media_id, "removed meanwhile, nothing to plan");
            return Ok(());
        }
        let config = &self.context.config;
        let profile = config
            .profile(&config.profile)
            .ok_or_else(|| Error::Unknown(format!("profile {}", config.profile)))?;
        let input = plan::Input {
            source: &wanted.source,
            technical: &wanted.technical,
            profile_name: &config.profile,
            profile,
        };
        let plan = plan::plan(&input)?;
        match self.record(record(wanted, plan)).await? {
            Some(job) if job.status == job::Status::Active => self.queue(&job).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Stores the job, unless it is there already; then that one counts. `None`: it ended so long ago that it is not kept any more.
    async fn record(&self, job: job::Record) -> Result<Option<job::Record>, Error> {
        let bus = &self.context.bus;
        let key = job.job_id.to_string();
        if let Some(held) = bus.load::<job::Record>(&key).await? {
            return Ok(Some(held.record));
        }
        // An old event that comes again must not make again what its medium outlived.
        let medium = bus.load::<media::Record>(&job.media_id.to_string()).await?;
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
                tracing::info!(media.id = %held.record.media_id, job.id = key, parts = held.record.parts.len(), "planned");
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

fn record(wanted: &Wanted, plan: job::Plan) -> job::Record {
    let job_id = plan::job_id(wanted.media_id, wanted.encode);
    job::Record {
        job_id,
        kind: KIND.to_owned(),
        priority: Priority::default(),
        media_id: wanted.media_id,
        owner: wanted.owner.clone(),
        status: job::Status::Active,
        encode: wanted.encode,
        prefix: keys::encode(wanted.media_id, wanted.encode, &plan.options_digest),
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
