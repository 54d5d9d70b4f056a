//! Questions over core request/reply.
//!
//! Limits: an answer is waited for at most the time its asker names; only what the broker lost is asked twice.

use std::time::Duration;

use schemas::ids::RequestId;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Bus, BusError, client::ConnectionLoss, new_id_bytes, publish};

impl Bus {
    /// Sends `question` to `subject` and waits for the answer, MessagePack both ways.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when nobody answers in time; [`BusError::Undecodable`] when the answer is no `A`.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: String,
        question: &Q,
        wait_max: Duration,
    ) -> Result<A, BusError> {
        let payload = bytes::Bytes::from(publish::encode_message(&subject, question)?);
        let asking = || {
            // Random, and of this question alone: a role that answers one can't answer another.
            let inbox = format!("{}.{}", self.role().answer_prefix(), RequestId::from_bytes(new_id_bytes()));
            let request =
                async_nats::Request::new().payload(payload.clone()).inbox(inbox).timeout(Some(wait_max));
            self.while_connected(self.client().send_request(subject.clone(), request))
        };
        let answer = match asking().await {
            Err(ConnectionLoss::Anew) => asking().await,
            answer => answer,
        };
        let answer = answer.map_err(BusError::unavailable)?.map_err(BusError::unavailable)?;
        publish::decode_message(&subject, &answer.payload)
    }
}
