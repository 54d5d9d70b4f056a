//! Replaying: the stored lines, verbatim, from a number or a time on.

use std::str::FromStr;

use bytes::Bytes;
use futures::Stream;
use nats::{Bus, ReaderStart, StreamReader};
use schemas::subjects;
use serde::Deserialize;

use crate::AuditError;

/// Largest difference between the clocks of two brokers, in milliseconds.
const CLOCK_SKEW_MS_MAX: u64 = 60_000;

/// The texts that [`ReplayFilter`] reads, as a regular expression.
pub const FILTER_PATTERN: &str = r"^(audit\.)?(>|(\*|[a-z0-9_]{1,32})(\.(>|\*|[a-z0-9_]{1,32}))?)$";

/// Which records to replay, as a subject filter inside AUDIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayFilter(String);

impl Default for ReplayFilter {
    fn default() -> Self {
        Self(subjects::AUDIT_ALL.into())
    }
}

impl FromStr for ReplayFilter {
    type Err = AuditError;

    /// Reads `media`, `media.stored`, `media.*`, `*.failed`, `>` or `*`, each with or without `audit.` in front.
    fn from_str(text: &str) -> Result<Self, AuditError> {
        let malformed = || AuditError::Filter { filter: text.chars().take(64).collect() };
        let plain = text.strip_prefix("audit.").unwrap_or(text);
        let word = |token: &str| {
            let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            token == "*" || (!token.is_empty() && token.len() <= 32 && token.chars().all(letters))
        };
        match plain.split('.').collect::<Vec<_>>().as_slice() {
            [">" | "*"] => Ok(Self::default()),
            [entity] | [entity, ">"] if word(entity) => Ok(Self(subjects::audit_subject(entity, "*"))),
            [entity, verb] if word(entity) && word(verb) => Ok(Self(subjects::audit_subject(entity, verb))),
            _ => Err(malformed()),
        }
    }
}

/// What to replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayQuery {
    /// First record, from 1; a later `since` wins.
    pub from: Option<u64>,
    /// Only events stored at or after this Unix time in milliseconds.
    pub since_ms: Option<u64>,
    /// Only events stored at or before this Unix time in milliseconds; the replay ends behind it.
    pub until_ms: Option<u64>,
    /// Which records.
    pub filter: ReplayFilter,
    /// True to go on with new records instead of ending at the newest one.
    pub follow: bool,
}

/// One replayed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayedRecord {
    /// Its number.
    pub n: u64,
    /// Its line as stored, without a line end.
    pub line: Bytes,
}

#[derive(Deserialize)]
struct StoredAtField {
    stored_at: jiff::Timestamp,
}

struct RecordReplay {
    reader: StreamReader,
    query: ReplayQuery,
}

/// Replays stored lines in order. The stream ends at the newest record of the moment it began, or never with `follow`.
///
/// What is no record has no time, and is left out when one was asked for.
///
/// # Errors
/// [`AuditError::Bus`] when the broker does not answer.
pub async fn replay_records(
    bus: &Bus,
    query: ReplayQuery,
) -> Result<impl Stream<Item = Result<ReplayedRecord, AuditError>> + Send + use<>, AuditError> {
    // AUDIT stores a record after EVENTS stored its event, so nothing wanted lies before this start, even when the leaders
    // of the two streams are on hosts with different clocks.
    let start = match (query.from, query.since_ms) {
        (Some(from), _) => ReaderStart::Sequence(from.max(1)),
        (None, Some(since_ms)) => ReaderStart::Time(since_ms.saturating_sub(CLOCK_SKEW_MS_MAX)),
        (None, None) => ReaderStart::All,
    };
    let config = nats::reader::ReaderConfig::new(subjects::AUDIT, vec![query.filter.0.clone()], start);
    let reader = bus.open_reader(config).await?;
    let replay = RecordReplay { reader, query };
    Ok(futures::stream::try_unfold(replay, |mut replay| async move {
        Ok(replay.next_record().await?.map(|replayed| (replayed, replay)))
    }))
}

impl RecordReplay {
    async fn next_record(&mut self) -> Result<Option<ReplayedRecord>, AuditError> {
        loop {
            let entry = if self.query.follow {
                self.reader.next().await?
            } else {
                let Some(entry) = self.reader.next_pending().await? else { return Ok(None) };
                entry
            };
            if self.query.since_ms.is_some() || self.query.until_ms.is_some() {
                // What is no record has no time; a note in the log steps over it.
                let Ok(record) = serde_json::from_slice::<StoredAtField>(&entry.payload) else { continue };
                let stored_at_ms = u64::try_from(record.stored_at.as_millisecond()).unwrap_or(0);
                if self.query.until_ms.is_some_and(|until_ms| stored_at_ms > until_ms) {
                    return Ok(None);
                }
                if self.query.since_ms.is_some_and(|since_ms| stored_at_ms < since_ms) {
                    continue;
                }
            }
            return Ok(Some(ReplayedRecord { n: entry.sequence, line: entry.payload }));
        }
    }
}
