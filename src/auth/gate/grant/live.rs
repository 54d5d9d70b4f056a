//! Sessions in memory: good until their grant ends or somebody says otherwise.
//!
//! Limits: so many sessions; when there are more, those whose grant ended go first, and what still does not fit is not kept.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use schemas::ids::{MediaId, PlaybackId};

/// What memory says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It plays.
    Good,
    /// It plays another medium.
    Elsewhere,
    /// It has to be looked up; a grant given before lasts until this Unix time in milliseconds, 0 when none is known.
    Due(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    media_id: MediaId,
    until_ms: u64,
    again_ms: u64,
}

/// The sessions.
#[derive(Debug)]
pub(super) struct Live {
    entries: Mutex<HashMap<PlaybackId, Entry>>,
    max: usize,
    generation: AtomicU64,
    following: AtomicBool,
}

impl Live {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: Mutex::default(),
            max,
            generation: AtomicU64::new(0),
            following: AtomicBool::new(false),
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<PlaybackId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look(&self, playback_id: PlaybackId, media_id: MediaId, now_ms: u64) -> Look {
        if !self.following.load(Ordering::Acquire) {
            return Look::Due(0);
        }
        match self.entries().get(&playback_id) {
            Some(entry) if entry.media_id != media_id => Look::Elsewhere,
            Some(entry) if now_ms < entry.again_ms.min(entry.until_ms) => Look::Good,
            Some(entry) => Look::Due(entry.until_ms),
            None => Look::Due(0),
        }
    }

    /// Counts what was forgotten: whoever looks something up notes it first, and keeps nothing when it changed meanwhile.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Keeps a session until `until_ms`, to be looked up again at `again_ms`.
    pub(super) fn put(
        &self,
        generation: u64,
        playback_id: PlaybackId,
        media_id: MediaId,
        (until_ms, again_ms): (u64, u64),
    ) {
        let mut entries = self.entries();
        // Under the lock: a revocation that comes now finds the entry.
        if self.generation() != generation {
            return;
        }
        if entries.len() >= self.max && !entries.contains_key(&playback_id) {
            entries.retain(|_, entry| entry.until_ms > until_ms.saturating_sub(1).min(again_ms));
            if entries.len() >= self.max {
                return;
            }
        }
        entries.insert(playback_id, Entry { media_id, until_ms, again_ms });
    }

    pub(super) fn forget(&self, playback_id: PlaybackId) {
        let mut entries = self.entries();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.remove(&playback_id);
    }

    pub(super) fn forget_media(&self, media_id: MediaId) {
        let mut entries = self.entries();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.retain(|_, entry| entry.media_id != media_id);
    }

    pub(super) fn clear(&self) {
        let mut entries = self.entries();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.clear();
    }

    /// Only who hears of revocations may answer from memory.
    pub(super) fn follow(&self, following: bool) {
        self.clear();
        self.following.store(following, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PlaybackId = PlaybackId::from_bytes([1; 16]);
    const TWO: PlaybackId = PlaybackId::from_bytes([2; 16]);
    const FILM: MediaId = MediaId::from_bytes([7; 16]);
    const OTHER: MediaId = MediaId::from_bytes([8; 16]);

    fn live() -> Live {
        let live = Live::new(1);
        live.follow(true);
        live
    }

    #[test]
    fn memory_answers_until_the_end_and_for_one_medium() {
        let live = live();
        assert_eq!(live.look(ONE, FILM, 0), Look::Due(0));
        live.put(live.generation(), ONE, FILM, (100, 80));
        assert_eq!(live.look(ONE, FILM, 79), Look::Good);
        assert_eq!(live.look(ONE, OTHER, 79), Look::Elsewhere);
        assert_eq!(live.look(ONE, FILM, 80), Look::Due(100));
        live.forget(ONE);
        assert_eq!(live.look(ONE, FILM, 0), Look::Due(0));
    }

    #[test]
    fn what_was_looked_up_before_a_revocation_is_not_kept() {
        let live = live();
        let generation = live.generation();
        live.forget(ONE);
        live.put(generation, ONE, FILM, (100, 80));
        assert_eq!(live.look(ONE, FILM, 0), Look::Due(0));
    }

    #[test]
    fn a_changed_gate_forgets_its_medium() {
        let live = live();
        live.put(live.generation(), ONE, FILM, (100, 80));
        live.forget_media(OTHER);
        assert_eq!(live.look(ONE, FILM, 0), Look::Good);
        live.forget_media(FILM);
        assert_eq!(live.look(ONE, FILM, 0), Look::Due(0));
    }

    #[test]
    fn memory_is_bounded_and_silent_without_a_follower() {
        let live = live();
        live.put(live.generation(), ONE, FILM, (100, 80));
        live.put(live.generation(), TWO, FILM, (90, 70));
        assert_eq!(live.look(TWO, FILM, 0), Look::Due(0), "full");
        live.put(live.generation(), TWO, FILM, (200, 180));
        assert_eq!(live.look(TWO, FILM, 0), Look::Good, "the first is over by then");
        live.follow(false);
        live.put(live.generation(), ONE, FILM, (100, 80));
        assert_eq!(live.look(ONE, FILM, 0), Look::Due(0));
    }
}
