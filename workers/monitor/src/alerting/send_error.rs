//! Why a receiver was not informed.

use outbound::OutboundError;

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Webhook(#[from] OutboundError),
    #[error("the mail server: {0}")]
    Mail(String),
    #[error("it takes too long")]
    TimedOut,
}
