//! Errors that say what happened, to what, and what to do next.

use std::{error::Error, io, net::SocketAddr};

/// An error in the words of who can do something about it. What it wraps is kept for the decision whether to try again and for the
/// log; people are shown the message in its place.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExplainedError {
    message: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl ExplainedError {
    /// `message` says what `source` means, and what to do.
    pub fn new(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { message: message.into(), source: source.into() }
    }
}

/// What to do about an address that can't be listened on.
pub fn explain_listen_error(
    setting: &str,
    flag: &str,
    address: SocketAddr,
    error: io::Error,
) -> ExplainedError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop what uses it (a streamgate that runs already?), or choose another",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on, or let this user take a lower one",
        _ => "choose an address of this machine",
    };
    ExplainedError::new(
        format!("{setting} {address} can't be listened on ({error}); {advice} with {flag}"),
        error,
    )
}

/// An error and its causes in one line, as people are shown it: what lies below an [`ExplainedError`] it has said.
pub fn describe_error(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        said.push(cause.to_string());
        if cause.is::<ExplainedError>() {
            break;
        }
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn what_is_explained_is_not_said_again() {
        let inner = nats::BusError::unavailable("IO error: refused: refused");
        let explained = ExplainedError::new("no broker answers at x (refused); start it", inner);
        let error = Err::<(), _>(explained).context("role index").unwrap_err();
        assert_eq!(describe_error(&error), "role index: no broker answers at x (refused); start it");
        assert!(error.chain().any(<dyn std::error::Error>::is::<nats::BusError>), "the cause is still known");
    }
}
