//! How an upload begins, is completed after a crash, and ends before its time; in every protocol the same.

use std::sync::Arc;

use auth::{Principal, upload_grant::return_upload_grant};
use nats::now_ms;
use schemas::{
    ids::{MediaId, UploadId},
    upload::{UploadRecord, UploadStatus},
};
use store::{Spool, SpooledUpload};
use web::{idempotency::IdempotencyClaim, problem_code::ProblemCode};

use super::{
    UploadContext,
    fenced_record::{self, FencedUploadRecord},
    granted, medium, open_uploads,
    refusal::UploadRefusal,
    session,
};

/// Most whole files of one key that end early.
pub(super) const ATTEMPTS_MAX: u8 = 16;

/// Why an upload ended whose address its client never got.
pub(super) const ADDRESS_UNKNOWN: &str = "upload_address_unknown";

/// A record of a new upload with fresh ids.
pub(super) fn new_record(shared: &UploadContext, who: &Principal, length_bytes: Option<u64>) -> UploadRecord {
    let created_at_ms = now_ms();
    UploadRecord {
        length_bytes,
        created_at_ms,
        expires_at_ms: shared.config.expires_at_ms(created_at_ms),
        grant_id: who.upload_grant,
        ..UploadRecord::new(
            UploadId::from_bytes(nats::new_id_bytes()),
            MediaId::from_bytes(nats::new_id_bytes()),
            who.owner.clone(),
        )
    }
}

/// Makes the upload durable before its URL is returned; an empty one is complete at once.
pub(super) async fn begin_upload(
    shared: &Arc<UploadContext>,
    mut record: UploadRecord,
) -> Result<FencedUploadRecord, UploadRefusal> {
    granted::claim_grant(&shared.bus, &mut record).await?;
    let claimed = (record.grant_id, record.upload_id);
    let begun = begin_claimed(shared, record).await;
    if let (Err(_), (Some(grant_id), upload_id)) = (&begun, claimed) {
        let kept_ms = shared.config.ended_kept_ms;
        let found = FencedUploadRecord::load_any(&shared.bus, upload_id, kept_ms).await;
        // One that is there keeps its grant until it ends: two would bring files with it.
        if matches!(found, Err(UploadRefusal::NotFound)) {
            return_upload_grant(&shared.bus, grant_id, upload_id).await;
        }
    }
    begun
}

/// Ends an upload whose address its client never got, which gives its grant back.
///
/// # Errors
/// [`UploadRefusal::NotFound`] where it was never recorded; else it stays until it expires.
pub(super) async fn end_unknown(shared: &UploadContext, upload_id: UploadId) -> Result<(), UploadRefusal> {
    let mut ledger =
        FencedUploadRecord::load_any(&shared.bus, upload_id, shared.config.ended_kept_ms).await?;
    terminate_upload(shared, &mut ledger, Some(ADDRESS_UNKNOWN)).await
}

async fn begin_claimed(
    shared: &Arc<UploadContext>,
    record: UploadRecord,
) -> Result<FencedUploadRecord, UploadRefusal> {
    open_uploads::add_open_upload(shared, &record).await?;
    let (owner, upload_id) = (record.owner.clone(), record.upload_id);
    let place = SpooledUpload {
        upload_id,
        media_id: record.media_id,
        generation: record.generation,
        length_bytes_max: record.length_bytes.unwrap_or(shared.config.size_bytes_max),
    };
    let begun = async {
        Spool::create(&shared.store, place).await?;
        FencedUploadRecord::create(shared, record).await
    };
    let mut ledger = match begun.await {
        Ok(ledger) => ledger,
        Err(refusal) => {
            open_uploads::remove_open_upload(&shared.bus, &owner, upload_id).await;
            return Err(refusal);
        }
    };
    // An upload that fails here is there: it counts as open until its time is over, or the same request comes again.
    create_medium(&ledger).await?;
    if ledger.is_full() {
        session::claim_and_complete(&shared.store, &mut ledger, &shared.instance).await?;
    }
    Ok(ledger)
}

/// The medium of an upload is there when its creation is answered.
pub(super) async fn create_medium(ledger: &FencedUploadRecord) -> Result<(), UploadRefusal> {
    if !ledger.record().is_partial() && !medium::create_document(ledger.bus(), ledger.record()).await? {
        return Err(UploadRefusal::Gone(ProblemCode::MediaRemoved));
    }
    Ok(())
}

/// What a replica made that died before it could answer: the same request, so the same id. Its offset says what of the bytes is
/// there.
pub(super) async fn find_earlier_upload(
    shared: &Arc<UploadContext>,
    who: &Principal,
    claim: &IdempotencyClaim,
) -> Result<Option<FencedUploadRecord>, UploadRefusal> {
    let mut ledger =
        match FencedUploadRecord::load(shared, UploadId::from_bytes(claim.derive_id(0)), who).await {
            Ok(ledger) => ledger,
            Err(UploadRefusal::NotFound) => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
    ledger.check_not_ended()?;
    create_medium(&ledger).await?;
    finish_interrupted(shared, &mut ledger).await?;
    Ok(Some(ledger))
}

/// What the same request did before, when nobody got its answer: its connection or its replica was lost.
pub(super) enum EarlierUpload {
    /// All of it.
    Whole(Box<FencedUploadRecord>),
    /// Nothing that stayed; this is the id to do it under.
    Nothing(UploadId),
}

/// Finds it by the ids that repetitions of a request share. One that ended early, or is still held by a replica that can't answer
/// any more, is ended: this request brings all bytes again.
pub(super) async fn find_earlier_whole(
    shared: &Arc<UploadContext>,
    who: &Principal,
    claim: &IdempotencyClaim,
) -> Result<EarlierUpload, UploadRefusal> {
    for attempt in 0..ATTEMPTS_MAX {
        let upload_id = UploadId::from_bytes(claim.derive_id(attempt));
        let mut ledger = match FencedUploadRecord::load(shared, upload_id, who).await {
            Ok(ledger) => ledger,
            Err(UploadRefusal::NotFound) => return Ok(EarlierUpload::Nothing(upload_id)),
            Err(refusal) => return Err(refusal),
        };
        finish_interrupted(shared, &mut ledger).await?;
        match ledger.record().status {
            UploadStatus::Received => return Ok(EarlierUpload::Whole(Box::new(ledger))),
            UploadStatus::Open => {
                terminate_upload(shared, &mut ledger, Some("request_repeated")).await?;
            }
            UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated => {}
        }
    }
    Err(UploadRefusal::Gone(ProblemCode::UploadAttempts))
}

/// Completes an upload whose last bytes were recorded just before a crash.
pub(super) async fn finish_interrupted(
    shared: &Arc<UploadContext>,
    ledger: &mut FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    if ledger.record().status != UploadStatus::Open || !ledger.is_full() {
        return Ok(());
    }
    // As long as a completion is waited for: who holds it may be at that.
    let Some(_guard) = shared.slots.acquire(ledger.upload_id(), shared.config.finish_timeout()).await else {
        return Ok(());
    };
    ledger.reload().await?;
    if ledger.record().status != UploadStatus::Open {
        return Ok(());
    }
    match session::claim_and_complete(&shared.store, ledger, &shared.instance).await {
        // Another one is at it: the record says how far.
        Err(UploadRefusal::Displaced { .. }) => Ok(()),
        finished => finished,
    }
}

/// Records the end first, so that no writer can go on, then frees the bytes. The keeper repeats a removal that failed.
pub(super) async fn terminate_upload(
    shared: &UploadContext,
    ledger: &mut FencedUploadRecord,
    code: Option<&str>,
) -> Result<(), UploadRefusal> {
    ledger.check_not_ended()?;
    if !ledger.record().is_unfinished() {
        return Err(UploadRefusal::Finished);
    }
    ledger.mark_ended(UploadStatus::Terminated, code).await?;
    open_uploads::remove_open_upload(&shared.bus, &ledger.record().owner, ledger.upload_id()).await;
    if let Err(refusal) = fenced_record::free_upload(&shared.store, ledger).await {
        tracing::warn!(?refusal, upload.id = %ledger.upload_id(), "an ended upload keeps its bytes until the keeper comes");
    }
    Ok(())
}
