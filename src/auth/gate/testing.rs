//! What tests of gates and chains share.

use alloy_primitives::Address;
use schemas::gate::Rule;

pub(crate) const ANN: Address = Address::repeat_byte(0xa1);
pub(crate) const BOB: Address = Address::repeat_byte(0xb2);

pub(crate) fn nft(contract: Address, token_id: Option<u64>) -> Rule {
    Rule::Erc721Owner {
        chain_id: evm::testing::CHAIN,
        contract: contract.to_string(),
        token_id: token_id.map(|id| id.to_string()),
        sessions_max: None,
    }
}

pub(crate) fn coin(contract: Address, least: u64) -> Rule {
    Rule::Erc20Balance {
        chain_id: evm::testing::CHAIN,
        contract: contract.to_string(),
        balance_min: least.to_string(),
    }
}

pub(crate) fn listed(addresses: &[Address]) -> Rule {
    Rule::AllowList { addresses: addresses.iter().map(Address::to_string).collect(), chain_id: None }
}

pub(crate) fn not(rule: Rule) -> Rule {
    Rule::Not { rule: Box::new(rule) }
}

pub(crate) fn all(rules: &[Rule]) -> Rule {
    Rule::All { rules: rules.to_vec() }
}

pub(crate) fn any(rules: &[Rule]) -> Rule {
    Rule::Any { rules: rules.to_vec() }
}
