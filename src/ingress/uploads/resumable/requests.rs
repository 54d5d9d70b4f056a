//! The requests of the draft: opening an upload, appending to it, asking how far it is. Ending one is the same in both protocols.

use std::sync::Arc;

use auth::Principal;
use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemas::{
    ids::UploadId,
    upload::{UploadProtocol, UploadRecord, UploadStatus},
};
use web::{access_sums::CausedNoEvent, idempotency::IdempotencyClaim, public_address::PublicAddress};

use super::{
    super::{
        UploadContext,
        digest::DigestChecks,
        disposition,
        fenced_record::FencedUploadRecord,
        fields,
        lifecycle::{self, EarlierUpload},
        metadata, parse_upload_id,
        protocol::{self, UploadAppend},
        refusal::UploadRefusal,
        response,
        session::{BodyEndPolicy, BodyPolicy},
        takeover::{self, TakeoverOutcome},
    },
    answer::{self, ProgressSender},
    fields::{ContentFields, InteropVersion, PARTIAL_TYPE, check_fields, check_question},
};

/// Why an upload ended whose client sent more than it had said.
const LENGTH_EXCEEDED: &str = "upload_length_exceeded";

/// Opens an upload and takes what the request has of it. `filename` is the name in the target, if that has one.
pub(in super::super) async fn create(
    shared: &Arc<UploadContext>,
    who: &Principal,
    address: &PublicAddress,
    filename: Option<String>,
    (parts, body): (&Parts, &mut Body),
) -> Result<Response, UploadRefusal> {
    let headers = &parts.headers;
    let content = ContentFields::of_creation(headers, body.is_end_stream())?;
    check_fields(headers)?;
    let mut record = new_record(shared, who, &content, headers, filename)?;
    let claim = parts.extensions.get::<IdempotencyClaim>();
    if let Some(claim) = claim {
        match find_earlier(shared, who, claim, content.is_complete).await? {
            EarlierUpload::Whole(ledger) => {
                // What is there already is not written again: the answer says where it goes on.
                shared.drain_body(headers, body).await;
                return located_response(shared, address, content.version, ledger.record());
            }
            EarlierUpload::Nothing(upload_id) => record.upload_id = upload_id,
        }
    }
    let ledger = lifecycle::begin_upload(shared, record).await?;
    let upload_id = ledger.upload_id();
    let progress = ProgressSender::of_request(shared, parts);
    if let Some(progress) = &progress {
        progress.send_location(shared, address, ledger.record())?;
    }
    let is_known = progress.is_some() || claim.is_some();
    match receive(shared, ledger, &content, progress, (headers, body)).await {
        Ok(ledger) => located_response(shared, address, content.version, ledger.record()),
        Err(refusal) => {
            if !is_known {
                end_unknown(shared, upload_id).await;
            }
            Err(refusal)
        }
    }
}

/// What the same request did before. One with the whole brings all of it again; of another one the client goes on from the offset.
async fn find_earlier(
    shared: &Arc<UploadContext>,
    who: &Principal,
    claim: &IdempotencyClaim,
    is_complete: bool,
) -> Result<EarlierUpload, UploadRefusal> {
    if is_complete {
        return lifecycle::find_earlier_whole(shared, who, claim).await;
    }
    let found = lifecycle::find_earlier_upload(shared, who, claim).await?;
    let fresh = EarlierUpload::Nothing(UploadId::from_bytes(claim.derive_id(0)));
    Ok(found.map_or(fresh, |ledger| EarlierUpload::Whole(Box::new(ledger))))
}

/// Ends an upload whose address its client never got.
async fn end_unknown(shared: &UploadContext, upload_id: UploadId) {
    if let Err(refusal) = lifecycle::end_unknown(shared, upload_id).await {
        tracing::debug!(?refusal, upload.id = %upload_id, "an upload that nobody knows of stays until it expires");
    }
}

/// The record of an upload that a request opens; refused before anything is made of it.
fn new_record(
    shared: &UploadContext,
    who: &Principal,
    content: &ContentFields,
    headers: &HeaderMap,
    filename: Option<String>,
) -> Result<UploadRecord, UploadRefusal> {
    let size_bytes_max = shared.config.size_bytes_max;
    if content.length_bytes.max(content.content_bytes).is_some_and(|bytes| bytes > size_bytes_max) {
        return Err(UploadRefusal::TooLarge);
    }
    if let (Some(length_bytes), Some(content_bytes)) = (content.length_bytes, content.content_bytes)
        && content_bytes > length_bytes
    {
        return Err(UploadRefusal::LengthInconsistent);
    }
    let said = protocol::parse_upload_metadata(headers, shared.config.metadata_bytes_max)?;
    let mut record = lifecycle::new_record(shared, who, content.length_bytes);
    record.protocol = UploadProtocol::Resumable { is_complete: false };
    record.filename = filename.or_else(|| disposition::parse_filename(headers));
    record.content_type = parse_file_type(headers)?;
    said.describe(who, &shared.profiles, &mut record)?;
    record.digest = protocol::parse_repr_digests(headers)?.into_iter().next().map(|d| d.to_record());
    Ok(record)
}

/// The media type of the file. Of the bytes alone some clients say so; a form is no file.
fn parse_file_type(headers: &HeaderMap) -> Result<Option<String>, UploadRefusal> {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(found) = named.and_then(metadata::clean_media_type) else { return Ok(None) };
    match found.as_str() {
        PARTIAL_TYPE | protocol::OFFSET_TYPE => Ok(None),
        "multipart/form-data" | "application/x-www-form-urlencoded" => {
            Err(UploadRefusal::MediaType("the file itself, with its media type"))
        }
        _ => Ok(Some(found)),
    }
}

fn located_response(
    shared: &UploadContext,
    address: &PublicAddress,
    version: Option<InteropVersion>,
    record: &UploadRecord,
) -> Result<Response, UploadRefusal> {
    let mut response = answer::created_response(shared, version, record)?;
    response.headers_mut().insert(header::LOCATION, response::upload_location(address, record.upload_id)?);
    Ok(response)
}

/// Appends to an upload, and completes it when the request says so.
pub(in super::super) async fn append(
    shared: &Arc<UploadContext>,
    id: &str,
    who: &Principal,
    (parts, body): (&Parts, &mut Body),
) -> Result<Response, UploadRefusal> {
    let headers = &parts.headers;
    let mut ledger = FencedUploadRecord::load(shared, parse_upload_id(id)?, who).await?;
    ledger.check_not_ended()?;
    protocol::check_protocol(headers, ledger.record())?;
    check_fields(headers)?;
    let content = ContentFields::of_append(headers, body.is_end_stream())?;
    // A crash, or a store that was away, after the client had said that this is all.
    lifecycle::finish_interrupted(shared, &mut ledger).await?;
    if ledger.record().status == UploadStatus::Received {
        check_repetition(&content, ledger.record())?;
        shared.drain_body(headers, body).await;
        return answer::created_response(shared, content.version, ledger.record());
    }
    check_length(shared, &content, ledger.record())?;
    let progress = ProgressSender::of_request(shared, parts);
    let ledger = receive(shared, ledger, &content, progress, (headers, body)).await?;
    let is_complete = ledger.record().status == UploadStatus::Received;
    if is_complete || content.version.is_some_and(InteropVersion::creates_by_append) {
        return answer::created_response(shared, content.version, ledger.record());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    answer::insert_progress(response.headers_mut(), shared, content.version, ledger.record());
    response.extensions_mut().insert(CausedNoEvent);
    Ok(response)
}

/// Of a complete upload only the request that completed it may come again: its client missed the answer.
fn check_repetition(content: &ContentFields, record: &UploadRecord) -> Result<(), UploadRefusal> {
    match content.content_bytes {
        Some(count)
            if content.is_complete
                && content.offset_bytes.checked_add(count) == Some(record.offset_bytes) =>
        {
            Ok(())
        }
        Some(0) => Err(UploadRefusal::Complete),
        _ => Err(UploadRefusal::LengthInconsistent),
    }
}

/// Refuses another length than the one that was said. Bytes for another offset are that first.
fn check_length(
    shared: &UploadContext,
    content: &ContentFields,
    record: &UploadRecord,
) -> Result<(), UploadRefusal> {
    let provided_bytes = content.offset_bytes;
    if record.holder.is_none() && provided_bytes != record.offset_bytes {
        return Err(UploadRefusal::Offset { offset_bytes: record.offset_bytes, provided_bytes });
    }
    match (content.length_bytes, record.length_bytes) {
        (Some(named), Some(known)) if named != known => Err(UploadRefusal::LengthInconsistent),
        (Some(named), None) if named > shared.config.size_bytes_max => Err(UploadRefusal::TooLarge),
        (Some(named), None) if named < record.offset_bytes => Err(UploadRefusal::LengthInconsistent),
        _ => Ok(()),
    }
}

/// Takes the bytes of a request.
async fn receive(
    shared: &Arc<UploadContext>,
    ledger: FencedUploadRecord,
    content: &ContentFields,
    progress: Option<ProgressSender>,
    (headers, body): (&HeaderMap, &mut Body),
) -> Result<FencedUploadRecord, UploadRefusal> {
    let upload_id = ledger.upload_id();
    let on_end = if content.is_complete { BodyEndPolicy::Complete } else { BodyEndPolicy::Keep };
    let checks = DigestChecks::new(protocol::parse_content_digests(headers)?);
    let policy = BodyPolicy { checks, on_end, progress };
    let append = UploadAppend {
        offset_bytes: content.offset_bytes,
        content_bytes: content.content_bytes,
        length_bytes: content.length_bytes,
        ..UploadAppend::default()
    };
    let received = async {
        match takeover::open_session(shared, ledger, &append, policy).await? {
            TakeoverOutcome::Session(session) => session.run(body).await,
            TakeoverOutcome::Complete(ledger) => Ok(*ledger),
        }
    };
    match received.await {
        Ok(ledger) if content.is_complete && ledger.record().status == UploadStatus::Open => {
            Err(UploadRefusal::LengthInconsistent)
        }
        Err(UploadRefusal::ChecksumMismatch) => Err(UploadRefusal::DigestMismatch),
        Err(UploadRefusal::TooLarge) => Err(end_exceeded(shared, upload_id).await?),
        outcome => outcome,
    }
}

/// Draft, "Upload Append": more bytes than the length that was said make the upload invalid. Where none was said, the limit was reached.
async fn end_exceeded(shared: &UploadContext, upload_id: UploadId) -> Result<UploadRefusal, UploadRefusal> {
    let kept_ms = shared.config.ended_kept_ms;
    let mut ledger = FencedUploadRecord::load_any(&shared.bus, upload_id, kept_ms).await?;
    let record = ledger.record();
    if record.length_bytes.is_none() {
        return Ok(UploadRefusal::TooLarge);
    }
    // Another request that is at it, or has completed it, is left in peace: the bytes of this one came too late.
    if record.status == UploadStatus::Open && record.holder.is_none() && !record.is_full() {
        lifecycle::terminate_upload(shared, &mut ledger, Some(LENGTH_EXCEEDED)).await?;
    }
    Ok(UploadRefusal::LengthInconsistent)
}

/// Says how far an upload is, whose record the caller has brought up to date.
pub(in super::super) fn read_offset(
    shared: &UploadContext,
    headers: &HeaderMap,
    record: &UploadRecord,
) -> Result<Response, UploadRefusal> {
    check_question(headers)?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answered = response.headers_mut();
    answer::insert_progress(answered, shared, InteropVersion::of_request(headers), record);
    if let Some(length_bytes) = record.length_bytes {
        answered.insert(fields::UPLOAD_LENGTH, HeaderValue::from(length_bytes));
    }
    answered.insert(fields::MEDIA_ID, response::media_id_header(record.media_id)?);
    Ok(response)
}
