//! What clients were answered about their uploads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use rand::{RngExt, rngs::StdRng};

use crate::tally::Tally;

/// Uploads by what their clients know of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    tally: Arc<Tally>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Media that an answer named, and when.
    accepted: BTreeMap<String, Instant>,
    /// Requests without an answer: whether a medium came of them is unknown.
    unanswered: u64,
    refused: u64,
    /// Media that an event said to be ready.
    ready: Vec<String>,
    /// Media of which an event said that they are ready, rejected or failed; also such whose answer is still on its way.
    ended: BTreeSet<String>,
}

impl Ledger {
    pub(crate) fn new(tally: Arc<Tally>) -> Self {
        Self { tally, entries: Mutex::default() }
    }

    /// An answer named this medium.
    pub(crate) fn accept(&self, media_id: &str, asked_at: Instant) {
        self.entries.lock().accepted.insert(media_id.to_owned(), asked_at);
    }

    /// An upload was refused.
    pub(crate) fn refuse(&self) {
        self.entries.lock().refused += 1;
    }

    /// An upload got no answer.
    pub(crate) fn miss_answer(&self) {
        self.entries.lock().unanswered += 1;
    }

    /// An event was received; each medium ends once.
    pub(crate) fn take_event(&self, kind: &str, media_id: &str) {
        if !["media.ready", "media.rejected", "job.failed", "job.cancelled"].contains(&kind) {
            return;
        }
        let mut entries = self.entries.lock();
        let is_new = entries.ended.insert(media_id.to_owned());
        if is_new && kind == "media.ready" {
            entries.ready.push(media_id.to_owned());
            if let Some(asked_at) = entries.accepted.get(media_id) {
                self.tally.count("upload until ready", asked_at.elapsed());
            }
        }
    }

    /// Any medium that is ready.
    pub(crate) fn any_ready(&self, random: &mut StdRng) -> Option<String> {
        let entries = self.entries.lock();
        let count = entries.ready.len();
        (count > 0).then(|| entries.ready[random.random_range(0..count)].clone())
    }

    /// How many have ended.
    pub(crate) fn ended_count(&self) -> usize {
        self.entries.lock().ended.len()
    }

    /// Media that were accepted; how many uploads were refused; how many got no answer.
    pub(crate) fn answers(&self) -> (BTreeSet<String>, u64, u64) {
        let entries = self.entries.lock();
        (entries.accepted.keys().cloned().collect(), entries.refused, entries.unanswered)
    }
}
