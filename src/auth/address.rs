//! Wallet addresses, checked by type at the edge. One spelling inside: equal addresses are equal text.

use std::{fmt, str::FromStr};

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not the form of an address.
    #[error("an address is 0x and 40 hexadecimal digits")]
    Address,
    /// Upper and lower case are mixed, but not as EIP-55 has it: a digit is probably wrong.
    #[error("the address's upper and lower case is not that of EIP-55")]
    Checksum,
    /// An account's chain is no number of a chain.
    #[error("an account is 0x and 40 hexadecimal digits, or eip155:<chain>: in front of them")]
    Chain,
}

/// An Ethereum address; shown with the upper and lower case of EIP-55.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WalletAddress(alloy_primitives::Address);

impl WalletAddress {
    /// Wraps an address that is known already.
    pub const fn new(address: alloy_primitives::Address) -> Self {
        Self(address)
    }

    /// The 20 bytes, as the Ethereum crates take them.
    pub const fn get(self) -> alloy_primitives::Address {
        self.0
    }

    /// `0x` and 40 lower-case digits: the one spelling used in owners and records.
    pub fn to_lower_hex(self) -> String {
        format!("0x{}", alloy_primitives::hex::encode(self.0))
    }

    /// Reads an address, and whether its case proves it (EIP-55) or is all the same and proves nothing.
    ///
    /// # Errors
    /// [`AddressError::Checksum`] when upper and lower case are mixed otherwise than EIP-55 has it.
    pub fn parse(text: &str) -> Result<(Self, AddressCase), AddressError> {
        let digits = text.strip_prefix("0x").ok_or(AddressError::Address)?;
        // The decoder would take a second `0x` for none.
        if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(AddressError::Address);
        }
        let bytes =
            alloy_primitives::hex::decode_to_array::<_, 20>(digits).map_err(|_| AddressError::Address)?;
        let address = Self(bytes.into());
        if address.to_string() == text {
            // An address of digits only has no case that could be wrong.
            return Ok((address, AddressCase::Checksummed));
        }
        let has = |test: fn(&u8) -> bool| digits.bytes().any(|byte| test(&byte));
        if has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) {
            return Err(AddressError::Checksum);
        }
        Ok((address, AddressCase::Uniform))
    }
}

/// What the case of an address's letters says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressCase {
    /// As EIP-55 has it: a mistyped digit would show.
    Checksummed,
    /// All upper or all lower: nothing is known.
    Uniform,
}

impl fmt::Display for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_checksum(None))
    }
}

impl fmt::Debug for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WalletAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text).map(|(address, _)| address)
    }
}

impl serde::Serialize for WalletAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for WalletAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for WalletAddress {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemas::gate::Eip55Schema::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_eip_55_are_taken_and_a_changed_case_is_not() {
        // The examples in the text of EIP-55.
        for text in [
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
            "0xde709f2102306220921060314715629080e2fb77",
            "0x27b1fdb04752bbc536007a920d24acb045561c26",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let (address, case) = WalletAddress::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), case), (text, AddressCase::Checksummed));
        }
        let wrong = "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert_eq!(wrong.parse::<WalletAddress>(), Err(AddressError::Checksum));
        let (_, case) = WalletAddress::parse("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed").unwrap();
        assert_eq!(case, AddressCase::Uniform);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "0x",
            "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "0X52908400098527886E0F7030069857D2E4169EE7",
            "0x0x908400098527886E0F7030069857D2E4169EE7",
        ] {
            assert_eq!(text.parse::<WalletAddress>(), Err(AddressError::Address), "{text}");
        }
        for text in
            ["0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae", "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaedd"]
        {
            assert_eq!(text.parse::<WalletAddress>(), Err(AddressError::Address), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_reads_back_and_one_changed_case_is_noticed(bytes: [u8; 20], at in 0_usize..40) {
            let address = WalletAddress::new(bytes.into());
            let text = address.to_string();
            prop_assert_eq!(WalletAddress::parse(&text), Ok((address, AddressCase::Checksummed)));
            prop_assert_eq!(address.to_lower_hex().parse::<WalletAddress>(), Ok(address));
            let mut changed = text.clone().into_bytes();
            let place = &mut changed[at + 2];
            *place = if place.is_ascii_lowercase() { place.to_ascii_uppercase() } else { place.to_ascii_lowercase() };
            let changed = String::from_utf8(changed).unwrap();
            if changed != text {
                // All letters alike is the one other spelling that is taken, and it is not called checked.
                prop_assert!(!matches!(WalletAddress::parse(&changed), Ok((_, AddressCase::Checksummed))));
            }
        }

        #[test]
        fn no_text_is_taken_for_another_address(text in "(0x)?(0x)?[0-9a-fA-F]{38,42}|\\PC{0,80}") {
            if let Ok(address) = text.parse::<WalletAddress>() {
                prop_assert!(address.to_string().eq_ignore_ascii_case(&text));
            }
        }
    }
}
