//! What can go wrong with an export, and whether to try again. The texts go to the owner of the job.

use outbound::OutboundError;
use schemas::fault::FailureClass;

/// An error of an export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// As the client says.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// As the store says.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// Fault for 408, 425, 429 and 5xx, which may go well another time; reject for all else.
    #[error(
        "{host} answered with the status {status}: see that the address takes a file by PUT, and that what signs it has not expired"
    )]
    Refused {
        /// The host that answered.
        host: String,
        /// The status.
        status: u16,
    },
    /// Fault: the host answered before it could have all bytes.
    #[error("the host took {sent_bytes} of {size_bytes} bytes and answered as if that were all")]
    Unfinished {
        /// Bytes that it took.
        sent_bytes: u64,
        /// Bytes of the file.
        size_bytes: u64,
    },
    /// Reject: there is no such file of the medium; why.
    #[error("{0}")]
    NoFile(String),
    /// Fault: the stored objects can't be put together; why.
    #[error("the file can't be put together: {0}")]
    Malformed(String),
    /// Outage: this worker puts enough files together.
    #[error("other files are being put together")]
    Busy,
    /// Fault: it was not sent within the time of a try.
    #[error("not all of it could be sent within the time of a try (`tasks.try_time_ms_max`)")]
    TooSlow,
    /// Reject: the record does not say what is to be sent where.
    #[error("the record of the job does not say what is to be sent where")]
    NoTarget,
}

impl ExportError {
    /// A stable code for events, records and people.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Outbound(error) => match error {
                OutboundError::UrlInvalid(_)
                | OutboundError::AddressRefused { .. }
                | OutboundError::NameRefused { .. } => "export_address_refused",
                OutboundError::NameNotFound { .. }
                | OutboundError::ConnectFailed { .. }
                | OutboundError::TlsFailed { .. } => "export_unreachable",
                OutboundError::TimedOut { .. } => "export_timed_out",
                OutboundError::Broken { .. } => "export_cut",
                _ => "export_unusable",
            },
            Self::Store(error) => error.code(),
            Self::Refused { .. } if self.class() == FailureClass::Reject => "export_refused",
            Self::Refused { .. } => "export_failed",
            Self::Unfinished { .. } => "export_cut",
            Self::NoFile(_) => "export_no_file",
            Self::Malformed(_) => "export_malformed",
            Self::Busy => "export_busy",
            Self::TooSlow => "export_too_slow",
            Self::NoTarget => "job_unknown",
        }
    }

    /// What it says about the work.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Outbound(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::Refused { host, status } => {
                OutboundError::Status { host: host.clone(), status: *status }.class()
            }
            Self::Unfinished { .. } | Self::Malformed(_) | Self::TooSlow => FailureClass::Fault,
            Self::Busy => FailureClass::Outage,
            Self::NoFile(_) | Self::NoTarget => FailureClass::Reject,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_refuses_is_not_asked_again() {
        let refused = |status| ExportError::Refused { host: "a".to_owned(), status };
        for (status, class, code) in [
            (307, FailureClass::Reject, "export_refused"),
            (403, FailureClass::Reject, "export_refused"),
            (413, FailureClass::Reject, "export_refused"),
            (429, FailureClass::Fault, "export_failed"),
            (503, FailureClass::Fault, "export_failed"),
        ] {
            assert_eq!((refused(status).class(), refused(status).code()), (class, code), "{status}");
        }
    }
}
