//! What waits for its time, by the records of the buckets `media` and `assets`.

use std::collections::HashMap;

use nats::reader::StreamEntry;
use schemas::{KvRecord, document, ids::MediaId, media, subjects};

/// A removed medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemovedMedium {
    /// Unix time in milliseconds at which the broker stored its tombstone.
    pub(super) since_ms: u64,
    /// True once work on it is known to be ended.
    pub(super) is_quiet: bool,
    /// True while its owner may restore it.
    pub(super) is_restorable: bool,
    /// Which removal it is: after a restoration time begins anew.
    pub(super) removal_count: u32,
}

/// Media by what is to be done about them; times are the broker's, as Unix time in milliseconds.
#[derive(Debug, Default)]
pub(super) struct PendingPurges {
    /// Removed, and not purged yet.
    pub(super) removed: HashMap<MediaId, RemovedMedium>,
    /// Purged since then; late writers may have put something into the store.
    pub(super) purged: HashMap<MediaId, u64>,
    /// Rejected since then, with a source.
    pub(super) rejected: HashMap<MediaId, u64>,
    /// With replaced encodes, the oldest since then.
    pub(super) superseded: HashMap<MediaId, u64>,
}

impl PendingPurges {
    /// Takes in a change of a document.
    pub(super) fn apply_document(&mut self, entry: &StreamEntry) {
        let Some(media_id) = parse_media_id(entry, document::MediaDocumentRecord::BUCKET) else { return };
        if is_purge_mark(entry) {
            self.removed.remove(&media_id);
            self.purged.insert(media_id, entry.stored_at_ms);
            return;
        }
        let Ok((_, document)) =
            nats::decode_record::<document::MediaDocumentRecord>(&entry.subject, &entry.payload)
        else {
            return;
        };
        if !document.is_removed() {
            // Restored; another removal begins anew.
            self.removed.remove(&media_id);
            return;
        }
        let document::MediaDocumentRecord { is_restorable, removal_count, .. } = document;
        let fresh =
            RemovedMedium { since_ms: entry.stored_at_ms, is_quiet: false, is_restorable, removal_count };
        let known = self.removed.entry(media_id).or_insert(fresh);
        if known.removal_count == removal_count {
            known.is_restorable = is_restorable;
        } else {
            // The restoration in between is in no entry any more: a bucket keeps the newest one.
            *known = fresh;
        }
    }

    /// Takes in a change of what stages know.
    pub(super) fn apply_asset(&mut self, entry: &StreamEntry) {
        let Some(media_id) = parse_media_id(entry, media::MediaRecord::BUCKET) else { return };
        let found = nats::decode_record::<media::MediaRecord>(&entry.subject, &entry.payload);
        let asset = found.ok().map(|(_, asset)| asset).filter(|asset| !asset.is_removed());
        let has_source = asset.as_ref().is_some_and(|asset| {
            asset.status == media::MediaStatus::Rejected && asset.source_removed_at_ms.is_none()
        });
        let superseded = asset.iter().flat_map(|asset| &asset.superseded);
        match superseded.map(|encode| encode.superseded_at_ms).min() {
            Some(oldest_ms) => drop(self.superseded.insert(media_id, oldest_ms)),
            None => drop(self.superseded.remove(&media_id)),
        }
        if has_source && !is_purge_mark(entry) {
            self.rejected.entry(media_id).or_insert(entry.stored_at_ms);
        } else {
            self.rejected.remove(&media_id);
        }
    }
}

/// Those of `known` whose time was `age_ms` before `now_ms` or earlier.
pub(super) fn find_due<T>(
    known: &HashMap<MediaId, T>,
    since_ms: impl Fn(&T) -> u64,
    age_ms: u64,
    now_ms: u64,
) -> Vec<MediaId> {
    let is_due = |value: &T| since_ms(value).saturating_add(age_ms) <= now_ms;
    known.iter().filter(|(_, value)| is_due(value)).map(|(media_id, _)| *media_id).collect()
}

fn parse_media_id(entry: &StreamEntry, bucket: &str) -> Option<MediaId> {
    entry.subject.strip_prefix(&subjects::kv_subject(bucket, ""))?.parse().ok()
}

/// True for what a purge leaves.
fn is_purge_mark(entry: &StreamEntry) -> bool {
    entry.headers.get("KV-Operation").is_some()
}
