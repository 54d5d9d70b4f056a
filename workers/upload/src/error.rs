//! Why verifying a file did not come to a verdict, and what the verdicts are.

use std::fmt;

use nats::Fault;

/// No verdict: the work has to be done again, or can't be done at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Retry, unless the store names a fault that stays.
    #[error("read the upload from the store")]
    Store(#[from] store::Error),
    /// Retry or reject, as the bus says.
    #[error("reach the bus")]
    Bus(#[from] nats::Error),
    /// Retry: the media child failed for reasons that are not the file's.
    #[error("probe the upload")]
    Probe(#[source] media::Fault),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Bus(error) => error.into(),
            Error::Store(store::Error::Invalid(_)) => Self::reject("store_invalid", error),
            Error::Store(ref inner) => Self::retry(inner.code(), error),
            Error::Probe(ref inner) => Self::retry(inner.code(), error),
        }
    }
}

/// The file can't be served. `code` is stable, `detail` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Stable code.
    pub code: &'static str,
    /// What was found, without text of the file's author.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its code and explanation.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
