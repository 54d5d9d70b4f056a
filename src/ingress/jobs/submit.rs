//! Asking for jobs: now, or at a time, one or many.
//!
//! Limits: one request asks for at most [`BULK_JOBS_MAX`] jobs.

use axum::{
    Extension, Json,
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, ScheduleId},
    job::{self, JobRecord},
    schedule::JobRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    explain_encode_failure,
    export_order::read_order,
    require_priority,
    tasks::{TaskBeginning, TaskOrigin, TaskRequest, begin_task},
    thumbnail_order::check_order,
};
use crate::{AppState, capacity, media, quotas, schedules, transcode::begin_transcode};
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::IdempotencyClaim,
    limit::{RateLimitGroup, RateLimitPermit},
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// Most jobs that one request asks for.
pub(crate) const BULK_JOBS_MAX: usize = 100;

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

/// Jobs that are asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobBulkSubmission", example = json!({
    "jobs": [{ "job": { "kind": "transcode", "media_id": "06db00820dt0303jc5mn0r355k" }, "run_at_ms": 1_795_000_000_000_u64 }],
}))]
pub(super) struct JobBulkSubmission {
    /// Each on its own: one that is refused keeps no other from being begun.
    #[schemars(length(min = 1, max = BULK_JOBS_MAX))]
    jobs: Vec<JobSubmission>,
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

impl JobSubmittedDocument {
    /// A job that has begun.
    pub(super) const fn of_job(job_id: JobId) -> Self {
        Self { job_id: Some(job_id), schedule_id: None }
    }
}

/// What became of each job that was asked for, in the same order.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobBulkSubmitted", example = json!({
    "items": [{ "job_id": "06db008a0lt0303jc5mn0r356g", "schedule_id": null, "problem": null }], "refused_count": 0,
}))]
pub(super) struct JobBulkSubmittedDocument {
    /// The jobs.
    items: Vec<JobBulkItem>,
    /// How many of them have a problem.
    refused_count: usize,
}

/// What became of one of them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobBulkItem")]
struct JobBulkItem {
    /// The job, or the schedule that begins it; both null where there is a problem.
    #[serde(flatten)]
    submitted: JobSubmittedDocument,
    /// Why there is none, as it would have been answered alone; null where there is one.
    #[schemars(schema_with = "optional_problem")]
    problem: Option<Value>,
}

fn optional_problem(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "anyOf": [{ "$ref": "#/components/schemas/Problem" }, { "type": "null" }] })
}

pub(super) static SUBMIT_JOB: Operation = Operation::change(
    Method::POST,
    "/v1/jobs",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.cancelled", "job.queued", "media.reopened", "schedule.created"],
)
.with_room(capacity::JOB);

/// Ask for a job
///
/// Of the kind `transcode`, it is what `POST /v1/media/{media_id}/transcode` begins, and counts as one, too. Of the kind `verify`, it
/// reads all that is stored of the medium and compares it with what was written down then; a medium of which something is lost or
/// damaged fails the job with the code `media_damaged`, and `verified` names what. Of one that is being verified it is that job. Of the kind
/// `thumbnails`, it makes pictures of what plays at up to 32 times, which `GET /v1/media/{media_id}/thumbnail` answers then. Of the kind
/// `export`, it sends the file that was uploaded, or what plays as one MP4 file, by PUT to an address such as one that a store has signed, and
/// `exported` says its SHA-256; each try sends all of it, and no schedule keeps its address. An API key needs the scope `streaming` for it,
/// too. With `run_at_ms` it begins
/// at that time, by a schedule that fires once, and can be changed or removed until then.
#[utoipa::path(
    post,
    path = SUBMIT_JOB.path,
    tag = "worker",
    operation_id = "submit_job",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/JobSubmission"), content_type = "application/json"),
    responses(
        (status = 202, description = "The job, or the schedule", body = ref("#/components/schemas/JobSubmitted"), headers(("Location"))),
        (status = 403, description = "The API key has no scope for a job of this kind: `code` is `scope_missing`"),
        (status = 404, description = "There is no such medium, or it is not yours"),
        (status = 409, description = "The medium can't be encoded now, or nothing is kept of it, or there are too many schedules: `code` says which"),
        (status = 410, description = "The medium was removed, and can be restored for a time"),
        (status = 422, description = "There is no such kind or profile, the time has passed, or nothing is sent to this address: `code` says which"),
    ),
)]
pub(super) async fn submit_job(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    permit: RateLimitPermit,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<JobSubmission>,
) -> Result<Response, Problem> {
    let id = claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0));
    let document =
        submit(&app, &who, || permit.charge_group(RateLimitGroup::Transcoder), wanted, (id, "", 0)).await?;
    let place = match (&document.job_id, &document.schedule_id) {
        (Some(job_id), _) => format!("jobs/{job_id}"),
        (None, schedule_id) => {
            format!("schedules/{}", schedule_id.map(|id| id.to_string()).unwrap_or_default())
        }
    };
    let location = address.location(&format!("/v1/{place}"))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(document)).into_response())
}

pub(super) static SUBMIT_JOBS: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/bulk",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.cancelled", "job.queued", "media.reopened", "schedule.created"],
)
.with_room(capacity::JOB);

/// Ask for many jobs
///
/// At most 100, each as `POST /v1/jobs` takes it: what is refused says why, and keeps no other from being begun. Each job that
/// begins now counts as one; of those behind the last that may, the problem is `rate_limited`.
#[utoipa::path(
    post,
    path = SUBMIT_JOBS.path,
    tag = "worker",
    operation_id = "submit_jobs",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/JobBulkSubmission"), content_type = "application/json"),
    responses((
        status = 200, description = "What became of each, in the same order", body = ref("#/components/schemas/JobBulkSubmitted"),
    )),
)]
pub(super) async fn submit_jobs(
    State(app): State<AppState>,
    who: Principal,
    permit: RateLimitPermit,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<JobBulkSubmission>,
) -> Result<Json<JobBulkSubmittedDocument>, Problem> {
    if !(1..=BULK_JOBS_MAX).contains(&wanted.jobs.len()) {
        let detail = format!("1 to {BULK_JOBS_MAX} jobs");
        return Err(Problem::new(ProblemCode::RequestInvalid).with_pointer("/jobs", detail));
    }
    let mut items = Vec::with_capacity(wanted.jobs.len());
    for (number, wanted) in (0_u8..).zip(wanted.jobs) {
        let id = claim.as_ref().map_or_else(nats::new_id_bytes, |claim| claim.derive_id(number));
        let place = format!("/jobs/{number}");
        let charge = || permit.charge_item(RateLimitGroup::Transcoder);
        let begun_count = items.iter().filter(|item: &&JobBulkItem| item.submitted.job_id.is_some()).count();
        let begun_count = u64::try_from(begun_count).unwrap_or(u64::MAX);
        let (submitted, problem) = match submit(&app, &who, charge, wanted, (id, &place, begun_count)).await {
            Ok(submitted) => (submitted, None),
            Err(problem) => {
                let nothing = JobSubmittedDocument { job_id: None, schedule_id: None };
                (nothing, Some(problem.to_document()))
            }
        };
        items.push(JobBulkItem { submitted, problem });
    }
    let refused_count = items.iter().filter(|item| item.problem.is_some()).count();
    Ok(Json(JobBulkSubmittedDocument { items, refused_count }))
}

/// Begins a job, or makes the schedule that does, by the id `id`; `place` is where it stands in the request, and `begun_count` how many
/// began with the same one. Whichever way it is asked
/// for, what workers have to do counts as one.
async fn submit(
    app: &AppState,
    who: &Principal,
    charge_work: impl FnOnce() -> Result<(), Problem> + Send,
    wanted: JobSubmission,
    (id, place, begun_count): ([u8; 16], &str, u64),
) -> Result<JobSubmittedDocument, Problem> {
    match (wanted.job, wanted.run_at_ms) {
        (job, Some(at_ms)) => {
            let schedule_id = ScheduleId::from_bytes(id);
            let made = schedules::make_single_run(app, who, schedule_id, (job, at_ms), place).await?;
            Ok(JobSubmittedDocument { job_id: None, schedule_id: Some(made.schedule_id) })
        }
        (JobRequest::Transcode(wanted), None) => {
            charge_work()?;
            let begun = {
                let pointers = ["profile", "range"].map(|member| format!("{place}/job/{member}"));
                begin_transcode(app, wanted, who, (pointers.each_ref().map(String::as_str), begun_count))
                    .await?
            };
            Ok(JobSubmittedDocument::of_job(begun.job_id))
        }
        (JobRequest::Verify(wanted), None) => {
            charge_work()?;
            let (media_id, priority) = (wanted.media_id, wanted.priority);
            let request = TaskRequest::new(job::VERIFY, media_id, priority);
            let job = begin_owned_task(app, JobId::from_bytes(id), request, (who, begun_count)).await?;
            Ok(JobSubmittedDocument::of_job(job.job_id))
        }
        (JobRequest::Thumbnails(wanted), None) => {
            check_order(&wanted.order(), |member| format!("{place}/job/{member}"))?;
            charge_work()?;
            let thumbnails = Some(wanted.order());
            let request = TaskRequest::new(job::THUMBNAILS, wanted.media_id, wanted.priority);
            let request = TaskRequest { thumbnails, ..request };
            let job = begin_owned_task(app, JobId::from_bytes(id), request, (who, begun_count)).await?;
            Ok(JobSubmittedDocument::of_job(job.job_id))
        }
        (JobRequest::Export(wanted), None) => {
            // The receiver gets the bytes of the medium, as a player does.
            if !who.has_scope(ApiKeyScope::Streaming) {
                let detail = "a job of the kind `export` needs the scope `streaming`";
                return Err(Problem::new(ProblemCode::ScopeMissing).with_detail(detail));
            }
            let order = read_order(app, (&wanted, &who.owner), |member| format!("{place}/job/{member}"))?;
            charge_work()?;
            let request = TaskRequest::new(job::EXPORT, wanted.media_id, wanted.priority);
            let request = TaskRequest { export: Some(order), ..request };
            let job = begin_owned_task(app, JobId::from_bytes(id), request, (who, begun_count)).await?;
            Ok(JobSubmittedDocument::of_job(job.job_id))
        }
        (JobRequest::Unknown, None) => Err(schedules::unknown_kind(&format!("{place}/job/kind"))),
    }
}

/// Begins a job that makes no encode, as `who` asks for it.
async fn begin_owned_task(
    app: &AppState,
    job_id: JobId,
    request: TaskRequest,
    (who, begun_count): (&Principal, u64),
) -> Result<Box<JobRecord>, Problem> {
    let medium = media::load_owned(&app.bus, request.media_id, who).await?;
    let work = (None, begun_count);
    quotas::require_work_room(&app.bus, &app.config.quotas, medium.owner(), work).await?;
    require_priority(who, request.priority)?;
    let begun = begin_task(&app.bus, job_id, request, TaskOrigin::PERSON).await;
    match begun.map_err(explain_encode_failure)? {
        TaskBeginning::Begun(job) => {
            tracing::info!(job.id = %job_id, media.id = %job.media_id, kind = job.kind, by = who.owner, "begun");
            Ok(job)
        }
        TaskBeginning::Found(job) => Ok(job),
        TaskBeginning::Refused(why) => Err(Problem::new(ProblemCode::NothingStored).with_detail(why)),
    }
}
