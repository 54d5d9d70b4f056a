//! What a person does with a job: cancels it, or has it tried again.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use nats::VersionedRecord;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, MediaId},
    job::{JobRecord, JobStatus},
    subjects::JobPriority,
};
use serde::Serialize;
use serde_json::json;

use super::{
    cancellation::{CancelOutcome, JobCanceller, cancel_job as cancel},
    load_job_document, no_such_job, require_priority,
    retry::NextEncodeError,
    try_again::{TryContext, TryOutcome, try_job_again},
};
use crate::{AppState, capacity};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// The job that goes on from another one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobRetried", example = json!({
    "job_id": "06db008a0lt0303jc5mn0r356g", "media_id": "06db00820dt0303jc5mn0r355k", "retry_of": "06db008a0lt0303jc5mn0r355k",
}))]
pub(super) struct JobRetriedDocument {
    /// The new job; it can be read once a worker has planned it.
    job_id: JobId,
    /// The medium it works on.
    media_id: MediaId,
    /// The job that came to nothing.
    retry_of: JobId,
}

pub(super) static CANCEL_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/{job_id}/cancel",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.cancelled", "upload.terminated", "media.removed"],
);

/// Cancel a job
///
/// Its workers stop within two seconds, and what they had stored is removed. A medium that plays an older encode keeps playing it; any
/// other one fails with the code `job_cancelled`, and the job can be tried again. Cancelling it twice is no error.
#[utoipa::path(
    post,
    path = CANCEL_JOB.path,
    tag = "worker",
    operation_id = "cancel_job",
    params(("job_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "The job, which is cancelled", body = ref("#/components/schemas/JobDocument"), headers(("ETag"))),
        (status = 409, description = "It has ended, or its result is being published: `code` says which"),
    ),
)]
pub(super) async fn cancel_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let job = load_changeable_job(&app, &id, &who).await?;
    match cancel(&app.bus, job.job_id, JobCanceller::Person(&who.owner)).await? {
        CancelOutcome::Cancelled(held) => {
            tracing::info!(job.id = %job.job_id, by = who.owner, "cancelled");
            Ok(load_job_document(&app, &held, &who).await?.to_response(&HeaderMap::new()))
        }
        CancelOutcome::Ended(status) => Err(job_ended(status)),
        CancelOutcome::Publishing => Err(Problem::new(ProblemCode::JobPublishing)),
        CancelOutcome::Absent => Err(no_such_job()),
    }
}

pub(super) static RETRY_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/{job_id}/retry",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.queued", "media.reopened"],
)
.with_room(capacity::ENCODE);

/// Try a job again
///
/// A new job goes on from one that failed or was cancelled: of a failed encode it keeps the parts that were made, for as long as their
/// records are kept (`keeper.fold_age_ms`) and the workers make the same bytes. One that fetched, that sent a file, or that did something
/// with other jobs is asked for anew instead.
#[utoipa::path(
    post,
    path = RETRY_JOB.path,
    tag = "worker",
    operation_id = "retry_job",
    params(("job_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 202, description = "The new job", body = ref("#/components/schemas/JobRetried"), headers(("Location"))),
        (status = 409, description = "There is nothing to try again, a job of its kind is not, or there is nothing to begin with: `code` says which"),
    ),
)]
pub(super) async fn retry_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    address: PublicAddress,
) -> Result<Response, Problem> {
    let job = load_changeable_job(&app, &id, &who).await?;
    let context = TryContext {
        bus: &app.bus,
        store: &app.store,
        profiles: &app.config.profiles,
        quotas: &app.config.quotas,
        may_take_p0: require_priority(&who, JobPriority::P0).is_ok(),
    };
    let job_id = match try_job_again(context, &job).await.map_err(explain_encode_failure)? {
        TryOutcome::Begun(job_id) => job_id,
        TryOutcome::Nothing(why) => return Err(Problem::new(ProblemCode::JobGoesOn).with_detail(why)),
        TryOutcome::NotRepeatable(instead) => return Err(not_repeatable(instead)),
        TryOutcome::NothingStored(why) => {
            return Err(Problem::new(ProblemCode::NothingStored).with_detail(why));
        }
    };
    tracing::info!(job.id = %job_id, retry_of = %job.job_id, by = who.owner, "tried again");
    let document = JobRetriedDocument { job_id, media_id: job.media_id, retry_of: job.job_id };
    answer_with_begun_job(&address, job_id, document)
}

/// That a job of its kind is not tried again, and what to do instead.
pub(crate) fn not_repeatable(instead: &'static str) -> Problem {
    Problem::new(ProblemCode::JobNotRepeatable).with_detail(instead)
}

/// That a job was begun, and where it can be read once a worker has planned it.
pub(crate) fn answer_with_begun_job(
    address: &PublicAddress,
    job_id: JobId,
    document: impl Serialize,
) -> Result<Response, Problem> {
    let location = address.location(&format!("/v1/jobs/{job_id}"))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(document)).into_response())
}

/// The job, if `who` may change it.
pub(super) async fn load_changeable_job(
    app: &AppState,
    id: &str,
    who: &Principal,
) -> Result<JobRecord, Problem> {
    let job_id: JobId = id.parse().map_err(|_| no_such_job())?;
    let job = app.bus.load_record::<JobRecord>(&job_id.to_string()).await?.ok_or_else(no_such_job)?.record;
    if !who.may_see(&job.owner) {
        return Err(no_such_job());
    }
    if !who.may_change(&job.owner) {
        return Err(Problem::new(ProblemCode::NotOwner));
    }
    Ok(job)
}

/// The job as it was changed, or left; a problem when it had ended.
pub(super) async fn answer_with_job(
    app: &AppState,
    who: &Principal,
    held: Option<VersionedRecord<JobRecord>>,
) -> Result<Response, Problem> {
    let held = held.ok_or_else(no_such_job)?;
    if held.record.status != JobStatus::Active {
        return Err(job_ended(held.record.status));
    }
    Ok(load_job_document(app, &held, who).await?.to_response(&HeaderMap::new()))
}

/// That a job ended before, and how.
fn job_ended(status: JobStatus) -> Problem {
    let detail = match status {
        JobStatus::Failed => "it failed",
        JobStatus::Cancelled => "it was cancelled",
        JobStatus::Active | JobStatus::Succeeded => "it succeeded",
    };
    Problem::new(ProblemCode::JobEnded).with_detail(detail).with_member("job_status", json!(status))
}

/// Why no new encode of a medium can begin.
pub(crate) fn explain_encode_failure(error: NextEncodeError) -> Problem {
    match error {
        NextEncodeError::Bus(error) => error.into(),
        NextEncodeError::Store(error) => Problem::unavailable(&error),
        NextEncodeError::UnknownMedium(_) => Problem::not_found("its medium is not there any more"),
        NextEncodeError::SourceGone(_) => Problem::new(ProblemCode::SourceGone),
        NextEncodeError::Quota(problem) => *problem,
        NextEncodeError::NoRoom(limit) => limit.to_problem(),
        NextEncodeError::RenditionGone(_) => {
            Problem::new(ProblemCode::RenditionsInvalid).with_detail(error.to_string())
        }
        NextEncodeError::TooManyEncodes(_) => Problem::new(ProblemCode::EncodesTooMany),
        NextEncodeError::TooManySuperseded(_) => Problem::new(ProblemCode::EncodesInUse),
    }
}
