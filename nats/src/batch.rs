//! Atomic batches (NATS ADR-50): all messages are stored or none.
//!
//! Limits: at most [`MESSAGES_MAX`] messages.

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode},
};

use crate::{Bus, BusError, error::is_subject_taken};

/// Most messages of one batch, the server's limit.
pub const MESSAGES_MAX: usize = 1_000;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOutcome {
    /// All messages are stored.
    Stored,
    /// At least one subject was taken, nothing is stored: the batch was published before.
    Known,
}

impl Bus {
    /// Publishes all `messages` (subject, payload) or none; each subject must be empty before.
    ///
    /// # Errors
    /// [`BusError::TooLarge`] above [`MESSAGES_MAX`]; [`BusError::Unavailable`] when the outcome is unknown (repeat it);
    /// [`BusError::Full`] when there is no room; [`BusError::Refused`] otherwise.
    pub async fn publish_batch(
        &self,
        stream: &str,
        messages: Vec<(String, Vec<u8>)>,
    ) -> Result<BatchOutcome, BusError> {
        let count = messages.len();
        if count > MESSAGES_MAX {
            return Err(BusError::TooLarge {
                what: "batch".into(),
                size_bytes: count,
                size_bytes_max: MESSAGES_MAX,
            });
        }
        let id = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
        for (index, (subject, payload)) in messages.into_iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string().as_str());
            headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
            headers.insert("Nats-Expected-Stream", stream);
            let last = index + 1 == count;
            if last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            // The broker answers the first and the last alone; a message lost in between makes it refuse the commit.
            if !last && index > 0 {
                self.client()
                    .publish_with_headers(subject, headers, payload.into())
                    .await
                    .map_err(BusError::unavailable)?;
                continue;
            }
            // The first is a request, so that a refused batch is known before the rest is sent.
            let request = self.client().request_with_headers(subject, headers, payload.into());
            let reply = self
                .while_connected(request)
                .await
                .map_err(BusError::unavailable)?
                .map_err(BusError::unavailable)?;
            if let Some(answer) = parse_batch_error(&reply.payload)? {
                let is_known =
                    answer.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE || is_subject_taken(&answer);
                return if is_known {
                    Ok(BatchOutcome::Known)
                } else {
                    Err(BusError::from_server_error("batch", &answer))
                };
            }
        }
        Ok(BatchOutcome::Stored)
    }
}

fn parse_batch_error(payload: &[u8]) -> Result<Option<jetstream::Error>, BusError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let mut answer: serde_json::Value = serde_json::from_slice(payload).map_err(BusError::unavailable)?;
    match answer.get_mut("error").map(serde_json::Value::take) {
        Some(error) => serde_json::from_value(error).map(Some).map_err(BusError::unavailable),
        None => Ok(None),
    }
}
