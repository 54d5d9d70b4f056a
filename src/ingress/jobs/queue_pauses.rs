//! Pausing all jobs of an owner, or of a kind: one record says so, and each dispatcher reads it before it lets parts in.
//!
//! Limits: [`schemas::pause::PAUSES_MAX`] owners and kinds at a time.

use axum::{
    Json,
    extract::{Path, State},
    http::{Method, StatusCode},
};
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    ids::RequestId,
    job::{JobKind, JobRecord},
    pause::{
        NAME_CHARS_MAX, PAUSES_MAX, PauseScope, QueuePause, QueuePaused, QueuePauses, QueueResumed,
        REASON_CHARS_MAX,
    },
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::AppState;
use auth::{Principal, account::correct_owner_name};
use web::{
    body::JsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Something that is paused.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "QueuePause", example = json!({
    "scope": "kind", "name": "transcode", "paused_at_ms": 1_763_900_814_467_u64, "paused_by": "admin", "reason": "the encoders are upgraded",
}))]
pub(super) struct QueuePauseDocument {
    /// What the name is of.
    scope: PauseScope,
    /// The owner, or the kind.
    name: String,
    /// Unix time in milliseconds since when.
    paused_at_ms: u64,
    /// The account of the person.
    paused_by: String,
    /// Why, for people; null where nobody said.
    reason: Option<String>,
}

impl QueuePauseDocument {
    fn new(scope: PauseScope, name: &str, pause: &QueuePause) -> Self {
        let QueuePause { paused_at_ms, paused_by, reason } = pause.clone();
        Self { scope, name: name.to_owned(), paused_at_ms, paused_by, reason }
    }
}

/// All that is paused.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "QueuePauseList", example = json!({ "items": [] }))]
pub(super) struct QueuePauseList {
    /// Kinds first, each by name.
    items: Vec<QueuePauseDocument>,
}

/// Why something is paused.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueuePauseRequest", example = json!({ "reason": "the encoders are upgraded" }))]
pub(super) struct QueuePauseRequest {
    /// For people who ask why a job does not run.
    #[serde(default)]
    #[schemars(length(min = 1, max = REASON_CHARS_MAX), regex(pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$"))]
    reason: Option<String>,
}

pub(super) static LIST_QUEUE_PAUSES: Operation = Operation::read(
    "/v1/jobs/pauses",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// List what is paused
///
/// The kinds and the owners whose jobs are kept out of the queue. An owner sees the kinds, and itself.
#[utoipa::path(
    get,
    path = LIST_QUEUE_PAUSES.path,
    tag = "worker",
    operation_id = "list_queue_pauses",
    responses((status = 200, description = "What is paused", body = ref("#/components/schemas/QueuePauseList"))),
)]
pub(super) async fn list_queue_pauses(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<QueuePauseList>, Problem> {
    let found = app.bus.load_record::<QueuePauses>(QueuePauses::KEY).await?;
    let pauses = found.map(|held| held.record).unwrap_or_default();
    let list = |scope: PauseScope| pauses.of_scope(scope).iter().map(move |pause| (scope, pause));
    let shown = list(PauseScope::Kind)
        .chain(list(PauseScope::Owner))
        .filter(|(scope, (name, _))| *scope == PauseScope::Kind || who.may_see(name));
    let items = shown.map(|(scope, (name, pause))| QueuePauseDocument::new(scope, name, pause)).collect();
    Ok(Json(QueuePauseList { items }))
}

pub(super) static PAUSE_QUEUE: Operation = Operation::change(
    Method::PUT,
    "/v1/jobs/pauses/{scope}/{name}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["queue.paused"],
);

/// Pause all jobs of an owner or of a kind
///
/// No part of such a job is let into the queue until it is resumed, whenever the job was asked for; what lies in the queue, two parts for
/// each slot at most, and what workers are at, is made to its end. Others have their turns meanwhile. Pausing what is paused changes the
/// reason alone. For admins.
#[utoipa::path(
    put,
    path = PAUSE_QUEUE.path,
    tag = "worker",
    operation_id = "pause_queue",
    params(("scope", Path), ("name", Path)),
    request_body(content = ref("#/components/schemas/QueuePauseRequest"), content_type = "application/json"),
    responses(
        (status = 200, description = "It is paused", body = ref("#/components/schemas/QueuePause")),
        (status = 409, description = "As many are paused as may be"),
    ),
)]
pub(super) async fn pause_queue(
    State(app): State<AppState>,
    Path((scope, name)): Path<(String, String)>,
    who: Principal,
    JsonBody(wanted): JsonBody<QueuePauseRequest>,
) -> Result<Json<QueuePauseDocument>, Problem> {
    let scope = require_pausable(&who, &scope, &name)?;
    if wanted.reason.as_ref().is_some_and(|reason| !is_reason(reason)) {
        let detail = format!("1 to {REASON_CHARS_MAX} characters, none of them a control character");
        return Err(Problem::new(ProblemCode::RequestInvalid).with_pointer("/reason", detail));
    }
    // The broker's clock, as everywhere in records.
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let request_id = RequestId::from_bytes(nats::new_id_bytes());
    let (paused_by, reason) = (who.owner.clone(), wanted.reason);
    let event = QueuePaused { request_id, scope, name, paused_by, reason };
    let held = app
        .bus
        .change_record::<QueuePauses>(QueuePauses::KEY, |found| with_pause(found, &event, now_ms))
        .await?;
    let pauses = held.map(|held| held.record).unwrap_or_default();
    let pause = pauses.of_scope(scope).get(&event.name).ok_or_else(|| {
        let detail = format!("{PAUSES_MAX} owners and kinds are paused; resume some");
        Problem::new(ProblemCode::PausesTooMany).with_detail(detail)
    })?;
    tracing::info!(?scope, name = event.name, by = who.owner, "jobs are kept out of the queue");
    Ok(Json(QueuePauseDocument::new(scope, &event.name, pause)))
}

/// The record once something is paused; `None` where nothing changes, and where there is no place.
fn with_pause(
    found: Option<&QueuePauses>,
    event: &QueuePaused,
    now_ms: u64,
) -> Option<(QueuePauses, Outbox)> {
    let mut pauses = found.cloned().unwrap_or_default();
    let before = pauses.of_scope(event.scope).get(&event.name);
    if before.is_some_and(|before| before.reason == event.reason) {
        return None;
    }
    if before.is_none() && pauses.count() >= PAUSES_MAX {
        return None;
    }
    let pause = QueuePause {
        paused_at_ms: before.map_or(now_ms, |before| before.paused_at_ms),
        paused_by: event.paused_by.clone(),
        reason: event.reason.clone(),
    };
    pauses.of_scope_mut(event.scope).insert(event.name.clone(), pause);
    Some((pauses, Outbox::new().with_event(event)))
}

pub(super) static RESUME_QUEUE: Operation = Operation::change(
    Method::DELETE,
    "/v1/jobs/pauses/{scope}/{name}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["queue.resumed"],
);

/// Resume the jobs of an owner or of a kind
///
/// They have their turns again within a second, in the order in which they were asked for. Resuming what is not paused is no error. For
/// admins.
#[utoipa::path(
    delete,
    path = RESUME_QUEUE.path,
    tag = "worker",
    operation_id = "resume_queue",
    params(("scope", Path), ("name", Path)),
    responses((status = 204, description = "They are not paused")),
)]
pub(super) async fn resume_queue(
    State(app): State<AppState>,
    Path((scope, name)): Path<(String, String)>,
    who: Principal,
) -> Result<StatusCode, Problem> {
    let scope = require_pausable(&who, &scope, &name)?;
    let request_id = RequestId::from_bytes(nats::new_id_bytes());
    let event = QueueResumed { request_id, scope, name, resumed_by: who.owner.clone() };
    let change = |found: Option<&QueuePauses>| {
        let mut pauses = found?.clone();
        pauses.of_scope_mut(scope).remove(&event.name)?;
        Some((pauses, Outbox::new().with_event(&event)))
    };
    app.bus.change_record::<QueuePauses>(QueuePauses::KEY, change).await?;
    tracing::info!(?scope, name = event.name, by = who.owner, "jobs have their turns again");
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses who may not, and names of which there can't be jobs.
fn require_pausable(who: &Principal, scope: &str, name: &str) -> Result<PauseScope, Problem> {
    who.require_operator("a pause of the queue concerns everybody's jobs")?;
    let scope = match scope {
        "owner" => PauseScope::Owner,
        "kind" => PauseScope::Kind,
        _ => return Err(Problem::not_found("`owner` and `kind` can be paused")),
    };
    if scope == PauseScope::Kind && JobKind::parse(name).is_none() {
        let known = JobKind::ALL.map(JobKind::name).join(", ");
        return Err(Problem::not_found("there is no such kind of jobs").with_member("kinds", json!(known)));
    }
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Problem::not_found("no owner has such a name"));
    }
    if let Some(owner) = correct_owner_name(name).filter(|_| scope == PauseScope::Owner) {
        let detail = format!("a wallet's account is written {owner}");
        return Err(Problem::not_found("no such owner").with_detail(detail).with_member("owner", owner));
    }
    Ok(scope)
}

fn is_reason(reason: &str) -> bool {
    (1..=REASON_CHARS_MAX).contains(&reason.chars().count()) && !reason.chars().any(char::is_control)
}
