//! `GET/PUT/DELETE /v1/media/{media_id}/gate`: the owner's rule. `POST /v1/auth/nft`: who owns what, at which block.
//!
//! A change names the version it changes (`If-Match`), so that no owner's change is lost. A rule is stored only when it can be
//! decided here: its chains are configured and its contracts have code.
//!
//! Limits: a body has at most [`BODY_BYTES_MAX`] bytes; for rules see [`super::rule`].

mod change;
mod ownership;
mod precondition;
#[cfg(test)]
mod tests;

use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::{HeaderMap, StatusCode, header},
    routing::{get, post},
};
use nats::Bus;
use schemas::gate::Code;
use serde::de::DeserializeOwned;

use super::{grant::Denied, judge::Judge};
use crate::ingress::error::Problem;

/// Largest body in bytes.
pub const BODY_BYTES_MAX: usize = 128 * 1024;

/// What the routes need.
#[derive(Debug, Clone)]
pub struct State {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Decides, and knows the chains.
    pub judge: Judge,
}

/// The routes of gates. They expect [`crate::auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: State) -> Router<S> {
    Router::new()
        .route("/v1/media/{media_id}/gate", get(change::show).put(change::put).delete(change::delete))
        .route("/v1/auth/nft", post(ownership::ask))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Reads a JSON body; the answer to what is wrong names the place.
fn json<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Problem> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(
            status,
            "unsupported_media_type",
            "This takes a body of type application/json",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request("malformed_body", "The body can't be read").detail(error.to_string())
    })
}

/// 422: well formed, and yet it can't be used; `pointer` says where (RFC 6901).
fn unusable(code: &'static str, pointer: &str, detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, "The rule can't be used")
        .detail(detail)
        .member("pointer", pointer)
}

/// 503: the nodes of a chain give no answer that could be relied on.
fn chain_unavailable() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "chain_unavailable", "The chain can't be read at present")
        .retry_after_s(2)
}

/// What a closed gate lacks, for people.
const fn why(code: Code) -> &'static str {
    match code {
        Code::NotListed => "this wallet is not on the list",
        Code::NotOwner => "this wallet does not own the token",
        Code::BalanceLow => "this wallet holds too little",
        Code::NotConfirmed => "the chain has not confirmed it yet; try again in a moment",
        Code::ContractFailed => "the contract refuses the question; the token may not exist",
        Code::ContractMalformed => "the contract does not answer as its standard says",
        Code::ContractAbsent => "there is no such contract",
        Code::ChainUnknown => "its chain is not configured here",
        Code::RuleInvalid => "its rule can't be understood",
        _ => "its rule does not hold",
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let (code, blocks) = match denied {
            Denied::Closed { code, blocks } => (code, blocks),
            Denied::Unavailable(error) => return error.into(),
        };
        let problem = match code {
            // Not there, or not for you: both answer the same.
            Code::Private | Code::Gone | Code::SessionUnknown => {
                return Self::not_found("There is no such medium");
            }
            Code::ChainUnavailable | Code::ChainDisagrees => chain_unavailable(),
            Code::WalletNeeded => {
                Self::new(StatusCode::UNAUTHORIZED, "wallet_needed", "Sign in with a wallet to play this")
            }
            _ => Self::forbidden("gate_closed", "The gate of this medium is closed to you").detail(why(code)),
        };
        let reason = serde_json::to_value(code).unwrap_or_default();
        problem.member("reason", reason).member("blocks", serde_json::to_value(blocks).unwrap_or_default())
    }
}
