//! Messages that one stream stores together or not at all (ADR-50), behind a sequence that has to be its last.
//!
//! The client that we use has no publisher of batches, and those that are published disagree about answers and errors.
//!
//! Limits: [`BATCH_MESSAGES_MAX`] messages; the broker forgets an unfinished batch after 10 s without a message of it.

use std::time::Duration;

use async_nats::{
    HeaderMap, Subscriber, header,
    jetstream::{ErrorCode, response::Response},
};
use bytes::Bytes;
use futures::StreamExt;
use schemas::ids::RequestId;
use serde::Deserialize;

use crate::{Bus, BusError, new_id_bytes};

/// Most messages of a batch, by the broker.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// A message of a batch.
#[derive(Debug, Clone)]
pub struct BatchMessage {
    /// Its subject.
    pub subject: String,
    /// Its payload.
    pub payload: Bytes,
}

/// Why a batch was not stored, or may not have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The broker does not answer: the batch may be stored.
    #[error("the broker does not answer")]
    Bus(#[from] BusError),
    /// The stream does not end where it should.
    #[error("the stream does not end at sequence {expected_last}")]
    WrongLastSequence {
        /// Where it should end.
        expected_last: u64,
    },
    /// The stream takes no batches, or the server knows none.
    #[error("the stream takes no batches: {reason}")]
    Unsupported {
        /// The broker's words.
        reason: String,
    },
    /// The broker refused it, and stored nothing.
    #[error("the broker refused the batch: {reason}")]
    Refused {
        /// The broker's words.
        reason: String,
    },
}

/// Publishes batches to one stream.
#[derive(Debug)]
pub struct BatchPublisher {
    bus: Bus,
    inbox: String,
    answers: Subscriber,
    wait_max: Duration,
}

/// What the broker says of a batch that it stored.
#[derive(Debug, Deserialize)]
struct BatchAck {
    seq: u64,
    #[serde(default)]
    batch: String,
    #[serde(default)]
    count: usize,
}

impl BatchPublisher {
    /// Waits at most `wait_max` for the answer to a batch.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the connection is closed.
    pub async fn new(bus: &Bus, wait_max: Duration) -> Result<Self, BusError> {
        let inbox = bus.client().new_inbox();
        let answers = bus.client().subscribe(format!("{inbox}.*")).await.map_err(BusError::unavailable)?;
        Ok(Self { bus: bus.clone(), inbox, answers, wait_max })
    }

    /// Stores messages behind sequence `expected_last`, all or none; answers the sequence of the last.
    ///
    /// # Errors
    /// [`BatchError`]; after [`BatchError::Bus`] they may be stored.
    pub async fn publish(
        &mut self,
        stream: &str,
        expected_last: u64,
        messages: Vec<BatchMessage>,
    ) -> Result<u64, BatchError> {
        let count = messages.len();
        if !(1..=BATCH_MESSAGES_MAX).contains(&count) {
            return Err(BatchError::Refused { reason: format!("it has {count} messages") });
        }
        let batch_id = RequestId::from_bytes(new_id_bytes()).to_string();
        for (index, message) in messages.into_iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_BATCH_ID, batch_id.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, (index + 1).to_string());
            if index == 0 {
                headers.insert(header::NATS_EXPECTED_STREAM, stream);
                headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, expected_last.to_string());
            }
            let is_last = index + 1 == count;
            if is_last {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
            }
            let client = self.bus.client();
            let BatchMessage { subject, payload } = message;
            // The broker answers the first and the last; those between only where something is wrong.
            let reply = format!("{}.{batch_id}", self.inbox);
            let sent = client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
            sent.map_err(BusError::unavailable)?;
        }
        tokio::time::timeout(self.wait_max, self.wait_for_commit(&batch_id, expected_last, count))
            .await
            .map_err(|_| BusError::unavailable("the batch was not confirmed in time"))?
    }

    /// Waits for the answer to the last message, or for the first refusal.
    async fn wait_for_commit(
        &mut self,
        batch_id: &str,
        expected_last: u64,
        count: usize,
    ) -> Result<u64, BatchError> {
        let reply = format!("{}.{batch_id}", self.inbox);
        loop {
            let message = self.answers.next().await;
            let message = message.ok_or_else(|| BusError::unavailable("the connection is closed"))?;
            // Nobody takes messages of the subject: there is no such stream now.
            if message.status.is_some() {
                return Err(BusError::unavailable("no stream takes the batch").into());
            }
            // Of the batch before, whose first refusal was enough; or the answer to the first message, which is empty.
            if message.subject.as_str() != reply || message.payload.is_empty() {
                continue;
            }
            let answer: Response<BatchAck> =
                serde_json::from_slice(&message.payload).map_err(BusError::unavailable)?;
            return match answer {
                Response::Ok(ack) if ack.batch == batch_id && ack.count == count => Ok(ack.seq),
                // A server that knows no batches stores each message for itself.
                Response::Ok(_) => {
                    Err(BatchError::Unsupported { reason: "it stored single messages".into() })
                }
                Response::Err { error } => Err(match error.error_code() {
                    ErrorCode::STREAM_WRONG_LAST_SEQUENCE => BatchError::WrongLastSequence { expected_last },
                    ErrorCode::ATOMIC_PUBLISH_DISABLED => {
                        BatchError::Unsupported { reason: error.to_string() }
                    }
                    // Another leader knows nothing of what was sent to the one before; nothing is stored.
                    ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
                    | ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT => BusError::unavailable(error).into(),
                    _ => BatchError::Refused { reason: error.to_string() },
                }),
            };
        }
    }
}
