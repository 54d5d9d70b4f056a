//! No object of a JSON text has the same member twice (RFC 8259 leaves open what such an object means). Pure.
//!
//! Limits: those of the reader, which nests no deeper than 128; the names of an object are kept while it is read.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// Reads `bytes`, which are JSON, and looks at the names only.
///
/// # Errors
/// At the path of the first member whose name its object had already.
pub(super) fn refuse_duplicate_keys(
    bytes: &[u8],
) -> Result<(), serde_path_to_error::Error<serde_json::Error>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize::<_, UniqueKeysValue>(&mut reader).map(drop)
}

/// A value whose objects have each member once.
struct UniqueKeysValue;

impl<'de> Deserialize<'de> for UniqueKeysValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

/// The value of a member; refused there, so that the error has the member's path.
struct UniqueKeysMember {
    is_repeated: bool,
}

impl<'de> DeserializeSeed<'de> for UniqueKeysMember {
    type Value = UniqueKeysValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<UniqueKeysValue, D::Error> {
        if self.is_repeated {
            return Err(D::Error::custom("the object has this member twice"));
        }
        UniqueKeysValue::deserialize(deserializer)
    }
}

impl<'de> Visitor<'de> for UniqueKeysValue {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let is_repeated = !names.insert(name);
            map.next_value_seed(UniqueKeysMember { is_repeated })?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// JSON texts: objects by lists of members, which may repeat; the flag says whether one does.
    fn text() -> impl Strategy<Value = (String, bool)> {
        let leaf = prop_oneof![
            Just("null"),
            Just("true"),
            Just("-1.5e3"),
            Just("18446744073709551615"),
            Just("\"a\"")
        ];
        leaf.prop_map(|text| (text.to_owned(), false)).prop_recursive(4, 24, 4, |inner| {
            let member = ("[a-c]{0,2}", inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|items| {
                    let texts: Vec<&str> = items.iter().map(|(text, _)| text.as_str()).collect();
                    (format!("[{}]", texts.join(",")), items.iter().any(|(_, repeats)| *repeats))
                }),
                prop::collection::vec(member, 0..4).prop_map(|members| {
                    let names: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
                    let repeats = names.len() < members.len() || members.iter().any(|(_, (_, inner))| *inner);
                    let texts: Vec<String> =
                        members.iter().map(|(name, (text, _))| format!("\"{name}\":{text}")).collect();
                    (format!("{{{}}}", texts.join(",")), repeats)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn exactly_the_texts_without_a_repeated_member_pass((text, repeats) in text()) {
            prop_assert_eq!(refuse_duplicate_keys(text.as_bytes()).is_err(), repeats, "{}", text);
            // What passes says the same to a reader that takes the first and to one that takes the last.
            if !repeats {
                let read: Value = serde_json::from_str(&text).unwrap();
                prop_assert!(refuse_duplicate_keys(read.to_string().as_bytes()).is_ok());
            }
        }
    }
}
