//! Sessions in memory: good until their grant ends or somebody says otherwise.

use std::ops::Deref;

use nats::invalidating_cache::InvalidatingCache;
use schemas::{
    gate::PlaybackCredential,
    ids::{MediaId, PlaybackId},
};

/// What memory says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CachedSessionStatus {
    /// It plays.
    Good,
    /// It plays another medium.
    Elsewhere,
    /// It has to be looked up; a grant given before lasts until this Unix time in milliseconds, 0 when none is known.
    Due(u64),
}

/// What is known of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct CachedSession {
    pub(super) media_id: MediaId,
    /// When its grant ends, as Unix time in milliseconds.
    pub(super) until_ms: u64,
    /// When it has to be looked up again.
    pub(super) again_ms: u64,
    /// The credential it ends with.
    pub(super) opener: Option<PlaybackCredential>,
}

/// The sessions.
#[derive(Debug)]
pub(super) struct SessionCache(InvalidatingCache<PlaybackId, CachedSession>);

impl Deref for SessionCache {
    type Target = InvalidatingCache<PlaybackId, CachedSession>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl SessionCache {
    /// Room for at most `count_max` sessions.
    pub(super) fn new(count_max: usize) -> Self {
        Self(InvalidatingCache::new(count_max))
    }

    pub(super) fn session_status(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
        now_ms: u64,
    ) -> CachedSessionStatus {
        match self.get(&playback_id) {
            Some(entry) if entry.media_id != media_id => CachedSessionStatus::Elsewhere,
            Some(entry) if now_ms < entry.again_ms.min(entry.until_ms) => CachedSessionStatus::Good,
            Some(entry) => CachedSessionStatus::Due(entry.until_ms),
            None => CachedSessionStatus::Due(0),
        }
    }

    /// Keeps a session that was looked up at `generation`; those whose grant ends before it has to be looked up again make room.
    pub(super) fn insert_session(&self, generation: u64, playback_id: PlaybackId, entry: CachedSession) {
        let soon_ms = entry.until_ms.saturating_sub(1).min(entry.again_ms);
        // Only what ends before this one makes room: otherwise a full memory would look up what still plays.
        self.insert(generation, playback_id, entry, |other| other.until_ms <= soon_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PlaybackId = PlaybackId::from_bytes([1; 16]);
    const TWO: PlaybackId = PlaybackId::from_bytes([2; 16]);
    const FILM: MediaId = MediaId::from_bytes([7; 16]);
    const OTHER: MediaId = MediaId::from_bytes([8; 16]);

    fn live() -> SessionCache {
        let live = SessionCache::new(1);
        live.set_following(true);
        live
    }

    fn entry(until_ms: u64, again_ms: u64) -> CachedSession {
        CachedSession { media_id: FILM, until_ms, again_ms, opener: None }
    }

    #[test]
    fn memory_answers_until_the_end_and_for_one_medium() {
        let live = live();
        assert_eq!(live.session_status(ONE, FILM, 0), CachedSessionStatus::Due(0));
        live.insert_session(live.generation(), ONE, entry(100, 80));
        assert_eq!(live.session_status(ONE, FILM, 79), CachedSessionStatus::Good);
        assert_eq!(live.session_status(ONE, OTHER, 79), CachedSessionStatus::Elsewhere);
        assert_eq!(live.session_status(ONE, FILM, 80), CachedSessionStatus::Due(100));
        live.remove(&ONE);
        assert_eq!(live.session_status(ONE, FILM, 0), CachedSessionStatus::Due(0));
    }

    #[test]
    fn a_session_that_is_over_makes_room() {
        let live = live();
        live.insert_session(live.generation(), ONE, entry(100, 80));
        live.insert_session(live.generation(), TWO, entry(200, 180));
        assert_eq!(live.session_status(TWO, FILM, 0), CachedSessionStatus::Good, "the first is over by then");
        let full = self::live();
        full.insert_session(full.generation(), ONE, entry(100, 80));
        full.insert_session(full.generation(), TWO, entry(90, 70));
        assert_eq!(full.session_status(TWO, FILM, 0), CachedSessionStatus::Due(0), "the first is not");
    }
}
