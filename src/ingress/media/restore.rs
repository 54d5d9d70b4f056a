//! `POST /v1/media/{media_id}/restore`: a removed medium is there again, as it was; what was being made of it is made anew.
//!
//! What the stages know is restored first, then the document: until that is written the medium is removed for everybody, and a request
//! that a crash cut is repeated. The count of the removal stands in both, so that what ends the work on a removed medium leaves a
//! restored one alone. Removal cancelled the job of an encode that was being made, and what it had stored goes: the encode is made anew.
//!
//! Limits: [`CHANGE_ATTEMPTS_MAX`] tries against others who change the medium.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::Response,
};
use nats::metrics::{labels::MetadataWrite, table::METADATA_WRITES};
use nats::{Bus, Outbox, VersionedRecord};
use packaging::plan;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    document::MediaDocumentRecord,
    encode::EncodeSettings,
    ids::MediaId,
    job::{JOB_CANCELLED, JobRecord, JobStatus, MEDIA_REMOVED},
    media::{MediaRecord, MediaRestored, MediaStatus, ReopenStep},
    upload::{UploadRecord, UploadStatus},
};

use super::{MediumRecords, commit::CHANGE_ATTEMPTS_MAX, no_such_medium, parse_media_id};
use crate::{
    AppState,
    jobs::{
        explain_encode_failure,
        retry::{begin_next_encode, reopen_medium, settings_of_job},
    },
    quotas,
    uploads::received_event,
};
use auth::Principal;
use web::{
    conditional,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

pub(super) static RESTORE_MEDIA: Operation = Operation::change(
    Method::POST,
    "/v1/media/{media_id}/restore",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.restored", "media.reopened"],
);

/// Restore one removed medium
///
/// It is as it was: title, gate, links, and what was ready. An encode that its removal cancelled is made anew, where the quota of its
/// owner takes it, and a medium that played before its first encode was ready plays again then. One that is not removed is answered as
/// it is.
#[utoipa::path(
    post,
    path = RESTORE_MEDIA.path,
    tag = "metadata",
    operation_id = "restore_media",
    params(("media_id", Path)),
    responses(
        (status = 200, description = "The document", body = ref("#/components/schemas/MediaDocument"), headers(("ETag"))),
        (status = 409, description = "Its bytes never came: there is nothing to restore"),
    ),
)]
pub(super) async fn restore_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match restore(&app, media_id, &who).await {
            // A writer of the stages, or who removes it for good in this moment.
            Err(problem)
                if problem.code() == ProblemCode::Conflict.code() && attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(problem) => return Err(problem),
            Ok(()) => break,
        }
    }
    METADATA_WRITES.increment(MetadataWrite::Restore);
    app.known.forget(media_id);
    let medium = MediumRecords::load_for(&app.bus, media_id, &who).await?;
    Ok(medium.render_document(media_id)?.to_response(&HeaderMap::new()))
}

async fn restore(app: &AppState, media_id: MediaId, who: &Principal) -> Result<(), Problem> {
    let bus = &app.bus;
    let medium = MediumRecords::load_with_removed(bus, media_id).await?;
    medium.require_changeable(who)?;
    let removed = medium.document.filter(|held| held.record.is_removed());
    // Without one it is there.
    let Some(mut held) = removed else { return Ok(()) };
    let Some(restored) = held.record.to_restored(nats::now_ms()) else { return Err(no_such_medium()) };
    let upload = load_upload(bus, &held.record).await?;
    let encode = restore_asset(bus, &held.record, upload.as_ref()).await?;
    // Before the document: who repeats this after a crash finds what is still to be done.
    if let Some(cancelled) = encode {
        let begun = Box::pin(encode_anew(app, &held.record, cancelled)).await;
        if let Err(problem) = begun {
            // The medium is there and says that its encode was cancelled: it can be asked for again.
            tracing::warn!(media.id = %media_id, code = problem.code(), "its encode does not begin anew");
        }
    }
    let owner = restored.owner.clone();
    held.record = restored;
    let event = MediaRestored { media_id, owner, restored_by: who.owner.clone() };
    bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    tracing::info!(media.id = %media_id, by = who.owner, "restored");
    Ok(())
}

/// The document of a removed medium that can be restored until `who` removes it for good.
///
/// # Errors
/// 404 when it is not there to be removed; those of a precondition that names another version.
pub(super) async fn load_removed(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<VersionedRecord<MediaDocumentRecord>, Problem> {
    let medium = MediumRecords::load_with_removed(bus, media_id).await?;
    medium.require_changeable(who)?;
    conditional::check_if_match(headers, Some(medium.render_document(media_id)?.tag()))?;
    medium.document.filter(|held| held.record.is_restorable).ok_or_else(no_such_medium)
}

/// The upload that brought the bytes of a medium, while its record is kept.
async fn load_upload(bus: &Bus, document: &MediaDocumentRecord) -> Result<Option<UploadRecord>, Problem> {
    let Some(upload_id) = document.upload_id else { return Ok(None) };
    Ok(bus.load_record::<UploadRecord>(&upload_id.to_string()).await?.map(|held| held.record))
}

/// An encode that the removal of its medium cancelled.
struct CancelledEncode {
    /// Its number.
    number: u32,
    /// How it was asked for.
    settings: EncodeSettings,
    /// How much was to be made, in milliseconds.
    encode_ms: u64,
}

/// Begins what the removal cancelled, if the owner may have it done.
async fn encode_anew(
    app: &AppState,
    medium: &MediaDocumentRecord,
    cancelled: CancelledEncode,
) -> Result<(), Problem> {
    let work = (Some(cancelled.encode_ms), 0);
    quotas::require_work_room(&app.bus, &app.config.quotas, &medium.owner, work).await?;
    let ended = (medium.media_id, cancelled.number);
    let begun = begin_next_encode(&app.bus, &app.store, ended, cancelled.settings).await;
    begun.map(drop).map_err(explain_encode_failure)
}

/// Lets the stages know of the medium again. Answers the encode that was cancelled with the removal: it is to be made anew.
///
/// # Errors
/// `media_incomplete` when its bytes never came.
async fn restore_asset(
    bus: &Bus,
    removed: &MediaDocumentRecord,
    upload: Option<&UploadRecord>,
) -> Result<Option<CancelledEncode>, Problem> {
    let media_id = removed.media_id;
    let held = bus.load_with_tombstone::<MediaRecord>(&media_id.to_string()).await?;
    let mut held = held.unwrap_or_else(|| {
        VersionedRecord::new(MediaRecord::new(
            media_id,
            removed.owner.clone(),
            MediaStatus::Uploading,
            removed.created_at_ms,
        ))
    });
    let was_ended = held.record.removed_at_ms.is_some();
    // By a request that came to nothing behind this.
    let was_restored = removed.removal_count > 0 && held.record.restored_removal == removed.removal_count;
    held.record.removed_at_ms = None;
    held.record.restored_removal = removed.removal_count;
    held.record.owner.clone_from(&removed.owner);
    held.record.changed_at_ms = nats::estimated_broker_now_ms();
    match held.record.status {
        MediaStatus::Uploading => {
            let received = upload.filter(|upload| upload.status == UploadStatus::Received);
            let received = received.ok_or_else(|| Problem::new(ProblemCode::MediaIncomplete))?;
            let encode = held.record.attempt.encode;
            let step = ReopenStep::Verify { received: Box::new(received_event(received)) };
            let reopened = reopen_medium(bus, held, MediaStatus::Uploading, encode, step).await;
            reopened.map_err(explain_encode_failure)?;
            Ok(None)
        }
        MediaStatus::Stored | MediaStatus::Playable | MediaStatus::Ready | MediaStatus::Failed
            if was_ended || was_restored =>
        {
            let cancelled = find_cancelled_encode(bus, &held.record, upload).await?;
            if let Some(CancelledEncode { number, .. }) = &cancelled {
                let detail = "what was being made of it was cancelled";
                let now_ms = held.record.changed_at_ms;
                if let Some(failed) = held.record.with_failure(*number, JOB_CANCELLED, detail, now_ms) {
                    held.record = failed;
                }
            }
            bus.commit_record(&mut held, Outbox::new()).await?;
            Ok(cancelled)
        }
        _ => {
            bus.commit_record(&mut held, Outbox::new()).await?;
            Ok(None)
        }
    }
}

/// The encode that was being made when the medium was removed; `None` where none was, or it goes on.
async fn find_cancelled_encode(
    bus: &Bus,
    record: &MediaRecord,
    upload: Option<&UploadRecord>,
) -> Result<Option<CancelledEncode>, Problem> {
    let known = record.encode.as_ref().map_or(0, |encode| encode.number);
    let newest = record.attempt.encode.max(known).max(1);
    let key = plan::derive_job_id(record.media_id, newest).to_string();
    let job = bus.load_record::<JobRecord>(&key).await?.map(|held| held.record);
    let is_wanted = match record.status {
        MediaStatus::Stored | MediaStatus::Playable => true,
        MediaStatus::Ready => newest > known,
        // By the removal, or by hand before it: the job says which.
        MediaStatus::Failed => record.code.as_deref() == Some(JOB_CANCELLED),
        MediaStatus::Uploading | MediaStatus::Rejected => false,
    };
    Ok(match job {
        _ if !is_wanted => None,
        Some(job) if job.status == JobStatus::Cancelled => {
            let is_removals = job.code.as_deref() == Some(MEDIA_REMOVED);
            let paused = job.paused_at_ms.is_some();
            is_removals.then(|| CancelledEncode {
                number: newest,
                settings: EncodeSettings { paused, ..settings_of_job(&job) },
                encode_ms: job.plan.duration_ms,
            })
        }
        // It was not planned yet. Of any other the record went with its age: it ended long ago.
        None if record.status == MediaStatus::Stored => {
            let settings = upload.map(|upload| upload.settings.clone()).unwrap_or_default();
            let encode_ms = record.technical.as_ref().map_or(0, |technical| technical.duration_ms);
            Some(CancelledEncode { number: newest, settings, encode_ms })
        }
        // It goes on, or came to its own end.
        _ => None,
    })
}
