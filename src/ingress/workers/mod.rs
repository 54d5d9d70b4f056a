//! The live workers: what each says of itself in the bucket `workers`, for operators; and what it is asked to do, by admins.
//!
//! Limits: one answer lists at most [`WORKERS_MAX`] workers, and reading them takes at most `READ_TIME_MAX`.

use std::time::Duration;

use axum::{Json, extract::State};
use nats::{Bus, BusError, ReaderStart, reader};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    job::JobQueue,
    subjects,
    worker::{self, HeldPart, WorkerRecord, WorkerState},
};
use serde::Serialize;
use serde_json::json;

use super::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
};

mod actions;

/// What the name of a worker matches.
pub(crate) const NAME_PATTERN: &str = "^[0-9a-f]{1,64}$";

/// Most workers that one answer lists.
pub const WORKERS_MAX: usize = 1_000;

/// How long reading the records may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&LIST_WORKERS, list_workers)
        .with(&actions::PAUSE_WORKER, actions::pause_worker)
        .with(&actions::RESUME_WORKER, actions::resume_worker)
        .with(&actions::DRAIN_WORKER, actions::drain_worker)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_workers, actions::pause_worker, actions::resume_worker, actions::drain_worker))]
pub(super) struct WorkersApiDoc;

impl openapi::OperationGroup for WorkersApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<LiveWorkerList>();
        schemas.add_response::<actions::WorkerChangedDocument>();
    }
}

/// A worker that showed itself within the last ten seconds. Times are those of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "LiveWorker")]
pub(crate) struct LiveWorkerDocument {
    /// Random name of the process, lower-case hexadecimal: the `worker` of the parts that it holds.
    worker: String,
    /// The queue that it works through, such as `transcode`.
    queue: String,
    /// Parts that it works on at once.
    pub(crate) slots: u32,
    /// What it holds, the longest held first.
    pub(crate) held: Vec<HeldPart>,
    /// Where it stands.
    pub(crate) state: WorkerState,
    /// Its version.
    version: String,
    /// Version of the encoder options with which it makes parts: jobs of another one wait for other workers.
    options_version: String,
    /// Name of its host; empty when it is not known.
    host: String,
    /// Unix time in milliseconds at which it began.
    started_at_ms: u64,
    /// Unix time in milliseconds at which it last showed itself.
    last_seen_ms: u64,
    /// Milliseconds of output that it made in each 1,000 milliseconds in which it worked on any, over the parts that ended in the
    /// last hour; null while there is none.
    pub(crate) speed: Option<u64>,
}

impl LiveWorkerDocument {
    fn new(record: WorkerRecord, last_seen_ms: u64) -> Self {
        let WorkerRecord {
            worker,
            queue,
            slots,
            held,
            state,
            version,
            options_version,
            host,
            started_at_ms,
            speed,
            other_version_wait_ms: _,
        } = record;
        Self {
            worker,
            queue,
            slots,
            held,
            state,
            version,
            options_version,
            host,
            started_at_ms,
            last_seen_ms,
            speed,
        }
    }
}

/// The live workers.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "LiveWorkerList", example = json!({
    "items": [{
        "worker": "019ab00102037a018073616d706c652d", "queue": "transcode", "slots": 2, "state": "running", "version": "0.1.0", "options_version": "transcode/3",
        "held": [{ "job_id": "06db008a0lt0303jc5mn0r355k", "part": "v0001", "since_ms": 1_763_900_814_467_u64 }],
        "host": "encoder-3", "started_at_ms": 1_763_900_000_000_u64, "last_seen_ms": 1_763_900_816_000_u64, "speed": 2_450,
    }],
    "limit": 1_000, "has_more": false,
}))]
struct LiveWorkerList {
    /// By host, the longest running first.
    items: Vec<LiveWorkerDocument>,
    /// Most workers that are listed.
    limit: usize,
    /// True when there are more workers than are listed.
    has_more: bool,
}

static LIST_WORKERS: Operation = Operation::read(
    "/v1/workers",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// List the live workers
///
/// What each worker of a job queue says of itself: what it holds, how fast it is, where it runs. A worker that did not show itself for ten
/// seconds is not listed. At most 1,000 are; `has_more` says when there are others. For operators and admins.
#[utoipa::path(
    get,
    path = LIST_WORKERS.path,
    tag = "worker",
    operation_id = "list_workers",
    responses((status = 200, description = "The workers", body = ref("#/components/schemas/LiveWorkerList"))),
)]
async fn list_workers(State(app): State<AppState>, who: Principal) -> Result<Json<LiveWorkerList>, Problem> {
    who.require_operator("workers work for everybody")?;
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(worker::BUCKET)).await?;
    let filters = JobQueue::ALL.map(|queue| subjects::worker_filter(queue.name())).to_vec();
    let reading = read_live_workers(&app.bus, filters, now_ms, WORKERS_MAX);
    let list = tokio::time::timeout(READ_TIME_MAX, reading).await;
    Ok(Json(list.map_err(|error| Problem::unavailable(&error))??))
}

/// The workers of a queue that show themselves, at most [`WORKERS_MAX`].
pub(crate) async fn read_queue_workers(
    bus: &Bus,
    queue: JobQueue,
) -> Result<Vec<LiveWorkerDocument>, Problem> {
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(worker::BUCKET)).await?;
    let filters = vec![subjects::worker_filter(queue.name())];
    let reading = tokio::time::timeout(READ_TIME_MAX, read_live_workers(bus, filters, now_ms, WORKERS_MAX));
    Ok(reading.await.map_err(|error| Problem::unavailable(&error))??.items)
}

/// Whether a worker of this name shows itself, of whatever queue.
async fn is_live(bus: &Bus, worker: &str) -> Result<bool, BusError> {
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(worker::BUCKET)).await?;
    let subject =
        |queue: JobQueue| subjects::kv_subject(worker::BUCKET, &subjects::worker_key(queue.name(), worker));
    let subjects = JobQueue::ALL.map(subject).to_vec();
    let reading = tokio::time::timeout(READ_TIME_MAX, read_live_workers(bus, subjects, now_ms, 1)).await;
    Ok(!reading.map_err(BusError::unavailable)??.items.is_empty())
}

fn is_worker_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The workers whose records were stored within their time before `now_ms`, by the broker's clock.
async fn read_live_workers(
    bus: &Bus,
    filters: Vec<String>,
    now_ms: u64,
    workers_max: usize,
) -> Result<LiveWorkerList, BusError> {
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(worker::BUCKET),
        filters,
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.open_reader(settings).await?;
    let mut list = LiveWorkerList { items: Vec::new(), limit: workers_max, has_more: false };
    while let Some(entry) = entries.next_pending().await? {
        let is_live = entry.stored_at_ms.saturating_add(worker::RECORD_TTL_MS) >= now_ms;
        // Heartbeats, and the marks of workers that ended, have no bytes.
        if entry.payload.is_empty() || !is_live {
            continue;
        }
        let Ok((_, record)) = nats::decode_record::<WorkerRecord>(&entry.subject, &entry.payload) else {
            tracing::warn!(subject = entry.subject, "the record of a worker can't be read");
            continue;
        };
        if list.items.len() >= workers_max {
            list.has_more = true;
            break;
        }
        list.items.push(LiveWorkerDocument::new(record, entry.stored_at_ms));
    }
    list.items
        .sort_by(|a, b| (&a.host, a.started_at_ms, &a.worker).cmp(&(&b.host, b.started_at_ms, &b.worker)));
    Ok(list)
}

#[cfg(test)]
pub(crate) mod tests;
