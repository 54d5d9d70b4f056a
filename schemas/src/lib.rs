//! Everything that crosses a process border, as types: events, KV records, ids, subjects and storage keys.
//!
//! This crate does no IO and knows no clock. A message is MessagePack with named fields; additive change is a new
//! optional field, a breaking change is a new verb. The JSON Schemas in `json/`, `asyncapi.json` and the golden bytes in
//! `golden/` are generated from these types by `streamgate schemas write` and compared by `streamgate schemas check`.
//!
//! Limits: an event payload stays below [`EVENT_BYTES_MAX`]; a record below [`RECORD_BYTES_MAX`].

pub mod access;
pub mod access_sum;
pub mod alert;
pub mod audit;
pub mod cached;
pub mod captions;
pub mod catalog;
pub mod chapters;
pub mod dead_letter;
pub mod dispatch_query;
pub mod document;
pub mod encode;
pub mod encode_settings;
pub mod envelope;
pub mod examples;
pub mod experience;
pub mod export;
pub mod fault;
pub mod gate;
pub mod hook;
pub mod hook_delivery;
pub mod hook_event;
pub mod idempotency;
pub mod ids;
pub mod index_query;
pub mod job;
pub mod job_action;
pub mod job_why;
pub mod keys;
pub mod limit;
pub mod log_level;
pub mod media;
pub mod media_details;
pub mod monitor_query;
pub mod pause;
pub mod poster;
pub mod process_report;
pub mod rejection;
pub mod renditions;
pub mod schedule;
pub mod search_query;
pub mod session;
pub mod store;
pub mod subjects;
pub mod thumbnails;
pub mod upload;
pub mod upload_grant;
pub mod usage;
pub mod value;
pub mod view;
pub mod worker;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// Largest payload of one event in bytes; larger facts live in the store and are named by key.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Largest KV record in bytes, below the broker's `max_payload` of 1 MiB with room for headers.
pub const RECORD_BYTES_MAX: usize = 960 * 1024;

/// How long what has ended is kept in its bucket unless the settings say otherwise, in milliseconds: 30 days.
pub const ENDED_KEPT_MS: u64 = 30 * 24 * 3_600_000;

/// How long a followed bucket says that a key was removed, in milliseconds: a follower was away for less, or reads it anew.
pub const REMOVAL_MARKER_MS: u64 = 24 * 3_600_000;

/// Media type of every payload on the bus but audit records.
pub const CONTENT_TYPE: &str = "application/msgpack";

/// Media type of audit records: a line of JSON, so that what is replayed is what was stored and hashed.
pub const LINE_CONTENT_TYPE: &str = "application/json";

/// One kind of event: on the EVENTS stream, unless its subject says otherwise.
pub trait BusEvent: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// First subject token after `evt`.
    const ENTITY: &'static str;
    /// Past verb, the second subject token after `evt`.
    const VERB: &'static str;
    /// True when the entity sees this event at most once in its life; the publisher then expects an empty subject.
    const ONCE: bool;

    /// Last subject token: the entity's id.
    fn entity_id(&self) -> String;

    /// The subject it is published to.
    fn subject(&self) -> String {
        subjects::event_subject(self)
    }

    /// Who and what the event is about; becomes message headers.
    fn event_context(&self) -> EventContext;
}

/// What an event is about, carried in headers so that followers can filter without decoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventContext {
    /// Owner of the media, empty when there is none.
    pub owner: Option<String>,
    /// The media concerned.
    pub media_id: Option<ids::MediaId>,
    /// The job concerned.
    pub job_id: Option<ids::JobId>,
}

/// A record of one KV bucket, changed only by compare-and-set; those of live workers ([`worker::WorkerRecord`]) alone are put by their
/// one writer.
pub trait KvRecord: Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static {
    /// Bucket name.
    const BUCKET: &'static str;

    /// Key inside the bucket, made of our own ids only.
    fn key(&self) -> String;

    /// Unix time in milliseconds from which on the record means nothing; the broker then removes it, late rather than early, and
    /// a reader checks the time itself. Only for buckets whose values expire.
    fn expires_at_ms(&self) -> Option<u64> {
        None
    }

    /// True for a tombstone: a reader of the record finds nothing, and nobody writes it again. It keeps late writers from making
    /// anew what was removed, until the keeper purges it.
    fn is_removed(&self) -> bool {
        false
    }

    /// True when the record keeps the trace that it was made in: what is done with it later, belongs to that trace.
    const KEEPS_TRACE: bool = false;
}

/// Names of the headers every event carries.
pub mod headers {
    /// CloudEvents id, equal to `Nats-Msg-Id`.
    pub const ID: &str = "ce-id";
    /// CloudEvents source: the role that published.
    pub const SOURCE: &str = "ce-source";
    /// CloudEvents type: `<entity>.<verb>`.
    pub const TYPE: &str = "ce-type";
    /// CloudEvents version, always `1.0`.
    pub const SPEC_VERSION: &str = "ce-specversion";
    /// CloudEvents time, RFC 3339 in UTC.
    pub const TIME: &str = "ce-time";
    /// CloudEvents subject: the entity id.
    pub const SUBJECT: &str = "ce-subject";
    /// CloudEvents schema: path of the JSON Schema of the payload.
    pub const DATA_SCHEMA: &str = "ce-dataschema";
    /// CloudEvents content type, prefixed as the NATS binding asks.
    pub const DATA_CONTENT_TYPE: &str = "ce-datacontenttype";
    /// W3C trace context of the change that the event is of: the trace is that of the request or the upload it belongs to. Not an id of
    /// the event. Never with `tracestate` or `baggage`.
    pub const TRACE_PARENT: &str = "traceparent";
    /// Owner of the media concerned.
    pub const OWNER: &str = "sg-owner";
    /// Media concerned.
    pub const MEDIA_ID: &str = "sg-media-id";
    /// Job concerned.
    pub const JOB_ID: &str = "sg-job-id";
}
