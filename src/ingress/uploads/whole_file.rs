//! `POST /v1/media` with a media body: a whole file in one request, no protocol to learn.
//!
//! It goes the way of every upload. The client has no URL to continue at, so a request that ends early leaves nothing.
//!
//! Limits: under one `Idempotency-Key` at most [`super::lifecycle::ATTEMPTS_MAX`] requests may end early; the next one needs another key.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State as Extract},
    http::Method,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemas::{
    access::ApiKeyScope,
    ids::{MediaId, UploadId},
    upload::UploadStatus,
};

use super::{
    UploadContext, UploadState,
    digest::DigestChecks,
    disposition,
    fenced_record::FencedUploadRecord,
    fetch_request, fields, form,
    lifecycle::{self, EarlierUpload},
    metadata,
    protocol::{self, UploadAppend},
    refusal::UploadRefusal,
    response::{self, MediaCreatedDocument},
    resumable::{self, ResumableRequest},
    session::{BodyEndPolicy, BodyPolicy},
    takeover::{self, TakeoverOutcome},
};
use crate::capacity;
use auth::Principal;
use web::{
    idempotency::IdempotencyClaim,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_page,
    public_address::PublicAddress,
};

pub(super) static CREATE_MEDIA: Operation = Operation::change(
    Method::POST,
    "/v1/media",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &[
        "upload.created",
        "upload.grant_used",
        "gate.changed",
        "upload.received",
        "upload.terminated",
        "media.removed",
        "job.queued",
    ],
)
.with_room(capacity::UPLOAD);

/// Bring in a whole file in one request
///
/// For clients without tus. A request that ends early leaves nothing, unless it has `Upload-Complete`: then it opens an upload by
/// Resumable Uploads for HTTP, as at `/v1/uploads`, whose address `Location` is. A form with one file (`curl -F file=@clip.mp4`) is taken
/// as well; `title`, `description` and `visibility` stand before the file.
///
/// JSON without an address opens an entry whose bytes come later: the answer has the address of its upload (`upload_url`), to which any
/// tus client sends them. An entry whose bytes do not come in time goes as an upload does that nobody finishes.
///
/// JSON with the address of a file begins a job of the kind `fetch`, which brings it: over HTTP or HTTPS, from public hosts alone, with
/// redirects. A source that is cut is asked for the rest, if it says by a strong `ETag` or `Last-Modified` that it is still the same one.
/// The job fails with `fetch_refused` where the source refuses, `fetch_source_changed` where it changed on the way, and others that begin
/// with `fetch_`; the upload and the medium end with it. Who cancels the job, or deletes the upload, ends both.
///
/// Either says of the medium what `PATCH /v1/media/{media_id}` takes by the same members: `title`, `description`, `tags`, `language`,
/// `links`, `contact_email`, `attributes`, `mint_tx` and `visibility`. They are checked before anything is made, and stand in the document
/// when the request is answered.
#[utoipa::path(
    post,
    path = CREATE_MEDIA.path,
    tag = "upload",
    operation_id = "create_media",
    params(
        ("Content-Disposition", Header), ("Upload-Metadata", Header), ("Content-Digest", Header), ("Repr-Digest", Header),
        ("Idempotency-Key", Header), ("Upload-Complete", Header), ("Upload-Draft-Interop-Version", Header),
    ),
    request_body(description = "The file", content(
        (Vec<u8> = "application/octet-stream"), (Vec<u8> = "video/mp4"), (Vec<u8> = "video/*"), (Vec<u8> = "audio/*"),
        (Vec<u8> = "image/*"), (ref("#/components/schemas/MediaRequest") = "application/json"),
    )),
    responses(
        (status = 201, description = "It is stored and will be verified, or there is an entry for it", body = ref("#/components/schemas/MediaCreated"),
         headers(("Location"), ("Streamgate-Media-Id"), ("Idempotency-Replayed"))),
        (status = 202, description = "It is being fetched", body = ref("#/components/schemas/MediaFetchStarted"),
         headers(("Location"), ("Streamgate-Media-Id"), ("Idempotency-Replayed"))),
        (status = 410, description = "Too many requests with this Idempotency-Key ended early"),
        (status = 413, description = "Larger than an upload may be"),
        (status = 415, description = "No media type that could be a medium's"),
        (status = 422, description = "Nothing is fetched from this address, or there is no such profile: `code` says which"),
        (status = 423, description = "Another request holds the upload"),
        (status = 431, description = "The metadata is longer than its limit"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn create_media(
    state: Extract<UploadState>,
    who: Principal,
    address: PublicAddress,
    parts: Parts,
    body: Body,
) -> Response {
    if web::body::is_json(&parts.headers) {
        return fetch_request::create_by_request(&state.shared, who, address, parts, body).await;
    }
    if problem_page::is_form(&parts.headers) {
        let sender = form::FormSender::Principal(who);
        return form::take_form(&state.shared, sender, address, parts, body).await;
    }
    take_file(state, who, address, parts, body, None).await
}

pub(super) static PUT_FILE: Operation = Operation::change(
    Method::PUT,
    "/v1/files/{filename}",
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
.with_room(capacity::UPLOAD);

/// Bring in a whole file under its name
///
/// What `curl -T clip.mp4 .../v1/files/` sends: the name of the file stands in the path. It makes a new medium each time; a request
/// that ends early leaves nothing.
#[utoipa::path(
    put,
    path = PUT_FILE.path,
    tag = "upload",
    operation_id = "put_file",
    params(
        ("filename", Path), ("Upload-Metadata", Header), ("Content-Digest", Header), ("Repr-Digest", Header),
        ("Upload-Complete", Header), ("Upload-Draft-Interop-Version", Header),
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/octet-stream", description = "The file"),
    responses(
        (status = 201, description = "It is stored and will be verified", body = ref("#/components/schemas/MediaCreated"),
         headers(("Location"), ("Streamgate-Media-Id"))),
        (status = 413, description = "Larger than an upload may be"),
        (status = 415, description = "No media type that could be a medium's"),
        (status = 423, description = "Another request holds the upload"),
        (status = 431, description = "The metadata is longer than its limit"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn put_file(
    state: Extract<UploadState>,
    Path(name): Path<String>,
    who: Principal,
    address: PublicAddress,
    mut parts: Parts,
    body: Body,
) -> Response {
    // curl names no type: what the bytes are is asked of them anyway.
    let any_type = HeaderValue::from_static("application/octet-stream");
    parts.headers.entry(header::CONTENT_TYPE).or_insert(any_type);
    take_file(state, who, address, parts, body, metadata::clean_filename(&name)).await
}

async fn take_file(
    Extract(state): Extract<UploadState>,
    who: Principal,
    address: PublicAddress,
    parts: Parts,
    mut body: Body,
    filename: Option<String>,
) -> Response {
    let shared = state.shared;
    let resumable = ResumableRequest::of_creation(&parts.headers);
    let work = {
        let shared = Arc::clone(&shared);
        async move {
            let outcome = if resumable.is_some() {
                Box::pin(resumable::create(&shared, &who, &address, filename, (&parts, &mut body))).await
            } else {
                let file = NamedFile { address: &address, filename };
                create_media_checked(&shared, &who, file, &parts, &mut body).await
            };
            if outcome.is_err() {
                shared.drain_body(&parts.headers, &mut body).await;
            }
            outcome
        }
    };
    let outcome = Box::pin(shared.run_detached(work)).await;
    ResumableRequest::outcome_response(resumable, &shared, outcome)
}

/// What the target of a request says about the file.
struct NamedFile<'a> {
    /// Where the client reached us.
    address: &'a PublicAddress,
    /// The name in the path.
    filename: Option<String>,
}

async fn create_media_checked(
    shared: &Arc<UploadContext>,
    who: &Principal,
    file: NamedFile<'_>,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, UploadRefusal> {
    let headers = &parts.headers;
    protocol::check_whole_file_fields(headers)?;
    let content_type = parse_media_type(headers)?;
    let length_bytes = protocol::parse_content_length(headers)?;
    let size_bytes_max = shared.config.size_bytes_max;
    if length_bytes.is_some_and(|n| n > size_bytes_max) {
        return Err(UploadRefusal::TooLarge);
    }
    let metadata = protocol::parse_upload_metadata(headers, shared.config.metadata_bytes_max)?;
    let checks = DigestChecks::new(protocol::parse_body_digests(headers)?);
    let mut record = lifecycle::new_record(shared, who, length_bytes);
    record.content_type = Some(content_type);
    record.filename = file.filename.or_else(|| disposition::parse_filename(headers));
    metadata.describe(who, &shared.profiles, &mut record)?;
    if let Some(claim) = parts.extensions.get::<IdempotencyClaim>() {
        match lifecycle::find_earlier_whole(shared, who, claim).await? {
            EarlierUpload::Whole(ledger) => {
                // What is there already is not written again.
                shared.drain_body(headers, body).await;
                return created_response(file.address, ledger.upload_id(), ledger.media_id());
            }
            EarlierUpload::Nothing(upload_id) => record.upload_id = upload_id,
        }
    }
    let ledger = lifecycle::begin_upload(shared, record).await?;
    let (upload_id, media_id) = (ledger.upload_id(), ledger.media_id());
    if !ledger.is_full() {
        receive_or_abandon(shared, ledger, who, checks, body).await?;
    }
    created_response(file.address, upload_id, media_id)
}

/// Receives a file that nobody can continue: what does not arrive whole leaves nothing.
pub(super) async fn receive_or_abandon(
    shared: &Arc<UploadContext>,
    ledger: FencedUploadRecord,
    who: &Principal,
    checks: DigestChecks,
    body: &mut Body,
) -> Result<(), UploadRefusal> {
    let upload_id = ledger.upload_id();
    let Err(refusal) = receive_file(shared, ledger, checks, body).await else { return Ok(()) };
    abandon_upload(shared, upload_id, who, refusal_code(&refusal)).await;
    Err(match refusal {
        UploadRefusal::ChecksumMismatch => UploadRefusal::DigestMismatch,
        other => other,
    })
}

pub(super) fn created_response(
    address: &PublicAddress,
    upload_id: UploadId,
    media_id: MediaId,
) -> Result<Response, UploadRefusal> {
    let mut response =
        (StatusCode::CREATED, Json(MediaCreatedDocument { media_id, upload_id, upload_url: None }))
            .into_response();
    let location = format!("{}/v1/media/{media_id}", address.prefix());
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(&location).map_err(|_| UploadRefusal::NotFound)?);
    response.headers_mut().insert(fields::MEDIA_ID, response::media_id_header(media_id)?);
    Ok(response)
}

async fn receive_file(
    shared: &Arc<UploadContext>,
    ledger: FencedUploadRecord,
    checks: DigestChecks,
    body: &mut Body,
) -> Result<(), UploadRefusal> {
    let append = UploadAppend::default();
    let policy = BodyPolicy { checks, on_end: BodyEndPolicy::Complete, progress: None };
    let ledger = match takeover::open_session(shared, ledger, &append, policy).await? {
        TakeoverOutcome::Session(session) => session.run(body).await?,
        TakeoverOutcome::Complete(ledger) => *ledger,
    };
    if ledger.record().status == UploadStatus::Received { Ok(()) } else { Err(UploadRefusal::Cut) }
}

/// Ends an upload that nobody can continue.
async fn abandon_upload(shared: &UploadContext, upload_id: UploadId, who: &Principal, code: &'static str) {
    let ended = async {
        let mut ledger = FencedUploadRecord::load(shared, upload_id, who).await?;
        lifecycle::terminate_upload(shared, &mut ledger, Some(code)).await
    };
    if let Err(refusal) = ended.await {
        tracing::debug!(?refusal, upload.id = %upload_id, "an abandoned upload stays until it expires");
    }
}

fn refusal_code(refusal: &UploadRefusal) -> &'static str {
    match refusal {
        UploadRefusal::ChecksumMismatch => "digest_mismatch",
        UploadRefusal::TooLarge => "upload_too_large",
        UploadRefusal::Idle => "upload_idle",
        UploadRefusal::TooSlow => "upload_too_slow",
        UploadRefusal::Cut => "body_cut",
        UploadRefusal::Stopping => "stopping",
        _ => "upload_failed",
    }
}

/// The body's media type; one that can't be a media file is refused before a byte is read.
fn parse_media_type(headers: &HeaderMap) -> Result<String, UploadRefusal> {
    let wanted = UploadRefusal::MediaType("a media type such as video/mp4, or application/octet-stream");
    let Some(found) =
        headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(metadata::clean_media_type)
    else {
        return Err(wanted);
    };
    if is_media_type(&found) { Ok(found) } else { Err(wanted) }
}

/// True for a type that a medium could have.
pub(super) fn is_media_type(found: &str) -> bool {
    let refused = [
        "application/json",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        protocol::OFFSET_TYPE,
    ];
    let kind = found.split('/').next().unwrap_or_default();
    matches!(kind, "video" | "audio" | "image" | "application") && !refused.contains(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_media_types_only() {
        for (text, takes) in [
            (Some("video/mp4"), true),
            (Some("Video/MP4; codecs=avc1"), true),
            (Some("application/octet-stream"), true),
            (Some("audio/flac"), true),
            (Some("application/json"), false),
            (Some("text/html"), false),
            (Some("multipart/form-data; boundary=x"), false),
            (Some("nonsense"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
            }
            assert_eq!(parse_media_type(&headers).is_ok(), takes, "{text:?}");
        }
    }
}
