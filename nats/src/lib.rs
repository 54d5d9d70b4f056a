//! The bus: one connection per role, state records with their events, the consume loop, ordered readers, leases.
//!
//! What is absent: no stream, durable or bucket is created by a role; [`topology`] alone does that. No message is
//! acknowledged before its effects are durable. No publish is unconfirmed, except core messages that are hints.

pub mod atomic_batch;
mod backoff;
mod client;
mod clock;
pub mod consume;
pub mod dead_letter;
mod error;
mod events;
mod health;
mod heartbeat;
pub mod invalidating_cache;
pub mod keys;
mod lease;
mod message_span;
pub mod metrics;
mod publish;
pub mod reader;
mod reader_status;
mod request;
mod role;
pub mod server;
mod stage;
mod state;
mod stream_messages;
mod stream_subjects;
mod stream_usage;
mod tasks;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topology;

pub use async_nats::HeaderMap;
pub use backoff::ATTEMPTS_MAX;
pub use client::{Bus, BusConfig, ConnectionState, check_server_url};
pub use clock::{OFFSET_MS_MAX, clock_offset_ms, estimated_broker_now_ms};
pub use error::{BrokerObstacle, BusError};
pub use health::{HEARTBEAT_PERIOD, HealthProblem, ProcessHealth, SHARED_GRACE};
pub use lease::Lease;
pub use message_span::{answer_span, event_context};
pub use publish::{Outbox, PublishOutcome, decode_message, encode_message};
pub use reader::{ReaderStart, StreamReader};
pub use reader_status::ReaderStatus;
pub use role::Role;
pub use schemas::fault::FailureClass;
pub use spans;
pub use stage::{MessageDelivery, PipelineStage, StageFault, StageMessage, StageOutcome};
pub use state::{CHANGE_ATTEMPTS_MAX, RawKvValue, VersionedRecord, decode_record};
pub use stream_messages::StreamExtent;
pub use stream_usage::StreamUsage;
pub use tasks::{Supervisor, TaskEnding};

/// 16 fresh bytes of a UUIDv7: for an id that sorts by the time it was made.
pub fn new_id_bytes() -> [u8; 16] {
    *uuid::Uuid::now_v7().as_bytes()
}

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
