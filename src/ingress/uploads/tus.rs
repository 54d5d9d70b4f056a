//! What tus asks of an upload that is there: each handler reads headers, asks the pure core, and lets a session take the bytes.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State as Extract},
    http::Method,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemas::{
    access::ApiKeyScope,
    upload::{UploadConcat, UploadProtocol, UploadRecord, UploadStatus},
};

use super::{
    UploadContext, UploadState, concat,
    digest::DigestChecks,
    fenced_record::FencedUploadRecord,
    fields, lifecycle, parse_upload_id,
    protocol::{self, UploadAppend},
    refusal::UploadRefusal,
    response,
    resumable::{self, ResumableRequest},
    session::{BodyEndPolicy, BodyPolicy},
    takeover::{self, EvictionPolicy, TakeoverOutcome},
};
use crate::jobs::cancellation::{JobCanceller, cancel_job};
use auth::Principal;
use web::access_sums::CausedNoEvent;
use web::{
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

pub(super) static UPLOAD_OPTIONS: Operation =
    Operation::change(Method::OPTIONS, "/v1/uploads", OperationAccess::Open, None, &[]).with_any_query();

/// Ask what is offered
#[utoipa::path(
    options,
    path = UPLOAD_OPTIONS.path,
    tag = "upload",
    operation_id = "upload_options",
    responses((
        status = 204, description = "Version, extensions and limits of tus, and limits of resumable uploads",
        headers(
            ("Tus-Version"), ("Tus-Extension"), ("Tus-Max-Size"), ("Tus-Checksum-Algorithm"), ("Accept-Patch"), ("Upload-Limit"),
        ),
    )),
)]
pub(super) async fn upload_options(Extract(state): Extract<UploadState>) -> Response {
    let size_max = HeaderValue::from(state.shared.config.size_bytes_max);
    let headers = [
        (fields::TUS_VERSION, HeaderValue::from_static(fields::VERSION)),
        (fields::TUS_EXTENSION, HeaderValue::from_static(protocol::EXTENSIONS)),
        (fields::TUS_MAX_SIZE, size_max),
        (fields::TUS_CHECKSUM_ALGORITHM, HeaderValue::from_static(fields::ALGORITHMS)),
    ];
    let mut response = (StatusCode::NO_CONTENT, headers).into_response();
    resumable::insert_offer(response.headers_mut(), &state.shared);
    response
}

pub(super) static OPTIONS_OF_UPLOAD: Operation =
    Operation::change(Method::OPTIONS, "/v1/uploads/{upload_id}", OperationAccess::Open, None, &[])
        .with_any_query();

/// Ask an upload what is offered
#[utoipa::path(
    options,
    path = OPTIONS_OF_UPLOAD.path,
    tag = "upload",
    operation_id = "upload_options_of_one",
    params(("upload_id", Path)),
    responses((
        status = 204, description = "Version, extensions and limits of tus; the same for every upload",
        headers(
            ("Tus-Version"), ("Tus-Extension"), ("Tus-Max-Size"), ("Tus-Checksum-Algorithm"), ("Accept-Patch"), ("Upload-Limit"),
        ),
    )),
)]
pub(super) async fn options_of_upload(state: Extract<UploadState>, Path(id): Path<String>) -> Response {
    match parse_upload_id(&id) {
        Ok(_) => upload_options(state).await,
        Err(refusal) => refusal.into_problem().into_response(),
    }
}

/// Says how far an upload is, and what it is to others. Of one that is still being joined no offset is named (tus 1.0, concatenation).
pub(super) fn insert_progress(headers: &mut HeaderMap, record: &UploadRecord) {
    if !record.is_final() || record.status == UploadStatus::Received {
        headers.insert(fields::UPLOAD_OFFSET, HeaderValue::from(record.offset_bytes));
    }
    let concat = match &record.concat {
        None => return,
        Some(UploadConcat::Partial { .. }) => Ok(HeaderValue::from_static("partial")),
        Some(UploadConcat::Final { header, .. }) => HeaderValue::from_str(header),
    };
    if let Ok(concat) = concat {
        headers.insert(fields::UPLOAD_CONCAT, concat);
    }
}

pub(super) static APPEND_TO_UPLOAD: Operation = Operation::change(
    Method::PATCH,
    "/v1/uploads/{upload_id}",
    OperationAccess::Principal(ApiKeyScope::Upload),
    None,
    &["gate.changed", "upload.received", "upload.terminated", "media.removed"],
)
.with_any_query();

/// Append bytes
///
/// The bytes are durable once the answer tells their offset; what arrived before a connection broke is kept. An upload goes on in the
/// protocol that it was opened by: tus (`application/offset+octet-stream`), or Resumable Uploads for HTTP (`application/partial-upload`).
#[utoipa::path(
    patch,
    path = APPEND_TO_UPLOAD.path,
    tag = "upload",
    operation_id = "append_to_upload",
    params(
        ("upload_id", Path), ("Tus-Resumable", Header), ("Upload-Offset", Header), ("Upload-Length", Header),
        ("Upload-Checksum", Header), ("Upload-Complete", Header), ("Upload-Draft-Interop-Version", Header), ("Content-Digest", Header),
    ),
    request_body(description = "The bytes", content(
        (Vec<u8> = "application/offset+octet-stream"), (Vec<u8> = "application/partial-upload"),
    )),
    responses(
        (status = 201, description = "A resumable upload is complete", body = ref("#/components/schemas/MediaCreated"),
         headers(("Upload-Complete"), ("Upload-Offset"), ("Streamgate-Media-Id"))),
        (status = 204, description = "They are durable", headers(
            ("Tus-Resumable"), ("Upload-Offset"), ("Upload-Expires"), ("Upload-Complete"), ("Upload-Limit"),
        )),
        (status = 409, description = "The bytes are for another offset; the answer tells the true one", headers(("Upload-Offset"))),
        (status = 410, description = "The upload has ended"),
        (status = 412, description = "Another version of tus is spoken here", headers(("Tus-Version"))),
        (status = 413, description = "More bytes than the upload may have"),
        (status = 415, description = "Another media type than that of the protocol, or coded bytes"),
        (status = 423, description = "Another request holds the upload"),
        (status = 460, description = "The bytes do not have the declared checksum; none was kept"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn append_to_upload(
    Extract(state): Extract<UploadState>,
    Path(id): Path<String>,
    who: Principal,
    parts: Parts,
    mut body: Body,
) -> Response {
    let shared = state.shared;
    let resumable = ResumableRequest::of_append(&parts.headers);
    let work = {
        let shared = Arc::clone(&shared);
        async move {
            let outcome = if resumable.is_some() {
                Box::pin(resumable::append(&shared, &id, &who, (&parts, &mut body))).await
            } else {
                append_to_upload_checked(&shared, &id, &who, &parts.headers, &mut body).await
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

async fn append_to_upload_checked(
    shared: &Arc<UploadContext>,
    id: &str,
    who: &Principal,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, UploadRefusal> {
    protocol::check_version(headers)?;
    protocol::check_known_fields(headers)?;
    let append = protocol::parse_append(headers)?;
    let ledger = FencedUploadRecord::load(shared, parse_upload_id(id)?, who).await?;
    ledger.check_not_ended()?;
    protocol::check_protocol(headers, ledger.record())?;
    if ledger.record().is_final() {
        return Err(UploadRefusal::Final);
    }
    let ledger = append_body(shared, ledger, append, body).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(fields::UPLOAD_OFFSET, HeaderValue::from(ledger.record().offset_bytes));
    insert_expiry(response.headers_mut(), ledger.record());
    if ledger.record().status != UploadStatus::Received {
        response.extensions_mut().insert(CausedNoEvent);
    }
    Ok(response)
}

/// Takes the upload over and appends the body to it.
pub(super) async fn append_body(
    shared: &Arc<UploadContext>,
    ledger: FencedUploadRecord,
    mut append: UploadAppend,
    body: &mut Body,
) -> Result<FencedUploadRecord, UploadRefusal> {
    let checks = match append.checksum.take() {
        None if append.has_trailer => DigestChecks::for_trailer(),
        declared => DigestChecks::new(declared),
    };
    let policy = BodyPolicy { checks, on_end: BodyEndPolicy::Keep, progress: None };
    let ledger = match takeover::open_session(shared, ledger, &append, policy).await? {
        TakeoverOutcome::Session(session) => session.run(body).await?,
        TakeoverOutcome::Complete(ledger) => *ledger,
    };
    if let Some(final_upload_id) = ledger.record().final_upload_id()
        && ledger.record().status == UploadStatus::Received
    {
        concat::join_soon(shared, final_upload_id).await;
    }
    Ok(ledger)
}

pub(super) static READ_UPLOAD_OFFSET: Operation = Operation::change(
    Method::HEAD,
    "/v1/uploads/{upload_id}",
    OperationAccess::Principal(ApiKeyScope::Upload),
    None,
    &[],
)
.with_any_query();

/// Ask how far an upload is
///
/// A running append is made to let go first, so that the offset told is the one to go on from.
#[utoipa::path(
    head,
    path = READ_UPLOAD_OFFSET.path,
    tag = "upload",
    operation_id = "read_upload_offset",
    params(("upload_id", Path), ("Tus-Resumable", Header)),
    responses(
        (status = 200, description = "How far it is", headers(
            ("Tus-Resumable"), ("Upload-Offset"), ("Upload-Length"), ("Upload-Defer-Length"), ("Upload-Metadata"), ("Upload-Expires"),
            ("Streamgate-Media-Id"), ("Upload-Concat"),
        )),
        (status = 204, description = "How far a resumable upload is", headers(
            ("Upload-Complete"), ("Upload-Offset"), ("Upload-Length"), ("Upload-Limit"), ("Streamgate-Media-Id"),
        )),
        (status = 410, description = "The upload has ended"),
        (status = 412, description = "Another version of tus is spoken here", headers(("Tus-Version"))),
    ),
)]
pub(super) async fn read_upload_offset(
    Extract(state): Extract<UploadState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Response {
    let shared = state.shared;
    let work = {
        let shared = Arc::clone(&shared);
        async move { read_offset_checked(&shared, &id, &who, &headers).await }
    };
    let mut response = response::outcome_response(shared.run_detached(work).await);
    // Clients give an upload up on most 4xx of a HEAD; a busy moment is no reason to.
    if response.status() == StatusCode::LOCKED {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) static READ_UPLOAD: Operation =
    Operation::read("/v1/uploads/{upload_id}", OperationAccess::Principal(ApiKeyScope::Upload), None)
        .with_any_query();

/// Ask how far a resumable upload is
///
/// For clients of Resumable Uploads for HTTP that ask by GET. Unlike HEAD it lets a running append go on, so that the offset may be passed
/// already. The bytes are never served here.
#[utoipa::path(
    get,
    path = READ_UPLOAD.path,
    tag = "upload",
    operation_id = "read_upload",
    params(("upload_id", Path), ("Upload-Draft-Interop-Version", Header)),
    responses(
        (status = 204, description = "How far it is", headers(
            ("Upload-Complete"), ("Upload-Offset"), ("Upload-Length"), ("Upload-Limit"), ("Streamgate-Media-Id"),
        )),
        (status = 405, description = "tus asks by HEAD", headers(("Allow"))),
        (status = 410, description = "The upload has ended"),
        (status = 412, description = "The upload was opened by tus, which asks by HEAD", headers(("Tus-Version"))),
    ),
)]
pub(super) async fn read_upload(
    state: Extract<UploadState>,
    id: Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Response {
    if headers.contains_key(fields::TUS_RESUMABLE) {
        return refuse_method().await;
    }
    // GET changes nothing (RFC 9110, 9.2.1), and so disturbs no request that appends.
    let shared = &state.shared;
    let outcome = async {
        let ledger = FencedUploadRecord::load(shared, parse_upload_id(&id)?, &who).await?;
        ledger.check_not_ended()?;
        protocol::check_protocol(&headers, ledger.record())?;
        resumable::read_offset(shared, &headers, ledger.record())
    };
    let mut response = response::outcome_response(outcome.await);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// tus knows no GET: the bytes of an upload are never served here.
async fn refuse_method() -> Response {
    web::request::no_such_method()
        .await
        .with_header(header::ALLOW, HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST"))
        .into_response()
}

async fn read_offset_checked(
    shared: &Arc<UploadContext>,
    id: &str,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<Response, UploadRefusal> {
    protocol::check_named_version(headers)?;
    let mut ledger = FencedUploadRecord::load(shared, parse_upload_id(id)?, who).await?;
    ledger.check_not_ended()?;
    protocol::check_protocol(headers, ledger.record())?;
    // Who joins parts or fetches is no client that could go on elsewhere: it is left in peace.
    let has_client = !ledger.record().is_final() && ledger.record().fetch.is_none();
    if ledger.record().status == UploadStatus::Open && has_client {
        takeover::displace_writer(shared, &mut ledger, EvictionPolicy::Yes).await?;
        ledger.check_not_ended()?;
        finish_with_timeout(shared, &mut ledger).await?;
    }
    let record = ledger.record();
    if record.protocol != UploadProtocol::Tus {
        return resumable::read_offset(shared, headers, record);
    }
    let mut response = StatusCode::OK.into_response();
    let answered = response.headers_mut();
    insert_progress(answered, record);
    match record.length_bytes {
        Some(length) => answered.insert(fields::UPLOAD_LENGTH, HeaderValue::from(length)),
        None if record.is_final() => None,
        None => answered.insert(fields::UPLOAD_DEFER_LENGTH, HeaderValue::from_static("1")),
    };
    if let Ok(raw) = HeaderValue::from_str(&record.metadata_raw)
        && !raw.is_empty()
    {
        answered.insert(fields::UPLOAD_METADATA, raw);
    }
    answered.insert(fields::MEDIA_ID, response::media_id_header(record.media_id)?);
    insert_expiry(answered, record);
    Ok(response)
}

/// The same for a request that only asks: what takes longer goes on without it.
async fn finish_with_timeout(
    shared: &Arc<UploadContext>,
    ledger: &mut FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    if ledger.record().status != UploadStatus::Open || !ledger.is_full() {
        return Ok(());
    }
    let upload_id = ledger.upload_id();
    let work = {
        let shared = Arc::clone(shared);
        async move {
            let mut ledger =
                FencedUploadRecord::load_any(&shared.bus, upload_id, shared.config.ended_kept_ms).await?;
            let finished = lifecycle::finish_interrupted(&shared, &mut ledger).await;
            if let Err(refusal) = &finished {
                tracing::warn!(?refusal, upload.id = %upload_id, "a full upload could not be completed yet");
            }
            finished
        }
    };
    let running = shared.tasks.spawn(web::request::with_current_id(Box::pin(work)));
    match tokio::time::timeout(shared.config.finish_timeout(), running).await {
        Ok(Ok(finished)) => {
            finished?;
            ledger.reload().await
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "a completion ended in a panic");
            Err(UploadRefusal::Stopping)
        }
        Err(_) => Ok(()),
    }
}

pub(super) static END_UPLOAD: Operation = Operation::change(
    Method::DELETE,
    "/v1/uploads/{upload_id}",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &["upload.terminated", "media.removed", "job.cancelled"],
)
.with_any_query();

/// End an unfinished upload
#[utoipa::path(
    delete,
    path = END_UPLOAD.path,
    tag = "upload",
    operation_id = "end_upload",
    params(("upload_id", Path), ("Tus-Resumable", Header)),
    responses(
        (status = 204, description = "It is ended and frees what it held", headers(("Tus-Resumable"))),
        (status = 403, description = "It is complete, or not for this key to end: `code` says which"),
        (status = 409, description = "Another request has taken the upload over", headers(("Upload-Offset"))),
        (status = 410, description = "It has ended already"),
        (status = 412, description = "Another version of tus is spoken here", headers(("Tus-Version"))),
        (status = 423, description = "Another request holds the upload"),
    ),
)]
pub(super) async fn end_upload(
    Extract(state): Extract<UploadState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Response {
    let shared = state.shared;
    let work = {
        let shared = Arc::clone(&shared);
        async move { end_upload_checked(&shared, &id, &who, &headers).await }
    };
    response::outcome_response(Box::pin(shared.run_detached(work)).await)
}

async fn end_upload_checked(
    shared: &Arc<UploadContext>,
    id: &str,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<Response, UploadRefusal> {
    protocol::check_named_version(headers)?;
    let mut ledger = FencedUploadRecord::load(shared, parse_upload_id(id)?, who).await?;
    ledger.check_not_ended()?;
    protocol::check_protocol(headers, ledger.record())?;
    if !ledger.record().is_unfinished() || concat::is_needed(&shared.bus, ledger.record()).await? {
        return Err(UploadRefusal::Finished);
    }
    let _guard = shared
        .slots
        .acquire(ledger.upload_id(), shared.config.takeover_timeout())
        .await
        .ok_or(UploadRefusal::Busy)?;
    takeover::release_remote_writer(shared, &mut ledger, EvictionPolicy::No).await?;
    lifecycle::terminate_upload(shared, &mut ledger, None).await?;
    if let Some(fetch) = &ledger.record().fetch {
        cancel_job(&shared.bus, fetch.job_id, JobCanceller::Person(&who.owner)).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) static OVERRIDE_METHOD: Operation = Operation::change(
    Method::POST,
    "/v1/uploads/{upload_id}",
    OperationAccess::Principal(ApiKeyScope::Upload),
    None,
    &["gate.changed", "upload.received", "upload.terminated", "media.removed", "job.cancelled"],
)
.with_any_query();

/// Send PATCH, DELETE or HEAD by another name
///
/// For clients behind proxies that know no other method: headers, body and answer are those of the method that is meant.
#[utoipa::path(
    post,
    path = OVERRIDE_METHOD.path,
    tag = "upload",
    operation_id = "override_upload_method",
    params(
        ("upload_id", Path), ("X-HTTP-Method-Override", Header), ("Tus-Resumable", Header), ("Upload-Complete", Header),
        ("Idempotency-Key", Header),
    ),
    request_body(description = "The bytes, for PATCH", content(
        (Option<Vec<u8>> = "application/offset+octet-stream"), (Option<Vec<u8>> = "application/partial-upload"),
    )),
    responses(
        (status = 200, description = "As HEAD", headers(("Tus-Resumable"), ("Upload-Offset"))),
        (status = 201, description = "As PATCH of a resumable upload", body = ref("#/components/schemas/MediaCreated"),
         headers(("Upload-Complete"), ("Upload-Offset"), ("Streamgate-Media-Id"))),
        (status = 204, description = "As PATCH or DELETE", headers(("Tus-Resumable"))),
        (status = 405, description = "No method is named that is taken here", headers(("Allow"))),
        (status = 410, description = "The upload has ended"),
        (status = 412, description = "Another version of tus is spoken here", headers(("Tus-Version"))),
        (status = 413, description = "More bytes than the upload may have"),
        (status = 415, description = "Another media type than application/offset+octet-stream"),
        (status = 423, description = "Another request holds the upload"),
        (status = 460, description = "The bytes do not have the declared checksum; none was kept"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn override_method(
    state: Extract<UploadState>,
    path: Path<String>,
    who: Principal,
    parts: Parts,
    body: Body,
) -> Response {
    match parts.headers.get(&METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
        Some(b"PATCH") => append_to_upload(state, path, who, parts, body).await,
        Some(b"DELETE") => Box::pin(end_upload(state, path, who, parts.headers)).await,
        Some(b"HEAD") => read_upload_offset(state, path, who, parts.headers).await,
        _ => refuse_method().await,
    }
}

/// Sets the header that says how long the upload may wait for more bytes, while it is open.
pub(super) fn insert_expiry(headers: &mut HeaderMap, record: &UploadRecord) {
    if !record.is_unfinished() {
        return;
    }
    let expires = std::time::UNIX_EPOCH + std::time::Duration::from_millis(record.expires_at_ms);
    if let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(expires)) {
        headers.insert(fields::UPLOAD_EXPIRES, value);
    }
}
