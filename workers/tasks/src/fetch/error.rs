//! What can go wrong with a fetch, and whether to try again. The texts go to the owner of the job.

use outbound::OutboundError;
use schemas::fault::FailureClass;

/// An error of a fetch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// As the client says.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// As the bus says.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// As the store says.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// Reject: what came can't be followed by the rest; why.
    #[error("the source can't be gone on with: {0}; ask for the medium anew")]
    SourceChanged(&'static str),
    /// Reject: the upload ended first.
    #[error("the upload that takes the bytes has ended: it was deleted, or its time ran out")]
    UploadEnded,
    /// Reject: more bytes than an upload may have.
    #[error(
        "the source has more than {bytes_max} bytes, which an upload may have (`ingress.uploads.size_max`)"
    )]
    TooLarge {
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// Reject: the body is coded, though that was not asked for.
    #[error("the source sends its bytes coded (Content-Encoding): have it send them as they are")]
    Coded,
    /// Fault: an answer that fits no question.
    #[error("the source answers what was not asked: {0}")]
    Malformed(&'static str),
    /// Fault: the bytes ended early.
    #[error("the bytes of the source ended early")]
    Cut,
    /// Fault: too few bytes came for too long.
    #[error("too few bytes came from the source for too long")]
    TooSlow,
    /// Outage: another one writes to the upload.
    #[error("another one writes to the upload")]
    Displaced,
    /// Fault: the store is full. What is there of the file may be what fills it, and goes with the job after its last try.
    #[error("the store is full")]
    StoreFull,
    /// Outage: the process stops.
    #[error("the process stops")]
    Stopping,
    /// Reject: the record does not say what is to be fetched.
    #[error("the record of the job does not say what is to be fetched")]
    NoSource,
}

impl FetchError {
    /// A stable code for events, records and people.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Outbound(error) => match error {
                OutboundError::UrlInvalid(_)
                | OutboundError::AddressRefused { .. }
                | OutboundError::NameRefused { .. } => "fetch_address_refused",
                OutboundError::NameNotFound { .. }
                | OutboundError::ConnectFailed { .. }
                | OutboundError::TlsFailed { .. } => "fetch_unreachable",
                OutboundError::TimedOut { .. } => "fetch_timed_out",
                OutboundError::TooLarge { .. } => "fetch_too_large",
                OutboundError::RedirectRefused { .. } => "fetch_redirect_refused",
                OutboundError::Status { .. } if error.class() == FailureClass::Reject => "fetch_refused",
                OutboundError::Status { .. } => "fetch_failed",
                OutboundError::Broken { .. } => "fetch_cut",
                _ => "fetch_unusable",
            },
            Self::Bus(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::SourceChanged(_) => "fetch_source_changed",
            Self::UploadEnded => "fetch_upload_ended",
            Self::TooLarge { .. } => "fetch_too_large",
            Self::Coded => "fetch_coded",
            Self::Malformed(_) => "fetch_malformed",
            Self::Cut => "fetch_cut",
            Self::TooSlow => "fetch_too_slow",
            Self::Displaced => "fetch_displaced",
            Self::StoreFull => "store_full",
            Self::Stopping => "stopping",
            Self::NoSource => "job_unknown",
        }
    }

    /// What it says about the work.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Outbound(error) => error.class(),
            Self::Bus(error) => error.failure_class(),
            Self::Store(error) => error.class(),
            Self::Malformed(_) | Self::Cut | Self::TooSlow | Self::StoreFull => FailureClass::Fault,
            Self::Displaced | Self::Stopping => FailureClass::Outage,
            Self::SourceChanged(_)
            | Self::UploadEnded
            | Self::TooLarge { .. }
            | Self::Coded
            | Self::NoSource => FailureClass::Reject,
        }
    }
}
