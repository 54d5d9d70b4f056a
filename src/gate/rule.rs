//! Rules: checked, brought into their one canonical form, and compiled for the evaluator. Pure.
//!
//! Limits: [`DEPTH_MAX`], [`LEAVES_MAX`], [`ADDRESSES_MAX`], [`CHAINS_MAX`], [`SESSIONS_MAX`].

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use alloy_primitives::{Address, U256};
use data_encoding::HEXLOWER;
pub use schemas::gate::{ADDRESSES_MAX, SESSIONS_MAX};
use schemas::gate::{GateRule, WatchedContract};
use sha2::{Digest, Sha256};

/// Deepest nesting of a rule.
pub const DEPTH_MAX: usize = 6;
/// Most questions to contracts in a rule.
pub const LEAVES_MAX: usize = 16;
/// Most chains in a rule.
pub const CHAINS_MAX: usize = 4;

/// Why a rule can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {reason}")]
pub struct InvalidRule {
    /// Where, as an RFC 6901 pointer into the rule.
    pub pointer: String,
    /// Why, for people.
    pub reason: String,
}

/// A rule ready to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledRule {
    /// The rule in canonical form.
    pub rule: GateRule,
    /// SHA-256 of the canonical form as JSON, lower-case hex.
    pub digest: String,
    pub(super) root: RuleNode,
    pub(super) leaves: Vec<RuleLeaf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleNode {
    Public,
    Listed(AddressList),
    Leaf(usize),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
}

/// Addresses, and the chain they are on where they may be contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressList {
    pub(super) addresses: BTreeSet<Address>,
    pub(super) chain_id: Option<u64>,
}

/// One question to a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleLeaf {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The contract.
    pub contract: Address,
    /// The question.
    pub ask: TokenCondition,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCondition {
    /// Does the viewer own this token, or any token without an id?
    Erc721 {
        /// The token.
        token_id: Option<U256>,
        /// Playback sessions at a time per token, or per wallet without an id.
        sessions_max: u32,
    },
    /// Does the viewer hold so many of this token?
    Erc1155 {
        /// The token.
        token_id: U256,
        /// Least balance.
        balance_min: U256,
    },
    /// Does the viewer hold so much?
    Erc20 {
        /// Least balance in the smallest unit.
        balance_min: U256,
    },
}

impl CompiledRule {
    /// Questions to contracts, in order.
    pub fn leaves(&self) -> &[RuleLeaf] {
        &self.leaves
    }

    /// The questions by chain, each with its place.
    pub(super) fn leaves_by_chain(&self) -> BTreeMap<u64, Vec<usize>> {
        let mut chains: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, leaf) in self.leaves.iter().enumerate() {
            chains.entry(leaf.chain_id).or_default().push(index);
        }
        chains
    }

    /// The contracts whose transfers matter, each once.
    pub fn watched_contracts(&self) -> Vec<WatchedContract> {
        let contracts: BTreeSet<WatchedContract> = self
            .leaves
            .iter()
            .map(|leaf| WatchedContract { chain_id: leaf.chain_id, contract: leaf.contract.to_string() })
            .collect();
        contracts.into_iter().collect()
    }
}

/// Checks a rule and compiles it.
///
/// # Errors
/// [`InvalidRule`] names the place and the reason.
pub fn compile_rule(rule: &GateRule) -> Result<CompiledRule, InvalidRule> {
    let mut compiler = RuleCompiler::default();
    let (rule, root) = compiler.compile_node(rule, &RulePosition::default())?;
    let leaves = compiler.leaves;
    if leaves.iter().map(|leaf| leaf.chain_id).collect::<BTreeSet<_>>().len() > CHAINS_MAX {
        return Err(RulePosition::default().to_invalid_rule(format!("names more than {CHAINS_MAX} chains")));
    }
    let canonical = serde_json::to_vec(&rule)
        .map_err(|error| RulePosition::default().to_invalid_rule(error.to_string()))?;
    Ok(CompiledRule { rule, digest: HEXLOWER.encode(&Sha256::digest(&canonical)), root, leaves })
}

/// Reads an address: with a correct EIP-55 checksum, or all in lower case.
///
/// # Errors
/// Why not, for people.
pub fn parse_address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 40);
    let lower = digits.is_some_and(|digits| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let parsed = if lower {
        Address::from_str(text).map_err(|error| error.to_string())
    } else if digits.is_some() {
        Address::parse_checksummed(text, None).map_err(|_| "its EIP-55 checksum is wrong".to_owned())
    } else {
        Err("an address is 0x and 40 hex digits".to_owned())
    }?;
    if parsed.is_zero() { Err("the zero address owns nothing".to_owned()) } else { Ok(parsed) }
}

/// Reads a decimal number of 256 bits in its only spelling.
///
/// # Errors
/// Why not, for people.
pub fn parse_u256(text: &str) -> Result<U256, String> {
    let is_decimal = !text.is_empty() && text.len() <= 78 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_decimal || (text.len() > 1 && text.starts_with('0')) {
        return Err("a number is decimal digits without leading zeros".to_owned());
    }
    U256::from_str_radix(text, 10).map_err(|_| "larger than 256 bits".to_owned())
}

/// Where in the rule the compiler is.
#[derive(Debug, Clone, Default)]
struct RulePosition {
    pointer: String,
    depth: usize,
}

impl RulePosition {
    fn member(&self, name: &str) -> Self {
        Self { pointer: format!("{}/{name}", self.pointer), depth: self.depth }
    }

    fn child(&self, name: &str) -> Self {
        Self { depth: self.depth + 1, ..self.member(name) }
    }

    fn to_invalid_rule(&self, reason: impl Into<String>) -> InvalidRule {
        InvalidRule { pointer: self.pointer.clone(), reason: reason.into() }
    }
}

#[derive(Debug, Default)]
struct RuleCompiler {
    leaves: Vec<RuleLeaf>,
    address_count: usize,
}

impl RuleCompiler {
    /// Compiles one condition; also answers its canonical form.
    fn compile_node(
        &mut self,
        rule: &GateRule,
        place: &RulePosition,
    ) -> Result<(GateRule, RuleNode), InvalidRule> {
        if place.depth >= DEPTH_MAX {
            return Err(place.to_invalid_rule(format!("nested deeper than {DEPTH_MAX}")));
        }
        match rule {
            GateRule::Public {} => Ok((GateRule::Public {}, RuleNode::Public)),
            GateRule::AllowList { addresses, chain_id } => self.compile_list(addresses, *chain_id, place),
            GateRule::Erc721Owner { .. }
            | GateRule::Erc1155Balance { .. }
            | GateRule::Erc20Balance { .. } => self.compile_leaf(rule, place),
            GateRule::All { rules } => {
                let (rules, nodes) = self.compile_nodes(rules, place)?;
                Ok((GateRule::All { rules }, RuleNode::All(nodes)))
            }
            GateRule::Any { rules } => {
                let (rules, nodes) = self.compile_nodes(rules, place)?;
                Ok((GateRule::Any { rules }, RuleNode::Any(nodes)))
            }
            GateRule::Not { rule } => {
                let (rule, node) = self.compile_node(rule, &place.child("rule"))?;
                Ok((GateRule::Not { rule: Box::new(rule) }, RuleNode::Not(Box::new(node))))
            }
        }
    }

    fn compile_nodes(
        &mut self,
        rules: &[GateRule],
        place: &RulePosition,
    ) -> Result<(Vec<GateRule>, Vec<RuleNode>), InvalidRule> {
        let place = place.member("rules");
        if rules.is_empty() {
            return Err(place.to_invalid_rule("needs at least one condition"));
        }
        let compiled: Result<Vec<_>, _> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| self.compile_node(rule, &place.child(&index.to_string())))
            .collect();
        Ok(compiled?.into_iter().unzip())
    }

    fn compile_list(
        &mut self,
        addresses: &[String],
        chain_id: Option<u64>,
        place: &RulePosition,
    ) -> Result<(GateRule, RuleNode), InvalidRule> {
        if chain_id == Some(0) {
            return Err(place.member("chain_id").to_invalid_rule("there is no chain 0"));
        }
        let place = place.member("addresses");
        self.address_count += addresses.len();
        if addresses.is_empty() || self.address_count > ADDRESSES_MAX {
            return Err(
                place.to_invalid_rule(format!("needs 1 to {ADDRESSES_MAX} addresses, in all lists together"))
            );
        }
        let listed: Result<BTreeSet<Address>, InvalidRule> = addresses
            .iter()
            .enumerate()
            .map(|(index, text)| {
                parse_address(text).map_err(|reason| place.member(&index.to_string()).to_invalid_rule(reason))
            })
            .collect();
        let listed = listed?;
        Ok((
            GateRule::AllowList { addresses: listed.iter().map(Address::to_string).collect(), chain_id },
            RuleNode::Listed(AddressList { addresses: listed, chain_id }),
        ))
    }

    fn compile_leaf(
        &mut self,
        rule: &GateRule,
        place: &RulePosition,
    ) -> Result<(GateRule, RuleNode), InvalidRule> {
        if self.leaves.len() >= LEAVES_MAX {
            return Err(place.to_invalid_rule(format!("asks more than {LEAVES_MAX} questions")));
        }
        let mut rule = rule.clone();
        let leaf = read_leaf(&mut rule, place)?;
        self.leaves.push(leaf);
        Ok((rule, RuleNode::Leaf(self.leaves.len() - 1)))
    }
}

/// Reads a question, and rewrites its contract canonically.
fn read_leaf(rule: &mut GateRule, place: &RulePosition) -> Result<RuleLeaf, InvalidRule> {
    let read = |name: &str, text: &str| {
        parse_u256(text).map_err(|reason| place.member(name).to_invalid_rule(reason))
    };
    let least = |text: &str| match read("balance_min", text)? {
        U256::ZERO => {
            Err(place.member("balance_min").to_invalid_rule("everybody holds 0; use public instead"))
        }
        amount => Ok(amount),
    };
    let (chain_id, contract, ask) = match rule {
        GateRule::Erc721Owner { chain_id, contract, token_id, sessions_max } => {
            let token_id = token_id.as_deref().map(|text| read("token_id", text)).transpose()?;
            let sessions_max = sessions_max.unwrap_or(1);
            if !(1..=SESSIONS_MAX).contains(&sessions_max) {
                return Err(place
                    .member("sessions_max")
                    .to_invalid_rule(format!("takes 1 to {SESSIONS_MAX}")));
            }
            (*chain_id, contract, TokenCondition::Erc721 { token_id, sessions_max })
        }
        GateRule::Erc1155Balance { chain_id, contract, token_id, balance_min } => {
            let balance_min = least(balance_min.as_deref().unwrap_or("1"))?;
            (
                *chain_id,
                contract,
                TokenCondition::Erc1155 { token_id: read("token_id", token_id)?, balance_min },
            )
        }
        GateRule::Erc20Balance { chain_id, contract, balance_min } => {
            let balance_min = least(balance_min)?;
            (*chain_id, contract, TokenCondition::Erc20 { balance_min })
        }
        _ => return Err(place.to_invalid_rule("asks no contract")),
    };
    if chain_id == 0 {
        return Err(place.member("chain_id").to_invalid_rule("there is no chain 0"));
    }
    let found = parse_address(contract).map_err(|reason| place.member("contract").to_invalid_rule(reason))?;
    *contract = found.to_string();
    Ok(RuleLeaf { chain_id, contract: found, ask })
}
