//! Questions over core request/reply.
//!
//! Limits: an answer is waited for at most the time its asker names; only what the broker lost is asked twice.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Bus, Error, client::Lost, publish};

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
        let payload = bytes::Bytes::from(publish::encode(&subject, question)?);
        let asking = || {
            let request = async_nats::Request::new().payload(payload.clone()).timeout(Some(wait_max));
            self.while_connected(self.client().send_request(subject.clone(), request))
        };
        let answer = match asking().await {
            Err(Lost::Anew) => asking().await,
            answer => answer,
        };
        let answer = answer.map_err(Error::unavailable)?.map_err(Error::unavailable)?;
        publish::decode(&subject, &answer.payload)
    }
}
