//! What can go wrong between us and the bytes.

use std::io;

use schemas::{
    fault::{FailureClass, error_causes},
    ids::StoreId,
};

/// An error of the store or of a spool. [`StoreError::class`] says what it means for the work that ran into it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no object under this key.
    #[error("no object under {key}")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The disk or the quota is full.
    #[error("the store is full")]
    Full,
    /// The store can't be reached or refuses for now.
    #[error("the store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store has no marker: it is not mounted, emptied, or another one.
    #[error("the store {root} has no marker: is it mounted, and is it the one of this installation?")]
    Unmarked {
        /// Its URL.
        root: String,
    },
    /// The marker is that of another store.
    #[error("the store {root} is {found}, but this installation belongs to {expected}")]
    OtherStore {
        /// Its URL.
        root: String,
        /// What its marker says.
        found: StoreId,
        /// What it has to say.
        expected: StoreId,
    },
    /// A request took longer than its bytes may.
    #[error("the store took longer than {deadline_ms} ms for {size_bytes} bytes")]
    Slow {
        /// Bytes it was about.
        size_bytes: u64,
        /// The time it had, in milliseconds.
        deadline_ms: u64,
    },
    /// Another writer still holds the spool of this upload.
    #[error("another writer holds this upload")]
    Busy,
    /// Too many upload bytes are in memory; none could be freed in time.
    #[error("too many bytes in flight")]
    Overloaded,
    /// Bytes that were acknowledged are gone or may be damaged; the upload can't go on.
    #[error("acknowledged bytes are lost: {0}")]
    Damaged(String),
    /// The URL, an option, a key or a range is not valid.
    #[error("{0}")]
    Invalid(String),
}

impl StoreError {
    /// What it says about the work that ran into it.
    ///
    /// An absent or damaged object is a fault, not a rejection: a few tries distinguish a slip of the store from a loss.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Unavailable(_)
            | Self::Unmarked { .. }
            | Self::OtherStore { .. }
            | Self::Slow { .. }
            | Self::Busy
            | Self::Overloaded
            | Self::Full => FailureClass::Outage,
            Self::NotFound { .. } | Self::Damaged(_) => FailureClass::Fault,
            Self::Invalid(_) => FailureClass::Reject,
        }
    }

    /// True when the store is away, full or busy: it passes by itself and is never counted as a try.
    pub fn is_outage(&self) -> bool {
        self.class() == FailureClass::Outage
    }

    /// The store's error inside an `io::Error`, for readers that can return nothing else.
    pub fn find_in_io_error(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>())
    }

    /// Stable code of the variant.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "object_not_found",
            Self::Full => "store_full",
            Self::Unavailable(_) => "store_unavailable",
            Self::Unmarked { .. } => "store_unmarked",
            Self::OtherStore { .. } => "store_other",
            Self::Slow { .. } => "store_slow",
            Self::Busy => "upload_busy",
            Self::Overloaded => "store_overloaded",
            Self::Damaged(_) => "upload_bytes_lost",
            Self::Invalid(_) => "store_invalid",
        }
    }

    /// What is there can't be reached for now.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        if is_disk_full(&error) { Self::Full } else { Self::Unavailable(Box::new(error)) }
    }

    pub(crate) fn from_join(error: tokio::task::JoinError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// True for a full disk, an exceeded quota and a file that may not grow further.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as Source;
        match error {
            Source::NotFound { path, .. } => Self::NotFound { key: path },
            Source::InvalidPath { .. }
            | Source::NotSupported { .. }
            | Source::NotImplemented { .. }
            | Source::UnknownConfigurationKey { .. } => Self::Invalid(error.to_string()),
            other if has_full_disk_cause(&other) => Self::Full,
            other => Self::Unavailable(Box::new(other)),
        }
    }
}

fn has_full_disk_cause(error: &(dyn std::error::Error + 'static)) -> bool {
    error_causes(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(is_disk_full))
}
