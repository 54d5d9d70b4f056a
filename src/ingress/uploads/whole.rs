//! `POST /v1/media` with a media body: a whole file in one request, no protocol to learn.
//!
//! It goes the way of every upload. The client has no URL to continue at, so a request that ends early leaves nothing.
//!
//! Limits: under one `Idempotency-Key` at most [`ATTEMPTS_MAX`] requests may end early; the next one needs another key.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State as Extract,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    ids::{MediaId, UploadId},
    upload::Status,
};
use serde::Serialize;
use serde_json::json;

use super::{
    Shared, State,
    digest::Checks,
    ledger::Ledger,
    metadata,
    protocol::{self, Append},
    refusal::Refusal,
    session::OnEnd,
    takeover::{self, Opened},
    tus,
};
use auth::Principal;
use web::{idempotency::Claim, kind::Kind};

/// Most requests of one key that end early.
const ATTEMPTS_MAX: u8 = 16;

/// What a file in one request became.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaCreated", example = json!({ "media_id": "06db00820dt0303jc5mn0r355k", "upload_id": "06db008209t0303jc5mn0r355k" }))]
pub(super) struct Created {
    /// The medium.
    media_id: MediaId,
    /// The upload that brought it.
    upload_id: UploadId,
}

/// Bring in a whole file in one request
///
/// For whoever speaks no tus. A request that ends early leaves nothing.
#[utoipa::path(
    post,
    path = "/v1/media",
    tag = "upload",
    operation_id = "create_media",
    params(
        ("Content-Disposition", Header), ("Upload-Metadata", Header), ("Content-Digest", Header), ("Repr-Digest", Header),
        ("Idempotency-Key", Header),
    ),
    request_body(description = "The file", content(
        (Vec<u8> = "application/octet-stream"), (Vec<u8> = "video/mp4"), (Vec<u8> = "video/*"), (Vec<u8> = "audio/*"),
        (Vec<u8> = "image/*"),
    )),
    responses(
        (status = 201, description = "It is stored and will be verified", body = ref("#/components/schemas/MediaCreated"),
         headers(("Location"), ("Streamgate-Media-Id"), ("Idempotency-Replayed"))),
        (status = 408, description = "Too few bytes came for too long"),
        (status = 410, description = "Too many requests with this Idempotency-Key ended early"),
        (status = 413, description = "Larger than an upload may be"),
        (status = 415, description = "No media type that could be a medium's"),
        (status = 423, description = "Another request holds the upload"),
        (status = 431, description = "The metadata is longer than its limit"),
        (status = 507, description = "The store is full"),
    ),
    security(("api_key" = [])),
    extensions(("x-events" = json!(["upload.created", "upload.received", "upload.terminated"]))),
)]
pub(super) async fn receive(
    Extract(state): Extract<State>,
    who: Principal,
    parts: Parts,
    mut body: Body,
) -> Response {
    let shared = state.shared;
    let work = {
        let shared = Arc::clone(&shared);
        async move {
            let outcome = receive_checked(&shared, &who, &parts, &mut body).await;
            if outcome.is_err() {
                shared.drain(&parts.headers, &mut body).await;
            }
            outcome
        }
    };
    tus::answer(Box::pin(shared.detached(work)).await)
}

async fn receive_checked(
    shared: &Arc<Shared>,
    who: &Principal,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let headers = &parts.headers;
    let content_type = media_type(headers)?;
    let length_bytes = protocol::content_length(headers)?;
    let size_bytes_max = shared.config.size_bytes_max;
    if length_bytes.is_some_and(|n| n > size_bytes_max) {
        return Err(Refusal::TooLarge);
    }
    let metadata = protocol::metadata(headers, shared.config.metadata_bytes_max)?;
    let checks = Checks::new(protocol::body_digests(headers)?);
    let mut record = tus::new_record(shared, who, length_bytes);
    record.content_type = Some(content_type);
    record.filename = filename(headers).or(metadata.filename);
    record.mint_tx = metadata.mint_tx;
    record.metadata_raw = metadata.raw;
    if let Some(claim) = parts.extensions.get::<Claim>() {
        match earlier(shared, who, claim).await? {
            Earlier::Whole(ledger) => {
                // What is there already is not written again.
                shared.drain(headers, body).await;
                return created(ledger.upload_id(), ledger.media_id());
            }
            Earlier::Nothing(upload_id) => record.upload_id = upload_id,
        }
    }
    let ledger = tus::begin(shared, record).await?;
    let (upload_id, media_id) = (ledger.upload_id(), ledger.media_id());
    if !ledger.is_full() {
        let taken = take(shared, ledger, checks, body).await;
        if let Err(refusal) = taken {
            abandon(shared, upload_id, who, refusal_code(&refusal)).await;
            return Err(match refusal {
                Refusal::ChecksumMismatch => Refusal::DigestMismatch,
                other => other,
            });
        }
    }
    created(upload_id, media_id)
}

/// What the same request did before, when nobody got its answer: its connection or its replica was lost.
enum Earlier {
    /// All of it.
    Whole(Box<Ledger>),
    /// Nothing that stayed; this is the id to do it under.
    Nothing(UploadId),
}

/// Finds it by the ids that repetitions of a request share. One that ended early, or is still held by a replica that can't answer any
/// more, is ended: this request brings all bytes again.
async fn earlier(shared: &Arc<Shared>, who: &Principal, claim: &Claim) -> Result<Earlier, Refusal> {
    for attempt in 0..ATTEMPTS_MAX {
        let upload_id = UploadId::from_bytes(claim.id(attempt));
        let mut ledger = match Ledger::load(shared, upload_id, who).await {
            Ok(ledger) => ledger,
            Err(Refusal::NotFound) => return Ok(Earlier::Nothing(upload_id)),
            Err(refusal) => return Err(refusal),
        };
        tus::finish_left_over(shared, &mut ledger).await?;
        match ledger.record().status {
            Status::Received => return Ok(Earlier::Whole(Box::new(ledger))),
            Status::Open => tus::terminate(shared, &mut ledger, Some("request_repeated")).await?,
            Status::Terminated | Status::Expired | Status::Deactivated => {}
        }
    }
    Err(Refusal::Gone(Kind::UploadAttempts))
}

fn created(upload_id: UploadId, media_id: MediaId) -> Result<Response, Refusal> {
    let mut response = (StatusCode::CREATED, Json(Created { media_id, upload_id })).into_response();
    let location = format!("/v1/media/{media_id}");
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(&location).map_err(|_| Refusal::NotFound)?);
    response.headers_mut().insert(protocol::MEDIA_ID, tus::id_value(media_id)?);
    Ok(response)
}

async fn take(shared: &Arc<Shared>, ledger: Ledger, checks: Checks, body: &mut Body) -> Result<(), Refusal> {
    let append = Append::default();
    let ledger = match takeover::open(shared, ledger, &append, checks, OnEnd::Complete).await? {
        Opened::Session(session) => session.run(body).await?,
        Opened::Complete(ledger) => *ledger,
    };
    if ledger.record().status == Status::Received { Ok(()) } else { Err(Refusal::Cut) }
}

/// Ends an upload that nobody can continue.
async fn abandon(shared: &Shared, upload_id: UploadId, who: &Principal, code: &'static str) {
    let ended = async {
        let mut ledger = Ledger::load(shared, upload_id, who).await?;
        tus::terminate(shared, &mut ledger, Some(code)).await
    };
    if let Err(refusal) = ended.await {
        tracing::debug!(?refusal, upload.id = %upload_id, "an abandoned upload stays until it expires");
    }
}

fn refusal_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::ChecksumMismatch => "digest_mismatch",
        Refusal::TooLarge => "upload_too_large",
        Refusal::Idle => "upload_idle",
        Refusal::TooSlow => "upload_too_slow",
        Refusal::Cut => "body_cut",
        Refusal::Stopping => "stopping",
        _ => "upload_failed",
    }
}

/// The body's media type; one that can't be a media file is refused before a byte is read.
fn media_type(headers: &HeaderMap) -> Result<String, Refusal> {
    let wanted = Refusal::MediaType("a media type such as video/mp4, or application/octet-stream");
    let Some(found) =
        headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(metadata::clean_type)
    else {
        return Err(wanted);
    };
    let refused = [
        "application/json",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        protocol::OFFSET_TYPE,
    ];
    let kind = found.split('/').next().unwrap_or_default();
    let takes =
        matches!(kind, "video" | "audio" | "image" | "application") && !refused.contains(&found.as_str());
    if takes { Ok(found) } else { Err(wanted) }
}

/// The name in `Content-Disposition: attachment; filename="..."`.
fn filename(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_DISPOSITION)?.to_str().ok()?;
    let value = text.split(';').map(str::trim).find_map(|part| part.strip_prefix("filename="))?;
    metadata::clean_filename(value.trim_matches('"'))
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
            assert_eq!(media_type(&headers).is_ok(), takes, "{text:?}");
        }
    }

    #[test]
    fn reads_a_name() {
        for (text, wanted) in [
            ("attachment; filename=\"clip.mp4\"", Some("clip.mp4")),
            ("attachment; filename=../../clip.mp4", Some("clip.mp4")),
            ("attachment", None),
            ("attachment; filename=\"\"", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_DISPOSITION, text.parse().unwrap());
            assert_eq!(filename(&headers).as_deref(), wanted, "{text}");
        }
    }
}
