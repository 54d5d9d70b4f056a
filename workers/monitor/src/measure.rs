//! The pure core: what a subject and a consumer's state amount to.

use std::collections::{BTreeMap, BTreeSet};

use nats::dead_letter::DeadSubject;
use schemas::subjects::{self, ADVISORY_PREFIX};

/// The label value of everything a family does not count by name.
pub(crate) const OTHER: &str = "other";

/// Kinds of advisories that are counted by name.
pub(crate) const ADVISORIES: [&str; 16] = [
    "api",
    "consumer_created",
    "consumer_deleted",
    "consumer_leader_elected",
    "consumer_max_deliveries",
    "consumer_msg_naked",
    "consumer_msg_terminated",
    "consumer_quorum_lost",
    "domain_leader_elected",
    "server_out_of_storage",
    "server_removed",
    "stream_created",
    "stream_deleted",
    "stream_leader_elected",
    "stream_quorum_lost",
    "stream_updated",
];

/// Type of an event, such as `media.stored`; `None` when the subject is no event.
pub(crate) fn event_type(subject: &str) -> Option<&str> {
    subjects::parse_event_subject(subject)?;
    let (_, rest) = subject.split_once('.')?;
    rest.rsplit_once('.').map(|(kind, _)| kind)
}

/// Kind of the job a queued part belongs to.
pub(crate) fn task_kind(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Kind of an advisory as a label: the first two tokens behind the prefix.
pub(crate) fn advisory_kind(subject: &str) -> String {
    let rest = subject.strip_prefix(ADVISORY_PREFIX).unwrap_or_default();
    let mut tokens = rest.split('.');
    let first = tokens.next().unwrap_or_default().to_ascii_lowercase();
    if first == "api" {
        return first;
    }
    let second = tokens.next().unwrap_or_default().to_ascii_lowercase();
    let kind = format!("{first}_{second}");
    // The server names one thing by two words.
    if kind == "stream_modified" { "stream_updated".into() } else { kind }
}

/// Letters about which nobody did anything yet, by stage; `first_sequence` is that of the oldest there is.
pub(crate) fn count_waiting_letters(
    subjects: &[(String, usize)],
    first_sequence: u64,
) -> BTreeMap<String, u64> {
    let mut waiting = BTreeMap::<String, u64>::new();
    let mut settled = BTreeSet::new();
    for (subject, count) in subjects {
        match DeadSubject::parse(subject) {
            DeadSubject::Letter { stage } => *waiting.entry(stage.to_owned()).or_default() += *count as u64,
            // Of a letter that is gone, or about which something was done twice.
            DeadSubject::Mark { sequence, .. } if sequence < first_sequence => {}
            DeadSubject::Mark { stage, sequence, .. } => _ = settled.insert((stage, sequence)),
        }
    }
    for (stage, _) in settled {
        if let Some(count) = waiting.get_mut(stage) {
            *count = count.saturating_sub(1);
        }
    }
    waiting.retain(|_, count| *count > 0);
    waiting
}

/// At most `max` counts, [`OTHER`] among them, which holds what the rest amounts to; the first names in order are kept.
pub(crate) fn limit_series(counts: BTreeMap<String, u64>, max: usize) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::from([(OTHER.to_owned(), 0)]);
    for (name, count) in counts {
        let is_named = named.contains_key(&name) || named.len() < max;
        *named.entry(if is_named { name } else { OTHER.to_owned() }).or_default() += count;
    }
    named
}

/// Share of a limit that is used, from 0; 0 without a limit.
pub(crate) fn fill_ratio(used: u64, limit: Option<u64>) -> f64 {
    match limit {
        Some(limit) if limit > 0 => used as f64 / limit as f64,
        _ => 0.0,
    }
}

/// Age in seconds of something stored at `stored_at_ms`; never negative, clocks differ.
pub(crate) fn age_seconds(now_ms: u64, stored_at_ms: u64) -> f64 {
    now_ms.saturating_sub(stored_at_ms) as f64 / 1_000.0
}
