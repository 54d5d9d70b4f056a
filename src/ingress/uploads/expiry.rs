//! Upload expiry: removes open uploads whose time ran out, completes full ones that a crash left open, and frees what
//! ended uploads left in the store. An upload that ended before its time to be kept was written with its end gets it here.
//!
//! Limits: one pass over the bucket `uploads` each period; an upload is touched only when nothing was recorded for it
//! during [`QUIET_MS`].

use nats::{Bus, Error, Start, reader};
use schemas::{
    Record as _,
    ids::UploadId,
    subjects,
    upload::{Record, Status},
};
use store::Store;

use super::{Ledger, Refusal, ledger, session};

/// Silence in milliseconds after which a full or an ended upload is not being worked on by the ingress any more.
pub const QUIET_MS: u64 = 60_000;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
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
enum Need {
    Nothing,
    Expire,
    Complete,
    Free,
    Date,
}

/// One pass over all uploads as of `now_ms`; those that end are kept for `kept_ms`, in milliseconds.
///
/// # Errors
/// When the broker does not answer, or the store is away; what fails for a single upload waits for the next pass.
pub async fn pass(
    bus: &Bus,
    store: &Store,
    now_ms: u64,
    quiet_ms: u64,
    kept_ms: u64,
) -> Result<Pass, Refusal> {
    let mut done = Pass::default();
    // An upload ends together with its bytes: while those can't be reached, no time runs out.
    store.verify_now().await?;
    for (upload_id, need) in needs(bus, now_ms, quiet_ms).await? {
        match look_after(bus, store, upload_id, need, kept_ms).await {
            Ok(()) => match need {
                Need::Expire => done.expired_count += 1,
                Need::Complete => done.completed_count += 1,
                Need::Free => done.freed_count += 1,
                Need::Date => done.dated_count += 1,
                Need::Nothing => {}
            },
            Err(refusal) => {
                tracing::warn!(?refusal, upload.id = %upload_id, "an upload waits for the next pass");
            }
        }
    }
    Ok(done)
}

async fn look_after(
    bus: &Bus,
    store: &Store,
    upload_id: UploadId,
    need: Need,
    kept_ms: u64,
) -> Result<(), Refusal> {
    let mut ledger = Ledger::load_any(bus, upload_id, kept_ms).await?;
    match need {
        Need::Complete if ledger.record().status == Status::Open && ledger.is_full() => {
            session::finish(store, &mut ledger, bus.role().name()).await
        }
        Need::Expire if ledger.record().status == Status::Open => {
            ledger.expire().await?;
            ledger::free(store, &mut ledger).await
        }
        Need::Free => ledger::free(store, &mut ledger).await,
        Need::Date => ledger.date().await,
        // It went on meanwhile.
        Need::Complete | Need::Expire | Need::Nothing => Ok(()),
    }
}

async fn needs(bus: &Bus, now_ms: u64, quiet_ms: u64) -> Result<Vec<(UploadId, Need)>, Error> {
    let settings = reader::Config::new(
        subjects::kv_stream(Record::BUCKET),
        vec![subjects::kv(Record::BUCKET, ">")],
        Start::LastPerSubject,
    );
    let mut entries = bus.reader(settings).await?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_waiting().await? {
        if let Ok((envelope, record)) = nats::open::<Record>(&entry.subject, &entry.payload) {
            let is_quiet = envelope.changed_at_ms.saturating_add(quiet_ms) <= now_ms;
            let need = need(&record, now_ms, is_quiet);
            if need != Need::Nothing {
                found.push((record.upload_id, need));
            }
        }
    }
    Ok(found)
}

fn need(record: &Record, now_ms: u64, is_quiet: bool) -> Need {
    let is_full = record.length_bytes == Some(record.offset_bytes);
    match record.status {
        Status::Open if is_full && is_quiet => Need::Complete,
        Status::Open if !is_full && record.expires_at_ms <= now_ms => Need::Expire,
        Status::Terminated | Status::Expired | Status::Deactivated if !record.freed && is_quiet => Need::Free,
        Status::Received | Status::Terminated | Status::Expired | Status::Deactivated
            if record.kept_until_ms.is_none() && is_quiet =>
        {
            Need::Date
        }
        _ => Need::Nothing,
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
            (Status::Open, 5, 100, false, quiet, Need::Expire),
            (Status::Open, 5, 100, false, !quiet, Need::Expire),
            (Status::Open, 5, 101, false, quiet, Need::Nothing),
            (Status::Open, 10, 100, false, quiet, Need::Complete),
            (Status::Open, 10, 100, false, !quiet, Need::Nothing),
            (Status::Received, 10, 0, false, quiet, Need::Nothing),
            (Status::Terminated, 5, 0, false, quiet, Need::Free),
            (Status::Terminated, 5, 0, false, !quiet, Need::Nothing),
            (Status::Terminated, 5, 0, true, quiet, Need::Nothing),
            (Status::Expired, 5, 0, false, quiet, Need::Free),
            (Status::Deactivated, 5, 0, false, quiet, Need::Free),
        ] {
            let record = Record {
                status,
                length_bytes: Some(10),
                offset_bytes,
                generation: 1,
                freed,
                expires_at_ms,
                kept_until_ms: (status != Status::Open).then_some(500),
                ..Record::new(UploadId::from_bytes([1; 16]), MediaId::from_bytes([2; 16]), "o".into())
            };
            assert_eq!(need(&record, 100, is_quiet), wanted, "{record:?} quiet={is_quiet}");
            let from_before = Record { kept_until_ms: None, ..record };
            let is_over = status != Status::Open && is_quiet && wanted == Need::Nothing;
            let wanted = if is_over { Need::Date } else { wanted };
            assert_eq!(need(&from_before, 100, is_quiet), wanted, "{from_before:?} quiet={is_quiet}");
        }
    }
}
