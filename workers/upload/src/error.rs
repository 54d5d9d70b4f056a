//! Why verifying a file did not come to a verdict, and what the verdicts are.

use std::fmt;

use nats::{FailureClass, StageFault};

/// No verdict: the work has to be done again, or can't be done at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadStageError {
    /// As the store says.
    #[error("read the upload from the store")]
    Store(#[from] store::StoreError),
    /// As the bus says.
    #[error("reach the bus")]
    Bus(#[from] nats::BusError),
    /// The media child failed for reasons that are not the file's; as the store says when it could not read.
    #[error("probe the upload")]
    Probe(#[source] media::MediaTaskError),
}

impl UploadStageError {
    /// What it says about the work.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Bus(error) => error.failure_class(),
            Self::Store(error) => error.class(),
            Self::Probe(media::MediaTaskError::Source(error)) => store::StoreError::find_in_io_error(error)
                .map_or(FailureClass::Outage, store::StoreError::class),
            // A host that can't start its child is no worse for this file than for others.
            Self::Probe(media::MediaTaskError::Sandbox(_) | media::MediaTaskError::Spawn { .. }) => {
                FailureClass::Outage
            }
            Self::Probe(_) => FailureClass::Fault,
        }
    }

    /// True when the media child itself broke down.
    #[must_use]
    pub const fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::Probe(media::MediaTaskError::Crashed { .. } | media::MediaTaskError::Stalled { .. })
        )
    }

    /// A stable code for events, records and people.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bus(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Probe(fault @ media::MediaTaskError::Source(error)) => {
                store::StoreError::find_in_io_error(error).map_or(fault.code(), store::StoreError::code)
            }
            Self::Probe(fault) => fault.code(),
        }
    }
}

impl From<UploadStageError> for StageFault {
    fn from(error: UploadStageError) -> Self {
        Self::new(error.class(), error.code(), error)
    }
}

/// The file can't be served. `code` is stable, `detail` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRejection {
    /// Stable code.
    pub code: &'static str,
    /// What was found, without text of the file's author.
    pub detail: String,
}

impl UploadRejection {
    /// A rejection with its code and explanation.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The structure contradicts itself; the media child says so with the same code.
    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::new(media::MediaErrorCode::MediaCorrupt.as_str(), detail)
    }

    /// There are not as many bytes as there should be.
    pub(crate) fn size_mismatch(detail: impl Into<String>) -> Self {
        Self::new("size_mismatch", detail)
    }
}

impl fmt::Display for UploadRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
