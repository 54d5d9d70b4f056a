//! The ownership question: does a wallet satisfy one condition, and at which block was that read? It opens nothing.

use axum::{
    Extension, Json,
    extract::State as Extract,
    http::Method,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::gate::{ChainBlock, Eip55Schema, GateReasonCode, GateRule, RuleInput};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::GateApiState;
use auth::Principal;
use gate::problem::chain_unavailable;
use gate::{
    decide::RuleTruth,
    gate_evaluator::SessionVerdict,
    rule::{compile_rule, parse_address},
};
use web::{
    access_sums::AccessOutcome,
    body,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// The question.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OwnershipQuestion", example = json!({ "address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "rule": { "kind": "erc721_owner", "chain_id": 1, "contract": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359" } }))]
pub(super) struct OwnershipQuestion {
    /// The wallet asked about.
    #[schemars(with = "Eip55Schema")]
    address: String,
    /// One condition on a contract: `erc721_owner`, `erc1155_balance` or `erc20_balance`.
    #[schemars(with = "GateRule")]
    rule: RuleInput,
}

/// What a contract said about a wallet, at which blocks.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Ownership", example = json!({
    "address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "rule": { "kind": "erc721_owner", "chain_id": 1, "contract": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359" }, "holds": true, "confirmed": true, "reason": "rule_holds",
    "block": { "chain_id": 1, "number": 23_000_000, "hash": "0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6" }, "confirmed_block": { "chain_id": 1, "number": 23_000_000, "hash": "0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6" },
}))]
pub(super) struct OwnershipAnswer {
    /// The wallet asked about, EIP-55.
    address: String,
    /// The condition in its canonical form.
    rule: GateRule,
    /// True when it holds at the newest block.
    holds: bool,
    /// True when it holds at the confirmed block, too.
    confirmed: bool,
    /// Why.
    reason: GateReasonCode,
    /// The newest block, which was read.
    block: ChainBlock,
    /// The confirmed block.
    confirmed_block: ChainBlock,
}

pub(super) static CHECK_OWNERSHIP: Operation = Operation::change(
    Method::POST,
    "/v1/auth/nft",
    OperationAccess::UnlimitedPrincipal,
    Some(RateLimitGroup::Auth),
    &[],
);

/// Ask whether a wallet owns something
///
/// It opens nothing: the answer tells at which blocks that was read.
#[utoipa::path(
    post,
    path = CHECK_OWNERSHIP.path,
    tag = "gate",
    operation_id = "ask_ownership",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/OwnershipQuestion"), content_type = "application/json"),
    responses(
        (status = 200, description = "What the contract says", body = ref("#/components/schemas/Ownership"),
         headers(("Idempotency-Replayed"))),
        (status = 422, description = "The question can't be asked here: `pointer` says why"),
    ),
)]
pub(super) async fn check_ownership(
    Extract(state): Extract<GateApiState>,
    _who: Principal,
    body::JsonBody(question): body::JsonBody<OwnershipQuestion>,
) -> Result<Response, Problem> {
    let wallet = parse_address(&question.address)
        .map_err(|reason| Problem::new(ProblemCode::AddressInvalid).with_pointer("/address", reason))?;
    if !matches!(
        question.rule.0,
        GateRule::Erc721Owner { .. } | GateRule::Erc1155Balance { .. } | GateRule::Erc20Balance { .. }
    ) {
        let detail = "this takes erc721_owner, erc1155_balance or erc20_balance".to_owned();
        return Err(Problem::new(ProblemCode::RuleInvalid).with_pointer("/rule/kind", detail));
    }
    let rule = compile_rule(&question.rule.0).map_err(|invalid| {
        Problem::new(ProblemCode::RuleInvalid)
            .with_pointer(&format!("/rule{}", invalid.pointer), invalid.reason)
    })?;
    let decision = state.judge.decide(&rule, Some(wallet)).await;
    if decision.verdict.code == GateReasonCode::ChainUnknown {
        let detail = "the chain is not configured here".to_owned();
        return Err(Problem::new(ProblemCode::ChainUnknown).with_pointer("/rule/chain_id", detail));
    }
    let (SessionVerdict::On | SessionVerdict::Over(_), [block], [confirmed]) =
        (decision.session_verdict(), decision.latest.as_slice(), decision.confirmed.as_slice())
    else {
        return Err(chain_unavailable());
    };
    let answer = OwnershipAnswer {
        address: wallet.to_string(),
        holds: decision.verdict.latest == RuleTruth::Yes,
        confirmed: decision.verdict.granted,
        reason: decision.verdict.code,
        block: block.clone(),
        confirmed_block: confirmed.clone(),
        rule: rule.rule,
    };
    let outcome = Extension(AccessOutcome(if answer.confirmed { "held" } else { "not_held" }));
    Ok((outcome, [(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"))], Json(answer))
        .into_response())
}
