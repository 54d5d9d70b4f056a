//! Showing, setting and removing a gate. Only the owner of the medium and an administrator change it.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use axum::{
    Json,
    extract::{Path, State as Extract},
    http::Method,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use evm::{BlockRef, ChainError};
use futures::future::try_join_all;
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    document::{self, MediaChanged},
    gate::{GateChanged, GateRule, MediaGate, RuleInput},
    ids::MediaId,
};
use serde::Serialize;
use serde_json::json;

use super::GateApiState;
use auth::Principal;
use gate::problem::chain_unavailable;
use gate::{
    abi,
    access::{self, GatedMedium},
    rule::{CompiledRule, RuleLeaf, compile_rule},
};
use web::{
    body,
    conditional::{self, EntityTag},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// The prefix of the code of an account that merely delegates (EIP-7702): it is no contract of its own.
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

/// The gate of a medium.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GateDocument", example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "access": "rule", "rule": { "kind": "erc721_owner", "chain_id": 1, "contract": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359" },
    "rule_digest": "3b2c5a6a1f0d4a5e8c9b7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a", "changed_at_ms": 1_763_900_814_467_u64,
}))]
pub(super) struct GateDocument<'a> {
    /// The medium.
    media_id: MediaId,
    /// Said in words, so that nobody takes a missing rule for an open door.
    access: GateAccess,
    /// Who may play.
    rule: Option<&'a GateRule>,
    /// SHA-256 of the rule's canonical form, lower-case hex.
    rule_digest: Option<&'a str>,
    /// Unix time in milliseconds of the last change; null while there was none.
    changed_at_ms: Option<u64>,
}

/// What decides who may play.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GateAccess")]
enum GateAccess {
    /// The rule.
    Rule,
    /// There is no rule: the owner alone plays.
    OwnerOnly,
}

pub(super) static READ_GATE: Operation = Operation::read(
    "/v1/media/{media_id}/gate",
    OperationAccess::Principal(ApiKeyScope::Gate),
    Some(RateLimitGroup::Metadata),
);

/// Read the gate of a medium
#[utoipa::path(
    get,
    path = READ_GATE.path,
    tag = "gate",
    operation_id = "read_gate",
    params(("media_id", Path)),
    responses((status = 200, description = "The gate", body = ref("#/components/schemas/GateDocument"), headers(("ETag")))),
)]
pub(super) async fn read_gate(
    Extract(state): Extract<GateApiState>,
    who: Principal,
    Path(media_id): Path<String>,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&media_id)?;
    let medium = load_visible_medium(&state, &who, media_id).await?;
    Ok(gate_response(media_id, medium.gate.as_ref()))
}

pub(super) static SET_GATE: Operation = Operation::change(
    Method::PUT,
    "/v1/media/{media_id}/gate",
    OperationAccess::Principal(ApiKeyScope::Gate),
    Some(RateLimitGroup::Metadata),
    &["gate.changed", "media.changed"],
);

/// Set the gate of a medium
///
/// A rule is stored only when it can be decided here: its chains are configured and its contracts have code.
#[utoipa::path(
    put,
    path = SET_GATE.path,
    tag = "gate",
    operation_id = "set_gate",
    params(("media_id", Path), ("If-Match", Header)),
    request_body(content = ref("#/components/schemas/Rule"), content_type = "application/json"),
    responses(
        (status = 200, description = "The gate as it is now", body = ref("#/components/schemas/GateDocument"), headers(("ETag"))),
        (status = 422, description = "The rule can't be used: `pointer` says where"),
    ),
)]
pub(super) async fn set_gate(
    Extract(state): Extract<GateApiState>,
    who: Principal,
    Path(media_id): Path<String>,
    headers: HeaderMap,
    body::JsonBody(RuleInput(rule)): body::JsonBody<RuleInput>,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&media_id)?;
    let medium = load_changeable_medium(&state, &who, media_id).await?;
    conditional::check_if_match(&headers, Some(gate_tag(medium.gate.as_ref())))?;
    let compiled = compile_rule(&rule).map_err(|invalid| {
        Problem::new(ProblemCode::RuleInvalid).with_pointer(&invalid.pointer, invalid.reason)
    })?;
    check_contracts(&state, &compiled).await?;
    change_gate(&state, &who, media_id, &headers, Some(&compiled)).await
}

pub(super) static REMOVE_GATE: Operation = Operation::change(
    Method::DELETE,
    "/v1/media/{media_id}/gate",
    OperationAccess::Principal(ApiKeyScope::Gate),
    Some(RateLimitGroup::Metadata),
    &["gate.changed"],
);

/// Remove the gate of a medium
///
/// Its owner alone plays it from now on.
#[utoipa::path(
    delete,
    path = REMOVE_GATE.path,
    tag = "gate",
    operation_id = "remove_gate",
    params(("media_id", Path), ("If-Match", Header)),
    responses((status = 200, description = "The gate as it is now", body = ref("#/components/schemas/GateDocument"), headers(("ETag")))),
)]
pub(super) async fn remove_gate(
    Extract(state): Extract<GateApiState>,
    who: Principal,
    Path(media_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&media_id)?;
    load_changeable_medium(&state, &who, media_id).await?;
    change_gate(&state, &who, media_id, &headers, None).await
}

fn parse_media_id(text: &str) -> Result<MediaId, Problem> {
    text.parse().map_err(|_| medium_not_found())
}

fn medium_not_found() -> Problem {
    Problem::not_found("there is no such medium")
}

/// The medium, if the principal may see it; its gate is nobody else's business.
async fn load_visible_medium(
    state: &GateApiState,
    who: &Principal,
    media_id: MediaId,
) -> Result<GatedMedium, Problem> {
    let medium = access::load_medium(&state.bus, media_id).await?;
    medium.filter(|medium| who.may_see(&medium.owner)).ok_or_else(medium_not_found)
}

async fn load_changeable_medium(
    state: &GateApiState,
    who: &Principal,
    media_id: MediaId,
) -> Result<GatedMedium, Problem> {
    let medium = load_visible_medium(state, who, media_id).await?;
    if who.may_change(&medium.owner) { Ok(medium) } else { Err(Problem::new(ProblemCode::NotOwner)) }
}

/// Refuses a rule that could never be decided here.
async fn check_contracts(state: &GateApiState, rule: &CompiledRule) -> Result<(), Problem> {
    let chains = state.judge.chains();
    let asked: BTreeSet<(u64, Address)> =
        rule.leaves().iter().map(|leaf| (leaf.chain_id, leaf.contract)).collect();
    let code = |(chain_id, contract): (u64, Address)| async move {
        match chains.read_code(chain_id, contract, BlockRef::Latest).await {
            Ok(code) if code.is_empty() || code.starts_with(&DELEGATION) => {
                let detail = format!("there is no contract at {contract} on chain {chain_id}");
                Err(Problem::new(ProblemCode::ContractAbsent).with_pointer("", detail))
            }
            Ok(_) => Ok(()),
            Err(ChainError::Unknown { chain_id }) => {
                let known: Vec<String> = chains.chain_ids().iter().map(u64::to_string).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("chain {chain_id} is not configured here; configured: {known}");
                Err(Problem::new(ProblemCode::ChainUnknown).with_pointer("", detail))
            }
            Err(error) => {
                tracing::warn!(%error, "a contract could not be looked at");
                Err(chain_unavailable())
            }
        }
    };
    try_join_all(asked.into_iter().map(code)).await?;
    try_join_all(rule.leaves().iter().map(|leaf| check_interface(state, leaf))).await?;
    Ok(())
}

/// Refuses to count tokens where the contract does not say that a balance is a number of them.
async fn check_interface(state: &GateApiState, leaf: &RuleLeaf) -> Result<(), Problem> {
    let Some((contract, data)) = abi::build_interface_call(leaf) else { return Ok(()) };
    let chains = state.judge.chains();
    let outcome = match chains.read_head(leaf.chain_id).await {
        Ok(head) => chains.call_contract(leaf.chain_id, contract, data, BlockRef::At(head.latest.hash)).await,
        Err(error) => Err(error),
    };
    match abi::is_erc721(&outcome) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let detail = format!(
                "{contract} does not say by supportsInterface that it is of ERC-721, so its balances may count fractions: name a \
                 token_id, or use erc20_balance"
            );
            Err(Problem::new(ProblemCode::RuleInvalid).with_pointer("", detail))
        }
        Err(_) => Err(chain_unavailable()),
    }
}

async fn change_gate(
    state: &GateApiState,
    who: &Principal,
    media_id: MediaId,
    headers: &HeaderMap,
    rule: Option<&CompiledRule>,
) -> Result<Response, Problem> {
    // Until now only the stages know of it: the document begins with the gate.
    let bare = access::load_medium(&state.bus, media_id)
        .await?
        .map(|medium| document::MediaDocumentRecord::new(media_id, medium.owner, nats::now_ms()));
    let mut found = Err(medium_not_found());
    let changed = |document: Option<&document::MediaDocumentRecord>| {
        let document = document.or(bare.as_ref()).filter(|document| who.may_change(&document.owner));
        found = document.ok_or_else(medium_not_found).and_then(|document| {
            conditional::check_if_match(headers, Some(gate_tag(document.gate.as_ref())))?;
            Ok(next_listed_document(document, rule, &who.owner))
        });
        // What is refused changes nothing.
        found.as_mut().ok().and_then(Option::take)
    };
    let held =
        Box::pin(state.bus.change_record::<document::MediaDocumentRecord>(&media_id.to_string(), changed))
            .await?;
    found?;
    Ok(gate_response(media_id, held.as_ref().and_then(|held| held.record.gate.as_ref())))
}

/// The entity tag of a gate: its epoch, which never repeats; 0 before the first.
fn gate_tag(gate: Option<&MediaGate>) -> EntityTag {
    EntityTag::from_gate_epoch(gate.map_or(0, |gate| gate.epoch))
}

/// The same of a document that nobody keeps out of lists any more: who sets or removes its gate says who plays it anew.
fn next_listed_document(
    document: &document::MediaDocumentRecord,
    rule: Option<&CompiledRule>,
    changed_by: &str,
) -> Option<(document::MediaDocumentRecord, Outbox)> {
    if !document.is_unlisted {
        return next_document(document, rule, changed_by);
    }
    let listed = document::MediaDocumentRecord { is_unlisted: false, ..document.clone() };
    next_document(&listed, rule, changed_by).or_else(|| {
        let listed = document::MediaDocumentRecord { changed_at_ms: nats::now_ms(), ..listed };
        let changed = MediaChanged::new(&listed, changed_by, &["visibility"]);
        Some((listed, Outbox::new().with_event(&changed)))
    })
}

/// The document with its new gate and the event of the change; `None` when it has that rule already.
pub(crate) fn next_document(
    document: &document::MediaDocumentRecord,
    rule: Option<&CompiledRule>,
    changed_by: &str,
) -> Option<(document::MediaDocumentRecord, Outbox)> {
    let (epoch, digest) =
        document.gate.as_ref().map_or((0, ""), |gate| (gate.epoch, gate.rule_digest.as_str()));
    let rule_digest = rule.map(|rule| rule.digest.clone()).unwrap_or_default();
    if rule_digest == digest {
        return None;
    }
    let changed_at_ms = nats::now_ms();
    let changed = GateChanged {
        media_id: document.media_id,
        owner: document.owner.clone(),
        changed_by: changed_by.to_owned(),
        gate_epoch: epoch + 1,
        rule_digest: rule_digest.clone(),
    };
    let gate =
        MediaGate { epoch: epoch + 1, rule: rule.map(|rule| rule.rule.clone()), rule_digest, changed_at_ms };
    let record = document::MediaDocumentRecord { gate: Some(gate), changed_at_ms, ..document.clone() };
    Some((record, Outbox::new().with_event(&changed)))
}

fn gate_response(media_id: MediaId, gate: Option<&MediaGate>) -> Response {
    let rule = gate.and_then(|gate| gate.rule.as_ref());
    let body = GateDocument {
        media_id,
        access: if rule.is_some() { GateAccess::Rule } else { GateAccess::OwnerOnly },
        rule,
        rule_digest: gate.map(|gate| gate.rule_digest.as_str()).filter(|digest| !digest.is_empty()),
        changed_at_ms: gate.map(|gate| gate.changed_at_ms),
    };
    let headers =
        [(header::ETAG, gate_tag(gate).to_header()), (header::CACHE_CONTROL, private_cache_control())];
    (StatusCode::OK, headers, Json(body)).into_response()
}

const fn private_cache_control() -> axum::http::HeaderValue {
    axum::http::HeaderValue::from_static("private, no-store")
}
