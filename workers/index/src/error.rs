//! What can go wrong in the index.

use std::path::PathBuf;

use tantivy::{TantivyError, directory::error::OpenReadError};

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
    /// The search index holds something it never wrote; it is removed and built anew.
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
        if is_damage(&source) {
            Self::SearchDamaged { what: source.to_string() }
        } else {
            Self::Search(source)
        }
    }
}

/// True when files hold what was never written, or are absent. After a full disk, a lack of memory or descriptors they are well.
fn is_damage(error: &TantivyError) -> bool {
    match error {
        TantivyError::IoError(error) => is_malformed(error),
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, .. }) => is_malformed(io_error),
        TantivyError::OpenReadError(_)
        | TantivyError::DataCorruption(_)
        | TantivyError::IncompatibleIndex(_)
        | TantivyError::DeserializeError(_)
        | TantivyError::SchemaError(_)
        | TantivyError::InternalError(_)
        | TantivyError::MissingPlugin(_)
        | TantivyError::UnexpectedPlugin(_) => true,
        _ => false,
    }
}

/// True for what the library says of bytes that it can't decode: the system has a number for each error of its own.
fn is_malformed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    error.raw_os_error().is_none()
        && matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput | Other)
}
