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
    encode::{EncodeRange, EncodeSettings},
    ids::{JobId, MediaId, UploadId},
    media::TechnicalMetadata,
    renditions::RENDITION_FILES_MAX,
    schedule::TranscodeJobRequest,
    subjects::JobPriority,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AppState, capacity,
    jobs::{answer_with_begun_job, explain_encode_failure, require_priority, retry},
    media, openapi,
    seconds::{SECONDS_MAX, to_millis},
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
mod renditions;
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
#[schemars(rename = "TranscodeRequest", example = json!({ "profile": "default", "priority": "p2", "start_s": 12.5, "end_s": 30 }))]
pub(super) struct TranscodeRequest {
    /// Name of a profile, from `GET /v1/profiles`; the one by which uploads are encoded when absent.
    #[schemars(length(max = PROFILE_NAME_LENGTH_MAX))]
    profile: Option<String>,
    /// Priority of the job; `p1` when absent. `p0` is for admins.
    priority: Option<JobPriority>,
    /// Where the part of the source begins that is encoded, in seconds from its beginning, to the millisecond; at its beginning when absent.
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    start_s: Option<f64>,
    /// Where that part ends, in the same way, later than it begins; at the end of the source when absent.
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    end_s: Option<f64>,
    /// Partial uploads with renditions that were made elsewhere, which are published in place of being encoded; goes with neither a profile
    /// nor a part. MP4 or Matroska with H.264, of one frame rate and length, with keyframes at the same places; sound is taken from a file of
    /// AAC alone, else from the first that has some.
    #[schemars(length(min = 1, max = RENDITION_FILES_MAX))]
    renditions: Option<Vec<UploadId>>,
}

impl TranscodeRequest {
    /// The part that is asked for; `None` for all of it.
    ///
    /// # Errors
    /// When a member is no time.
    fn range(&self) -> Result<Option<EncodeRange>, Problem> {
        let time = |name: &str, seconds: Option<f64>| match seconds {
            None => Ok(None),
            Some(seconds) => match to_millis(seconds) {
                Some(millis) => Ok(Some(millis)),
                None => Err(range_invalid(&format!("/{name}"), format!("0 to {SECONDS_MAX} seconds"))),
            },
        };
        let (start_ms, end_ms) = (time("start_s", self.start_s)?, time("end_s", self.end_s)?);
        let is_whole = start_ms.is_none() && end_ms.is_none();
        Ok((!is_whole).then(|| EncodeRange { start_ms: start_ms.unwrap_or(0), end_ms }))
    }
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
    /// The part of the source that is encoded; absent for all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<EncodeRange>,
}

static TRANSCODE_MEDIA: Operation = Operation::change(
    Method::POST,
    "/v1/media/{media_id}/transcode",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Transcoder),
    &["job.cancelled", "media.reopened"],
)
.with_room(capacity::ENCODE);

/// Encode a medium again
///
/// By a profile of `GET /v1/profiles`. What plays goes on playing until the new encode is ready, and takes its place then; who plays
/// the old one plays it to the end of the session, after which it is removed. The medium keeps what it has when the job fails or is
/// cancelled. A first encode that is paused, and of which nothing was begun, is cancelled: the new one takes its place.
///
/// With `start_s` or `end_s` the new encode is that part alone, from 0 on: pictures, sound, subtitles and storyboard are cut together, at the
/// nearest frames. The source stays whole: an encode without them brings all of it back. The encode says so by the warning `range_encoded`.
///
/// With `renditions` nothing is encoded: files that were made elsewhere are uploaded as partial uploads (`Upload-Concat: partial`) with a
/// `filename`, and their samples are put into segments as they are. Files that do not go together fail the job with a code such as
/// `renditions_misaligned`, which says in `detail` which file and what to do, and what plays stays. The uploads are kept until they expire.
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
        (status = 410, description = "It was removed, and can be restored for a time"),
        (status = 422, description = "There is no such profile, which `profiles` names then, no such part of it, or an upload is no rendition"),
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
    let range = wanted.range()?;
    let TranscodeRequest { profile, priority, renditions, .. } = wanted;
    if let Some(upload_ids) = renditions {
        if profile.is_some() || range.is_some() {
            let detail = "nothing is encoded of them: leave profile, start_s and end_s out";
            return Err(Problem::new(ProblemCode::RenditionsInvalid).with_pointer("/renditions", detail));
        }
        let begun =
            renditions::begin_own_ladder(&app, &who, (media_id, priority.unwrap_or_default()), &upload_ids)
                .await?;
        return answer_with_begun_job(&address, begun.job_id, begun);
    }
    let wanted = TranscodeJobRequest { media_id, profile, range, priority: priority.unwrap_or_default() };
    let begun = begin_transcode(&app, wanted, &who, (["/profile", ""], 0)).await?;
    answer_with_begun_job(&address, begun.job_id, begun)
}

/// Begins an encode that `who` asks for; the pointers say where in the request its profile and its part stand, and
/// `begun_count` how many jobs began with the same one.
pub(crate) async fn begin_transcode(
    app: &AppState,
    wanted: TranscodeJobRequest,
    who: &Principal,
    ([profile_pointer, range_pointer], begun_count): ([&str; 2], u64),
) -> Result<TranscodeDocument, Problem> {
    let TranscodeJobRequest { media_id, profile, range, priority } = wanted;
    let medium = media::load_owned(&app.bus, media_id, who).await?;
    if let Some(range) = range {
        check_medium_range(range, &medium, range_pointer)?;
    }
    let encode_ms =
        range.map_or_else(|| medium.duration_ms(), |range| range.duration_ms_of(medium.duration_ms()));
    require_encodable(app, who, &medium, (priority, Some(encode_ms), begun_count)).await?;
    let profile = find_profile(app, profile, profile_pointer)?;
    let settings = EncodeSettings { profile: Some(profile), priority, range, ..EncodeSettings::default() };
    begin_encode(app, who, media_id, settings).await
}

/// Refuses an encode of a medium that nobody has verified yet, of a priority that `who` may not ask for, or for which its owner has no
/// room: for another job, and for `encode_ms` milliseconds of encoding, when `begun_count` jobs began with the same request.
async fn require_encodable(
    app: &AppState,
    who: &Principal,
    medium: &media::MediumRecords,
    (priority, encode_ms, begun_count): (JobPriority, Option<u64>, u64),
) -> Result<(), Problem> {
    let Some(asset) = &medium.asset else {
        // It is there, and nobody has looked at its bytes.
        return Err(Problem::new(ProblemCode::NotEncodable).with_detail("it is not verified yet"));
    };
    require_priority(who, priority)?;
    let (medium, work) = ((Some(&asset.record), medium.owner()), (encode_ms, begun_count));
    retry::require_encode_room(&app.bus, &app.config.quotas, medium, work).await
}

/// Begins an encode for which [`require_encodable`] found room.
async fn begin_encode(
    app: &AppState,
    who: &Principal,
    media_id: MediaId,
    settings: EncodeSettings,
) -> Result<TranscodeDocument, Problem> {
    let EncodeSettings { priority, range, .. } = settings;
    let (profile, files) = (settings.profile.clone().unwrap_or_default(), settings.renditions.len());
    let begun = Box::pin(retry::begin_new_encode(&app.bus, &app.store, (media_id, &who.owner), settings));
    let (encode, job_id) = match begun.await {
        Ok(retry::NextEncode::Begun { encode, job_id, .. }) => (encode, job_id),
        Ok(retry::NextEncode::Superseded(why)) => {
            return Err(Problem::new(ProblemCode::NotEncodable).with_detail(why));
        }
        Err(error) => return Err(explain_encode_failure(error)),
    };
    tracing::info!(job.id = %job_id, media.id = %media_id, profile, files, by = who.owner, "encoded again");
    Ok(TranscodeDocument { job_id, media_id, encode, profile, priority, range })
}

/// Refuses a part that a medium has not; `pointer` says where in the request it stands.
pub(crate) fn check_medium_range(
    range: EncodeRange,
    medium: &media::MediumRecords,
    pointer: &str,
) -> Result<(), Problem> {
    let technical = medium.asset.as_ref().and_then(|held| held.record.technical.as_ref());
    check_range(range, technical).map_err(|why| range_invalid(pointer, why))
}

/// Whether there is such a part of a source; of one that was not looked at nobody knows, and it is not encoded anyway.
pub(crate) fn check_range(range: EncodeRange, technical: Option<&TechnicalMetadata>) -> Result<(), String> {
    if range.end_ms.is_some_and(|end_ms| end_ms <= range.start_ms) {
        return Err("it has to end later than it begins".into());
    }
    let Some(technical) = technical else { return Ok(()) };
    if technical.still {
        return Err("a still picture has no parts".into());
    }
    if range.start_ms >= technical.duration_ms || range.end_ms.is_some_and(|end| end > technical.duration_ms)
    {
        return Err(format!("it has to lie within the source, which has {} ms", technical.duration_ms));
    }
    Ok(())
}

fn range_invalid(pointer: &str, detail: String) -> Problem {
    Problem::new(ProblemCode::EncodeRangeInvalid).with_pointer(pointer, detail)
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
