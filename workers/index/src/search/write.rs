//! Writing: changes of media are joined in memory, and written together with the cursors in one commit.
//!
//! Limits: as many changed media are held as [`SearchConfig`](super::SearchConfig) lets a commit have, and one batch of the reader.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use schemas::{document::MediaDocumentRecord, ids::MediaId, media::MediaRecord};
use tantivy::{
    DocAddress, DocSet as _, IndexReader, IndexWriter, TERMINATED, TantivyDocument, TantivyError,
    schema::IndexRecordOption,
};

use super::{SearchBucket, SearchCommit, SearchCursors, SearchProjection, open::encode_payload};
use crate::{
    IndexError,
    facts::{AssetFacts, DocumentFacts, MediaFacts},
};

/// What an entry of a bucket says of a medium.
#[derive(Debug, Clone)]
pub enum SearchRecord {
    /// Its document; `None` when the key was deleted.
    Document(Option<Box<MediaDocumentRecord>>),
    /// Its document is a tombstone.
    Removed,
    /// Its technical metadata; `None` when they were removed.
    Asset(Option<Box<MediaRecord>>),
}

/// An entry of a bucket.
#[derive(Debug, Clone)]
pub struct SearchChange {
    /// Its sequence in the bucket, which is the revision of the record.
    pub sequence: u64,
    /// Unix time in milliseconds at which it was stored.
    pub stored_at_ms: u64,
    /// The medium, and what is said of it; `None` of an entry that can't be read.
    pub record: Option<(MediaId, SearchRecord)>,
}

/// A medium that changed since the last commit.
#[derive(Debug)]
struct ChangedMedium {
    facts: MediaFacts,
    /// True when the last commit has it.
    is_committed: bool,
}

/// For how long the oldest change waits that can't be found yet.
#[derive(Debug, Default)]
pub(super) struct SearchLag {
    /// Unix time in milliseconds at which it was stored; 0 when there is none.
    oldest_at_ms: AtomicU64,
}

impl SearchLag {
    pub(super) fn read_ms(&self) -> u64 {
        match self.oldest_at_ms.load(Ordering::Relaxed) {
            0 => 0,
            oldest_at_ms => nats::now_ms().saturating_sub(oldest_at_ms),
        }
    }

    fn begin(&self, stored_at_ms: u64) {
        // An older one stays.
        self.oldest_at_ms.compare_exchange(0, stored_at_ms, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    fn end(&self) {
        self.oldest_at_ms.store(0, Ordering::Relaxed);
    }
}

/// Writes the index; there is one.
pub struct SearchWriter {
    projection: SearchProjection,
    reader: IndexReader,
    writer: IndexWriter,
    cursors: SearchCursors,
    changed: HashMap<MediaId, ChangedMedium>,
    is_ahead: bool,
}

impl std::fmt::Debug for SearchWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SearchWriter").field("cursors", &self.cursors).finish_non_exhaustive()
    }
}

impl SearchWriter {
    pub(super) fn new(
        projection: SearchProjection,
        reader: IndexReader,
        writer: IndexWriter,
        cursors: SearchCursors,
    ) -> Self {
        Self { projection, reader, writer, cursors, changed: HashMap::new(), is_ahead: false }
    }

    /// Sequence up to which a bucket was applied; what is not committed is gone after a crash.
    pub const fn cursor(&self, bucket: SearchBucket) -> u64 {
        self.cursors.get(bucket).sequence
    }

    /// Media that changed since the last commit.
    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// True when the last commit lacks something.
    pub const fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// Takes changes of a bucket, in its order; those that were applied before are left out. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Search`] or [`IndexError::SearchDamaged`].
    pub fn apply_changes(
        &mut self,
        bucket: SearchBucket,
        changes: Vec<SearchChange>,
    ) -> Result<(), IndexError> {
        for change in changes {
            let cursor = self.cursors.get_mut(bucket);
            if change.sequence <= cursor.sequence {
                continue;
            }
            (cursor.sequence, cursor.stored_at_ms) = (change.sequence, change.stored_at_ms);
            self.is_ahead = true;
            self.projection.lag.begin(change.stored_at_ms);
            if let Some((media_id, record)) = change.record {
                self.apply_record(media_id, change.sequence, record)?;
            }
        }
        Ok(())
    }

    fn apply_record(
        &mut self,
        media_id: MediaId,
        revision: u64,
        record: SearchRecord,
    ) -> Result<(), IndexError> {
        if !self.changed.contains_key(&media_id) {
            let committed = self.read_committed(media_id)?;
            let is_committed = committed.is_some();
            let facts = committed.unwrap_or_default();
            self.changed.insert(media_id, ChangedMedium { facts, is_committed });
        }
        let Some(ChangedMedium { facts, .. }) = self.changed.get_mut(&media_id) else { return Ok(()) };
        match record {
            SearchRecord::Document(document) => {
                facts.is_removed = false;
                facts.document = document.map(|record| DocumentFacts::new(revision, *record));
            }
            SearchRecord::Removed => {
                facts.is_removed = true;
                facts.document = None;
            }
            SearchRecord::Asset(asset) => {
                facts.asset = asset.map(|record| AssetFacts::new(revision, *record));
            }
        }
        Ok(())
    }

    /// What the last commit has of a medium.
    fn read_committed(&self, media_id: MediaId) -> Result<Option<MediaFacts>, IndexError> {
        let searcher = self.reader.searcher();
        let term = self.projection.schema.id_term(media_id);
        for (ord, segment) in (0..).zip(searcher.segment_readers()) {
            let inverted = segment.inverted_index(term.field())?;
            let Some(mut postings) =
                inverted.read_postings(&term, IndexRecordOption::Basic).map_err(TantivyError::from)?
            else {
                continue;
            };
            while postings.doc() != TERMINATED {
                if !segment.is_deleted(postings.doc()) {
                    let document: TantivyDocument = searcher.doc(DocAddress::new(ord, postings.doc()))?;
                    return self.projection.schema.read_facts(&document).map(Some);
                }
                postings.advance();
            }
        }
        Ok(None)
    }

    /// Writes what changed, with the cursors, and lets it be found. After a crash it is there as a whole or not at all. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Search`] or [`IndexError::SearchDamaged`].
    pub fn commit(&mut self) -> Result<(), IndexError> {
        self.write_changed()?;
        let mut prepared = self.writer.prepare_commit()?;
        prepared.set_payload(&encode_payload(self.cursors)?);
        prepared.commit()?;
        self.reader.reload()?;
        self.is_ahead = false;
        *self.projection.committed.write() =
            SearchCommit { searcher: self.reader.searcher(), cursors: self.cursors };
        self.projection.lag.end();
        Ok(())
    }

    /// Hands what changed to the library, which keeps it for the next commit.
    fn write_changed(&mut self) -> Result<(), IndexError> {
        let schema = &self.projection.schema;
        for (media_id, medium) in self.changed.drain() {
            if medium.is_committed {
                self.writer.delete_term(schema.id_term(media_id));
            }
            if !medium.facts.is_empty() {
                self.writer.add_document(schema.write_document(media_id, &medium.facts)?)?;
            }
        }
        Ok(())
    }

    /// As far as a crash can come before it commits.
    #[cfg(test)]
    pub(crate) fn write_uncommitted(&mut self) -> Result<(), IndexError> {
        self.write_changed()?;
        self.writer.prepare_commit()?;
        Ok(())
    }

    /// Waits for what the library still does with its files, and closes them. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Search`].
    pub fn close(self) -> Result<(), IndexError> {
        Ok(self.writer.wait_merging_threads()?)
    }
}
