//! The evaluator: a rule, a wallet and the facts of two blocks give a decision. Pure.
//!
//! Three values: yes, no, and not known. A thing that is not known never grants: `not` of it is not known either, and neither an
//! address nobody proved nor a contract that did not answer properly counts as "no". An account that a contract proved is known on
//! its own chain alone: what its address owns on another chain may be somebody else's.

use alloy_primitives::{Address, U256};
use schemas::gate::GateReasonCode;

use super::rule::{AddressList, CompiledRule, RuleLeaf, RuleNode, TokenCondition};
use auth::account::WalletAccount;

/// What a contract said, or why that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContractFact {
    /// The owner of the token.
    Owner(Address),
    /// The viewer's balance.
    Amount(U256),
    /// Nothing that can be used.
    Failed(GateReasonCode),
}

/// The truth of a rule at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleTruth {
    /// It holds.
    Yes,
    /// It does not hold, and why.
    No(GateReasonCode),
    /// Nobody can say, and why.
    Unknown(GateReasonCode),
}

/// What a session has to hold for its ERC-721 tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaim {
    /// The question it comes from.
    pub leaf: usize,
    /// Sessions at a time.
    pub sessions_max: u32,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleVerdict {
    /// Whether a new session may begin: the rule holds at the newest and at the confirmed block.
    pub granted: bool,
    /// The rule at the newest block: what a session that exists goes by.
    pub latest: RuleTruth,
    /// Why.
    pub code: GateReasonCode,
    /// Tokens the grant rests on; empty unless granted.
    pub claims: Vec<TokenClaim>,
}

/// Decides for `wallet` from the facts of the newest and of the confirmed block, one for each question of the rule.
pub fn decide_rule(
    rule: &CompiledRule,
    wallet: Option<impl Into<WalletAccount>>,
    latest: &[ContractFact],
    confirmed: &[ContractFact],
) -> RuleVerdict {
    let wallet = wallet.map(Into::into);
    let now = evaluate_rule(rule, wallet, latest);
    let before = evaluate_rule(rule, wallet, confirmed);
    let code = match (now, before) {
        (RuleTruth::Yes, RuleTruth::Yes) => GateReasonCode::RuleHolds,
        (RuleTruth::Yes, RuleTruth::Unknown(code)) if is_node_failure(code) => code,
        // A grant needs both blocks: a token that came with the newest one may go with a reorganisation.
        (RuleTruth::Yes, _) => GateReasonCode::NotConfirmed,
        (RuleTruth::No(code) | RuleTruth::Unknown(code), _) => code,
    };
    let granted = code == GateReasonCode::RuleHolds;
    let mut claims = Vec::new();
    if granted {
        collect_claims(
            rule,
            &rule.root,
            &RuleEvaluator { leaves: &rule.leaves, wallet, facts: latest },
            &mut claims,
        );
    }
    RuleVerdict { granted, latest: now, code, claims }
}

/// True when the reason lies with the nodes of a chain: it says nothing about the viewer, and may pass.
pub const fn is_node_failure(code: GateReasonCode) -> bool {
    matches!(code, GateReasonCode::ChainUnavailable | GateReasonCode::ChainDisagrees)
}

/// The truth of a rule by the facts of one block.
pub fn evaluate_rule(
    rule: &CompiledRule,
    wallet: Option<impl Into<WalletAccount>>,
    facts: &[ContractFact],
) -> RuleTruth {
    RuleEvaluator { leaves: &rule.leaves, wallet: wallet.map(Into::into), facts }.evaluate_node(&rule.root)
}

struct RuleEvaluator<'a> {
    leaves: &'a [RuleLeaf],
    wallet: Option<WalletAccount>,
    facts: &'a [ContractFact],
}

impl RuleEvaluator<'_> {
    fn evaluate_node(&self, node: &RuleNode) -> RuleTruth {
        match node {
            RuleNode::Public => RuleTruth::Yes,
            RuleNode::Listed(listed) => self.evaluate_list(listed),
            RuleNode::Leaf(index) => self.evaluate_leaf(*index),
            RuleNode::All(nodes) => self.evaluate_all(nodes),
            RuleNode::Any(nodes) => self.evaluate_any(nodes),
            RuleNode::Not(node) => match self.evaluate_node(node) {
                RuleTruth::Yes => RuleTruth::No(GateReasonCode::Excluded),
                RuleTruth::No(_) => RuleTruth::Yes,
                // Not known stays so under `not`: an outage must not open what is excluded.
                unknown @ RuleTruth::Unknown(_) => unknown,
            },
        }
    }

    /// A list of a chain names the accounts there, whatever speaks for them. Without a chain it names those that keys speak for,
    /// and says nothing about a contract at the same address.
    fn evaluate_list(&self, listed: &AddressList) -> RuleTruth {
        let Some(wallet) = self.wallet else { return RuleTruth::Unknown(GateReasonCode::WalletNeeded) };
        if !listed.addresses.contains(&wallet.address.get()) {
            RuleTruth::No(GateReasonCode::NotListed)
        } else if wallet.chain_id.is_none() || wallet.chain_id == listed.chain_id {
            RuleTruth::Yes
        } else {
            RuleTruth::Unknown(GateReasonCode::WalletNeeded)
        }
    }

    /// The first "no" decides; without one, the first thing that is not known.
    fn evaluate_all(&self, nodes: &[RuleNode]) -> RuleTruth {
        let mut found = RuleTruth::Yes;
        for node in nodes {
            match self.evaluate_node(node) {
                RuleTruth::Yes => {}
                no @ RuleTruth::No(_) => return no,
                unknown @ RuleTruth::Unknown(_) => {
                    if found == RuleTruth::Yes {
                        found = unknown;
                    }
                }
            }
        }
        found
    }

    /// The first "yes" decides; without one, the first thing that is not known, then the first "no". What nodes leave open goes
    /// before what else is not known: it may yet turn out to be "yes".
    fn evaluate_any(&self, nodes: &[RuleNode]) -> RuleTruth {
        let rank = |truth: RuleTruth| match truth {
            RuleTruth::Yes => 3,
            // An outage before a refusal, so that a session is not ended while the chain that lets it in is away.
            RuleTruth::Unknown(code) if is_node_failure(code) => 2,
            RuleTruth::Unknown(_) => 1,
            RuleTruth::No(_) => 0,
        };
        let mut found: Option<RuleTruth> = None;
        for truth in nodes.iter().map(|node| self.evaluate_node(node)) {
            if found.is_none_or(|found| rank(truth) > rank(found)) {
                found = Some(truth);
            }
        }
        found.unwrap_or(RuleTruth::Unknown(GateReasonCode::RuleInvalid))
    }

    fn evaluate_leaf(&self, index: usize) -> RuleTruth {
        let Some(wallet) = self.wallet else { return RuleTruth::Unknown(GateReasonCode::WalletNeeded) };
        let (Some(leaf), Some(fact)) = (self.leaves.get(index), self.facts.get(index)) else {
            return RuleTruth::Unknown(GateReasonCode::ChainUnavailable);
        };
        if !wallet.applies_on_chain(leaf.chain_id) {
            return RuleTruth::Unknown(GateReasonCode::WalletNeeded);
        }
        match (leaf.ask, fact) {
            (_, ContractFact::Failed(code)) => RuleTruth::Unknown(*code),
            (TokenCondition::Erc721 { token_id: Some(_), .. }, ContractFact::Owner(owner)) => {
                if *owner == wallet.address.get() {
                    RuleTruth::Yes
                } else {
                    RuleTruth::No(GateReasonCode::NotOwner)
                }
            }
            (TokenCondition::Erc721 { token_id: None, .. }, ContractFact::Amount(count)) => {
                if count.is_zero() { RuleTruth::No(GateReasonCode::NotOwner) } else { RuleTruth::Yes }
            }
            (
                TokenCondition::Erc1155 { balance_min, .. } | TokenCondition::Erc20 { balance_min },
                ContractFact::Amount(amount),
            ) => {
                if *amount >= balance_min {
                    RuleTruth::Yes
                } else {
                    RuleTruth::No(GateReasonCode::BalanceLow)
                }
            }
            _ => RuleTruth::Unknown(GateReasonCode::ContractMalformed),
        }
    }
}

/// The tokens that a rule which holds rests on: all of `all`, the first of `any` that holds, nothing under `not`.
fn collect_claims(
    rule: &CompiledRule,
    node: &RuleNode,
    facts: &RuleEvaluator<'_>,
    claims: &mut Vec<TokenClaim>,
) {
    match node {
        RuleNode::Leaf(index) => {
            if let Some(RuleLeaf { ask: TokenCondition::Erc721 { sessions_max, .. }, .. }) =
                rule.leaves.get(*index)
            {
                claims.push(TokenClaim { leaf: *index, sessions_max: *sessions_max });
            }
        }
        RuleNode::All(nodes) => nodes.iter().for_each(|node| collect_claims(rule, node, facts, claims)),
        RuleNode::Any(nodes) => {
            // One branch is enough: claiming the tokens of all would take places that this viewer does not use.
            if let Some(node) = nodes.iter().find(|node| facts.evaluate_node(node) == RuleTruth::Yes) {
                collect_claims(rule, node, facts, claims);
            }
        }
        RuleNode::Public | RuleNode::Listed(_) | RuleNode::Not(_) => {}
    }
}
