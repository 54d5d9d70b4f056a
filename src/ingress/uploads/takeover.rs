//! The right to write to an upload: making a holder let go, raising the fence, opening the spool.
//!
//! Limits: a holder has `takeover_ms` to let go, wherever it is.

use std::{sync::Arc, time::Duration};

use schemas::subjects;
use store::Spool;
use tokio::time::Instant;

use super::{
    Shared,
    digest::Checks,
    ledger::Ledger,
    protocol::{self, Admission, Append},
    refusal::Refusal,
    session::{self, OnEnd, Session},
};

/// How often the record is read while another replica is asked to let go.
const POLL: Duration = Duration::from_millis(10);

/// What opening led to.
#[derive(Debug)]
pub(super) enum Opened {
    /// Bytes may follow.
    Session(Box<Session>),
    /// The upload is complete already.
    Complete(Box<Ledger>),
}

/// What to do with a holder on another replica that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evict {
    /// The caller raises the fence itself.
    No,
    /// Raise the fence.
    Yes,
}

/// Makes whoever writes to the upload let go, here or on another replica, and reads the record again.
pub(super) async fn release(shared: &Shared, ledger: &mut Ledger, evict: Evict) -> Result<(), Refusal> {
    // One that does not let go in time has its durable offset told; the next append waits for it again.
    shared.slots.release(ledger.upload_id(), shared.config.takeover()).await;
    release_elsewhere(shared, ledger, evict).await
}

/// Makes a holder on another replica let go, and reads the record again.
pub(super) async fn release_elsewhere(
    shared: &Shared,
    ledger: &mut Ledger,
    evict: Evict,
) -> Result<(), Refusal> {
    ledger.reload().await?;
    if !is_held_elsewhere(shared, ledger) {
        return Ok(());
    }
    shared.bus.tell(subjects::control_upload(ledger.upload_id()), Vec::new()).await?;
    let deadline = Instant::now() + shared.config.takeover();
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        ledger.reload().await?;
        if !is_held_elsewhere(shared, ledger) {
            return Ok(());
        }
    }
    match evict {
        Evict::No => Ok(()),
        Evict::Yes => match ledger.evict().await {
            Err(nats::Error::Conflict { .. }) => ledger.reload().await,
            other => Ok(other?),
        },
    }
}

fn is_held_elsewhere(shared: &Shared, ledger: &Ledger) -> bool {
    ledger.record().holder.as_ref().is_some_and(|holder| *holder != shared.instance)
}

/// Takes the upload over for bytes that follow its recorded offset.
pub(super) async fn open(
    shared: &Arc<Shared>,
    mut ledger: Ledger,
    append: &Append,
    checks: Checks,
    on_end: OnEnd,
) -> Result<Opened, Refusal> {
    // What can't become right is refused before anybody is disturbed: the holder is left in peace.
    let length_max = ledger.record().length_bytes.unwrap_or(shared.config.size_bytes_max);
    let unrecorded_max = shared.store.unrecorded_bytes_max(length_max);
    protocol::may_become_right(ledger.record(), append, unrecorded_max, shared.config.size_bytes_max)?;
    let guard = shared.slots.take(ledger.upload_id(), shared.config.takeover()).await.ok_or(Refusal::Busy)?;
    release_elsewhere(shared, &mut ledger, Evict::No).await?;
    let Some(room_bytes) = claim(shared, &mut ledger, append).await? else {
        return Ok(Opened::Complete(Box::new(ledger)));
    };
    if ledger.is_full() {
        // A crash after the last byte was recorded: only the completion is missing.
        session::complete(&shared.store, &mut ledger).await?;
        return Ok(Opened::Complete(Box::new(ledger)));
    }
    match open_spool(shared, &ledger).await {
        Ok(spool) => {
            let shared = Arc::clone(shared);
            let session = Session { shared, ledger, spool, guard, checks, room_bytes, on_end };
            Ok(Opened::Session(Box::new(session)))
        }
        Err(error @ store::Error::Damaged(_)) => Err(session::deactivate(&mut ledger, error).await),
        Err(error) => Err(error.into()),
    }
}

/// Raises the fence; `None` when the upload is complete. Answers how many bytes may follow.
async fn claim(shared: &Shared, ledger: &mut Ledger, append: &Append) -> Result<Option<u64>, Refusal> {
    loop {
        match protocol::admit(ledger.record(), append, shared.config.size_bytes_max)? {
            Admission::Complete => return Ok(None),
            Admission::Take { room_bytes, length_bytes } => {
                match ledger.claim(&shared.instance, length_bytes).await {
                    Ok(()) => return Ok(Some(room_bytes)),
                    Err(nats::Error::Conflict { .. }) => ledger.reload().await?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Another process on this host may hold the file a moment longer than the record says.
async fn open_spool(shared: &Shared, ledger: &Ledger) -> Result<Spool, store::Error> {
    let deadline = Instant::now() + shared.config.takeover();
    let place = ledger.place(shared.config.size_bytes_max);
    loop {
        match Spool::open(&shared.store, place, ledger.durable()).await {
            Err(store::Error::Busy) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            other => return other,
        }
    }
}
