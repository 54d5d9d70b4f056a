//! Why nobody plays, as a client sees it.

use schemas::gate::GateReasonCode;
use web::{error::Problem, problem_code::ProblemCode};

use crate::grant::PlaybackDenied;

/// 503: the nodes of a chain give no answer that could be relied on.
pub fn chain_unavailable() -> Problem {
    Problem::new(ProblemCode::ChainUnavailable).with_retry_after_s(2)
}

/// What a closed gate lacks, for people.
const fn describe_reason(code: GateReasonCode) -> &'static str {
    match code {
        GateReasonCode::NotListed => "this wallet is not on the list",
        GateReasonCode::NotOwner => "this wallet does not own the token",
        GateReasonCode::BalanceLow => "this wallet holds too little",
        GateReasonCode::NotConfirmed => "the chain has not confirmed it yet; try again in a moment",
        GateReasonCode::ContractFailed => "the contract refuses the question; the token may not exist",
        GateReasonCode::ContractMalformed => "the contract does not answer as its standard says",
        GateReasonCode::ContractAbsent => "there is no such contract",
        GateReasonCode::ChainUnknown => "its chain is not configured here",
        GateReasonCode::RuleInvalid => "its rule can't be understood",
        _ => "its rule does not hold",
    }
}

impl From<PlaybackDenied> for Problem {
    fn from(denied: PlaybackDenied) -> Self {
        let (code, blocks) = match denied {
            PlaybackDenied::Closed { code, blocks } => (code, blocks),
            PlaybackDenied::Busy => return Self::busy("Too many playback sessions at once"),
            PlaybackDenied::Unavailable(error) => return error.into(),
        };
        let problem = match code {
            // Not there, or not for you: both answer the same.
            GateReasonCode::Private | GateReasonCode::Gone | GateReasonCode::SessionUnknown => {
                return Self::not_found("there is no such medium");
            }
            GateReasonCode::ChainUnavailable | GateReasonCode::ChainDisagrees => chain_unavailable(),
            GateReasonCode::WalletNeeded => Self::new(ProblemCode::WalletNeeded),
            _ => Self::new(ProblemCode::GateClosed).with_detail(describe_reason(code)),
        };
        let reason = serde_json::to_value(code).unwrap_or_default();
        problem
            .with_member("reason", reason)
            .with_member("blocks", serde_json::to_value(blocks).unwrap_or_default())
    }
}
