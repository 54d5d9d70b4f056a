//! What can go wrong with an address that a user gave, and whether to try again.
//!
//! The texts go to the user: they name the host that was asked for, and neither addresses behind its name nor the query.

use schemas::fault::FailureClass;

use crate::networks::NetworkRule;

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// Reject: it is no address of HTTP; why, as the end of a sentence.
    #[error("the address {0}: give one such as https://example.org/film.mp4")]
    UrlInvalid(&'static str),
    /// Reject: the address that is written out is not public.
    #[error("{host} is not public ({}, {}): give a public address, or have the operator list its network in `outbound.allow`", rule.purpose, rule.network)]
    AddressRefused {
        /// The host as it was given.
        host: String,
        /// The network that it is in.
        rule: NetworkRule,
    },
    /// Reject: no address that the name stands for is public.
    #[error(
        "{host} leads to no public address: give a public host, or have the operator list its network in `outbound.allow`"
    )]
    NameRefused {
        /// The host as it was given.
        host: String,
        /// The network that the first of its addresses is in: for the operator, not for the user.
        rule: NetworkRule,
    },
    /// Fault: nobody knows the name now.
    #[error("the name {host} was not found: check how it is spelled")]
    NameNotFound {
        /// The host as it was given.
        host: String,
    },
    /// Fault: no connection.
    #[error("{host} takes no connection: check host and port, and that it is reached from elsewhere")]
    ConnectFailed {
        /// The host as it was given.
        host: String,
    },
    /// Fault: no agreement on TLS, or a certificate that nobody vouches for.
    #[error(
        "{host} and this server do not agree on TLS: its certificate has to be valid and of a public authority"
    )]
    TlsFailed {
        /// The host as it was given.
        host: String,
    },
    /// Fault: nothing came in time.
    #[error("{host} took too long: {what} within {limit_ms} ms")]
    TimedOut {
        /// The host as it was given.
        host: String,
        /// What did not come.
        what: &'static str,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// Fault: the answer ended before its end, or was none of HTTP.
    #[error("the answer of {host} broke off, or is not HTTP")]
    Broken {
        /// The host as it was given.
        host: String,
    },
    /// Reject: the body is larger than may be.
    #[error("the answer of {host} is larger than {bytes_max} bytes")]
    TooLarge {
        /// The host as it was given.
        host: String,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// Reject: it leads somewhere else than it may; why, as the end of a sentence.
    #[error("{host} redirects {why}: give the address that it leads to")]
    RedirectRefused {
        /// The host that redirects.
        host: String,
        /// Why that is not followed.
        why: &'static str,
    },
    /// Fault for 408, 425, 429 and 5xx, which may go well another time; Reject for all else.
    #[error("{host} answered with the status {status}: see that the address can be read without signing in")]
    Status {
        /// The host that answered.
        host: String,
        /// The status.
        status: u16,
    },
    /// Reject: the client could not be made.
    #[error("the client of HTTP can't be used: {0}")]
    Setup(String),
}

impl OutboundError {
    /// A stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UrlInvalid(_) => "address_invalid",
            Self::AddressRefused { .. } | Self::NameRefused { .. } => "address_refused",
            Self::NameNotFound { .. } => "name_not_found",
            Self::ConnectFailed { .. } => "connect_failed",
            Self::TlsFailed { .. } => "tls_failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Broken { .. } => "answer_broken",
            Self::TooLarge { .. } => "too_large",
            Self::RedirectRefused { .. } => "redirect_refused",
            Self::Status { .. } => "status_refused",
            Self::Setup(_) => "setup_failed",
        }
    }

    /// What it says about the work. Nothing here is an outage: a host of somebody else that is away must not keep work waiting for ever.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NameNotFound { .. }
            | Self::ConnectFailed { .. }
            | Self::TlsFailed { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Status { status: 408 | 425 | 429 | 500..=599, .. } => FailureClass::Fault,
            Self::UrlInvalid(_)
            | Self::AddressRefused { .. }
            | Self::NameRefused { .. }
            | Self::TooLarge { .. }
            | Self::RedirectRefused { .. }
            | Self::Status { .. }
            | Self::Setup(_) => FailureClass::Reject,
        }
    }
}
