//! What can go wrong on the bus.

/// An error of the bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker can't be reached or did not answer in time; try again later.
    #[error("the broker is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else changed the record or subject first; read again.
    #[error("somebody else changed {what} first")]
    Conflict {
        /// Record or subject.
        what: String,
    },
    /// A message or record can't be decoded.
    #[error("{what} can't be decoded")]
    Undecodable {
        /// Record or subject.
        what: String,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// A message or record can't be encoded.
    #[error("{what} can't be encoded")]
    Unencodable {
        /// Record or subject.
        what: String,
        /// Why.
        #[source]
        source: rmp_serde::encode::Error,
    },
    /// A message or record is larger than its limit.
    #[error("{what} has {size_bytes} bytes, more than the limit of {size_bytes_max}")]
    TooLarge {
        /// Record or subject.
        what: String,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        size_bytes_max: usize,
    },
    /// The broker refused for a reason that trying again does not change.
    #[error("the broker refused {what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// The broker's words.
        reason: String,
    },
    /// What lies on the server does not fit this version.
    #[error("{reason}")]
    Topology {
        /// What does not fit, and what to do.
        reason: String,
    },
    /// A setting is wrong.
    #[error("invalid {what}")]
    Invalid {
        /// Which and why.
        what: String,
    },
}

impl Error {
    /// Wraps a client error as [`Error::Unavailable`].
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }

    /// True when trying again later may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict { .. })
    }
}
