//! Values people send, checked by type wherever they come in: a transaction's hash, an e-mail address.
//!
//! Each has one spelling inside, so that equal values are equal text; whatever else is refused before it is used.
//!
//! Limits: an e-mail address has at most [`EMAIL_LENGTH_MAX`] characters; a hash has a fixed length.

use std::{fmt, str::FromStr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest e-mail address in characters (RFC 5321 section 4.5.3.1.3, without the angle brackets).
pub const EMAIL_LENGTH_MAX: usize = 254;
/// Longest part before the `@` in characters (RFC 5321 section 4.5.3.1.1).
const EMAIL_LOCAL_LENGTH_MAX: usize = 64;
/// Longest label of a domain name in characters (RFC 1035 section 2.3.4).
const LABEL_LENGTH_MAX: usize = 63;

/// What a transaction hash matches, and nothing else.
const TRANSACTION_HASH: &str = "^0x[0-9a-fA-F]{64}$";
/// What an e-mail address matches; the length of the part before the `@` is all that it leaves open.
const EMAIL: &str = "^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@\
     ([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";

/// Why a text is no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MalformedValue {
    /// Not the form of a transaction hash.
    TransactionHash,
    /// Not the form of an e-mail address.
    Email,
}

impl fmt::Display for MalformedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransactionHash => "a transaction hash is 0x and 64 hexadecimal digits",
            Self::Email => "an e-mail address is name@domain in ASCII, without quotes or comments",
        })
    }
}

impl std::error::Error for MalformedValue {}

/// The hash of a transaction; shown as `0x` and lower-case digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionHash([u8; 32]);

impl fmt::Display for TransactionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for TransactionHash {
    type Err = MalformedValue;
    fn from_str(text: &str) -> Result<Self, MalformedValue> {
        let digits = text.strip_prefix("0x").ok_or(MalformedValue::TransactionHash)?;
        let bytes =
            HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| MalformedValue::TransactionHash)?;
        bytes.try_into().map(Self).map_err(|_| MalformedValue::TransactionHash)
    }
}

/// An e-mail address: a dot-atom of ASCII (RFC 5322 section 3.2.3) at a domain name of two labels or more.
///
/// The domain is kept in lower case; the name before the `@` belongs to its host and stays as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailAddress(String);

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EmailAddress {
    type Err = MalformedValue;
    fn from_str(text: &str) -> Result<Self, MalformedValue> {
        let (local, domain) = text.rsplit_once('@').ok_or(MalformedValue::Email)?;
        let fits = text.len() <= EMAIL_LENGTH_MAX && local.len() <= EMAIL_LOCAL_LENGTH_MAX;
        let has_name = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext_byte));
        let has_host = domain.contains('.') && domain.split('.').all(is_domain_label);
        // A last label of digits would be an address of a machine, not a name.
        let is_named =
            domain.rsplit('.').next().is_some_and(|top| top.starts_with(|c: char| c.is_ascii_alphabetic()));
        if fits && has_name && has_host && is_named {
            Ok(Self(format!("{local}@{}", domain.to_ascii_lowercase())))
        } else {
            Err(MalformedValue::Email)
        }
    }
}

fn is_atext_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_domain_label(label: &str) -> bool {
    (1..=LABEL_LENGTH_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A value travels as the text that it shows.
macro_rules! as_text {
    ($name:ident, $schema:tt) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

as_text!(TransactionHash, { "type": "string", "pattern": TRANSACTION_HASH });
// The format is a mailbox: a part before the `@` that is too long matches the pattern, and yet it is none.
as_text!(EmailAddress, { "type": "string", "format": "email", "pattern": EMAIL, "maxLength": EMAIL_LENGTH_MAX });

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
pub(crate) const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Whether a character of a text of people is shown: no control character, and none that is invisible or turns the direction of writing
/// around.
pub fn is_displayable(c: char) -> bool {
    let is_hidden =
        matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    !c.is_control() && !is_hidden
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn described<T: JsonSchema>() -> jsonschema::Validator {
        let schema = schemars::SchemaGenerator::default().into_root_schema_for::<T>();
        jsonschema::validator_for(&schema.to_value()).unwrap()
    }

    #[test]
    fn refuses_what_is_no_transaction_hash() {
        let described = described::<TransactionHash>();
        let digits = "5".repeat(64);
        for text in [
            String::new(),
            "0x".to_owned(),
            digits.clone(),
            format!("0X{digits}"),
            format!("0x{digits}5"),
            format!("0x0x{}", "5".repeat(62)),
            format!("0x{}", "5".repeat(63)),
            format!("0x{}g", "5".repeat(63)),
            format!("0x{digits}\n"),
            format!("0x{}ä", "5".repeat(62)),
        ] {
            assert_eq!(text.parse::<TransactionHash>(), Err(MalformedValue::TransactionHash), "{text:?}");
            assert!(!described.is_valid(&text.as_str().into()), "{text:?}");
        }
        assert!(described.is_valid(&format!("0x{digits}").into()));
    }

    #[test]
    fn refuses_what_is_no_email() {
        let described = described::<EmailAddress>();
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
            "a..b@c.d",
            "a@-b.c",
            "a@b-.c",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "\"a\"@b.c",
            "a@b.c\n",
            "ä@b.c",
            "a@b.c.",
            "a@b.-c",
            "a@b.c-",
            "a<b>@c.d",
            &format!("a@{}.c", "b".repeat(64)),
            &format!("a@{}c", "b.".repeat(127)),
        ] {
            assert_eq!(text.parse::<EmailAddress>(), Err(MalformedValue::Email), "{text:?}");
            assert!(!described.is_valid(&text.into()), "{text:?}");
        }
        let long = format!("{}@b.c", "a".repeat(65));
        assert_eq!(long.parse::<EmailAddress>(), Err(MalformedValue::Email));
        let kept = "Ann.Bee+tag@Mail.EXAMPLE.org".parse::<EmailAddress>().unwrap().to_string();
        assert_eq!(kept, "Ann.Bee+tag@mail.example.org");
    }

    proptest! {
        #[test]
        fn a_transaction_hash_reads_back_from_both_cases(bytes: [u8; 32]) {
            let hash = TransactionHash(bytes);
            let text = hash.to_string();
            prop_assert_eq!(text.parse::<TransactionHash>(), Ok(hash));
            prop_assert_eq!(text.to_uppercase().replacen("0X", "0x", 1).parse::<TransactionHash>(), Ok(hash));
            prop_assert_eq!(serde_json::from_value::<TransactionHash>(text.into()).unwrap(), hash);
            let packed = rmp_serde::to_vec_named(&hash).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<TransactionHash>(&packed).unwrap(), hash);
        }

        #[test]
        fn an_email_reads_back_the_same(
            local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[A-Z0-9]{1,9}){0,3}",
            domain in "[a-zA-Z0-9]{1,20}(\\.[a-z]{2,9}){1,3}",
        ) {
            let email = format!("{local}@{domain}").parse::<EmailAddress>().unwrap();
            let text = email.to_string();
            prop_assert!(text.starts_with(&local));
            prop_assert_eq!(serde_json::to_value(&email).unwrap(), text.as_str());
            prop_assert_eq!(text.parse::<EmailAddress>(), Ok(email));
        }

        /// What the description takes is what the type takes, from texts that are nearly right.
        #[test]
        fn what_an_email_needs_is_described(text in "[a.+]{0,3}@{0,2}[a-z0-9.-]{0,6}") {
            prop_assert_eq!(text.parse::<EmailAddress>().is_ok(), described::<EmailAddress>().is_valid(&text.as_str().into()));
        }

        #[test]
        fn what_a_hash_needs_is_described(text in "0?[xX]?[0-9a-gA-F]{62,66}") {
            let is_described = described::<TransactionHash>().is_valid(&text.as_str().into());
            prop_assert_eq!(text.parse::<TransactionHash>().is_ok(), is_described);
        }

        #[test]
        fn no_text_is_taken_otherwise_than_it_stands(text in "\\PC{0,80}") {
            for value in [
                text.parse::<TransactionHash>().map(|value| value.to_string()),
                text.parse::<EmailAddress>().map(|value| value.to_string()),
            ].into_iter().flatten() {
                prop_assert!(value.is_ascii() && value.eq_ignore_ascii_case(&text));
            }
        }
    }
}
