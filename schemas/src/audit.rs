//! Audit records: one event of EVENTS, written once as one line of JSON and chained to the line before.
//!
//! The bytes are what counts: they are stored, hashed and replayed verbatim, never encoded again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access_sum::AccessClass;

/// `prev_hash` of the first record.
pub const FIRST_PREV_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where the event lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditSource")]
pub struct AuditSource {
    /// Stream name.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Event id.
    pub id: String,
    /// The life of EVENTS that the sequence is of, as in the ids of followed events: when the stream was created, as Unix time in
    /// milliseconds in hex. Absent in records from before it was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
}

/// Type of a record about the log itself; its `source` is the newest event in the log, in the stream AUDIT.
pub const NOTE: &str = "audit.note";

/// `data` of a note: why what lies before it is not just the next event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditNote")]
pub struct AuditNote {
    /// In words.
    pub reason: String,
    /// Messages between the record before and this note that are no records. `prev_hash` of the note is over the hash of that
    /// record and their bytes, each with a line end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<AuditRange>,
    /// Records before this note that repeat an earlier one, word for word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeated: Vec<AuditRange>,
}

/// Numbers of records, both ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditRange")]
pub struct AuditRange {
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
}

/// One record of the stream AUDIT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditRecord", example = serde_json::json!({
    "n": 1, "source": { "stream": "EVENTS", "sequence": 1, "id": "b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78" },
    "time": "2025-11-23T12:26:54.467Z", "stored_at": "2025-11-23T12:26:54.470Z", "type": "upload.created",
    "subject": "evt.upload.created.06db008209t0303jc5mn0r355k", "entity_id": "06db008209t0303jc5mn0r355k", "owner": "admin",
    "media_id": "06db00820dt0303jc5mn0r355k", "job_id": null, "data": {}, "prev_hash": FIRST_PREV_HASH,
}))]
pub struct AuditRecord {
    /// Number of the record, from 1, without gaps; equals its sequence in AUDIT.
    pub n: u64,
    /// Where the event lies.
    pub source: AuditSource,
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
    /// The trace that the event belongs to: that of the request, or of the upload or job that the request changes. Absent in records from
    /// before it was written down, and in notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Payload; byte fields are base64. A payload that is no MessagePack or too large is replaced by an object with
    /// `undecodable_base64`, or `sha256` and `size_bytes`. Of a note: `reason`, and `skipped` or `repeated` numbers.
    pub data: serde_json::Value,
    /// SHA-256 in lower-case hex over the bytes of the record before.
    pub prev_hash: String,
}

/// What the log is asked for, and what it has of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditClass {
    /// What people ask for.
    pub name: &'static str,
    /// Types of its events; `job.*` are all of jobs.
    pub events: &'static [&'static str],
    /// What `access.summed` sums of it: of each window and process, since it is too much for an event of its own.
    pub sums: &'static [AccessClass],
}

/// All that is asked of the log.
pub const AUDIT_CLASSES: &[AuditClass] = &[
    AuditClass {
        name: "authentication attempts",
        events: &["auth.*", "admin.key_created"],
        sums: &[AccessClass::Authentication, AccessClass::Refusal],
    },
    AuditClass {
        name: "data modifications",
        events: &["upload.*", "media.*", "gate.changed", "schedule.*", "hook.*"],
        sums: &[AccessClass::Change],
    },
    AuditClass { name: "data access", events: &["view.summed"], sums: &[AccessClass::Read] },
    AuditClass { name: "playback", events: &["gate.*"], sums: &[AccessClass::Playback] },
    AuditClass { name: "cache operations", events: &["cache.cleared"], sums: &[AccessClass::Cache] },
    AuditClass { name: "limit violations", events: &["limit.exceeded"], sums: &[AccessClass::Limit] },
    AuditClass {
        name: "security events",
        events: &[
            "auth.refused",
            "auth.reused",
            "auth.key_revoked",
            "gate.denied",
            "gate.doubted",
            "gate.revoked",
            "hook.skipped",
            "job.failed",
        ],
        sums: &[AccessClass::Refusal],
    },
    AuditClass {
        name: "job submissions",
        events: &["job.queued", "schedule.fired"],
        sums: &[AccessClass::Change],
    },
    AuditClass {
        name: "transcoding operations",
        events: &["job.*", "media.playable", "media.ready"],
        sums: &[],
    },
    AuditClass {
        name: "operation of the service",
        events: &["admin.*", "alert.*", "queue.*", "access.summed"],
        sums: &[AccessClass::Probe],
    },
];
