//! The evaluator: a rule, a wallet and the facts of two blocks give a decision. Pure.
//!
//! Three values: yes, no, and not known. A thing that is not known never grants: `not` of it is not known either, and neither an
//! address nobody proved nor a contract that did not answer properly counts as "no". An account that a contract proved is known on
//! its own chain alone: what its address owns on another chain may be somebody else's.

use alloy_primitives::{Address, U256};
use schemas::gate::GateReasonCode;

use super::rule::{Ask, Compiled, Leaf, Listed, Node};
use auth::account::Account;

/// What a contract said, or why that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The owner of the token.
    Owner(Address),
    /// The viewer's balance.
    Amount(U256),
    /// Nothing that can be used.
    Failed(GateReasonCode),
}

/// The truth of a rule at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold, and why.
    No(GateReasonCode),
    /// Nobody can say, and why.
    Unknown(GateReasonCode),
}

/// What a session has to hold for its ERC-721 tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The question it comes from.
    pub leaf: usize,
    /// Sessions at a time.
    pub sessions_max: u32,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether a new session may begin: the rule holds at the newest and at the confirmed block.
    pub granted: bool,
    /// The rule at the newest block: what a session that exists goes by.
    pub latest: Truth,
    /// Why.
    pub code: GateReasonCode,
    /// Tokens the grant rests on; empty unless granted.
    pub claims: Vec<Claim>,
}

/// Decides for `wallet` from the facts of the newest and of the confirmed block, one for each question of the rule.
pub fn decide(
    rule: &Compiled,
    wallet: Option<impl Into<Account>>,
    latest: &[Fact],
    confirmed: &[Fact],
) -> Verdict {
    let wallet = wallet.map(Into::into);
    let now = truth(rule, wallet, latest);
    let before = truth(rule, wallet, confirmed);
    let code = match (now, before) {
        (Truth::Yes, Truth::Yes) => GateReasonCode::RuleHolds,
        (Truth::Yes, Truth::Unknown(code)) if is_about_nodes(code) => code,
        (Truth::Yes, _) => GateReasonCode::NotConfirmed,
        (Truth::No(code) | Truth::Unknown(code), _) => code,
    };
    let granted = code == GateReasonCode::RuleHolds;
    let mut claims = Vec::new();
    if granted {
        collect(rule, &rule.root, &Facts { leaves: &rule.leaves, wallet, told: latest }, &mut claims);
    }
    Verdict { granted, latest: now, code, claims }
}

/// True when the reason lies with the nodes of a chain: it says nothing about the viewer, and may pass.
pub const fn is_about_nodes(code: GateReasonCode) -> bool {
    matches!(code, GateReasonCode::ChainUnavailable | GateReasonCode::ChainDisagrees)
}

/// The truth of a rule by the facts of one block.
pub fn truth(rule: &Compiled, wallet: Option<impl Into<Account>>, facts: &[Fact]) -> Truth {
    Facts { leaves: &rule.leaves, wallet: wallet.map(Into::into), told: facts }.node(&rule.root)
}

struct Facts<'a> {
    leaves: &'a [Leaf],
    wallet: Option<Account>,
    told: &'a [Fact],
}

impl Facts<'_> {
    fn node(&self, node: &Node) -> Truth {
        match node {
            Node::Public => Truth::Yes,
            Node::Listed(listed) => self.listed(listed),
            Node::Leaf(index) => self.leaf(*index),
            Node::All(nodes) => self.all(nodes),
            Node::Any(nodes) => self.any(nodes),
            Node::Not(node) => match self.node(node) {
                Truth::Yes => Truth::No(GateReasonCode::Excluded),
                Truth::No(_) => Truth::Yes,
                unknown @ Truth::Unknown(_) => unknown,
            },
        }
    }

    /// A list of a chain names the accounts there, whatever speaks for them. Without a chain it names those that keys speak for, and says
    /// nothing about a contract at the same address.
    fn listed(&self, listed: &Listed) -> Truth {
        let Some(wallet) = self.wallet else { return Truth::Unknown(GateReasonCode::WalletNeeded) };
        if !listed.addresses.contains(&wallet.address.get()) {
            Truth::No(GateReasonCode::NotListed)
        } else if wallet.chain_id.is_none() || wallet.chain_id == listed.chain_id {
            Truth::Yes
        } else {
            Truth::Unknown(GateReasonCode::WalletNeeded)
        }
    }

    /// The first "no" decides; without one, the first thing that is not known.
    fn all(&self, nodes: &[Node]) -> Truth {
        let mut found = Truth::Yes;
        for node in nodes {
            match self.node(node) {
                Truth::Yes => {}
                no @ Truth::No(_) => return no,
                unknown @ Truth::Unknown(_) => {
                    if found == Truth::Yes {
                        found = unknown;
                    }
                }
            }
        }
        found
    }

    /// The first "yes" decides; without one, the first thing that is not known, then the first "no". What nodes leave open goes
    /// before what else is not known: it may yet turn out to be "yes".
    fn any(&self, nodes: &[Node]) -> Truth {
        let rank = |truth: Truth| match truth {
            Truth::Yes => 3,
            Truth::Unknown(code) if is_about_nodes(code) => 2,
            Truth::Unknown(_) => 1,
            Truth::No(_) => 0,
        };
        let mut found: Option<Truth> = None;
        for truth in nodes.iter().map(|node| self.node(node)) {
            if found.is_none_or(|found| rank(truth) > rank(found)) {
                found = Some(truth);
            }
        }
        found.unwrap_or(Truth::Unknown(GateReasonCode::RuleInvalid))
    }

    fn leaf(&self, index: usize) -> Truth {
        let Some(wallet) = self.wallet else { return Truth::Unknown(GateReasonCode::WalletNeeded) };
        let (Some(leaf), Some(fact)) = (self.leaves.get(index), self.told.get(index)) else {
            return Truth::Unknown(GateReasonCode::ChainUnavailable);
        };
        if !wallet.is_on(leaf.chain_id) {
            return Truth::Unknown(GateReasonCode::WalletNeeded);
        }
        match (leaf.ask, fact) {
            (_, Fact::Failed(code)) => Truth::Unknown(*code),
            (Ask::Erc721 { token_id: Some(_), .. }, Fact::Owner(owner)) => {
                if *owner == wallet.address.get() {
                    Truth::Yes
                } else {
                    Truth::No(GateReasonCode::NotOwner)
                }
            }
            (Ask::Erc721 { token_id: None, .. }, Fact::Amount(count)) => {
                if count.is_zero() {
                    Truth::No(GateReasonCode::NotOwner)
                } else {
                    Truth::Yes
                }
            }
            (Ask::Erc1155 { balance_min, .. } | Ask::Erc20 { balance_min }, Fact::Amount(amount)) => {
                if *amount >= balance_min {
                    Truth::Yes
                } else {
                    Truth::No(GateReasonCode::BalanceLow)
                }
            }
            _ => Truth::Unknown(GateReasonCode::ContractMalformed),
        }
    }
}

/// The tokens that a rule which holds rests on: all of `all`, the first of `any` that holds, nothing under `not`.
fn collect(rule: &Compiled, node: &Node, facts: &Facts<'_>, claims: &mut Vec<Claim>) {
    match node {
        Node::Leaf(index) => {
            if let Some(Leaf { ask: Ask::Erc721 { sessions_max, .. }, .. }) = rule.leaves.get(*index) {
                claims.push(Claim { leaf: *index, sessions_max: *sessions_max });
            }
        }
        Node::All(nodes) => nodes.iter().for_each(|node| collect(rule, node, facts, claims)),
        Node::Any(nodes) => {
            if let Some(node) = nodes.iter().find(|node| facts.node(node) == Truth::Yes) {
                collect(rule, node, facts, claims);
            }
        }
        Node::Public | Node::Listed(_) | Node::Not(_) => {}
    }
}
