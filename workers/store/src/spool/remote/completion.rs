//! What ends the spool of an upload in a remote store: the object is completed, or all that is left of it removed.

use object_store::multipart::PartId;
use schemas::keys;

use super::{RemoteSpool, open_multipart_handle};
use crate::{
    Store, StoreError,
    spool::{SpoolCheckpoint, SpooledUpload},
};

/// Puts the whole upload under its final key, storing what is in no part yet.
pub(in crate::spool) async fn finish_remote_spool(
    store: &Store,
    place: SpooledUpload,
    durable: &SpoolCheckpoint,
) -> Result<(), StoreError> {
    store.verify_marker().await?;
    if let Err(error) = complete_upload(store, place, durable).await {
        // Somebody may have completed it before, and taken what was missing here; only the object itself shows it.
        match check_source_size(store, place, durable.offset_bytes).await {
            Ok(()) => {}
            Err(StoreError::Damaged(_)) => return Err(error),
            Err(other) => return Err(other),
        }
    }
    // The object itself is the proof; only then may the tails go, which are the last copy of their bytes.
    check_source_size(store, place, durable.offset_bytes).await?;
    remove_tails(store, place).await
}

async fn complete_upload(
    store: &Store,
    place: SpooledUpload,
    durable: &SpoolCheckpoint,
) -> Result<(), StoreError> {
    let state = durable.multipart.clone().unwrap_or_default();
    let is_stored = state.parts.is_empty() && state.tail.is_none() && durable.offset_bytes > 0;
    if is_stored {
        return Ok(());
    }
    let mut missing = RemoteSpool::open(store, place, durable.clone())?;
    missing.store_last_part().await?;
    let Some(multipart_id) = missing.state.multipart_id.clone() else { return Ok(()) };
    // S3 completes no multipart upload without parts; an empty file was stored as an object of its own.
    if missing.state.parts.is_empty() {
        return abort_multipart(store, place, &multipart_id).await;
    }
    let multipart = open_multipart_handle(store, place)?;
    let parts = missing.state.parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
    let completed = multipart.api.complete_multipart(&multipart.path, &multipart_id, parts);
    // Some stores copy the bytes of every part before they answer.
    store.with_deadline(durable.offset_bytes, completed).await.map(drop).map_err(map_completion_error)
}

/// A store that refuses the parts will refuse them again; one that can't be reached may not.
fn map_completion_error(error: StoreError) -> StoreError {
    let says = |what: &str| match &error {
        StoreError::Unavailable(source) => source.to_string().contains(what),
        _ => false,
    };
    if matches!(error, StoreError::NotFound { .. }) || says("InvalidPart") || says("NoSuchUpload") {
        return StoreError::Damaged("the store does not have the recorded parts".into());
    }
    error
}

async fn check_source_size(store: &Store, place: SpooledUpload, length: u64) -> Result<(), StoreError> {
    match store.head(&keys::source_key(place.media_id)).await {
        Ok(meta) if meta.size_bytes == length => Ok(()),
        Ok(meta) => Err(StoreError::Damaged(format!("{} of {length} bytes are there", meta.size_bytes))),
        Err(StoreError::NotFound { .. }) => Err(StoreError::Damaged("the object is not there".into())),
        Err(other) => Err(other),
    }
}

pub(in crate::spool) async fn remove_remote_spool(
    store: &Store,
    place: SpooledUpload,
    durable: &SpoolCheckpoint,
) -> Result<(), StoreError> {
    store.verify_marker().await?;
    if let Some(multipart_id) = durable.multipart.as_ref().and_then(|m| m.multipart_id.as_ref()) {
        abort_multipart(store, place, multipart_id).await?;
    }
    remove_tails(store, place).await
}

pub(super) async fn abort_multipart(
    store: &Store,
    place: SpooledUpload,
    multipart_id: &String,
) -> Result<(), StoreError> {
    let multipart = open_multipart_handle(store, place)?;
    match store.with_deadline(0, multipart.api.abort_multipart(&multipart.path, multipart_id)).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        // Some stores answer "forbidden" for an upload they no longer know; a store that works lists its keys.
        Err(other) => store.probe().await.map_err(|_| other),
    }
}

async fn remove_tails(store: &Store, place: SpooledUpload) -> Result<(), StoreError> {
    use futures::TryStreamExt;
    let mut found = store.list(&keys::source_tail_prefix(place.media_id));
    while let Some(meta) = found.try_next().await? {
        store.delete(&meta.key).await?;
    }
    Ok(())
}
