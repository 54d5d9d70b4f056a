//! What can go wrong on the bus, and what that says about the work.

use async_nats::jetstream::{
    self,
    context::{PublishError, PublishErrorKind},
};
use schemas::fault::{FailureClass, error_chain};

/// Server error codes that say that there is no room: account, server, memory or disk.
const FULL: [u64; 4] = [10_002, 10_023, 10_028, 10_047];
/// Server error code: the stream could not store it; the words say why.
const STORE_FAILED: u64 = 10_077;
/// Server error codes of a request that meets another one on its way through the cluster (the same message, a write of the same
/// subject, a batch whose leader changed): once that has ended, the same request has an answer that counts.
const IN_PROCESS: [u64; 3] = [10_158, 10_164, 10_176];
/// Server error codes that say that JetStream is off: for the account, and for the server.
const JETSTREAM_OFF: [u64; 2] = [10_039, 10_076];
/// Server error codes with status 500 that judge the configuration in the request, which waiting does not change.
const CONFIG_REFUSED: [u64; 4] = [10_012, 10_049, 10_052, 10_069];

/// Why a broker that answers can't be used until somebody changes it. Stands inside [`BusError::Unavailable`]: it may be changed
/// while a role waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerObstacle {
    /// The server, or the account of this user, has no JetStream.
    #[error(
        "it has no JetStream: start nats-server with --jetstream, or with a `jetstream` block in its configuration (as in \
         nats/server.conf), and enable it for the account"
    )]
    NoJetStream,
    /// The user of this role lacks a permission.
    #[error(
        "it does not permit the role {role} what it needs ({refusal}): give its user the permissions of nats/permissions.conf"
    )]
    Forbidden {
        /// Whose user it is.
        role: &'static str,
        /// The broker's words, which name the subject.
        refusal: String,
    },
}

/// An error of the bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
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
    /// A stream, a bucket, the account or the broker's disk has no room; try again once there is.
    #[error("no room for {what}: {reason}")]
    Full {
        /// Subject that should have been stored.
        what: String,
        /// The broker's words, which name the limit.
        reason: String,
    },
    /// The broker refused for a reason that trying again does not change.
    #[error("the broker refused {what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// The broker's words.
        reason: String,
    },
    /// The broker does not let this role in; somebody has to change its seed or the broker's users.
    #[error("the broker refuses the credentials: {reason}")]
    Credentials {
        /// The broker's words.
        reason: String,
    },
    /// The stream is another one than the position belongs to: it was deleted and made anew. What was derived from it has to
    /// begin anew, too.
    #[error("the stream {stream} was made anew: positions in the one before it mean nothing in it")]
    Reset {
        /// Stream name.
        stream: String,
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

impl BusError {
    /// Wraps a client error as [`BusError::Unavailable`].
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }

    /// What somebody has to change about the broker before it can be used, where that is known.
    pub fn obstacle(&self) -> Option<&BrokerObstacle> {
        match self {
            Self::Unavailable(source) => source.downcast_ref(),
            _ => None,
        }
    }

    /// True when trying again later may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict { .. } | Self::Full { .. })
    }

    /// What it says about the work that ran into it.
    pub const fn failure_class(&self) -> FailureClass {
        match self {
            Self::Unavailable(_)
            | Self::Conflict { .. }
            | Self::Full { .. }
            | Self::Credentials { .. }
            | Self::Reset { .. }
            | Self::Topology { .. } => FailureClass::Outage,
            Self::Refused { .. } => FailureClass::Fault,
            Self::Undecodable { .. }
            | Self::Unencodable { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. } => FailureClass::Reject,
        }
    }

    /// True when it passes by itself and says nothing about the work: never counted as a try.
    pub const fn is_outage(&self) -> bool {
        matches!(self.failure_class(), FailureClass::Outage)
    }

    /// A stable code for events, records and people.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "broker_unavailable",
            Self::Full { .. } => "broker_full",
            Self::Conflict { .. } => "record_conflict",
            Self::Undecodable { .. } => "message_undecodable",
            Self::Unencodable { .. } => "message_unencodable",
            Self::TooLarge { .. } => "message_too_large",
            Self::Refused { .. } => "broker_refused",
            Self::Credentials { .. } => "broker_credentials",
            Self::Reset { .. } => "stream_reset",
            Self::Topology { .. } => "broker_topology",
            Self::Invalid { .. } => "settings_invalid",
        }
    }

    /// What a publish to `subject` that was not confirmed means.
    pub(crate) fn from_publish_error(subject: &str, error: PublishError) -> Self {
        if is_publish_transient(&error) {
            return Self::unavailable(error);
        }
        match publish_answer(&error) {
            Some(answer) => Self::from_server_error(subject, answer),
            None => Self::Refused { what: subject.to_owned(), reason: error_chain(&error) },
        }
    }

    /// What an error in the broker's answer means.
    pub(crate) fn from_server_error(subject: &str, answer: &jetstream::Error) -> Self {
        let (what, reason) = (subject.to_owned(), error_chain(answer));
        let code = answer.error_code().0;
        let has_no_room = FULL.contains(&code)
            || (code == STORE_FAILED
                && ["maximum bytes", "maximum messages exceeded", "no space", "insufficient"]
                    .iter()
                    .any(|words| reason.contains(words)));
        // Before the status is looked at: most of these codes come with 5xx, which would say that the broker is
        // away.
        if has_no_room {
            return Self::Full { what, reason };
        }
        if JETSTREAM_OFF.contains(&code) {
            return Self::unavailable(BrokerObstacle::NoJetStream);
        }
        if is_server_unable(answer) {
            return Self::unavailable(reason);
        }
        Self::Refused { what, reason }
    }
}

/// The broker's own words about a publish, where it answered.
fn publish_answer(error: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// True when nothing is known to be stored and the same publish may work in a moment.
pub(crate) fn is_publish_transient(error: &PublishError) -> bool {
    match error.kind() {
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::MaxAckPending => true,
        _ => publish_answer(error).is_some_and(|answer| {
            matches!(BusError::from_server_error("", answer), BusError::Unavailable(_))
        }),
    }
}

/// True when the server says nothing about the request but that it can't serve it now: no leader, an election, a store that is
/// damaged or closed until somebody repairs it, too much at once, or the same request still on its way.
fn is_server_unable(answer: &jetstream::Error) -> bool {
    let (status, code) = (answer.code(), answer.error_code().0);
    status == 429
        || (status >= 500 && !CONFIG_REFUSED.contains(&code))
        || IN_PROCESS.contains(&code)
        || (code == STORE_FAILED && !is_subject_taken(answer))
}

/// True when a stream of one message per subject has one on that subject.
pub(crate) fn is_subject_taken(answer: &jetstream::Error) -> bool {
    // A full stream has the same code: the words alone distinguish "was published before" from "no room".
    answer.error_code().0 == STORE_FAILED && answer.to_string().contains("per subject")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u64, err_code: u64, description: &str) -> jetstream::Error {
        serde_json::from_value(
            serde_json::json!({ "code": code, "err_code": err_code, "description": description }),
        )
        .unwrap()
    }

    #[test]
    fn what_the_broker_answers_says_whether_to_wait() {
        for (code, err_code, words, wanted) in [
            (503, 10_077, "maximum bytes exceeded", "broker_full"),
            (503, 10_077, "write KV_jobs/msgs/1.blk: no space left on device", "broker_full"),
            (503, 10_047, "insufficient storage resources available", "broker_full"),
            (503, 10_023, "insufficient resources", "broker_full"),
            (400, 10_002, "resource limits exceeded for account", "broker_full"),
            (503, 10_039, "JetStream not enabled for account", "broker_unavailable"),
            (503, 10_008, "JetStream system temporarily unavailable", "broker_unavailable"),
            (503, 10_077, "store is closed", "broker_unavailable"),
            (409, 10_158, "duplicate message id is in process", "broker_unavailable"),
            (400, 10_164, "wrong last sequence", "broker_unavailable"),
            (400, 10_176, "atomic publish batch is incomplete", "broker_unavailable"),
            (429, 10_210, "atomic publish too many inflight", "broker_unavailable"),
            (500, 10_009, "JetStream cluster can not handle request", "broker_unavailable"),
            (500, 10_194, "stream is offline: unsupported", "broker_unavailable"),
            (500, 10_052, "stream configuration invalid", "broker_refused"),
            (400, 10_054, "message size exceeds maximum allowed", "broker_refused"),
        ] {
            let error = BusError::from_server_error("$KV.jobs.x", &answer(code, err_code, words));
            assert_eq!(error.code(), wanted, "{words}");
            assert_eq!(error.is_outage(), wanted != "broker_refused", "{words}");
        }
        assert!(is_subject_taken(&answer(400, 10_077, "maximum messages per subject exceeded")));
        assert!(
            !is_subject_taken(&answer(503, 10_077, "maximum bytes exceeded")),
            "a full stream holds nothing of it"
        );
    }
}
