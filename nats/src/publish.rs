//! Publishing: every event has an id of its own and is confirmed by the stream before anyone relies on it.
//!
//! Limits: an event payload has at most [`schemas::EVENT_BYTES_MAX`] bytes; an ambiguous publish is repeated at most
//! [`ATTEMPTS_MAX`] times with the same id.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use data_encoding::HEXLOWER;
use schemas::{BusEvent, envelope::UnsentEvent, headers, subjects};
use serde::Serialize;
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use spans::{Span, SpanAttribute, SpanKind, TraceContext};

use crate::{
    Bus, BusError,
    backoff::{ATTEMPTS_MAX, retry_delay},
    client::ConnectionLoss,
    error::is_publish_transient,
    message_span::{describe_event, send_span_name},
};

/// What a publish led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Stored at this stream sequence.
    Stored(u64),
    /// It was there already.
    Known,
}

/// Events to send with a state change, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    drafts: Vec<EventDraft>,
}

#[derive(Debug)]
struct EventDraft {
    subject: String,
    kind: String,
    entity_id: String,
    about: schemas::EventContext,
    payload: Result<Vec<u8>, rmp_serde::encode::Error>,
    once: bool,
}

impl Outbox {
    /// No events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    #[must_use]
    pub fn with_event<E: BusEvent>(mut self, event: &E) -> Self {
        self.drafts.push(EventDraft {
            subject: event.subject(),
            kind: format!("{}.{}", E::ENTITY, E::VERB),
            entity_id: event.entity_id(),
            about: event.event_context(),
            payload: rmp_serde::to_vec_named(event),
            once: E::ONCE,
        });
        self
    }

    /// Adds an event that a medium has once in each attempt, in a later one: the subject holds those of earlier attempts.
    #[must_use]
    pub fn with_repeated_event<E: BusEvent>(self, event: &E) -> Self {
        let mut outbox = self.with_event(event);
        if let Some(draft) = outbox.drafts.last_mut() {
            draft.once = false;
        }
        outbox
    }

    /// True without events.
    pub(crate) const fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// Completes the events: `cause` names the one change they belong to, and no other change ever; `after` is a sequence
    /// that EVENTS had before it. Each event has a span that is open until it is dropped: of the trace of `origin`, where the record
    /// that changes has one, else of the work under way.
    pub(crate) fn into_unsent(
        self,
        source: &str,
        cause: &str,
        after: Option<u64>,
        origin: Option<TraceContext>,
    ) -> Result<(Vec<UnsentEvent>, Vec<Span>), BusError> {
        let (mut unsent, mut sending) = (Vec::new(), Vec::new());
        for (i, draft) in self.drafts.into_iter().enumerate() {
            // Of one trace, also where the first of them begins it.
            let origin = origin.or_else(|| sending.first().map(Span::context));
            let span = Span::resume(origin, SpanKind::Producer, || send_span_name(&draft.subject).into());
            // The number keeps two events of one change apart that have the same subject.
            let event = draft.into_unsent(source, &format!("{cause}#{i}"), after, span.context())?;
            describe_event(&span, &event);
            unsent.push(event);
            sending.push(span);
        }
        Ok((unsent, sending))
    }
}

impl EventDraft {
    fn into_unsent(
        self,
        source: &str,
        cause: &str,
        after: Option<u64>,
        context: TraceContext,
    ) -> Result<UnsentEvent, BusError> {
        let payload =
            self.payload.map_err(|source| BusError::Unencodable { what: self.subject.clone(), source })?;
        if payload.len() > schemas::EVENT_BYTES_MAX {
            return Err(BusError::TooLarge {
                what: self.subject,
                size_bytes: payload.len(),
                size_bytes_max: schemas::EVENT_BYTES_MAX,
            });
        }
        let id = event_id(&self.subject, cause);
        let mut all = BTreeMap::from([
            (headers::ID.into(), id.clone()),
            (headers::SOURCE.into(), format!("/streamgate/{source}")),
            (headers::TYPE.into(), self.kind.clone()),
            (headers::SPEC_VERSION.into(), "1.0".into()),
            (headers::TIME.into(), jiff::Timestamp::now().to_string()),
            (headers::SUBJECT.into(), self.entity_id),
            (headers::DATA_SCHEMA.into(), format!("schemas/json/{}.v1.json", self.kind)),
            (headers::DATA_CONTENT_TYPE.into(), schemas::CONTENT_TYPE.into()),
            (headers::TRACE_PARENT.into(), context.to_string()),
        ]);
        let about = self.about;
        let optional = [
            (headers::OWNER, about.owner),
            (headers::MEDIA_ID, about.media_id.map(|id| id.to_string())),
            (headers::JOB_ID, about.job_id.map(|id| id.to_string())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                all.insert(name.into(), value);
            }
        }
        Ok(UnsentEvent {
            subject: self.subject,
            id,
            headers: all,
            payload: ByteBuf::from(payload),
            once: self.once,
            after_sequence: after,
        })
    }
}

/// SHA-256 over subject and cause, in hex: a change names its event, and no other change gives it the same name.
fn event_id(subject: &str, cause: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(subject.as_bytes());
    // The separator keeps (`a`, `bc`) and (`ab`, `c`) apart.
    hash.update([0]);
    hash.update(cause.as_bytes());
    HEXLOWER.encode(&hash.finalize())
}

/// A broker's answer to one try of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishReply {
    /// Stored at this stream sequence.
    Stored(u64),
    /// A message with this id was stored within the duplicate window.
    Duplicate,
    /// The subject's last sequence is not the expected one.
    Moved,
}

/// Why one try of a publish has no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishFailure {
    /// The connection was lost on the way.
    #[error(transparent)]
    Lost(#[from] ConnectionLoss),
    /// The broker did not answer, or refused.
    #[error(transparent)]
    Broker(#[from] PublishError),
}

impl PublishFailure {
    /// True when the same may work in a moment. The message may be stored or not.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Broker(error) => is_publish_transient(error),
        }
    }

    /// How long to wait before try `attempt` is followed by the next: not at all once the connection is back.
    pub(crate) fn retry_pause(&self, attempt: u32) -> Duration {
        match self {
            Self::Lost(ConnectionLoss::Anew) => Duration::ZERO,
            _ => retry_delay(attempt),
        }
    }

    /// True when it was waited for a connection, in vain.
    const fn is_disconnected(&self) -> bool {
        matches!(self, Self::Lost(ConnectionLoss::Away))
    }

    /// What it means for who published to `subject`.
    pub(crate) fn into_bus_error(self, subject: &str) -> BusError {
        match self {
            Self::Lost(lost) => BusError::unavailable(lost),
            Self::Broker(error) => BusError::from_publish_error(subject, error),
        }
    }
}

impl Bus {
    /// Publishes an event that belongs to no change of state. `cause` names what happened.
    ///
    /// Each call is an event of its own, except of a kind whose subject may hold only one.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_event<E: BusEvent>(&self, event: &E, cause: &str) -> Result<(), BusError> {
        // Before the first try: a lost answer is looked for behind this sequence.
        let after = self.events_position().await;
        let own = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
        let cause = format!("{cause}/{own}");
        let outbox = Outbox::new().with_event(event);
        let (unsent, sending) = outbox.into_unsent(self.role().name(), &cause, after, None)?;
        for (unsent, span) in unsent.iter().zip(sending) {
            self.publish_unsent(unsent).await.inspect_err(|error| span.fail(error.code()))?;
        }
        Ok(())
    }

    /// A sequence that EVENTS has reached, asked for once; `None` when that can't be known now.
    pub(crate) async fn events_position(&self) -> Option<u64> {
        // Any sequence of the past will do: an old one makes a search longer, and only one of the future could miss
        // the event.
        if self.events_sequence() == 0 {
            let stream = self.context().get_stream(subjects::EVENTS);
            if let Ok(Ok(stream)) = self.while_connected(stream).await {
                self.record_events_sequence(stream.cached_info().state.last_sequence);
            }
        }
        Some(self.events_sequence()).filter(|sequence| *sequence > 0)
    }

    /// Publishes a sealed event that nobody has sent before, and waits until the stream holds it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_unsent(&self, unsent: &UnsentEvent) -> Result<PublishOutcome, BusError> {
        let mut message = event_message(unsent);
        if unsent.once {
            message = message.expected_last_subject_sequence(0);
        }
        match self.try_publish(subjects::stream_of_subject(&unsent.subject), &unsent.subject, &message).await
        {
            Ok(PublishReply::Stored(sequence)) => Ok(PublishOutcome::Stored(sequence)),
            Ok(PublishReply::Duplicate | PublishReply::Moved) => Ok(PublishOutcome::Known),
            // It may be stored and only the answer lost.
            Err(error) if error.is_transient() && !error.is_disconnected() => {
                tokio::time::sleep(error.retry_pause(1)).await;
                self.publish_missing(unsent).await
            }
            Err(error) => Err(error.into_bus_error(&unsent.subject)),
        }
    }

    /// Publishes `message` to `subject` only if the subject is empty. A conflict means it is there already. It carries the trace of the
    /// work under way.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_once<T: Serialize>(
        &self,
        stream: &str,
        subject: &str,
        message: &T,
    ) -> Result<PublishOutcome, BusError> {
        let payload = encode_message(subject, message)?;
        let span = Span::begin(SpanKind::Producer, || send_span_name(subject).into());
        span.set(|| SpanAttribute::Messaging("send"));
        span.set(|| SpanAttribute::DestinationTemplate(subjects::subject_template(subject)));
        let message = PublishMessage::build()
            .payload(payload.into())
            .header(headers::TRACE_PARENT, span.context().to_string().as_str())
            .expected_stream(stream)
            .expected_last_subject_sequence(0);
        let published = self.publish_message(stream, subject, message).await;
        match &published {
            Ok(PublishOutcome::Stored(_)) => {}
            Ok(PublishOutcome::Known) => span.set(|| SpanAttribute::Outcome("known")),
            Err(error) => span.fail(error.code()),
        }
        published
    }

    /// Publishes to `subject` of `stream` with `id` as its identity inside the duplicate window.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_raw(
        &self,
        stream: &str,
        subject: &str,
        id: &str,
        all: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<PublishOutcome, BusError> {
        let message = PublishMessage::build()
            .payload(payload.into())
            .headers(all)
            .message_id(id)
            .expected_stream(stream);
        self.publish_message(stream, subject, message).await
    }

    /// Publishes, repeating the same message while the answer is lost or no leader is there.
    pub(crate) async fn publish_message(
        &self,
        stream: &str,
        subject: &str,
        message: PublishMessage,
    ) -> Result<PublishOutcome, BusError> {
        match self.publish_with_retry(stream, subject, &message).await?.0 {
            PublishReply::Stored(sequence) => Ok(PublishOutcome::Stored(sequence)),
            PublishReply::Duplicate | PublishReply::Moved => Ok(PublishOutcome::Known),
        }
    }

    /// Publishes, repeating the same message while the answer is lost or no leader is there: for what is safe to repeat.
    /// Answers also which try it was.
    pub(crate) async fn publish_with_retry(
        &self,
        stream: &str,
        subject: &str,
        message: &PublishMessage,
    ) -> Result<(PublishReply, u32), BusError> {
        let mut attempt = 1;
        loop {
            let error = match self.try_publish(stream, subject, message).await {
                Ok(answer) => return Ok((answer, attempt)),
                Err(error) => error,
            };
            // Waiting for a connection has taken the time of a whole request already, and nothing was sent.
            if attempt >= ATTEMPTS_MAX || error.is_disconnected() || !error.is_transient() {
                return Err(error.into_bus_error(subject));
            }
            tokio::time::sleep(error.retry_pause(attempt)).await;
            attempt += 1;
        }
    }

    /// One try: ends with the broker's answer, with the time of a request, or when the connection was made anew meanwhile.
    pub(crate) async fn try_publish(
        &self,
        stream: &str,
        subject: &str,
        message: &PublishMessage,
    ) -> Result<PublishReply, PublishFailure> {
        let sending = async {
            match self.context().send_publish(subject.to_owned(), message.clone()).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            }
        };
        let answer = match self.while_connected(sending).await {
            Ok(Ok(ack)) => {
                self.health().record_confirmed_write(self.role(), stream);
                if stream == subjects::EVENTS {
                    self.record_events_sequence(ack.sequence);
                }
                return Ok(if ack.duplicate {
                    PublishReply::Duplicate
                } else {
                    PublishReply::Stored(ack.sequence)
                });
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                return Ok(PublishReply::Moved);
            }
            Ok(Err(error)) => PublishFailure::Broker(error),
            Err(lost) => PublishFailure::Lost(lost),
        };
        // A refusal is an answer.
        if answer.is_transient() {
            self.health().record_unconfirmed_write(stream);
        }
        Err(answer)
    }
}

/// An event as it is published, with its id.
pub(crate) fn event_message(unsent: &UnsentEvent) -> PublishMessage {
    let mut all = HeaderMap::new();
    for (name, value) in &unsent.headers {
        all.insert(name.as_str(), value.as_str());
    }
    PublishMessage::build()
        .payload(unsent.payload.to_vec().into())
        .headers(all)
        .message_id(&unsent.id)
        // A stream that was given the subject by mistake would confirm the event, and no reader of ours would
        // receive it.
        .expected_stream(subjects::stream_of_subject(&unsent.subject))
}

/// Encodes a message as MessagePack with named fields.
///
/// # Errors
/// [`BusError::Unencodable`] when a field has no MessagePack form.
pub fn encode_message<T: Serialize>(what: &str, message: &T) -> Result<Vec<u8>, BusError> {
    // With names: by position, a value of another version would be read into the wrong fields.
    rmp_serde::to_vec_named(message).map_err(|source| BusError::Unencodable { what: what.to_owned(), source })
}

/// Decodes a message, refusing bytes behind its end.
///
/// # Errors
/// [`BusError::Undecodable`] when the bytes are not exactly one `T`.
pub fn decode_message<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, BusError> {
    let undecodable = |source| BusError::Undecodable { what: what.to_owned(), source };
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    let value = T::deserialize(&mut reader).map_err(undecodable)?;
    if usize::try_from(reader.position()).ok() == Some(bytes.len()) {
        Ok(value)
    } else {
        Err(undecodable(rmp_serde::decode::Error::Uncategorized("bytes behind the end".into())))
    }
}
