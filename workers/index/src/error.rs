//! What can go wrong in the index.

use std::path::PathBuf;

use tantivy::TantivyError;

use crate::search::SearchTextError;

/// An error of the index. Errors of the stage itself travel as [`nats::StageFault`], which says whether to try again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The bus failed.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// Another process has the folder open.
    #[error(
        "the folder {folder} is in use by another process; stop that one, or name another data folder with --data-dir"
    )]
    Locked {
        /// Which folder.
        folder: PathBuf,
    },
    /// A folder or file of the projection can't be used.
    #[error("{path} can't be used")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database refused a read or write, for example because the disk is full.
    #[error("the index database failed")]
    Database(#[source] sled::Error),
    /// The projection holds something it never wrote; it is built anew at the next start.
    #[error("the projection is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The search index refused a read or write, for example because the disk is full.
    #[error("the search index failed")]
    Search(#[source] TantivyError),
    /// The search index holds something it never wrote; it is built anew at the next start.
    #[error("the search index is damaged: {what}")]
    SearchDamaged {
        /// What was found.
        what: String,
    },
    /// A text that is no question.
    #[error(transparent)]
    SearchText(#[from] SearchTextError),
    /// A cursor that no answer of ours contained.
    #[error("the cursor is malformed")]
    Cursor,
}

impl From<sled::Error> for IndexError {
    fn from(source: sled::Error) -> Self {
        match source {
            sled::Error::Io(_) | sled::Error::Unsupported(_) => Self::Database(source),
            other => Self::Damaged { what: other.to_string() },
        }
    }
}

impl From<TantivyError> for IndexError {
    fn from(source: TantivyError) -> Self {
        match source {
            // A full disk, a lack of memory or of descriptors: the files are well.
            TantivyError::IoError(_)
            | TantivyError::OpenDirectoryError(_)
            | TantivyError::OpenWriteError(_)
            | TantivyError::LockFailure(..)
            | TantivyError::SystemError(_)
            | TantivyError::ErrorInThread(_)
            | TantivyError::Poisoned => Self::Search(source),
            other => Self::SearchDamaged { what: other.to_string() },
        }
    }
}
