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
        JobRequest, MissedRunPolicy, NAME_CHARS_MAX, RunTrigger, ScheduleChanged, ScheduleMissed,
        ScheduleRecord, ScheduleRemoved, ScheduleTiming,
    },
    subjects,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    RequestPlace, check_count, check_name, document, find_job_owner,
    firing::{ScheduleRunner, describe_refusal, read_timing, refuse},
    has_ended, load_changeable, load_steerable, no_such_schedule, read_timing_request,
};
use crate::{AppState, capacity};
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
pub fn describe_change(record: &ScheduleRecord, changed_by: &str) -> ScheduleChanged {
    ScheduleChanged {
        schedule_id: record.schedule_id,
        owner: record.owner.clone(),
        timing: record.timing.clone(),
        missed: record.missed,
        job: record.job.clone(),
        is_paused: record.paused_at_ms.is_some(),
        next_run_at_ms: record.next_run_at_ms,
        changed_by: changed_by.to_owned(),
    }
}

/// Changes the schedule, unless `change` leaves it; answers how it is then. Times that had passed unused, and that the change lets go,
/// become an event of their own.
async fn change_record(
    app: &AppState,
    key: &str,
    who: &Principal,
    now_ms: u64,
    change: impl Fn(&mut ScheduleRecord) -> bool + Send + Sync,
) -> Result<ScheduleRecord, Problem> {
    let changed = |found: Option<&ScheduleRecord>| {
        let before = found.filter(|found| !found.is_of_newer_version())?;
        let mut record = before.clone();
        if !change(&mut record) {
            return None;
        }
        let missed = describe_missed(before, &record, now_ms);
        let outbox = missed.iter().fold(Outbox::new(), Outbox::with_event);
        let event = describe_change(&record, &who.owner);
        Some((record, outbox.with_event(&event)))
    };
    let held = app.bus.change_record::<ScheduleRecord>(key, changed).await?.ok_or_else(no_such_schedule)?;
    if held.record.is_of_newer_version() {
        return Err(Problem::new(ProblemCode::ScheduleNewer));
    }
    Ok(held.record)
}

/// The times that had come before `now_ms`, that no keeper had fired yet, and that a change lets go.
fn describe_missed(before: &ScheduleRecord, after: &ScheduleRecord, now_ms: u64) -> Option<ScheduleMissed> {
    let first_at_ms = before.next_run_at_ms.filter(|ms| *ms < now_ms && after.next_run_at_ms != Some(*ms))?;
    let last_at_ms = read_timing(before)?.find_last(now_ms).unwrap_or(first_at_ms).max(first_at_ms);
    let (schedule_id, owner) = (before.schedule_id, before.owner.clone());
    Some(ScheduleMissed { schedule_id, owner, first_at_ms, last_at_ms })
}

fn answer_with(record: ScheduleRecord) -> Result<Response, Problem> {
    Ok(document::render(record)?.to_response(&HeaderMap::new()))
}

async fn read_broker_time(app: &AppState) -> Result<u64, Problem> {
    Ok(app.bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?)
}

pub(super) static CHANGE_SCHEDULE: Operation = schedule_operation(
    Method::PATCH,
    "/v1/schedules/{schedule_id}",
    &["schedule.changed", "schedule.missed"],
);

/// Change a schedule
///
/// A new timing begins now: one that had ended fires again, and times that had passed without being fired are let go, and are in the
/// event `schedule.missed`.
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
        (status = 410, description = "The medium was removed, and can be restored for a time"),
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
        && find_job_owner(&app, &who, job, &RequestPlace::Schedule).await? != held.record.owner
    {
        return Err(Problem::new(ProblemCode::ScheduleOwnerOther));
    }
    let now_ms = read_broker_time(&app).await?;
    let mut wanted = wanted;
    if let Some(ScheduleTiming::Every { first_at_ms, interval_ms }) = &mut wanted.timing {
        // One interval from now, not from when the schedule was made.
        first_at_ms.get_or_insert_with(|| now_ms.saturating_add(*interval_ms));
    }
    let timing = wanted
        .timing
        .as_ref()
        .map(|timing| read_timing_request(timing, now_ms, &RequestPlace::Schedule))
        .transpose()?;
    if timing.is_some() && has_ended(&held.record) {
        check_count(&app.bus, &held.record.owner_key).await?;
    }
    let changed = change_record(&app, &held.record.key(), &who, now_ms, |record| {
        let before = record.clone();
        if let Some(name) = &wanted.name {
            record.name.clone_from(name);
        }
        record.missed = wanted.missed.unwrap_or(record.missed);
        if let Some(job) = &wanted.job {
            record.job = job.clone();
        }
        if let (Some(wanted), Some((timing, _))) = (&wanted.timing, &timing) {
            record.timing = wanted.clone();
            // Behind all that has fired, also since `now_ms`: no time fires twice.
            let planned = record.runs.iter().filter(|run| run.trigger == RunTrigger::Time);
            let fired_ms = planned.map(|run| run.planned_at_ms.saturating_add(1)).max().unwrap_or_default();
            record.next_run_at_ms = timing.find_from(now_ms.max(fired_ms));
            record.kept_until_ms = record
                .next_run_at_ms
                .is_none()
                .then(|| now_ms.saturating_add(app.config.uploads.ended_kept_ms));
        }
        *record != before
    })
    .await?;
    answer_with(changed)
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
    if held.record.is_of_newer_version() {
        return Err(Problem::new(ProblemCode::ScheduleNewer));
    }
    let now_ms = read_broker_time(&app).await?;
    let paused = change_record(&app, &held.record.key(), &who, now_ms, |record| {
        let is_new = record.paused_at_ms.is_none() && !has_ended(record);
        if is_new {
            record.paused_at_ms = Some(now_ms);
        }
        is_new
    })
    .await?;
    if paused.paused_at_ms.is_none() {
        return Err(Problem::new(ProblemCode::ScheduleEnded));
    }
    answer_with(paused)
}

pub(super) static RESUME_SCHEDULE: Operation = schedule_operation(
    Method::POST,
    "/v1/schedules/{schedule_id}/resume",
    &["schedule.changed", "schedule.missed"],
);

/// Resume a schedule
///
/// Times that passed until then are let go, whatever its policy, and are in the event `schedule.missed`; a single time that passed
/// counts as missed, and fires by its policy. Resuming it twice is no error.
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
    let resumed = change_record(&app, &held.record.key(), &who, now_ms, |record| {
        let was_paused = record.paused_at_ms.take().is_some();
        if was_paused && !matches!(record.timing, ScheduleTiming::Once { .. }) {
            let next_ms = read_timing(record).and_then(|timing| timing.find_from(now_ms));
            // Not before its time where that is still to come.
            record.next_run_at_ms =
                record.next_run_at_ms.map(|before_ms| next_ms.unwrap_or(before_ms).max(before_ms));
        }
        was_paused
    })
    .await?;
    answer_with(resumed)
}

pub(super) static REMOVE_SCHEDULE: Operation = schedule_operation(
    Method::DELETE,
    "/v1/schedules/{schedule_id}",
    &["schedule.removed", "schedule.refused"],
);

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
    let change = |found: Option<&ScheduleRecord>| Some(remove_record(found?.clone(), now_ms, &who.owner));
    app.bus.change_record::<ScheduleRecord>(&held.record.key(), change).await?;
    tracing::info!(schedule.id = %held.record.schedule_id, by = who.owner, "a schedule was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// A schedule as it is once it is removed, at a time of the broker, with the events of that.
pub fn remove_record(mut record: ScheduleRecord, now_ms: u64, removed_by: &str) -> (ScheduleRecord, Outbox) {
    record.removed_at_ms = Some(now_ms);
    let (schedule_id, owner) = (record.schedule_id, record.owner.clone());
    let event = ScheduleRemoved { schedule_id, owner, removed_by: removed_by.to_owned() };
    let outbox = Outbox::new().with_event(&event);
    // What was announced, and is not to be any more, ends as well.
    let refused = record.starting_run().and_then(|run| {
        let refused = refuse(ProblemCode::ScheduleEnded, "the schedule was removed before its job had begun");
        describe_refusal(&record, run.planned_at_ms, &refused)
    });
    let outbox = refused.iter().fold(outbox, Outbox::with_event);
    (record, outbox)
}

pub(super) static RUN_SCHEDULE_NOW: Operation = Operation::change(
    Method::POST,
    "/v1/schedules/{schedule_id}/run-now",
    OperationAccess::Principal(ApiKeyScope::Worker),
    // Whichever way it is asked for, an encode counts as one.
    Some(RateLimitGroup::Transcoder),
    &["schedule.fired", "schedule.refused", "media.reopened"],
)
.with_room(capacity::ENCODE);

/// Run a schedule now
///
/// Out of turn, also while it is paused or has ended; its own times stay. The first of `runs` says what came of it; while something is
/// away it says `starting`, and the keeper begins the job.
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
        capacity: app.capacity.clone(),
        quotas: app.config.quotas.clone(),
        ended_kept_ms: app.config.uploads.ended_kept_ms,
    };
    match runner.run_now(held, &who.owner, now_ms).await? {
        Some(record) => answer_with(record),
        None => Err(Problem::new(ProblemCode::ScheduleBusy)),
    }
}
