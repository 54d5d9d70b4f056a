//! Jobs: one by id with its parts from KV, lists from the index; cancelled and tried again by their owners.
//!
//! Limits: the parts of a job, at most [`schemas::job::PARTS_MAX`], are read [`READS_MAX`] at a time.

use std::collections::{BTreeMap, HashMap};

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nats::{Bus, VersionedRecord};
use packaging::plan;
use schemars::JsonSchema;
use schemas::{
    KvRecord,
    access::ApiKeyScope,
    export::{ExportFile, ExportReport},
    ids::{JobId, MediaId, UploadId},
    index_query::{self, JobCounts, JobCountsQuery, JobIndexItem},
    job::{self, EncodePlan, JobPartRecord, JobPartStatus, JobPartSummary, VerifyReport},
    job_action::{JobActionOrder, JobActionReport},
    media::MediaWaitReason,
    schedule::ScheduledRun,
    subjects::{self, JobPriority},
    thumbnails::ThumbnailOrder,
    upload::UploadRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AppState, cache, index_client, openapi};
use auth::Principal;
use web::{
    error::Problem,
    json_document,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    page::ListPage,
    query::QueryParameters,
};

pub mod act_on_job;
mod actions;
pub(crate) use actions::{answer_with_begun_job, explain_encode_failure, not_repeatable};
pub(crate) use priority_right::require_priority;
pub(crate) use why::{ANSWER_MAX, ask_queue, has_dispatcher};
pub mod cancellation;
mod export_order;
pub(crate) mod fetch;
mod filter_actions;
mod list;
mod pausing;
mod priority;
mod priority_right;
mod queue_pauses;
pub mod retry;
pub(crate) mod submit;
pub mod tasks;
pub(crate) mod thumbnail_order;
mod try_again;
mod why;

/// Part records that one request reads at the same time.
pub const READS_MAX: usize = 16;

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&list::LIST_JOBS, list::list_jobs)
        .with(&submit::SUBMIT_JOB, submit::submit_job)
        .with(&submit::SUBMIT_JOBS, submit::submit_jobs)
        .with(&filter_actions::ACT_ON_JOBS, filter_actions::act_on_jobs)
        .with(&COUNT_JOBS, count_jobs)
        .with(&queue_pauses::LIST_QUEUE_PAUSES, queue_pauses::list_queue_pauses)
        .with(&queue_pauses::PAUSE_QUEUE, queue_pauses::pause_queue)
        .with(&queue_pauses::RESUME_QUEUE, queue_pauses::resume_queue)
        .with(&READ_JOB, read_job)
        .with(&actions::CANCEL_JOB, actions::cancel_job)
        .with(&actions::RETRY_JOB, actions::retry_job)
        .with(&pausing::PAUSE_JOB, pausing::pause_job)
        .with(&pausing::RESUME_JOB, pausing::resume_job)
        .with(&priority::CHANGE_JOB, priority::change_job)
        .with(&why::EXPLAIN_JOB, why::explain_job)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list::list_jobs,
    count_jobs,
    filter_actions::act_on_jobs,
    queue_pauses::list_queue_pauses,
    queue_pauses::pause_queue,
    queue_pauses::resume_queue,
    submit::submit_job,
    submit::submit_jobs,
    read_job,
    actions::cancel_job,
    actions::retry_job,
    pausing::pause_job,
    pausing::resume_job,
    priority::change_job,
    why::explain_job
))]
pub(super) struct JobsApiDoc;

impl openapi::OperationGroup for JobsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<ListPage<JobIndexItem>>();
        schemas.add_request::<priority::JobChangeRequest>();
        schemas.add_request::<submit::JobSubmission>();
        schemas.add_request::<submit::JobBulkSubmission>();
        schemas.add_response::<submit::JobSubmittedDocument>();
        schemas.add_response::<submit::JobBulkSubmittedDocument>();
        schemas.add_response::<JobCounts>();
        schemas.add_response::<JobDocument<'_>>();
        schemas.add_response::<actions::JobRetriedDocument>();
        schemas.add_response::<why::JobWhyDocument>();
        schemas.add_response::<queue_pauses::QueuePauseList>();
        schemas.add_response::<queue_pauses::QueuePauseDocument>();
        schemas.add_request::<queue_pauses::QueuePauseRequest>();
        schemas.add_request::<filter_actions::JobActionRequest>();
    }
}

/// Whose jobs to count.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CountWanted")]
struct JobCountParameters {
    /// Answer only once the index has seen this revision, which an earlier answer told.
    min_revision: Option<u64>,
}

openapi::query_parameters!(JobCountParameters);

static COUNT_JOBS: Operation = Operation::read(
    "/v1/jobs/counts",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// Count jobs by where they stand
///
/// An owner's are its own; operators and admins see everybody's.
#[utoipa::path(
    get,
    path = COUNT_JOBS.path,
    tag = "worker",
    operation_id = "count_jobs",
    params(JobCountParameters),
    responses(
        (status = 200, description = "The counts", body = ref("#/components/schemas/JobCounts")),
        (status = 409, description = "There is no such revision yet"),
    ),
)]
async fn count_jobs(
    State(app): State<AppState>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<JobCountParameters>,
) -> Result<Json<JobCounts>, Problem> {
    let question = JobCountsQuery { owner: who.list_owner_filter(), min_revision: wanted.min_revision };
    Ok(Json(index_client::query_index(&app.bus, index_query::JOB_COUNTS, &question).await?))
}

pub(super) fn no_such_job() -> Problem {
    Problem::not_found("there is no such job, or it is not yours")
}

static READ_JOB: Operation = Operation::read(
    "/v1/jobs/{job_id}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// Read one job with its parts
#[utoipa::path(
    get,
    path = READ_JOB.path,
    tag = "worker",
    operation_id = "read_job",
    params(("job_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The job", body = ref("#/components/schemas/JobDocument"), headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job_id: JobId = id.parse().map_err(|_| no_such_job())?;
    Ok(load_visible(&app, &who, job_id).await?.to_response(&headers))
}

async fn load_visible(
    app: &AppState,
    who: &Principal,
    job_id: JobId,
) -> Result<json_document::JsonDocument, Problem> {
    let held = app.bus.load_record::<job::JobRecord>(&job_id.to_string()).await?.ok_or_else(no_such_job)?;
    if !who.may_see(&held.record.owner) {
        return Err(no_such_job());
    }
    load_job_document(app, &held, who).await
}

/// The document of a job as JSON; 404 where `who` may not see it.
pub(crate) async fn load_current(app: &AppState, who: &Principal, job_id: JobId) -> Result<Bytes, Problem> {
    Ok(load_visible(app, who, job_id).await?.body().clone())
}

/// A job as people read it, with what its parts say.
async fn load_job_document(
    app: &AppState,
    held: &VersionedRecord<job::JobRecord>,
    who: &Principal,
) -> Result<json_document::JsonDocument, Problem> {
    let job = &held.record;
    let cached_as = cache::versioned_key(&job.job_id.to_string(), &[held.revision()]);
    if let Some(body) = app.documents.get(&cached_as) {
        return Ok(json_document::JsonDocument::from_json(body));
    }
    let names = list_part_names(job);
    let found = match &job.folded {
        Some(folded) => folded.clone(),
        None => load_part_summaries(&app.bus, job.job_id, &names).await?,
    };
    let mut found: HashMap<String, JobPartSummary> =
        found.into_iter().map(|part| (part.part.clone(), part)).collect();
    let parts: Vec<(String, Option<JobPartSummary>)> = names
        .into_iter()
        .map(|name| {
            let part = found.remove(&name);
            (name, part)
        })
        .collect();
    let waiting = load_waiting_reason(&app.bus, job).await?;
    let reported_ms = app.followers.hub().part_progress_ms(job.job_id);
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobPartRecord::BUCKET)).await?;
    let mut document = JobDocument {
        waiting,
        export: JobExportDocument::of(job, who),
        ..build_job_document(job, &parts, &reported_ms, now_ms)
    };
    if let Some(fetch) = load_fetch(&app.bus, job, who).await? {
        let (done_ms, total_ms) = (fetch.received_bytes, fetch.total_bytes.unwrap_or_default());
        document.progress =
            JobProgressDocument { done_ms, total_ms, percent: whole_percent(done_ms, total_ms) };
        document.fetch = Some(fetch);
    }
    let document = json_document::JsonDocument::new(&document)?;
    let is_done =
        |part: &Option<JobPartSummary>| part.as_ref().is_some_and(|part| part.status == JobPartStatus::Done);
    // Of what is fetched or sent not everybody sees the same.
    if job.status == job::JobStatus::Succeeded
        && job.fetch.is_none()
        && job.export.is_none()
        && parts.iter().all(|(_, part)| is_done(part))
    {
        // Neither the job nor a part of it changes any more.
        app.documents.put(cached_as, document.body().clone());
    }
    Ok(document)
}

/// What a job fetches, and how much of it is there.
async fn load_fetch(
    bus: &Bus,
    job: &job::JobRecord,
    who: &Principal,
) -> Result<Option<JobFetchDocument>, Problem> {
    let Some(source) = &job.fetch else { return Ok(None) };
    let upload = bus.load_record::<UploadRecord>(&source.upload_id.to_string()).await?;
    let upload = upload.map(|held| held.record);
    Ok(Some(JobFetchDocument {
        source: (who.owner == job.owner).then(|| source.shown.clone()),
        upload_id: source.upload_id,
        received_bytes: upload.as_ref().map_or(0, |upload| upload.offset_bytes),
        total_bytes: upload.and_then(|upload| upload.length_bytes),
    }))
}

/// The parts of a job in queue order, the one that finishes it last.
fn list_part_names(job: &job::JobRecord) -> Vec<String> {
    // What makes no encode has nothing to finish.
    let finish = job.is_encode().then(|| job::FINISH.to_owned());
    job.parts.iter().cloned().chain(finish).collect()
}

/// What the parts of a job came to so far.
pub(super) async fn load_part_summaries(
    bus: &Bus,
    job_id: JobId,
    names: &[String],
) -> Result<Vec<JobPartSummary>, nats::BusError> {
    let parts: Vec<Option<nats::VersionedRecord<JobPartRecord>>> = futures::stream::iter(names.to_owned())
        .map(|part| async move { bus.load_record::<JobPartRecord>(&subjects::part_key(job_id, &part)).await })
        .buffered(READS_MAX)
        .try_collect()
        .await?;
    let summary = |held: VersionedRecord<JobPartRecord>| {
        let part = JobPartSummary::from(&held.record);
        // By the clock of the broker, not by that of the worker's host; 0 stays for a part that was let go.
        let last_seen_ms =
            if part.last_seen_ms == 0 { 0 } else { held.record.seen_at_ms(held.stored_at_ms()) };
        JobPartSummary { last_seen_ms, ..part }
    };
    Ok(parts.into_iter().flatten().map(summary).collect())
}

/// What an active job waits for; its medium says so.
async fn load_waiting_reason(
    bus: &nats::Bus,
    job: &job::JobRecord,
) -> Result<Option<MediaWaitReason>, Problem> {
    // Of a medium that waits its encode does.
    if job.status != job::JobStatus::Active || !job.is_encode() {
        return Ok(None);
    }
    let medium = bus.load_record::<schemas::media::MediaRecord>(&job.media_id.to_string()).await?;
    Ok(medium.and_then(|held| held.record.waiting))
}

/// One job as its owner sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobDocument", example = json!({
    "job_id": "06db008a0lt0303jc5mn0r355k", "kind": "transcode", "priority": "p1", "media_id": "06db00820dt0303jc5mn0r355k", "owner": "admin", "status": "active", "state": "queued", "code": null,
    "detail": null, "encode": 1, "plan": {
        "source_key": "media/06db00820dt0303jc5mn0r355k/source", "source_bytes": 1_048_576, "origin_us": 0, "duration_ms": 4_000,
        "video": null, "audio": [], "poster": null, "profile": "default", "options_digest": "3fd1a7c2b94e5d60", "reasons": [],
    },
    "progress": { "done_ms": 0, "total_ms": 0, "percent": 0 }, "parts": [], "created_at_ms": 1_763_900_814_467_u64, "ended_at_ms": null,
}))]
struct JobDocument<'a> {
    /// The job.
    job_id: JobId,
    /// Kind: `transcode`, `verify`, `job_action`, `fetch`, `thumbnails` or `export`; others may come.
    kind: &'a str,
    /// Priority of its parts.
    priority: JobPriority,
    /// The medium it works on; zeros where it works on none.
    media_id: MediaId,
    /// Its owner.
    owner: &'a str,
    /// Where it stands.
    status: job::JobStatus,
    /// The same in more words; others may come.
    #[schemars(schema_with = "open_schema::<JobState>")]
    state: JobState,
    /// The job that came to nothing and of which this one keeps what was made; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_of: Option<JobId>,
    /// The run of a schedule that asked for it; absent where a person did.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<ScheduledRun>,
    /// Why it failed: a stable code.
    code: Option<&'a str>,
    /// The same for people.
    detail: Option<&'a str>,
    /// Unix time in milliseconds at which a person paused it; absent while it is not. Parts that were under way are made to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at_ms: Option<u64>,
    /// What it waits for while something is away; absent while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<MediaWaitReason>,
    /// Number of the encode it makes; 0 where it makes none.
    encode: u32,
    /// What is made. Of a job that makes no encode: the source and its duration, and nothing else.
    plan: &'a EncodePlan,
    /// What a job of the kind `verify` found; absent in others, and until it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<&'a VerifyReport>,
    /// What a job of the kind `job_action` does, and with which jobs; absent in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a JobActionOrder>,
    /// What came of it, also of one that was cancelled on the way; absent in others, and until it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    acted: Option<&'a JobActionReport>,
    /// What a job of the kind `fetch` brings; absent in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<JobFetchDocument>,
    /// What a job of the kind `thumbnails` makes; absent in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnails: Option<&'a ThumbnailOrder>,
    /// What a job of the kind `export` sends, and where; absent in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<JobExportDocument<'a>>,
    /// What it sent; absent in others, and until it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    exported: Option<&'a ExportReport>,
    /// How far it is.
    progress: JobProgressDocument,
    /// Its parts in queue order, the one that finishes it last.
    parts: Vec<JobPartDocument<'a>>,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Unix time in milliseconds at which it ended.
    ended_at_ms: Option<u64>,
}

/// What a job fetches.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "JobFetch")]
struct JobFetchDocument {
    /// Scheme, host and path of the address, for its owner alone; never its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The upload that takes the bytes.
    upload_id: UploadId,
    /// Bytes that are stored.
    received_bytes: u64,
    /// Bytes that the source has; null while it does not say.
    total_bytes: Option<u64>,
}

/// What a job sends.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "JobExport")]
struct JobExportDocument<'a> {
    /// Scheme, host and path of the address, for who asked for the job alone; never its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Which file.
    file: ExportFile,
    /// Most pixels of the short side of its pictures; absent where the best ones are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    /// Name or language of its track of sound; absent where the first one is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<&'a str>,
}

impl<'a> JobExportDocument<'a> {
    fn of(job: &'a job::JobRecord, who: &Principal) -> Option<Self> {
        let order = job.export.as_deref()?;
        let asked_by = order.asked_by.as_ref().unwrap_or(&job.owner);
        let target = (who.owner == *asked_by).then_some(order.shown.as_str());
        Some(Self { target, file: order.file, height: order.height, audio: order.audio.as_deref() })
    }
}

/// A state, or any other one: a generated client must not refuse what it does not know.
fn open_schema<T: JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let known = generator.subschema_for::<T>();
    schemars::json_schema!({ "anyOf": [known, { "type": "string" }] })
}

/// Where a job stands, as its parts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "JobState")]
enum JobState {
    /// No worker has taken a part of it yet.
    Queued,
    /// A worker holds a part of it, or parts of it are made.
    Running,
    /// A person paused it: no part of it is begun, and nobody works on it any more.
    Paused,
    /// Nobody works on it, since a try of a part failed: it is tried again.
    Retrying,
    /// Done and checked.
    Succeeded,
    /// Ended with `code`.
    Failed,
    /// Ended by a person; a worker has yet to stop.
    Cancelling,
    /// Ended by a person.
    Cancelled,
}

impl JobState {
    /// A holder that was not seen for as long as this has stopped, in milliseconds: somewhat longer than until it is replaced.
    const HOLDER_SEEN_MS: u64 = 10_000;

    /// Whether somebody works on a part; `now_ms` is the broker's time.
    const fn is_part_held(part: &JobPartSummary, now_ms: u64) -> bool {
        matches!(part.status, JobPartStatus::Claimed)
            && part.last_seen_ms.saturating_add(Self::HOLDER_SEEN_MS) > now_ms
    }

    fn of(job: &job::JobRecord, parts: &[(String, Option<JobPartSummary>)], now_ms: u64) -> Self {
        let found = || parts.iter().filter_map(|(_, part)| part.as_ref());
        let mut claimed = found().filter(|part| part.status == JobPartStatus::Claimed);
        let is_held = |part: &JobPartSummary| Self::is_part_held(part, now_ms);
        match job.status {
            job::JobStatus::Succeeded => Self::Succeeded,
            job::JobStatus::Failed => Self::Failed,
            job::JobStatus::Cancelled if claimed.any(is_held) => Self::Cancelling,
            job::JobStatus::Cancelled => Self::Cancelled,
            job::JobStatus::Active if claimed.clone().any(is_held) => Self::Running,
            job::JobStatus::Active if job.is_paused() => Self::Paused,
            job::JobStatus::Active if claimed.any(|part| part.code.is_some()) => Self::Retrying,
            job::JobStatus::Active if found().next().is_some() => Self::Running,
            job::JobStatus::Active => Self::Queued,
        }
    }
}

/// How far a job is, over all its parts.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobProgress")]
struct JobProgressDocument {
    /// Milliseconds of output that are made, or of the medium that are gone through, as `job.progress` says; in a job of the kind `fetch`
    /// bytes.
    done_ms: u64,
    /// Milliseconds of output there will be, or of the medium; in a job of the kind `fetch` bytes, 0 while the source does not say.
    total_ms: u64,
    /// Whole percent, rounded down.
    #[schemars(range(max = 100))]
    percent: u64,
}

/// One part of a job; all 0 and null while it waits.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "JobPart")]
struct JobPartDocument<'a> {
    /// Its name: `v0000`, `a0`, `finish`; `task` in a job that makes no encode.
    part: &'a str,
    /// Where it stands.
    status: JobPartStatusDocument,
    /// Which try this is, from 1.
    attempt: u32,
    /// Tries that ended in a crash of the media child.
    crashes: u32,
    /// Who holds it: a random name per worker process.
    worker: Option<&'a str>,
    /// Unix time in milliseconds at which the holder last showed itself.
    last_seen_ms: Option<u64>,
    /// Segments that are stored, over all renditions.
    segments: usize,
    /// CPU milliseconds the media child used for what is stored.
    cpu_ms: u64,
    /// Milliseconds the media child ran for what is stored.
    wall_ms: u64,
    /// Largest resident set of the media child, in bytes.
    rss_bytes_max: u64,
    /// Why it failed: a stable code.
    code: Option<&'a str>,
    /// The same for people.
    detail: Option<&'a str>,
}

/// Where a part stands.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "JobPartStatus")]
enum JobPartStatusDocument {
    /// Nobody works on it: no worker has taken it yet, its last try failed, or its job ended first.
    #[default]
    Waiting,
    /// A worker holds it.
    Claimed,
    /// Its objects are stored.
    Done,
    /// It can't be done; `code` says why.
    Failed,
}

fn build_job_document<'a>(
    job: &'a job::JobRecord,
    parts: &'a [(String, Option<JobPartSummary>)],
    reported_ms: &BTreeMap<String, u64>,
    now_ms: u64,
) -> JobDocument<'a> {
    let total_ms: u64 = parts.iter().map(|(name, _)| plan::part_duration_ms(&job.plan, name)).sum();
    let reported_ms = |name: &String| reported_ms.get(name).copied().unwrap_or_default();
    let done_ms: u64 =
        parts.iter().map(|(name, part)| part_done_ms(job, name, part.as_ref(), reported_ms(name))).sum();
    JobDocument {
        job_id: job.job_id,
        kind: &job.kind,
        priority: job.priority,
        media_id: job.media_id,
        owner: &job.owner,
        status: job.status,
        state: JobState::of(job, parts, now_ms),
        retry_of: job.retry_of,
        scheduled: job.scheduled,
        code: job.code.as_deref(),
        detail: job.detail.as_deref(),
        paused_at_ms: job.paused_at_ms.filter(|_| job.is_paused()),
        waiting: None,
        encode: job.encode,
        plan: &job.plan,
        verified: job.verified.as_ref(),
        action: job.action.as_ref(),
        acted: job.acted.as_ref(),
        fetch: None,
        thumbnails: job.thumbnails.as_ref(),
        export: None,
        exported: job.exported.as_deref(),
        progress: JobProgressDocument { done_ms, total_ms, percent: whole_percent(done_ms, total_ms) },
        parts: parts.iter().map(|(name, part)| build_part_document(job, name, part.as_ref())).collect(),
        created_at_ms: job.created_at_ms,
        ended_at_ms: job.ended_at_ms,
    }
}

fn build_part_document<'a>(
    job: &job::JobRecord,
    name: &'a str,
    part: Option<&'a JobPartSummary>,
) -> JobPartDocument<'a> {
    let Some(part) = part else { return JobPartDocument { part: name, ..JobPartDocument::default() } };
    JobPartDocument {
        part: name,
        status: match part.status {
            // Let go, or never to be taken again.
            JobPartStatus::Claimed if part.last_seen_ms == 0 || job.ended_at_ms.is_some() => {
                JobPartStatusDocument::Waiting
            }
            JobPartStatus::Claimed => JobPartStatusDocument::Claimed,
            JobPartStatus::Done => JobPartStatusDocument::Done,
            JobPartStatus::Failed => JobPartStatusDocument::Failed,
        },
        attempt: part.attempt,
        crashes: part.crashes,
        worker: Some(&part.worker),
        last_seen_ms: Some(part.last_seen_ms).filter(|seen_ms| *seen_ms > 0),
        segments: usize::try_from(part.segments).unwrap_or(usize::MAX),
        cpu_ms: part.cpu_ms,
        wall_ms: part.wall_ms,
        rss_bytes_max: part.rss_bytes_max,
        code: part.code.as_deref(),
        detail: part.detail.as_deref(),
    }
}

/// Milliseconds of output of one part that are made: what its record says is stored, or what its worker has reported since.
pub(super) fn part_done_ms(
    job: &job::JobRecord,
    name: &str,
    part: Option<&JobPartSummary>,
    reported_ms: u64,
) -> u64 {
    let total_ms = plan::part_duration_ms(&job.plan, name);
    match part {
        Some(part) if part.status == JobPartStatus::Done => total_ms,
        Some(part) => part.stored_ms.max(reported_ms).min(total_ms),
        None => 0,
    }
}

/// Whole percent, rounded down, so that 100 means done.
pub(super) fn whole_percent(done_ms: u64, total_ms: u64) -> u64 {
    (done_ms.saturating_mul(100) / total_ms.max(1)).min(100)
}

#[cfg(test)]
mod action_tests;
#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod task_tests;
#[cfg(test)]
mod tests;
