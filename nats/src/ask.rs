//! Questions over core request/reply.
//!
//! Limits: an answer is waited for at most the time its asker names; nothing is asked twice.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Bus, Error, publish};

impl Bus {
    /// Asks whoever answers `subject`, MessagePack both ways.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers in time; [`Error::Undecodable`] when the answer is no `A`.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: String,
        question: &Q,
        wait_max: Duration,
    ) -> Result<A, Error> {
        let request = async_nats::Request::new()
            .payload(publish::encode(&subject, question)?.into())
            .timeout(Some(wait_max));
        let answer =
            self.client().send_request(subject.clone(), request).await.map_err(Error::unavailable)?;
        publish::decode(&subject, &answer.payload)
    }
}
