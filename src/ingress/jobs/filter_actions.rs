//! One action on all jobs of a filter. Asking for it begins a job, which does it and says what came of it.

use axum::{Extension, extract::State, http::Method, response::Response};
use nats::{BusError, Outbox, VersionedRecord};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    ids::{JobId, MediaId},
    job::{self, EncodePlan, JobKind, JobQueued, JobRecord, JobStatus},
    job_action::{CODE_CHARS_MAX, JobAction, JobActionOrder, JobFilter},
    pause::NAME_CHARS_MAX,
    subjects::{self, JobPriority},
};
use serde::Deserialize;
use serde_json::json;

use super::{answer_with_begun_job, require_priority, submit::JobSubmittedDocument};
use crate::{AppState, capacity, quotas};
use auth::{Principal, account::correct_owner_name};
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::IdempotencyClaim,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// An action that is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobActionRequest", example = json!({
    "action": { "type": "retry" }, "filter": { "code": "store_unavailable", "created_from_ms": 1_795_000_000_000_u64 }, "dry_run": true,
}))]
pub(super) struct JobActionRequest {
    /// What is done with each job.
    action: JobAction,
    /// With which: those of which all that is named is true. Something has to be named; `{"status": "active"}` is every job that goes on.
    filter: JobFilter,
    /// Nothing is changed: the report says what would be, as far as the jobs' own records say. Whether another try can begin, only the
    /// try finds out.
    #[serde(default)]
    dry_run: bool,
}

pub(super) static ACT_ON_JOBS: Operation = Operation::change(
    Method::POST,
    "/v1/jobs/actions",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["job.queued"],
)
.with_room(capacity::JOB);

/// Do one thing with all jobs of a filter
///
/// Begins a job of the kind `job_action`, whose `acted` says in the end with how many jobs it was done, how many were so before, and which
/// could not be done and why. It concerns the jobs that were there when it was asked for: an owner's its own, an admin's everybody's.
/// Each is judged by its record at that moment, as by a request about it alone; an action that is cancelled stops where it is. It is one of
/// the jobs of which who asks may have so many that have not ended (`ingress.quotas`); one that cancels begins all the same.
#[utoipa::path(
    post,
    path = ACT_ON_JOBS.path,
    tag = "worker",
    operation_id = "act_on_jobs",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/JobActionRequest"), content_type = "application/json"),
    responses((
        status = 202, description = "The job that does it", body = ref("#/components/schemas/JobSubmitted"), headers(("Location")),
    )),
)]
pub(super) async fn act_on_jobs(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<JobActionRequest>,
) -> Result<Response, Problem> {
    check_request(&who, &wanted)?;
    // What makes room is never kept out for want of it.
    if wanted.action != (JobAction::Cancel {}) {
        let quota = app.config.quotas.quota_of(&who.owner);
        quotas::require_job_room(&app.bus, quota, &who.owner, 0).await?;
    }
    let job_id = JobId::from_bytes(claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0)));
    let order = JobActionOrder {
        action: wanted.action,
        filter: wanted.filter,
        is_dry_run: wanted.dry_run,
        asked_by: who.owner.clone(),
        only_owner: who.list_owner_filter(),
    };
    // The broker's clock, as everywhere in the record.
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let about = (MediaId::NONE, who.owner.as_str());
    let plan = (EncodePlan::default(), JobPriority::default());
    let job = JobRecord {
        action: Some(order),
        ..JobRecord::new_task(job_id, job::JOB_ACTION, about, plan, now_ms)
    };
    let queued = JobQueued {
        job_id,
        media_id: job.media_id,
        owner: job.owner.clone(),
        kind: job.kind.clone(),
        part_count: 1,
        total_ms: 0,
    };
    match app.bus.commit_record(&mut VersionedRecord::new(job), Outbox::new().with_event(&queued)).await {
        // Also a repetition of a request whose answer was lost.
        Ok(()) | Err(BusError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    tracing::info!(job.id = %job_id, by = who.owner, "an action on jobs was begun");
    answer_with_begun_job(&address, job_id, JobSubmittedDocument::of_job(job_id))
}

fn check_request(who: &Principal, wanted: &JobActionRequest) -> Result<(), Problem> {
    let JobActionRequest { action, filter, .. } = wanted;
    if let JobAction::Prioritize { priority } = action {
        require_priority(who, *priority)?;
    }
    if filter.owner.as_ref().is_some_and(|owner| !who.may_change(owner)) {
        return Err(Problem::new(ProblemCode::NotOwner).with_pointer("/filter/owner", "not your jobs"));
    }
    let invalid = |pointer: &str, detail: String| {
        Err(Problem::new(ProblemCode::RequestInvalid).with_pointer(pointer, detail))
    };
    if *filter == JobFilter::default() {
        let all = "name something; `{\"status\": \"active\"}` is every job that goes on";
        return invalid("/filter", all.into());
    }
    let status = filter.status.unwrap_or(action.usual_status());
    if let Some((name, detail)) = find_filter_fault(filter, Some(status)) {
        return invalid(&format!("/filter/{name}"), detail);
    }
    if filter.status.is_some_and(|status| !action.takes(status)) {
        return invalid("/filter/status", "this can't be done with jobs that stand there".into());
    }
    if filter.created_from_ms.zip(filter.created_until_ms).is_some_and(|(from, until)| from >= until) {
        return invalid("/filter/created_until_ms", "later than `created_from_ms`".into());
    }
    Ok(())
}

/// The member of a filter that can be true of no job, and why; `status` is where the jobs stand, where that is known.
pub(super) fn find_filter_fault(
    filter: &JobFilter,
    status: Option<JobStatus>,
) -> Option<(&'static str, String)> {
    if let Some(owner) = filter.owner.as_deref().and_then(correct_owner_name) {
        return Some(("owner", format!("a wallet's account is written {owner}")));
    }
    if filter.code.is_some() && status.is_some_and(|status| status != JobStatus::Failed) {
        return Some(("code", "only jobs that failed have a code".into()));
    }
    if filter.kind.as_ref().is_some_and(|kind| JobKind::parse(kind).is_none()) {
        return Some(("kind", format!("one of {}", JobKind::ALL.map(JobKind::name).join(", "))));
    }
    let texts = [("owner", &filter.owner, NAME_CHARS_MAX), ("code", &filter.code, CODE_CHARS_MAX)];
    let is_wrong = |text: &String, chars_max: usize| !(1..=chars_max).contains(&text.chars().count());
    texts.into_iter().find_map(|(name, text, chars_max)| {
        let wrong = text.as_ref().filter(|text| is_wrong(text, chars_max));
        wrong.map(|_| (name, format!("1 to {chars_max} characters")))
    })
}
