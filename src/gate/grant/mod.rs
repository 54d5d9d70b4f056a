//! Playback sessions: who may play which medium, renewed while the gate holds, over at the next request once it does not.
//!
//! A path token names a session and carries no other right. The grant behind it lasts a minute and is renewed here, by evaluating
//! the gate again; the player notices nothing. A revocation is a change of the session's record; its event reaches every replica,
//! which then forgets what it knew. A replica that receives nothing lets a session run out.
//!
//! A session that plays by an ERC-721 token takes the token's slot; a newer one with the same token takes it over, so that
//! handing a token round does not multiply viewers.
//!
//! A session that nobody uses ends early. One client or wallet has so many at a time, and what plays never ends for a newer one
//! (see `session_limit.rs`).
//!
//! Limits: [`GrantConfig`]; one renewal of a session at a time; events of refusals are capped by the minute.

mod config;
mod credential;
mod event_throttle;
mod follow;
mod renew;
mod session_cache;
mod session_limit;
mod slots;
pub mod token;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::keccak256;
use evm::EvmClient;
use nats::{
    Bus, Outbox, VersionedRecord,
    metrics::{Collector, DescriptorEncoder, encode_counter, table::GATE_REFUSALS_UNREPORTED},
};
use schemas::{
    gate::{self, ChainBlock, GateGranted, GateReasonCode, GateRevoked, PlaybackSession},
    ids::{MediaId, PlaybackId},
    view,
};
use tokio::sync::Mutex;

pub use self::config::GrantConfig;
use self::{
    credential::CredentialStatus,
    event_throttle::{DenialEventCaps, DenialEventThrottle},
    session_cache::{CachedSessionStatus, SessionCache},
    session_limit::{DisplacedSession, SessionAdmission, SessionHolder, SessionLimiter},
    slots::SlotClaimMode,
};
use super::{
    GateViewer,
    access::{self, AccessDecision},
    gate_evaluator::GateEvaluator,
};
use auth::proof::{ProofAge, ProofChecker};

/// Locks over which sessions are spread while they are renewed.
const LOCKS: usize = 64;
/// How soon a renewal that could not be decided is tried again, in milliseconds.
const AGAIN_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60_000;

/// With whom the sessions of `viewer` are counted.
fn session_holders(viewer: &GateViewer, client: Option<IpAddr>) -> Vec<SessionHolder> {
    let wallet = viewer.wallet.map(|wallet| SessionHolder::Wallet(wallet.to_string()));
    if wallet.is_none() && !viewer.name.is_empty() {
        return Vec::new();
    }
    client.map(SessionHolder::Client).into_iter().chain(wallet).collect()
}

/// Why nobody plays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaybackDenied {
    /// The gate is closed, or the session over.
    #[error("the gate is closed: {code:?}")]
    Closed {
        /// Why.
        code: GateReasonCode,
        /// Newest blocks that were read.
        blocks: Vec<ChainBlock>,
    },
    /// As many sessions as may play at once: of this replica, of a client, or of a wallet.
    #[error("too many playback sessions")]
    Busy,
    /// The sessions can't be read.
    #[error(transparent)]
    Unavailable(#[from] nats::BusError),
}

impl PlaybackDenied {
    const fn from_reason(code: GateReasonCode) -> Self {
        Self::Closed { code, blocks: Vec::new() }
    }
}

/// A viewer whom the gate of a medium lets in now, and who has no session yet.
#[derive(Debug)]
pub struct PlaybackAdmission {
    media_id: MediaId,
    viewer: GateViewer,
    ruling: AccessDecision,
}

/// What became of a session whose gate was evaluated again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// The gate is open: the grant lasts another while.
    Renewed,
    /// Nobody can say at present: the grant lasts to its end and no longer.
    Unclear,
    /// The gate is open by tokens with which somebody else plays, and nobody uses the session now: its next use takes them.
    Waits,
}

/// Returns Unix time in milliseconds.
pub type GrantClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Opens and checks playback sessions. Cheap to clone.
#[derive(Clone)]
pub struct PlaybackGrants {
    shared: Arc<PlaybackGrantState>,
}

impl std::fmt::Debug for PlaybackGrants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

struct PlaybackGrantState {
    bus: Bus,
    judge: GateEvaluator,
    config: GrantConfig,
    clock: GrantClock,
    proofs: ProofChecker,
    live: SessionCache,
    locks: Vec<Mutex<()>>,
    denial_events: DenialEventThrottle,
    session_limiter: SessionLimiter,
}

impl Collector for PlaybackGrants {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_counter(&mut encoder, &GATE_REFUSALS_UNREPORTED, self.shared.denial_events.dropped_count())
    }
}

impl PlaybackGrants {
    /// Sessions over `bus`, decided by `judge`, whose chains are asked about the accounts that opened them, too.
    pub fn new(bus: Bus, judge: GateEvaluator, config: GrantConfig) -> Self {
        Self::with_clock(bus, judge, config, Arc::new(nats::now_ms))
    }

    /// Sessions over `bus`, decided by `chains`; the accounts that opened them are asked there as `sign_in` has it.
    pub fn with_chains(
        bus: &Bus,
        chains: EvmClient,
        sign_in: &auth::AuthConfig,
        config: GrantConfig,
    ) -> Self {
        let judge = GateEvaluator::new(chains);
        // Neither what gates ask nor what strangers bring about keeps an account from standing by its sessions.
        let proofs = ProofChecker::with_chains(bus.clone(), judge.chains(), sign_in);
        Self::with_proofs(bus.clone(), judge, config, (proofs, Arc::new(nats::now_ms)))
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(bus: Bus, judge: GateEvaluator, config: GrantConfig, clock: GrantClock) -> Self {
        let proofs = ProofChecker::with_chains(bus.clone(), judge.chains(), &auth::AuthConfig::default());
        Self::with_proofs(bus, judge, config, (proofs, clock))
    }

    /// The same; `proofs` asks the accounts that opened the sessions.
    pub fn with_proofs(
        bus: Bus,
        judge: GateEvaluator,
        config: GrantConfig,
        (proofs, clock): (ProofChecker, GrantClock),
    ) -> Self {
        let live = SessionCache::new(config.live_max);
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let (denial_events, session_limiter) = (DenialEventThrottle::default(), SessionLimiter::default());
        Self {
            shared: Arc::new(PlaybackGrantState {
                bus,
                judge,
                config,
                clock,
                proofs,
                live,
                locks,
                denial_events,
                session_limiter,
            }),
        }
    }

    /// The judge behind the sessions.
    pub fn gate_evaluator(&self) -> &GateEvaluator {
        &self.shared.judge
    }

    /// Asks the accounts that opened the sessions.
    pub fn proof_checker(&self) -> &ProofChecker {
        &self.shared.proofs
    }

    /// Asks the medium's gate about `viewer`. Nothing is kept until the admission is opened.
    ///
    /// # Errors
    /// [`PlaybackDenied::Closed`] with the reason, which is also published as an event; [`PlaybackDenied::Unavailable`] when the
    /// bus does not answer.
    pub async fn admit_viewer(
        &self,
        viewer: &GateViewer,
        media_id: MediaId,
    ) -> Result<PlaybackAdmission, PlaybackDenied> {
        let shared = &self.shared;
        let found = access::decide_access(&shared.bus, &shared.judge, media_id, viewer).await?;
        let Some(ruling) = found else { return Err(PlaybackDenied::from_reason(GateReasonCode::Gone)) };
        if !ruling.granted {
            shared.publish_denial(viewer, media_id, &ruling).await;
            return Err(PlaybackDenied::Closed { code: ruling.code, blocks: ruling.blocks });
        }
        let credential = (viewer.opener, ProofAge::Newest);
        let closed = |code| PlaybackDenied::Closed { code, blocks: ruling.blocks.clone() };
        match credential::check_credential(&shared.bus, &shared.proofs, credential, (shared.clock)()).await? {
            CredentialStatus::Stands => {}
            CredentialStatus::Over => return Err(closed(GateReasonCode::Ended)),
            CredentialStatus::Unclear => return Err(closed(GateReasonCode::ChainUnavailable)),
        }
        Ok(PlaybackAdmission { media_id, viewer: viewer.clone(), ruling })
    }

    /// Opens a session for whom the gate let in; `client` distinguishes clients.
    ///
    /// Of a client or wallet that has too many sessions one that was never played ends. A viewer with a key that an administrator
    /// made is not counted: it opens sessions for others.
    ///
    /// # Errors
    /// [`PlaybackDenied::Busy`] when there is no room; [`PlaybackDenied::Unavailable`] when the bus does not answer.
    pub async fn open_session(
        &self,
        admission: PlaybackAdmission,
        client: Option<IpAddr>,
    ) -> Result<PlaybackSession, PlaybackDenied> {
        let shared = &self.shared;
        let playback_id = PlaybackId::from_bytes(nats::new_id_bytes());
        let caps = shared.config.session_caps();
        let holders = session_holders(&admission.viewer, client);
        let entered = shared.session_limiter.admit_session((shared.clock)(), playback_id, holders, caps);
        let surplus = entered.ok_or(PlaybackDenied::Busy)?;
        let mut counted = SessionAdmission::new(&shared.session_limiter, playback_id, surplus);
        // Before the new one: when the old ones can't be ended, there is none too many.
        while let Some(older) = counted.next_ending() {
            self.end_displaced(older).await?;
            counted.note_ended();
        }
        let session = self.write_session(admission, playback_id).await?;
        counted.keep();
        Ok(session)
    }

    /// Writes a session.
    async fn write_session(
        &self,
        admission: PlaybackAdmission,
        playback_id: PlaybackId,
    ) -> Result<PlaybackSession, PlaybackDenied> {
        let shared = &self.shared;
        let PlaybackAdmission { media_id, viewer, ruling } = admission;
        let now_ms = (shared.clock)();
        let expires_at_ms = now_ms + shared.config.session_ms;
        // The slots first: after a crash here the sessions before this one end, and none is too many.
        let wanted = (ruling.places.as_slice(), SlotClaimMode::Displacing);
        let displaced = slots::claim_slots(&shared.bus, wanted, playback_id, now_ms, expires_at_ms).await?;
        let session = PlaybackSession {
            playback_id,
            media_id,
            owner: ruling.owner,
            viewer: viewer.name,
            wallet: viewer.wallet.map(|wallet| wallet.address.to_string()),
            wallet_chain_id: viewer.wallet.and_then(|wallet| wallet.chain_id),
            rights: viewer.rights,
            opener: viewer.opener,
            gate_epoch: ruling.gate_epoch,
            rule_digest: ruling.rule_digest,
            slots: ruling.places.into_iter().map(|place| place.key).collect(),
            watches: ruling.watches,
            blocks: ruling.blocks,
            opened_at_ms: now_ms,
            granted_until_ms: now_ms + shared.config.grant_ms,
            expires_at_ms,
            unused_until_ms: Some(now_ms + shared.config.unused_session_ms),
            played_at_ms: None,
            revoked: None,
        };
        let opened = build_open_events(&session, ruling.code);
        let mut held = VersionedRecord::new(session);
        shared.bus.commit_record(&mut held, opened).await?;
        self.revoke_displaced(displaced.unwrap_or_default(), &held.record.blocks).await?;
        Ok(held.record)
    }

    /// Ends a session for a newer one, unless it plays over another replica.
    async fn end_displaced(&self, older: DisplacedSession) -> Result<(), nats::BusError> {
        let shared = &self.shared;
        let now_ms = (shared.clock)();
        let plays = AtomicBool::new(false);
        let may_end = |session: &PlaybackSession| {
            let is_idle = older.was_played && session.granted_until_ms <= now_ms;
            let may_end = session.played_at_ms.is_none() || is_idle;
            plays.store(!may_end, Ordering::Relaxed);
            may_end
        };
        self.revoke_if(older.playback_id, GateReasonCode::Displaced, Vec::new(), may_end).await?;
        if plays.into_inner() {
            shared.session_limiter.reinstate_session(now_ms, older);
        }
        Ok(())
    }

    /// Whether the session plays the medium now. Answers from memory until the grant's end or a revocation.
    ///
    /// # Errors
    /// As [`PlaybackGrants::admit_viewer`]; a session of another medium is as unknown as one that never was.
    pub async fn check_session(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
    ) -> Result<(), PlaybackDenied> {
        let shared = &self.shared;
        let look = || shared.live.session_status(playback_id, media_id, (shared.clock)());
        match look() {
            CachedSessionStatus::Good => return Ok(()),
            CachedSessionStatus::Elsewhere => {
                return Err(PlaybackDenied::from_reason(GateReasonCode::SessionUnknown));
            }
            CachedSessionStatus::Due(_) => {}
        }
        let _turn = shared.lock_session(playback_id).await;
        if matches!(look(), CachedSessionStatus::Good) {
            return Ok(());
        }
        match self.renew_for(playback_id, media_id, true).await {
            // The grant given before is good to its end, unless somebody said meanwhile that the session is over.
            Err(PlaybackDenied::Unavailable(error)) if shared.is_grant_valid(look()) => {
                tracing::warn!(%error, "a session could not be renewed and goes on to the end of its grant");
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Ends a session, with its event; false when it was over already or never was.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn revoke_session(
        &self,
        playback_id: PlaybackId,
        code: GateReasonCode,
        blocks: Vec<ChainBlock>,
    ) -> Result<bool, nats::BusError> {
        self.revoke_if(playback_id, code, blocks, |_| true).await
    }

    /// Ends the sessions that lost a place they rest on; one that rests on another token by now goes on.
    async fn revoke_displaced(
        &self,
        displaced: Vec<slots::LostSlot>,
        blocks: &[ChainBlock],
    ) -> Result<(), nats::BusError> {
        for slots::LostSlot { key, playback_id } in displaced {
            let rests_on_it = |session: &PlaybackSession| session.slots.contains(&key);
            self.revoke_if(playback_id, GateReasonCode::Displaced, blocks.to_vec(), rests_on_it).await?;
        }
        Ok(())
    }

    async fn revoke_if(
        &self,
        playback_id: PlaybackId,
        code: GateReasonCode,
        blocks: Vec<ChainBlock>,
        concerned: impl Fn(&PlaybackSession) -> bool + Send + Sync,
    ) -> Result<bool, nats::BusError> {
        let mut is_change = false;
        let change = |found: Option<&PlaybackSession>| {
            let session = found.filter(|session| session.revoked.is_none() && concerned(session));
            is_change = session.is_some();
            let session = session?;
            let revoked = GateRevoked {
                media_id: session.media_id,
                owner: session.owner.clone(),
                playback_id,
                viewer: session.viewer.clone(),
                rule_digest: session.rule_digest.clone(),
                blocks: blocks.clone(),
                code,
            };
            Some((
                PlaybackSession { revoked: Some(code), ..session.clone() },
                Outbox::new().with_event(&revoked),
            ))
        };
        self.shared.bus.change_record::<PlaybackSession>(&playback_id.to_string(), change).await?;
        self.shared.live.remove(&playback_id);
        if is_change {
            self.shared.session_limiter.remove_session(&playback_id);
        }
        Ok(is_change)
    }
}

/// What is published of a session that was opened: who let it in, or, of a viewer who did not sign in, that there was one more.
fn build_open_events(session: &PlaybackSession, code: GateReasonCode) -> Outbox {
    let (media_id, playback_id, owner) = (session.media_id, session.playback_id, session.owner.clone());
    if session.viewer.is_empty() && session.wallet.is_none() && session.opener.is_none() {
        return Outbox::new().with_event(&view::ViewOpened { media_id, owner, playback_id });
    }
    Outbox::new().with_event(&GateGranted {
        media_id,
        owner,
        playback_id,
        viewer: session.viewer.clone(),
        rule_digest: session.rule_digest.clone(),
        blocks: session.blocks.clone(),
        code,
    })
}

impl PlaybackGrantState {
    /// True while a grant that memory knows has not ended.
    fn is_grant_valid(&self, look: CachedSessionStatus) -> bool {
        match look {
            CachedSessionStatus::Good => true,
            CachedSessionStatus::Due(until_ms) => (self.clock)() < until_ms,
            CachedSessionStatus::Elsewhere => false,
        }
    }

    async fn lock_session(&self, playback_id: PlaybackId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let index = usize::from(playback_id.as_bytes()[15]) % LOCKS;
        match self.locks.get(index) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }

    /// Publishes a refusal: the same one once in ten minutes, and no more than the caps of a minute.
    async fn publish_denial(&self, viewer: &GateViewer, media_id: MediaId, ruling: &AccessDecision) {
        let wallet = viewer.wallet.map(|wallet| wallet.to_string()).unwrap_or_default();
        let who = keccak256(format!("{}\n{wallet}", viewer.name));
        let cause = format!("denied {who} {:?} {}", ruling.code, ruling.rule_digest);
        let refusal = keccak256(format!("{media_id} {cause}"));
        let caps = DenialEventCaps {
            total: self.config.denied_events_per_minute_max,
            per_viewer: self.config.denied_events_per_viewer_per_minute_max,
        };
        let Some(dropped) = self.denial_events.take_permit((self.clock)(), who, refusal, caps) else {
            return;
        };
        let denied = gate::GateDenied {
            media_id,
            owner: ruling.owner.clone(),
            viewer: viewer.name.clone(),
            rule_digest: ruling.rule_digest.clone(),
            blocks: ruling.blocks.clone(),
            code: ruling.code,
            untold: (dropped > 0).then_some(dropped),
        };
        let publishing = self.bus.publish_event(&denied, &cause);
        // The refusal stands whether or not it could be published.
        match tokio::time::timeout(Duration::from_millis(AGAIN_MS), publishing).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, media.id = %media_id, "a refusal could not be published");
            }
            Err(_) => tracing::warn!(media.id = %media_id, "a refusal could not be published in time"),
        }
        self.denial_events.return_permit(refusal, dropped);
    }
}

#[cfg(test)]
mod tests {
    use nats::Role;
    use schemas::gate::GateRule;

    use super::*;
    use crate::testing::site::{GateTestSite, open_playback};

    #[tokio::test]
    async fn a_revocation_received_while_a_session_waits_for_its_turn_counts() {
        let site = GateTestSite::start().await;
        let bus = site.broker.bus(Role::Ingress).await;
        let grants = site.grants_with_bus(bus.clone());
        let film = site.create_medium(Some(&GateRule::Public {})).await;
        let session = open_playback(&grants, &GateViewer::anonymous(), film).await.unwrap();
        let shared = &grants.shared;
        shared.live.set_following(true);
        grants.check_session(session.playback_id, film).await.unwrap();
        site.advance_ms(50_000);
        let turn = shared.lock_session(session.playback_id).await;
        let asking = grants.check_session(session.playback_id, film);
        tokio::pin!(asking);
        assert!(futures::poll!(&mut asking).is_pending(), "it waits for its turn");
        shared.live.remove(&session.playback_id);
        bus.close().await.unwrap();
        drop(turn);
        assert!(matches!(asking.await, Err(PlaybackDenied::Unavailable(_))), "nobody says that it plays");
    }
}
