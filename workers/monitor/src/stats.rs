//! What a poll of the broker found, before it is shown.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one poll found.
#[derive(Debug, Clone, Default)]
pub(crate) struct PollResult {
    pub(crate) streams: Vec<StreamStats>,
    pub(crate) durables: Vec<DurableStats>,
    pub(crate) dead_letters: BTreeMap<String, u64>,
    pub(crate) audit_lag_events: u64,
    pub(crate) audit_lag_seconds: f64,
    /// What could not be read, and why; the rest of the poll counts.
    pub(crate) unread: Vec<String>,
}

/// State of one stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamStats {
    /// Its name.
    pub stream: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Its limit in bytes, if it has one.
    pub limit_bytes: Option<u64>,
    /// Whether it discards its oldest messages rather than refuse new ones when it is full.
    #[serde(skip)]
    pub discards_old: bool,
    /// Share of the limit that is used.
    pub fill_ratio: f64,
    /// Its oldest sequence.
    pub first_sequence: u64,
    /// Its newest sequence, which counts everything ever appended.
    pub last_sequence: u64,
}

/// State of one durable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DurableStats {
    /// Stream it reads.
    pub stream: String,
    /// Its name.
    pub durable: String,
    /// Messages not yet delivered.
    pub pending: u64,
    /// Messages delivered and not yet acknowledged.
    pub unacknowledged: u64,
    /// How many there may be of these; 0 for any number.
    pub unacknowledged_limit: u64,
    /// Of these, how many were delivered more than once.
    pub redelivered: u64,
    /// Pull requests that wait for a message.
    pub waiting_pulls: u64,
    /// Age in seconds of the oldest message that is not acknowledged; 0 when there is none.
    pub oldest_age_seconds: f64,
}
