//! How busy the encoders are, and what they made in the last hour.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    index_query::{self, EncodeActivity, EncodeActivityQuery, ProfileActivity},
    job::{JobQueue, JobRecord},
    subjects,
    worker::WorkerState,
};
use serde::Serialize;
use serde_json::json;

use crate::{AppState, index_client, jobs, workers};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// How far back it is looked, in milliseconds: an hour.
const WINDOW_MS: u64 = 3_600_000;

/// How busy the encoders are.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TranscodeMetrics", example = json!({
    "queue": { "jobs_waiting": 12, "queue_parts": 8, "queue_parts_max": 8, "parts_per_minute": 40 },
    "slots": { "workers": 2, "slots": 4, "slots_held": 4, "workers_paused": 0, "speed": 4_900 },
    "window_ms": 3_600_000, "profiles": [{
        "profile": "default", "succeeded": 12, "failed": 1, "cancelled": 0, "output_ms": 3_600_000, "work_ms": 1_800_000, "cpu_ms": 1_750_000,
        "speed": 2_000, "job_ms_median": 95_000, "job_ms_p95": 410_000,
    }], "is_cut": false,
}))]
pub(super) struct TranscodeMetricsDocument {
    /// What waits; null where no keeper answers, and nothing is let into the queue.
    queue: Option<TranscodeQueueDocument>,
    /// Those who encode.
    slots: TranscodeSlotsDocument,
    /// Milliseconds that `profiles` looks back.
    window_ms: u64,
    /// What was made in that time, by profile; an owner sees its own.
    profiles: Vec<ProfileActivity>,
    /// True when more jobs ended in it than are looked at: the last 10,000.
    is_cut: bool,
}

/// What waits to be encoded.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TranscodeQueue")]
struct TranscodeQueueDocument {
    /// Jobs of everybody that wait for a turn.
    jobs_waiting: u32,
    /// Parts that lie in the queue or are worked on.
    queue_parts: u32,
    /// Parts that the queue takes.
    queue_parts_max: u32,
    /// Parts that were let in a minute, lately; null before there were some.
    parts_per_minute: Option<u32>,
}

/// Those who encode.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "TranscodeSlots")]
struct TranscodeSlotsDocument {
    /// Workers that show themselves; at most 1,000 are counted.
    workers: usize,
    /// Parts that they run at once.
    slots: u64,
    /// Parts that they run now.
    slots_held: usize,
    /// Workers that take no parts: paused, draining or stopping.
    workers_paused: usize,
    /// Milliseconds of output that all of them together made in each 1,000 milliseconds in which they worked, over the last hour; null
    /// while nothing was made.
    speed: Option<u64>,
}

pub(super) static READ_TRANSCODE_METRICS: Operation = Operation::read(
    "/v1/transcode/metrics",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Transcoder),
);

/// Read how busy the encoders are
///
/// What waits, the slots of the workers, and what was made in the last hour by profile: how many jobs, how fast on one slot as a multiple of
/// real time (in thousandths), and how long jobs took from their planning to their end.
#[utoipa::path(
    get,
    path = READ_TRANSCODE_METRICS.path,
    tag = "worker",
    operation_id = "read_transcode_metrics",
    responses((status = 200, description = "The figures", body = ref("#/components/schemas/TranscodeMetrics"))),
)]
pub(super) async fn read_transcode_metrics(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<TranscodeMetricsDocument>, Problem> {
    // The broker's clock, as everywhere in records.
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let question = EncodeActivityQuery {
        owner: who.list_owner_filter(),
        ended_from_ms: now_ms.saturating_sub(WINDOW_MS),
    };
    let activity =
        index_client::query_index::<_, EncodeActivity>(&app.bus, index_query::ENCODE_ACTIVITY, &question);
    let (queue, workers, activity) = tokio::join!(
        jobs::ask_queue(&app, JobQueue::Transcode, jobs::ANSWER_MAX),
        workers::read_queue_workers(&app.bus, JobQueue::Transcode),
        activity
    );
    let (workers, activity) = (workers?, activity?);
    let mut slots = TranscodeSlotsDocument { workers: workers.len(), ..TranscodeSlotsDocument::default() };
    for worker in &workers {
        slots.slots += u64::from(worker.slots);
        slots.slots_held += worker.held.len();
        slots.workers_paused += usize::from(worker.state != WorkerState::Running);
        slots.speed = match (slots.speed, worker.speed) {
            (Some(sum), Some(speed)) => Some(sum.saturating_add(speed)),
            (one, other) => one.or(other),
        };
    }
    let queue = queue.map(|place| TranscodeQueueDocument {
        jobs_waiting: place.jobs_waiting,
        queue_parts: place.queue_parts,
        queue_parts_max: place.queue_parts_max,
        parts_per_minute: place.parts_per_minute,
    });
    let EncodeActivity { profiles, is_cut, revision: _ } = activity;
    Ok(Json(TranscodeMetricsDocument { queue, slots, window_ms: WINDOW_MS, profiles, is_cut }))
}
