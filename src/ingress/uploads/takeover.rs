//! The right to write to an upload: making a holder let go, raising the fence, opening the spool.
//!
//! Limits: a holder has `takeover_ms` to let go, wherever it is.

use std::{sync::Arc, time::Duration};

use schemas::subjects;
use store::Spool;
use tokio::time::Instant;

use super::{
    UploadContext,
    fenced_record::FencedUploadRecord,
    protocol::{self, AppendAdmission, UploadAppend},
    refusal::UploadRefusal,
    session::{self, BodyPolicy, UploadSession},
};

/// How often the record is read while another replica is asked to let go.
const POLL: Duration = Duration::from_millis(10);

/// What opening led to.
#[derive(Debug)]
pub(super) enum TakeoverOutcome {
    /// Bytes may follow.
    Session(Box<UploadSession>),
    /// The upload is complete already.
    Complete(Box<FencedUploadRecord>),
}

/// What to do with a holder on another replica that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EvictionPolicy {
    /// The caller raises the fence itself.
    No,
    /// Raise the fence.
    Yes,
}

/// Makes the writer of the upload let go, here or on another replica, and reads the record again.
pub(super) async fn displace_writer(
    shared: &UploadContext,
    ledger: &mut FencedUploadRecord,
    evict: EvictionPolicy,
) -> Result<(), UploadRefusal> {
    // When the writer does not let go in time, its durable offset is reported; the next append waits for it again.
    shared.slots.displace_and_wait(ledger.upload_id(), shared.config.takeover_timeout()).await;
    release_remote_writer(shared, ledger, evict).await
}

/// Makes a holder on another replica let go, and reads the record again.
pub(super) async fn release_remote_writer(
    shared: &UploadContext,
    ledger: &mut FencedUploadRecord,
    evict: EvictionPolicy,
) -> Result<(), UploadRefusal> {
    ledger.reload().await?;
    if !is_held_remotely(shared, ledger) {
        return Ok(());
    }
    // With its name: it comes back to who asks, and must not make that one let go.
    let asked_by = shared.instance.clone().into_bytes();
    shared.bus.publish_core(subjects::upload_release_subject(ledger.upload_id()), asked_by).await?;
    let deadline = Instant::now() + shared.config.takeover_timeout();
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        ledger.reload().await?;
        if !is_held_remotely(shared, ledger) {
            return Ok(());
        }
    }
    match evict {
        EvictionPolicy::No => Ok(()),
        EvictionPolicy::Yes => match ledger.evict_writer().await {
            Err(nats::BusError::Conflict { .. }) => ledger.reload().await,
            other => Ok(other?),
        },
    }
}

fn is_held_remotely(shared: &UploadContext, ledger: &FencedUploadRecord) -> bool {
    ledger.record().holder.as_ref().is_some_and(|holder| *holder != shared.instance)
}

/// Takes the upload over for bytes that follow its recorded offset.
pub(super) async fn open_session(
    shared: &Arc<UploadContext>,
    mut ledger: FencedUploadRecord,
    append: &UploadAppend,
    policy: BodyPolicy,
) -> Result<TakeoverOutcome, UploadRefusal> {
    // What can't become right is refused before anybody is disturbed: the holder is left in peace.
    let length_max = ledger.record().length_bytes.unwrap_or(shared.config.size_bytes_max);
    let unrecorded_max = shared.store.unrecorded_bytes_max(length_max);
    protocol::check_append_possible(ledger.record(), append, unrecorded_max, shared.config.size_bytes_max)?;
    // In this process first, then across replicas, then in the record: only the record is a fence, the rest saves
    // bytes.
    let guard = shared
        .slots
        .acquire(ledger.upload_id(), shared.config.takeover_timeout())
        .await
        .ok_or(UploadRefusal::Busy)?;
    // No eviction: claiming the upload raises the fence anyway, and only once.
    release_remote_writer(shared, &mut ledger, EvictionPolicy::No).await?;
    let Some(room_bytes) = claim_upload(shared, &mut ledger, append).await? else {
        return Ok(TakeoverOutcome::Complete(Box::new(ledger)));
    };
    if ledger.is_full() {
        // A crash after the last byte was recorded: only the completion is missing.
        session::complete_upload(&shared.store, &mut ledger).await?;
        return Ok(TakeoverOutcome::Complete(Box::new(ledger)));
    }
    match open_spool(shared, &ledger).await {
        Ok(spool) => {
            let shared = Arc::clone(shared);
            let session =
                UploadSession { shared, ledger, spool, guard, room_bytes, policy, has_whole_body: false };
            Ok(TakeoverOutcome::Session(Box::new(session)))
        }
        Err(error @ store::StoreError::Damaged(_)) => {
            Err(session::deactivate_upload(&mut ledger, error).await)
        }
        Err(error) => Err(error.into()),
    }
}

/// Raises the fence; `None` when the upload is complete. Answers how many bytes may follow.
async fn claim_upload(
    shared: &UploadContext,
    ledger: &mut FencedUploadRecord,
    append: &UploadAppend,
) -> Result<Option<u64>, UploadRefusal> {
    loop {
        match protocol::admit_append(ledger.record(), append, shared.config.size_bytes_max)? {
            AppendAdmission::Complete => return Ok(None),
            AppendAdmission::Take { room_bytes, length_bytes } => {
                match ledger.claim_for_writer(&shared.instance, length_bytes, append.fetched.as_ref()).await {
                    Ok(()) => return Ok(Some(room_bytes)),
                    // Admitted anew: the holder may have recorded more bytes, so that the offset of this request is
                    // wrong now.
                    Err(nats::BusError::Conflict { .. }) => ledger.reload().await?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Another process on this host may hold the file a moment longer than the record says.
async fn open_spool(shared: &UploadContext, ledger: &FencedUploadRecord) -> Result<Spool, store::StoreError> {
    let deadline = Instant::now() + shared.config.takeover_timeout();
    let place = ledger.spool_place(shared.config.size_bytes_max);
    loop {
        match Spool::open(&shared.store, place, ledger.durable_bytes()).await {
            Err(store::StoreError::Busy) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            other => return other,
        }
    }
}
