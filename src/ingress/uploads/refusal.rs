//! Why a request is refused, and how that is told: status, code and headers of each case in one place.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};

use super::protocol::{UPLOAD_OFFSET, VERSION};
use web::{error::Problem, kind::Kind};

/// Why a request is refused.
#[derive(Debug)]
pub enum Refusal {
    /// The client speaks another version.
    Version,
    /// A header is missing or makes no sense.
    Header {
        /// The header.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The metadata header is longer than its limit.
    MetadataTooLong,
    /// The media type is not one this takes.
    MediaType(&'static str),
    /// Unknown, or somebody else's.
    NotFound,
    /// It was there once.
    Gone(Kind),
    /// The bytes are for another place.
    Offset {
        /// Bytes that are there.
        offset_bytes: u64,
    },
    /// Another request took over.
    Displaced {
        /// Bytes that are there.
        offset_bytes: u64,
    },
    /// Another request holds the upload and does not let go.
    Busy,
    /// More bytes than the length or the limit.
    TooLarge,
    /// The declared checksum algorithm is unknown.
    ChecksumAlgorithm,
    /// The bytes do not have the declared checksum.
    ChecksumMismatch,
    /// The bytes do not have the declared digest.
    DigestMismatch,
    /// A complete upload can't be ended.
    Finished,
    /// The owner has too many open uploads.
    TooMany {
        /// How many it may have.
        open_max: usize,
    },
    /// No byte came for too long.
    Idle,
    /// Too few bytes came for too long.
    TooSlow,
    /// The body ended before its length.
    Cut,
    /// The disk is full.
    Full,
    /// The process stops.
    Stopping,
    /// The broker does not answer, or answered strangely.
    Bus(nats::Error),
    /// The store does not answer, or answered strangely.
    Store(store::Error),
}

impl From<nats::Error> for Refusal {
    fn from(error: nats::Error) -> Self {
        Self::Bus(error)
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Full => Self::Full,
            store::Error::Busy => Self::Busy,
            store::Error::Damaged(_) => Self::Gone(Kind::UploadBytesLost),
            other => Self::Store(other),
        }
    }
}

impl Refusal {
    /// The answer to tell.
    pub(super) fn problem(self) -> Problem {
        match self {
            Self::Bus(_) | Self::Store(_) | Self::Stopping | Self::Busy | Self::Full => self.temporary(),
            Self::Version
            | Self::Header { .. }
            | Self::MetadataTooLong
            | Self::MediaType(_)
            | Self::TooLarge => self.malformed(),
            other => other.contradicted(),
        }
    }

    fn temporary(self) -> Problem {
        match self {
            Self::Bus(error) => match Problem::from(error) {
                // A conflict here is a race between requests: the next try reads the new state.
                problem if problem.status() == StatusCode::CONFLICT => locked(),
                problem => problem,
            },
            Self::Store(error) if error.is_outage() => Problem::unavailable(&error),
            Self::Store(error) => Problem::internal(&error),
            Self::Full => Problem::new(Kind::StoreFull).detail("what was acknowledged is kept"),
            Self::Stopping => Problem::new(Kind::Stopping).retry_after_s(1),
            _ => locked(),
        }
    }

    fn malformed(self) -> Problem {
        match self {
            Self::Version => Problem::new(Kind::TusVersion)
                .header(HeaderName::from_static("tus-version"), HeaderValue::from_static(VERSION)),
            Self::Header { name, why } => {
                Problem::new(Kind::HeaderInvalid).detail(format!("{name} {why}")).member("header", name)
            }
            Self::MetadataTooLong => Problem::new(Kind::MetadataTooLong),
            Self::MediaType(wanted) => Problem::new(Kind::MediaType).detail(format!("send {wanted}")),
            _ => Problem::new(Kind::UploadTooLarge),
        }
    }

    fn contradicted(self) -> Problem {
        match self {
            Self::NotFound => Problem::not_found("there is no such upload"),
            Self::Gone(kind) => Problem::new(kind),
            Self::Offset { offset_bytes } => conflict(Kind::UploadOffset, offset_bytes),
            Self::Displaced { offset_bytes } => conflict(Kind::UploadDisplaced, offset_bytes),
            Self::ChecksumAlgorithm => Problem::new(Kind::ChecksumAlgorithm)
                .detail(format!("use one of {}", super::digest::ALGORITHMS)),
            Self::ChecksumMismatch => Problem::new(Kind::ChecksumMismatch),
            Self::DigestMismatch => Problem::new(Kind::DigestMismatch),
            Self::Finished => Problem::new(Kind::UploadFinished),
            Self::TooMany { open_max } => Problem::new(Kind::UploadsOpen)
                .detail(format!("end or finish one of the {open_max}"))
                .retry_after_s(60),
            Self::Idle => Problem::new(Kind::UploadIdle),
            Self::TooSlow => Problem::new(Kind::UploadTooSlow),
            _ => Problem::new(Kind::BodyCut),
        }
    }
}

/// 423 is the one 4xx that tus clients repeat without starting over.
fn locked() -> Problem {
    Problem::new(Kind::UploadBusy).retry_after_s(1)
}

/// 409 with the true offset, which clients repeat from.
fn conflict(kind: Kind, offset_bytes: u64) -> Problem {
    Problem::new(kind)
        .member("offset_bytes", offset_bytes)
        .header(UPLOAD_OFFSET, HeaderValue::from(offset_bytes))
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}
