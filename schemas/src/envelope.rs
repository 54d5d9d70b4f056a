//! How a record lies in its bucket: the record itself and the events its last change caused but not yet published.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A KV value. The record stays opaque here, so that the sweeper can publish what is unsent without knowing its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Envelope")]
pub struct RecordEnvelope {
    /// The record as MessagePack.
    #[schemars(with = "Vec<u8>")]
    pub record: ByteBuf,
    /// Events this revision caused, in order; empty once they are in EVENTS.
    #[serde(default)]
    pub unsent: Vec<UnsentEvent>,
    /// Unix time in milliseconds of the last change, by the writer's clock.
    pub changed_at_ms: u64,
    /// Unix time in milliseconds from which on the record means nothing; absent for a record without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// W3C trace context (`traceparent`) of the request or message that made the record, where the record keeps it: what is done with the
    /// record later belongs to that trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// An event waiting to be published, complete with its headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Unsent")]
pub struct UnsentEvent {
    /// Subject to publish to.
    pub subject: String,
    /// Event id: SHA-256 of subject and cause, in hex; also `Nats-Msg-Id`.
    pub id: String,
    /// Headers besides the message id; with the trace that the change belongs to, also where another process publishes the event.
    pub headers: BTreeMap<String, String>,
    /// Payload, MessagePack.
    #[schemars(with = "Vec<u8>")]
    pub payload: ByteBuf,
    /// True when the subject may hold only this one event.
    pub once: bool,
    /// A sequence of EVENTS that was there before the change: whoever sends the event again looks for it behind this one.
    /// Absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_sequence: Option<u64>,
}
