//! Upload expiry: removes open uploads whose time ran out, completes full ones that a crash left open, and frees what
//! ended uploads left in the store. An upload that ended before its time to be kept was written with its end gets it here.
//!
//! Limits: one pass over the bucket `uploads` each period; an upload is touched only when nothing was recorded for it
//! during [`QUIET_MS`].

use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{
    KvRecord as _,
    ids::UploadId,
    job::JobRecord,
    subjects,
    upload::{UploadRecord, UploadStatus},
};
use store::Store;

use super::{FencedUploadRecord, UploadRefusal, concat, fenced_record, session};

/// Silence in milliseconds after which a full or an ended upload is not being worked on by the ingress any more.
pub const QUIET_MS: u64 = 60_000;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryReport {
    /// Uploads that expired.
    pub expired_count: u64,
    /// Full uploads that were completed.
    pub completed_count: u64,
    /// Ended uploads whose bytes were removed.
    pub freed_count: u64,
    /// Ended uploads that are kept no longer than others from now on.
    pub dated_count: u64,
}

/// What an upload needs at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpiryAction {
    Nothing,
    Expire,
    Complete,
    Join,
    ExpirePart,
    Free,
    Date,
}

/// One pass over all uploads as of `now_ms`; those that end are kept for `kept_ms`, in milliseconds.
///
/// # Errors
/// When the broker does not answer, or the store is away; what fails for a single upload waits for the next pass.
pub async fn run_expiry_pass(
    bus: &Bus,
    store: &Store,
    now_ms: u64,
    quiet_ms: u64,
    kept_ms: u64,
) -> Result<ExpiryReport, UploadRefusal> {
    let mut done = ExpiryReport::default();
    // An upload ends together with its bytes: while those can't be reached, no time runs out.
    store.verify_marker_now().await?;
    for (upload_id, need) in list_due_actions(bus, now_ms, quiet_ms).await? {
        match apply_action(bus, store, (upload_id, need), now_ms, kept_ms).await {
            Ok(()) => match need {
                ExpiryAction::Expire | ExpiryAction::ExpirePart => done.expired_count += 1,
                ExpiryAction::Complete | ExpiryAction::Join => done.completed_count += 1,
                ExpiryAction::Free => done.freed_count += 1,
                ExpiryAction::Date => done.dated_count += 1,
                ExpiryAction::Nothing => {}
            },
            Err(refusal) => {
                tracing::warn!(?refusal, upload.id = %upload_id, "an upload waits for the next pass");
            }
        }
    }
    Ok(done)
}

async fn apply_action(
    bus: &Bus,
    store: &Store,
    (upload_id, need): (UploadId, ExpiryAction),
    now_ms: u64,
    kept_ms: u64,
) -> Result<(), UploadRefusal> {
    let mut ledger = FencedUploadRecord::load_any(bus, upload_id, kept_ms).await?;
    match need {
        ExpiryAction::Complete if ledger.record().status == UploadStatus::Open && ledger.is_full() => {
            session::claim_and_complete(store, &mut ledger, bus.role().name()).await
        }
        ExpiryAction::Expire if ledger.record().status == UploadStatus::Open => {
            ledger.mark_expired().await?;
            fenced_record::free_upload(store, &mut ledger).await
        }
        ExpiryAction::Join if ledger.record().status == UploadStatus::Open => {
            concat::join_or_expire(store, &mut ledger, bus.role().name(), now_ms).await
        }
        ExpiryAction::ExpirePart if ledger.record().status == UploadStatus::Received => {
            concat::expire_part(store, &mut ledger, kept_ms).await
        }
        ExpiryAction::Free => fenced_record::free_upload(store, &mut ledger).await,
        ExpiryAction::Date => ledger.record_kept_until().await,
        // It went on meanwhile.
        ExpiryAction::Complete
        | ExpiryAction::Expire
        | ExpiryAction::ExpirePart
        | ExpiryAction::Join
        | ExpiryAction::Nothing => Ok(()),
    }
}

async fn list_due_actions(
    bus: &Bus,
    now_ms: u64,
    quiet_ms: u64,
) -> Result<Vec<(UploadId, ExpiryAction)>, BusError> {
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(UploadRecord::BUCKET),
        vec![subjects::kv_subject(UploadRecord::BUCKET, ">")],
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.open_reader(settings).await?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_pending().await? {
        if let Ok((envelope, record)) = nats::decode_record::<UploadRecord>(&entry.subject, &entry.payload) {
            // Full uploads are completed by the request that brought the last byte; one that is quiet for so long
            // has lost it.
            let is_quiet = envelope.changed_at_ms.saturating_add(quiet_ms) <= now_ms;
            let need = next_action(&record, now_ms, is_quiet);
            // Its job waits for its turn, or was paused: it ends the upload when it comes to nothing.
            let is_waited_for = need == ExpiryAction::Expire && is_to_be_fetched(bus, &record).await?;
            if need != ExpiryAction::Nothing && !is_waited_for {
                found.push((record.upload_id, need));
            }
        }
    }
    Ok(found)
}

/// True while a job is to fetch the bytes of an upload.
async fn is_to_be_fetched(bus: &Bus, record: &UploadRecord) -> Result<bool, BusError> {
    let Some(fetch) = &record.fetch else { return Ok(false) };
    let job = bus.load_record::<JobRecord>(&fetch.job_id.to_string()).await?;
    Ok(job.is_some_and(|held| held.record.ended_at_ms.is_none()))
}

fn next_action(record: &UploadRecord, now_ms: u64, is_quiet: bool) -> ExpiryAction {
    let is_full = record.is_full();
    match record.status {
        UploadStatus::Open if is_full && is_quiet => ExpiryAction::Complete,
        UploadStatus::Open if record.is_final() => {
            if is_quiet {
                ExpiryAction::Join
            } else {
                ExpiryAction::Nothing
            }
        }
        // A full upload never expires: its client was answered that every byte is safe.
        UploadStatus::Open if !is_full && record.expires_at_ms <= now_ms => ExpiryAction::Expire,
        UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated
            if !record.freed && is_quiet =>
        {
            ExpiryAction::Free
        }
        UploadStatus::Received if record.is_partial() => {
            if record.expires_at_ms <= now_ms && is_quiet {
                ExpiryAction::ExpirePart
            } else {
                ExpiryAction::Nothing
            }
        }
        UploadStatus::Received
        | UploadStatus::Terminated
        | UploadStatus::Expired
        | UploadStatus::Deactivated
            if record.kept_until_ms.is_none() && is_quiet =>
        {
            ExpiryAction::Date
        }
        _ => ExpiryAction::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use schemas::ids::MediaId;

    use super::*;

    #[test]
    fn only_what_is_due_is_touched() {
        let quiet = true;
        for (status, offset_bytes, expires_at_ms, freed, is_quiet, wanted) in [
            (UploadStatus::Open, 5, 100, false, quiet, ExpiryAction::Expire),
            (UploadStatus::Open, 5, 100, false, !quiet, ExpiryAction::Expire),
            (UploadStatus::Open, 5, 101, false, quiet, ExpiryAction::Nothing),
            (UploadStatus::Open, 10, 100, false, quiet, ExpiryAction::Complete),
            (UploadStatus::Open, 10, 100, false, !quiet, ExpiryAction::Nothing),
            (UploadStatus::Received, 10, 0, false, quiet, ExpiryAction::Nothing),
            (UploadStatus::Terminated, 5, 0, false, quiet, ExpiryAction::Free),
            (UploadStatus::Terminated, 5, 0, false, !quiet, ExpiryAction::Nothing),
            (UploadStatus::Terminated, 5, 0, true, quiet, ExpiryAction::Nothing),
            (UploadStatus::Expired, 5, 0, false, quiet, ExpiryAction::Free),
            (UploadStatus::Deactivated, 5, 0, false, quiet, ExpiryAction::Free),
        ] {
            let record = UploadRecord {
                status,
                length_bytes: Some(10),
                offset_bytes,
                generation: 1,
                freed,
                expires_at_ms,
                kept_until_ms: (status != UploadStatus::Open).then_some(500),
                ..UploadRecord::new(UploadId::from_bytes([1; 16]), MediaId::from_bytes([2; 16]), "o".into())
            };
            assert_eq!(next_action(&record, 100, is_quiet), wanted, "{record:?} quiet={is_quiet}");
            let from_before = UploadRecord { kept_until_ms: None, ..record };
            let is_over = status != UploadStatus::Open && is_quiet && wanted == ExpiryAction::Nothing;
            let wanted = if is_over { ExpiryAction::Date } else { wanted };
            assert_eq!(next_action(&from_before, 100, is_quiet), wanted, "{from_before:?} quiet={is_quiet}");
        }
    }
}
