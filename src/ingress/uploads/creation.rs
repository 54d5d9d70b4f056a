//! Opening an upload: its record, its first bytes, and the parts that it consists of.

use std::sync::Arc;

use auth::Principal;
use axum::{
    Json,
    body::Body,
    extract::State as Extract,
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemas::{
    access::ApiKeyScope,
    ids::UploadId,
    upload::{UploadRecord, UploadStatus},
};
use web::{
    idempotency::IdempotencyClaim,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    public_address::PublicAddress,
};

use super::{
    UploadContext, UploadState, concat,
    concat_field::ConcatRequest,
    fenced_record::FencedUploadRecord,
    fields,
    final_parts::FinalParts,
    lifecycle,
    protocol::{self, UploadCreation},
    refusal::UploadRefusal,
    response::{self, MediaCreatedDocument},
    resumable::{self, ResumableRequest},
    tus,
};
use crate::capacity;

pub(super) static CREATE_UPLOAD: Operation = Operation::change(
    Method::POST,
    "/v1/uploads",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &[
        "upload.created",
        "upload.grant_used",
        "gate.changed",
        "upload.received",
        "upload.terminated",
        "media.removed",
    ],
)
.with_any_query()
.with_room(capacity::UPLOAD);

/// Open an upload
///
/// tus 1.0 with creation, creation-with-upload, creation-defer-length and concatenation: the body may hold the first bytes, and an
/// upload may be made of others that were sent beside each other.
///
/// A request with `Upload-Complete` opens one by Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload) instead: its body is
/// the file, or the beginning of it.
#[utoipa::path(
    post,
    path = CREATE_UPLOAD.path,
    tag = "upload",
    operation_id = "create_upload",
    params(
        ("Tus-Resumable", Header), ("Upload-Length", Header), ("Upload-Defer-Length", Header), ("Upload-Metadata", Header),
        ("Upload-Checksum", Header), ("Repr-Digest", Header), ("Upload-Concat", Header), ("Upload-Complete", Header),
        ("Upload-Draft-Interop-Version", Header), ("Content-Digest", Header), ("Content-Disposition", Header), ("Idempotency-Key", Header),
    ),
    request_body(description = "First bytes, if any", content(
        (Option<Vec<u8>> = "application/offset+octet-stream"), (Option<Vec<u8>> = "application/octet-stream"),
    )),
    responses(
        (status = 201, description = "It is open, or complete", body = ref("#/components/schemas/MediaCreated"), headers(
            ("Tus-Resumable"), ("Location"), ("Streamgate-Media-Id"), ("Upload-Offset"), ("Upload-Expires"), ("Upload-Complete"),
            ("Upload-Limit"), ("Idempotency-Replayed"),
        )),
        (status = 412, description = "Another version of tus is spoken here", headers(("Tus-Version"))),
        (status = 413, description = "Larger than an upload may be"),
        (status = 415, description = "A form, or coded bytes"),
        (status = 423, description = "Another request holds the upload"),
        (status = 431, description = "The metadata is longer than its limit"),
        (status = 460, description = "The bytes do not have the declared checksum; none was kept"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn create_upload(
    Extract(state): Extract<UploadState>,
    who: Principal,
    address: PublicAddress,
    parts: Parts,
    mut body: Body,
) -> Response {
    let shared = state.shared;
    let resumable = ResumableRequest::of_creation(&parts.headers);
    let work = {
        let shared = Arc::clone(&shared);
        async move {
            let outcome = if resumable.is_some() {
                Box::pin(resumable::create(&shared, &who, &address, None, (&parts, &mut body))).await
            } else {
                Box::pin(create_upload_checked(&shared, &who, &address, &parts, &mut body)).await
            };
            if outcome.is_err() {
                shared.drain_body(&parts.headers, &mut body).await;
            }
            outcome
        }
    };
    let outcome = shared.run_detached(work).await;
    ResumableRequest::outcome_response(resumable, &shared, outcome)
}

async fn create_upload_checked(
    shared: &Arc<UploadContext>,
    who: &Principal,
    address: &PublicAddress,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, UploadRefusal> {
    let headers = &parts.headers;
    protocol::check_version(headers)?;
    protocol::check_known_fields(headers)?;
    let UploadCreation { length_bytes, metadata, concat, repr_digest, upload } =
        protocol::parse_creation(headers, shared.config.metadata_bytes_max)?;
    let size_bytes_max = shared.config.size_bytes_max;
    let room = length_bytes.unwrap_or(size_bytes_max);
    if room > size_bytes_max || upload.as_ref().and_then(|u| u.content_bytes).is_some_and(|n| n > room) {
        return Err(UploadRefusal::TooLarge);
    }
    let claim = parts.extensions.get::<IdempotencyClaim>();
    if let Some(claim) = claim
        && let Some(mut ledger) = lifecycle::find_earlier_upload(shared, who, claim).await?
    {
        continue_final(shared, who, &mut ledger).await?;
        // What is there already is not written again.
        shared.drain_body(headers, body).await;
        return created_response(address, &ledger);
    }
    let mut record = lifecycle::new_record(shared, who, length_bytes);
    record.concat = concat.as_ref().map(ConcatRequest::to_record);
    if let Some(claim) = claim {
        record.upload_id = UploadId::from_bytes(claim.derive_id(0));
    }
    metadata.describe(who, &shared.profiles, &mut record)?;
    record.digest = repr_digest.map(|d| d.to_record());
    if record.is_final() {
        let ledger = create_final(shared, who, record).await?;
        return created_response(address, &ledger);
    }
    let ledger = lifecycle::begin_upload(shared, record).await?;
    let ledger = match upload {
        Some(append) if !ledger.is_full() => {
            let (grant_id, upload_id) = (ledger.record().grant_id, ledger.upload_id());
            let appended = tus::append_body(shared, ledger, append, body).await;
            // Nobody gets its address any more, unless the same request comes again; the grant is for another one.
            if appended.is_err() && grant_id.is_some() && claim.is_none() {
                let ended = lifecycle::end_unknown(shared, upload_id).await;
                if let Err(refusal) = ended {
                    tracing::debug!(?refusal, upload.id = %upload_id, "its grant stays used until it expires");
                }
            }
            appended?
        }
        _ => ledger,
    };
    created_response(address, &ledger)
}

/// Makes a final upload and joins its parts if they are there. The same request again gets the same upload.
async fn create_final(
    shared: &Arc<UploadContext>,
    who: &Principal,
    mut record: UploadRecord,
) -> Result<FencedUploadRecord, UploadRefusal> {
    let parts = FinalParts::load(shared, who, record.part_ids()).await?;
    if let Some(upload_id) = parts.final_upload_id {
        let mut earlier = FencedUploadRecord::load(shared, upload_id, who).await?;
        earlier.check_not_ended()?;
        if earlier.record().part_ids() != record.part_ids() {
            return Err(ConcatRequest::refusal("names a part of another upload"));
        }
        if earlier.record().status == UploadStatus::Open {
            assign_and_join(shared, parts, &mut earlier).await?;
        }
        return Ok(earlier);
    }
    if parts.length_bytes > shared.config.size_bytes_max {
        return Err(UploadRefusal::TooLarge);
    }
    record.length_bytes = Some(parts.length_bytes);
    let mut ledger = lifecycle::begin_upload(shared, record).await?;
    if let Err(refusal) = parts.assign(ledger.upload_id()).await {
        // Nothing is left that could take parts from another one.
        lifecycle::terminate_upload(shared, &mut ledger, Some("parts_refused")).await?;
        return Err(refusal);
    }
    concat::join_soon(shared, ledger.upload_id()).await;
    ledger.reload().await?;
    Ok(ledger)
}

/// Goes on with a final upload that a process made which died before it had given it all of its parts.
async fn continue_final(
    shared: &Arc<UploadContext>,
    who: &Principal,
    ledger: &mut FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    if !ledger.record().is_final() || ledger.record().status != UploadStatus::Open {
        return Ok(());
    }
    let parts = FinalParts::load(shared, who, ledger.record().part_ids()).await?;
    assign_and_join(shared, parts, ledger).await
}

async fn assign_and_join(
    shared: &Arc<UploadContext>,
    parts: FinalParts,
    ledger: &mut FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    parts.assign(ledger.upload_id()).await?;
    concat::join_soon(shared, ledger.upload_id()).await;
    ledger.reload().await
}

fn created_response(address: &PublicAddress, ledger: &FencedUploadRecord) -> Result<Response, UploadRefusal> {
    let document =
        MediaCreatedDocument { media_id: ledger.media_id(), upload_id: ledger.upload_id(), upload_url: None };
    let mut response = (StatusCode::CREATED, Json(document)).into_response();
    let answered = response.headers_mut();
    answered.insert(header::LOCATION, response::upload_location(address, ledger.upload_id())?);
    answered.insert(fields::MEDIA_ID, response::media_id_header(ledger.media_id())?);
    tus::insert_progress(answered, ledger.record());
    tus::insert_expiry(answered, ledger.record());
    Ok(response)
}
