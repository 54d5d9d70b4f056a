//! The database: sequences by thing, things by sequence, and the position, changed in one transaction.

use std::path::Path;

use schemas::ids::{JobId, MediaId};
use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError},
};

use crate::{IndexError, projection::wait_for_release};

/// Version of the layout of keys; another one on disk means building anew.
const VERSION: u64 = 1;
const VERSION_KEY: &[u8] = b"version";
const CREATED_KEY: &[u8] = b"created";
const CURSOR_KEY: &[u8] = b"cursor";

/// Bytes of a thing in keys: its kind and its id.
const THING_BYTES: usize = 17;
/// Sequences that are dropped in one transaction.
const DROPPED_MAX: usize = 1_024;

/// What events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryThing {
    /// A medium.
    Medium(MediaId),
    /// A job.
    Job(JobId),
}

impl HistoryThing {
    fn to_bytes(self) -> [u8; THING_BYTES] {
        let (kind, id) = match &self {
            Self::Medium(id) => (b'm', id.as_bytes()),
            Self::Job(id) => (b'j', id.as_bytes()),
        };
        let mut bytes = [kind; THING_BYTES];
        for (to, from) in bytes.iter_mut().skip(1).zip(id) {
            *to = *from;
        }
        bytes
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Its sequence in EVENTS.
    pub sequence: u64,
    /// What it is about; may be nothing.
    pub things: Vec<HistoryThing>,
}

/// The database.
#[derive(Debug)]
pub struct HistoryStore {
    db: sled::Db,
    meta: sled::Tree,
    /// Thing and sequence, without a value.
    things: sled::Tree,
    /// Things by sequence.
    sequences: sled::Tree,
}

impl HistoryStore {
    /// Opens it for the stream that was made then, as Unix time in milliseconds, or begins it anew. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Locked`] when another process has it; [`IndexError::Database`] or [`IndexError::Folder`] when the disk fails.
    pub fn open(folder: &Path, cache_bytes_max: u64, created_at_ms: u64) -> Result<Self, IndexError> {
        wait_for_release(folder)?;
        // A damaged file makes sled panic in places; that is an open error like any other.
        let opened = std::panic::catch_unwind(|| Self::open_trees(folder, cache_bytes_max));
        let store = match opened {
            Ok(Ok(store)) => store,
            Ok(Err(IndexError::Database(error))) => return Err(IndexError::Database(error)),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("the index of events can't be opened, it is built anew");
                std::fs::remove_dir_all(folder)
                    .map_err(|source| IndexError::Folder { path: folder.to_owned(), source })?;
                Self::open_trees(folder, cache_bytes_max)?
            }
        };
        let is_same = store.read_meta(VERSION_KEY)? == Some(VERSION)
            && store.read_meta(CREATED_KEY)? == Some(created_at_ms);
        if !is_same {
            store.begin_anew(created_at_ms)?;
        }
        Ok(store)
    }

    /// Whether the database holds what it never wrote: it has to be built anew.
    pub fn is_damage(error: &IndexError) -> bool {
        matches!(
            error,
            IndexError::Damaged { .. }
                | IndexError::Database(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))
        )
    }

    /// Removes the database, once nobody has it open. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Locked`] when somebody still has it; [`IndexError::Folder`] when the disk fails.
    pub fn discard(folder: &Path) -> Result<(), IndexError> {
        wait_for_release(folder)?;
        match std::fs::remove_dir_all(folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(IndexError::Folder { path: folder.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    fn open_trees(folder: &Path, cache_bytes_max: u64) -> Result<Self, IndexError> {
        let db = sled::Config::new().path(folder).cache_capacity(cache_bytes_max).open()?;
        Ok(Self {
            meta: db.open_tree("meta")?,
            things: db.open_tree("things")?,
            sequences: db.open_tree("sequences")?,
            db,
        })
    }

    fn begin_anew(&self, created_at_ms: u64) -> Result<(), IndexError> {
        // The version last: what was begun only is begun again.
        self.meta.clear()?;
        self.things.clear()?;
        self.sequences.clear()?;
        self.meta.insert(CREATED_KEY, &created_at_ms.to_be_bytes())?;
        self.meta.insert(VERSION_KEY, &VERSION.to_be_bytes())?;
        self.flush()
    }

    fn read_meta(&self, key: &[u8]) -> Result<Option<u64>, IndexError> {
        Ok(self.meta.get(key)?.and_then(|value| value.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// Sequence up to which EVENTS is in it.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn read_cursor(&self) -> Result<u64, IndexError> {
        Ok(self.read_meta(CURSOR_KEY)?.unwrap_or_default())
    }

    /// Adds events, which are in order, and moves the position behind them. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails; nothing is written then.
    pub fn add(&self, entries: &[HistoryEntry]) -> Result<(), IndexError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let trees = (&self.meta, &self.things, &self.sequences);
        let written = trees.transaction(|(meta, things, sequences)| {
            for HistoryEntry { sequence, things: about } in entries.iter().filter(|e| !e.things.is_empty()) {
                let about: Vec<_> = about.iter().map(|thing| thing.to_bytes()).collect();
                for thing in &about {
                    things.insert(history_key(thing, *sequence), &[])?;
                }
                sequences.insert(&sequence.to_be_bytes(), about.concat())?;
            }
            meta.insert(CURSOR_KEY, &last.sequence.to_be_bytes())?;
            Ok::<_, ConflictableTransactionError<IndexError>>(())
        });
        written.map_err(into_error)
    }

    /// Drops events before `first_sequence`; answers how many. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn drop_before(&self, first_sequence: u64) -> Result<usize, IndexError> {
        let mut dropped = 0;
        loop {
            let old = self.sequences.range(..first_sequence.to_be_bytes()).take(DROPPED_MAX);
            let old = old.collect::<Result<Vec<_>, _>>()?;
            if old.is_empty() {
                return Ok(dropped);
            }
            let trees = (&self.things, &self.sequences);
            let written = trees.transaction(|(things, sequences)| {
                for (sequence, about) in &old {
                    for thing in about.chunks(THING_BYTES) {
                        things.remove([thing, sequence].concat())?;
                    }
                    sequences.remove(sequence)?;
                }
                Ok::<_, ConflictableTransactionError<IndexError>>(())
            });
            written.map_err(into_error)?;
            dropped += old.len();
        }
    }

    /// At most `limit` sequences of events about `thing` behind `behind`, in order, and whether there are more. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails; [`IndexError::Damaged`] when a key is none of ours.
    pub fn list(
        &self,
        thing: HistoryThing,
        behind: u64,
        limit: usize,
    ) -> Result<(Vec<u64>, bool), IndexError> {
        let thing = thing.to_bytes();
        let from = history_key(&thing, behind.saturating_add(1));
        let mut found = Vec::new();
        for row in self.things.range(from..=history_key(&thing, u64::MAX)) {
            let (key, _) = row?;
            if found.len() == limit {
                return Ok((found, true));
            }
            let sequence = key.get(THING_BYTES..).and_then(|bytes| bytes.try_into().ok());
            let damaged = || IndexError::Damaged { what: "a key of the index of events".into() };
            found.push(u64::from_be_bytes(sequence.ok_or_else(damaged)?));
        }
        Ok((found, false))
    }

    /// Waits until everything written is on disk. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        Ok(())
    }
}

fn history_key(thing: &[u8; THING_BYTES], sequence: u64) -> Vec<u8> {
    [thing.as_slice(), &sequence.to_be_bytes()].concat()
}

fn into_error(error: TransactionError<IndexError>) -> IndexError {
    match error {
        TransactionError::Abort(error) => error,
        TransactionError::Storage(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE_BYTES: u64 = 1 << 20;

    fn medium(number: u8) -> HistoryThing {
        HistoryThing::Medium(MediaId::from_bytes([number; 16]))
    }

    fn entries() -> Vec<HistoryEntry> {
        let job = HistoryThing::Job(JobId::from_bytes([1; 16]));
        let entry = |sequence, things: &[HistoryThing]| HistoryEntry { sequence, things: things.to_vec() };
        vec![
            entry(3, &[medium(1)]),
            entry(4, &[medium(1), job]),
            entry(5, &[]),
            entry(300, &[medium(2), job]),
            entry(301, &[medium(1)]),
        ]
    }

    #[test]
    fn the_events_of_a_thing_are_listed_in_order_and_dropped_with_those_of_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let store = HistoryStore::open(folder.path(), CACHE_BYTES, 7).unwrap();
        assert_eq!(store.read_cursor().unwrap(), 0);
        store.add(&entries()).unwrap();
        assert_eq!(store.read_cursor().unwrap(), 301);
        let job = HistoryThing::Job(JobId::from_bytes([1; 16]));
        for (thing, behind, limit, wanted) in [
            (medium(1), 0, 9, (vec![3, 4, 301], false)),
            (medium(1), 0, 2, (vec![3, 4], true)),
            (medium(1), 4, 2, (vec![301], false)),
            (medium(1), u64::MAX, 2, (vec![], false)),
            (medium(2), 0, 9, (vec![300], false)),
            (medium(3), 0, 9, (vec![], false)),
            // A job with the bytes of a medium is another thing.
            (job, 0, 9, (vec![4, 300], false)),
        ] {
            assert_eq!(store.list(thing, behind, limit).unwrap(), wanted, "{thing:?} {behind} {limit}");
        }
        store.add(&entries()).unwrap();
        assert_eq!(store.list(medium(1), 0, 9).unwrap().0, [3, 4, 301], "a repeat is harmless");
        assert_eq!(store.drop_before(5).unwrap(), 2);
        assert_eq!(
            (store.list(medium(1), 0, 9).unwrap().0, store.list(job, 0, 9).unwrap().0),
            (vec![301], vec![300])
        );
    }

    #[test]
    fn what_it_never_wrote_is_damage_and_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        HistoryStore::discard(&path).unwrap();
        let store = HistoryStore::open(&path, CACHE_BYTES, 7).unwrap();
        store.add(&entries()).unwrap();
        store.things.insert([medium(1).to_bytes().as_slice(), &[1]].concat(), &[]).unwrap();
        store.flush().unwrap();
        let error = store.list(medium(1), 0, 9).unwrap_err();
        assert!(HistoryStore::is_damage(&error), "{error}");
        drop(store);
        HistoryStore::discard(&path).unwrap();
        let store = HistoryStore::open(&path, CACHE_BYTES, 7).unwrap();
        assert_eq!(
            (store.read_cursor().unwrap(), store.list(medium(1), 0, 9).unwrap()),
            (0, (vec![], false))
        );
    }

    #[test]
    fn another_stream_begins_it_anew_and_the_same_does_not() {
        let folder = tempfile::tempdir().unwrap();
        for (created_at_ms, wanted) in [(7, 0), (7, 3), (8, 0)] {
            let store = HistoryStore::open(folder.path(), CACHE_BYTES, created_at_ms).unwrap();
            assert_eq!(store.list(medium(1), 0, 9).unwrap().0.len(), wanted, "{created_at_ms}");
            store.add(&entries()).unwrap();
            store.flush().unwrap();
        }
    }
}
