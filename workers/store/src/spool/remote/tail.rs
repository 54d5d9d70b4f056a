//! The tail of a remote spool: an object that holds the durable rest below one part.

use std::time::Instant;

use bytes::Bytes;
use object_store::PutPayload;
use schemas::{
    keys,
    upload::{MultipartState, UploadTail},
};

use super::RemoteSpool;
use crate::{
    StoreError, length_to_u64,
    spool::{SpoolCheckpoint, SpooledUpload},
};

impl RemoteSpool {
    /// Removes the tail that the record no longer names. One that stays because of an error goes with the completion.
    pub(in crate::spool) async fn confirm_recorded(&mut self, durable: &SpoolCheckpoint) {
        let named = durable.multipart.as_ref().and_then(|m| m.tail.as_ref());
        // An older tail goes only once the record names another: until then a crash goes on from it.
        let Some(old) = self.recorded_tail.take() else {
            self.recorded_tail = named.cloned();
            return;
        };
        self.recorded_tail = named.cloned();
        let old_key = tail_key(self.place, &old);
        if named.is_none_or(|tail| tail_key(self.place, tail) != old_key)
            && let Err(error) = self.store.delete(&old_key).await
        {
            tracing::debug!(error = %error, "a superseded tail stays until the upload ends");
        }
    }

    pub(super) async fn save_parts_and_tail(&mut self) -> Result<(), StoreError> {
        loop {
            self.await_all_parts().await?;
            if self.rest_bytes() < self.state.part_bytes {
                break;
            }
            // Taken back from a store that was too slow for so many at once.
            self.start_part().await?;
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut pieces = self.read_tail().await?;
        pieces.extend(self.batch.chunks.iter().map(|chunk| chunk.bytes.clone()));
        // The generation is part of the key: a displaced writer can't overwrite the tail that its successor
        // recorded.
        let tail = UploadTail {
            generation: self.place.generation,
            part: length_to_u64(self.state.parts.len()),
            size_bytes: self.rest_bytes(),
        };
        self.store.put_payload(&tail_key(self.place, &tail), PutPayload::from_iter(pieces)).await?;
        self.state.tail = Some(tail);
        self.batch.clear();
        self.tail_at = Instant::now();
        self.update_checkpoint();
        Ok(())
    }

    pub(super) async fn read_tail(&self) -> Result<Vec<Bytes>, StoreError> {
        let Some(tail) = &self.state.tail else { return Ok(Vec::new()) };
        let key = tail_key(self.place, tail);
        let bytes = match self.store.get_range(&key, 0..tail.size_bytes).await {
            Err(StoreError::NotFound { .. }) => {
                return Err(StoreError::Damaged("the tail object is gone".into()));
            }
            other => other?,
        };
        if length_to_u64(bytes.len()) != tail.size_bytes {
            return Err(StoreError::Damaged("the tail object is too short".into()));
        }
        Ok(vec![bytes])
    }
}

fn tail_key(place: SpooledUpload, tail: &UploadTail) -> String {
    keys::source_tail_key(place.media_id, tail.generation, tail.part)
}

pub(super) fn tail_bytes(state: &MultipartState) -> u64 {
    state.tail.as_ref().map_or(0, |tail| tail.size_bytes)
}
