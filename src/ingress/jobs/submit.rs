//! Asking for a job: now, or at a time.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, ScheduleId},
    schedule::JobRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{AppState, capacity, schedules, transcode::begin_transcode};
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::IdempotencyClaim,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    public_address::PublicAddress,
};

/// A job that is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobSubmission", example = json!({
    "job": { "kind": "transcode", "media_id": "06db00820dt0303jc5mn0r355k", "profile": "default", "priority": "p2" },
}))]
pub(super) struct JobSubmission {
    /// What is to be done.
    job: JobRequest,
    /// Unix time in milliseconds at which it is to begin; now when absent.
    run_at_ms: Option<u64>,
}

/// What was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobSubmitted", example = json!({ "job_id": "06db008a0lt0303jc5mn0r356g", "schedule_id": null }))]
pub(super) struct JobSubmittedDocument {
    /// The job, which can be read once a worker has planned it; null where it begins later.
    job_id: Option<JobId>,
    /// The schedule that begins it at its time, and says then which job it is; null where it has begun.
    schedule_id: Option<ScheduleId>,
}

pub(super) static SUBMIT_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs",
    OperationAccess::Principal(ApiKeyScope::Worker),
    // Whichever way it is asked for, an encode counts as one.
    Some(RateLimitGroup::Transcoder),
    &["media.reopened", "schedule.created"],
)
.with_room(capacity::JOB);

/// Ask for a job
///
/// Of the kind `transcode`, it is what `POST /v1/media/{media_id}/transcode` begins. With `run_at_ms` it begins at that time, by a
/// schedule that fires once, and can be changed or removed until then.
#[utoipa::path(
    post,
    path = SUBMIT_JOB.path,
    tag = "worker",
    operation_id = "submit_job",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/JobSubmission"), content_type = "application/json"),
    responses(
        (status = 202, description = "The job, or the schedule", body = ref("#/components/schemas/JobSubmitted"), headers(("Location"))),
        (status = 404, description = "There is no such medium, or it is not yours"),
        (status = 409, description = "The medium can't be encoded now, or there are too many schedules: `code` says which"),
        (status = 422, description = "There is no such kind or profile, or the time has passed: `code` says which"),
    ),
)]
pub(super) async fn submit_job(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<JobSubmission>,
) -> Result<Response, Problem> {
    let (document, place) = match (wanted.job, wanted.run_at_ms) {
        (job, Some(at_ms)) => {
            let made = schedules::make_single_run(&app, &who, claim.as_deref(), (job, at_ms)).await?;
            let document = JobSubmittedDocument { job_id: None, schedule_id: Some(made.schedule_id) };
            (document, format!("schedules/{}", made.schedule_id))
        }
        (JobRequest::Transcode(wanted), None) => {
            let begun = begin_transcode(&app, wanted, &who, "/job/profile").await?;
            let document = JobSubmittedDocument { job_id: Some(begun.job_id), schedule_id: None };
            (document, format!("jobs/{}", begun.job_id))
        }
        (JobRequest::Unknown, None) => return Err(schedules::unknown_kind()),
    };
    let location = HeaderValue::try_from(format!("{}/v1/{place}", address.prefix()))
        .map_err(|error| Problem::internal(&error))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(document)).into_response())
}
