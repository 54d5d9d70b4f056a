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
    Viewer,
    decide::Claim,
    judge::{Judge, Keep},
    rule::{Ask, Compiled, compile},
};
use auth::account::Account;

/// Whose a medium is, and its gate.
#[derive(Debug, Clone)]
pub struct Medium {
    /// Whose it is.
    pub owner: String,
    /// Its gate; without one only the owner plays.
    pub gate: Option<MediaGate>,
}

/// A slot that a session takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) sessions_max: usize,
}

/// What was decided about a viewer and a medium.
#[derive(Debug, Clone)]
pub(super) struct Ruling {
    pub(super) owner: String,
    pub(super) gate_epoch: u64,
    pub(super) rule_digest: String,
    /// Whether a new session may begin.
    pub(super) granted: bool,
    /// What happens to one that exists.
    pub(super) keep: Keep,
    pub(super) code: GateReasonCode,
    pub(super) blocks: Vec<ChainBlock>,
    pub(super) places: Vec<Place>,
    pub(super) watches: Vec<WatchedContract>,
}

/// Reads a medium; `None` when there is none.
///
/// Until the owner says something about it there is only what the stages know.
pub async fn medium(bus: &Bus, media_id: MediaId) -> Result<Option<Medium>, BusError> {
    let key = media_id.to_string();
    if let Some(held) = bus.load_with_tombstone::<document::DocumentRecord>(&key).await? {
        let document = Some(held.record).filter(|document| !document.is_removed());
        return Ok(document.map(|document| Medium { owner: document.owner, gate: document.gate }));
    }
    let asset = bus.load_record::<media::MediaRecord>(&key).await?;
    Ok(asset.map(|held| Medium { owner: held.record.owner, gate: None }))
}

/// Decides about `viewer` and the medium; `None` when there is no such medium.
pub(super) async fn rule(
    bus: &Bus,
    judge: &Judge,
    media_id: MediaId,
    viewer: &Viewer,
) -> Result<Option<Ruling>, BusError> {
    let Some(medium) = medium(bus, media_id).await? else { return Ok(None) };
    let gate_epoch = medium.gate.as_ref().map_or(0, |gate| gate.epoch);
    let closed = Ruling {
        owner: medium.owner,
        gate_epoch,
        rule_digest: String::new(),
        granted: false,
        keep: Keep::Over(GateReasonCode::Private),
        code: GateReasonCode::Private,
        blocks: Vec::new(),
        places: Vec::new(),
        watches: Vec::new(),
    };
    if viewer.owns(&closed.owner) {
        return Ok(Some(Ruling { granted: true, keep: Keep::On, code: GateReasonCode::Owner, ..closed }));
    }
    let Some(rule) = medium.gate.and_then(|gate| gate.rule) else { return Ok(Some(closed)) };
    let Ok(compiled) = compile(&rule) else {
        let code = GateReasonCode::RuleInvalid;
        return Ok(Some(Ruling { keep: Keep::Over(code), code, ..closed }));
    };
    let decision = judge.decide(&compiled, viewer.wallet).await;
    judge.chains().counts().decided(decision.verdict.code);
    Ok(Some(Ruling {
        rule_digest: compiled.digest.clone(),
        granted: decision.verdict.granted,
        keep: decision.keep(),
        code: decision.verdict.code,
        places: places(&compiled, &decision.verdict.claims, viewer.wallet),
        watches: compiled.watches(),
        blocks: decision.latest,
        ..closed
    }))
}

/// The slots of claimed tokens. Without a token id the wallet stands for its tokens.
fn places(rule: &Compiled, claims: &[Claim], wallet: Option<Account>) -> Vec<Place> {
    let place = |claim: &Claim| {
        let leaf = rule.leaves().get(claim.leaf)?;
        let Ask::Erc721 { token_id, .. } = leaf.ask else { return None };
        let whose = match token_id {
            Some(token_id) => format!("token {token_id}"),
            // The chain of the token is that of the wallet, where it has one.
            None => format!("wallet {}", wallet?.address),
        };
        let digest = keccak256(format!("{} {} {whose}", leaf.chain_id, leaf.contract));
        let sessions_max = usize::try_from(claim.sessions_max).unwrap_or(1);
        Some(Place { key: format!("slot.{}", HEXLOWER.encode(digest.as_slice())), sessions_max })
    };
    let mut places: Vec<Place> = Vec::new();
    for place in claims.iter().filter_map(place) {
        // The same token twice in a rule is one slot, and the stricter number counts.
        match places.iter_mut().find(|known| known.key == place.key) {
            Some(known) => known.sessions_max = known.sessions_max.min(place.sessions_max),
            None => places.push(place),
        }
    }
    places
}
