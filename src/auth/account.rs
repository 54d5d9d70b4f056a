//! Accounts as they were proven, and no more: the name under which somebody owns things, has a role and plays.
//!
//! A key speaks for its account on every chain: `eip155:0x...`. A contract speaks for the account on its own chain alone, where the
//! same address elsewhere may be somebody else's: `eip155:<chain>:0x...` (CAIP-10).

use std::{fmt, str::FromStr};

use schemas::session::SignInMethod;

use super::address::{AddressError, WalletAddress};

/// An account, and where the proof of it counts. Shown with the upper and lower case of EIP-55: `0x...`, or
/// `eip155:<chain>:0x...` where it belongs to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WalletAccount {
    /// Its address.
    pub address: WalletAddress,
    /// The chain it belongs to (EIP-155 number); absent when its key speaks for it, on every chain.
    pub chain_id: Option<u64>,
}

impl WalletAccount {
    /// An account whose key speaks for it.
    pub const fn of_key(address: WalletAddress) -> Self {
        Self { address, chain_id: None }
    }

    /// An account that a contract on `chain_id` speaks for.
    pub const fn of_contract(address: WalletAddress, chain_id: u64) -> Self {
        Self { address, chain_id: Some(chain_id) }
    }

    /// The account that was proven on `chain_id` by `method`.
    pub const fn from_sign_in(address: WalletAddress, chain_id: u64, method: SignInMethod) -> Self {
        match method {
            SignInMethod::Key => Self::of_key(address),
            SignInMethod::Contract | SignInMethod::Counterfactual => Self::of_contract(address, chain_id),
        }
    }

    /// True when what is known of the address on `chain_id` is known of this account.
    pub fn applies_on_chain(&self, chain_id: u64) -> bool {
        self.chain_id.is_none_or(|own| own == chain_id)
    }

    /// The owner its things belong to: `eip155:0x...` or `eip155:<chain>:0x...`, in lower case.
    pub fn owner_id(&self) -> String {
        match self.chain_id {
            None => format!("eip155:{}", self.address.to_lower_hex()),
            Some(chain_id) => format!("eip155:{chain_id}:{}", self.address.to_lower_hex()),
        }
    }
}

/// How an owner is written, where `name` is the account of a wallet in another spelling; `None` where nothing is to be corrected.
pub fn correct_owner_name(name: &str) -> Option<String> {
    name.parse::<WalletAccount>().ok().map(|account| account.owner_id()).filter(|owner| owner != name)
}

impl From<alloy_primitives::Address> for WalletAccount {
    fn from(address: alloy_primitives::Address) -> Self {
        Self::of_key(WalletAddress::new(address))
    }
}

impl fmt::Display for WalletAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain_id {
            None => self.address.fmt(f),
            Some(chain_id) => write!(f, "eip155:{chain_id}:{}", self.address),
        }
    }
}

impl FromStr for WalletAccount {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(rest) = text.strip_prefix("eip155:") else { return text.parse().map(Self::of_key) };
        let Some((chain, address)) = rest.split_once(':') else { return rest.parse().map(Self::of_key) };
        let is_number = chain.bytes().all(|byte| byte.is_ascii_digit()) && !chain.starts_with('0');
        let chain_id = chain.parse().ok().filter(|_| is_number).ok_or(AddressError::Chain)?;
        Ok(Self::of_contract(address.parse()?, chain_id))
    }
}

impl serde::Serialize for WalletAccount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for WalletAccount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    #[test]
    fn a_contract_is_named_by_its_chain_and_a_key_by_none() {
        let address: WalletAddress = ADDRESS.parse().unwrap();
        let (key, contract) = (WalletAccount::of_key(address), WalletAccount::of_contract(address, 10));
        assert_eq!(key.owner_id(), format!("eip155:{}", ADDRESS.to_lowercase()));
        assert_eq!(contract.owner_id(), format!("eip155:10:{}", ADDRESS.to_lowercase()));
        for account in [key, contract] {
            assert_eq!(account.owner_id().parse(), Ok(account));
            assert_eq!(account.to_string().parse(), Ok(account));
        }
        assert_eq!(key.to_string(), ADDRESS);
        assert!(
            key.applies_on_chain(1)
                && key.applies_on_chain(10)
                && contract.applies_on_chain(10)
                && !contract.applies_on_chain(1)
        );
        assert_eq!(WalletAccount::from_sign_in(address, 10, SignInMethod::Key), key);
        assert_eq!(WalletAccount::from_sign_in(address, 10, SignInMethod::Contract), contract);
        assert_eq!(WalletAccount::from_sign_in(address, 10, SignInMethod::Counterfactual), contract);
    }

    #[test]
    fn refuses_what_is_no_account() {
        for text in [
            "",
            "eip155:",
            "eip155::0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:0:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:01:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:+1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:99999999999999999999:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:1:2:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "EIP155:1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "solana:1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "eip155:1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae",
        ] {
            assert!(text.parse::<WalletAccount>().is_err(), "{text}");
        }
    }
}
