//! What can go wrong in the audit stage.

/// An error of the audit stage. All but [`AuditError::Filter`] and [`AuditError::Malformed`] end a term; the next one
/// tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The bus failed.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// Another writer appended first; this one has to stop.
    #[error("another writer appended record {n} first")]
    Fenced {
        /// Number of the record this writer tried to append.
        n: u64,
    },
    /// The connection was made anew; what was in flight may or may not be stored.
    #[error("the broker connection was interrupted")]
    Interrupted,
    /// The broker refused a record, for example because AUDIT is full.
    #[error("the broker refused record {n}: {reason}")]
    Refused {
        /// Number of the record.
        n: u64,
        /// The broker's words.
        reason: String,
    },
    /// EVENTS was made anew: the log is of another stream, and nothing may follow it.
    #[error(
        "EVENTS was made anew (it is {found} now, the log is of {audited}): nothing is appended; replay the log to a file, verify \
         it, and delete the stream AUDIT to begin a new one"
    )]
    SourceReset {
        /// The life of EVENTS now.
        found: String,
        /// The one that the log is of.
        audited: String,
    },
    /// EVENTS ends before the last audited event: the server that answers is not up to date, or EVENTS was restored from an older
    /// copy.
    #[error("EVENTS ends at {events_last}, but the log has audited up to {audited}")]
    SourceBehind {
        /// Last sequence of EVENTS.
        events_last: u64,
        /// Sequence the last record names.
        audited: u64,
    },
    /// The end of the log holds no record that continues another, so nothing may follow it.
    #[error("the messages of AUDIT from {n} on are no records, too many for a note to step over")]
    Foreign {
        /// Number of the first message that was looked at.
        n: u64,
    },
    /// A line that was asked for is no record.
    #[error("record {n} of AUDIT can't be read")]
    Malformed {
        /// Number of the record.
        n: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record can't be written as JSON.
    #[error("record {n} can't be written as JSON")]
    Unencodable {
        /// Number of the record.
        n: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A filter that no record can match.
    #[error(
        "the filter {filter:?} matches no records: use a class such as media, a type such as media.ready or a pattern such as \
         *.failed; {known}"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// The classes that there are, or the actions of the class that was named.
        known: String,
    },
}
