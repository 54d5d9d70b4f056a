//! Schedules: jobs that begin at set times. The keeper fires them; here they are made, read, changed and removed.
//!
//! Limits: an account has at most [`SCHEDULES_MAX`] schedules that have not ended, and [`OWNER_RECORDS_MAX`] with those that ended or
//! were removed (requests at the same moment may go a few over it).

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use nats::{Bus, BusError, Outbox, VersionedRecord};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    ids::ScheduleId,
    schedule::{
        JobRequest, MissedRunPolicy, NAME_CHARS_MAX, SCHEDULES_MAX, ScheduleCreated, ScheduleRecord,
        ScheduleTiming, TranscodeJobRequest, schedule_key,
    },
    subjects,
};
use serde::Deserialize;

use super::{
    AppState, capacity,
    jobs::{require_priority, thumbnail_order::check_order},
    media, openapi, transcode,
};
use auth::Principal;
use document::ScheduleDocument;
use schedule::{Timing, TimingError};
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::IdempotencyClaim,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

mod change;
pub use change::{describe_change, remove_record};
mod document;
pub mod firing;
mod list;
#[cfg(test)]
mod tests;

/// Most records of schedules of one account: those that fire, those that ended and are still kept, and tombstones.
pub const OWNER_RECORDS_MAX: usize = 1_000;

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&CREATE_SCHEDULE, create_schedule)
        .with(&list::LIST_SCHEDULES, list::list_schedules)
        .with(&READ_SCHEDULE, read_schedule)
        .with(&change::CHANGE_SCHEDULE, change::change_schedule)
        .with(&change::REMOVE_SCHEDULE, change::remove_schedule)
        .with(&change::PAUSE_SCHEDULE, change::pause_schedule)
        .with(&change::RESUME_SCHEDULE, change::resume_schedule)
        .with(&change::RUN_SCHEDULE_NOW, change::run_schedule_now)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    create_schedule,
    list::list_schedules,
    read_schedule,
    change::change_schedule,
    change::remove_schedule,
    change::pause_schedule,
    change::resume_schedule,
    change::run_schedule_now
))]
pub(super) struct SchedulesApiDoc;

impl openapi::OperationGroup for SchedulesApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<ScheduleRequest>();
        schemas.add_request::<change::ScheduleChangeRequest>();
        schemas.add_response::<ScheduleDocument>();
        schemas.add_response::<list::ScheduleList>();
    }
}

/// A schedule that is to be made.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ScheduleRequest", example = document::example_request())]
struct ScheduleRequest {
    /// What people call it.
    #[serde(default)]
    #[schemars(length(max = NAME_CHARS_MAX))]
    name: String,
    /// When it fires.
    timing: ScheduleTiming,
    /// What becomes of times that pass while no keeper runs; `once` when absent.
    #[serde(default)]
    missed: MissedRunPolicy,
    /// What is done then.
    job: JobRequest,
}

static CREATE_SCHEDULE: Operation = Operation::change(
    Method::POST,
    "/v1/schedules",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["schedule.created"],
)
.with_room(capacity::SCHEDULE);

/// Make a schedule
///
/// It belongs to the owner of the medium. Times of a cron expression are those on the wall of its time zone: a time that a spring night
/// leaves out comes right behind the gap, one that an autumn night has twice comes the first time only; with `*` or a step in minute or
/// hour, what a gap leaves out does not come, and what comes twice comes twice. A time is missed when it could not fire within a minute.
#[utoipa::path(
    post,
    path = CREATE_SCHEDULE.path,
    tag = "worker",
    operation_id = "create_schedule",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/ScheduleRequest"), content_type = "application/json"),
    responses(
        (status = 201, description = "The schedule", body = ref("#/components/schemas/ScheduleDocument"), headers(("Location"))),
        (status = 404, description = "There is no such medium, or it is not yours"),
        (status = 409, description = "There are too many schedules already"),
        (status = 410, description = "The medium was removed, and can be restored for a time"),
        (status = 422, description = "It can't fire like that, or there is no such profile: `code` says which"),
    ),
)]
async fn create_schedule(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<ScheduleRequest>,
) -> Result<Response, Problem> {
    let id = claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0));
    let record =
        make_schedule(&app, &who, ScheduleId::from_bytes(id), wanted, &RequestPlace::Schedule).await?;
    let location = address.location(&format!("/v1/schedules/{}", record.schedule_id))?;
    let document = ScheduleDocument::new(record);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(document)).into_response())
}

/// Where a job and its time stand in a request, for JSON Pointers to what is wrong with them.
enum RequestPlace<'a> {
    /// In a schedule, or a change of one.
    Schedule,
    /// In what `POST /v1/jobs` takes, which stands there in the request.
    Submission(&'a str),
}

impl RequestPlace<'_> {
    fn job_pointer(&self, member: &str) -> String {
        match self {
            Self::Schedule => format!("/job/{member}"),
            Self::Submission(place) => format!("{place}/job/{member}"),
        }
    }

    fn timing_pointer(&self, member: &str) -> String {
        match self {
            Self::Schedule => format!("/timing/{member}"),
            Self::Submission(place) => format!("{place}/run_at_ms"),
        }
    }
}

/// A schedule that fires once, for a job that stands at `place` of a request.
pub(crate) async fn make_single_run(
    app: &AppState,
    who: &Principal,
    schedule_id: ScheduleId,
    (job, at_ms): (JobRequest, u64),
    place: &str,
) -> Result<ScheduleRecord, Problem> {
    let timing = ScheduleTiming::Once { at_ms };
    let wanted = ScheduleRequest { name: String::new(), timing, missed: MissedRunPolicy::Once, job };
    make_schedule(app, who, schedule_id, wanted, &RequestPlace::Submission(place)).await
}

/// Makes a schedule, or finds that an earlier request has made the one of that id.
async fn make_schedule(
    app: &AppState,
    who: &Principal,
    schedule_id: ScheduleId,
    wanted: ScheduleRequest,
    place: &RequestPlace<'_>,
) -> Result<ScheduleRecord, Problem> {
    let owner = find_job_owner(app, who, &wanted.job, place).await?;
    check_name(&wanted.name)?;
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?;
    let owner_key = owner_key(&owner);
    let key = schedule_key(&owner_key, &schedule_id.to_string());
    if let Some(made) = app.bus.load_record::<ScheduleRecord>(&key).await? {
        return Ok(made.record);
    }
    let (_, next_run_at_ms) = read_timing_request(&wanted.timing, now_ms, place)?;
    check_count(&app.bus, &owner_key).await?;
    let record = ScheduleRecord {
        schedule_id,
        owner,
        owner_key,
        created_by: who.owner.clone(),
        name: wanted.name,
        timing: wanted.timing,
        missed: wanted.missed,
        job: wanted.job,
        created_at_ms: now_ms,
        next_run_at_ms: Some(next_run_at_ms),
        paused_at_ms: None,
        runs: Vec::new(),
        kept_until_ms: None,
        removed_at_ms: None,
    };
    let created = ScheduleCreated {
        schedule_id,
        owner: record.owner.clone(),
        timing: record.timing.clone(),
        job: record.job.clone(),
        next_run_at_ms: record.next_run_at_ms,
        created_by: who.owner.clone(),
    };
    let mut held = VersionedRecord::new(record);
    app.bus.commit_record(&mut held, Outbox::new().with_event(&created)).await?;
    tracing::info!(schedule.id = %schedule_id, by = who.owner, next_run_at_ms, "scheduled");
    Ok(held.record)
}

/// Refuses one more schedule that fires where the owner has as many as it may.
async fn check_count(bus: &Bus, owner_key: &str) -> Result<(), Problem> {
    let list = list::read_schedules(bus, &schedule_key(owner_key, "*")).await?;
    if list.active.len() >= SCHEDULES_MAX || list.record_count >= OWNER_RECORDS_MAX {
        return Err(Problem::new(ProblemCode::SchedulesTooMany));
    }
    Ok(())
}

/// Whose job it will be, if `who` may have it done.
async fn find_job_owner(
    app: &AppState,
    who: &Principal,
    job: &JobRequest,
    place: &RequestPlace<'_>,
) -> Result<String, Problem> {
    if matches!(job, JobRequest::Export(_)) {
        let detail = "its address is kept until its job ends, and by nothing else";
        return Err(
            Problem::new(ProblemCode::ExportScheduled).with_pointer(&place.job_pointer("kind"), detail)
        );
    }
    let (Some(media_id), Some(priority)) = (job.media_id(), job.priority()) else {
        return Err(unknown_kind(&place.job_pointer("kind")));
    };
    let medium = media::load_owned(&app.bus, media_id, who).await?;
    require_priority(who, priority)?;
    if let JobRequest::Transcode(wanted) = job
        && let Some(profile) = &wanted.profile
    {
        transcode::find_profile(app, Some(profile.clone()), &place.job_pointer("profile"))?;
    }
    match job {
        JobRequest::Transcode(TranscodeJobRequest { range: Some(range), .. }) => {
            transcode::check_medium_range(*range, &medium, &place.job_pointer("range"))?;
        }
        JobRequest::Thumbnails(wanted) => check_order(&wanted.order(), |member| place.job_pointer(member))?,
        _ => {}
    }
    Ok(medium.owner().to_owned())
}

/// That there are no jobs of the kind that stands at `pointer` of the request.
pub(crate) fn unknown_kind(pointer: &str) -> Problem {
    Problem::new(ProblemCode::JobKindUnknown)
        .with_pointer(pointer, "there are transcode, verify, thumbnails and export")
}

/// A timing that is set at `now_ms`, and its first time.
fn read_timing_request(
    wanted: &ScheduleTiming,
    now_ms: u64,
    place: &RequestPlace<'_>,
) -> Result<(Timing, u64), Problem> {
    let read = || {
        let timing = Timing::parse(wanted, now_ms)?;
        let first_at_ms = timing.find_first(now_ms)?;
        Ok((timing, first_at_ms))
    };
    read().map_err(|error: TimingError| {
        let pointer = place.timing_pointer(error.member(wanted));
        Problem::new(ProblemCode::TimingInvalid).with_pointer(&pointer, error.to_string())
    })
}

fn check_name(name: &str) -> Result<(), Problem> {
    if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let detail = format!("at most {NAME_CHARS_MAX} characters, all of them to be shown");
        return Err(Problem::new(ProblemCode::ScheduleNameInvalid).with_pointer("/name", detail));
    }
    Ok(())
}

/// The first half of the key of an owner's schedules.
pub fn owner_key(owner: &str) -> String {
    let mut digest = auth::hash_owner(owner);
    digest.truncate(32);
    digest
}

/// True once there is nothing left for it to do.
fn has_ended(record: &ScheduleRecord) -> bool {
    record.next_run_at_ms.is_none() && record.starting_run().is_none()
}

static READ_SCHEDULE: Operation = Operation::read(
    "/v1/schedules/{schedule_id}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// Read one schedule, with its newest runs and its next times
#[utoipa::path(
    get,
    path = READ_SCHEDULE.path,
    tag = "worker",
    operation_id = "read_schedule",
    params(("schedule_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The schedule", body = ref("#/components/schemas/ScheduleDocument"), headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_schedule(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let held = load_visible(&app.bus, &id, &who).await?;
    Ok(document::render(held.record)?.to_response(&headers))
}

fn no_such_schedule() -> Problem {
    Problem::not_found("there is no such schedule, or it is not yours")
}

/// The schedule, if `who` may see it.
async fn load_visible(
    bus: &Bus,
    id: &str,
    who: &Principal,
) -> Result<VersionedRecord<ScheduleRecord>, Problem> {
    let schedule_id: ScheduleId = id.parse().map_err(|_| no_such_schedule())?;
    // An operator asks for those of all owners.
    let owner = who.list_owner_filter().map(|owner| owner_key(&owner));
    let key = schedule_key(owner.as_deref().unwrap_or("*"), &schedule_id.to_string());
    let held = bus.load_record::<ScheduleRecord>(&key).await.map_err(|error| match error {
        BusError::Undecodable { .. } => Problem::new(ProblemCode::ScheduleNewer),
        other => other.into(),
    })?;
    let held = held.ok_or_else(no_such_schedule)?;
    if who.may_see(&held.record.owner) { Ok(held) } else { Err(no_such_schedule()) }
}

/// The schedule, if `who` may have it fire at other times, and this version understands it: what an operator put before the jobs of
/// everybody is for operators.
async fn load_steerable(
    bus: &Bus,
    id: &str,
    who: &Principal,
) -> Result<VersionedRecord<ScheduleRecord>, Problem> {
    let held = load_changeable(bus, id, who).await?;
    if held.record.is_of_newer_version() {
        return Err(Problem::new(ProblemCode::ScheduleNewer));
    }
    if let Some(priority) = held.record.job.priority() {
        require_priority(who, priority)?;
    }
    Ok(held)
}

/// The schedule, if `who` may change it.
async fn load_changeable(
    bus: &Bus,
    id: &str,
    who: &Principal,
) -> Result<VersionedRecord<ScheduleRecord>, Problem> {
    let held = load_visible(bus, id, who).await?;
    if who.may_change(&held.record.owner) { Ok(held) } else { Err(Problem::new(ProblemCode::NotOwner)) }
}
