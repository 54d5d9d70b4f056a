//! Playback sessions: who may play which medium, renewed while the gate holds, over at the next request once it does not.
//!
//! A path token names a session and carries no other right. The grant behind it lasts a minute and is renewed here, by evaluating
//! the gate again; the player notices nothing. A revocation is a change of the session's record; its event reaches every replica,
//! which then forgets what it knew. A replica that hears nothing lets a session run out.
//!
//! A session that plays by an ERC-721 token takes the token's slot; a newer one with the same token takes it over, so that
//! handing a token round does not multiply viewers.
//!
//! Limits: [`Config`]; one renewal of a session at a time; events of refusals are capped by the minute.

mod live;
mod slots;
pub mod token;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::keccak256;
use nats::{Bus, Held, Outbox, Start, reader};
use schemas::{
    gate::{self, Block, Changed, Code, Granted, Revoked, Session},
    ids::{MediaId, PlaybackId},
    subjects,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::live::{Live, Look};
use super::{
    Viewer,
    access::{self, Ruling},
    judge::{Judge, Keep},
};

/// Locks over which sessions are spread while they are renewed.
const LOCKS: usize = 64;
/// How soon a renewal that could not be decided is tried again, in milliseconds.
const AGAIN_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60_000;

/// Settings of playback sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a grant lasts before the gate is evaluated again, in milliseconds.
    pub grant_ms: u64,
    /// How long before its end a grant is renewed by the request that comes then, in milliseconds.
    pub renew_early_ms: u64,
    /// Longest session in milliseconds.
    pub session_ms: u64,
    /// Sessions kept in memory; others are read for each request.
    pub live_max: usize,
    /// Events of refusals a minute.
    pub denied_events_per_minute_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grant_ms: 60_000,
            renew_early_ms: 15_000,
            session_ms: 12 * 60 * MINUTE_MS,
            live_max: 100_000,
            denied_events_per_minute_max: 600,
        }
    }
}

/// Why nobody plays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The gate is closed, or the session over.
    #[error("the gate is closed: {code:?}")]
    Closed {
        /// Why.
        code: Code,
        /// Newest blocks that were read.
        blocks: Vec<Block>,
    },
    /// The sessions can't be read.
    #[error(transparent)]
    Unavailable(#[from] nats::Error),
}

impl Denied {
    const fn because(code: Code) -> Self {
        Self::Closed { code, blocks: Vec::new() }
    }
}

/// What became of a session whose gate was evaluated again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The gate is open: the grant lasts another while.
    Renewed,
    /// Nobody can say at present: the grant lasts to its end and no longer.
    Unclear,
}

/// Tells Unix time in milliseconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Opens and checks playback sessions. Cheap to clone.
#[derive(Clone)]
pub struct Grants {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

struct Shared {
    bus: Bus,
    judge: Judge,
    config: Config,
    clock: Clock,
    live: Live,
    locks: Vec<Mutex<()>>,
    /// The minute and the refusals told in it.
    told: (AtomicU64, AtomicU64),
}

impl Grants {
    /// Sessions over `bus`, decided by `judge`.
    pub fn new(bus: Bus, judge: Judge, config: Config) -> Self {
        Self::with_clock(bus, judge, config, Arc::new(nats::now_ms))
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(bus: Bus, judge: Judge, config: Config, clock: Clock) -> Self {
        let live = Live::new(config.live_max);
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let told = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { bus, judge, config, clock, live, locks, told }) }
    }

    /// The judge behind the sessions.
    pub fn judge(&self) -> &Judge {
        &self.shared.judge
    }

    /// Opens a session for `viewer`, if the medium's gate lets it in.
    ///
    /// # Errors
    /// [`Denied::Closed`] with the reason, which is also told as an event; [`Denied::Unavailable`] when the bus does not answer.
    pub async fn open(&self, viewer: &Viewer, media_id: MediaId) -> Result<Session, Denied> {
        let shared = &self.shared;
        let found = access::rule(&shared.bus, &shared.judge, media_id, viewer).await?;
        let Some(ruling) = found else { return Err(Denied::because(Code::Gone)) };
        if !ruling.granted {
            shared.tell(viewer, media_id, &ruling).await;
            return Err(Denied::Closed { code: ruling.code, blocks: ruling.blocks });
        }
        let now_ms = (shared.clock)();
        let playback_id = PlaybackId::from_bytes(nats::fresh_id());
        let expires_at_ms = now_ms + shared.config.session_ms;
        // The slots first: after a crash here the sessions before this one end, and none is too many.
        let displaced = slots::claim(&shared.bus, &ruling.places, playback_id, now_ms, expires_at_ms).await?;
        let session = Session {
            playback_id,
            media_id,
            owner: ruling.owner,
            viewer: viewer.name.clone(),
            wallet: viewer.wallet.map(|wallet| wallet.to_string()),
            rights: viewer.rights,
            gate_epoch: ruling.gate_epoch,
            rule_digest: ruling.rule_digest,
            slots: ruling.places.into_iter().map(|place| place.key).collect(),
            watches: ruling.watches,
            blocks: ruling.blocks,
            opened_at_ms: now_ms,
            granted_until_ms: now_ms + shared.config.grant_ms,
            expires_at_ms,
            revoked: None,
        };
        let granted = Granted {
            media_id,
            owner: session.owner.clone(),
            playback_id,
            viewer: session.viewer.clone(),
            rule_digest: session.rule_digest.clone(),
            blocks: session.blocks.clone(),
            code: ruling.code,
        };
        let mut held = Held::new(session);
        shared.bus.commit(&mut held, Outbox::new().event(&granted)).await?;
        for older in displaced {
            self.revoke(older, Code::Displaced, held.record.blocks.clone()).await?;
        }
        Ok(held.record)
    }

    /// Whether the session plays the medium now. Answers from memory until the grant's end or a revocation.
    ///
    /// # Errors
    /// As [`Grants::open`]; a session of another medium is as unknown as one that never was.
    pub async fn check(&self, playback_id: PlaybackId, media_id: MediaId) -> Result<(), Denied> {
        let shared = &self.shared;
        let lasts_until_ms = match shared.live.look(playback_id, media_id, (shared.clock)()) {
            Look::Good => return Ok(()),
            Look::Elsewhere => return Err(Denied::because(Code::SessionUnknown)),
            Look::Due(until_ms) => until_ms,
        };
        let _turn = shared.turn(playback_id).await;
        if matches!(shared.live.look(playback_id, media_id, (shared.clock)()), Look::Good) {
            return Ok(());
        }
        match self.renew(playback_id, media_id).await {
            // The grant given before is good to its end; nobody said that the gate closed.
            Err(Denied::Unavailable(error)) if (shared.clock)() < lasts_until_ms => {
                tracing::warn!(%error, "a session could not be renewed and goes on to the end of its grant");
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Evaluates the gate of a session again, now: ends it, renews it, or leaves it as it is while nobody can say.
    ///
    /// # Errors
    /// As [`Grants::check`].
    pub async fn renew(&self, playback_id: PlaybackId, media_id: MediaId) -> Result<Renewal, Denied> {
        let shared = &self.shared;
        let generation = shared.live.generation();
        let session = self.load(playback_id, media_id).await?;
        let viewer = viewer_of(&session);
        let found = access::rule(&shared.bus, &shared.judge, media_id, &viewer).await?;
        let Some(ruling) = found else { return self.end(playback_id, Code::Gone, Vec::new()).await };
        let same_rule = ruling.rule_digest == session.rule_digest;
        let verdict = match ruling.keep {
            // Another rule than it was let in by: it has to be let in again.
            Keep::On if !same_rule && !ruling.granted => Keep::Over(ruling.code),
            keep => keep,
        };
        match verdict {
            Keep::Over(code) => return self.end(playback_id, code, ruling.blocks).await,
            Keep::Unclear(code) => {
                let now_ms = (shared.clock)();
                if !same_rule || now_ms >= session.granted_until_ms {
                    return Err(Denied::Closed { code, blocks: ruling.blocks });
                }
                let again_ms = now_ms + AGAIN_MS;
                shared.live.put(generation, playback_id, media_id, (session.granted_until_ms, again_ms));
                return Ok(Renewal::Unclear);
            }
            Keep::On => {}
        }
        if same_rule && !slots::held(&shared.bus, &session).await? {
            return self.end(playback_id, Code::Displaced, ruling.blocks).await;
        }
        let until_ms = self.prolong(&session, ruling, same_rule).await?;
        let again_ms = until_ms.saturating_sub(shared.config.renew_early_ms);
        shared.live.put(generation, playback_id, media_id, (until_ms, again_ms));
        Ok(Renewal::Renewed)
    }

    /// Ends a session, with its event; false when it was over already or never was.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn revoke(
        &self,
        playback_id: PlaybackId,
        code: Code,
        blocks: Vec<Block>,
    ) -> Result<bool, nats::Error> {
        let mut is_change = false;
        let change = |found: Option<&Session>| {
            let session = found.filter(|session| session.revoked.is_none());
            is_change = session.is_some();
            let session = session?;
            let revoked = Revoked {
                media_id: session.media_id,
                owner: session.owner.clone(),
                playback_id,
                viewer: session.viewer.clone(),
                rule_digest: session.rule_digest.clone(),
                blocks: blocks.clone(),
                code,
            };
            Some((Session { revoked: Some(code), ..session.clone() }, Outbox::new().event(&revoked)))
        };
        self.shared.bus.change::<Session>(&playback_id.to_string(), change).await?;
        self.shared.live.forget(playback_id);
        Ok(is_change)
    }

    /// Hears of revocations and changed gates until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let shared = &self.shared;
        let filters = vec![
            subjects::events_of::<Revoked>(),
            subjects::events_of::<Changed>(),
            subjects::events_of_verb("media", "removed"),
        ];
        let settings = reader::Config::new(subjects::EVENTS, filters, Start::New);
        let mut connection = shared.bus.connection();
        let mut events = shared.bus.reader(settings).await?;
        shared.live.follow(true);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = events.next() => match event {
                    Ok(entry) => self.hear(&entry),
                    Err(error) => {
                        tracing::warn!(%error, "an event could not be read; every session is looked up again");
                        shared.live.clear();
                    }
                },
                // What was said while the connection was away may be missed.
                changed = connection.changed() => {
                    shared.live.clear();
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        shared.live.follow(false);
        Ok(())
    }

    fn hear(&self, entry: &reader::Entry) {
        let live = &self.shared.live;
        match subjects::event_parts(&entry.subject) {
            Some(("gate", "revoked", _)) => match nats::decode::<Revoked>(&entry.subject, &entry.payload) {
                Ok(revoked) => live.forget(revoked.playback_id),
                Err(_) => live.clear(),
            },
            Some((_, _, id)) => match id.parse() {
                Ok(media_id) => live.forget_media(media_id),
                Err(_) => live.clear(),
            },
            None => live.clear(),
        }
    }

    async fn load(&self, playback_id: PlaybackId, media_id: MediaId) -> Result<Session, Denied> {
        let held = self.shared.bus.load::<Session>(&playback_id.to_string()).await?;
        let session = held
            .map(|held| held.record)
            .filter(|session| session.media_id == media_id)
            .ok_or(Denied::because(Code::SessionUnknown))?;
        match session.revoked {
            Some(code) => Err(Denied::Closed { code, blocks: session.blocks }),
            None if (self.shared.clock)() >= session.expires_at_ms => Err(Denied::because(Code::Expired)),
            None => Ok(session),
        }
    }

    async fn end(&self, playback_id: PlaybackId, code: Code, blocks: Vec<Block>) -> Result<Renewal, Denied> {
        self.revoke(playback_id, code, blocks.clone()).await?;
        Err(Denied::Closed { code, blocks })
    }

    /// Writes a new end of the grant, unless another replica did; answers until when it lasts.
    async fn prolong(&self, session: &Session, ruling: Ruling, same_rule: bool) -> Result<u64, Denied> {
        let shared = &self.shared;
        let now_ms = (shared.clock)();
        let is_fresh = session.granted_until_ms > now_ms + shared.config.renew_early_ms;
        if same_rule && is_fresh && session.gate_epoch == ruling.gate_epoch {
            return Ok(session.granted_until_ms);
        }
        let playback_id = session.playback_id;
        if !same_rule {
            let displaced =
                slots::claim(&shared.bus, &ruling.places, playback_id, now_ms, session.expires_at_ms).await?;
            for older in displaced {
                self.revoke(older, Code::Displaced, ruling.blocks.clone()).await?;
            }
        }
        let until_ms = (now_ms + shared.config.grant_ms).min(session.expires_at_ms);
        let renewed = |found: Option<&Session>| {
            let session = found.filter(|session| session.revoked.is_none())?;
            let mut next = session.clone();
            next.granted_until_ms = until_ms.max(session.granted_until_ms);
            next.blocks.clone_from(&ruling.blocks);
            next.gate_epoch = ruling.gate_epoch;
            if !same_rule {
                next.rule_digest.clone_from(&ruling.rule_digest);
                next.watches.clone_from(&ruling.watches);
                next.slots = ruling.places.iter().map(|place| place.key.clone()).collect();
            }
            Some((next, Outbox::new()))
        };
        let held = shared.bus.change::<Session>(&playback_id.to_string(), renewed).await?;
        match held.map(|held| held.record) {
            Some(Session { revoked: None, granted_until_ms, .. }) => Ok(granted_until_ms),
            Some(Session { revoked: Some(code), blocks, .. }) => Err(Denied::Closed { code, blocks }),
            None => Err(Denied::because(Code::SessionUnknown)),
        }
    }
}

/// Who a session plays for.
fn viewer_of(session: &Session) -> Viewer {
    let wallet = session.wallet.as_ref().and_then(|text| text.parse().ok());
    Viewer { name: session.viewer.clone(), wallet, rights: session.rights }
}

impl Shared {
    async fn turn(&self, playback_id: PlaybackId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let index = usize::from(playback_id.as_bytes()[15]) % LOCKS;
        match self.locks.get(index) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }

    /// Tells of a refusal: the same one once in ten minutes, all together no more than the minute's cap.
    async fn tell(&self, viewer: &Viewer, media_id: MediaId, ruling: &Ruling) {
        let (minute, count) = &self.told;
        let now = (self.clock)() / MINUTE_MS;
        if minute.swap(now, Ordering::Relaxed) != now {
            count.store(0, Ordering::Relaxed);
        }
        if count.fetch_add(1, Ordering::Relaxed) >= self.config.denied_events_per_minute_max {
            return;
        }
        let denied = gate::Denied {
            media_id,
            owner: ruling.owner.clone(),
            viewer: viewer.name.clone(),
            rule_digest: ruling.rule_digest.clone(),
            blocks: ruling.blocks.clone(),
            code: ruling.code,
        };
        let wallet = viewer.wallet.map(|wallet| wallet.to_string()).unwrap_or_default();
        let who = keccak256(format!("{}\n{wallet}", viewer.name));
        let cause = format!("denied {who} {:?} {}", ruling.code, ruling.rule_digest);
        let telling = self.bus.report(&denied, &cause);
        // The refusal stands whether or not it could be told.
        match tokio::time::timeout(Duration::from_millis(AGAIN_MS), telling).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, media.id = %media_id, "a refusal could not be told"),
            Err(_) => tracing::warn!(media.id = %media_id, "a refusal could not be told in time"),
        }
    }
}
