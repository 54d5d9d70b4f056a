//! Takes the bytes of one open upload and reports which of them are durable.
//!
//! The caller holds the truth (the upload's record): it opens a spool at the durable state it recorded, writes, and
//! records each [`SpoolCheckpoint`] the spool hands back before it reports the offset to anybody. Bytes that a spool holds beyond
//! the recorded state are discarded by the next open.
//!
//! Limits: two batches (local) or `parts_in_flight_max` + 1 parts (remote) of one upload in memory, and
//! `in_flight_bytes_max` over all uploads.

mod local;
mod remote;

use std::{collections::VecDeque, ops::Range, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use schemas::{
    ids::{MediaId, UploadId},
    upload::MultipartState,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::{Store, StoreError};
use local::LocalSpool;
use remote::RemoteSpool;

/// Most bytes of an object that are read, or copied into a file, at once.
pub const APPEND_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Which upload a spool belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledUpload {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it becomes.
    pub media_id: MediaId,
    /// The caller's fencing token.
    pub generation: u64,
    /// Total length in bytes, or the most it may become while it is not known.
    pub length_bytes_max: u64,
}

/// What of an upload is on disk or in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpoolCheckpoint {
    /// Bytes from the start that survive a crash.
    pub offset_bytes: u64,
    /// Where they are, in a remote store.
    pub multipart: Option<MultipartState>,
}

/// The spool of one open upload, held by one writer at a time.
#[derive(Debug)]
pub struct Spool {
    kind: SpoolBackend,
    in_flight: Arc<Semaphore>,
}

#[derive(Debug)]
enum SpoolBackend {
    Local(LocalSpool),
    Remote(Box<RemoteSpool>),
}

impl Spool {
    /// Makes room for a new upload durably, before its URL is answered.
    pub async fn create(store: &Store, place: SpooledUpload) -> Result<(), StoreError> {
        if store.is_local() { local::create_spool_file(store, place).await } else { Ok(()) }
    }

    /// Opens the spool at the recorded state and discards what lies beyond.
    ///
    /// [`StoreError::Busy`] while another writer still holds it, [`StoreError::Damaged`] when recorded bytes are missing.
    pub async fn open(
        store: &Store,
        place: SpooledUpload,
        durable: SpoolCheckpoint,
    ) -> Result<Self, StoreError> {
        let kind = if store.is_local() {
            SpoolBackend::Local(LocalSpool::open(store, place, durable.offset_bytes).await?)
        } else {
            SpoolBackend::Remote(Box::new(RemoteSpool::open(store, place, durable)?))
        };
        Ok(Self { kind, in_flight: store.state().in_flight().clone() })
    }

    /// Bytes taken so far, durable or not.
    pub fn offset_bytes(&self) -> u64 {
        match &self.kind {
            SpoolBackend::Local(local) => local.offset_bytes(),
            SpoolBackend::Remote(remote) => remote.offset_bytes(),
        }
    }

    /// Takes the next bytes; waits while too many are in memory or on their way.
    ///
    /// After an error the bytes not yet stored are dropped: [`Spool::flush`] makes the rest durable.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let permit = self.acquire_permit(bytes.len()).await?;
        let chunk = SpoolChunk { bytes, permit };
        match &mut self.kind {
            SpoolBackend::Local(local) => local.write(chunk).await,
            SpoolBackend::Remote(remote) => remote.write(chunk).await,
        }
    }

    /// Chooses, while nothing is stored, parts that the objects of these sizes in bytes can be copied into whole.
    pub fn align_parts(&mut self, sizes_bytes: &[u64]) {
        if let SpoolBackend::Remote(remote) = &mut self.kind {
            remote.align_parts(sizes_bytes);
        }
    }

    /// Takes the first bytes of a range of a stored object, at most [`APPEND_BYTES_MAX`] or one part. A local store joins the files
    /// where its file system can, and an S3 store makes whole parts itself where it can; otherwise they are read.
    ///
    /// What follows is said by [`Spool::offset_bytes`] alone: that goes back when the store turns out not to copy.
    ///
    /// [`StoreError::NotFound`] when the object is not there.
    pub async fn append_object(
        &mut self,
        store: &Store,
        key: &str,
        range_bytes: Range<u64>,
    ) -> Result<(), StoreError> {
        let start = range_bytes.start;
        let step = match &mut self.kind {
            SpoolBackend::Local(local) => {
                let step = start..range_bytes.end.min(start.saturating_add(APPEND_BYTES_MAX));
                return local.append_file(store, key, step).await;
            }
            SpoolBackend::Remote(remote) => {
                if let Some(part) = remote.copyable_part(&range_bytes) {
                    let copied = remote.copy_part(key, part).await;
                    return remote.forgive_refusal(copied);
                }
                let length = remote.bytes_to_next_part().min(APPEND_BYTES_MAX);
                start..range_bytes.end.min(start.saturating_add(length))
            }
        };
        let appended = self.append_stream(store, key, step).await;
        match &mut self.kind {
            SpoolBackend::Local(_) => appended,
            SpoolBackend::Remote(remote) => remote.forgive_refusal(appended),
        }
    }

    async fn append_stream(
        &mut self,
        store: &Store,
        key: &str,
        range_bytes: Range<u64>,
    ) -> Result<(), StoreError> {
        let mut pieces = pin!(store.get_stream(key, range_bytes));
        while let Some(bytes) = pieces.try_next().await? {
            self.write(bytes).await?;
        }
        Ok(())
    }

    /// Starts making bytes durable when a group is full or its time has come, without waiting for it; hands back what
    /// has become durable since the last call.
    pub async fn checkpoint(&mut self) -> Result<Option<SpoolCheckpoint>, StoreError> {
        match &mut self.kind {
            SpoolBackend::Local(local) => local.checkpoint().await,
            SpoolBackend::Remote(remote) => remote.checkpoint().await,
        }
    }

    /// Makes every byte taken durable.
    pub async fn flush(&mut self) -> Result<SpoolCheckpoint, StoreError> {
        match &mut self.kind {
            SpoolBackend::Local(local) => local.flush().await,
            SpoolBackend::Remote(remote) => remote.flush().await,
        }
    }

    /// As [`Spool::flush`], when no byte will follow: a remote store gets the last part instead of a tail. Of objects that were
    /// appended some bytes may still be missing behind what is durable then: see [`Spool::append_object`].
    pub async fn flush_last(&mut self) -> Result<SpoolCheckpoint, StoreError> {
        match &mut self.kind {
            SpoolBackend::Local(local) => local.flush().await,
            SpoolBackend::Remote(remote) => remote.flush_last().await,
        }
    }

    /// The newest durable state, without waiting for more.
    pub fn latest_checkpoint(&self) -> SpoolCheckpoint {
        match &self.kind {
            SpoolBackend::Local(local) => local.latest_checkpoint(),
            SpoolBackend::Remote(remote) => remote.latest_checkpoint().clone(),
        }
    }

    /// Notifies the spool of what the caller has recorded, so that it can let go of what is superseded.
    pub async fn confirm_recorded(&mut self, durable: &SpoolCheckpoint) {
        if let SpoolBackend::Remote(remote) = &mut self.kind {
            remote.confirm_recorded(durable).await;
        }
    }

    /// Discards every byte beyond the recorded state.
    pub async fn rollback(self, recorded: &SpoolCheckpoint) -> Result<(), StoreError> {
        match self.kind {
            SpoolBackend::Local(local) => local.rollback(recorded.offset_bytes).await,
            SpoolBackend::Remote(remote) => remote.rollback(recorded).await,
        }
    }

    /// Ends what this writer began beside the recorded state, which is another's by now; touches nothing of that.
    pub async fn abandon(self, recorded: &SpoolCheckpoint) -> Result<(), StoreError> {
        match self.kind {
            SpoolBackend::Local(_) => Ok(()),
            SpoolBackend::Remote(remote) => remote.rollback(recorded).await,
        }
    }

    /// Puts the complete upload under the key of the medium's source, and stores what is still missing of it. Repeating it is
    /// harmless, and so is a second one at the same time: one of them may fail then.
    ///
    /// `durable` is the recorded state, which holds the whole length.
    pub async fn finish(
        store: &Store,
        place: SpooledUpload,
        durable: &SpoolCheckpoint,
    ) -> Result<(), StoreError> {
        if store.is_local() {
            local::finish_local_spool(store, place, durable.offset_bytes).await
        } else {
            remote::finish_remote_spool(store, place, durable).await
        }
    }

    /// Removes all that an unfinished upload left in the store. Repeating it is harmless.
    pub async fn remove(
        store: &Store,
        place: SpooledUpload,
        durable: &SpoolCheckpoint,
    ) -> Result<(), StoreError> {
        store.delete(&schemas::keys::source_key(place.media_id)).await?;
        if store.is_local() {
            local::remove_local_spool(store, place).await
        } else {
            remote::remove_remote_spool(store, place, durable).await
        }
    }

    async fn acquire_permit(&mut self, length: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let wanted = u32::try_from(length).map_err(|_| StoreError::Overloaded)?;
        match self.in_flight.clone().try_acquire_many_owned(wanted) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(StoreError::Overloaded),
            Err(TryAcquireError::NoPermits) => {}
        }
        // What this upload holds in memory goes to the store first, so that waiting uploads can't block each other.
        let wait = match &mut self.kind {
            SpoolBackend::Local(local) => {
                local.write_pending().await?;
                local.in_flight_wait()
            }
            SpoolBackend::Remote(remote) => {
                remote.save_pending().await?;
                remote.in_flight_wait()
            }
        };
        match tokio::time::timeout(wait, self.in_flight.clone().acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(StoreError::Overloaded),
        }
    }
}

/// Bytes in memory and their share of the limit.
#[derive(Debug)]
struct SpoolChunk {
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

/// Chunks in order with their total length.
#[derive(Debug, Default)]
struct ChunkBatch {
    chunks: VecDeque<SpoolChunk>,
    length: usize,
}

impl ChunkBatch {
    fn push(&mut self, chunk: SpoolChunk) {
        self.length += chunk.bytes.len();
        self.chunks.push_back(chunk);
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn length_bytes(&self) -> u64 {
        u64::try_from(self.length).unwrap_or(u64::MAX)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Puts chunks back in front.
    fn push_front(&mut self, chunks: Vec<SpoolChunk>) {
        for chunk in chunks.into_iter().rev() {
            self.length += chunk.bytes.len();
            self.chunks.push_front(chunk);
        }
    }

    /// Cuts off the first `length` bytes with their share of the limit.
    fn split_front(&mut self, length: usize) -> Vec<SpoolChunk> {
        let mut taken = Vec::new();
        let mut missing = length.min(self.length);
        self.length -= missing;
        while missing > 0 {
            let Some(mut first) = self.chunks.pop_front() else { break };
            if first.bytes.len() > missing {
                let bytes = first.bytes.split_to(missing);
                taken.extend(first.permit.split(missing).map(|permit| SpoolChunk { bytes, permit }));
                self.chunks.push_front(first);
                break;
            }
            missing -= first.bytes.len();
            taken.push(first);
        }
        taken
    }
}
