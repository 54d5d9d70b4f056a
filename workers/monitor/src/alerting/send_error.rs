//! What came of a sending, and why a receiver was not informed.

use outbound::OutboundError;
use schemas::alert::AlertState;

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Webhook(#[from] OutboundError),
    #[error("the mail server: {0}")]
    Mail(String),
    #[error("the file of the password can't be read: {0}; make it readable to this process")]
    Password(#[from] std::io::Error),
    #[error("it takes too long")]
    TimedOut,
}

impl SendError {
    /// Whether there was no answer in time: the receiver may have taken it.
    pub(super) const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Webhook(OutboundError::TimedOut { .. }))
    }
}

/// What a receiver took, and what it did not take.
#[derive(Debug, Default)]
pub(super) struct SendingOutcome {
    pub(super) taken: Vec<AlertState>,
    pub(super) failed: Vec<(Vec<AlertState>, SendError)>,
}

impl SendingOutcome {
    /// What came of sending `alerts` at once.
    pub(super) fn note(&mut self, alerts: &[AlertState], result: Result<(), SendError>) {
        match result {
            Ok(()) => self.taken.extend_from_slice(alerts),
            Err(error) => self.failed.push((alerts.to_vec(), error)),
        }
    }
}
