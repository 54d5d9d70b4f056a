//! Opening: what is there when it fits, else an empty index.
//!
//! What is another version or is damaged is removed; what only can't be read now (no descriptors, no permission, a lock, a failing
//! disk) stays, and opening fails.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tantivy::{
    Index, IndexReader, IndexSettings, ReloadPolicy, directory::MmapDirectory, index::SegmentComponent,
    indexer::IndexWriterOptions, merge_policy::LogMergePolicy,
};

use super::{
    SearchBucket, SearchCommit, SearchConfig, SearchCursors, SearchProjection,
    fields::SearchSchema,
    tokenizer::register_tokenizer,
    write::{SearchLag, SearchWriter},
};
use crate::{
    IndexError,
    projection::{AWAY_MS_MAX, BucketOrigin},
};

/// Version of what is made of documents and assets; another one on disk means building anew. Fields are compared by themselves.
const SEARCH_VERSION: u32 = 1;

/// Blocks of stored documents that each segment keeps in memory.
const STORE_CACHE_BLOCKS: usize = 16;

/// Share of documents of before that a segment has at most, until it is written anew.
const DELETED_RATIO_MAX: f32 = 0.3;

/// Payload of a commit.
#[derive(Debug, Serialize, Deserialize)]
struct CommitPayload {
    version: u32,
    cursors: SearchCursors,
}

/// The cursors as the payload of a commit.
pub(super) fn encode_payload(cursors: SearchCursors) -> Result<String, IndexError> {
    serde_json::to_string(&CommitPayload { version: SEARCH_VERSION, cursors })
        .map_err(|error| IndexError::SearchDamaged { what: error.to_string() })
}

impl SearchProjection {
    /// Opens the index in `folder`, or begins a new one when what is there does not fit or is damaged. The folder belongs to this
    /// process. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Folder`] or [`IndexError::Search`] when the disk fails: what is there stays.
    pub fn open(
        folder: &Path,
        config: &SearchConfig,
        origins: &[BucketOrigin],
    ) -> Result<(Self, SearchWriter), IndexError> {
        let schema = Arc::new(SearchSchema::new());
        let (index, reader, cursors) = match open_fitting(folder, &schema, origins) {
            Ok(Some(found)) => found,
            Err(error) if !matches!(error, IndexError::SearchDamaged { .. }) => return Err(error),
            other => {
                let reason = other.err().map(|error| error.to_string());
                tracing::info!(reason, "there is no search index that fits, it is built anew");
                remove_folder(folder)?;
                let index = create_index(folder, &schema)?;
                let reader = open_reader(&index)?;
                (index, reader, origin_cursors(origins))
            }
        };
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(config.memory_bytes_max)
            .build();
        let writer = index.writer_with_options(options)?;
        let mut merging = LogMergePolicy::default();
        // Media change for ever: without it a large segment keeps every version that was in it.
        merging.set_del_docs_ratio_before_merge(DELETED_RATIO_MAX);
        writer.set_merge_policy(Box::new(merging));
        let commit = SearchCommit { searcher: reader.searcher(), cursors };
        let projection =
            Self { schema, committed: Arc::new(RwLock::new(commit)), lag: Arc::new(SearchLag::default()) };
        let writer = SearchWriter::new(projection.clone(), reader, writer, cursors);
        Ok((projection, writer))
    }

    /// Removes a damaged index; the next one that is opened is built anew. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Folder`] when the disk fails.
    pub(crate) fn discard(folder: &Path) -> Result<(), IndexError> {
        remove_folder(folder)
    }
}

/// The index, when its files can be read and it is one of these buckets and this version.
fn open_fitting(
    folder: &Path,
    schema: &SearchSchema,
    origins: &[BucketOrigin],
) -> Result<Option<(Index, IndexReader, SearchCursors)>, IndexError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let directory = MmapDirectory::open(folder).map_err(tantivy::TantivyError::from)?;
    if !Index::exists(&directory).map_err(tantivy::TantivyError::from)? {
        return Ok(None);
    }
    let index = Index::open(directory)?;
    if index.schema() != schema.schema {
        return Ok(None);
    }
    let payload = index.load_metas()?.payload;
    let payload = payload.and_then(|text| serde_json::from_str::<CommitPayload>(&text).ok());
    let fitting = payload.filter(|payload| {
        payload.version == SEARCH_VERSION
            && origins.iter().all(|origin| fits_origin(&payload.cursors, origin))
    });
    let Some(payload) = fitting else { return Ok(None) };
    // It opens the files of all segments: only here it shows that one is absent or cut.
    let reader = open_reader(&index)?;
    for segment in index.searchable_segments()? {
        // The library takes an absent file of positions for one of a schema without phrases.
        segment.open_read(SegmentComponent::Positions).map_err(tantivy::TantivyError::from)?;
    }
    Ok(Some((index, reader, payload.cursors)))
}

fn open_reader(index: &Index) -> Result<IndexReader, IndexError> {
    register_tokenizer(index);
    let builder = index.reader_builder().reload_policy(ReloadPolicy::Manual);
    Ok(builder.doc_store_cache_num_blocks(STORE_CACHE_BLOCKS).try_into()?)
}

/// True when the bucket is the one that the cursors are of.
fn fits_origin(cursors: &SearchCursors, origin: &BucketOrigin) -> bool {
    let bucket = SearchBucket::ALL.into_iter().find(|bucket| bucket.as_index_bucket() == origin.bucket);
    let Some(cursor) = bucket.map(|bucket| cursors.get(bucket)) else { return true };
    // Markers of removals end by themselves: after a longer absence a removed medium would stay for ever.
    let was_away = cursor.sequence > 0 && nats::now_ms().saturating_sub(cursor.stored_at_ms) > AWAY_MS_MAX;
    cursor.created_at_us == origin.created_at_us
        && cursor.sequence <= origin.last_sequence
        && !(was_away && cursor.sequence < origin.last_sequence)
}

fn origin_cursors(origins: &[BucketOrigin]) -> SearchCursors {
    let mut cursors = SearchCursors::default();
    for bucket in SearchBucket::ALL {
        let origin = origins.iter().find(|origin| origin.bucket == bucket.as_index_bucket());
        cursors.get_mut(bucket).created_at_us = origin.map_or(0, |origin| origin.created_at_us);
    }
    cursors
}

fn create_index(folder: &Path, schema: &SearchSchema) -> Result<Index, IndexError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| IndexError::Folder { path: folder.to_owned(), source })?;
    let directory = MmapDirectory::open(folder).map_err(tantivy::TantivyError::from)?;
    Ok(Index::create(directory, schema.schema.clone(), IndexSettings::default())?)
}

/// Removes a folder, or what is in its place. It is moved first: a half of an index is never opened.
fn remove_folder(folder: &Path) -> Result<(), IndexError> {
    let mut old = folder.as_os_str().to_owned();
    old.push(".old");
    let old = PathBuf::from(old);
    remove_path(&old)?;
    match std::fs::rename(folder, &old) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(|source| IndexError::Folder { path: folder.to_owned(), source })?,
    }
    remove_path(&old)
}

fn remove_path(path: &Path) -> Result<(), IndexError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(IndexError::Folder { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
