//! The spool in a remote store: parts put straight to the final key, and a tail object for the durable rest below one
//! part, so that another replica can continue.
//!
//! All parts but the last have one size (R2 asks for it); parts of stored objects are copied by the store where it can
//! ([`copying`]). The tail's key carries the generation and the part it begins:
//! a writer that was displaced can't overwrite the tail of its successor. A displaced writer that still stores a part
//! under an index of its successor makes the completion fail by entity tag on S3; it can't end in mixed bytes unnoticed.

mod completion;
mod copying;
mod recovery;
mod tail;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use object_store::{PutPayload, multipart::MultipartStore, path::Path};
use schemas::{
    keys,
    upload::{MultipartState, UploadTail},
};
use tokio_util::task::AbortOnDropHandle;

use super::{ChunkBatch, SpoolCheckpoint, SpoolChunk, SpooledUpload};
use crate::{Store, StoreError, length_to_u64};
use completion::abort_multipart;
pub(super) use completion::{finish_remote_spool, remove_remote_spool};
use tail::tail_bytes;

/// Smallest unsaved rest worth a tail object while the upload is running, in bytes.
const TAIL_BYTES_MIN: u64 = 256 * 1024;

#[derive(Debug)]
pub(super) struct RemoteSpool {
    store: Store,
    place: SpooledUpload,
    multipart: Arc<MultipartHandle>,
    state: MultipartState,
    /// Bytes in parts that are stored.
    stored: u64,
    /// Parts on their way, in order.
    putting: VecDeque<InFlightPart>,
    /// Parts that may be on their way; fewer once the store was too slow for as many.
    in_flight_max: usize,
    batch: ChunkBatch,
    /// The newest state that can be continued from.
    safe: SpoolCheckpoint,
    /// Bytes that were reported to the caller as durable.
    reported: u64,
    /// The multipart upload was begun, and that was not reported to the caller yet.
    is_begun: bool,
    /// Ranges of objects may be copied by the store.
    is_copying: bool,
    /// A copy was refused, and the caller was not made to look where the spool is.
    is_refused: bool,
    /// The tail the caller's record names; it is removed once the record names another.
    recorded_tail: Option<UploadTail>,
    tail_at: Instant,
}

/// A part on its way; dropping it aborts the request, so that nothing is sent after a release.
#[derive(Debug)]
struct InFlightPart {
    size_bytes: u64,
    /// The store makes it of an object.
    is_copy: bool,
    /// What it is made of, should it have to be sent again.
    tail: Option<UploadTail>,
    chunks: Vec<SpoolChunk>,
    task: AbortOnDropHandle<Result<PartOutcome, StoreError>>,
}

/// What came of a part.
#[derive(Debug)]
enum PartOutcome {
    /// It is stored; what the store calls its content.
    Stored(String),
    /// The store does not copy the object.
    CopyRefused,
}

struct MultipartHandle {
    api: Arc<dyn MultipartStore>,
    path: Path,
}

impl std::fmt::Debug for MultipartHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultipartHandle").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RemoteSpool {
    pub(super) fn open(
        store: &Store,
        place: SpooledUpload,
        durable: SpoolCheckpoint,
    ) -> Result<Self, StoreError> {
        let config = store.state().config();
        let state = durable.multipart.clone().unwrap_or_else(|| MultipartState {
            part_bytes: config.part_bytes(place.length_bytes_max),
            ..MultipartState::default()
        });
        // Every part but the last has the recorded size, so their number says how many bytes they hold.
        let stored =
            length_to_u64(state.parts.len()).saturating_mul(state.part_bytes).min(durable.offset_bytes);
        if stored + tail_bytes(&state) != durable.offset_bytes {
            return Err(StoreError::Damaged(format!(
                "{} recorded bytes are not in parts",
                durable.offset_bytes
            )));
        }
        Ok(Self {
            store: store.clone(),
            place,
            multipart: Arc::new(open_multipart_handle(store, place)?),
            recorded_tail: state.tail.clone(),
            state,
            stored,
            putting: VecDeque::new(),
            in_flight_max: config.parts_in_flight_max.max(1),
            is_begun: false,
            is_copying: store.state().backend().part_copier().is_some_and(|copier| copier.is_able()),
            is_refused: false,
            batch: ChunkBatch::default(),
            reported: durable.offset_bytes,
            safe: durable,
            tail_at: Instant::now(),
        })
    }

    pub(super) fn offset_bytes(&self) -> u64 {
        let putting: u64 = self.putting.iter().map(|part| part.size_bytes).sum();
        self.stored + putting + tail_bytes(&self.state) + self.batch.length_bytes()
    }

    pub(super) fn in_flight_wait(&self) -> Duration {
        self.store.state().config().in_flight_wait()
    }

    /// Bytes that are in no part yet.
    fn rest_bytes(&self) -> u64 {
        tail_bytes(&self.state) + self.batch.length_bytes()
    }

    pub(super) async fn write(&mut self, chunk: SpoolChunk) -> Result<(), StoreError> {
        self.batch.push(chunk);
        while self.rest_bytes() >= self.state.part_bytes {
            let step = self.start_part().await;
            self.revert_on_error(step)?;
        }
        Ok(())
    }

    pub(super) async fn checkpoint(&mut self) -> Result<Option<SpoolCheckpoint>, StoreError> {
        while self.putting.front().is_some_and(|part| part.task.is_finished()) {
            let step = self.await_first_part().await;
            let step = self.revert_on_error(step);
            self.forgive_refusal(step)?;
        }
        let unsaved = self.batch.length_bytes();
        let worth = unsaved >= tail_bytes(&self.state).max(TAIL_BYTES_MIN);
        let due = self.tail_at.elapsed() >= self.store.state().config().tail_interval();
        if worth && due && self.putting.is_empty() {
            self.save_pending().await?;
        }
        // A multipart upload that nobody recorded could not be ended by anybody.
        if self.safe.offset_bytes <= self.reported && !std::mem::take(&mut self.is_begun) {
            return Ok(None);
        }
        self.reported = self.safe.offset_bytes;
        Ok(Some(self.safe.clone()))
    }

    pub(super) fn latest_checkpoint(&self) -> &SpoolCheckpoint {
        &self.safe
    }

    pub(super) async fn flush(&mut self) -> Result<SpoolCheckpoint, StoreError> {
        self.save_pending().await?;
        self.reported = self.safe.offset_bytes;
        Ok(self.safe.clone())
    }

    pub(super) async fn flush_last(&mut self) -> Result<SpoolCheckpoint, StoreError> {
        let step = self.store_last_part().await;
        let step = self.revert_on_error(step);
        self.forgive_refusal(step)?;
        self.reported = self.safe.offset_bytes;
        Ok(self.safe.clone())
    }

    /// Saves what is in memory: the parts on their way and a tail object.
    pub(super) async fn save_pending(&mut self) -> Result<(), StoreError> {
        let step = self.save_parts_and_tail().await;
        self.revert_on_error(step)
    }

    /// Ends what was begun beside the recorded state, which nobody could find later.
    pub(super) async fn rollback(mut self, recorded: &SpoolCheckpoint) -> Result<(), StoreError> {
        self.putting.clear();
        let known = recorded.multipart.as_ref().and_then(|m| m.multipart_id.as_ref());
        match self.state.multipart_id.as_ref() {
            Some(begun) if known != Some(begun) => abort_multipart(&self.store, self.place, begun).await,
            _ => Ok(()),
        }
    }

    /// Stores the rest as the last part, or as the whole object when there are no parts.
    async fn store_last_part(&mut self) -> Result<(), StoreError> {
        let has_parts = !self.state.parts.is_empty() || !self.putting.is_empty();
        if self.state.multipart_id.is_some() && (has_parts || self.rest_bytes() > 0) {
            loop {
                while self.rest_bytes() > 0 {
                    self.start_part().await?;
                }
                self.await_all_parts().await?;
                if self.rest_bytes() == 0 {
                    return Ok(());
                }
            }
        }
        let rest = self.rest_bytes();
        let mut pieces = self.read_tail().await?;
        pieces.extend(self.batch.chunks.iter().map(|chunk| chunk.bytes.clone()));
        self.store.put_payload(&keys::source_key(self.place.media_id), PutPayload::from_iter(pieces)).await?;
        self.batch.clear();
        self.state.tail = None;
        self.stored = rest;
        self.update_checkpoint();
        Ok(())
    }

    /// Sends the next part: a whole one, or all that is left.
    async fn start_part(&mut self) -> Result<(), StoreError> {
        while self.putting.len() >= self.in_flight_max {
            self.await_first_part().await?;
        }
        self.store.verify_marker().await?;
        let multipart_id = self.ensure_multipart_id().await?;
        let mut pieces = self.read_tail().await?;
        let size_bytes = self.rest_bytes().min(self.state.part_bytes);
        let fresh = size_bytes.saturating_sub(tail_bytes(&self.state));
        // S3 orders parts by number, not by arrival; a repeated part replaces the one of the same number.
        let index = self.state.parts.len() + self.putting.len();
        let chunks = self.batch.split_front(usize::try_from(fresh).unwrap_or(usize::MAX));
        pieces.extend(chunks.iter().map(|chunk| chunk.bytes.clone()));
        let tail = self.state.tail.take();
        let (multipart, store) = (self.multipart.clone(), self.store.clone());
        let task = tokio::task::spawn(async move {
            let payload = PutPayload::from_iter(pieces);
            let put = multipart.api.put_part(&multipart.path, &multipart_id, index, payload);
            Ok(PartOutcome::Stored(store.with_deadline(size_bytes, put).await?.content_id))
        });
        let task = AbortOnDropHandle::new(task);
        self.putting.push_back(InFlightPart { size_bytes, is_copy: false, tail, chunks, task });
        Ok(())
    }

    async fn await_first_part(&mut self) -> Result<(), StoreError> {
        // In order, however they arrive: a checkpoint may only count bytes without a gap before them.
        let Some(first) = self.putting.front_mut() else { return Ok(()) };
        let (size_bytes, outcome) =
            (first.size_bytes, (&mut first.task).await.map_err(StoreError::from_join)?);
        let content_id = match outcome {
            Ok(PartOutcome::Stored(content_id)) => content_id,
            Ok(PartOutcome::CopyRefused) => {
                self.putting.pop_front();
                return Err(self.give_up_copies().await);
            }
            // An error, so that the caller does not go on behind bytes that were not taken.
            Err(error @ StoreError::Slow { .. }) if self.putting.iter().any(|part| part.is_copy) => {
                return Err(error);
            }
            Err(error @ StoreError::Slow { .. }) => {
                self.requeue_parts();
                if self.in_flight_max == 1 {
                    return Err(error);
                }
                // They share one way to the store: fewer at a time arrive sooner.
                self.in_flight_max = self.in_flight_max.div_ceil(2).min(self.in_flight_max - 1);
                tracing::info!(parts = self.in_flight_max, "the store is slow: fewer parts at a time");
                return Ok(());
            }
            Err(StoreError::NotFound { .. }) => {
                self.store.verify_marker_now().await?;
                return Err(self.handle_unknown_multipart());
            }
            Err(error) => return Err(error),
        };
        self.putting.pop_front();
        self.state.parts.push(content_id);
        self.stored += size_bytes;
        self.update_checkpoint();
        Ok(())
    }

    async fn await_all_parts(&mut self) -> Result<(), StoreError> {
        while !self.putting.is_empty() {
            self.await_first_part().await?;
        }
        Ok(())
    }

    async fn ensure_multipart_id(&mut self) -> Result<String, StoreError> {
        if let Some(known) = &self.state.multipart_id {
            return Ok(known.clone());
        }
        let begun =
            self.store.with_deadline(0, self.multipart.api.create_multipart(&self.multipart.path)).await;
        let begun = self.store.treat_absence_as_outage(begun).await?;
        self.state.multipart_id = Some(begun.clone());
        // Known to be continued from, and to be ended, before a part of it is stored.
        let part_bytes = self.state.part_bytes;
        let safe = self
            .safe
            .multipart
            .get_or_insert_with(|| MultipartState { part_bytes, ..MultipartState::default() });
        safe.multipart_id = Some(begun.clone());
        self.is_begun = true;
        Ok(begun)
    }

    /// Remembers the parts stored so far and the tail that belongs directly behind them.
    fn update_checkpoint(&mut self) {
        let offset_bytes = self.stored + tail_bytes(&self.state);
        self.safe = SpoolCheckpoint { offset_bytes, multipart: Some(self.state.clone()) };
    }
}

fn open_multipart_handle(store: &Store, place: SpooledUpload) -> Result<MultipartHandle, StoreError> {
    let api = store
        .state()
        .backend()
        .multipart_store()
        .ok_or_else(|| StoreError::Invalid("the store has no multipart uploads".into()))?;
    Ok(MultipartHandle { api, path: store.object_path(&keys::source_key(place.media_id))? })
}
