//! The live sessions, followed from their bucket.
//!
//! Limits: as many as there are live sessions with a contract to watch; ended ones leave.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
};

use alloy_primitives::Address;
use nats::{
    Bus, ReaderStart, StreamReader,
    reader::{self, StreamEntry},
};
use parking_lot::Mutex;
use schemas::{KvRecord as _, gate::PlaybackSession, ids::PlaybackId, subjects};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The sessions that a transfer could end.
#[derive(Debug)]
pub(super) struct WatchedSessions {
    live: Mutex<HashMap<PlaybackId, PlaybackSession>>,
    /// Those with contracts that were not theirs before, for each of the chains, until they were looked at.
    new: Mutex<BTreeSet<(u64, PlaybackId)>>,
    ready: watch::Sender<bool>,
}

impl Default for WatchedSessions {
    fn default() -> Self {
        Self { live: Mutex::default(), new: Mutex::default(), ready: watch::Sender::new(false) }
    }
}

impl WatchedSessions {
    pub(super) fn get(&self, id: PlaybackId) -> Option<PlaybackSession> {
        self.live.lock().get(&id).cloned()
    }

    /// The sessions on a chain that nobody has looked at yet.
    pub(super) fn unchecked_sessions(&self, chain_id: u64) -> Vec<PlaybackSession> {
        // Both locks in the order that all others take them, `live` before `new`.
        let live = self.live.lock();
        let new = self.new.lock();
        let ids = new.iter().filter(|(id, _)| *id == chain_id);
        ids.filter_map(|(_, id)| live.get(id).cloned()).collect()
    }

    /// These were looked at.
    pub(super) fn mark_checked(&self, chain_id: u64, sessions: &[PlaybackSession]) {
        let live = self.live.lock();
        let mut new = self.new.lock();
        for session in sessions {
            // Whose contracts changed meanwhile is looked at once more.
            if live.get(&session.playback_id).is_none_or(|known| known.watches == session.watches) {
                new.remove(&(chain_id, session.playback_id));
            }
        }
        new.retain(|(_, id)| live.contains_key(id));
    }

    /// Ids of the live sessions on a chain that `concerns` picks.
    pub(super) fn ids_on_chain(
        &self,
        chain_id: u64,
        concerns: impl Fn(&PlaybackSession) -> bool,
    ) -> Vec<PlaybackId> {
        // By the broker's clock: a host that is ahead would stop watching sessions that still play.
        let now_ms = nats::estimated_broker_now_ms();
        let mut live = self.live.lock();
        live.retain(|_, session| session.expires_at_ms > now_ms);
        let on_chain =
            |session: &&PlaybackSession| session.watches.iter().any(|watch| watch.chain_id == chain_id);
        live.values().filter(on_chain).filter(|s| concerns(s)).map(|session| session.playback_id).collect()
    }

    /// The contracts that live sessions on a chain depend on.
    pub(super) fn watched_contracts(&self, chain_id: u64) -> Vec<Address> {
        let live = self.live.lock();
        let watches = live.values().flat_map(|session| &session.watches);
        let contracts: BTreeSet<Address> = watches
            .filter(|watch| watch.chain_id == chain_id)
            .filter_map(|watch| watch.contract.parse().ok())
            .collect();
        contracts.into_iter().collect()
    }

    /// Waits until all sessions there are were read; false when `held` fired first.
    pub(super) async fn wait_until_current(&self, held: &CancellationToken) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            () = held.cancelled() => false,
            outcome = ready.wait_for(|ready| *ready) => outcome.is_ok(),
        }
    }

    /// Follows the bucket until `held` fires.
    pub(super) async fn follow_bucket(&self, bus: &Bus, held: &CancellationToken) {
        let settings = reader::ReaderConfig::new(
            subjects::kv_stream_name(PlaybackSession::BUCKET),
            vec![subjects::kv_subject(PlaybackSession::BUCKET, "*")],
            ReaderStart::LastPerSubject,
        );
        loop {
            let mut entries = bus.follow_stream("playback sessions", settings.clone());
            tokio::select! {
                () = held.cancelled() => return,
                error = self.read_entries(&mut entries) => {
                    tracing::error!(%error, "playback sessions are followed anew");
                    self.live.lock().clear();
                }
            }
        }
    }

    /// Takes what the reader receives; returns why it ended.
    async fn read_entries(&self, entries: &mut StreamReader) -> nats::BusError {
        let prefix = subjects::kv_subject(PlaybackSession::BUCKET, "");
        let apply = |entry: StreamEntry| {
            if let Some(key) = entry.subject.strip_prefix(&prefix) {
                self.apply_entry(key, &entry.payload);
            }
        };
        let reading = async {
            // Not counted down: a session that expires meanwhile never comes.
            while let Some(entry) = entries.next_pending().await? {
                apply(entry);
            }
            self.ready.send_replace(true);
            loop {
                apply(entries.next().await?);
            }
        };
        let Err::<Infallible, nats::BusError>(error) = reading.await;
        error
    }

    fn apply_entry(&self, key: &str, payload: &[u8]) {
        let Ok(id) = key.parse::<PlaybackId>() else { return };
        let mut live = self.live.lock();
        match nats::decode_record::<PlaybackSession>(key, payload) {
            Ok((_, session)) if session.revoked.is_none() && !session.watches.is_empty() => {
                let mut new = self.new.lock();
                let known = live.get(&id).map(|known| known.watches.as_slice()).unwrap_or_default();
                // Also of a session that is known: transfers of a contract that is new to it were not looked for so
                // far.
                let added = session.watches.iter().filter(|watch| !known.contains(watch));
                new.extend(added.map(|watch| (watch.chain_id, id)));
                live.insert(id, session);
            }
            _ => {
                live.remove(&id);
            }
        }
    }
}
