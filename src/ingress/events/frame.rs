//! What followers are sent, as server-sent events (HTML, section 9.2) and as messages of a WebSocket: what both look like is what the
//! description publishes. Each is rendered once, whatever the number of followers.

use std::sync::OnceLock;

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use nats::reader;
use schemars::JsonSchema;
use schemas::{
    headers,
    ids::{JobId, MediaId},
    job::JobPartProgress,
    subjects,
};
use serde::Serialize;
use serde_json::{Value, json};

/// Kind of the frame with how things stand.
pub(super) const SNAPSHOT: &str = "snapshot";
/// Kind of the frame that says that there is a gap before it.
pub(super) const RESYNC: &str = "resync";
/// Kind of the last frame of a follower that was too slow.
pub(super) const LAGGED: &str = "lagged";

/// A frame for followers, with what decides who may receive it.
#[derive(Debug)]
pub(crate) struct EventFrame {
    /// Its sequence in EVENTS; 0 for what is no event.
    pub(crate) sequence: u64,
    /// Kind: `<entity>.<verb>`, or what the stream says of itself.
    pub(crate) kind: String,
    pub(crate) owner: Option<String>,
    pub(crate) media_id: Option<MediaId>,
    pub(crate) job_id: Option<JobId>,
    /// As it goes over the wire as a server-sent event.
    pub(crate) bytes: Bytes,
    id: Option<String>,
    data: String,
    message: OnceLock<Utf8Bytes>,
}

impl EventFrame {
    /// A frame with this id and JSON text, about nobody in particular.
    pub(super) fn new(kind: &str, id: Option<String>, data: String) -> Self {
        // JSON has no line break outside of its strings, and none unescaped within.
        let mut text = String::with_capacity(data.len() + kind.len() + 64);
        if let Some(id) = &id {
            text.extend(["id: ", id, "\n"]);
        }
        text.extend(["event: ", kind, "\ndata: ", &data, "\n\n"]);
        Self {
            sequence: 0,
            kind: kind.to_owned(),
            owner: None,
            media_id: None,
            job_id: None,
            bytes: text.into(),
            id,
            data,
            message: OnceLock::new(),
        }
    }

    /// As it goes over a WebSocket.
    pub(super) fn message(&self) -> Utf8Bytes {
        let render = || {
            let id = self.id.as_ref().map_or(String::new(), |id| format!("\"id\":{},", json!(id)));
            let (kind, data) = (json!(self.kind), &self.data);
            format!("{{\"type\":\"event\",{id}\"event\":{kind},\"data\":{data}}}").into()
        };
        self.message.get_or_init(render).clone()
    }

    /// The same, about these.
    pub(super) fn about(
        mut self,
        owner: Option<String>,
        media_id: Option<MediaId>,
        job_id: Option<JobId>,
    ) -> Self {
        (self.owner, self.media_id, self.job_id) = (owner, media_id, job_id);
        self
    }

    /// Bytes that it holds at least.
    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len() + self.data.len()
    }
}

/// One event of the stream, field by field.
#[derive(JsonSchema)]
#[schemars(rename = "Event", example = json!({ "id": "1a2b3c-7", "event": "media.ready", "data": "{}" }))]
#[expect(dead_code, reason = "the description of a text that is written by hand")]
pub(super) struct EventDocument {
    /// `<stream epoch>-<sequence>`; send it as `Last-Event-ID` to go on behind it. `job.progress` carries none: it is no history.
    id: Option<String>,
    /// Kind: `<entity>.<verb>`, or `snapshot`, `resync` or `lagged`, which the stream says of itself.
    event: String,
    /// JSON: an `EventData`, or what has the name of `event`: `JobProgressData`, `SnapshotData`, `ResyncData` or `LaggedData`.
    #[schemars(extend("contentMediaType" = "application/json", "contentSchema" = json!({
        "anyOf": [
            { "$ref": "#/components/schemas/EventData" }, { "$ref": "#/components/schemas/JobProgressData" },
            { "$ref": "#/components/schemas/SnapshotData" }, { "$ref": "#/components/schemas/ResyncData" },
            { "$ref": "#/components/schemas/LaggedData" },
        ],
    })))]
    data: String,
}

/// `data` of an event, as JSON.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EventData", example = json!({
    "id": "5f0c", "type": "media.ready", "subject": "evt.media.ready.06db00820dt0303jc5mn0r355k", "time": "2025-11-23T18:26:54.467Z",
    "media_id": "06db00820dt0303jc5mn0r355k", "job_id": "06db008a0lt0303jc5mn0r355k", "data": {},
}))]
pub(super) struct EventData {
    /// The event's own id, the same in every stream and log.
    id: Option<String>,
    /// Kind: `<entity>.<verb>`.
    #[serde(rename = "type")]
    kind: String,
    /// Subject on the bus.
    subject: String,
    /// When it happened (RFC 3339).
    time: Option<String>,
    /// The medium it is about.
    media_id: Option<String>,
    /// The job it is about.
    job_id: Option<String>,
    /// What happened, as `schemas/json/<entity>.<verb>.v1.json` describes it.
    data: Value,
}

/// `data` of `job.progress`, as JSON: how far a job is over all its parts.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobProgressData", example = json!({
    "job_id": "06db008a0lt0303jc5mn0r355k", "media_id": "06db00820dt0303jc5mn0r355k", "kind": "transcode", "done_ms": 2_000, "total_ms": 4_000, "percent": 50,
}))]
pub(super) struct JobProgressData {
    /// The job.
    job_id: JobId,
    /// The medium it works on.
    media_id: MediaId,
    /// Kind of the job: `transcode`, or another one, of which nothing is encoded.
    kind: String,
    /// Milliseconds of output that are made.
    done_ms: u64,
    /// Milliseconds of output there will be.
    total_ms: u64,
    /// Whole percent, rounded down; as the job's document says it.
    #[schemars(range(max = 100))]
    percent: u64,
}

/// An event as everybody outside gets it.
pub(super) fn read_event(entry: &reader::StreamEntry) -> EventData {
    let text = |name: &str| header_text(entry, name);
    let (entity, verb, _) =
        subjects::parse_event_subject(&entry.subject).unwrap_or(("unknown", "unknown", ""));
    EventData {
        id: text(headers::ID),
        kind: format!("{entity}.{verb}"),
        subject: entry.subject.clone(),
        time: text(headers::TIME),
        media_id: text(headers::MEDIA_ID),
        job_id: text(headers::JOB_ID),
        data: nats::decode_message::<Value>(&entry.subject, &entry.payload).unwrap_or(Value::Null),
    }
}

/// The `data` of an event as text: what followers get, and what webhooks send.
pub fn render_event_json(entry: &reader::StreamEntry) -> String {
    json!(read_event(entry)).to_string()
}

fn header_text(entry: &reader::StreamEntry, name: &str) -> Option<String> {
    entry.headers.get_last(name).map(|value| value.as_str().to_owned())
}

/// An event as followers get it.
pub(super) fn render_event(epoch: &str, entry: &reader::StreamEntry) -> EventFrame {
    let data = read_event(entry);
    let id = format!("{epoch}-{}", entry.sequence);
    let media_id = data.media_id.as_deref().and_then(|text| text.parse().ok());
    let job_id = data.job_id.as_deref().and_then(|text| text.parse().ok());
    let frame = EventFrame::new(&data.kind, Some(id), json!(data).to_string());
    let frame = frame.about(header_text(entry, headers::OWNER), media_id, job_id);
    EventFrame { sequence: entry.sequence, ..frame }
}

/// Progress carries no id: a follower that comes back resumes at an event.
pub(super) fn render_progress(progress: &JobPartProgress, done_ms: u64, total_ms: u64) -> EventFrame {
    let data = JobProgressData {
        job_id: progress.job_id,
        media_id: progress.media_id,
        kind: if progress.kind.is_empty() {
            schemas::job::TRANSCODE.to_owned()
        } else {
            progress.kind.clone()
        },
        done_ms,
        total_ms,
        percent: crate::jobs::whole_percent(done_ms, total_ms),
    };
    let frame = EventFrame::new("job.progress", None, json!(data).to_string());
    frame.about(Some(progress.owner.clone()), Some(progress.media_id), Some(progress.job_id))
}
