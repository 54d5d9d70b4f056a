//! The second projection: documents and assets as a full text index (tantivy) beside the lists.
//!
//! It has a folder and cursors of its own. The cursors lie in the payload of a commit, so that after a crash they say exactly what the
//! documents hold; whatever came behind is read again. A document holds all that a page shows, so that an answer has one revision. Anything
//! odd at opening (another version or schema, a bucket made anew, an absence longer than removals are kept, files that can't be
//! read) removes the folder, and it is built again from the buckets.
//!
//! Limits: [`SearchConfig`] names the memory, the changes and the time of a commit.

mod answer;
mod collect;
mod config;
mod dump;
mod fields;
mod follow;
mod highlight;
mod keep;
mod open;
mod query;
mod rank;
mod read;
mod text;
mod tokenizer;
mod words;
mod write;

use std::sync::Arc;

use parking_lot::RwLock;
use schemas::search_query::SearchRevisions;
use serde::{Deserialize, Serialize};
use tantivy::Searcher;

use crate::projection::IndexBucket;
pub(crate) use answer::{SearchAccess, SearchResponder};
pub use config::SearchConfig;
use fields::SearchSchema;
pub(crate) use keep::keep_search;
pub use text::SearchTextError;
pub use write::{SearchChange, SearchRecord, SearchWriter};

/// What is searched: the last commit, and what it knows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SearchProjection {
    schema: Arc<SearchSchema>,
    committed: Arc<RwLock<SearchCommit>>,
    lag: Arc<write::SearchLag>,
}

/// A commit as it is read.
#[derive(Clone)]
struct SearchCommit {
    searcher: Searcher,
    cursors: SearchCursors,
}

impl std::fmt::Debug for SearchCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SearchCommit").field("cursors", &self.cursors).finish_non_exhaustive()
    }
}

/// How far a commit is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SearchCursors {
    media: BucketCursor,
    assets: BucketCursor,
}

impl SearchCursors {
    const fn get_mut(&mut self, bucket: SearchBucket) -> &mut BucketCursor {
        match bucket {
            SearchBucket::Media => &mut self.media,
            SearchBucket::Assets => &mut self.assets,
        }
    }

    const fn get(&self, bucket: SearchBucket) -> &BucketCursor {
        match bucket {
            SearchBucket::Media => &self.media,
            SearchBucket::Assets => &self.assets,
        }
    }

    const fn revisions(&self) -> SearchRevisions {
        SearchRevisions { media: self.media.sequence, assets: self.assets.sequence }
    }
}

/// How far a bucket is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct BucketCursor {
    /// Unix time in microseconds at which the bucket was made.
    created_at_us: u64,
    /// The last entry.
    sequence: u64,
    /// Unix time in milliseconds at which it was stored.
    stored_at_ms: u64,
}

/// A bucket that is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SearchBucket {
    /// Documents.
    Media,
    /// Technical metadata.
    Assets,
}

impl SearchBucket {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Media, Self::Assets];

    /// The same among all that the index follows.
    pub const fn as_index_bucket(self) -> IndexBucket {
        match self {
            Self::Media => IndexBucket::Media,
            Self::Assets => IndexBucket::Assets,
        }
    }
}

/// A medium as its document holds it: what a rebuilt index must equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchRow {
    /// Name of the field; `facts` for what is stored.
    pub field: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The media that have it.
    pub media_ids: Vec<[u8; 16]>,
}
