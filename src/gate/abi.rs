//! The contract calls of the standards, and strict reading of what contracts return: exactly one word, in its only form.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent, sol};
use evm::ChainError;
use schemas::gate::GateReasonCode;

use super::{
    decide::ContractFact,
    rule::{RuleLeaf, TokenCondition},
};

sol! {
    function ownerOf(uint256 token) returns (address);

    interface Counted {
        function balanceOf(address owner) returns (uint256);
    }

    // ERC-165
    function supportsInterface(bytes4 id) returns (bool);

    interface Multi {
        function balanceOf(address owner, uint256 token) returns (uint256);
    }

    // ERC-20 has the same signature with an unindexed amount, so one topic stands for both.
    event Transfer(address indexed from, address indexed to, uint256 indexed token);
    event TransferSingle(address indexed operator, address indexed from, address indexed to, uint256 token, uint256 amount);
    event TransferBatch(address indexed operator, address indexed from, address indexed to, uint256[] tokens, uint256[] amounts);

    // ERC-2309: tokens from `first` to `last` at once.
    event ConsecutiveTransfer(uint256 indexed first, uint256 last, address indexed from, address indexed to);
}

/// First topics of the transfers that can change a fact.
pub const TRANSFER_TOPICS: [B256; 4] = [
    Transfer::SIGNATURE_HASH,
    TransferSingle::SIGNATURE_HASH,
    TransferBatch::SIGNATURE_HASH,
    ConsecutiveTransfer::SIGNATURE_HASH,
];

/// The two ends of a transfer, by its topics; `None` when they do not say: contracts older than the standard index nothing, and a
/// range of tokens may have had many owners.
pub fn parse_transfer_ends(topics: &[B256]) -> Option<(Address, Address)> {
    let (from, to) = match topics {
        [kind, from, to, ..] if *kind == Transfer::SIGNATURE_HASH => (from, to),
        [kind, _, from, to]
            if *kind == TransferSingle::SIGNATURE_HASH || *kind == TransferBatch::SIGNATURE_HASH =>
        {
            (from, to)
        }
        _ => return None,
    };
    let address =
        |word: &B256| Some(Address::from_word(*word)).filter(|address| address.into_word() == *word);
    Some((address(from)?, address(to)?))
}

/// What ERC-165 calls ERC-721.
const ERC721: [u8; 4] = [0x80, 0xac, 0x58, 0xcd];

/// The calls that answer a leaf for `wallet`; as many for every wallet.
///
/// A balance counts tokens only where the contract says that it is of ERC-721: others count fractions.
pub(super) fn build_calls(leaf: &RuleLeaf, wallet: Address) -> Vec<(Address, Bytes)> {
    std::iter::once(build_call(leaf, wallet)).chain(build_interface_call(leaf)).collect()
}

/// The call that shows whether a leaf makes sense of its contract, if one has to.
pub fn build_interface_call(leaf: &RuleLeaf) -> Option<(Address, Bytes)> {
    let counts = matches!(leaf.ask, TokenCondition::Erc721 { token_id: None, .. });
    counts.then(|| (leaf.contract, supportsInterfaceCall { id: ERC721.into() }.abi_encode().into()))
}

/// Whether the contract says that it is of ERC-721; a contract that does not know the question is not.
pub fn is_erc721(outcome: &Result<Bytes, ChainError>) -> Result<bool, GateReasonCode> {
    match outcome {
        Ok(returned) => Ok(B256::try_from(returned.as_ref()).is_ok_and(|word| word == B256::from(U256::ONE))),
        Err(ChainError::Reverted { .. }) => Ok(false),
        Err(error) => Err(chain_error_reason(error)),
    }
}

/// Reads what came back of [`build_calls`].
pub(super) fn read_fact(leaf: &RuleLeaf, outcomes: &[Result<Bytes, ChainError>]) -> ContractFact {
    let Some((first, more)) = outcomes.split_first() else {
        return ContractFact::Failed(GateReasonCode::ChainUnavailable);
    };
    let fact = decode_outcome(leaf, first);
    match (fact, more.first().map(is_erc721)) {
        (ContractFact::Failed(code), _) | (_, Some(Err(code))) => ContractFact::Failed(code),
        (fact, None | Some(Ok(true))) => fact,
        (_, Some(Ok(false))) => ContractFact::Failed(GateReasonCode::ContractMalformed),
    }
}

fn build_call(leaf: &RuleLeaf, wallet: Address) -> (Address, Bytes) {
    let data = match leaf.ask {
        TokenCondition::Erc721 { token_id: Some(token), .. } => ownerOfCall { token }.abi_encode(),
        TokenCondition::Erc721 { token_id: None, .. } | TokenCondition::Erc20 { .. } => {
            Counted::balanceOfCall { owner: wallet }.abi_encode()
        }
        TokenCondition::Erc1155 { token_id: token, .. } => {
            Multi::balanceOfCall { owner: wallet, token }.abi_encode()
        }
    };
    (leaf.contract, data.into())
}

fn decode_outcome(leaf: &RuleLeaf, outcome: &Result<Bytes, ChainError>) -> ContractFact {
    let returned = match outcome {
        Ok(returned) => returned,
        Err(error) => return ContractFact::Failed(chain_error_reason(error)),
    };
    if returned.is_empty() {
        // A call to an address without code succeeds and returns nothing.
        return ContractFact::Failed(GateReasonCode::ContractAbsent);
    }
    let Ok(word) = B256::try_from(returned.as_ref()) else {
        return ContractFact::Failed(GateReasonCode::ContractMalformed);
    };
    if !matches!(leaf.ask, TokenCondition::Erc721 { token_id: Some(_), .. }) {
        return ContractFact::Amount(U256::from_be_bytes(word.0));
    }
    let owner = Address::from_word(word);
    if owner.into_word() != word {
        return ContractFact::Failed(GateReasonCode::ContractMalformed);
    }
    // Some contracts answer so instead of refusing when there is no such token.
    if owner.is_zero() {
        ContractFact::Failed(GateReasonCode::ContractFailed)
    } else {
        ContractFact::Owner(owner)
    }
}

/// What an error of a chain means for a gate.
pub(super) const fn chain_error_reason(error: &ChainError) -> GateReasonCode {
    match error {
        ChainError::Unknown { .. } => GateReasonCode::ChainUnknown,
        ChainError::Disagreement { .. } => GateReasonCode::ChainDisagrees,
        ChainError::Reverted { .. } => GateReasonCode::ContractFailed,
        ChainError::Unavailable { .. }
        | ChainError::Stale { .. }
        | ChainError::Reorganised { .. }
        | ChainError::TooMany { .. } => GateReasonCode::ChainUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_where_a_log_says_them() {
        let (ann, bob, token) = (Address::repeat_byte(1), Address::repeat_byte(2), B256::repeat_byte(3));
        let (from, to) = (ann.into_word(), bob.into_word());
        let (one, single, batch, range) = (
            Transfer::SIGNATURE_HASH,
            TransferSingle::SIGNATURE_HASH,
            TransferBatch::SIGNATURE_HASH,
            ConsecutiveTransfer::SIGNATURE_HASH,
        );
        for (topics, wanted) in [
            (&[one, from, to, token][..], Some((ann, bob))),
            (&[one, from, to], Some((ann, bob))),
            (&[single, token, from, to], Some((ann, bob))),
            (&[batch, token, from, to], Some((ann, bob))),
            (&[one], None),
            (&[one, from], None),
            (&[one, token, to], None),
            (&[single, from, to], None),
            (&[batch], None),
            (&[range, token, from, to], None),
            (&[], None),
        ] {
            assert_eq!(parse_transfer_ends(topics), wanted, "{topics:?}");
        }
    }
}
