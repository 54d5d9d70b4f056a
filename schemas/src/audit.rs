//! Audit records: one event of EVENTS, written once as one line of JSON and chained to the line before.
//!
//! The bytes are what counts: they are stored, hashed and replayed verbatim, never encoded again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `prev_hash` of the first record.
pub const FIRST_PREV_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where the event lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Stream name.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Event id.
    pub id: String,
}

/// One record of the stream AUDIT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Number of the record, from 1, without gaps; equals its sequence in AUDIT.
    pub n: u64,
    /// Where the event lies.
    pub source: Source,
    /// When it happened, by its publisher's clock: RFC 3339 in UTC.
    pub time: String,
    /// When EVENTS stored it, by the broker's clock: RFC 3339 in UTC, with milliseconds.
    pub stored_at: String,
    /// `<entity>.<verb>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Subject it was published to.
    pub subject: String,
    /// The entity's id.
    pub entity_id: String,
    /// Owner of the media concerned.
    pub owner: Option<String>,
    /// Media concerned.
    pub media_id: Option<String>,
    /// Job concerned.
    pub job_id: Option<String>,
    /// Payload; byte fields are base64. A payload that is no MessagePack or too large is replaced by an object with
    /// `undecodable_base64`, or `sha256` and `size_bytes`.
    pub data: serde_json::Value,
    /// SHA-256 in lower-case hex over the bytes of the record before.
    pub prev_hash: String,
}
