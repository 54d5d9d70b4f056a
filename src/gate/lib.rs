//! Gates: an owner's rule of who may play a medium, decided from facts of one block, and the playback sessions it lets in.
//!
//! - `rule`: reads and checks a rule. `decide`: the pure core, three-valued: what is not known never grants, not under `not`
//!   either.
//! - `access`: a medium, its gate and a viewer. `abi`: the few contract calls, read strictly. `judge`: facts by quorum, one
//!   decision a block, once however many ask.
//! - [`grant`]: playback sessions.
//!
//! A gate opens when the rule holds at the newest block and at the confirmed one; it closes as soon as it fails at the newest. No
//! rule means that only the owner plays.
//!
//! Limits: see [`rule`] for rules, [`gate_evaluator`] for decisions, [`grant::GrantConfig`] for sessions.

pub mod abi;
pub mod access;
pub mod decide;
pub mod gate_evaluator;
pub mod grant;
pub mod problem;
pub mod rule;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

use schemas::access::PrincipalRole;
pub use schemas::gate::{PlaybackCredential, ViewerRights};

use auth::{Principal, account::WalletAccount};

/// Who wants to play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateViewer {
    /// The name media are owned by; empty for nobody.
    pub name: String,
    /// The account that was proven by signing in; never what a request merely says.
    pub wallet: Option<WalletAccount>,
    /// What it may do.
    pub rights: ViewerRights,
    /// What it showed of itself.
    pub opener: Option<PlaybackCredential>,
}

impl GateViewer {
    /// Somebody who did not sign in.
    pub const fn anonymous() -> Self {
        Self { name: String::new(), wallet: None, rights: ViewerRights::None, opener: None }
    }

    /// A known principal, with the account it signed in with, if it did.
    pub fn from_principal(principal: &Principal) -> Self {
        let rights = match principal.role {
            PrincipalRole::Admin => ViewerRights::Admin,
            PrincipalRole::Owner => ViewerRights::Owner,
            PrincipalRole::Operator => ViewerRights::None,
        };
        Self {
            name: principal.owner.clone(),
            wallet: principal.wallet,
            rights,
            opener: principal.credential(),
        }
    }

    /// True when no gate stands between it and what `owner` owns.
    pub fn bypasses_gate_of(&self, owner: &str) -> bool {
        match self.rights {
            ViewerRights::Admin => true,
            ViewerRights::Owner => !self.name.is_empty() && self.name == owner,
            ViewerRights::None => false,
        }
    }
}
