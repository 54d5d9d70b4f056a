//! Concatenation (tus 1.0): an upload whose bytes are those of others, one after the other.
//!
//! A partial upload is received like any other and never becomes a medium. It belongs to the one final upload that names it, which
//! is joined as soon as each of its parts is there: by the request that brought the last of them, else by the keeper. Joining goes on
//! where it was interrupted.
//!
//! Limits: [`super::concat_field::PARTS_MAX`] parts; progress is recorded each [`store::APPEND_BYTES_MAX`], or part of the store.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use nats::{Bus, BusError};
use schemas::{
    ids::UploadId,
    keys,
    upload::{UploadRecord, UploadStatus},
};
use store::{Spool, SpoolCheckpoint, Store};
use tokio_util::sync::CancellationToken;

use super::{
    UploadContext, fenced_record, fenced_record::FencedUploadRecord, refusal::UploadRefusal, session,
    slot::UploadWriterGuard,
};

/// Longest time that the keeper joins one upload in one pass.
const KEEPER_JOIN_MAX: Duration = Duration::from_secs(30);

/// Why a part ended whose bytes are in its final upload.
pub(super) const CONCATENATED: &str = "concatenated";

/// What came of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinOutcome {
    /// The upload is received.
    Joined,
    /// Parts are missing, or somebody else is at it.
    Waiting,
}

/// True when a final upload is gone, or has ended without the bytes of its parts: those are free again.
pub(super) async fn has_failed(bus: &Bus, upload_id: UploadId) -> Result<bool, UploadRefusal> {
    let held = bus.load_record::<UploadRecord>(&upload_id.to_string()).await?;
    Ok(held.is_none_or(|held| !matches!(held.record.status, UploadStatus::Open | UploadStatus::Received)))
}

/// What ends joining before it is done; it goes on from there later.
#[derive(Debug)]
pub(super) struct JoinLimits<'a> {
    /// Names who joins.
    holder: &'a str,
    /// Fires when this process stops.
    stopping: Option<&'a CancellationToken>,
    /// Fires when another request wants the upload.
    guard: Option<&'a UploadWriterGuard>,
    /// Longest time.
    until: Option<Instant>,
}

impl<'a> JoinLimits<'a> {
    /// Of the keeper, which has other uploads to look after.
    pub(super) fn of_keeper(holder: &'a str) -> Self {
        Self { holder, stopping: None, guard: None, until: Some(Instant::now() + KEEPER_JOIN_MAX) }
    }

    fn check(&self) -> Result<(), UploadRefusal> {
        let is_wanted = self.guard.is_some_and(|guard| guard.wait_displaced().now_or_never().is_some());
        match self.stopping {
            Some(stopping) if stopping.is_cancelled() => Err(UploadRefusal::Stopping),
            _ if is_wanted || self.until.is_some_and(|until| until <= Instant::now()) => {
                Err(UploadRefusal::Busy)
            }
            _ => Ok(()),
        }
    }
}

/// Joins a final upload in a task of its own, and waits for it for a moment.
pub(super) async fn join_soon(shared: &Arc<UploadContext>, upload_id: UploadId) {
    let work = {
        let shared = Arc::clone(shared);
        async move {
            if let Err(refusal) = join_as_ingress(&shared, upload_id).await {
                tracing::warn!(?refusal, upload.id = %upload_id, "an upload waits for the keeper to join its parts");
            }
        }
    };
    let running = shared.tasks.spawn(web::request::with_current_id(Box::pin(work)));
    // It goes on without the request.
    tokio::time::timeout(shared.config.finish_timeout(), running).await.ok();
}

async fn join_as_ingress(shared: &UploadContext, upload_id: UploadId) -> Result<JoinOutcome, UploadRefusal> {
    let kept_ms = shared.config.ended_kept_ms;
    let mut ledger = FencedUploadRecord::load_any(&shared.bus, upload_id, kept_ms).await?;
    if ledger.record().holder.is_some() {
        return Ok(JoinOutcome::Waiting);
    }
    // Another request of this replica that is at it goes on.
    let Some(guard) = shared.slots.try_acquire_free(upload_id) else { return Ok(JoinOutcome::Waiting) };
    let limits = JoinLimits {
        holder: &shared.instance,
        stopping: Some(&shared.stopping),
        guard: Some(&guard),
        until: None,
    };
    join(&shared.store, &mut ledger, &limits).await
}

/// Joins the parts of a final upload once all are there.
pub(super) async fn join(
    store: &Store,
    ledger: &mut FencedUploadRecord,
    limits: &JoinLimits<'_>,
) -> Result<JoinOutcome, UploadRefusal> {
    if ledger.record().status != UploadStatus::Open {
        return Ok(JoinOutcome::Waiting);
    }
    let Some(parts) = load_received_parts(ledger).await? else { return Ok(JoinOutcome::Waiting) };
    let length_bytes = parts.iter().map(|part| part.offset_bytes).fold(0, u64::saturating_add);
    match ledger.claim_for_writer(limits.holder, Some(length_bytes), None).await {
        Ok(()) => {}
        Err(BusError::Conflict { .. }) => {
            ledger.reload().await?;
            return Ok(JoinOutcome::Waiting);
        }
        Err(error) => return Err(error.into()),
    }
    join_claimed(store, ledger, &parts, limits).await?;
    session::complete_upload(store, ledger).await?;
    end_parts(store, ledger).await;
    Ok(JoinOutcome::Joined)
}

/// Copies the parts into a final upload that the caller has claimed. What keeps it from that is recorded with what is durable.
async fn join_claimed(
    store: &Store,
    ledger: &mut FencedUploadRecord,
    parts: &[UploadRecord],
    limits: &JoinLimits<'_>,
) -> Result<(), UploadRefusal> {
    let length_bytes = ledger.record().length_bytes.unwrap_or_default();
    let opened = Spool::open(store, ledger.spool_place(length_bytes), ledger.durable_bytes()).await;
    let mut spool = match opened {
        Ok(spool) => spool,
        Err(error @ store::StoreError::Damaged(_)) => {
            return Err(session::deactivate_upload(ledger, error).await);
        }
        Err(error) => {
            let durable = ledger.durable_bytes();
            release(ledger, &durable).await;
            return Err(error.into());
        }
    };
    let Err(refusal) = copy_parts(store, ledger, &mut spool, parts, limits).await else { return Ok(()) };
    let durable = spool.latest_checkpoint();
    let expires_at_ms = ledger.record().expires_at_ms;
    // With the multipart upload, which nobody else could end.
    let released = ledger.release_writer(&durable, expires_at_ms).await;
    session::release_spool(released, spool, ledger).await?;
    match refusal {
        // As of bytes of its own: what is missing while nobody else is at it is lost.
        UploadRefusal::Store(error @ store::StoreError::NotFound { .. }) => {
            Err(session::deactivate_upload(ledger, error).await)
        }
        UploadRefusal::Gone(_) => {
            let error = store::StoreError::Damaged("bytes of a part are missing".into());
            Err(session::deactivate_upload(ledger, error).await)
        }
        refusal => Err(refusal),
    }
}

async fn release(ledger: &mut FencedUploadRecord, durable: &SpoolCheckpoint) {
    let expires_at_ms = ledger.record().expires_at_ms;
    if let Err(refusal) = ledger.release_writer(durable, expires_at_ms).await {
        tracing::debug!(?refusal, upload.id = %ledger.upload_id(), "an upload stays claimed until the keeper comes");
    }
}

/// The parts in order, one that is named twice twice; `None` while one is missing or belongs to another upload.
async fn load_received_parts(
    ledger: &FencedUploadRecord,
) -> Result<Option<Vec<UploadRecord>>, UploadRefusal> {
    let mut parts = Vec::new();
    for part_id in ledger.record().part_ids() {
        let Some(held) = ledger.bus().load_record::<UploadRecord>(&part_id.to_string()).await? else {
            return Ok(None);
        };
        let part = held.record;
        if part.status != UploadStatus::Received || part.final_upload_id() != Some(ledger.upload_id()) {
            return Ok(None);
        }
        parts.push(part);
    }
    Ok(Some(parts))
}

async fn copy_parts(
    store: &Store,
    ledger: &mut FencedUploadRecord,
    spool: &mut Spool,
    parts: &[UploadRecord],
    limits: &JoinLimits<'_>,
) -> Result<(), UploadRefusal> {
    let expires_at_ms = ledger.record().expires_at_ms;
    let sizes_bytes: Vec<u64> = parts.iter().map(|part| part.offset_bytes).collect();
    let length_bytes = sizes_bytes.iter().copied().fold(0, u64::saturating_add);
    spool.align_parts(&sizes_bytes);
    loop {
        // The spool itself says what comes next: it goes back when the store turns out not to copy.
        while let Some((index, rest)) = find_next(&sizes_bytes, spool.offset_bytes()) {
            let Some(part) = parts.get(index) else { break };
            limits.check()?;
            spool.append_object(store, &keys::source_key(part.media_id), rest).await?;
            if let Some(durable) = spool.checkpoint().await? {
                ledger.record_progress(&durable, expires_at_ms).await?;
                spool.confirm_recorded(&durable).await;
            }
        }
        let durable = spool.flush_last().await?;
        ledger.record_progress(&durable, expires_at_ms).await?;
        if durable.offset_bytes >= length_bytes {
            return Ok(());
        }
        limits.check()?;
    }
}

/// The part that the byte at an offset of the whole belongs to, and what of that part is left from there on.
fn find_next(sizes_bytes: &[u64], offset_bytes: u64) -> Option<(usize, Range<u64>)> {
    let mut behind = offset_bytes;
    for (index, size_bytes) in sizes_bytes.iter().enumerate() {
        if behind < *size_bytes {
            return Some((index, behind..*size_bytes));
        }
        behind -= size_bytes;
    }
    None
}

/// Ends the parts of an upload that holds their bytes. What fails the keeper does once the time of the part is over.
async fn end_parts(store: &Store, ledger: &FencedUploadRecord) {
    let part_ids: BTreeSet<UploadId> = ledger.record().part_ids().iter().copied().collect();
    for part_id in part_ids {
        if let Err(refusal) = end_part(store, ledger.bus(), part_id, ledger.kept_ms()).await {
            tracing::warn!(?refusal, upload.id = %part_id, "a part stays in the store until the keeper comes");
        }
    }
}

async fn end_part(store: &Store, bus: &Bus, part_id: UploadId, kept_ms: u64) -> Result<(), UploadRefusal> {
    let mut part = FencedUploadRecord::load_any(bus, part_id, kept_ms).await?;
    if part.check_not_ended().is_ok() {
        part.mark_ended(UploadStatus::Terminated, Some(CONCATENATED)).await?;
        super::open_uploads::remove_open_upload(bus, &part.record().owner, part_id).await;
    }
    fenced_record::free_upload(store, &mut part).await
}

/// What the keeper does with a received part whose time ran out: nothing while its final upload still waits for it.
pub(super) async fn expire_part(
    store: &Store,
    part: &mut FencedUploadRecord,
    kept_ms: u64,
) -> Result<(), UploadRefusal> {
    let bus = part.bus().clone();
    let status = match part.record().final_upload_id() {
        None => None,
        Some(id) => bus.load_record::<UploadRecord>(&id.to_string()).await?.map(|held| held.record.status),
    };
    match status {
        Some(UploadStatus::Open) => Ok(()),
        Some(UploadStatus::Received) => end_part(store, &bus, part.upload_id(), kept_ms).await,
        _ => {
            part.mark_expired().await?;
            fenced_record::free_upload(store, part).await
        }
    }
}

/// What the keeper does with a final upload that is quiet: joins it, or ends it when its time and that of its parts ran out. One that is
/// over ends as well when there is no room for it.
pub(super) async fn join_or_expire(
    store: &Store,
    ledger: &mut FencedUploadRecord,
    holder: &str,
    now_ms: u64,
) -> Result<(), UploadRefusal> {
    match join(store, ledger, &JoinLimits::of_keeper(holder)).await {
        Ok(JoinOutcome::Joined) => return Ok(()),
        Ok(JoinOutcome::Waiting) | Err(UploadRefusal::Full) => {}
        Err(refusal) => return Err(refusal),
    }
    // By the record that was looked at: who claimed it meanwhile keeps it.
    let record = ledger.record();
    let is_idle =
        record.status == UploadStatus::Open && record.holder.is_none() && record.expires_at_ms <= now_ms;
    if is_idle && !has_part_with_time(ledger, now_ms).await? {
        ledger.mark_expired().await?;
        return fenced_record::free_upload(store, ledger).await;
    }
    Ok(())
}

/// True while one of its parts may still come.
async fn has_part_with_time(ledger: &FencedUploadRecord, now_ms: u64) -> Result<bool, UploadRefusal> {
    for part_id in ledger.record().part_ids() {
        let held = ledger.bus().load_record::<UploadRecord>(&part_id.to_string()).await?;
        if held.is_some_and(|part| part.record.is_unfinished() && part.record.expires_at_ms > now_ms) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when a part may not be ended by itself: its final upload waits for it, or is being made of it.
pub(super) async fn is_needed(bus: &Bus, part: &UploadRecord) -> Result<bool, UploadRefusal> {
    match part.final_upload_id() {
        Some(id) if part.status == UploadStatus::Received => Ok(!has_failed(bus, id).await?),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_is_found_by_the_offset() {
        let sizes = [3, 0, 4];
        for (offset, wanted) in [(0, Some((0, 0..3))), (2, Some((0, 2..3))), (3, Some((2, 0..4))), (7, None)]
        {
            assert_eq!(find_next(&sizes, offset), wanted, "{offset}");
        }
    }
}
