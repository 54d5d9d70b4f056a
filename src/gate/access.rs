//! A medium, its gate and a viewer: what is decided, and what a session has to remember of it.

use alloy_primitives::keccak256;
use data_encoding::HEXLOWER;
use nats::{Bus, BusError};
use schemas::{
    KvRecord as _, document,
    gate::{ChainBlock, GateReasonCode, MediaGate, WatchedContract},
    ids::MediaId,
    media,
};

use super::{
    GateViewer,
    decide::TokenClaim,
    gate_evaluator::{GateEvaluator, SessionVerdict},
    rule::{CompiledRule, TokenCondition, compile_rule},
};
use auth::account::WalletAccount;

/// Whose a medium is, and its gate.
#[derive(Debug, Clone)]
pub struct GatedMedium {
    /// Whose it is.
    pub owner: String,
    /// Its gate; without one only the owner plays.
    pub gate: Option<MediaGate>,
}

/// A slot that a session takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequiredSlot {
    pub(super) key: String,
    pub(super) sessions_max: usize,
}

/// What was decided about a viewer and a medium.
#[derive(Debug, Clone)]
pub(super) struct AccessDecision {
    pub(super) owner: String,
    pub(super) gate_epoch: u64,
    pub(super) rule_digest: String,
    /// Whether a new session may begin.
    pub(super) granted: bool,
    /// What happens to one that exists.
    pub(super) keep: SessionVerdict,
    pub(super) code: GateReasonCode,
    pub(super) blocks: Vec<ChainBlock>,
    pub(super) places: Vec<RequiredSlot>,
    pub(super) watches: Vec<WatchedContract>,
}

/// Reads a medium; `None` when there is none.
///
/// Until the owner says something about it there is only what the stages know.
pub async fn load_medium(bus: &Bus, media_id: MediaId) -> Result<Option<GatedMedium>, BusError> {
    let key = media_id.to_string();
    // With tombstones: a removed medium must not fall through to its record, which names no gate.
    if let Some(held) = bus.load_with_tombstone::<document::MediaDocumentRecord>(&key).await? {
        let document = Some(held.record).filter(|document| !document.is_removed());
        return Ok(document.map(|document| GatedMedium { owner: document.owner, gate: document.gate }));
    }
    let asset = bus.load_record::<media::MediaRecord>(&key).await?;
    Ok(asset.map(|held| GatedMedium { owner: held.record.owner, gate: None }))
}

/// Decides about `viewer` and the medium; `None` when there is no such medium.
pub(super) async fn decide_access(
    bus: &Bus,
    judge: &GateEvaluator,
    media_id: MediaId,
    viewer: &GateViewer,
) -> Result<Option<AccessDecision>, BusError> {
    let Some(medium) = load_medium(bus, media_id).await? else { return Ok(None) };
    let gate_epoch = medium.gate.as_ref().map_or(0, |gate| gate.epoch);
    let closed = AccessDecision {
        owner: medium.owner,
        gate_epoch,
        rule_digest: String::new(),
        granted: false,
        keep: SessionVerdict::Over(GateReasonCode::Private),
        code: GateReasonCode::Private,
        blocks: Vec::new(),
        places: Vec::new(),
        watches: Vec::new(),
    };
    if viewer.bypasses_gate_of(&closed.owner) {
        return Ok(Some(AccessDecision {
            granted: true,
            keep: SessionVerdict::On,
            code: GateReasonCode::Owner,
            ..closed
        }));
    }
    let Some(rule) = medium.gate.and_then(|gate| gate.rule) else { return Ok(Some(closed)) };
    let Ok(compiled) = compile_rule(&rule) else {
        let code = GateReasonCode::RuleInvalid;
        return Ok(Some(AccessDecision { keep: SessionVerdict::Over(code), code, ..closed }));
    };
    let decision = judge.decide(&compiled, viewer.wallet).await;
    judge.chains().counters().count_decision(decision.verdict.code);
    Ok(Some(AccessDecision {
        rule_digest: compiled.digest.clone(),
        granted: decision.verdict.granted,
        keep: decision.session_verdict(),
        code: decision.verdict.code,
        places: required_slots(&compiled, &decision.verdict.claims, viewer.wallet),
        watches: compiled.watched_contracts(),
        blocks: decision.latest,
        ..closed
    }))
}

/// The slots of claimed tokens. Without a token id the wallet stands for its tokens.
fn required_slots(
    rule: &CompiledRule,
    claims: &[TokenClaim],
    wallet: Option<WalletAccount>,
) -> Vec<RequiredSlot> {
    let place = |claim: &TokenClaim| {
        let leaf = rule.leaves().get(claim.leaf)?;
        let TokenCondition::Erc721 { token_id, .. } = leaf.ask else { return None };
        let whose = match token_id {
            Some(token_id) => format!("token {token_id}"),
            // The chain of the token is that of the wallet, where it has one.
            None => format!("wallet {}", wallet?.address),
        };
        let digest = keccak256(format!("{} {} {whose}", leaf.chain_id, leaf.contract));
        let sessions_max = usize::try_from(claim.sessions_max).unwrap_or(1);
        Some(RequiredSlot { key: format!("slot.{}", HEXLOWER.encode(digest.as_slice())), sessions_max })
    };
    let mut places: Vec<RequiredSlot> = Vec::new();
    for place in claims.iter().filter_map(place) {
        // The same token twice in a rule is one slot, and the stricter number counts.
        match places.iter_mut().find(|known| known.key == place.key) {
            Some(known) => known.sessions_max = known.sessions_max.min(place.sessions_max),
            None => places.push(place),
        }
    }
    places
}
