//! Small writes by which a process shows that it lives, to keys of its own in the bucket `workers`, which the broker removes again.
//!
//! A heartbeat proves that this process can write, when nothing else does; it has no bytes, and nobody reads it. A live record says
//! what the process does: a hint for people, put by its one writer without compare-and-set.
//!
//! Limits: one heartbeat in [`HEARTBEAT_PERIOD`] of a connection on which nothing else was written; a live record is put once,
//! without another try, since the next one follows soon.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use schemas::{KvRecord, envelope::RecordEnvelope, fault::error_chain, subjects, worker};
use serde_bytes::ByteBuf;
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError, HEARTBEAT_PERIOD, publish, state};

/// How long a heartbeat is kept.
const AGE_MAX: Duration = Duration::from_secs(60);

impl Bus {
    /// Proves until `shutdown` that this connection can write; [`crate::ProcessHealth`] knows when it can't.
    ///
    /// # Errors
    /// [`BusError::Refused`] when the broker takes no heartbeats from this role.
    pub async fn run_write_heartbeat(&self, shutdown: &CancellationToken) -> Result<(), BusError> {
        let id = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
        let subject = subjects::kv_subject(worker::BUCKET, &format!("{}.{id}", self.role().name()));
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
        let message =
            PublishMessage::build().expected_stream(subjects::kv_stream_name(worker::BUCKET)).ttl(AGE_MAX);
        match self.try_publish(&subjects::kv_stream_name(worker::BUCKET), subject, &message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_bus_error(subject)),
        }
    }

    /// Puts a record that only this process writes, whatever is there; the broker removes it `ttl`, whole seconds, after it was stored.
    /// Tried once.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time; [`BusError::TooLarge`] when the record has more than
    /// [`schemas::RECORD_BYTES_MAX`] bytes.
    pub async fn put_live_record<R: KvRecord>(&self, record: &R, ttl: Duration) -> Result<(), BusError> {
        let (stream, key) = (subjects::kv_stream_name(R::BUCKET), record.key());
        let subject = subjects::kv_subject(R::BUCKET, &key);
        let changed_at_ms = crate::now_ms();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let envelope = RecordEnvelope {
            record: ByteBuf::from(publish::encode_message(&key, record)?),
            unsent: Vec::new(),
            changed_at_ms,
            expires_at_ms: Some(changed_at_ms.saturating_add(ttl_ms)),
            trace: None,
        };
        let payload = state::encode_envelope(R::BUCKET, &key, &envelope)?;
        // The broker refuses a time to live below one second.
        let ttl = ttl.max(Duration::from_secs(1));
        let message = PublishMessage::build().payload(payload).expected_stream(&stream).ttl(ttl);
        match self.try_publish(&stream, &subject, &message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_bus_error(&subject)),
        }
    }
}
