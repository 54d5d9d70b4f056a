//! Why nobody plays, as a client sees it.

use schemas::gate::Code;
use web::{error::Problem, kind::Kind};

use crate::grant::Denied;

/// 503: the nodes of a chain give no answer that could be relied on.
pub fn chain_unavailable() -> Problem {
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
