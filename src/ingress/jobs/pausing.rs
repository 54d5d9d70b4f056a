//! Pausing a job, and letting it go on: its record says so, and dispatcher and workers read it there.

use axum::{
    extract::{Path, State},
    http::Method,
    response::Response,
};
use nats::Outbox;
use schemas::{KvRecord as _, access::ApiKeyScope, job::JobRecord, subjects};

use super::actions;
use crate::AppState;
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

pub(super) static PAUSE_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/{job_id}/pause",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.paused"],
);

/// Pause a job
///
/// None of its parts is begun until it is resumed; those that workers are at are made to their end. What was made stays, and a medium
/// that plays keeps playing. Pausing it twice is no error.
#[utoipa::path(
    post,
    path = PAUSE_JOB.path,
    tag = "worker",
    operation_id = "pause_job",
    params(("job_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "The job, which is paused", body = ref("#/components/schemas/JobDocument"), headers(("ETag"))),
        (status = 409, description = "It has ended"),
    ),
)]
pub(super) async fn pause_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let job = actions::load_changeable_job(&app, &id, &who).await?;
    // The broker's clock, as everywhere in the record.
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let change = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_pause(&who.owner, now_ms)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = app.bus.change_record::<JobRecord>(&job.job_id.to_string(), change).await?;
    actions::answer_with_job(&app, &who, held).await
}

pub(super) static RESUME_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/{job_id}/resume",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.resumed"],
);

/// Resume a job
///
/// The parts of a paused job are begun again, in its old place among the jobs of its owner. Resuming a job that is not paused is no
/// error.
#[utoipa::path(
    post,
    path = RESUME_JOB.path,
    tag = "worker",
    operation_id = "resume_job",
    params(("job_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "The job, which goes on", body = ref("#/components/schemas/JobDocument"), headers(("ETag"))),
        (status = 409, description = "It has ended"),
    ),
)]
pub(super) async fn resume_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let job = actions::load_changeable_job(&app, &id, &who).await?;
    let change = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_resumption(&who.owner)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = app.bus.change_record::<JobRecord>(&job.job_id.to_string(), change).await?;
    actions::answer_with_job(&app, &who, held).await
}
