//! What admins have a worker do: pause, resume, drain. The worker itself answers.
//!
//! Limits: an answer is waited for at most [`ANSWER_TIME_MAX`].

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::Method,
};
use nats::BusError;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    subjects,
    worker::{AdminWorkerChanged, WorkerAction, WorkerCommand, WorkerCommandReply, WorkerState},
};
use serde::Serialize;
use serde_json::json;

use super::{is_live, is_worker_name};
use crate::AppState;
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// How long a worker has to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Seconds after which a worker that did not answer can be asked again.
const RETRY_AFTER_S: u64 = 5;

/// A worker that has done what it was asked.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkerChanged", example = json!({ "worker": "019ab00102037a018073616d706c652d", "state": "paused" }))]
pub(super) struct WorkerChangedDocument {
    /// Its name.
    worker: String,
    /// Where it stands now.
    state: WorkerState,
}

const fn worker_operation(path: &'static str) -> Operation {
    Operation::change(
        Method::POST,
        path,
        OperationAccess::Principal(ApiKeyScope::Worker),
        Some(RateLimitGroup::Worker),
        &["admin.worker_changed"],
    )
}

pub(super) static PAUSE_WORKER: Operation = worker_operation("/v1/workers/{worker}/pause");

/// Pause a worker
///
/// It takes no new parts, and goes on with those that it holds; others take what waits. Pausing it twice is no error. It lasts until
/// the worker is resumed or started anew. For admins: an operator reads only.
#[utoipa::path(
    post,
    path = PAUSE_WORKER.path,
    tag = "worker",
    operation_id = "pause_worker",
    params(("worker", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "It is paused", body = ref("#/components/schemas/WorkerChanged")),
        (status = 409, description = "It is being stopped"),
        (status = 503, description = "It does not answer"),
    ),
)]
pub(super) async fn pause_worker(
    State(app): State<AppState>,
    Path(worker): Path<String>,
    who: Principal,
) -> Result<Json<WorkerChangedDocument>, Problem> {
    change_worker(&app, worker, &who, WorkerAction::Pause).await
}

pub(super) static RESUME_WORKER: Operation = worker_operation("/v1/workers/{worker}/resume");

/// Resume a worker
///
/// One that was paused or drained takes parts again. For admins.
#[utoipa::path(
    post,
    path = RESUME_WORKER.path,
    tag = "worker",
    operation_id = "resume_worker",
    params(("worker", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "It takes parts", body = ref("#/components/schemas/WorkerChanged")),
        (status = 409, description = "It is being stopped"),
        (status = 503, description = "It does not answer"),
    ),
)]
pub(super) async fn resume_worker(
    State(app): State<AppState>,
    Path(worker): Path<String>,
    who: Principal,
) -> Result<Json<WorkerChangedDocument>, Problem> {
    change_worker(&app, worker, &who, WorkerAction::Resume).await
}

pub(super) static DRAIN_WORKER: Operation = worker_operation("/v1/workers/{worker}/drain");

/// Drain a worker
///
/// It takes no new work and goes on with the parts that it holds. Once `held` is empty its process can be stopped without anything
/// being done twice; it does not end by itself, and can be resumed until then. For admins.
#[utoipa::path(
    post,
    path = DRAIN_WORKER.path,
    tag = "worker",
    operation_id = "drain_worker",
    params(("worker", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "It takes no new work", body = ref("#/components/schemas/WorkerChanged")),
        (status = 503, description = "It does not answer"),
    ),
)]
pub(super) async fn drain_worker(
    State(app): State<AppState>,
    Path(worker): Path<String>,
    who: Principal,
) -> Result<Json<WorkerChangedDocument>, Problem> {
    change_worker(&app, worker, &who, WorkerAction::Drain).await
}

async fn change_worker(
    app: &AppState,
    worker: String,
    who: &Principal,
    action: WorkerAction,
) -> Result<Json<WorkerChangedDocument>, Problem> {
    who.require_operator("workers work for everybody")?;
    if !is_worker_name(&worker) {
        return Err(no_such_worker());
    }
    let (subject, command) = (subjects::worker_command_subject(&worker), WorkerCommand { action });
    let answer = app.bus.request::<_, WorkerCommandReply>(subject, &command, ANSWER_TIME_MAX).await;
    let state = match answer {
        Ok(reply) => reply.state,
        Err(error) => return Err(explain_silence(app, &worker, &error).await),
    };
    if Some(state) != action.wanted_state() {
        return Err(Problem::new(ProblemCode::WorkerRefused).with_member("worker_state", json!(state)));
    }
    tracing::info!(worker, ?state, by = who.owner, "a worker was changed");
    // Also when it stood there before: who repeats a request whose event was not stored has it stored.
    let event = AdminWorkerChanged { worker: worker.clone(), state, changed_by: who.owner.clone() };
    app.bus.publish_event(&event, "asked").await?;
    Ok(Json(WorkerChangedDocument { worker, state }))
}

/// Why there is no answer: nobody has the name, or the one that has it says nothing.
async fn explain_silence(app: &AppState, worker: &str, error: &BusError) -> Problem {
    match is_live(&app.bus, worker).await {
        Ok(true) => Problem::new(ProblemCode::WorkerSilent)
            .with_detail("it shows itself, and did not answer within 2 seconds")
            .with_retry_after_s(RETRY_AFTER_S),
        Ok(false) => no_such_worker(),
        Err(_) => Problem::unavailable(error),
    }
}

fn no_such_worker() -> Problem {
    Problem::not_found("no live worker has this name; `GET /v1/workers` lists them")
}
