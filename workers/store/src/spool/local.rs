//! The spool in a local store: one file on the same file system, renamed into place at the end.
//!
//! Writes go to the blocking pool in batches, the next batch filling meanwhile; no thread is held for an upload's life.
//! The writer holds the file's advisory lock, which the kernel gives back when the process dies, so a second writer on
//! the same host never mixes its bytes in. The file's length is never the truth: the recorded offset is.

use std::{
    cmp::Ordering,
    fs::{File, TryLockError},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use schemas::keys;
use tokio::task::JoinHandle;

use super::{ChunkBatch, SpoolCheckpoint, SpoolChunk, SpooledUpload};
use crate::{
    Store, StoreError,
    error::is_disk_full,
    folder::{LocalRoot, is_absent},
    run_blocking,
};

/// Groups that may be written but not yet durable before the writer waits.
const GROUPS_BEHIND_MAX: u64 = 4;

#[derive(Debug)]
pub(super) struct LocalSpool {
    file: Arc<File>,
    batch: ChunkBatch,
    batch_bytes: usize,
    /// Bytes handed to the file, the running write included.
    handed: u64,
    /// Bytes the file has taken.
    written: u64,
    /// Bytes that are durable.
    durable: u64,
    /// Bytes that were reported to the caller as durable.
    reported: u64,
    writing: Option<JoinHandle<io::Result<()>>>,
    syncing: Option<PendingSync>,
    synced_at: Instant,
    group_bytes: u64,
    group_interval: Duration,
    in_flight_wait: Duration,
}

#[derive(Debug)]
struct PendingSync {
    offset: u64,
    task: JoinHandle<io::Result<()>>,
}

impl LocalSpool {
    pub(super) async fn open(store: &Store, place: SpooledUpload, offset: u64) -> Result<Self, StoreError> {
        let key = keys::spool_path(place.upload_id);
        let file = store.with_local_root(move |folder| open_locked(folder, &key, offset)).await?;
        let config = store.state().config();
        Ok(Self {
            file: Arc::new(file),
            batch: ChunkBatch::default(),
            batch_bytes: config.batch_bytes,
            handed: offset,
            written: offset,
            durable: offset,
            reported: offset,
            writing: None,
            syncing: None,
            synced_at: Instant::now(),
            group_bytes: config.group_bytes,
            group_interval: config.group_interval(),
            in_flight_wait: config.in_flight_wait(),
        })
    }

    pub(super) fn offset_bytes(&self) -> u64 {
        self.handed + self.batch.length_bytes()
    }

    pub(super) fn in_flight_wait(&self) -> Duration {
        self.in_flight_wait
    }

    pub(super) async fn write(&mut self, chunk: SpoolChunk) -> Result<(), StoreError> {
        self.batch.push(chunk);
        if self.batch.length < self.batch_bytes {
            return Ok(());
        }
        self.await_write().await?;
        self.start_write();
        Ok(())
    }

    /// Copies a range of another file behind what is here.
    pub(super) async fn append_file(
        &mut self,
        store: &Store,
        key: &str,
        range_bytes: Range<u64>,
    ) -> Result<(), StoreError> {
        self.write_pending().await?;
        let (file, at, key) = (self.file.clone(), self.handed, key.to_owned());
        let length = range_bytes.end.saturating_sub(range_bytes.start);
        store.with_local_root(move |folder| copy_range(folder, &key, range_bytes.clone(), &file, at)).await?;
        self.handed += length;
        self.written = self.handed;
        Ok(())
    }

    pub(super) async fn checkpoint(&mut self) -> Result<Option<SpoolCheckpoint>, StoreError> {
        if self.syncing.as_ref().is_some_and(|s| s.task.is_finished()) {
            self.await_sync().await?;
        }
        let due = self.synced_at.elapsed() >= self.group_interval;
        if due && self.written < self.offset_bytes() {
            self.write_pending().await?;
        }
        let unsynced = self.written.saturating_sub(self.durable);
        if self.syncing.is_none() && unsynced > 0 && (unsynced >= self.group_bytes || due) {
            self.start_sync();
        }
        if unsynced >= self.group_bytes.saturating_mul(GROUPS_BEHIND_MAX) {
            self.await_sync().await?;
        }
        Ok(self.take_new_checkpoint())
    }

    pub(super) async fn flush(&mut self) -> Result<SpoolCheckpoint, StoreError> {
        self.write_pending().await?;
        self.await_sync().await?;
        if self.written > self.durable {
            self.start_sync();
            self.await_sync().await?;
        }
        self.reported = self.durable;
        Ok(self.latest_checkpoint())
    }

    pub(super) fn latest_checkpoint(&self) -> SpoolCheckpoint {
        SpoolCheckpoint { offset_bytes: self.durable, multipart: None }
    }

    pub(super) async fn rollback(mut self, offset: u64) -> Result<(), StoreError> {
        self.batch.clear();
        // The outcome of a running write does not matter: its bytes are cut off next.
        self.await_write().await.ok();
        self.await_sync().await?;
        let file = self.file.clone();
        run_blocking(move || file.set_len(offset).map_err(StoreError::from_io)).await
    }

    /// Writes out what is in memory.
    pub(super) async fn write_pending(&mut self) -> Result<(), StoreError> {
        self.await_write().await?;
        if !self.batch.is_empty() {
            self.start_write();
            self.await_write().await?;
        }
        Ok(())
    }

    fn start_write(&mut self) {
        // At its place, not at the end: a repeated write after an error must not leave a gap.
        let (file, at) = (self.file.clone(), self.handed);
        let batch = std::mem::take(&mut self.batch);
        self.handed += batch.length_bytes();
        self.writing = Some(tokio::task::spawn_blocking(move || write_batch_at(&file, &batch, at)));
    }

    async fn await_write(&mut self) -> Result<(), StoreError> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        let outcome = writing.await;
        self.writing = None;
        match outcome.map_err(StoreError::from_join)? {
            Ok(()) => {
                self.written = self.handed;
                Ok(())
            }
            Err(error) => {
                self.handed = self.written;
                self.batch.clear();
                Err(StoreError::from_io(error))
            }
        }
    }

    fn start_sync(&mut self) {
        let file = self.file.clone();
        // `fdatasync` also makes the length durable, which is all that reading back needs.
        let task = tokio::task::spawn_blocking(move || file.sync_data());
        // What is written from now on may miss this sync.
        self.syncing = Some(PendingSync { offset: self.written, task });
        self.synced_at = Instant::now();
    }

    async fn await_sync(&mut self) -> Result<(), StoreError> {
        let Some(syncing) = self.syncing.as_mut() else { return Ok(()) };
        let (offset, outcome) = (syncing.offset, (&mut syncing.task).await);
        self.syncing = None;
        match outcome.map_err(StoreError::from_join)? {
            Ok(()) => {
                self.durable = offset;
                Ok(())
            }
            Err(error) if is_disk_full(&error) => {
                self.discard_unsynced().await;
                Err(StoreError::Full)
            }
            // A failed sync may have dropped dirty pages: what the file holds is not known any more.
            Err(error) => Err(StoreError::Damaged(format!("sync failed: {error}"))),
        }
    }

    /// Goes back to what is durable. The kernel reports that it could not write a page back once (fsync(2)): another sync would
    /// succeed without those bytes, so all behind the last good one are to be sent again.
    async fn discard_unsynced(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.await.ok();
        }
        self.batch.clear();
        self.handed = self.durable;
        self.written = self.durable;
    }

    fn take_new_checkpoint(&mut self) -> Option<SpoolCheckpoint> {
        if self.durable == self.reported {
            return None;
        }
        self.reported = self.durable;
        Some(self.latest_checkpoint())
    }
}

/// Makes the spool file and its folder entry durable.
pub(super) async fn create_spool_file(store: &Store, place: SpooledUpload) -> Result<(), StoreError> {
    let key = keys::spool_path(place.upload_id);
    let made = store.with_local_root(move |folder| {
        folder.create_parents(&key)?;
        let file = folder.open_file(&key, OFlags::WRONLY | OFlags::CREATE).map_err(StoreError::from_io)?;
        file.sync_all().map_err(StoreError::from_io)?;
        folder.sync_parent(&key)
    });
    made.await
}

/// Renames the spool file into place and makes both folders durable.
pub(super) async fn finish_local_spool(
    store: &Store,
    place: SpooledUpload,
    length: u64,
) -> Result<(), StoreError> {
    let (from, to) = (keys::spool_path(place.upload_id), keys::source_key(place.media_id));
    store.with_local_root(move |folder| move_into_place(folder, &from, &to, length)).await
}

fn move_into_place(folder: &LocalRoot, from: &str, to: &str, length: u64) -> Result<(), StoreError> {
    match folder.open_file(from, OFlags::WRONLY) {
        Ok(file) => {
            truncate_to(&file, length)?;
            // Before the rename: what lies under the key of a source counts as whole.
            file.sync_all().map_err(|e| StoreError::Damaged(format!("sync failed: {e}")))?;
            folder.create_parents(to)?;
            folder.rename_file(from, to)?;
        }
        // A repeat after a crash: the rename may have been made already.
        Err(error) if is_absent(&error) => match folder.open_file(to, OFlags::RDONLY) {
            Ok(file) => {
                let found = file.metadata().map_err(StoreError::from_io)?.len();
                if found != length {
                    return Err(StoreError::Damaged(format!("{found} of {length} bytes are there")));
                }
            }
            Err(error) if is_absent(&error) => {
                return Err(StoreError::Damaged("the spool file is gone".into()));
            }
            Err(error) => return Err(StoreError::from_io(error)),
        },
        Err(error) => return Err(StoreError::from_io(error)),
    }
    // The new entry first: a power cut in between may leave two names, but never none.
    folder.sync_parent(to)?;
    folder.sync_parent(from)
}

pub(super) async fn remove_local_spool(store: &Store, place: SpooledUpload) -> Result<(), StoreError> {
    let (spool, source) = (keys::spool_path(place.upload_id), keys::source_key(place.media_id));
    let removed = store.with_local_root(move |folder| {
        if folder.remove_file(&spool)? {
            folder.sync_parent(&spool)?;
        }
        folder.remove_empty_parent(&source);
        Ok(())
    });
    removed.await
}

/// The file is looked for in a folder that carries the marker, so that one that is not there is lost indeed.
fn open_locked(folder: &LocalRoot, key: &str, offset: u64) -> Result<File, StoreError> {
    let file = match folder.open_file(key, OFlags::WRONLY) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Err(StoreError::Damaged("the spool file is gone".into())),
        Err(error) => return Err(StoreError::from_io(error)),
    };
    // Before the file is cut: a writer that was displaced may still be writing behind the offset.
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Busy),
        Err(TryLockError::Error(error)) => return Err(StoreError::from_io(error)),
    }
    truncate_to(&file, offset)?;
    Ok(file)
}

/// Cuts off what lies beyond the recorded offset.
fn truncate_to(file: &File, wanted: u64) -> Result<(), StoreError> {
    let found = file.metadata().map_err(StoreError::from_io)?.len();
    match found.cmp(&wanted) {
        Ordering::Less => Err(StoreError::Damaged(format!("{found} of {wanted} recorded bytes are there"))),
        Ordering::Equal => Ok(()),
        Ordering::Greater => file.set_len(wanted).map_err(StoreError::from_io),
    }
}

fn write_batch_at(file: &File, batch: &ChunkBatch, mut at: u64) -> io::Result<()> {
    for chunk in &batch.chunks {
        file.write_all_at(&chunk.bytes, at)?;
        at += u64::try_from(chunk.bytes.len()).unwrap_or(0);
    }
    Ok(())
}

fn copy_range(
    folder: &LocalRoot,
    key: &str,
    range_bytes: Range<u64>,
    mut target: &File,
    at: u64,
) -> Result<(), StoreError> {
    let mut source = match folder.open_file(key, OFlags::RDONLY) {
        Ok(source) => source,
        Err(error) if is_absent(&error) => return Err(StoreError::NotFound { key: key.to_owned() }),
        Err(error) => return Err(StoreError::from_io(error)),
    };
    source.seek(SeekFrom::Start(range_bytes.start)).map_err(StoreError::from_io)?;
    target.seek(SeekFrom::Start(at)).map_err(StoreError::from_io)?;
    let length = range_bytes.end.saturating_sub(range_bytes.start);
    // By copy_file_range(2), which shares the blocks on file systems that can.
    let copied = io::copy(&mut source.take(length), &mut target).map_err(StoreError::from_io)?;
    if copied == length {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("{key} ended inside {range_bytes:?}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn what_a_failed_sync_did_not_store_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        std::fs::write(&path, b"durable").unwrap();
        let mut spool = LocalSpool {
            file: Arc::new(File::options().read(true).write(true).open(&path).unwrap()),
            batch: ChunkBatch::default(),
            batch_bytes: 1,
            handed: 20,
            written: 20,
            durable: 7,
            reported: 7,
            writing: None,
            syncing: Some(PendingSync {
                offset: 20,
                task: tokio::spawn(async {
                    Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
                }),
            }),
            synced_at: Instant::now(),
            group_bytes: 1 << 20,
            group_interval: Duration::from_secs(60),
            in_flight_wait: Duration::from_secs(1),
        };
        assert!(matches!(spool.flush().await, Err(StoreError::Full)));
        // The second sync would succeed: it must not make the lost bytes durable.
        assert_eq!(spool.flush().await.unwrap().offset_bytes, 7);
        assert_eq!(spool.offset_bytes(), 7);
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).acquire_owned().await.unwrap();
        spool.write(SpoolChunk { bytes: Bytes::from_static(b" again"), permit }).await.unwrap();
        assert_eq!(spool.flush().await.unwrap().offset_bytes, 13);
        assert_eq!(std::fs::read(&path).unwrap(), b"durable again");
    }
}
