//! What people do with a schedule: change, pause, resume and remove it, and have it run out of turn.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    schedule::{
        JobRequest, MissedRunPolicy, NAME_CHARS_MAX, ScheduleChanged, ScheduleRecord, ScheduleRemoved,
        ScheduleTiming,
    },
    subjects,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    check_name, document, find_first_time, find_job_owner,
    firing::{ScheduleRunner, read_timing},
    has_ended, load_changeable, load_steerable, no_such_schedule,
};
use crate::{AppState, capacity, jobs::explain_encode_failure};
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// What to change in a schedule; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ScheduleChange", example = json!({ "timing": { "type": "every", "interval_ms": 86_400_000 } }))]
pub(super) struct ScheduleChangeRequest {
    /// What people call it; empty for none.
    #[schemars(length(max = NAME_CHARS_MAX))]
    name: Option<String>,
    /// When it fires; its next time is worked out anew.
    timing: Option<ScheduleTiming>,
    /// What becomes of times that pass while no keeper runs.
    missed: Option<MissedRunPolicy>,
    /// What is done then, with a medium of the same owner.
    job: Option<JobRequest>,
}

const fn schedule_operation(
    method: Method,
    path: &'static str,
    events: &'static [&'static str],
) -> Operation {
    let access = OperationAccess::Principal(ApiKeyScope::Worker);
    Operation::change(method, path, access, Some(RateLimitGroup::Worker), events)
}

/// How a schedule is after a change, for its event.
fn describe_change(record: &ScheduleRecord, changed_by: &str) -> ScheduleChanged {
    ScheduleChanged {
        schedule_id: record.schedule_id,
        owner: record.owner.clone(),
        timing: record.timing.clone(),
        missed: record.missed,
        job: record.job.clone(),
        is_paused: record.paused_at_ms.is_some(),
        next_run_ms: record.next_run_ms,
        changed_by: changed_by.to_owned(),
    }
}

/// Changes the schedule, unless `change` leaves it; answers how it is then.
async fn commit_change(
    app: &AppState,
    key: &str,
    who: &Principal,
    change: impl Fn(&mut ScheduleRecord) -> bool + Send + Sync,
) -> Result<Response, Problem> {
    let changed = |found: Option<&ScheduleRecord>| {
        let mut record = found?.clone();
        if !change(&mut record) {
            return None;
        }
        let event = describe_change(&record, &who.owner);
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = app.bus.change_record::<ScheduleRecord>(key, changed).await?.ok_or_else(no_such_schedule)?;
    Ok(document::render(held.record)?.to_response(&HeaderMap::new()))
}

async fn read_broker_time(app: &AppState) -> Result<u64, Problem> {
    Ok(app.bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?)
}

pub(super) static CHANGE_SCHEDULE: Operation =
    schedule_operation(Method::PATCH, "/v1/schedules/{schedule_id}", &["schedule.changed"]);

/// Change a schedule
///
/// A new timing begins now: one that had ended fires again.
#[utoipa::path(
    patch,
    path = CHANGE_SCHEDULE.path,
    tag = "worker",
    operation_id = "change_schedule",
    params(("schedule_id", Path)),
    request_body(content = ref("#/components/schemas/ScheduleChange"), content_type = "application/json"),
    responses(
        (status = 200, description = "The schedule as it is now", body = ref("#/components/schemas/ScheduleDocument"), headers(("ETag"))),
        (status = 409, description = "Its next medium belongs to somebody else"),
        (status = 422, description = "It can't fire like that, or there is no such profile: `code` says which"),
    ),
)]
pub(super) async fn change_schedule(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    JsonBody(wanted): JsonBody<ScheduleChangeRequest>,
) -> Result<Response, Problem> {
    let held = load_steerable(&app.bus, &id, &who).await?;
    if let Some(name) = &wanted.name {
        check_name(name)?;
    }
    if let Some(job) = &wanted.job
        && find_job_owner(&app, &who, job).await? != held.record.owner
    {
        return Err(Problem::new(ProblemCode::ScheduleOwnerOther));
    }
    let now_ms = read_broker_time(&app).await?;
    let mut wanted = wanted;
    if let Some(ScheduleTiming::Every { first_ms, interval_ms }) = &mut wanted.timing {
        // One interval from now, not from when the schedule was made.
        first_ms.get_or_insert_with(|| now_ms.saturating_add(*interval_ms));
    }
    let first_ms =
        wanted.timing.as_ref().map(|timing| find_first_time(timing, now_ms, now_ms)).transpose()?;
    commit_change(&app, &held.record.key(), &who, |record| {
        let before = record.clone();
        if let Some(name) = &wanted.name {
            record.name.clone_from(name);
        }
        record.missed = wanted.missed.unwrap_or(record.missed);
        if let Some(job) = &wanted.job {
            record.job = job.clone();
        }
        if let Some(timing) = &wanted.timing {
            record.timing = timing.clone();
            (record.next_run_ms, record.kept_until_ms) = (first_ms, None);
        }
        *record != before
    })
    .await
}

pub(super) static PAUSE_SCHEDULE: Operation =
    schedule_operation(Method::POST, "/v1/schedules/{schedule_id}/pause", &["schedule.changed"]);

/// Pause a schedule
///
/// It fires no more until it is resumed; jobs that it began go on. Pausing it twice is no error.
#[utoipa::path(
    post,
    path = PAUSE_SCHEDULE.path,
    tag = "worker",
    operation_id = "pause_schedule",
    params(("schedule_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "The schedule, which is paused", body = ref("#/components/schemas/ScheduleDocument"), headers(("ETag"))),
        (status = 409, description = "It has ended"),
    ),
)]
pub(super) async fn pause_schedule(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_changeable(&app.bus, &id, &who).await?;
    if has_ended(&held.record) {
        return Err(Problem::new(ProblemCode::ScheduleEnded));
    }
    let now_ms = read_broker_time(&app).await?;
    commit_change(&app, &held.record.key(), &who, |record| {
        let is_new = record.paused_at_ms.is_none();
        record.paused_at_ms.get_or_insert(now_ms);
        is_new
    })
    .await
}

pub(super) static RESUME_SCHEDULE: Operation =
    schedule_operation(Method::POST, "/v1/schedules/{schedule_id}/resume", &["schedule.changed"]);

/// Resume a schedule
///
/// Times that passed while it was paused are let go, whatever its policy; a single time that passed counts as missed. Resuming it
/// twice is no error.
#[utoipa::path(
    post,
    path = RESUME_SCHEDULE.path,
    tag = "worker",
    operation_id = "resume_schedule",
    params(("schedule_id", Path), ("Idempotency-Key", Header)),
    responses((
        status = 200, description = "The schedule, which fires again", body = ref("#/components/schemas/ScheduleDocument"),
        headers(("ETag")),
    )),
)]
pub(super) async fn resume_schedule(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_steerable(&app.bus, &id, &who).await?;
    let now_ms = read_broker_time(&app).await?;
    commit_change(&app, &held.record.key(), &who, |record| {
        let was_paused = record.paused_at_ms.take().is_some();
        if was_paused && !matches!(record.timing, ScheduleTiming::Once { .. }) {
            let next_ms = read_timing(record).and_then(|timing| timing.find_from(now_ms));
            // Not before its time where that is still to come.
            record.next_run_ms =
                record.next_run_ms.map(|before_ms| next_ms.unwrap_or(before_ms).max(before_ms));
        }
        was_paused
    })
    .await
}

pub(super) static REMOVE_SCHEDULE: Operation =
    schedule_operation(Method::DELETE, "/v1/schedules/{schedule_id}", &["schedule.removed"]);

/// Remove a schedule
///
/// Jobs that it began go on.
#[utoipa::path(
    delete,
    path = REMOVE_SCHEDULE.path,
    tag = "worker",
    operation_id = "remove_schedule",
    params(("schedule_id", Path)),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn remove_schedule(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<StatusCode, Problem> {
    let held = load_changeable(&app.bus, &id, &who).await?;
    let now_ms = read_broker_time(&app).await?;
    let change = |found: Option<&ScheduleRecord>| {
        let mut record = found?.clone();
        record.removed_at_ms = Some(now_ms);
        let (schedule_id, owner) = (record.schedule_id, record.owner.clone());
        let event = ScheduleRemoved { schedule_id, owner, removed_by: who.owner.clone() };
        Some((record, Outbox::new().with_event(&event)))
    };
    app.bus.change_record::<ScheduleRecord>(&held.record.key(), change).await?;
    tracing::info!(schedule.id = %held.record.schedule_id, by = who.owner, "a schedule was removed");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) static RUN_SCHEDULE_NOW: Operation = schedule_operation(
    Method::POST,
    "/v1/schedules/{schedule_id}/run-now",
    &["schedule.fired", "schedule.refused", "media.reopened"],
)
.with_room(capacity::ENCODE);

/// Run a schedule now
///
/// Out of turn, also while it is paused or has ended; its own times stay. The first of `runs` says what came of it.
#[utoipa::path(
    post,
    path = RUN_SCHEDULE_NOW.path,
    tag = "worker",
    operation_id = "run_schedule_now",
    params(("schedule_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "The schedule, whose newest run is this one", body = ref("#/components/schemas/ScheduleDocument"), headers(("ETag"))),
        (status = 409, description = "Its last run is still being begun"),
    ),
)]
pub(super) async fn run_schedule_now(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_steerable(&app.bus, &id, &who).await?;
    let now_ms = read_broker_time(&app).await?;
    let runner = ScheduleRunner {
        bus: app.bus.clone(),
        store: app.store.clone(),
        ended_kept_ms: app.config.uploads.ended_kept_ms,
    };
    match runner.run_now(held, &who.owner, now_ms).await {
        Ok(Some(record)) => Ok(document::render(record)?.to_response(&HeaderMap::new())),
        Ok(None) => Err(Problem::new(ProblemCode::ScheduleBusy)),
        Err(error) => Err(explain_encode_failure(error)),
    }
}
