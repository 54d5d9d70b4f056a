//! The stage itself: writes the summary of a medium into its record when its source or its renditions become known.

use std::sync::Arc;

use nats::{Bus, Delivery, Fault, Outbox, Outcome, Stage, consume};
use schemas::{
    Event,
    ids::MediaId,
    media::{Ready, Record, Reopened, Step, Stored},
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{Error, summarise};

/// Name of the durable and of the stage.
const DURABLE: &str = "index";

/// An event of the durable.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The source or the renditions of this medium became known.
    Changed(MediaId),
    /// Nothing here depends on it.
    Other,
}

impl nats::Message for Seen {
    fn decode(delivery: &Delivery, payload: &[u8]) -> Result<Self, nats::Error> {
        let subject = &delivery.subject;
        let kind = subjects::event_parts(subject).map(|(entity, verb, _)| (entity, verb));
        if kind == Some((Stored::ENTITY, Stored::VERB)) {
            return nats::decode::<Stored>(subject, payload).map(|event| Self::Changed(event.media_id));
        }
        if kind == Some((Ready::ENTITY, Ready::VERB)) {
            return nats::decode::<Ready>(subject, payload).map(|event| Self::Changed(event.media_id));
        }
        if kind == Some((Reopened::ENTITY, Reopened::VERB)) {
            let event = nats::decode::<Reopened>(subject, payload)?;
            return Ok(if event.step == Step::Describe {
                Self::Changed(event.media_id)
            } else {
                Self::Other
            });
        }
        Ok(Self::Other)
    }
}

/// Writes summaries.
#[derive(Debug)]
pub(crate) struct Describe {
    pub(crate) bus: Bus,
}

impl Stage for Describe {
    const NAME: &'static str = "index";
    type Message = Seen;

    async fn handle(&self, seen: &Seen, _delivery: &Delivery) -> Result<Outcome, Fault> {
        let Seen::Changed(media_id) = seen else { return Ok(Outcome::Done) };
        self.bus.change::<Record>(&media_id.to_string(), described).await?;
        Ok(Outcome::Done)
    }
}

/// The record with its summary; `None` when it has it already or is gone.
fn described(record: Option<&Record>) -> Option<(Record, Outbox)> {
    let record = record?;
    let summary = summarise::summary(record)?;
    if record.summary.as_ref() == Some(&summary) {
        return None;
    }
    let changed = Record { summary: Some(summary), changed_at_ms: nats::now_ms(), ..record.clone() };
    Some((changed, Outbox::new()))
}

/// Runs the consume loop until `shutdown`.
pub(crate) async fn run(bus: Bus, config: consume::Config, shutdown: CancellationToken) -> Result<(), Error> {
    let queue = consume::Queue {
        stream: subjects::EVENTS.into(),
        durables: vec![DURABLE.into()],
        wake: vec![subjects::events_of_entity(Stored::ENTITY)],
    };
    let stage = Arc::new(Describe { bus: bus.clone() });
    Ok(consume::run(bus, queue, stage, config, shutdown).await?)
}
