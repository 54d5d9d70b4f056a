//! `GET/PUT/DELETE /v1/media/{media_id}/gate`: the owner's rule. `POST /v1/auth/nft`: who owns what, at which block.
//!
//! A change names the version it changes (`If-Match`), so that no owner's change is lost. A rule is stored only when it can be
//! decided here: its chains are configured and its contracts have code.
//!
//! Limits: for bodies see [`crate::ingress::body::Limits`], for rules [`super::rule`].

mod change;
mod ownership;
#[cfg(test)]
mod tests;

use axum::{
    Router,
    routing::{get, post},
};
use nats::Bus;
use schemas::gate::{Code, Rule};

use super::{grant::Denied, judge::Judge};
use crate::ingress::{error::Problem, kind::Kind, openapi};

/// What the routes need.
#[derive(Debug, Clone)]
pub struct State {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Decides, and knows the chains.
    pub judge: Judge,
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(change::show, change::put, change::delete, ownership::ask))]
pub(crate) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.ask::<Rule>();
        schemas.answer::<change::Document<'_>>();
        schemas.ask::<ownership::Question>();
        schemas.answer::<ownership::Answer>();
    }
}

/// The routes of gates. They expect [`crate::auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: State) -> Router<S> {
    Router::new()
        .route("/v1/media/{media_id}/gate", get(change::show).put(change::put).delete(change::delete))
        .route("/v1/auth/nft", post(ownership::ask))
        .with_state(state)
}

/// 503: the nodes of a chain give no answer that could be relied on.
fn chain_unavailable() -> Problem {
    Problem::new(Kind::ChainUnavailable).retry_after_s(2)
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
            Denied::Busy => return Self::busy("Too many playback sessions at once"),
            Denied::Unavailable(error) => return error.into(),
        };
        let problem = match code {
            // Not there, or not for you: both answer the same.
            Code::Private | Code::Gone | Code::SessionUnknown => {
                return Self::not_found("there is no such medium");
            }
            Code::ChainUnavailable | Code::ChainDisagrees => chain_unavailable(),
            Code::WalletNeeded => Self::new(Kind::WalletNeeded),
            _ => Self::new(Kind::GateClosed).detail(why(code)),
        };
        let reason = serde_json::to_value(code).unwrap_or_default();
        problem.member("reason", reason).member("blocks", serde_json::to_value(blocks).unwrap_or_default())
    }
}
