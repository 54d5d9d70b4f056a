//! The ownership question: does a wallet satisfy one condition, and at which block was that read? It opens nothing.

use axum::{
    Json,
    body::Bytes,
    extract::State as Extract,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use schemas::gate::{Code, Rule};
use serde::Deserialize;
use serde_json::json;

use super::{State, chain_unavailable, json, unusable};
use crate::{
    auth::{
        Principal,
        gate::{
            decide::Truth,
            judge::Keep,
            rule::{address, compile},
        },
    },
    ingress::error::Problem,
};

/// The question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The wallet asked about.
    address: String,
    /// One condition on a contract.
    rule: Rule,
}

pub(super) async fn ask(
    Extract(state): Extract<State>,
    _who: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let question: Question = json(&headers, &body)?;
    let wallet =
        address(&question.address).map_err(|reason| unusable("address_invalid", "/address", reason))?;
    if !matches!(
        question.rule,
        Rule::Erc721Owner { .. } | Rule::Erc1155Balance { .. } | Rule::Erc20Balance { .. }
    ) {
        let detail = "this takes erc721_owner, erc1155_balance or erc20_balance".to_owned();
        return Err(unusable("rule_invalid", "/rule/kind", detail));
    }
    let rule = compile(&question.rule)
        .map_err(|invalid| unusable("rule_invalid", &format!("/rule{}", invalid.pointer), invalid.reason))?;
    let decision = state.judge.decide(&rule, Some(wallet)).await;
    if decision.verdict.code == Code::ChainUnknown {
        let detail = "the chain is not configured here".to_owned();
        return Err(unusable("chain_unknown", "/rule/chain_id", detail));
    }
    let (Keep::On | Keep::Over(_), [block], [confirmed]) =
        (decision.keep(), decision.latest.as_slice(), decision.confirmed.as_slice())
    else {
        return Err(chain_unavailable());
    };
    let body = json!({
        "address": wallet.to_string(),
        "rule": rule.rule,
        "holds": decision.verdict.latest == Truth::Yes,
        "confirmed": decision.verdict.granted,
        "reason": decision.verdict.code,
        "block": block,
        "confirmed_block": confirmed,
    });
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"))], Json(body)).into_response())
}
