//! Replaying: the stored lines, verbatim, from a number or a time on.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::LazyLock,
};

use bytes::Bytes;
use futures::Stream;
use nats::{Bus, ReaderStart, StreamReader, reader::StreamEntry};
use schemas::{audit::NOTE, catalog, ids::MediaId, subjects};
use serde::Deserialize;

use crate::AuditError;

/// Largest difference between the clocks of two brokers, in milliseconds.
const CLOCK_SKEW_MS_MAX: u64 = 60_000;

/// Type of a record whose event has a subject that names none.
const UNREADABLE: &str = "unknown.unknown";

/// What every subject of AUDIT begins with; the type of the record follows.
const SUBJECT_PREFIX: &str = "audit.";

/// How much of a wrong filter an error repeats, in characters.
const FILTER_CHARS_SHOWN: usize = 64;

/// The texts that [`ReplayFilter`] reads, as a regular expression; which words there are is not in it.
pub const FILTER_PATTERN: &str = r"^(audit\.)?(>|(\*|[a-z0-9_]{1,32})(\.(>|\*|[a-z0-9_]{1,32}))?)$";

/// What records are of: every event of the catalog, notes, and events whose subject could not be read.
static RECORD_TYPES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let events = catalog::event_entries().into_iter().map(|entry| entry.name);
    events.chain([NOTE.to_owned(), UNREADABLE.to_owned()]).collect()
});

/// Which records to replay: all of a class, of an action, or of both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    class: Option<String>,
    action: Option<String>,
}

impl FromStr for ReplayFilter {
    type Err = AuditError;

    /// Reads `media`, `media.stored`, `media.*`, `*.failed`, `>` or `*`, each with or without `audit.` in front.
    ///
    /// A filter that no record can match is refused: it would look like a log in which nothing happened.
    fn from_str(text: &str) -> Result<Self, AuditError> {
        // `audit.note` is a type itself, not `note` with the stream's name in front.
        let plain = text.strip_prefix("audit.").unwrap_or(text);
        let readings = [plain, text].into_iter().filter_map(Self::parse_tokens);
        let known = readings.clone().find(Self::matches_any_type);
        known.ok_or_else(|| AuditError::Filter {
            filter: text.chars().take(FILTER_CHARS_SHOWN).collect(),
            known: describe_known_types(readings.filter_map(|filter| filter.class)),
        })
    }
}

impl ReplayFilter {
    fn parse_tokens(text: &str) -> Option<Self> {
        let (class, action) = text.split_once('.').unwrap_or((text, "*"));
        let is_any = |token: &str| matches!(token, "*" | ">");
        let is_word = |token: &str| !token.is_empty() && !token.contains(['*', '>', '.']);
        let read = |token: &str| {
            if is_any(token) { Some(None) } else { is_word(token).then(|| Some(token.to_owned())) }
        };
        // `>` stands for all that follows: nothing can stand behind it.
        if class == ">" && text != ">" {
            return None;
        }
        Some(Self { class: read(class)?, action: read(action)? })
    }

    fn matches_any_type(&self) -> bool {
        RECORD_TYPES.iter().any(|kind| self.matches_type(kind))
    }

    /// Whether records of the type `<class>.<action>` are among those that are wanted.
    fn matches_type(&self, kind: &str) -> bool {
        let (class, action) = kind.split_once('.').unwrap_or((kind, ""));
        let is_wanted =
            |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is_wanted(&self.class, class) && is_wanted(&self.action, action)
    }

    /// The subjects of the records inside AUDIT.
    fn subject(&self) -> String {
        if *self == Self::default() {
            return subjects::AUDIT_ALL.to_owned();
        }
        let token = |wanted: &Option<String>| wanted.clone().unwrap_or_else(|| "*".to_owned());
        subjects::audit_subject(&token(&self.class), &token(&self.action))
    }
}

/// What could have been meant: the actions of the first class that there is, else the classes.
fn describe_known_types(mut named: impl Iterator<Item = String>) -> String {
    let mut actions = BTreeMap::<&str, Vec<&str>>::new();
    for (class, action) in RECORD_TYPES.iter().filter_map(|kind| kind.split_once('.')) {
        actions.entry(class).or_default().push(action);
    }
    match named.find_map(|class| actions.get_key_value(class.as_str())) {
        Some((class, actions)) => format!("actions of {class} are {}", actions.join(", ")),
        None => format!("classes are {}", actions.into_keys().collect::<Vec<_>>().join(", ")),
    }
}

/// What to replay. All that is said has to be true of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayQuery {
    /// First record, from 1; a later `since` wins.
    pub from: Option<u64>,
    /// Last record; the replay ends with it, also one that follows.
    pub to: Option<u64>,
    /// Only events stored at or after this Unix time in milliseconds.
    pub since_ms: Option<u64>,
    /// Only events stored at or before this Unix time in milliseconds; the replay ends behind it.
    pub until_ms: Option<u64>,
    /// Which records.
    pub filter: ReplayFilter,
    /// Only records about media of this owner.
    pub owner: Option<String>,
    /// Only records about this medium.
    pub media_id: Option<MediaId>,
    /// Most records, from 1; the replay ends with the last of them, also one that follows.
    pub limit: Option<u64>,
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

/// What of a record decides whether it is wanted.
#[derive(Deserialize)]
struct RecordFacts {
    stored_at: jiff::Timestamp,
    owner: Option<String>,
    media_id: Option<String>,
}

struct RecordReplay {
    reader: StreamReader,
    query: ReplayQuery,
    /// Whether records of other types come, too, and are left out here.
    reads_all_types: bool,
    /// Records that may still be replayed; without a limit, none is counted.
    left: Option<u64>,
}

/// Replays stored lines in order. The stream ends at the newest record of the moment it began, or never with `follow`; in both cases
/// with the record `to`, or after `limit` records.
///
/// What is no record has no time, owner or medium, and is left out when one was asked for. The broker sends only the types that are
/// wanted; owner and medium are looked for in each of those, so a replay of little may read much.
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
    // Of a filtered stream that is followed nothing says that `to` has passed when nothing behind it is wanted.
    let reads_all_types = query.follow && query.to.is_some();
    let subject = if reads_all_types { subjects::AUDIT_ALL.to_owned() } else { query.filter.subject() };
    let config = nats::reader::ReaderConfig::new(subjects::AUDIT, vec![subject], start);
    let reader = bus.open_reader(config).await?;
    let is_empty = query.to.is_some_and(|to| to < query.from.unwrap_or(1));
    let left = if is_empty { Some(0) } else { query.limit };
    let replay = RecordReplay { reader, query, reads_all_types, left };
    Ok(futures::stream::try_unfold(replay, |mut replay| async move {
        Ok(replay.next_record().await?.map(|replayed| (replayed, replay)))
    }))
}

/// What becomes of a record that was read.
enum RecordFate {
    Replayed,
    LeftOut,
    /// Neither it nor any later one is wanted.
    End,
}

impl RecordReplay {
    async fn next_record(&mut self) -> Result<Option<ReplayedRecord>, AuditError> {
        while self.left != Some(0) {
            let entry = if self.query.follow {
                self.reader.next().await?
            } else {
                let Some(entry) = self.reader.next_pending().await? else { return Ok(None) };
                entry
            };
            let fate = self.judge_entry(&entry);
            if self.query.to.is_some_and(|to| entry.sequence >= to) {
                // Nothing is waited for behind it.
                self.left = Some(0);
            }
            match fate {
                RecordFate::End => return Ok(None),
                RecordFate::LeftOut => {}
                RecordFate::Replayed => {
                    self.left = self.left.map(|left| left.saturating_sub(1));
                    return Ok(Some(ReplayedRecord { n: entry.sequence, line: entry.payload }));
                }
            }
        }
        Ok(None)
    }

    fn judge_entry(&self, entry: &StreamEntry) -> RecordFate {
        let query = &self.query;
        if query.to.is_some_and(|to| entry.sequence > to) {
            return RecordFate::End;
        }
        let kind = entry.subject.strip_prefix(SUBJECT_PREFIX).unwrap_or_default();
        if self.reads_all_types && !query.filter.matches_type(kind) {
            return RecordFate::LeftOut;
        }
        let has_time = query.since_ms.is_some() || query.until_ms.is_some();
        if !has_time && query.owner.is_none() && query.media_id.is_none() {
            return RecordFate::Replayed;
        }
        // What is no record says none of this; a note in the log steps over it.
        let Ok(record) = serde_json::from_slice::<RecordFacts>(&entry.payload) else {
            return RecordFate::LeftOut;
        };
        let stored_at_ms = u64::try_from(record.stored_at.as_millisecond()).unwrap_or(0);
        if query.until_ms.is_some_and(|until_ms| stored_at_ms > until_ms) {
            return RecordFate::End;
        }
        let is_wanted = query.since_ms.is_none_or(|since_ms| stored_at_ms >= since_ms)
            && query.owner.as_ref().is_none_or(|owner| record.owner.as_ref() == Some(owner))
            && query.media_id.is_none_or(|wanted| record.media_id == Some(wanted.to_string()));
        if is_wanted { RecordFate::Replayed } else { RecordFate::LeftOut }
    }
}
