//! Sending events that may have been sent before: what EVENTS holds decides, never the window of its message ids.
//!
//! A caller that sends again reads the event's subject from the change on that caused it, sends only what is missing, and only if
//! nobody else has published to the subject since it was read.
//!
//! Limits: at most [`ROUNDS_MAX`] times does somebody else come in between.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, jetstream::stream::LastRawMessageErrorKind};
use schemas::{envelope::UnsentEvent, subjects};

use crate::{
    Bus, BusError, PublishOutcome, backoff,
    publish::{self, PublishReply},
};

/// Most rounds of reading a subject and publishing behind what was read.
const ROUNDS_MAX: u32 = 32;
/// How long after its change an event is sent without looking for it: nobody else sends it so soon but with the same id.
const FRESH_MAX: Duration = Duration::from_millis(500);

/// What lies on the subject of an event.
enum EventLookup {
    /// The event.
    It,
    /// Others at most; the last of them, or 0.
    Others(u64),
}

impl Bus {
    /// Publishes `unsent` in order; the first `carried` of them may have been sent by others, and all of them by nobody else
    /// before `changed`.
    pub(crate) async fn publish_all(
        &self,
        unsent: &[UnsentEvent],
        carried: usize,
        changed: Instant,
    ) -> Result<(), BusError> {
        for (index, event) in unsent.iter().enumerate() {
            if index >= carried && changed.elapsed() < FRESH_MAX {
                self.publish_unsent(event).await?;
            } else {
                self.publish_missing(event).await?;
            }
        }
        Ok(())
    }

    /// Publishes an event unless EVENTS holds it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not answer in time, or others wrote to the subject all the time.
    pub async fn publish_missing(&self, unsent: &UnsentEvent) -> Result<PublishOutcome, BusError> {
        let stream = subjects::stream_of_subject(&unsent.subject);
        if stream != subjects::EVENTS {
            // A view is counted, not kept as history: its id has to do, and long after a crash it may count twice.
            return self.publish_message(stream, &unsent.subject, publish::event_message(unsent)).await;
        }
        let mut from = unsent.after_sequence.unwrap_or(0) + 1;
        for round in 1..=ROUNDS_MAX {
            let last = match self.find_event(unsent, from).await? {
                EventLookup::It => return Ok(PublishOutcome::Known),
                EventLookup::Others(last) if unsent.once && last > 0 => return Ok(PublishOutcome::Known),
                EventLookup::Others(last) => last,
            };
            let message = publish::event_message(unsent).expected_last_subject_sequence(last);
            match self.try_publish(subjects::EVENTS, &unsent.subject, &message).await {
                Ok(PublishReply::Stored(sequence)) => return Ok(PublishOutcome::Stored(sequence)),
                Ok(PublishReply::Duplicate) => return Ok(PublishOutcome::Known),
                // Somebody else was first, perhaps with this very event: everything up to `last` is known.
                Ok(PublishReply::Moved) => from = from.max(last + 1),
                Err(error) if error.is_transient() => {
                    if round >= backoff::ATTEMPTS_MAX {
                        return Err(error.into_bus_error(&unsent.subject));
                    }
                    tokio::time::sleep(error.retry_pause(round)).await;
                }
                Err(error) => return Err(error.into_bus_error(&unsent.subject)),
            }
        }
        Err(BusError::unavailable(format!("others write to {} all the time", unsent.subject)))
    }

    /// Looks for an event among what its subject holds from `from` on.
    async fn find_event(&self, unsent: &UnsentEvent, from: u64) -> Result<EventLookup, BusError> {
        let stream = self.stream_handle(subjects::EVENTS).await?;
        let newest = self
            .retry_request(
                || async {
                    match stream.get_last_raw_message_by_subject(&unsent.subject).await {
                        Ok(message) => Ok(Some(message)),
                        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                        Err(error) => Err(error),
                    }
                },
                BusError::unavailable,
            )
            .await?;
        let Some(newest) = newest else { return Ok(EventLookup::Others(0)) };
        self.record_events_sequence(newest.sequence);
        if is_same_event(&newest.headers, unsent) {
            return Ok(EventLookup::It);
        }
        let mut next = from;
        while next < newest.sequence {
            let older = self
                .retry_request(
                    || async {
                        match stream.get_first_raw_message_by_subject(&unsent.subject, next).await {
                            Ok(message) => Ok(Some(message)),
                            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                            Err(error) => Err(error),
                        }
                    },
                    BusError::unavailable,
                )
                .await?;
            let Some(older) = older else { break };
            if is_same_event(&older.headers, unsent) {
                return Ok(EventLookup::It);
            }
            next = older.sequence + 1;
        }
        Ok(EventLookup::Others(newest.sequence))
    }
}

fn is_same_event(headers: &HeaderMap, unsent: &UnsentEvent) -> bool {
    headers.get(async_nats::header::NATS_MESSAGE_ID).is_some_and(|id| id.as_str() == unsent.id)
}
