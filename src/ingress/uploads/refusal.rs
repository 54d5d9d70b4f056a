//! Why a request is refused, and how that is answered: status, code and headers of each case in one place.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};

use super::fields::{UPLOAD_OFFSET, VERSION};
use web::{error::Problem, problem_code::ProblemCode};

/// Why a request is refused.
#[derive(Debug)]
pub enum UploadRefusal {
    /// The client speaks another version.
    Version,
    /// A header is missing or makes no sense.
    Header {
        /// The header.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A header that would say something about the upload, and is not known here.
    UnknownField(HeaderName),
    /// The metadata header is longer than its limit.
    MetadataTooLong,
    /// The form can't be taken, and why.
    Form(String),
    /// A problem of others.
    Other(Box<Problem>),
    /// The media type is not one this takes.
    MediaType(&'static str),
    /// Unknown, or somebody else's.
    NotFound,
    /// It was there once.
    Gone(ProblemCode),
    /// The bytes are for another place.
    Offset {
        /// Bytes that are there.
        offset_bytes: u64,
        /// Where the request put them.
        provided_bytes: u64,
    },
    /// What the request says about the length of the whole contradicts itself, or what was said before, or its bytes.
    LengthInconsistent,
    /// Every byte is there already.
    Complete,
    /// The credential may not say who plays a medium.
    GateScope,
    /// There is no such profile; those there are.
    ProfileUnknown(Vec<String>),
    /// The priority goes before the jobs of everybody.
    PriorityReserved,
    /// The upload was opened by another protocol.
    Protocol,
    /// The body is coded.
    ContentEncoding,
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
    /// The bytes of the upload come from others.
    Final,
    /// A job brings the bytes of the upload.
    Fetched,
    /// What a job fetches is another version than what came before.
    SourceChanged,
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
    Bus(nats::BusError),
    /// The store does not answer, or answered strangely.
    Store(store::StoreError),
}

impl From<nats::BusError> for UploadRefusal {
    fn from(error: nats::BusError) -> Self {
        Self::Bus(error)
    }
}

impl From<store::StoreError> for UploadRefusal {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::Full => Self::Full,
            store::StoreError::Busy => Self::Busy,
            store::StoreError::Damaged(_) => Self::Gone(ProblemCode::UploadBytesLost),
            other => Self::Store(other),
        }
    }
}

impl UploadRefusal {
    /// A problem of others.
    pub(super) fn of_problem(problem: Problem) -> Self {
        Self::Other(Box::new(problem))
    }

    /// The problem to answer with.
    pub(super) fn into_problem(self) -> Problem {
        match self {
            Self::Bus(_) | Self::Store(_) | Self::Stopping | Self::Busy | Self::Full => {
                self.temporary_problem()
            }
            Self::Version
            | Self::Header { .. }
            | Self::UnknownField(_)
            | Self::MetadataTooLong
            | Self::Form(_)
            | Self::MediaType(_)
            | Self::ContentEncoding
            | Self::LengthInconsistent
            | Self::TooLarge => self.malformed_problem(),
            Self::Other(problem) => *problem,
            other => other.state_problem(),
        }
    }

    fn temporary_problem(self) -> Problem {
        match self {
            Self::Bus(error) => match Problem::from(error) {
                // A conflict here is a race between requests: the next try reads the new state.
                problem if problem.status() == StatusCode::CONFLICT => upload_locked(),
                problem => problem,
            },
            Self::Store(error) if error.is_outage() => Problem::unavailable(&error),
            Self::Store(error) => Problem::internal(&error),
            Self::Full => Problem::new(ProblemCode::StoreFull).with_detail("what was acknowledged is kept"),
            Self::Stopping => Problem::new(ProblemCode::Stopping).with_retry_after_s(1),
            _ => upload_locked(),
        }
    }

    fn malformed_problem(self) -> Problem {
        match self {
            Self::Version => Problem::new(ProblemCode::TusVersion)
                .with_header(HeaderName::from_static("tus-version"), HeaderValue::from_static(VERSION)),
            Self::Header { name, why } => Problem::new(ProblemCode::HeaderInvalid)
                .with_detail(format!("{name} {why}"))
                .with_member("header", name),
            Self::UnknownField(name) => Problem::new(ProblemCode::HeaderInvalid)
                .with_detail(format!("{name} is not known here; fields of tus go with Tus-Resumable"))
                .with_member("header", name.as_str()),
            Self::Form(why) => Problem::new(ProblemCode::FormInvalid).with_detail(why),
            Self::MetadataTooLong => Problem::new(ProblemCode::MetadataTooLong),
            Self::MediaType(wanted) => {
                Problem::new(ProblemCode::MediaType).with_detail(format!("send {wanted}"))
            }
            Self::ContentEncoding => Problem::new(ProblemCode::ContentEncoding)
                .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            Self::LengthInconsistent => Problem::new(ProblemCode::UploadLengthInconsistent),
            _ => Problem::new(ProblemCode::UploadTooLarge),
        }
    }

    fn state_problem(self) -> Problem {
        match self {
            Self::NotFound => Problem::not_found("there is no such upload"),
            Self::Gone(kind) => Problem::new(kind),
            Self::Offset { offset_bytes, provided_bytes } => {
                offset_conflict(ProblemCode::UploadOffset, offset_bytes)
                    .with_member("expected-offset", offset_bytes)
                    .with_member("provided-offset", provided_bytes)
            }
            Self::Complete => Problem::new(ProblemCode::UploadComplete),
            Self::GateScope => Problem::new(ProblemCode::ScopeMissing)
                .with_detail("visibility is said by a key with the scope `gate`, or later by its owner"),
            Self::ProfileUnknown(names) => Problem::new(ProblemCode::ProfileUnknown)
                .with_detail(format!("`profile` in `Upload-Metadata`: there are {}", names.join(", ")))
                .with_member("profiles", serde_json::json!(names)),
            Self::PriorityReserved => Problem::new(ProblemCode::OperatorsOnly)
                .with_detail("`priority` in `Upload-Metadata`: p0 goes before the jobs of everybody"),
            Self::Protocol => Problem::new(ProblemCode::UploadProtocol),
            Self::Displaced { offset_bytes } => offset_conflict(ProblemCode::UploadDisplaced, offset_bytes),
            Self::ChecksumAlgorithm => Problem::new(ProblemCode::ChecksumAlgorithm)
                .with_detail(format!("use one of {}", super::fields::ALGORITHMS)),
            Self::ChecksumMismatch => Problem::new(ProblemCode::ChecksumMismatch),
            Self::DigestMismatch => Problem::new(ProblemCode::DigestMismatch),
            Self::Finished => Problem::new(ProblemCode::UploadFinished),
            Self::Final => Problem::new(ProblemCode::UploadFinal),
            Self::Fetched => Problem::new(ProblemCode::UploadFetched),
            Self::TooMany { open_max } => Problem::new(ProblemCode::UploadsOpen)
                .with_detail(format!("end or finish one of the {open_max}"))
                .with_retry_after_s(60),
            // 503: clients of tus give up at a 408.
            Self::Idle => Problem::new(ProblemCode::UploadIdle).with_retry_after_s(1),
            Self::TooSlow => Problem::new(ProblemCode::UploadTooSlow).with_retry_after_s(1),
            _ => Problem::new(ProblemCode::BodyCut),
        }
    }
}

/// 423 is the one 4xx that tus clients repeat without starting over.
fn upload_locked() -> Problem {
    Problem::new(ProblemCode::UploadBusy).with_retry_after_s(1)
}

/// 409 with the true offset, which clients repeat from.
fn offset_conflict(kind: ProblemCode, offset_bytes: u64) -> Problem {
    Problem::new(kind)
        .with_member("offset_bytes", offset_bytes)
        .with_header(UPLOAD_OFFSET, HeaderValue::from(offset_bytes))
        .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}
