//! Values people send, checked by type at the edge: wallet address, transaction hash, content hash, e-mail address.
//!
//! Each has one spelling inside, so that equal values are equal text; whatever else is refused before it is used.
//!
//! Limits: an e-mail address has at most [`EMAIL_LENGTH_MAX`] characters; the others have a fixed length.

use std::{fmt, str::FromStr};

use alloy_primitives::B256;

/// Longest e-mail address in characters (RFC 5321 section 4.5.3.1.3, without the angle brackets).
pub const EMAIL_LENGTH_MAX: usize = 254;
/// Longest part before the `@` in characters (RFC 5321 section 4.5.3.1.1).
const EMAIL_LOCAL_LENGTH_MAX: usize = 64;
/// Longest label of a domain name in characters (RFC 1035 section 2.3.4).
const LABEL_LENGTH_MAX: usize = 63;

/// Why a text is no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not the form of an address.
    #[error("an address is 0x and 40 hexadecimal digits")]
    Address,
    /// Upper and lower case are mixed, but not as EIP-55 has it: a digit is probably wrong.
    #[error("the address's upper and lower case is not that of EIP-55")]
    Checksum,
    /// Not the form of a transaction hash.
    #[error("a transaction hash is 0x and 64 hexadecimal digits")]
    TransactionHash,
    /// Not the form of a content hash.
    #[error("a content hash is the SHA-256 in 64 lower-case hexadecimal digits")]
    ContentHash,
    /// Not the form of an e-mail address.
    #[error("an e-mail address is name@domain in ASCII, without quotes or comments")]
    Email,
}

/// An Ethereum address; shown with the upper and lower case of EIP-55.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(alloy_primitives::Address);

impl Address {
    /// Wraps an address that is known already.
    pub const fn new(address: alloy_primitives::Address) -> Self {
        Self(address)
    }

    /// The 20 bytes, as the Ethereum crates take them.
    pub const fn get(self) -> alloy_primitives::Address {
        self.0
    }

    /// `0x` and 40 lower-case digits: the one spelling used in owners and records.
    pub fn lower(self) -> String {
        format!("0x{}", alloy_primitives::hex::encode(self.0))
    }

    /// The owner a wallet's things belong to: `eip155:0x...` in lower case, the same on every chain.
    pub fn owner(self) -> String {
        format!("eip155:{}", self.lower())
    }

    /// Reads an address; also tells whether its case proves it (EIP-55) or is all the same and proves nothing.
    ///
    /// # Errors
    /// [`Malformed::Checksum`] when upper and lower case are mixed otherwise than EIP-55 has it.
    pub fn parse(text: &str) -> Result<(Self, Case), Malformed> {
        let digits = text.strip_prefix("0x").ok_or(Malformed::Address)?;
        let bytes: [u8; 20] = fixed_hex(digits).ok_or(Malformed::Address)?;
        let address = Self(bytes.into());
        if address.to_string() == text {
            // An address of digits only has no case that could be wrong.
            return Ok((address, Case::Checksummed));
        }
        let has = |test: fn(&u8) -> bool| digits.bytes().any(|byte| test(&byte));
        if has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) {
            return Err(Malformed::Checksum);
        }
        Ok((address, Case::Uniform))
    }
}

/// What the case of an address's letters says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// As EIP-55 has it: a mistyped digit would show.
    Checksummed,
    /// All upper or all lower: nothing is known.
    Uniform,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_checksum(None))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::parse(text).map(|(address, _)| address)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Address {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemas::gate::Eip55::json_schema(generator)
    }
}

/// A transaction's hash; shown as `0x` and lower-case digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionHash(B256);

impl TransactionHash {
    /// The 32 bytes.
    pub const fn get(self) -> B256 {
        self.0
    }
}

impl fmt::Display for TransactionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", alloy_primitives::hex::encode(self.0))
    }
}

impl FromStr for TransactionHash {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let digits = text.strip_prefix("0x").ok_or(Malformed::TransactionHash)?;
        let bytes: [u8; 32] = fixed_hex(digits).ok_or(Malformed::TransactionHash)?;
        Ok(Self(bytes.into()))
    }
}

/// SHA-256 of some content, spelled as everywhere else in the product: 64 lower-case digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The 32 bytes.
    pub const fn get(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

impl FromStr for ContentHash {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Malformed::ContentHash);
        }
        fixed_hex(text).map(Self).ok_or(Malformed::ContentHash)
    }
}

/// An e-mail address: a dot-atom of ASCII (RFC 5322 section 3.2.3) at a domain name of two labels or more.
///
/// The domain is kept in lower case; the name before the `@` belongs to its host and stays as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Email {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (local, domain) = text.rsplit_once('@').ok_or(Malformed::Email)?;
        let fits = text.len() <= EMAIL_LENGTH_MAX && local.len() <= EMAIL_LOCAL_LENGTH_MAX;
        let has_name = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext));
        let has_host = domain.contains('.') && domain.split('.').all(is_label);
        // A last label of digits would be an address of a machine, not a name.
        let is_named = domain.rsplit('.').next().is_some_and(|top| !top.bytes().all(|b| b.is_ascii_digit()));
        if fits && has_name && has_host && is_named {
            Ok(Self(format!("{local}@{}", domain.to_ascii_lowercase())))
        } else {
            Err(Malformed::Email)
        }
    }
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_LENGTH_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Exactly `N` bytes in hexadecimal, nothing before or behind them.
fn fixed_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    alloy_primitives::hex::decode_to_array(digits).ok()
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
            let (address, case) = Address::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), case), (text, Case::Checksummed));
        }
        let wrong = "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert_eq!(wrong.parse::<Address>(), Err(Malformed::Checksum));
        let (_, case) = Address::parse("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed").unwrap();
        assert_eq!(case, Case::Uniform);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "0x",
            "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "0X52908400098527886E0F7030069857D2E4169EE7",
        ] {
            assert_eq!(text.parse::<Address>(), Err(Malformed::Address), "{text}");
        }
        for text in
            ["0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae", "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaedd"]
        {
            assert_eq!(text.parse::<Address>(), Err(Malformed::Address), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_email() {
        for text in [
            "",
            "@",
            "a@",
            "@b.c",
            "a@b",
            "a b@c.d",
            "a@b..c",
            ".a@b.c",
            "a.@b.c",
            "a@-b.c",
            "a@b-.c",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "\"a\"@b.c",
            "a@b.c\n",
            "ä@b.c",
            "a@b.c.",
            "a<b>@c.d",
        ] {
            assert_eq!(text.parse::<Email>(), Err(Malformed::Email), "{text:?}");
        }
        let long = format!("{}@b.c", "a".repeat(65));
        assert!(long.parse::<Email>().is_err());
        assert_eq!(
            "Ann.Bee+tag@Mail.EXAMPLE.org".parse::<Email>().unwrap().as_str(),
            "Ann.Bee+tag@mail.example.org"
        );
    }

    proptest! {
        #[test]
        fn an_address_reads_back_and_one_changed_case_is_noticed(bytes: [u8; 20], at in 0_usize..40) {
            let address = Address::new(bytes.into());
            let text = address.to_string();
            prop_assert_eq!(Address::parse(&text), Ok((address, Case::Checksummed)));
            prop_assert_eq!(address.lower().parse::<Address>(), Ok(address));
            let mut changed = text.clone().into_bytes();
            let place = &mut changed[at + 2];
            *place = if place.is_ascii_lowercase() { place.to_ascii_uppercase() } else { place.to_ascii_lowercase() };
            let changed = String::from_utf8(changed).unwrap();
            if changed != text {
                // All letters alike is the one other spelling that is taken, and it is not called checked.
                prop_assert!(!matches!(Address::parse(&changed), Ok((_, Case::Checksummed))));
            }
        }

        #[test]
        fn a_transaction_hash_reads_back(bytes: [u8; 32]) {
            let hash = TransactionHash(bytes.into());
            prop_assert_eq!(hash.to_string().parse::<TransactionHash>(), Ok(hash));
            prop_assert_eq!(hash.to_string().to_uppercase().replace("0X", "0x").parse::<TransactionHash>(), Ok(hash));
        }

        #[test]
        fn a_content_hash_has_one_spelling(bytes: [u8; 32]) {
            let hash = ContentHash(bytes);
            let text = hash.to_string();
            prop_assert_eq!(text.parse::<ContentHash>(), Ok(hash));
            let upper = text.to_uppercase();
            prop_assert!(upper == text || upper.parse::<ContentHash>().is_err());
        }

        #[test]
        fn an_email_reads_back_the_same(local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[A-Z0-9]{1,9}){0,3}", domain in "[a-zA-Z0-9]{1,20}(\\.[a-z]{2,9}){1,3}") {
            let email = format!("{local}@{domain}").parse::<Email>().unwrap();
            prop_assert_eq!(email.as_str().parse::<Email>().unwrap(), email.clone());
            prop_assert!(email.as_str().starts_with(&local));
        }

        #[test]
        fn no_text_is_taken_twice_differently(text in "\\PC{0,80}") {
            for value in [
                text.parse::<Address>().map(|v| v.to_string()),
                text.parse::<TransactionHash>().map(|v| v.to_string()),
                text.parse::<ContentHash>().map(|v| v.to_string()),
                text.parse::<Email>().map(|v| v.to_string()),
            ].into_iter().flatten() {
                prop_assert!(value.is_ascii() && value.eq_ignore_ascii_case(&text));
            }
        }
    }
}
