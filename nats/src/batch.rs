//! Atomic batches (NATS ADR-50): all messages are stored or none.
//!
//! Limits: at most [`MESSAGES_MAX`] messages.

use async_nats::HeaderMap;

use crate::{Bus, Error};

/// Most messages of one batch, the server's limit.
pub const MESSAGES_MAX: usize = 1_000;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batched {
    /// All messages are stored.
    Stored,
    /// At least one subject was taken, nothing is stored: the batch was published before.
    Known,
}

/// Server error code: wrong last sequence.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// Server error code: the stream's limit of one message per subject.
const SUBJECT_TAKEN: u64 = 10_077;

impl Bus {
    /// Publishes all `messages` (subject, payload) or none; each subject must be empty before.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`MESSAGES_MAX`]; [`Error::Unavailable`] when the outcome is unknown (repeat it);
    /// [`Error::Refused`] otherwise.
    pub async fn publish_batch(
        &self,
        stream: &str,
        messages: Vec<(String, Vec<u8>)>,
    ) -> Result<Batched, Error> {
        let count = messages.len();
        if count > MESSAGES_MAX {
            return Err(Error::TooLarge {
                what: "batch".into(),
                size_bytes: count,
                size_bytes_max: MESSAGES_MAX,
            });
        }
        let id = data_encoding::HEXLOWER.encode(&crate::fresh_id());
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
            if !last && index > 0 {
                self.client()
                    .publish_with_headers(subject, headers, payload.into())
                    .await
                    .map_err(Error::unavailable)?;
                continue;
            }
            // The first is a request, so that a refused batch is known before the rest is sent.
            let reply = self
                .client()
                .request_with_headers(subject, headers, payload.into())
                .await
                .map_err(Error::unavailable)?;
            if let Some(code) = refusal(&reply.payload)? {
                return if code == WRONG_LAST_SEQUENCE || code == SUBJECT_TAKEN {
                    Ok(Batched::Known)
                } else {
                    Err(Error::Refused {
                        what: "batch".into(),
                        reason: String::from_utf8_lossy(&reply.payload).into(),
                    })
                };
            }
        }
        Ok(Batched::Stored)
    }
}

fn refusal(payload: &[u8]) -> Result<Option<u64>, Error> {
    if payload.is_empty() {
        return Ok(None);
    }
    let answer: serde_json::Value = serde_json::from_slice(payload).map_err(Error::unavailable)?;
    Ok(answer.pointer("/error/err_code").and_then(serde_json::Value::as_u64))
}
