//! What tests of gates and chains share.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    reason = "helpers of tests: what they do is in their names, and they end a test that goes wrong"
)]

pub mod anvil;
pub mod site;

use alloy_primitives::Address;
use evm::testing::ContractState;
use schemas::{
    document,
    gate::{self, GateRule},
    ids::MediaId,
};

use self::site::{GateTestSite, OWNER};
use crate::rule::compile_rule;

pub const ANN: Address = Address::repeat_byte(0xa1);
pub const BOB: Address = Address::repeat_byte(0xb2);

pub fn nft_rule(contract: Address, token_id: Option<u64>) -> GateRule {
    GateRule::Erc721Owner {
        chain_id: evm::testing::CHAIN,
        contract: contract.to_string(),
        token_id: token_id.map(|id| id.to_string()),
        sessions_max: None,
    }
}

pub fn coin_rule(contract: Address, least: u64) -> GateRule {
    GateRule::Erc20Balance {
        chain_id: evm::testing::CHAIN,
        contract: contract.to_string(),
        balance_min: least.to_string(),
    }
}

pub fn allow_list_rule(addresses: &[Address]) -> GateRule {
    GateRule::AllowList { addresses: addresses.iter().map(Address::to_string).collect(), chain_id: None }
}

pub fn not_rule(rule: GateRule) -> GateRule {
    GateRule::Not { rule: Box::new(rule) }
}

pub fn all_rule(rules: &[GateRule]) -> GateRule {
    GateRule::All { rules: rules.to_vec() }
}

pub fn any_rule(rules: &[GateRule]) -> GateRule {
    GateRule::Any { rules: rules.to_vec() }
}

/// The rule by the state itself; `None` when a contract would refuse to answer.
pub fn expected_truth(rule: &GateRule, wallet: Address, state: &ContractState) -> Option<bool> {
    match rule {
        GateRule::Public {} => Some(true),
        GateRule::AllowList { addresses, .. } => Some(addresses.contains(&wallet.to_string())),
        GateRule::Erc721Owner { token_id: Some(id), .. } => {
            state.owners.get(&id.parse().unwrap()).map(|owner| *owner == wallet)
        }
        GateRule::Erc721Owner { token_id: None, .. } => {
            Some(state.owners.values().any(|owner| *owner == wallet))
        }
        GateRule::Erc20Balance { balance_min, .. } => {
            Some(state.coins.get(&wallet).copied().unwrap_or(0) >= balance_min.parse().unwrap())
        }
        GateRule::Not { rule } => expected_truth(rule, wallet, state).map(|held| !held),
        GateRule::All { rules } => {
            let each: Vec<_> = rules.iter().map(|rule| expected_truth(rule, wallet, state)).collect();
            if each.contains(&Some(false)) {
                Some(false)
            } else {
                each.into_iter().collect::<Option<Vec<_>>>().map(|_| true)
            }
        }
        GateRule::Any { rules } => {
            let each: Vec<_> = rules.iter().map(|rule| expected_truth(rule, wallet, state)).collect();
            if each.contains(&Some(true)) {
                Some(true)
            } else {
                each.into_iter().collect::<Option<Vec<_>>>().map(|_| false)
            }
        }
        GateRule::Erc1155Balance { .. } => panic!("the model has no such contract"),
    }
}

/// Gives a medium another rule, as its owner does.
pub async fn change_rule(site: &GateTestSite, media_id: MediaId, rule: Option<&GateRule>) {
    let compiled = rule.map(|rule| compile_rule(rule).unwrap());
    let change = |found: Option<&document::MediaDocumentRecord>| {
        let mut record = found?.clone();
        let gate = record.gate.as_mut()?;
        gate.epoch += 1;
        gate.rule = compiled.as_ref().map(|compiled| compiled.rule.clone());
        gate.rule_digest = compiled.as_ref().map(|compiled| compiled.digest.clone()).unwrap_or_default();
        let changed = gate::GateChanged {
            media_id,
            owner: OWNER.into(),
            changed_by: OWNER.into(),
            gate_epoch: gate.epoch,
            rule_digest: gate.rule_digest.clone(),
        };
        Some((record, nats::Outbox::new().with_event(&changed)))
    };
    site.admin.change_record::<document::MediaDocumentRecord>(&media_id.to_string(), change).await.unwrap();
}
