//! Object stores and the spool of open uploads.
//!
//! One [`Store`] opens `file://` (every write synced), `s3://`, `gs://` and `az://`. Keys come from `schemas::keys` and
//! nothing else: no text of a client ever becomes part of one. A [`Spool`] takes the bytes of one open upload and reports
//! which of them are durable; only durable bytes may be acknowledged.
//!
//! A store carries a marker, and without it nothing is stored, deleted or judged: see [`Store::verify_marker`].
//!
//! A crash between making a multipart upload and recording it leaves an unused one behind: give the bucket a life-cycle
//! rule that aborts multipart uploads after a week.
//!
//! Limits: a request has `request_timeout_ms` and the time for its bytes at `rate_bytes_per_s_min`; retries, part sizes and counts,
//! bytes in memory over all uploads (see [`StoreConfig`]); [`Store::get`] refuses objects above the size its caller names.

mod backend;
mod config;
mod error;
mod folder;
mod marker;
mod part_copy;
mod part_copy_answer;
mod spool;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    path::{self, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use tokio::sync::Semaphore;

pub use config::{PART_BYTES_FLOOR, PARTS_MAX, StoreConfig};
pub use error::StoreError;
pub use marker::{MissingRootPolicy, StoreIdentifier};
pub use spool::{APPEND_BYTES_MAX, Spool, SpoolCheckpoint, SpooledUpload};

use backend::StoreBackend;
use marker::MarkerState;

/// Objects of one folder that are removed at the same time.
const REMOVALS_IN_FLIGHT_MAX: usize = 8;

/// Bytes one request of a stream asks for.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// Key below the store's root.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Entity tag, where the store has one.
    pub etag: Option<String>,
    /// Unix time of the last change in milliseconds.
    pub modified_at_ms: u64,
}

/// Room on the disk of a local store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes this process may still write.
    pub free_bytes: u64,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
}

/// Room on the disk of a folder.
pub fn read_disk_space(folder: &std::path::Path) -> Result<DiskSpace, StoreError> {
    let found = rustix::fs::statvfs(folder).map_err(|e| StoreError::from_io(e.into()))?;
    let block = found.f_frsize;
    Ok(DiskSpace {
        free_bytes: found.f_bavail.saturating_mul(block),
        total_bytes: found.f_blocks.saturating_mul(block),
    })
}

/// An opened object store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<StoreState>,
}

#[derive(Debug)]
pub(crate) struct StoreState {
    backend: StoreBackend,
    config: StoreConfig,
    in_flight: Arc<Semaphore>,
    marker: MarkerState,
}

/// What a read up to a size comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundedObject {
    /// All of it.
    Whole(Bytes),
    /// It has more bytes than were wanted.
    Larger {
        /// Its size, in bytes.
        size_bytes: u64,
    },
}

impl BoundedObject {
    /// How many bytes the object has.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Whole(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Larger { size_bytes } => *size_bytes,
        }
    }
}

impl Store {
    /// Opens the store that `identify` says belongs to this installation. Makes nothing and asks nobody before the first use:
    /// see [`Store::verify_marker`].
    ///
    /// Fails with [`StoreError::Invalid`] for a bad URL or option.
    pub fn open(config: StoreConfig, identify: Arc<dyn StoreIdentifier>) -> Result<Self, StoreError> {
        // S3 refuses a smaller part with EntityTooSmall, and only when the upload is completed.
        if config.part_bytes_min < PART_BYTES_FLOOR {
            return Err(StoreError::Invalid(format!("part_bytes_min is below {PART_BYTES_FLOOR}")));
        }
        let in_flight = Arc::new(Semaphore::new(config.in_flight_bytes_max.min(Semaphore::MAX_PERMITS)));
        let backend = StoreBackend::open(&config)?;
        let marker = MarkerState::new(identify);
        Ok(Self { inner: Arc::new(StoreState { backend, config, in_flight, marker }) })
    }

    /// True when the store is a folder of this host.
    pub fn is_local(&self) -> bool {
        self.inner.backend.local_root().is_some()
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.inner.config
    }

    /// Stores the bytes durably under the key, replacing what was there.
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.put_payload(key, PutPayload::from_bytes(bytes.into())).await
    }

    pub(crate) async fn put_payload(&self, key: &str, payload: PutPayload) -> Result<(), StoreError> {
        if self.is_local() {
            let key = self.object_path(key)?.to_string();
            return self.with_local_root(move |folder| folder.put_file(&key, &payload)).await;
        }
        self.verify_marker().await?;
        let (path, size_bytes) = (self.object_path(key)?, length_to_u64(payload.content_length()));
        let put = self.with_deadline(size_bytes, self.object_store()?.put(&path, payload)).await;
        self.treat_absence_as_outage(put).await?;
        Ok(())
    }

    /// Reads a whole object of at most `size_bytes_max`; a larger one is [`StoreError::Invalid`].
    pub async fn get(&self, key: &str, size_bytes_max: u64) -> Result<Bytes, StoreError> {
        match self.get_bounded(key, size_bytes_max).await? {
            BoundedObject::Whole(bytes) => Ok(bytes),
            BoundedObject::Larger { .. } => {
                Err(StoreError::Invalid(format!("{key} is larger than {size_bytes_max} bytes")))
            }
        }
    }

    /// Reads a whole object of at most `size_bytes_max`; of a larger one only how large it is.
    pub async fn get_bounded(&self, key: &str, size_bytes_max: u64) -> Result<BoundedObject, StoreError> {
        let path = self.object_path(key)?;
        let found = self.with_deadline(0, self.object_store()?.get(&path)).await;
        let found = self.confirm_absence(key, found).await?;
        let size_bytes = found.meta.size;
        if size_bytes > size_bytes_max {
            return Ok(BoundedObject::Larger { size_bytes });
        }
        self.with_deadline(size_bytes, found.bytes()).await.map(BoundedObject::Whole)
    }

    /// Reads a range in bytes; one that ends behind the object is cut, one that starts there is [`StoreError::Invalid`].
    pub async fn get_range(&self, key: &str, range_bytes: Range<u64>) -> Result<Bytes, StoreError> {
        if range_bytes.is_empty() {
            return Ok(Bytes::new());
        }
        let (path, size_bytes) = (self.object_path(key)?, range_bytes.end - range_bytes.start);
        let found = self.with_deadline(size_bytes, self.object_store()?.get_range(&path, range_bytes)).await;
        self.confirm_absence(key, found).await
    }

    /// Streams a range in bytes in pieces of at most 4 MiB, the next being read while one is handled.
    ///
    /// The range must lie inside the object; an early end is an error, never a short stream.
    pub fn get_stream(
        &self,
        key: &str,
        range_bytes: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<> {
        self.get_joined_stream(std::iter::once((key.to_owned(), range_bytes)))
    }

    /// Streams ranges in bytes of several objects one behind the other, as [`Store::get_stream`] does that of one.
    pub fn get_joined_stream<I: Iterator<Item = (String, Range<u64>)> + Send + 'static>(
        &self,
        ranges: I,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<I> {
        let store = self.clone();
        let windows = ranges.flat_map(|(key, range_bytes)| {
            split_windows(range_bytes).map(move |window| (key.clone(), window))
        });
        futures::stream::iter(windows)
            .map(move |(key, window)| {
                let store = store.clone();
                async move {
                    let bytes = store.get_range(&key, window.clone()).await?;
                    let wanted = window.end - window.start;
                    if u64::try_from(bytes.len()).ok() == Some(wanted) {
                        return Ok(bytes);
                    }
                    Err(StoreError::Damaged(format!("{key} ended inside {window:?}")))
                }
            })
            // In order, and the next window is on its way while one is read.
            .buffered(2)
    }

    /// Size, entity tag and age of an object.
    pub async fn head(&self, key: &str) -> Result<ObjectMetadata, StoreError> {
        let path = self.object_path(key)?;
        let found = self.with_deadline(0, self.object_store()?.head(&path)).await;
        self.to_metadata(self.confirm_absence(key, found).await?)
    }

    /// Removes an object; an absent one is fine.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.object_path(key)?;
        if self.is_local() {
            return self.with_local_root(move |folder| folder.remove_file(path.as_ref()).map(drop)).await;
        }
        self.verify_marker().await?;
        match self.with_deadline(0, self.object_store()?.delete(&path)).await {
            Ok(()) => Ok(()),
            // Absent is as good as deleted, but only in the right store.
            Err(StoreError::NotFound { .. }) => self.verify_marker_now().await,
            Err(error) => Err(error),
        }
    }

    /// Every object below a folder, in no order. Of a store without its marker nothing is listed: an error ends the stream.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<ObjectMetadata, StoreError>> {
        let (store, folder) = (self.clone(), folder.to_owned());
        let last = store.clone();
        let listed = async move {
            store.verify_marker().await?;
            let listed = store.object_store()?.list(Some(&store.object_path(&folder)?));
            let entries = futures::stream::try_unfold(listed, move |mut listed| {
                let store = store.clone();
                async move {
                    let next = store.with_deadline(0, listed.next().map(Ok)).await?;
                    let Some(found) = next else { return Ok(None) };
                    Ok(Some((store.to_metadata(found?)?, listed)))
                }
            });
            Ok(entries)
        };
        // It may have gone away meanwhile; then what was not listed may be there all the same.
        let gone = futures::stream::once(async move { last.verify_marker().await.err().map(Err) });
        listed.try_flatten_stream().chain(gone.filter_map(futures::future::ready)).boxed()
    }

    /// Removes everything below a folder; an absent one is fine. In a local store also what crashed writers left beside the
    /// objects. The store itself is no folder: [`StoreError::Invalid`].
    pub async fn remove_folder(&self, folder: &str) -> Result<(), StoreError> {
        if folder.split('/').all(str::is_empty) {
            return Err(StoreError::Invalid("a folder without a name is the whole store".to_owned()));
        }
        if self.is_local() {
            let folder = self.object_path(folder)?.to_string();
            return self.with_local_root(move |root| root.remove_folder(&folder)).await;
        }
        let removals = self.list(folder).map(|found| async { self.delete(&found?.key).await });
        removals.buffer_unordered(REMOVALS_IN_FLIGHT_MAX).try_collect().await
    }

    /// Asks the store for one listing entry: proves that it can be reached and read.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.list("media").try_next().await?;
        Ok(())
    }

    /// Room left, for a local store.
    pub fn disk_space(&self) -> Result<Option<DiskSpace>, StoreError> {
        self.inner.backend.local_root().map(read_disk_space).transpose()
    }

    /// Most bytes that the writer of an upload may have taken before they are durable.
    pub fn unrecorded_bytes_max(&self, length_bytes_max: u64) -> u64 {
        self.config().unrecorded_bytes_max(self.is_local(), length_bytes_max)
    }

    /// One request to the store, within the time that its bytes may take; [`StoreError::Slow`] after it.
    pub(crate) async fn with_deadline<T>(
        &self,
        size_bytes: u64,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StoreError> {
        let deadline = self.config().request_deadline(size_bytes);
        if let Ok(outcome) = tokio::time::timeout(deadline, request).await {
            return Ok(outcome?);
        }
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        Err(StoreError::Slow { size_bytes, deadline_ms })
    }

    pub(crate) fn state(&self) -> &StoreState {
        &self.inner
    }

    fn object_store(&self) -> Result<&dyn ObjectStore, StoreError> {
        self.inner.backend.object_store()
    }

    /// Folder of a local store.
    pub(crate) fn local_root(&self) -> Result<PathBuf, StoreError> {
        let root = self.inner.backend.local_root();
        root.map(path::Path::to_owned).ok_or_else(|| StoreError::Invalid("the store is not local".into()))
    }

    pub(crate) fn object_path(&self, key: &str) -> Result<Path, StoreError> {
        self.inner.backend.object_path(key)
    }

    fn to_metadata(&self, meta: object_store::ObjectMeta) -> Result<ObjectMetadata, StoreError> {
        Ok(ObjectMetadata {
            key: self.inner.backend.object_key(&meta.location)?,
            size_bytes: meta.size,
            etag: meta.e_tag,
            modified_at_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
        })
    }
}

impl StoreState {
    pub(crate) fn config(&self) -> &StoreConfig {
        &self.config
    }

    pub(crate) fn backend(&self) -> &StoreBackend {
        &self.backend
    }

    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.in_flight
    }
}

fn split_windows(range_bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { mut start, end } = range_bytes;
    std::iter::from_fn(move || {
        if start >= end {
            return None;
        }
        let window = start..end.min(start.saturating_add(WINDOW_BYTES));
        start = window.end;
        Some(window)
    })
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(StoreError::from_join)?
}

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
