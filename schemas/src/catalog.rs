//! The list of everything that crosses the bus: the source of `json/`, `asyncapi.json` and the contract tests.

use schemars::{Schema, schema_for};

use crate::{
    Event, Record, access, ask, audit, document, envelope, gate, idempotency, job, limit, media, session,
    store, upload, view,
};

/// One kind of message.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name: `<entity>.<verb>` for events, else what it is; the schema file is `<name>.v1.json`.
    pub name: String,
    /// Subject with parameters in braces.
    pub address: String,
    /// Stream that keeps it; empty for core messages.
    pub stream: String,
    /// JSON Schema of the payload, once decoded from MessagePack.
    pub schema: Schema,
}

const AUDIT_RECORD: &str = "audit.record";

fn event<E: Event>() -> Entry {
    Entry {
        name: format!("{}.{}", E::ENTITY, E::VERB),
        address: format!("evt.{}.{}.{{id}}", E::ENTITY, E::VERB),
        stream: crate::subjects::EVENTS.into(),
        schema: schema_for!(E),
    }
}

fn record<R: Record>(name: &str, key: &str) -> Entry {
    Entry {
        name: format!("kv.{name}"),
        address: format!("$KV.{}.{key}", R::BUCKET),
        stream: crate::subjects::kv_stream(R::BUCKET),
        schema: schema_for!(R),
    }
}

impl Entry {
    /// Media type of the payload.
    pub fn content_type(&self) -> &'static str {
        content_type(&self.name)
    }
}

/// Media type of the payload of the messages called `name`.
pub fn content_type(name: &str) -> &'static str {
    if name == AUDIT_RECORD { crate::LINE_CONTENT_TYPE } else { crate::CONTENT_TYPE }
}

/// Every event kind.
pub fn events() -> Vec<Entry> {
    vec![
        event::<upload::Created>(),
        event::<upload::Received>(),
        event::<upload::Expired>(),
        event::<upload::Terminated>(),
        event::<media::Stored>(),
        event::<media::Rejected>(),
        event::<media::Playable>(),
        event::<media::Ready>(),
        event::<media::Removed>(),
        event::<media::Delayed>(),
        event::<media::Reopened>(),
        event::<document::Changed>(),
        event::<job::Queued>(),
        event::<job::Started>(),
        event::<job::Retried>(),
        event::<job::Succeeded>(),
        event::<job::Failed>(),
        event::<job::Cancelled>(),
        event::<job::Dead>(),
        event::<job::Parked>(),
        event::<access::KeyCreated>(),
        event::<session::Challenged>(),
        event::<session::Refused>(),
        event::<session::Denied>(),
        event::<session::SignedIn>(),
        event::<session::Refreshed>(),
        event::<session::Reused>(),
        event::<session::SignedOut>(),
        event::<session::KeyCreated>(),
        event::<session::KeyRevoked>(),
        event::<gate::Changed>(),
        event::<gate::Granted>(),
        event::<gate::Denied>(),
        event::<gate::Revoked>(),
        event::<gate::Doubted>(),
        event::<view::Summed>(),
        event::<limit::Exceeded>(),
    ]
}

/// Every record kind. On the bus a record lies inside an [`envelope::Envelope`].
pub fn records() -> Vec<Entry> {
    vec![
        record::<upload::Record>("uploads", "{upload_id}"),
        record::<view::Position>("limits.views", "views.{partition}"),
        record::<upload::OpenUploads>("limits.uploads", "uploads.{owner_digest}"),
        record::<document::Record>("media", "{media_id}"),
        record::<media::Record>("assets", "{media_id}"),
        record::<job::Record>("jobs", "{job_id}"),
        record::<job::Part>("jobs.part", "{job_id}.{part}"),
        record::<access::ApiKey>("apikeys", "{key_id}"),
        record::<access::Secret>("secrets", "{name}"),
        record::<document::SegmentKey>("keys", "{media_id}"),
        record::<store::Identity>("store", store::Identity::KEY),
        record::<gate::Session>("grants", "{playback_id}"),
        record::<gate::Slot>("grants.slot", "slot.{digest}"),
        record::<gate::Cursor>("grants.cursor", "cursor.{chain_id}"),
        record::<session::Challenge>("nonces", "{challenge_id}"),
        record::<session::Prefix>("nonces.prefix", &session::prefix_key("{prefix_sha256}")),
        record::<session::Session>("sessions", "{session_id}"),
        record::<session::Wallet>("sessions.wallet", &session::wallet_key("{address}", None)),
        record::<session::Ring>("secrets.ring", &session::ring_key("{name}")),
        record::<session::OwnerKeys>("apikeys.owner", &session::owner_key("{owner_sha256}")),
        record::<limit::Replicas>("limits.replicas", limit::Replicas::KEY),
        record::<limit::Reported>("limits.reported", limit::Reported::KEY),
        record::<idempotency::Record>("idempotency", "{digest}"),
    ]
}

fn question<Q: schemars::JsonSchema>(verb: &str) -> Entry {
    Entry {
        name: format!("ask.{verb}"),
        address: crate::subjects::ask_index(verb),
        stream: String::new(),
        schema: schema_for!(Q),
    }
}

fn answer<A: schemars::JsonSchema>(verb: &str) -> Entry {
    Entry {
        name: format!("ask.{verb}.answer"),
        address: "{inbox}".into(),
        stream: String::new(),
        schema: schema_for!(A),
    }
}

/// Everything else.
pub fn others() -> Vec<Entry> {
    vec![
        Entry {
            name: "kv.envelope".into(),
            address: "$KV.{bucket}.{key}".into(),
            stream: "KV_{bucket}".into(),
            schema: schema_for!(envelope::Envelope),
        },
        Entry {
            name: "view.opened".into(),
            address: "view.{partition}.opened.{media_id}".into(),
            stream: crate::subjects::VIEWS.into(),
            schema: schema_for!(view::Opened),
        },
        Entry {
            name: "job.task".into(),
            address: "job.{kind}.{priority}.{job_id}.{part}".into(),
            stream: crate::subjects::JOBS.into(),
            schema: schema_for!(job::Task),
        },
        Entry {
            name: "job.progress".into(),
            address: "progress.{job_id}.{part}".into(),
            stream: crate::subjects::PROGRESS.into(),
            schema: schema_for!(job::Progress),
        },
        Entry {
            name: AUDIT_RECORD.into(),
            address: crate::subjects::audit("{class}", "{action}"),
            stream: crate::subjects::AUDIT.into(),
            schema: schema_for!(audit::Record),
        },
        question::<ask::ListMedia>(ask::MEDIA),
        answer::<ask::Answer<ask::MediaPage>>(ask::MEDIA),
        question::<ask::ListJobs>(ask::JOBS),
        answer::<ask::Answer<ask::JobPage>>(ask::JOBS),
    ]
}

/// Everything, in a stable order.
pub fn all() -> Vec<Entry> {
    let mut all = events();
    all.extend(records());
    all.extend(others());
    all
}
