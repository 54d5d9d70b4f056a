//! Frames of server-sent events (HTML, section 9.2): what they look like is what the description publishes.

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

/// A frame for followers, with what decides who may receive it.
#[derive(Debug)]
pub(crate) struct SseFrame {
    /// Its sequence in EVENTS; 0 for progress.
    pub(crate) sequence: u64,
    pub(crate) owner: Option<String>,
    pub(crate) media_id: Option<String>,
    pub(crate) job_id: Option<String>,
    /// As it goes over the wire.
    pub(crate) frame: Bytes,
}

/// One event of the stream, field by field.
#[derive(JsonSchema)]
#[schemars(rename = "Event", example = json!({ "id": "1a2b3c-7", "event": "media.ready", "data": "{}" }))]
#[expect(dead_code, reason = "the description of a text that is written by hand")]
pub(super) struct EventDocument {
    /// `<stream epoch>-<sequence>`; send it as `Last-Event-ID` to go on behind it. `job.progress` carries none: it is no history.
    id: Option<String>,
    /// Kind: `<entity>.<verb>`.
    event: String,
    /// JSON: an `EventData`, or a `JobProgressData` where `event` is `job.progress`.
    #[schemars(extend("contentMediaType" = "application/json", "contentSchema" = json!({
        "anyOf": [{ "$ref": "#/components/schemas/EventData" }, { "$ref": "#/components/schemas/JobProgressData" }],
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
fn read_event(entry: &reader::StreamEntry) -> EventData {
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
pub(super) fn render_event(epoch: &str, entry: &reader::StreamEntry) -> SseFrame {
    let data = read_event(entry);
    let (media_id, job_id) = (data.media_id.clone(), data.job_id.clone());
    let frame = format!("id: {epoch}-{}\n{}", entry.sequence, render_frame(&data.kind, &data));
    SseFrame {
        sequence: entry.sequence,
        owner: header_text(entry, headers::OWNER),
        media_id,
        job_id,
        frame: frame.into(),
    }
}

/// Progress carries no id: a follower that comes back resumes at an event.
pub(super) fn render_progress(progress: &JobPartProgress, done_ms: u64, total_ms: u64) -> SseFrame {
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
    SseFrame {
        sequence: 0,
        owner: Some(progress.owner.clone()),
        media_id: Some(progress.media_id.to_string()),
        job_id: Some(progress.job_id.to_string()),
        frame: render_frame("job.progress", &data).into(),
    }
}

/// JSON has no line break outside of its strings, and none unescaped within.
fn render_frame(event: &str, data: &impl Serialize) -> String {
    format!("event: {event}\ndata: {}\n\n", json!(data))
}
