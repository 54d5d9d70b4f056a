//! One ephemeral consumer and the requests to it.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use futures::StreamExt;

use super::{BATCH_MAX, StreamEntry};
use crate::{Bus, BusError};

/// How long a request for messages stands; the next one is sent when it ends.
const EXPIRES: Duration = Duration::from_secs(30);

/// What one message of the broker amounts to.
pub(super) enum PullEvent {
    /// A message of the stream.
    Entry(StreamEntry),
    /// Nothing waits.
    Idle,
    /// The consumer is there.
    Alive,
}

/// Why a consumer is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsumerLoss {
    #[error("nothing came from the broker for {silent_ms} ms")]
    Silent { silent_ms: u128 },
    #[error("the consumer is gone: {reason}")]
    Gone { reason: String },
    #[error("messages were lost on the way")]
    Gap,
    #[error("the connection is closed")]
    Closed,
}

/// A consumer that is asked for messages.
pub(super) struct EphemeralConsumer {
    client: async_nats::Client,
    context: jetstream::Context,
    subject: String,
    inbox: String,
    messages: Subscriber,
    heartbeat: Duration,
    /// Messages that were asked for and have not come.
    wanted: usize,
    /// How many messages the consumer sent.
    delivered: u64,
    is_asked: bool,
}

impl EphemeralConsumer {
    pub(super) async fn new(
        bus: &Bus,
        stream: &str,
        consumer: &str,
        heartbeat: Duration,
    ) -> Result<Self, BusError> {
        let client = bus.client().clone();
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(BusError::unavailable)?;
        Ok(Self {
            client,
            context: bus.context().clone(),
            subject: format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", bus.role().api_prefix()),
            inbox,
            messages,
            heartbeat,
            wanted: 0,
            delivered: 0,
            is_asked: false,
        })
    }

    /// Waits for the next thing the broker says.
    pub(super) async fn next_event(&mut self, silent_max: Duration) -> Result<PullEvent, ConsumerLoss> {
        if self.wanted <= BATCH_MAX / 2 {
            self.request_batch().await?;
        }
        let silent = ConsumerLoss::Silent { silent_ms: silent_max.as_millis() };
        let message = tokio::time::timeout(silent_max, self.messages.next()).await.map_err(|_| silent)?;
        self.interpret_message(message.ok_or(ConsumerLoss::Closed)?)
    }

    /// Asks for more. The first request is answered at once, also when there is nothing: so it is soon known that it was taken.
    async fn request_batch(&mut self) -> Result<(), ConsumerLoss> {
        let request = if self.is_asked {
            serde_json::json!({
                "batch": BATCH_MAX,
                "expires": duration_nanos(EXPIRES),
                // The broker refuses a heartbeat of more than half of the expiry.
                "idle_heartbeat": duration_nanos(self.heartbeat.min(EXPIRES / 2)),
            })
        } else {
            serde_json::json!({ "batch": BATCH_MAX, "no_wait": true })
        };
        self.is_asked = true;
        self.wanted += BATCH_MAX;
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        let sent = self.client.publish_with_reply(subject, inbox, request.to_string().into()).await;
        sent.map_err(|_| ConsumerLoss::Closed)
    }

    fn interpret_message(&mut self, message: Message) -> Result<PullEvent, ConsumerLoss> {
        let number = |name: &str| {
            message
                .headers
                .as_ref()
                .and_then(|all| all.get(name))
                .and_then(|v| v.as_str().parse::<u64>().ok())
        };
        match message.status {
            None => self.parse_entry(message),
            Some(StatusCode::IDLE_HEARTBEAT) => match number("Nats-Last-Consumer") {
                // Core delivery may drop messages; the heartbeat names the last one that the broker sent.
                Some(sent) if sent != self.delivered => Err(ConsumerLoss::Gap),
                _ => Ok(PullEvent::Idle),
            },
            Some(status @ (StatusCode::NOT_FOUND | StatusCode::TIMEOUT)) => {
                // Either status ends one request: what it still owed will not come.
                let unsent = number("Nats-Pending-Messages").and_then(|unsent| usize::try_from(unsent).ok());
                self.wanted = self.wanted.saturating_sub(unsent.unwrap_or(BATCH_MAX));
                Ok(if status == StatusCode::NOT_FOUND { PullEvent::Idle } else { PullEvent::Alive })
            }
            Some(status) => {
                let reason = message.description.unwrap_or_else(|| status.to_string());
                Err(ConsumerLoss::Gone { reason })
            }
        }
    }

    fn parse_entry(&mut self, message: Message) -> Result<PullEvent, ConsumerLoss> {
        let message = jetstream::Message { message, context: self.context.clone() };
        // Whatever has no delivery facts is no message of the stream.
        let Ok(info) = message.info() else { return Ok(PullEvent::Alive) };
        if info.consumer_sequence != self.delivered + 1 {
            return Err(ConsumerLoss::Gap);
        }
        self.delivered = info.consumer_sequence;
        self.wanted = self.wanted.saturating_sub(1);
        let entry = StreamEntry {
            sequence: info.stream_sequence,
            stored_at_ms: u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
            pending: info.pending,
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
        };
        Ok(PullEvent::Entry(entry))
    }
}

fn duration_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
