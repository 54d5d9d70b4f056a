//! Showing, setting and removing a gate. Only the owner of the medium and an administrator change it.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State as Extract},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::future::try_join_all;
use nats::Outbox;
use schemas::{
    document,
    gate::{Changed, Gate},
    ids::MediaId,
};
use serde_json::json;

use super::{
    State, chain_unavailable, json,
    precondition::{self, Wanted, etag},
    unusable,
};
use crate::{
    auth::{
        Principal,
        chain::{BlockRef, Error},
        gate::{
            access::{self, Medium},
            rule::{Compiled, compile},
        },
    },
    ingress::error::Problem,
};

/// The prefix of the code of an account that merely delegates (EIP-7702): it is no contract of its own.
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

pub(super) async fn show(
    Extract(state): Extract<State>,
    who: Principal,
    Path(media_id): Path<String>,
) -> Result<Response, Problem> {
    let media_id = parse(&media_id)?;
    let medium = seen(&state, &who, media_id).await?;
    Ok(answer(media_id, medium.gate.as_ref()))
}

pub(super) async fn put(
    Extract(state): Extract<State>,
    who: Principal,
    Path(media_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let media_id = parse(&media_id)?;
    changeable(&state, &who, media_id).await?;
    let wanted = Wanted::read(&headers)?;
    let compiled = compile(&json(&headers, &body)?)
        .map_err(|invalid| unusable("rule_invalid", &invalid.pointer, invalid.reason))?;
    check_contracts(&state, &compiled).await?;
    change(&state, &who, media_id, &wanted, Some(&compiled)).await
}

pub(super) async fn delete(
    Extract(state): Extract<State>,
    who: Principal,
    Path(media_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = parse(&media_id)?;
    changeable(&state, &who, media_id).await?;
    change(&state, &who, media_id, &Wanted::read(&headers)?, None).await
}

fn parse(text: &str) -> Result<MediaId, Problem> {
    text.parse().map_err(|_| unknown())
}

fn unknown() -> Problem {
    Problem::not_found("There is no such medium")
}

/// The medium, if the principal may see it; its gate is nobody else's business.
async fn seen(state: &State, who: &Principal, media_id: MediaId) -> Result<Medium, Problem> {
    let medium = access::medium(&state.bus, media_id).await?;
    medium.filter(|medium| who.may_see(&medium.owner)).ok_or_else(unknown)
}

async fn changeable(state: &State, who: &Principal, media_id: MediaId) -> Result<Medium, Problem> {
    let medium = seen(state, who, media_id).await?;
    if who.may_change(&medium.owner) {
        Ok(medium)
    } else {
        Err(Problem::forbidden("not_owner", "Only its owner may change this"))
    }
}

/// Refuses a rule that could never be decided here.
async fn check_contracts(state: &State, rule: &Compiled) -> Result<(), Problem> {
    let chains = state.judge.chains();
    let asked: BTreeSet<(u64, Address)> =
        rule.leaves().iter().map(|leaf| (leaf.chain_id, leaf.contract)).collect();
    let code = |(chain_id, contract): (u64, Address)| async move {
        match chains.code(chain_id, contract, BlockRef::Latest).await {
            Ok(code) if code.is_empty() || code.starts_with(&DELEGATION) => {
                let detail = format!("there is no contract at {contract} on chain {chain_id}");
                Err(unusable("contract_absent", "", detail))
            }
            Ok(_) => Ok(()),
            Err(Error::Unknown { chain_id }) => {
                let known: Vec<String> = chains.ids().iter().map(u64::to_string).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("chain {chain_id} is not configured here; configured: {known}");
                Err(unusable("chain_unknown", "", detail))
            }
            Err(error) => {
                tracing::warn!(%error, "a contract could not be looked at");
                Err(chain_unavailable())
            }
        }
    };
    try_join_all(asked.into_iter().map(code)).await?;
    Ok(())
}

/// What the change found.
enum Found {
    Nothing,
    Foreign,
    Newer,
    Fitting,
}

async fn change(
    state: &State,
    who: &Principal,
    media_id: MediaId,
    wanted: &Wanted,
    rule: Option<&Compiled>,
) -> Result<Response, Problem> {
    // Until now only the stages know of it: the document begins with the gate.
    let bare = access::medium(&state.bus, media_id).await?.map(|medium| document::Record {
        media_id,
        owner: medium.owner,
        title: String::new(),
        gate: None,
        encryption: document::Encryption::None,
        created_at_ms: nats::now_ms(),
        changed_at_ms: nats::now_ms(),
    });
    let mut found = Found::Nothing;
    let changed = |document: Option<&document::Record>| {
        let document = document.or(bare.as_ref())?;
        if !who.may_change(&document.owner) {
            found = Found::Foreign;
            return None;
        }
        if !wanted.allows(document.gate.as_ref().map_or(0, |gate| gate.epoch)) {
            found = Found::Newer;
            return None;
        }
        found = Found::Fitting;
        next(document, rule, who)
    };
    let held = Box::pin(state.bus.change::<document::Record>(&media_id.to_string(), changed)).await?;
    match found {
        Found::Nothing | Found::Foreign => Err(unknown()),
        Found::Newer => Err(precondition::failed()),
        Found::Fitting => Ok(answer(media_id, held.as_ref().and_then(|held| held.record.gate.as_ref()))),
    }
}

/// The document with its new gate and the event of the change; `None` when it has that rule already.
fn next(
    document: &document::Record,
    rule: Option<&Compiled>,
    who: &Principal,
) -> Option<(document::Record, Outbox)> {
    let (epoch, digest) =
        document.gate.as_ref().map_or((0, ""), |gate| (gate.epoch, gate.rule_digest.as_str()));
    let rule_digest = rule.map(|rule| rule.digest.clone()).unwrap_or_default();
    if rule_digest == digest {
        return None;
    }
    let changed_at_ms = nats::now_ms();
    let changed = Changed {
        media_id: document.media_id,
        owner: document.owner.clone(),
        changed_by: who.owner.clone(),
        gate_epoch: epoch + 1,
        rule_digest: rule_digest.clone(),
    };
    let gate =
        Gate { epoch: epoch + 1, rule: rule.map(|rule| rule.rule.clone()), rule_digest, changed_at_ms };
    let record = document::Record { gate: Some(gate), changed_at_ms, ..document.clone() };
    Some((record, Outbox::new().event(&changed)))
}

fn answer(media_id: MediaId, gate: Option<&Gate>) -> Response {
    let rule = gate.and_then(|gate| gate.rule.as_ref());
    let body = json!({
        "media_id": media_id,
        // Said in words, so that nobody takes a missing rule for an open door.
        "access": if rule.is_some() { "rule" } else { "owner_only" },
        "rule": rule,
        "rule_digest": gate.map(|gate| gate.rule_digest.as_str()).filter(|digest| !digest.is_empty()),
        "changed_at_ms": gate.map(|gate| gate.changed_at_ms),
    });
    let headers =
        [(header::ETAG, etag(gate.map_or(0, |gate| gate.epoch))), (header::CACHE_CONTROL, private())];
    (StatusCode::OK, headers, Json(body)).into_response()
}

const fn private() -> axum::http::HeaderValue {
    axum::http::HeaderValue::from_static("private, no-store")
}
