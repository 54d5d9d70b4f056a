//! Publishing: every event has a deterministic id and is confirmed by the stream before anyone relies on it.
//!
//! Limits: an event payload has at most [`schemas::EVENT_BYTES_MAX`] bytes; an ambiguous publish is repeated at most
//! [`ATTEMPTS_MAX`] times with the same id.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{context::PublishErrorKind, message::PublishMessage},
};
use data_encoding::HEXLOWER;
use schemas::{Event, envelope::Unsent, headers, subjects};
use serde::Serialize;
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use crate::{Bus, Error};

/// Most tries of one publish while the broker is away or elects a leader.
pub const ATTEMPTS_MAX: u32 = 6;

/// What a publish led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Stored at this stream sequence.
    Stored(u64),
    /// It was there already.
    Known,
}

/// Events to send with a state change, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    drafts: Vec<Draft>,
}

#[derive(Debug)]
struct Draft {
    subject: String,
    kind: String,
    entity_id: String,
    about: schemas::About,
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
    pub fn event<E: Event>(mut self, event: &E) -> Self {
        self.drafts.push(Draft {
            subject: subjects::event(event),
            kind: format!("{}.{}", E::ENTITY, E::VERB),
            entity_id: event.entity_id(),
            about: event.about(),
            payload: rmp_serde::to_vec_named(event),
            once: E::ONCE,
        });
        self
    }

    /// Adds an event that a medium has once in each attempt, in a later one: the subject holds those of earlier attempts.
    #[must_use]
    pub fn event_again<E: Event>(self, event: &E) -> Self {
        let mut outbox = self.event(event);
        if let Some(draft) = outbox.drafts.last_mut() {
            draft.once = false;
        }
        outbox
    }

    /// Completes the events: `cause` names the one change they belong to, so a repeat gives the same ids.
    pub(crate) fn seal(self, source: &str, cause: &str) -> Result<Vec<Unsent>, Error> {
        self.drafts
            .into_iter()
            .enumerate()
            .map(|(i, draft)| draft.seal(source, &format!("{cause}#{i}")))
            .collect()
    }
}

impl Draft {
    fn seal(self, source: &str, cause: &str) -> Result<Unsent, Error> {
        let payload =
            self.payload.map_err(|source| Error::Unencodable { what: self.subject.clone(), source })?;
        if payload.len() > schemas::EVENT_BYTES_MAX {
            return Err(Error::TooLarge {
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
            (headers::TRACE_PARENT.into(), trace_parent(&id)),
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
        Ok(Unsent {
            subject: self.subject,
            id,
            headers: all,
            payload: ByteBuf::from(payload),
            once: self.once,
        })
    }
}

/// SHA-256 over subject and cause, in hex: the same change always names its event the same.
fn event_id(subject: &str, cause: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(subject.as_bytes());
    hash.update([0]);
    hash.update(cause.as_bytes());
    HEXLOWER.encode(&hash.finalize())
}

/// W3C trace context: trace and span are taken from the event id, so that a repeated publish belongs to the same trace.
fn trace_parent(id: &str) -> String {
    let (trace, rest) = id.split_at_checked(32).unwrap_or((id, ""));
    let span = rest.get(..16).unwrap_or_default();
    format!("00-{trace}-{span}-01")
}

impl Bus {
    /// Publishes an event that belongs to no change of state. `cause` names what happened: the same event with the same cause
    /// is stored once within the duplicate window.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker did not confirm in time.
    pub async fn report<E: Event>(&self, event: &E, cause: &str) -> Result<(), Error> {
        for unsent in Outbox::new().event(event).seal(self.role().name(), cause)? {
            self.publish_unsent(&unsent).await?;
        }
        Ok(())
    }

    /// Publishes a sealed event and waits until the stream holds it. Repeating it is harmless.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_unsent(&self, unsent: &Unsent) -> Result<Published, Error> {
        let mut all = HeaderMap::new();
        for (name, value) in &unsent.headers {
            all.insert(name.as_str(), value.as_str());
        }
        let mut message = PublishMessage::build()
            .payload(unsent.payload.to_vec().into())
            .headers(all)
            .message_id(&unsent.id)
            .expected_stream(subjects::EVENTS);
        if unsent.once {
            message = message.expected_last_subject_sequence(0);
        }
        self.publish_message(&unsent.subject, message).await
    }

    /// Publishes `message` to `subject` only if the subject is empty. A conflict means it is there already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_once<T: Serialize>(
        &self,
        stream: &str,
        subject: &str,
        message: &T,
    ) -> Result<Published, Error> {
        let payload = encode(subject, message)?;
        let message = PublishMessage::build()
            .payload(payload.into())
            .expected_stream(stream)
            .expected_last_subject_sequence(0);
        self.publish_message(subject, message).await
    }

    /// Publishes to `subject` of `stream` with `id` as its identity inside the duplicate window.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker did not confirm in time.
    pub async fn publish_raw(
        &self,
        stream: &str,
        subject: &str,
        id: &str,
        all: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<Published, Error> {
        let message = PublishMessage::build()
            .payload(payload.into())
            .headers(all)
            .message_id(id)
            .expected_stream(stream);
        self.publish_message(subject, message).await
    }

    /// Publishes, repeating the same message while the answer is lost or no leader is there.
    pub(crate) async fn publish_message(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<Published, Error> {
        let mut attempt = 1;
        loop {
            let sent = match self.context().send_publish(subject.to_owned(), message.clone()).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(ack) if ack.duplicate => return Ok(Published::Known),
                Ok(ack) => return Ok(Published::Stored(ack.sequence)),
                Err(error) => error,
            };
            match error.kind() {
                PublishErrorKind::WrongLastSequence => return Ok(Published::Known),
                PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::StreamNotFound
                    if attempt < ATTEMPTS_MAX =>
                {
                    tokio::time::sleep(retry_delay(attempt)).await;
                    attempt += 1;
                }
                _ => return Err(Error::of_publish(subject, error)),
            }
        }
    }
}

/// The whole chain of an error in one line; the client hides the broker's words in the source.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Encodes a message as MessagePack with named fields.
///
/// # Errors
/// [`Error::Unencodable`] when a field has no MessagePack form.
pub fn encode<T: Serialize>(what: &str, message: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec_named(message).map_err(|source| Error::Unencodable { what: what.to_owned(), source })
}

/// Decodes a message, refusing bytes behind its end.
///
/// # Errors
/// [`Error::Undecodable`] when the bytes are not exactly one `T`.
pub fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    let undecodable = |source| Error::Undecodable { what: what.to_owned(), source };
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    let value = T::deserialize(&mut reader).map_err(undecodable)?;
    if usize::try_from(reader.position()).ok() == Some(bytes.len()) {
        Ok(value)
    } else {
        Err(undecodable(rmp_serde::decode::Error::Uncategorized("bytes behind the end".into())))
    }
}

/// Full jitter up to 100 ms times two to the attempt.
pub(crate) fn retry_delay(attempt: u32) -> Duration {
    Duration::from_millis(rand::random_range(20..=(100_u64 << attempt.min(5))))
}
