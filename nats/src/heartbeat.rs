//! A small write that proves that this process can write, when nothing else does.
//!
//! It goes to a key of the process in the bucket `workers`, which the broker removes again; nobody reads it.
//!
//! Limits: one write in [`HEARTBEAT_PERIOD`] of a connection on which nothing else was written.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use schemas::{fault::error_chain, subjects};
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError, HEARTBEAT_PERIOD};

/// Bucket of the heartbeats.
const BUCKET: &str = "workers";
/// How long a heartbeat is kept.
const AGE_MAX: Duration = Duration::from_secs(60);

impl Bus {
    /// Proves until `shutdown` that this connection can write; [`crate::ProcessHealth`] knows when it can't.
    ///
    /// # Errors
    /// [`BusError::Refused`] when the broker takes no heartbeats from this role.
    pub async fn run_write_heartbeat(&self, shutdown: &CancellationToken) -> Result<(), BusError> {
        let id = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
        let subject = subjects::kv_subject(BUCKET, &format!("{}.{id}", self.role().name()));
        self.health().expect_writes(self.role());
        let proving = async {
            loop {
                if let Err(error) = self.write_heartbeat(&subject).await {
                    if !error.is_transient() {
                        return Err(error);
                    }
                    tracing::debug!(why = error_chain(&error), "a heartbeat was not confirmed");
                }
                // As long as others write, nothing needs to be proven.
                while self.health().unconfirmed_for(self.role()).is_some_and(|age| age < HEARTBEAT_PERIOD) {
                    tokio::time::sleep(HEARTBEAT_PERIOD / 4).await;
                }
            }
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = proving => ended,
        };
        if shutdown.is_cancelled() {
            self.health().expect_no_writes(self.role());
        }
        ended
    }

    async fn write_heartbeat(&self, subject: &str) -> Result<(), BusError> {
        // The key is new at each start: without the time to live the bucket would keep one for every process there
        // was.
        let message = PublishMessage::build().expected_stream(subjects::kv_stream_name(BUCKET)).ttl(AGE_MAX);
        match self.try_publish(&subjects::kv_stream_name(BUCKET), subject, &message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_bus_error(subject)),
        }
    }
}
