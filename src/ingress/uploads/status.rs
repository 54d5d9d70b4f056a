//! `GET /v1/uploads/{upload_id}/status`: where an upload and its medium stand, as JSON.

use axum::{
    extract::{Path, State as Extract},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{MediaId, UploadId},
    media,
    upload::{UploadRecord, UploadStatus},
};
use serde::Serialize;
use serde_json::json;

use super::{
    UploadContext, UploadState, known_statuses::StatusSource, parse_upload_id, refusal::UploadRefusal,
    response,
};
use auth::Principal;
use web::{
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Where an upload and its medium stand.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadDocument", example = json!({
    "upload_id": "06db008209t0303jc5mn0r355k", "media_id": "06db00820dt0303jc5mn0r355k", "status": "open", "code": null, "offset_bytes": 65_536, "length_bytes": 1_048_576,
    "filename": "sea.mp4", "content_type": "video/mp4", "created_at_ms": 1_763_900_814_467_u64, "expires_at_ms": 1_763_987_214_467_u64, "media": null,
}))]
pub(super) struct UploadDocument {
    /// The upload.
    upload_id: UploadId,
    /// The medium it becomes.
    media_id: MediaId,
    /// Where it stands.
    status: UploadStatus,
    /// Why it can't go on: a stable code.
    code: Option<String>,
    /// Bytes that are durable.
    offset_bytes: u64,
    /// Bytes of the whole, once known.
    length_bytes: Option<u64>,
    /// Name the client gave, cleaned.
    filename: Option<String>,
    /// Media type the client gave.
    content_type: Option<String>,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Unix time in milliseconds after which an open upload is removed.
    expires_at_ms: Option<u64>,
    /// What became of the medium; null while nothing has.
    media: Option<UploadedMedium>,
}

/// What became of the medium of an upload.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadedMedia")]
struct UploadedMedium {
    /// Where it stands.
    status: media::MediaStatus,
    /// Why it was rejected or failed: a stable code.
    code: Option<String>,
    /// The same for people.
    detail: Option<String>,
}

pub(super) static READ_UPLOAD_STATUS: Operation = Operation::read(
    "/v1/uploads/{upload_id}/status",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
)
.with_any_query();

/// Read where an upload and its medium stand
///
/// Takes no lock and disturbs nobody. That of a complete upload is answered from memory where nothing can have changed.
#[utoipa::path(
    get,
    path = READ_UPLOAD_STATUS.path,
    tag = "upload",
    operation_id = "read_upload_status",
    params(("upload_id", Path)),
    responses((status = 200, description = "The document", body = ref("#/components/schemas/UploadDocument"), headers(("Tus-Resumable")))),
)]
pub(super) async fn read_upload_status(
    Extract(state): Extract<UploadState>,
    Path(id): Path<String>,
    who: Principal,
) -> Response {
    response::outcome_response(read_status_checked(&state.shared, &id, &who).await)
}

async fn read_status_checked(
    shared: &UploadContext,
    id: &str,
    who: &Principal,
) -> Result<Response, UploadRefusal> {
    let upload_id = parse_upload_id(id)?;
    // Who has the right to one upload alone is compared with its record.
    let known = shared.known_statuses.as_ref().filter(|_| who.upload_grant.is_none());
    let known = known.and_then(|known| known.get(upload_id));
    let body = match known {
        Some(known) if !who.may_see(&known.owner) => return Err(UploadRefusal::NotFound),
        Some(known) => known.body,
        None => load_status(shared, upload_id, who).await?,
    };
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((fields, body).into_response())
}

/// The document by its records; that of a complete upload with a medium is kept in memory.
async fn load_status(
    shared: &UploadContext,
    upload_id: UploadId,
    who: &Principal,
) -> Result<Bytes, UploadRefusal> {
    let held = shared.bus.load_record::<UploadRecord>(&upload_id.to_string()).await?;
    let record = held.map(|held| held.record).ok_or(UploadRefusal::NotFound)?;
    let is_own_grant = who.upload_grant.is_none() || who.upload_grant == record.grant_id;
    if !who.may_see(&record.owner) || !is_own_grant {
        return Err(UploadRefusal::NotFound);
    }
    let known = shared.known_statuses.as_ref();
    let generation = known.map(|known| known.generation(record.media_id));
    let medium = shared.bus.load_record::<media::MediaRecord>(&record.media_id.to_string()).await?;
    let is_kept = record.status == UploadStatus::Received && medium.is_some();
    let document = UploadDocument {
        upload_id: record.upload_id,
        media_id: record.media_id,
        status: record.status,
        code: record.code,
        offset_bytes: record.offset_bytes,
        length_bytes: record.length_bytes,
        filename: record.filename,
        content_type: record.content_type,
        created_at_ms: record.created_at_ms,
        expires_at_ms: (record.status == UploadStatus::Open).then_some(record.expires_at_ms),
        media: medium.map(|held| UploadedMedium {
            status: held.record.status,
            code: held.record.code,
            detail: held.record.detail,
        }),
    };
    let body = serde_json::to_vec(&document);
    let body = Bytes::from(body.map_err(|error| nats::BusError::Invalid { what: error.to_string() })?);
    if let Some((known, generation)) = known.zip(generation).filter(|_| is_kept) {
        let source = StatusSource { upload_id, media_id: record.media_id, generation };
        known.keep(source, &record.owner, &body);
    }
    Ok(body)
}
