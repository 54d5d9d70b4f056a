//! Encoding a medium again, by a profile of its owner's choice, and the profiles there are.
//!
//! The new encode takes the place of the one that plays when it is ready, and not before. Who began to play the old one plays it to
//! the end of the session.
//!
//! Limits: one encode of a medium at a time; [`schemas::encode::SUPERSEDED_ENCODES_MAX`] replaced ones wait for their sessions to end.

use axum::{
    extract::{Path, State},
    http::Method,
    response::Response,
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    encode::EncodeSettings,
    ids::{JobId, MediaId},
    schedule::TranscodeJobRequest,
    subjects::JobPriority,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AppState, capacity,
    jobs::{answer_with_begun_job, explain_encode_failure, require_priority, retry},
    media, openapi, quotas,
};
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

mod activity;
mod profiles;
#[cfg(test)]
pub(crate) mod tests;

pub use profiles::ProfileCatalog;

/// Most characters of the name of a profile that a request may carry.
const PROFILE_NAME_LENGTH_MAX: usize = 64;

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&TRANSCODE_MEDIA, transcode_media)
        .with(&profiles::LIST_PROFILES, profiles::list_profiles)
        .with(&activity::READ_TRANSCODE_METRICS, activity::read_transcode_metrics)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(transcode_media, profiles::list_profiles, activity::read_transcode_metrics))]
pub(super) struct TranscodeApiDoc;

impl openapi::OperationGroup for TranscodeApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<TranscodeRequest>();
        schemas.add_response::<TranscodeDocument>();
        schemas.add_response::<profiles::ProfileList<'_>>();
        schemas.add_response::<activity::TranscodeMetricsDocument>();
    }
}

/// How a medium is to be encoded again.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TranscodeRequest", example = json!({ "profile": "default", "priority": "p2" }))]
pub(super) struct TranscodeRequest {
    /// Name of a profile, from `GET /v1/profiles`; the one by which uploads are encoded when absent.
    #[schemars(length(max = PROFILE_NAME_LENGTH_MAX))]
    profile: Option<String>,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    priority: Option<JobPriority>,
}

/// The job that encodes a medium again.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TranscodeBegun", example = json!({
    "job_id": "06db008a0lt0303jc5mn0r356g", "media_id": "06db00820dt0303jc5mn0r355k", "encode": 2, "profile": "default", "priority": "p2",
}))]
pub(crate) struct TranscodeDocument {
    /// The job; it can be read once a worker has planned it.
    pub(crate) job_id: JobId,
    /// The medium.
    media_id: MediaId,
    /// Number of the encode.
    encode: u32,
    /// Name of the profile.
    profile: String,
    /// Priority of the job.
    priority: JobPriority,
}

static TRANSCODE_MEDIA: Operation = Operation::change(
    Method::POST,
    "/v1/media/{media_id}/transcode",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Transcoder),
    &["media.reopened"],
)
.with_room(capacity::ENCODE);

/// Encode a medium again
///
/// By a profile of `GET /v1/profiles`. What plays goes on playing until the new encode is ready, and takes its place then; who plays
/// the old one plays it to the end of the session, after which it is removed. The medium keeps what it has when the job fails or is
/// cancelled.
#[utoipa::path(
    post,
    path = TRANSCODE_MEDIA.path,
    tag = "transcoder",
    operation_id = "transcode_media",
    params(("media_id", Path), ("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/TranscodeRequest"), content_type = "application/json"),
    responses(
        (status = 202, description = "The job", body = ref("#/components/schemas/TranscodeBegun"), headers(("Location"))),
        (status = 409, description = "It is being encoded, was not verified, or has nothing to begin with: `code` says which"),
        (status = 422, description = "There is no such profile; `profiles` names those there are"),
    ),
)]
async fn transcode_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    address: PublicAddress,
    JsonBody(wanted): JsonBody<TranscodeRequest>,
) -> Result<Response, Problem> {
    let media_id = media::parse_media_id(&id)?;
    let TranscodeRequest { profile, priority } = wanted;
    let wanted = TranscodeJobRequest { media_id, profile, priority: priority.unwrap_or_default() };
    let begun = begin_transcode(&app, wanted, &who, ("/profile", 0)).await?;
    answer_with_begun_job(&address, begun.job_id, begun)
}

/// Begins an encode that `who` asks for; `profile_pointer` says where in the request its profile stands, and `begun_count` how many jobs
/// began with the same one.
pub(crate) async fn begin_transcode(
    app: &AppState,
    wanted: TranscodeJobRequest,
    who: &Principal,
    (profile_pointer, begun_count): (&str, u64),
) -> Result<TranscodeDocument, Problem> {
    let TranscodeJobRequest { media_id, profile, priority } = wanted;
    let medium = media::load_owned(&app.bus, media_id, who).await?;
    let work = (Some(medium.duration_ms()), begun_count);
    quotas::require_work_room(&app.bus, &app.config.quotas, medium.owner(), work).await?;
    let profile = find_profile(app, profile, profile_pointer)?;
    require_priority(who, priority)?;
    let settings = EncodeSettings { profile: Some(profile.clone()), priority, scheduled: None };
    let (encode, job_id) = match retry::begin_new_encode(&app.bus, &app.store, media_id, settings).await {
        Ok(retry::NextEncode::Begun { encode, job_id, .. }) => (encode, job_id),
        Ok(retry::NextEncode::Superseded(why)) => {
            return Err(Problem::new(ProblemCode::NotEncodable).with_detail(why));
        }
        Err(error) => return Err(explain_encode_failure(error)),
    };
    tracing::info!(job.id = %job_id, media.id = %media_id, profile, by = who.owner, "encoded again");
    Ok(TranscodeDocument { job_id, media_id, encode, profile, priority })
}

/// The name of the profile that is asked for, if there is one of that name.
pub(crate) fn find_profile(app: &AppState, wanted: Option<String>, pointer: &str) -> Result<String, Problem> {
    let ProfileCatalog { default_name, profiles } = &app.config.profiles;
    let name = wanted.unwrap_or_else(|| default_name.clone());
    if profiles.contains_key(&name) {
        return Ok(name);
    }
    let names: Vec<&str> = profiles.keys().map(String::as_str).collect();
    Err(Problem::new(ProblemCode::ProfileUnknown)
        .with_pointer(pointer, format!("there are {}", names.join(", ")))
        .with_member("profiles", json!(names)))
}
