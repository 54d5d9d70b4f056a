//! The priority of a job: its record says so, and the dispatcher reads it there.

use axum::{
    extract::{Path, State},
    http::Method,
    response::Response,
};
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{KvRecord as _, access::ApiKeyScope, job::JobRecord, subjects::JobPriority};
use serde::Deserialize;
use serde_json::json;

use super::{actions, require_priority};
use crate::AppState;
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// What to change in a job.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobChange", example = json!({ "priority": "p2" }))]
pub(super) struct JobChangeRequest {
    /// Among its owner's jobs and those of others: `p0` goes before all, `p2` when nothing else waits, and now and then in between.
    priority: JobPriority,
}

pub(super) static CHANGE_JOB: Operation = Operation::change(
    Method::PATCH,
    "/v1/jobs/{job_id}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.reprioritized"],
);

/// Change the priority of a job
///
/// Of what was not let into the queue yet; parts that lie there or are worked on keep their places. An owner chooses between `p1` and
/// `p2`: `p0`, which goes before the jobs of everybody, is for admins. The priority that it has already is no error.
#[utoipa::path(
    patch,
    path = CHANGE_JOB.path,
    tag = "worker",
    operation_id = "change_job",
    params(("job_id", Path)),
    request_body(content = ref("#/components/schemas/JobChange"), content_type = "application/json"),
    responses(
        (status = 200, description = "The job as it is now", body = ref("#/components/schemas/JobDocument"), headers(("ETag"))),
        (status = 409, description = "It has ended"),
    ),
)]
pub(super) async fn change_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    JsonBody(wanted): JsonBody<JobChangeRequest>,
) -> Result<Response, Problem> {
    let job = actions::load_changeable_job(&app, &id, &who).await?;
    require_priority(&who, wanted.priority)?;
    let change = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_priority(wanted.priority, &who.owner)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    let held = app.bus.change_record::<JobRecord>(&job.key(), change).await?;
    actions::answer_with_job(&app, &who, held).await
}
