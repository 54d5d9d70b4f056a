//! Who plays how much: the sessions of each client and of each wallet that this replica opened and that are used.
//!
//! Too many of one make its least recently used session end, not the newest be refused: of a household's hundred sessions nearly
//! all are pages that were closed, and nobody could say truly when one of them ends. It is counted in memory, so that an opening
//! costs no write more. Each replica counts those it opened, and sees only the use that it serves itself: a session that plays over
//! another replica looks unused to it, and ends first when its holder has too many. What is not used is soon counted no more.
//!
//! Limits: [`Caps`]; the least recently used session is looked for among those of its own holder.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use schemas::ids::PlaybackId;

/// How often all sessions are searched for those that are used no more, in milliseconds.
const SEARCH_PAUSE_MS: u64 = 1_000;

/// Most sessions at a time, and how long one counts that is not used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub(super) total: usize,
    pub(super) per_client: usize,
    pub(super) per_wallet: usize,
    pub(super) unused_ms: u64,
}

/// Whose sessions are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// All of one address, or of one IPv6 prefix.
    Client(IpAddr),
    /// All of one wallet.
    Wallet(String),
}

/// The crowd.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each session was used last, as Unix time in milliseconds, and whose it is.
    seats: HashMap<PlaybackId, (u64, Vec<Holder>)>,
    by_holder: HashMap<Holder, Vec<PlaybackId>>,
    searched_ms: u64,
}

impl Crowd {
    /// Counts a new session; answers those that have to end for it, or `None` when this replica has no room for another.
    pub(super) fn enter(
        &self,
        now_ms: u64,
        playback_id: PlaybackId,
        holders: Vec<Holder>,
        caps: Caps,
    ) -> Option<Vec<PlaybackId>> {
        let mut state = self.state();
        let unused = |used_ms: u64| now_ms >= used_ms.saturating_add(caps.unused_ms);
        if state.seats.len() >= caps.total && now_ms >= state.searched_ms + SEARCH_PAUSE_MS {
            state.searched_ms = now_ms;
            let over = state.seats.iter().filter(|(_, (used_ms, _))| unused(*used_ms)).map(|(id, _)| *id);
            over.collect::<Vec<_>>().iter().for_each(|id| state.leave(id));
        }
        let mut displaced = Vec::new();
        for holder in &holders {
            let cap = match holder {
                Holder::Client(_) => caps.per_client,
                Holder::Wallet(_) => caps.per_wallet,
            };
            while state.by_holder.get(holder).is_some_and(|ids| ids.len() >= cap.max(1)) {
                let Some((id, used_ms)) = state.least_used(holder) else { break };
                state.leave(&id);
                if !unused(used_ms) {
                    displaced.push(id);
                }
            }
        }
        if state.seats.len() >= caps.total {
            return None;
        }
        for holder in &holders {
            state.by_holder.entry(holder.clone()).or_default().push(playback_id);
        }
        state.seats.insert(playback_id, (now_ms, holders));
        Some(displaced)
    }

    /// The session is used now.
    pub(super) fn used(&self, now_ms: u64, playback_id: &PlaybackId) {
        if let Some((used_ms, _)) = self.state().seats.get_mut(playback_id) {
            *used_ms = now_ms;
        }
    }

    /// The session is over.
    pub(super) fn leave(&self, playback_id: &PlaybackId) {
        self.state().leave(playback_id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self, playback_id: &PlaybackId) {
        let Some((_, holders)) = self.seats.remove(playback_id) else { return };
        for holder in holders {
            if let Some(ids) = self.by_holder.get_mut(&holder) {
                ids.retain(|id| id != playback_id);
                if ids.is_empty() {
                    self.by_holder.remove(&holder);
                }
            }
        }
    }

    fn least_used(&self, holder: &Holder) -> Option<(PlaybackId, u64)> {
        let used = |id: &PlaybackId| self.seats.get(id).map(|(used_ms, _)| (*id, *used_ms));
        self.by_holder.get(holder)?.iter().filter_map(used).min_by_key(|(_, used_ms)| *used_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { total: 6, per_client: 3, per_wallet: 2, unused_ms: 1_000 };
    const HOME: Holder = Holder::Client(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const AWAY: Holder = Holder::Client(IpAddr::V4(std::net::Ipv4Addr::BROADCAST));

    fn id(n: u8) -> PlaybackId {
        PlaybackId::from_bytes([n; 16])
    }

    #[test]
    fn the_least_recently_used_session_of_the_same_holder_ends() {
        let crowd = Crowd::default();
        for n in 0..3 {
            assert_eq!(crowd.enter(u64::from(n), id(n), vec![HOME], CAPS), Some(vec![]));
        }
        assert_eq!(crowd.enter(3, id(3), vec![AWAY], CAPS), Some(vec![]));
        crowd.used(4, &id(0));
        assert_eq!(crowd.enter(5, id(4), vec![HOME], CAPS), Some(vec![id(1)]), "the first is used");
        crowd.leave(&id(2));
        assert_eq!(crowd.enter(6, id(5), vec![HOME], CAPS), Some(vec![]), "one left");
        assert_eq!(
            crowd.enter(2_000, id(6), vec![HOME], CAPS),
            Some(vec![]),
            "what nobody uses need not be ended"
        );
    }

    #[test]
    fn a_wallet_counts_wherever_it_comes_from() {
        let crowd = Crowd::default();
        let wallet = || Holder::Wallet("ann".into());
        assert_eq!(crowd.enter(0, id(0), vec![HOME, wallet()], CAPS), Some(vec![]));
        assert_eq!(crowd.enter(1, id(1), vec![AWAY, wallet()], CAPS), Some(vec![]));
        assert_eq!(crowd.enter(2, id(2), vec![HOME, wallet()], CAPS), Some(vec![id(0)]));
    }

    #[test]
    fn a_full_replica_has_room_again_once_sessions_are_used_no_more() {
        let crowd = Crowd::default();
        for n in 0..6 {
            assert_eq!(crowd.enter(1_000, id(n), vec![Holder::Wallet(n.to_string())], CAPS), Some(vec![]));
        }
        assert_eq!(crowd.enter(1_500, id(6), vec![HOME], CAPS), None);
        assert_eq!(crowd.enter(2_500, id(6), vec![HOME], CAPS), Some(vec![]));
        assert_eq!(crowd.state().seats.len(), 1);
        assert_eq!(crowd.state().by_holder.len(), 1);
    }
}
