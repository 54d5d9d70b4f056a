//! What can go wrong in the index.

use std::path::PathBuf;

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
