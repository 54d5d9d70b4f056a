//! What is answered in the fields of the draft, before the answer and in it.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use nats::now_ms;
use schemas::upload::{UploadRecord, UploadStatus};
use web::{error::Problem, interim::InterimSender, public_address::PublicAddress};

use super::{
    super::{
        UploadContext, fields,
        refusal::UploadRefusal,
        response::{self, MediaCreatedDocument},
    },
    fields::InteropVersion,
};

/// 104, registered by the draft.
const RESUMPTION_SUPPORTED: &str = "104 Upload Resumption Supported";

/// Sends interim responses that say how far an upload is.
#[derive(Debug, Clone)]
pub(in super::super) struct ProgressSender {
    sender: InterimSender,
    version: InteropVersion,
}

impl ProgressSender {
    /// `None` when the client or its connection has no interim responses.
    pub(super) fn of_request(shared: &UploadContext, parts: &Parts) -> Option<Self> {
        let version = InteropVersion::of_request(&parts.headers)?;
        let sender = parts.extensions.get::<InterimSender>().filter(|_| shared.config.interim_responses)?;
        Some(Self { sender: sender.clone(), version })
    }

    /// Says where the upload goes on if the connection breaks.
    pub(super) fn send_location(
        &self,
        shared: &UploadContext,
        address: &PublicAddress,
        record: &UploadRecord,
    ) -> Result<(), UploadRefusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, response::upload_location(address, record.upload_id)?);
        headers.insert(fields::UPLOAD_LIMIT, limits(shared, Some(self.version), Some(record)));
        insert_version(&mut headers, Some(self.version));
        self.sender.send(RESUMPTION_SUPPORTED, &headers);
        Ok(())
    }

    /// Says what is durable, in bytes.
    pub(in super::super) fn send_offset(&self, offset_bytes: u64) {
        if !self.version.has_progress() {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert(fields::UPLOAD_OFFSET, HeaderValue::from(offset_bytes));
        insert_version(&mut headers, Some(self.version));
        self.sender.send(RESUMPTION_SUPPORTED, &headers);
    }
}

/// Says in an answer to OPTIONS that uploads of this protocol are taken, and their limits.
pub(in super::super) fn insert_offer(headers: &mut HeaderMap, shared: &UploadContext) {
    headers.insert(fields::ACCEPT_PATCH, HeaderValue::from_static(ACCEPT_PATCH));
    headers.insert(fields::UPLOAD_LIMIT, limits(shared, None, None));
}

/// Types of PATCH, of both protocols.
const ACCEPT_PATCH: &str = "application/partial-upload, application/offset+octet-stream";

/// `Upload-Limit`: sizes in bytes, and the seconds that an upload has left.
fn limits(
    shared: &UploadContext,
    version: Option<InteropVersion>,
    record: Option<&UploadRecord>,
) -> HeaderValue {
    let age_s = record.map_or(shared.config.expiry_s, |r| r.expires_at_ms.saturating_sub(now_ms()) / 1000);
    let age = version.map_or("max-age", InteropVersion::age_limit_name);
    let text = format!("max-size={}, min-size=0, {age}={age_s}", shared.config.size_bytes_max);
    // Digits and letters alone.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("min-size=0"))
}

fn insert_version(headers: &mut HeaderMap, version: Option<InteropVersion>) {
    if let Some(version) = version {
        headers.insert(fields::UPLOAD_DRAFT_INTEROP_VERSION, HeaderValue::from(u16::from(version.number())));
    }
}

/// Says whether the upload is complete, in the words of the client's version.
pub(super) fn insert_state(headers: &mut HeaderMap, version: Option<InteropVersion>, is_complete: bool) {
    let boolean = |value| HeaderValue::from_static(if value { "?1" } else { "?0" });
    if version.is_some_and(InteropVersion::says_incomplete) {
        headers.insert(fields::UPLOAD_INCOMPLETE, boolean(!is_complete));
    } else {
        headers.insert(fields::UPLOAD_COMPLETE, boolean(is_complete));
    }
    insert_version(headers, version);
}

/// Says how far an upload is.
pub(super) fn insert_progress(
    headers: &mut HeaderMap,
    shared: &UploadContext,
    version: Option<InteropVersion>,
    record: &UploadRecord,
) {
    insert_state(headers, version, record.status == UploadStatus::Received);
    headers.insert(fields::UPLOAD_OFFSET, HeaderValue::from(record.offset_bytes));
    if record.status == UploadStatus::Open {
        headers.insert(fields::UPLOAD_LIMIT, limits(shared, version, Some(record)));
    }
}

/// The answer to a creation, and the same to the append that completes the upload.
pub(super) fn created_response(
    shared: &UploadContext,
    version: Option<InteropVersion>,
    record: &UploadRecord,
) -> Result<Response, UploadRefusal> {
    let document =
        MediaCreatedDocument { media_id: record.media_id, upload_id: record.upload_id, upload_url: None };
    let mut response = (StatusCode::CREATED, Json(document)).into_response();
    insert_progress(response.headers_mut(), shared, version, record);
    response.headers_mut().insert(fields::MEDIA_ID, response::media_id_header(record.media_id)?);
    Ok(response)
}

/// That a request is one of this protocol, and what its refusal needs.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ResumableRequest {
    version: Option<InteropVersion>,
}

impl ResumableRequest {
    /// Of a request that opens an upload if its target takes any; `None` of one of another protocol.
    pub(in super::super) fn of_creation(headers: &HeaderMap) -> Option<Self> {
        super::fields::is_creation(headers).then(|| Self { version: InteropVersion::of_request(headers) })
    }

    /// Of a request that appends; `None` of one of another protocol.
    pub(in super::super) fn of_append(headers: &HeaderMap) -> Option<Self> {
        super::fields::is_spoken(headers).then(|| Self { version: InteropVersion::of_request(headers) })
    }

    /// The answer to a request that may be one. A refusal is about the request, not about the whole, so it never says that the upload is
    /// complete.
    pub(in super::super) fn outcome_response(
        request: Option<Self>,
        shared: &UploadContext,
        outcome: Result<Response, UploadRefusal>,
    ) -> Response {
        let (version, refusal) = match (request, outcome) {
            (Some(Self { version }), Err(refusal)) => (version, refusal),
            (_, outcome) => return response::outcome_response(outcome),
        };
        let is_too_large = matches!(refusal, UploadRefusal::TooLarge);
        let mut problem = refusal.into_problem();
        if problem.status() == StatusCode::LOCKED {
            // What tus clients repeat, these take for the end: to them every 4xx is one (draft, "Upload Append").
            problem = Problem::busy("another request holds the upload");
        }
        let mut response = problem.into_response();
        insert_state(response.headers_mut(), version, false);
        if is_too_large {
            response.headers_mut().insert(fields::UPLOAD_LIMIT, limits(shared, version, None));
        }
        response
    }
}
