//! Who plays how much: the sessions of each client and of each wallet that this replica opened and that are used.
//!
//! An address is not a person: what was never played makes room first, and a session that plays ends for no other. Of a client so
//! many sessions wait for their first use at a time, and a newer one ends the oldest of them: nearly all are pages that were
//! closed. Those that were played only count towards a limit at which the newest is refused. A wallet is a person: once all of its
//! sessions were played, the one that lay idle longest ends.
//!
//! It is counted in memory, so that an opening costs no write more. Each replica counts those it opened, and sees only the use that
//! it serves itself; before a session ends, its record is asked whether another replica has played it (see
//! [`SessionLimiter::reinstate_session`]). What is not used is soon counted no more.
//!
//! Limits: [`SessionCaps`]; sessions that are used no more are searched for at most once in [`SEARCH_PAUSE_MS`].

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use parking_lot::Mutex;
use schemas::ids::PlaybackId;

/// How often all sessions are searched for those that are used no more, in milliseconds.
const SEARCH_PAUSE_MS: u64 = 1_000;

/// Most sessions at a time, and how long one counts that is not used.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionCaps {
    /// Of this replica.
    pub(super) total: usize,
    /// Of a client, never played.
    pub(super) waiting_per_client: usize,
    /// Of a client, played.
    pub(super) played_per_client: usize,
    /// Of a wallet.
    pub(super) per_wallet: usize,
    pub(super) unused_ms: u64,
    /// How long a wallet's session lies idle before a newer one of the same wallet may end it.
    pub(super) idle_ms: u64,
}

/// Whose sessions are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SessionHolder {
    /// All of one address, or of one IPv6 prefix.
    Client(IpAddr),
    /// All of one wallet.
    Wallet(String),
}

/// A session that has to end for a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DisplacedSession {
    pub(super) playback_id: PlaybackId,
    /// True for one that was played and lies idle, false for one that was never played.
    pub(super) was_played: bool,
    used_ms: u64,
    holders: Vec<SessionHolder>,
}

/// A session that is being opened, and those that have to end for it. Dropped before it is kept, also where the client went away, it
/// counts no more, and those that were not ended do again.
#[derive(Debug)]
pub(super) struct SessionAdmission<'a> {
    limiter: &'a SessionLimiter,
    /// `None` once it is kept.
    playback_id: Option<PlaybackId>,
    ending: VecDeque<DisplacedSession>,
}

impl<'a> SessionAdmission<'a> {
    pub(super) fn new(
        limiter: &'a SessionLimiter,
        playback_id: PlaybackId,
        ending: Vec<DisplacedSession>,
    ) -> Self {
        Self { limiter, playback_id: Some(playback_id), ending: ending.into() }
    }

    /// The next session that has to end, until it is said that it has.
    pub(super) fn next_ending(&self) -> Option<DisplacedSession> {
        self.ending.front().cloned()
    }

    /// The next session has ended, or counts otherwise.
    pub(super) fn note_ended(&mut self) {
        self.ending.pop_front();
    }

    /// The session is open.
    pub(super) fn keep(mut self) {
        self.playback_id = None;
    }
}

impl Drop for SessionAdmission<'_> {
    fn drop(&mut self) {
        if let Some(playback_id) = &self.playback_id {
            self.limiter.remove_session(playback_id);
        }
        // The oldest last, so that it is the first again.
        self.ending.drain(..).rev().for_each(|displaced| self.limiter.return_session(displaced));
    }
}

/// The sessions that this replica counts.
#[derive(Debug, Default)]
pub(super) struct SessionLimiter {
    state: Mutex<SessionLimiterState>,
}

#[derive(Debug, Default)]
struct SessionLimiterState {
    seats: HashMap<PlaybackId, CountedSession>,
    by_holder: HashMap<SessionHolder, HolderSessions>,
    searched_ms: u64,
}

/// One session.
#[derive(Debug)]
struct CountedSession {
    /// When it was opened or used last, as Unix time in milliseconds.
    used_ms: u64,
    is_played: bool,
    holders: Vec<SessionHolder>,
}

/// The sessions of one holder.
#[derive(Debug, Default)]
struct HolderSessions {
    /// Never played, oldest first.
    waiting: VecDeque<PlaybackId>,
    played: HashSet<PlaybackId>,
}

impl SessionLimiter {
    /// Counts a new session; answers those that have to end for it, or `None` when there is no room for another.
    pub(super) fn admit_session(
        &self,
        now_ms: u64,
        playback_id: PlaybackId,
        holders: Vec<SessionHolder>,
        caps: SessionCaps,
    ) -> Option<Vec<DisplacedSession>> {
        let mut state = self.state.lock();
        if state.is_full(&holders, caps) {
            state.remove_expired(now_ms, caps);
        }
        let mut ending = BTreeSet::new();
        for holder in &holders {
            ending.extend(state.find_surplus(holder, now_ms, caps)?);
        }
        if state.seats.len() - ending.len() >= caps.total.max(1) {
            return None;
        }
        let displaced = ending.iter().filter_map(|id| state.displace_session(id, now_ms, caps)).collect();
        state.insert_session(playback_id, CountedSession { used_ms: now_ms, is_played: false, holders });
        Some(displaced)
    }

    /// The session is used now.
    pub(super) fn record_use(&self, now_ms: u64, playback_id: &PlaybackId) {
        self.state.lock().mark_played(now_ms, playback_id);
    }

    /// Another replica has played a session that should have ended here: it goes on.
    pub(super) fn reinstate_session(&self, now_ms: u64, displaced: DisplacedSession) {
        let mut state = self.state.lock();
        let seat = CountedSession { used_ms: now_ms, is_played: true, holders: displaced.holders };
        state.insert_session(displaced.playback_id, seat);
    }

    /// A session that should have ended was not: it counts as it did.
    fn return_session(&self, displaced: DisplacedSession) {
        let DisplacedSession { playback_id, was_played, used_ms, holders } = displaced;
        let mut state = self.state.lock();
        let seat = CountedSession { used_ms, is_played: was_played, holders: holders.clone() };
        state.insert_session(playback_id, seat);
        // One that was never played was the oldest that waits, and is so again.
        for holder in holders.iter().filter(|_| !was_played) {
            if let Some(group) = state.by_holder.get_mut(holder) {
                group.waiting.rotate_right(1);
            }
        }
    }

    /// The session is over.
    pub(super) fn remove_session(&self, playback_id: &PlaybackId) {
        self.state.lock().remove_session(playback_id);
    }
}

impl SessionLimiterState {
    fn insert_session(&mut self, playback_id: PlaybackId, seat: CountedSession) {
        for holder in &seat.holders {
            let group = self.by_holder.entry(holder.clone()).or_default();
            if seat.is_played {
                group.played.insert(playback_id);
            } else {
                group.waiting.push_back(playback_id);
            }
        }
        self.seats.insert(playback_id, seat);
    }

    fn mark_played(&mut self, now_ms: u64, playback_id: &PlaybackId) {
        let Some(mut seat) = self.remove_session(playback_id) else { return };
        (seat.used_ms, seat.is_played) = (now_ms, true);
        self.insert_session(*playback_id, seat);
    }

    fn remove_session(&mut self, playback_id: &PlaybackId) -> Option<CountedSession> {
        let seat = self.seats.remove(playback_id)?;
        for holder in &seat.holders {
            if let Some(group) = self.by_holder.get_mut(holder) {
                group.played.remove(playback_id);
                group.waiting.retain(|id| id != playback_id);
                if group.len() == 0 {
                    self.by_holder.remove(holder);
                }
            }
        }
        Some(seat)
    }

    /// Takes a session's seat away; `None` when it was over already.
    fn displace_session(
        &mut self,
        playback_id: &PlaybackId,
        now_ms: u64,
        caps: SessionCaps,
    ) -> Option<DisplacedSession> {
        let seat = self.remove_session(playback_id)?;
        let CountedSession { used_ms, is_played, holders } = seat;
        let displaced =
            DisplacedSession { playback_id: *playback_id, was_played: is_played, used_ms, holders };
        (now_ms < used_ms.saturating_add(caps.unused_ms)).then_some(displaced)
    }

    /// True when a limit that refuses is reached.
    fn is_full(&self, holders: &[SessionHolder], caps: SessionCaps) -> bool {
        let is_full = |holder: &SessionHolder| {
            self.by_holder.get(holder).is_some_and(|group| match holder {
                SessionHolder::Client(_) => group.played.len() >= caps.played_per_client,
                SessionHolder::Wallet(_) => group.len() >= caps.per_wallet,
            })
        };
        self.seats.len() >= caps.total || holders.iter().any(is_full)
    }

    /// Forgets the sessions that are used no more.
    fn remove_expired(&mut self, now_ms: u64, caps: SessionCaps) {
        if now_ms < self.searched_ms.saturating_add(SEARCH_PAUSE_MS) {
            return;
        }
        self.searched_ms = now_ms;
        let is_over = |seat: &CountedSession| now_ms >= seat.used_ms.saturating_add(caps.unused_ms);
        let over: Vec<PlaybackId> =
            self.seats.iter().filter(|(_, seat)| is_over(seat)).map(|(id, _)| *id).collect();
        for id in over {
            self.remove_session(&id);
        }
    }

    /// The sessions of `holder` that are too many once another comes; `None` when none may end and there is no room.
    fn find_surplus(
        &self,
        holder: &SessionHolder,
        now_ms: u64,
        caps: SessionCaps,
    ) -> Option<Vec<PlaybackId>> {
        let Some(group) = self.by_holder.get(holder) else { return Some(Vec::new()) };
        if let SessionHolder::Client(_) = holder {
            let surplus = (group.waiting.len() + 1).saturating_sub(caps.waiting_per_client.max(1));
            let has_room = group.played.len() < caps.played_per_client.max(1);
            return has_room.then(|| group.waiting.iter().take(surplus).copied().collect());
        }
        let surplus = (group.len() + 1).saturating_sub(caps.per_wallet.max(1));
        let mut ending: Vec<PlaybackId> = group.waiting.iter().take(surplus).copied().collect();
        let used_ms = |id: &PlaybackId| self.seats.get(id).map(|seat| seat.used_ms);
        let is_idle = |used_ms: u64| now_ms >= used_ms.saturating_add(caps.idle_ms);
        let idle = group.played.iter().filter_map(|id| Some((used_ms(id)?, *id)));
        let mut idle: Vec<(u64, PlaybackId)> = idle.filter(|(used_ms, _)| is_idle(*used_ms)).collect();
        idle.sort_unstable();
        ending.extend(idle.into_iter().map(|(_, id)| id).take(surplus - ending.len()));
        (ending.len() >= surplus).then_some(ending)
    }
}

impl HolderSessions {
    fn len(&self) -> usize {
        self.waiting.len() + self.played.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: SessionCaps = SessionCaps {
        total: 8,
        waiting_per_client: 3,
        played_per_client: 5,
        per_wallet: 2,
        unused_ms: 1_000,
        idle_ms: 100,
    };
    const HOME: SessionHolder = SessionHolder::Client(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const AWAY: SessionHolder = SessionHolder::Client(IpAddr::V4(std::net::Ipv4Addr::BROADCAST));

    fn id(n: u8) -> PlaybackId {
        PlaybackId::from_bytes([n; 16])
    }

    /// Who has to end for session `n`.
    fn enter(
        limiter: &SessionLimiter,
        now_ms: u64,
        n: u8,
        holders: &[SessionHolder],
    ) -> Option<Vec<PlaybackId>> {
        let displaced = limiter.admit_session(now_ms, id(n), holders.to_vec(), CAPS)?;
        Some(displaced.into_iter().map(|displaced| displaced.playback_id).collect())
    }

    #[test]
    fn what_was_never_played_makes_room_and_what_plays_never_does() {
        let limiter = SessionLimiter::default();
        for n in 0..3 {
            assert_eq!(enter(&limiter, u64::from(n), n, &[HOME]), Some(vec![]));
        }
        assert_eq!(enter(&limiter, 3, 3, &[AWAY]), Some(vec![]), "there is room elsewhere");
        limiter.record_use(4, &id(0));
        assert_eq!(enter(&limiter, 5, 4, &[HOME]), Some(vec![]), "what plays waits no more");
        assert_eq!(enter(&limiter, 6, 5, &[HOME]), Some(vec![id(1)]), "the oldest that waits");
        (2..6).for_each(|n| limiter.record_use(7, &id(n)));
        assert_eq!(enter(&limiter, 8, 6, &[HOME]), Some(vec![]));
        limiter.record_use(9, &id(6));
        assert_eq!(enter(&limiter, 900, 7, &[HOME]), None, "five play, and none of them ends for another");
        assert_eq!(enter(&limiter, 900, 7, &[AWAY]), Some(vec![]));
        limiter.remove_session(&id(6));
        assert_eq!(enter(&limiter, 901, 8, &[HOME]), Some(vec![]), "one left");
    }

    #[test]
    fn a_flood_of_openings_ends_only_its_own() {
        let limiter = SessionLimiter::default();
        for n in 0..4 {
            assert_eq!(enter(&limiter, 0, n, &[HOME]), Some(vec![]));
            limiter.record_use(0, &id(n));
        }
        let ended = (10..100).filter_map(|n| enter(&limiter, 1, n, &[HOME])).flatten();
        assert_eq!(ended.collect::<Vec<_>>(), (10..97).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn a_wallet_counts_wherever_it_comes_from_and_ends_what_it_left_idle() {
        let limiter = SessionLimiter::default();
        let wallet = || SessionHolder::Wallet("ann".into());
        assert_eq!(enter(&limiter, 0, 0, &[HOME, wallet()]), Some(vec![]));
        assert_eq!(enter(&limiter, 1, 1, &[AWAY, wallet()]), Some(vec![]));
        assert_eq!(enter(&limiter, 2, 2, &[HOME, wallet()]), Some(vec![id(0)]));
        (1..3).for_each(|n| limiter.record_use(3, &id(n)));
        assert_eq!(enter(&limiter, 4, 3, &[HOME, wallet()]), None, "both play");
        limiter.record_use(50, &id(1));
        let displaced = limiter.admit_session(103, id(3), vec![HOME, wallet()], CAPS).unwrap();
        assert!(displaced.iter().all(|displaced| displaced.was_played));
        assert_eq!(displaced[0].playback_id, id(2), "idle longest");
    }

    #[test]
    fn what_another_replica_plays_goes_on_and_counts_as_played() {
        let limiter = SessionLimiter::default();
        for n in 0..3 {
            assert_eq!(enter(&limiter, 0, n, &[HOME]), Some(vec![]));
        }
        let displaced = limiter.admit_session(1, id(3), vec![HOME], CAPS).unwrap().remove(0);
        assert_eq!((displaced.playback_id, displaced.was_played), (id(0), false));
        limiter.reinstate_session(1, displaced);
        assert_eq!(enter(&limiter, 2, 4, &[HOME]), Some(vec![id(1)]));
    }

    #[test]
    fn what_could_not_be_ended_counts_as_it_did() {
        let limiter = SessionLimiter::default();
        let wallet = || vec![SessionHolder::Wallet("ann".into())];
        let admit = |now_ms, n| {
            let ending = limiter.admit_session(now_ms, id(n), wallet(), CAPS)?;
            Some(SessionAdmission::new(&limiter, id(n), ending))
        };
        let counted = || {
            let mut counted: Vec<PlaybackId> = limiter.state.lock().seats.keys().copied().collect();
            counted.sort_unstable();
            counted
        };
        (0..2).for_each(|n| admit(0, n).unwrap().keep());
        for now_ms in 1..4 {
            let ending = admit(now_ms, 2).unwrap().next_ending();
            assert_eq!(ending.map(|older| older.playback_id), Some(id(0)), "the oldest, each time");
        }
        (0..2).for_each(|n| limiter.record_use(1, &id(n)));
        // The broker is away, or the client goes: each time the same one is to end, and none more counts.
        for now_ms in 200..203 {
            let ending = admit(now_ms, 2).unwrap().next_ending().unwrap();
            assert!(ending.was_played && counted() == [id(0), id(1)], "{ending:?} {:?}", counted());
        }
        (0..2).for_each(|n| limiter.record_use(210, &id(n)));
        assert!(admit(211, 2).is_none(), "both play");
        let mut admission = admit(400, 2).unwrap();
        let ended = admission.next_ending().unwrap().playback_id;
        admission.note_ended();
        assert_eq!(admission.next_ending(), None);
        admission.keep();
        assert!(counted().len() == 2 && counted().contains(&id(2)) && !counted().contains(&ended));
    }

    #[test]
    fn a_full_replica_has_room_again_once_sessions_are_used_no_more() {
        let limiter = SessionLimiter::default();
        for n in 0..8 {
            assert_eq!(enter(&limiter, 1_000, n, &[SessionHolder::Wallet(n.to_string())]), Some(vec![]));
        }
        assert_eq!(enter(&limiter, 1_500, 8, &[HOME]), None);
        assert_eq!(enter(&limiter, 2_500, 8, &[HOME]), Some(vec![]), "what nobody uses need not be ended");
        assert_eq!(limiter.state.lock().seats.len(), 1);
        assert_eq!(limiter.state.lock().by_holder.len(), 1);
    }
}
