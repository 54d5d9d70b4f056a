//! The stage itself: writes the summary of a medium into its record when its source or its renditions become known.

use std::sync::Arc;

use nats::{Bus, MessageDelivery, Outbox, PipelineStage, StageFault, StageOutcome, consume};
use schemas::{
    BusEvent,
    ids::MediaId,
    media::{MediaReady, MediaRecord, MediaReopened, MediaStored, ReopenStep},
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{IndexError, summarise};

/// Name of the durable and of the stage.
const DURABLE: &str = "index";

/// An event of the durable.
#[derive(Debug)]
pub(crate) enum SummaryStageEvent {
    /// The source or the renditions of this medium became known.
    Changed(MediaId),
    /// Nothing here depends on it.
    Other,
}

impl nats::StageMessage for SummaryStageEvent {
    fn decode(delivery: &MessageDelivery, payload: &[u8]) -> Result<Self, nats::BusError> {
        let subject = &delivery.subject;
        let kind = subjects::parse_event_subject(subject).map(|(entity, verb, _)| (entity, verb));
        if kind == Some((MediaStored::ENTITY, MediaStored::VERB)) {
            return nats::decode_message::<MediaStored>(subject, payload)
                .map(|event| Self::Changed(event.media_id));
        }
        if kind == Some((MediaReady::ENTITY, MediaReady::VERB)) {
            return nats::decode_message::<MediaReady>(subject, payload)
                .map(|event| Self::Changed(event.media_id));
        }
        if kind == Some((MediaReopened::ENTITY, MediaReopened::VERB)) {
            let event = nats::decode_message::<MediaReopened>(subject, payload)?;
            return Ok(if event.step == ReopenStep::Describe {
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
pub(crate) struct SummaryStage {
    pub(crate) bus: Bus,
}

impl PipelineStage for SummaryStage {
    const NAME: &'static str = "index";
    type Message = SummaryStageEvent;

    async fn handle(
        &self,
        seen: &SummaryStageEvent,
        _delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        let SummaryStageEvent::Changed(media_id) = seen else { return Ok(StageOutcome::Done) };
        self.bus.change_record::<MediaRecord>(&media_id.to_string(), with_summary).await?;
        Ok(StageOutcome::Done)
    }
}

/// The record with its summary; `None` when it has it already or is gone.
fn with_summary(record: Option<&MediaRecord>) -> Option<(MediaRecord, Outbox)> {
    let record = record?;
    let summary = summarise::summarise_media(record)?;
    if record.summary.as_ref() == Some(&summary) {
        return None;
    }
    let changed = MediaRecord { summary: Some(summary), changed_at_ms: nats::now_ms(), ..record.clone() };
    Some((changed, Outbox::new()))
}

/// Runs the consume loop until `shutdown`.
pub(crate) async fn run_summary_stage(
    bus: Bus,
    config: consume::ConsumeConfig,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let queue = consume::StageQueue {
        stream: subjects::EVENTS.into(),
        durables: vec![DURABLE.into()],
        wake: vec![subjects::entity_event_filter(MediaStored::ENTITY)],
    };
    let stage = Arc::new(SummaryStage { bus: bus.clone() });
    Ok(consume::run_stage(bus, queue, stage, config, shutdown).await?)
}
