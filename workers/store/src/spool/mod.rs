//! Takes the bytes of one open upload and tells which of them are durable.
//!
//! The caller holds the truth (the upload's record): it opens a spool at the durable state it recorded, writes, and
//! records each [`Durable`] the spool hands back before it tells the offset to anybody. Bytes that a spool holds beyond
//! the recorded state are discarded by the next open.
//!
//! Limits: two batches (local) or `parts_in_flight_max` + 1 parts (remote) of one upload in memory, and
//! `in_flight_bytes_max` over all uploads.

mod local;
mod remote;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use schemas::{
    ids::{MediaId, UploadId},
    upload::Multipart,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::{Error, Store};
use local::Local;
use remote::Remote;

/// Which upload a spool belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
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
pub struct Durable {
    /// Bytes from the start that survive a crash.
    pub offset_bytes: u64,
    /// Where they are, in a remote store.
    pub multipart: Option<Multipart>,
}

/// The spool of one open upload, held by one writer at a time.
#[derive(Debug)]
pub struct Spool {
    kind: Kind,
    in_flight: Arc<Semaphore>,
}

#[derive(Debug)]
enum Kind {
    Local(Local),
    Remote(Box<Remote>),
}

impl Spool {
    /// Makes room for a new upload durably, before its URL is told.
    pub async fn create(store: &Store, place: Place) -> Result<(), Error> {
        if store.is_local() { local::create(store, place).await } else { Ok(()) }
    }

    /// Opens the spool at the recorded state and discards what lies beyond.
    ///
    /// [`Error::Busy`] while another writer still holds it, [`Error::Damaged`] when recorded bytes are missing.
    pub async fn open(store: &Store, place: Place, durable: Durable) -> Result<Self, Error> {
        let kind = if store.is_local() {
            Kind::Local(Local::open(store, place, durable.offset_bytes).await?)
        } else {
            Kind::Remote(Box::new(Remote::open(store, place, durable)?))
        };
        Ok(Self { kind, in_flight: store.inner().in_flight().clone() })
    }

    /// Bytes taken so far, durable or not.
    pub fn offset_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Local(local) => local.offset_bytes(),
            Kind::Remote(remote) => remote.offset_bytes(),
        }
    }

    /// Takes the next bytes; waits while too many are in memory or on their way.
    ///
    /// After an error the bytes not yet stored are dropped: [`Spool::flush`] makes the rest durable.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let permit = self.permit(bytes.len()).await?;
        let chunk = Chunk { bytes, permit };
        match &mut self.kind {
            Kind::Local(local) => local.write(chunk).await,
            Kind::Remote(remote) => remote.write(chunk).await,
        }
    }

    /// Starts making bytes durable when a group is full or its time has come, without waiting for it; hands back what
    /// has become durable since the last call.
    pub async fn checkpoint(&mut self) -> Result<Option<Durable>, Error> {
        match &mut self.kind {
            Kind::Local(local) => local.checkpoint().await,
            Kind::Remote(remote) => remote.checkpoint().await,
        }
    }

    /// Makes every byte taken durable.
    pub async fn flush(&mut self) -> Result<Durable, Error> {
        match &mut self.kind {
            Kind::Local(local) => local.flush().await,
            Kind::Remote(remote) => remote.flush().await,
        }
    }

    /// As [`Spool::flush`], when no byte will follow: a remote store gets the last part instead of a tail.
    pub async fn flush_last(&mut self) -> Result<Durable, Error> {
        match &mut self.kind {
            Kind::Local(local) => local.flush().await,
            Kind::Remote(remote) => remote.flush_last().await,
        }
    }

    /// The newest durable state, without waiting for more.
    pub fn durable(&self) -> Durable {
        match &self.kind {
            Kind::Local(local) => local.durable(),
            Kind::Remote(remote) => remote.durable().clone(),
        }
    }

    /// Tells the spool what the caller has recorded, so that it can let go of what is superseded.
    pub async fn recorded(&mut self, durable: &Durable) {
        if let Kind::Remote(remote) = &mut self.kind {
            remote.recorded(durable).await;
        }
    }

    /// Discards every byte beyond the recorded state.
    pub async fn rollback(self, recorded: &Durable) -> Result<(), Error> {
        match self.kind {
            Kind::Local(local) => local.rollback(recorded.offset_bytes).await,
            Kind::Remote(remote) => remote.rollback(recorded).await,
        }
    }

    /// Ends what this writer began beside the recorded state, which is another's by now; touches nothing of that.
    pub async fn forsake(self, recorded: &Durable) -> Result<(), Error> {
        match self.kind {
            Kind::Local(_) => Ok(()),
            Kind::Remote(remote) => remote.rollback(recorded).await,
        }
    }

    /// Puts the complete upload under the key of the medium's source, and stores what is still missing of it. Repeating it is
    /// harmless, and so is a second one at the same time: one of them may fail then.
    ///
    /// `durable` is the recorded state, which holds the whole length.
    pub async fn finish(store: &Store, place: Place, durable: &Durable) -> Result<(), Error> {
        if store.is_local() {
            local::finish(store, place, durable.offset_bytes).await
        } else {
            remote::finish(store, place, durable).await
        }
    }

    /// Removes all that an unfinished upload left in the store. Repeating it is harmless.
    pub async fn remove(store: &Store, place: Place, durable: &Durable) -> Result<(), Error> {
        store.delete(&schemas::keys::source(place.media_id)).await?;
        if store.is_local() {
            local::remove(store, place).await
        } else {
            remote::remove(store, place, durable).await
        }
    }

    async fn permit(&mut self, length: usize) -> Result<OwnedSemaphorePermit, Error> {
        let wanted = u32::try_from(length).map_err(|_| Error::Overloaded)?;
        match self.in_flight.clone().try_acquire_many_owned(wanted) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(Error::Overloaded),
            Err(TryAcquireError::NoPermits) => {}
        }
        // What this upload holds in memory goes to the store first, so that waiting uploads can't block each other.
        let wait = match &mut self.kind {
            Kind::Local(local) => {
                local.settle().await?;
                local.in_flight_wait()
            }
            Kind::Remote(remote) => {
                remote.park().await?;
                remote.in_flight_wait()
            }
        };
        match tokio::time::timeout(wait, self.in_flight.clone().acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Error::Overloaded),
        }
    }
}

/// Bytes in memory and their share of the limit.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

/// Chunks in order with their total length.
#[derive(Debug, Default)]
struct Batch {
    chunks: VecDeque<Chunk>,
    length: usize,
}

impl Batch {
    fn push(&mut self, chunk: Chunk) {
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
    fn put_back(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks.into_iter().rev() {
            self.length += chunk.bytes.len();
            self.chunks.push_front(chunk);
        }
    }

    /// Cuts off the first `length` bytes with their share of the limit.
    fn take(&mut self, length: usize) -> Vec<Chunk> {
        let mut taken = Vec::new();
        let mut missing = length.min(self.length);
        self.length -= missing;
        while missing > 0 {
            let Some(mut first) = self.chunks.pop_front() else { break };
            if first.bytes.len() > missing {
                let bytes = first.bytes.split_to(missing);
                taken.extend(first.permit.split(missing).map(|permit| Chunk { bytes, permit }));
                self.chunks.push_front(first);
                break;
            }
            missing -= first.bytes.len();
            taken.push(first);
        }
        taken
    }
}
