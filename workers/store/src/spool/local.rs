//! The spool in a local store: one file on the same file system, renamed into place at the end.
//!
//! Writes go to the blocking pool in batches, the next batch filling meanwhile; no thread is held for an upload's life.
//! The writer holds the file's advisory lock, which the kernel gives back when the process dies, so a second writer on
//! the same host never mixes its bytes in. The file's length is never the truth: the recorded offset is.

use std::{
    cmp::Ordering,
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use schemas::keys;
use tokio::task::JoinHandle;

use super::{Batch, Chunk, Durable, Place};
use crate::{
    Error, Store, blocking,
    error::is_full,
    folder::{Folder, is_absent},
};

/// Groups that may be written but not yet durable before the writer waits.
const GROUPS_BEHIND_MAX: u64 = 4;

#[derive(Debug)]
pub(super) struct Local {
    file: Arc<File>,
    batch: Batch,
    batch_bytes: usize,
    /// Bytes handed to the file, the running write included.
    handed: u64,
    /// Bytes the file has taken.
    written: u64,
    /// Bytes that are durable.
    durable: u64,
    /// Bytes that the caller has been told are durable.
    told: u64,
    writing: Option<JoinHandle<io::Result<()>>>,
    syncing: Option<Syncing>,
    synced_at: Instant,
    group_bytes: u64,
    group_interval: Duration,
    in_flight_wait: Duration,
}

#[derive(Debug)]
struct Syncing {
    offset: u64,
    task: JoinHandle<io::Result<()>>,
}

impl Local {
    pub(super) async fn open(store: &Store, place: Place, offset: u64) -> Result<Self, Error> {
        let key = keys::spool(place.upload_id);
        let file = store.in_folder(move |folder| open_locked(folder, &key, offset)).await?;
        let config = store.inner().config();
        Ok(Self {
            file: Arc::new(file),
            batch: Batch::default(),
            batch_bytes: config.batch_bytes,
            handed: offset,
            written: offset,
            durable: offset,
            told: offset,
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

    pub(super) async fn write(&mut self, chunk: Chunk) -> Result<(), Error> {
        self.batch.push(chunk);
        if self.batch.length < self.batch_bytes {
            return Ok(());
        }
        self.written_out().await?;
        self.start_write();
        Ok(())
    }

    pub(super) async fn checkpoint(&mut self) -> Result<Option<Durable>, Error> {
        if self.syncing.as_ref().is_some_and(|s| s.task.is_finished()) {
            self.synced().await?;
        }
        let due = self.synced_at.elapsed() >= self.group_interval;
        if due && self.written < self.offset_bytes() {
            self.settle().await?;
        }
        let unsynced = self.written.saturating_sub(self.durable);
        if self.syncing.is_none() && unsynced > 0 && (unsynced >= self.group_bytes || due) {
            self.start_sync();
        }
        if unsynced >= self.group_bytes.saturating_mul(GROUPS_BEHIND_MAX) {
            self.synced().await?;
        }
        Ok(self.news())
    }

    pub(super) async fn flush(&mut self) -> Result<Durable, Error> {
        self.settle().await?;
        self.synced().await?;
        if self.written > self.durable {
            self.start_sync();
            self.synced().await?;
        }
        self.told = self.durable;
        Ok(self.durable())
    }

    pub(super) fn durable(&self) -> Durable {
        Durable { offset_bytes: self.durable, multipart: None }
    }

    pub(super) async fn rollback(mut self, offset: u64) -> Result<(), Error> {
        self.batch.clear();
        // The outcome of a running write does not matter: its bytes are cut off next.
        self.written_out().await.ok();
        self.synced().await?;
        let file = self.file.clone();
        blocking(move || file.set_len(offset).map_err(Error::io)).await
    }

    /// Writes out what is in memory.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        self.written_out().await?;
        if !self.batch.is_empty() {
            self.start_write();
            self.written_out().await?;
        }
        Ok(())
    }

    fn start_write(&mut self) {
        let (file, at) = (self.file.clone(), self.handed);
        let batch = std::mem::take(&mut self.batch);
        self.handed += batch.length_bytes();
        self.writing = Some(tokio::task::spawn_blocking(move || write_at(&file, &batch, at)));
    }

    async fn written_out(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        let outcome = writing.await;
        self.writing = None;
        match outcome.map_err(Error::join)? {
            Ok(()) => {
                self.written = self.handed;
                Ok(())
            }
            Err(error) => {
                self.handed = self.written;
                self.batch.clear();
                Err(Error::io(error))
            }
        }
    }

    fn start_sync(&mut self) {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || file.sync_data());
        self.syncing = Some(Syncing { offset: self.written, task });
        self.synced_at = Instant::now();
    }

    async fn synced(&mut self) -> Result<(), Error> {
        let Some(syncing) = self.syncing.as_mut() else { return Ok(()) };
        let (offset, outcome) = (syncing.offset, (&mut syncing.task).await);
        self.syncing = None;
        match outcome.map_err(Error::join)? {
            Ok(()) => {
                self.durable = offset;
                Ok(())
            }
            Err(error) if is_full(&error) => Err(Error::Full),
            // A failed sync may have dropped dirty pages: what the file holds is not known any more.
            Err(error) => Err(Error::Damaged(format!("sync failed: {error}"))),
        }
    }

    fn news(&mut self) -> Option<Durable> {
        if self.durable == self.told {
            return None;
        }
        self.told = self.durable;
        Some(self.durable())
    }
}

/// Makes the spool file and its folder entry durable.
pub(super) async fn create(store: &Store, place: Place) -> Result<(), Error> {
    let key = keys::spool(place.upload_id);
    let made = store.in_folder(move |folder| {
        folder.make_folders(&key)?;
        let file = folder.open_file(&key, OFlags::WRONLY | OFlags::CREATE).map_err(Error::io)?;
        file.sync_all().map_err(Error::io)?;
        folder.sync_above(&key)
    });
    made.await
}

/// Renames the spool file into place and makes both folders durable.
pub(super) async fn finish(store: &Store, place: Place, length: u64) -> Result<(), Error> {
    let (from, to) = (keys::spool(place.upload_id), keys::source(place.media_id));
    store.in_folder(move |folder| put_in_place(folder, &from, &to, length)).await
}

fn put_in_place(folder: &Folder, from: &str, to: &str, length: u64) -> Result<(), Error> {
    match folder.open_file(from, OFlags::WRONLY) {
        Ok(file) => {
            cut_to(&file, length)?;
            file.sync_all().map_err(|e| Error::Damaged(format!("sync failed: {e}")))?;
            folder.make_folders(to)?;
            folder.rename(from, to)?;
        }
        Err(error) if is_absent(&error) => match folder.open_file(to, OFlags::RDONLY) {
            Ok(file) => {
                let found = file.metadata().map_err(Error::io)?.len();
                if found != length {
                    return Err(Error::Damaged(format!("{found} of {length} bytes are there")));
                }
            }
            Err(error) if is_absent(&error) => {
                return Err(Error::Damaged("the spool file is gone".into()));
            }
            Err(error) => return Err(Error::io(error)),
        },
        Err(error) => return Err(Error::io(error)),
    }
    folder.sync_above(to)?;
    folder.sync_above(from)
}

pub(super) async fn remove(store: &Store, place: Place) -> Result<(), Error> {
    let (spool, source) = (keys::spool(place.upload_id), keys::source(place.media_id));
    let removed = store.in_folder(move |folder| {
        if folder.remove(&spool)? {
            folder.sync_above(&spool)?;
        }
        folder.remove_empty_above(&source);
        Ok(())
    });
    removed.await
}

/// The file is looked for in a folder that carries the marker, so that one that is not there is lost indeed.
fn open_locked(folder: &Folder, key: &str, offset: u64) -> Result<File, Error> {
    let file = match folder.open_file(key, OFlags::WRONLY) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Err(Error::Damaged("the spool file is gone".into())),
        Err(error) => return Err(Error::io(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Busy),
        Err(TryLockError::Error(error)) => return Err(Error::io(error)),
    }
    cut_to(&file, offset)?;
    Ok(file)
}

/// Cuts off what lies beyond the recorded offset.
fn cut_to(file: &File, wanted: u64) -> Result<(), Error> {
    let found = file.metadata().map_err(Error::io)?.len();
    match found.cmp(&wanted) {
        Ordering::Less => Err(Error::Damaged(format!("{found} of {wanted} recorded bytes are there"))),
        Ordering::Equal => Ok(()),
        Ordering::Greater => file.set_len(wanted).map_err(Error::io),
    }
}

fn write_at(file: &File, batch: &Batch, mut at: u64) -> io::Result<()> {
    for chunk in &batch.chunks {
        file.write_all_at(&chunk.bytes, at)?;
        at += u64::try_from(chunk.bytes.len()).unwrap_or(0);
    }
    Ok(())
}
