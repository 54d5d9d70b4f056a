//! Ethereum signatures: the only way to an address from a signature.
//!
//! libsecp256k1 recovers a key from the mirrored form (high s, other parity) of every signature, and takes recovery ids 2 and 3;
//! so each part is checked here before it is asked. Taken are 65 bytes `r s v` with v of 0, 1, 27 or 28, and the 64 bytes of
//! ERC-2098; r and s lie in `[1, n)` and s in its lower half (EIP-2), so a signature has exactly one form of each kind.

use alloy_primitives::{B256, keccak256};
use secp256k1::{
    Message,
    ecdsa::{RecoverableSignature, RecoveryId},
};

use super::address::WalletAddress;

/// Order of the group (SEC 2, section 2.4.1).
const ORDER: [u8; 32] =
    alloy_primitives::hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
/// Half of it, rounded down: the largest low s (EIP-2).
const HALF_ORDER: [u8; 32] =
    alloy_primitives::hex!("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0");
/// What an account's personal signature puts before the length of the message (EIP-191 version 0x45).
const PERSONAL_PREFIX: &str = "\x19Ethereum Signed Message:\n";

/// Why a signature is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EcdsaSignatureError {
    /// Neither 65 nor 64 bytes.
    #[error("a signature has 65 bytes, or 64 in the form of ERC-2098")]
    Length,
    /// The last byte is none of 0, 1, 27, 28.
    #[error("the signature's v is none of 0, 1, 27 and 28")]
    V,
    /// r or s is 0 or not below the group's order.
    #[error("the signature's r or s is out of range")]
    Range,
    /// s lies in the upper half: the mirrored form of another signature.
    #[error("the signature's s is in the upper half")]
    HighS,
    /// No key could have made this.
    #[error("the signature belongs to no key")]
    NoKey,
}

/// A checked signature of one account key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EcdsaSignature {
    compact: [u8; 64],
    is_odd: bool,
}

impl EcdsaSignature {
    /// Reads 65 bytes `r s v` or the 64 bytes of ERC-2098.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EcdsaSignatureError> {
        let (mut compact, v) = split_signature(bytes)?;
        let is_odd = match v {
            Some(0 | 27) => false,
            Some(1 | 28) => true,
            Some(_) => return Err(EcdsaSignatureError::V),
            // ERC-2098: the parity is the top bit of s, which a low s never uses.
            None => {
                let is_odd = compact[32] & 0x80 != 0;
                compact[32] &= 0x7f;
                is_odd
            }
        };
        let (r, s) = compact.split_at(32);
        let in_range = |part: &[u8]| part < &ORDER[..] && part.iter().any(|byte| *byte != 0);
        if !in_range(r) || !in_range(s) {
            return Err(EcdsaSignatureError::Range);
        }
        if s > &HALF_ORDER[..] {
            return Err(EcdsaSignatureError::HighS);
        }
        Ok(Self { compact, is_odd })
    }

    /// The account whose key signed `digest`.
    ///
    /// # Errors
    /// [`EcdsaSignatureError::NoKey`] when r is no point of the curve, or the key's address is zero.
    pub fn recover_address(&self, digest: B256) -> Result<WalletAddress, EcdsaSignatureError> {
        let parity = if self.is_odd { RecoveryId::One } else { RecoveryId::Zero };
        let signature = RecoverableSignature::from_compact(&self.compact, parity)
            .map_err(|_| EcdsaSignatureError::NoKey)?;
        let key =
            signature.recover(Message::from_digest(digest.0)).map_err(|_| EcdsaSignatureError::NoKey)?;
        let point = key.serialize_uncompressed();
        let hash = keccak256(point.get(1..).unwrap_or_default());
        let address = alloy_primitives::Address::from_word(hash);
        if address.is_zero() { Err(EcdsaSignatureError::NoKey) } else { Ok(WalletAddress::new(address)) }
    }
}

fn split_signature(bytes: &[u8]) -> Result<([u8; 64], Option<u8>), EcdsaSignatureError> {
    let (compact, rest) = bytes.split_first_chunk::<64>().ok_or(EcdsaSignatureError::Length)?;
    match rest {
        [] => Ok((*compact, None)),
        [v] => Ok((*compact, Some(*v))),
        _ => Err(EcdsaSignatureError::Length),
    }
}

/// What an account signs for a message shown to its person: keccak-256 over prefix, length and the bytes (EIP-191).
pub fn hash_personal_message(message: &[u8]) -> B256 {
    let mut bytes = format!("{PERSONAL_PREFIX}{}", message.len()).into_bytes();
    bytes.extend_from_slice(message);
    keccak256(bytes)
}
