//! How many uploads an owner has open.
//!
//! The list is a hint that heals itself: a crash may leave an id in it, and a full list is compared with the records
//! before anybody is refused. It never decides about an upload that exists.

use nats::{Bus, Outbox, now_ms};
use schemas::{
    ids::UploadId,
    upload::{OpenUploads, UploadRecord},
};
use sha2::{Digest, Sha256};

use super::{UploadContext, refusal::UploadRefusal};

/// Age below which an id without a record may still be on its way, in milliseconds.
const GRACE_MS: u64 = 60_000;

/// Counts a new upload. Refuses when the owner has too many open.
pub(super) async fn add_open_upload(
    shared: &UploadContext,
    owner: &str,
    upload_id: UploadId,
) -> Result<(), UploadRefusal> {
    let open_max = shared.config.open_per_owner_max;
    if try_add(&shared.bus, open_max, owner, upload_id).await? {
        return Ok(());
    }
    prune_ended(&shared.bus, owner).await?;
    if try_add(&shared.bus, open_max, owner, upload_id).await? {
        Ok(())
    } else {
        Err(UploadRefusal::TooMany { open_max })
    }
}

/// Stops counting an upload that has ended. A failure only leaves an entry that the next full list drops.
pub(super) async fn remove_open_upload(bus: &Bus, owner: &str, upload_id: UploadId) {
    let outcome = change_open_uploads(bus, owner, |ids| {
        let before = ids.len();
        ids.retain(|id| *id != upload_id);
        ids.len() != before
    });
    if let Err(error) = outcome.await {
        tracing::debug!(%error, upload.id = %upload_id, "an ended upload stays counted for now");
    }
}

async fn try_add(
    bus: &Bus,
    open_max: usize,
    owner: &str,
    upload_id: UploadId,
) -> Result<bool, nats::BusError> {
    let mut fits = false;
    change_open_uploads(bus, owner, |ids| {
        fits = ids.len() < open_max;
        if fits {
            ids.push(upload_id);
        }
        fits
    })
    .await?;
    Ok(fits)
}

async fn prune_ended(bus: &Bus, owner: &str) -> Result<(), UploadRefusal> {
    let Some(held) = bus.load_record::<OpenUploads>(&owner_key(owner)).await? else { return Ok(()) };
    let mut ended = Vec::new();
    for id in held.record.upload_ids {
        let open = match bus.load_record::<UploadRecord>(&id.to_string()).await? {
            Some(found) => found.record.is_unfinished(),
            None => now_ms().saturating_sub(id.created_at_ms()) < GRACE_MS,
        };
        if !open {
            ended.push(id);
        }
    }
    change_open_uploads(bus, owner, |ids| {
        let before = ids.len();
        ids.retain(|id| !ended.contains(id));
        ids.len() != before
    })
    .await?;
    Ok(())
}

async fn change_open_uploads(
    bus: &Bus,
    owner: &str,
    mut edit: impl FnMut(&mut Vec<UploadId>) -> bool + Send,
) -> Result<(), nats::BusError> {
    let key = owner_key(owner);
    let changed = bus.change_record::<OpenUploads>(&key, |found| {
        let mut record =
            found.cloned().unwrap_or_else(|| OpenUploads { key: key.clone(), upload_ids: Vec::new() });
        edit(&mut record.upload_ids).then(|| (record, Outbox::new()))
    });
    Box::pin(changed).await?;
    Ok(())
}

/// Owner names may be client text, so the key is a digest of them.
fn owner_key(owner: &str) -> String {
    let digest = Sha256::digest(owner.as_bytes());
    OpenUploads::key_for_owner(&digest)
}
