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
use crate::quotas;

/// Age below which an id without a record may still be on its way, in milliseconds.
const GRACE_MS: u64 = 60_000;

/// An upload that is open, as far as it counts.
#[derive(Debug, Clone, Copy)]
struct OpenUpload {
    upload_id: UploadId,
    /// The length that it declared; 0 where it did not.
    length_bytes: u64,
}

/// Counts a new upload. Refuses when the owner has too many open, or may not bring any more today.
pub(super) async fn add_open_upload(
    shared: &UploadContext,
    upload: &UploadRecord,
) -> Result<(), UploadRefusal> {
    let (bus, owner) = (&shared.bus, &upload.owner);
    let open_max = shared.config.open_per_owner_max;
    let quota = shared.config.quotas.quota_of(owner);
    if !upload.is_partial() {
        quotas::require_job_room(bus, quota, owner, 0).await.map_err(UploadRefusal::of_problem)?;
    }
    // The bytes of a final upload count with its parts.
    let own_bytes = if upload.is_final() { Some(0) } else { upload.length_bytes };
    let new = OpenUpload {
        upload_id: upload.upload_id,
        length_bytes: own_bytes.unwrap_or_else(|| quotas::undeclared_bytes(quota)),
    };
    for is_last in [false, true] {
        let refusal = match try_add(bus, open_max, owner, new).await? {
            // With this one among those that are open: of two at the same moment no more than one fits.
            Some(open_bytes) => {
                match quotas::require_upload_room(bus, quota, owner, (own_bytes, open_bytes)).await {
                    Ok(()) => return Ok(()),
                    Err(problem) => {
                        remove_open_upload(bus, owner, upload.upload_id).await;
                        UploadRefusal::of_problem(problem)
                    }
                }
            }
            None => UploadRefusal::TooMany { open_max },
        };
        if is_last {
            return Err(refusal);
        }
        prune_ended(bus, owner).await?;
    }
    Ok(())
}

/// Stops counting an upload that has ended. A failure only leaves an entry that the next full list drops.
pub(super) async fn remove_open_upload(bus: &Bus, owner: &str, upload_id: UploadId) {
    let outcome = change_open_uploads(bus, owner, |open| {
        let before = open.len();
        open.retain(|upload| upload.upload_id != upload_id);
        open.len() != before
    });
    if let Err(error) = outcome.await {
        tracing::debug!(%error, upload.id = %upload_id, "an ended upload stays counted for now");
    }
}

/// What all other open uploads count for in bytes, once this one is among them; `None` when there are too many.
async fn try_add(
    bus: &Bus,
    open_max: usize,
    owner: &str,
    new: OpenUpload,
) -> Result<Option<u64>, nats::BusError> {
    let mut open_bytes = None;
    change_open_uploads(bus, owner, |open| {
        // The same request may come again after a crash.
        open.retain(|upload| upload.upload_id != new.upload_id);
        open_bytes = (open.len() < open_max)
            .then(|| open.iter().fold(0_u64, |sum, upload| sum.saturating_add(upload.length_bytes)));
        open.push(new);
        open_bytes.is_some()
    })
    .await?;
    Ok(open_bytes)
}

/// Lets a part that is complete, and waits for the others, count as an upload without bytes: they count as brought.
pub(super) async fn settle_part(bus: &Bus, owner: &str, upload_id: UploadId) {
    let settled = change_open_uploads(bus, owner, |open| {
        let part = open.iter_mut().find(|upload| upload.upload_id == upload_id && upload.length_bytes > 0);
        part.map(|part| part.length_bytes = 0).is_some()
    });
    if let Err(error) = settled.await {
        tracing::debug!(%error, upload.id = %upload_id, "a complete part counts as open for now");
    }
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
    change_open_uploads(bus, owner, |open| {
        let before = open.len();
        open.retain(|upload| !ended.contains(&upload.upload_id));
        open.len() != before
    })
    .await?;
    Ok(())
}

async fn change_open_uploads(
    bus: &Bus,
    owner: &str,
    mut edit: impl FnMut(&mut Vec<OpenUpload>) -> bool + Send,
) -> Result<(), nats::BusError> {
    let key = owner_key(owner);
    let changed = bus.change_record::<OpenUploads>(&key, |found| {
        let (upload_ids, lengths) =
            found.map_or((&[][..], &[][..]), |found| (&found.upload_ids[..], &found.length_bytes[..]));
        let lengths = lengths.iter().copied().chain(std::iter::repeat(0));
        let mut open: Vec<OpenUpload> = upload_ids
            .iter()
            .zip(lengths)
            .map(|(&upload_id, length_bytes)| OpenUpload { upload_id, length_bytes })
            .collect();
        edit(&mut open).then(|| {
            let record = OpenUploads {
                key: key.clone(),
                upload_ids: open.iter().map(|upload| upload.upload_id).collect(),
                length_bytes: open.iter().map(|upload| upload.length_bytes).collect(),
            };
            (record, Outbox::new())
        })
    });
    Box::pin(changed).await?;
    Ok(())
}

/// Owner names may be client text, so the key is a digest of them.
fn owner_key(owner: &str) -> String {
    let digest = Sha256::digest(owner.as_bytes());
    OpenUploads::key_for_owner(&digest)
}
