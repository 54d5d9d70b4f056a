//! Renewal: the gate of a session is evaluated again.

use nats::Outbox;
use schemas::{
    gate::{ChainBlock, GateReasonCode, PlaybackSession},
    ids::{MediaId, PlaybackId},
};

use super::{
    AGAIN_MS, PlaybackDenied, PlaybackGrants, RenewalOutcome,
    credential::{self, CredentialStatus},
    session_cache::CachedSession,
    slots::{self, SlotClaimMode},
};
use crate::{
    GateViewer,
    access::{self, AccessDecision},
    gate_evaluator::SessionVerdict,
};
use auth::{account::WalletAccount, proof::ProofAge};

impl PlaybackGrants {
    /// Evaluates the gate of a session again, now: ends it, renews it, or leaves it as it is while nobody can say.
    ///
    /// # Errors
    /// As [`PlaybackGrants::check_session`].
    pub async fn renew_session(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
    ) -> Result<RenewalOutcome, PlaybackDenied> {
        self.renew_for(playback_id, media_id, false).await
    }

    /// The same; `is_used` when the session's player asks: only then it lives longer, and takes slots that others hold.
    pub(super) async fn renew_for(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
        is_used: bool,
    ) -> Result<RenewalOutcome, PlaybackDenied> {
        let shared = &self.shared;
        if is_used {
            shared.session_limiter.record_use((shared.clock)(), &playback_id);
        }
        // Before anything is read: what a revocation changes meanwhile must not be remembered as good.
        let generation = shared.live.generation();
        let session = self.load_session(playback_id, media_id).await?;
        // The next look comes when this grant is about to end: what was said before would be too old by then.
        let credential = (session.opener, ProofAge::Newest);
        match credential::check_credential(&shared.bus, &shared.proofs, credential, (shared.clock)()).await? {
            CredentialStatus::Stands => {}
            CredentialStatus::Over => {
                return self.end_session(playback_id, GateReasonCode::Ended, Vec::new()).await;
            }
            CredentialStatus::Unclear => {
                return self.keep_unclear_session(
                    generation,
                    &session,
                    (GateReasonCode::ChainUnavailable, Vec::new()),
                );
            }
        }
        let viewer = session_viewer(&session);
        let found = access::decide_access(&shared.bus, &shared.judge, media_id, &viewer).await?;
        let Some(ruling) = found else {
            return self.end_session(playback_id, GateReasonCode::Gone, Vec::new()).await;
        };
        let same_rule = ruling.rule_digest == session.rule_digest;
        let verdict = match ruling.keep {
            // Another rule than it was let in by: it has to be let in again.
            SessionVerdict::On if !same_rule && !ruling.granted => SessionVerdict::Over(ruling.code),
            keep => keep,
        };
        match verdict {
            SessionVerdict::Over(code) => return self.end_session(playback_id, code, ruling.blocks).await,
            SessionVerdict::Unclear(code) if !same_rule => {
                return Err(PlaybackDenied::Closed { code, blocks: ruling.blocks });
            }
            SessionVerdict::Unclear(code) => {
                return self.keep_unclear_session(generation, &session, (code, ruling.blocks));
            }
            SessionVerdict::On => {}
        }
        let basis = SlotChanges::from_session(&session, &ruling);
        if !slots::are_slots_held(&shared.bus, &basis.kept, playback_id).await? {
            return self.end_session(playback_id, GateReasonCode::Displaced, ruling.blocks).await;
        }
        let Some(until_ms) = self.extend_grant(&session, ruling, &basis, is_used).await? else {
            // Its slots are taken by others: the next use of it asks again and may displace them.
            shared.live.remove(&playback_id);
            return Ok(RenewalOutcome::Waits);
        };
        let again_ms = until_ms.saturating_sub(shared.config.renew_early_ms);
        shared.live.insert_session(
            generation,
            playback_id,
            CachedSession { media_id, until_ms, again_ms, opener: session.opener },
        );
        Ok(RenewalOutcome::Renewed)
    }

    /// Nobody can say at present: what was granted lasts to its end.
    fn keep_unclear_session(
        &self,
        generation: u64,
        session: &PlaybackSession,
        (code, blocks): (GateReasonCode, Vec<ChainBlock>),
    ) -> Result<RenewalOutcome, PlaybackDenied> {
        let now_ms = (self.shared.clock)();
        // An outage keeps a session to the end of its grant, never beyond what was once decided.
        if now_ms >= session.granted_until_ms {
            return Err(PlaybackDenied::Closed { code, blocks });
        }
        let (media_id, opener) = (session.media_id, session.opener);
        let (until_ms, again_ms) = (session.granted_until_ms, now_ms + AGAIN_MS);
        let entry = CachedSession { media_id, until_ms, again_ms, opener };
        self.shared.live.insert_session(generation, session.playback_id, entry);
        Ok(RenewalOutcome::Unclear)
    }

    /// Whether a session is there and is not over. It is not used by that: it lives no longer, and nobody is asked.
    ///
    /// # Errors
    /// As [`PlaybackGrants::check_session`].
    pub async fn find_session(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
    ) -> Result<(), PlaybackDenied> {
        self.load_session(playback_id, media_id).await.map(drop)
    }

    async fn load_session(
        &self,
        playback_id: PlaybackId,
        media_id: MediaId,
    ) -> Result<PlaybackSession, PlaybackDenied> {
        let held = self.shared.bus.load_record::<PlaybackSession>(&playback_id.to_string()).await?;
        let session = held
            .map(|held| held.record)
            .filter(|session| session.media_id == media_id)
            .ok_or(PlaybackDenied::from_reason(GateReasonCode::SessionUnknown))?;
        match session.revoked {
            Some(code) => Err(PlaybackDenied::Closed { code, blocks: session.blocks }),
            None if (self.shared.clock)() >= session.ends_at_ms() => {
                Err(PlaybackDenied::from_reason(GateReasonCode::Expired))
            }
            None => Ok(session),
        }
    }

    /// Ends a session whose gate is known to be closed: closed it is, whether or not that can be written down.
    async fn end_session(
        &self,
        playback_id: PlaybackId,
        code: GateReasonCode,
        blocks: Vec<ChainBlock>,
    ) -> Result<RenewalOutcome, PlaybackDenied> {
        // Memory first, so that the next request tries again what could not be written.
        self.shared.live.remove(&playback_id);
        if let Err(error) = self.revoke_session(playback_id, code, blocks.clone()).await {
            tracing::warn!(%error, ?code, "the end of a session could not be written; its next request tries again");
        }
        Err(PlaybackDenied::Closed { code, blocks })
    }

    /// Writes a new end of the grant, unless another replica did; answers until when it lasts. `None`: what the session would rest
    /// on is taken, and nobody uses the session now.
    async fn extend_grant(
        &self,
        session: &PlaybackSession,
        ruling: AccessDecision,
        basis: &SlotChanges<'_>,
        is_used: bool,
    ) -> Result<Option<u64>, PlaybackDenied> {
        let shared = &self.shared;
        let now_ms = (shared.clock)();
        let is_fresh = session.granted_until_ms > now_ms + shared.config.renew_early_ms;
        // Other replicas end what was never played first, so the first use is written down at once.
        let is_first_use = is_used && session.played_at_ms.is_none();
        if !basis.is_new && is_fresh && !is_first_use && session.gate_epoch == ruling.gate_epoch {
            return Ok(Some(session.granted_until_ms));
        }
        let playback_id = session.playback_id;
        if basis.is_new {
            let wanted = (
                ruling.places.as_slice(),
                if is_used { SlotClaimMode::Displacing } else { SlotClaimMode::Free },
            );
            let claimed =
                slots::claim_slots(&shared.bus, wanted, playback_id, now_ms, session.expires_at_ms).await?;
            let Some(displaced) = claimed else { return Ok(None) };
            self.revoke_displaced(displaced, &ruling.blocks).await?;
        }
        let until_ms = (now_ms + shared.config.grant_ms).min(session.expires_at_ms);
        let renewed = |found: Option<&PlaybackSession>| {
            // A revocation that came first stays: a renewal never opens a session again.
            let session = found.filter(|session| session.revoked.is_none())?;
            let mut next = session.clone();
            // Another replica may have renewed it for longer: addresses given out there must not end early.
            next.granted_until_ms = until_ms.max(session.granted_until_ms);
            next.blocks.clone_from(&ruling.blocks);
            next.gate_epoch = ruling.gate_epoch;
            if is_used {
                next.unused_until_ms = Some(now_ms + shared.config.unused_session_ms);
                next.played_at_ms = next.played_at_ms.or(Some(now_ms));
            }
            if basis.is_new {
                next.rule_digest.clone_from(&ruling.rule_digest);
                next.watches.clone_from(&ruling.watches);
                next.slots = ruling.places.iter().map(|place| place.key.clone()).collect();
            }
            Some((next, Outbox::new()))
        };
        let held = shared.bus.change_record::<PlaybackSession>(&playback_id.to_string(), renewed).await?;
        // After the record: a session that names a slot holds it. What can't be left now only costs its holder's place later.
        if let Err(error) = slots::release_slots(&shared.bus, &basis.left, playback_id).await {
            tracing::warn!(%error, "a session could not leave the slot of a token it rests on no more");
        }
        match held.map(|held| held.record) {
            Some(PlaybackSession { revoked: None, granted_until_ms, .. }) => Ok(Some(granted_until_ms)),
            Some(PlaybackSession { revoked: Some(code), blocks, .. }) => {
                Err(PlaybackDenied::Closed { code, blocks })
            }
            None => Err(PlaybackDenied::from_reason(GateReasonCode::SessionUnknown)),
        }
    }
}

/// What a session rests on from now on, compared with what it rested on.
struct SlotChanges<'a> {
    /// Another rule, or other tokens of the same.
    is_new: bool,
    /// Slots that it has to hold still.
    kept: Vec<&'a String>,
    /// Slots that it needs no more.
    left: Vec<&'a String>,
}

impl<'a> SlotChanges<'a> {
    fn from_session(session: &'a PlaybackSession, ruling: &AccessDecision) -> Self {
        let is_named = |key: &&String| ruling.places.iter().any(|place| place.key == **key);
        // Only a grant names tokens; while the newest block is not confirmed, the session rests on those it has.
        let moves = ruling.granted
            && (ruling.places.len() != session.slots.len()
                || !session.slots.iter().all(|key| is_named(&key)));
        let same_rule = ruling.rule_digest == session.rule_digest;
        if same_rule && !moves {
            return Self { is_new: false, kept: session.slots.iter().collect(), left: Vec::new() };
        }
        let (kept, left) = session.slots.iter().partition(is_named);
        // Under another rule it is let in anew, as if it came now.
        Self { is_new: true, kept: if same_rule { kept } else { Vec::new() }, left }
    }
}

/// Who a session plays for.
fn session_viewer(session: &PlaybackSession) -> GateViewer {
    let address = session.wallet.as_ref().and_then(|text| text.parse().ok());
    let wallet = address.map(|address| WalletAccount { address, chain_id: session.wallet_chain_id });
    GateViewer { name: session.viewer.clone(), wallet, rights: session.rights, opener: session.opener }
}
