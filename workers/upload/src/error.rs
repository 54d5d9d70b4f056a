//! Why verifying a file did not come to a verdict, and what the verdicts are.

use std::fmt;

use nats::{FailureClass, StageFault};
use schemas::rejection::{RejectionCode, TAKEN_FORMATS};

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
    pub code: RejectionCode,
    /// What was found, without text of the file's author.
    pub detail: String,
}

impl UploadRejection {
    /// A rejection with its code and explanation.
    pub fn new(code: RejectionCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// What the media child refused. Of a format that nothing here reads it says what is read.
    pub(crate) fn from_child(code: media::MediaErrorCode, detail: String) -> Self {
        let code = find_code(code.as_str());
        match code {
            RejectionCode::MediaUnsupportedFormat => Self::new(code, with_taken_formats(&detail)),
            _ => Self::new(code, detail),
        }
    }

    /// A file whose verification failed each time with this code.
    pub(crate) fn unverified(code: &str, detail: impl Into<String>) -> Self {
        Self::new(find_code(code), detail)
    }

    /// The content is of no kind that is taken here.
    pub(crate) fn unsupported(found: &str) -> Self {
        Self::new(RejectionCode::UnsupportedType, with_taken_formats(found))
    }

    /// The structure contradicts itself; the media child says so with the same code.
    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::new(RejectionCode::MediaCorrupt, detail)
    }

    /// There are not as many bytes as there should be.
    pub(crate) fn size_mismatch(detail: impl Into<String>) -> Self {
        Self::new(RejectionCode::SizeMismatch, detail)
    }
}

fn with_taken_formats(found: &str) -> String {
    format!("{found}; taken are, by content whatever the name says: {TAKEN_FORMATS}")
}

/// The published code; one that nobody publishes says no more than that the file could not be verified.
fn find_code(code: &str) -> RejectionCode {
    RejectionCode::find(code).unwrap_or(RejectionCode::Unverified)
}

impl fmt::Display for UploadRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_media_child_refuses_is_published() {
        for code in media::MediaErrorCode::ALL {
            assert_eq!(UploadRejection::from_child(*code, String::new()).code, code.as_str());
        }
    }

    #[test]
    fn what_fails_each_time_is_rejected_with_a_published_code() {
        let probe = |error| UploadStageError::Probe(error).code();
        for code in [
            probe(media::MediaTaskError::Failed { detail: String::new() }),
            probe(media::MediaTaskError::Crashed { signal: None, status: None, detail: String::new() }),
            probe(media::MediaTaskError::Stalled { seconds: 1 }),
            probe(media::MediaTaskError::Protocol(String::new())),
            probe(media::MediaTaskError::Source(io::Error::other("x"))),
            store::StoreError::NotFound { key: String::new() }.code(),
            store::StoreError::Damaged(String::new()).code(),
            nats::BusError::Refused { what: String::new(), reason: String::new() }.code(),
        ] {
            assert_eq!(UploadRejection::unverified(code, "").code, code);
        }
        assert_eq!(UploadRejection::unverified("no_such_code", "").code, RejectionCode::Unverified);
    }

    #[test]
    fn of_a_type_that_is_not_taken_it_says_what_is() {
        let found =
            UploadRejection::unsupported("the content is text/html, no media file that is taken here");
        assert!(found.detail.contains("text/html") && found.detail.contains("MKV, WebM"), "{found}");
        let code = media::MediaErrorCode::MediaUnsupportedFormat;
        assert!(UploadRejection::from_child(code, "format tty".into()).detail.contains("MKV, WebM"));
    }
}
