//! Entity ids: UUIDv7 as 26 lower-case base32hex characters, checked by type. No right rests on an id being secret.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of an id as text: 128 bits in groups of five.
pub const TEXT_LENGTH: usize = 26;

/// The regular expression that ids match, and nothing else: the last character holds three bits, and two that are zero.
pub const PATTERN: &str = "^[0-9a-v]{25}[048cgkos]$";

/// A text that is no id of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedId;

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is 26 lower-case base32 characters (0-9, a-v)")
    }
}

impl std::error::Error for MalformedId {}

/// RFC 4648 section 7 in lower case without padding: it sorts as the bytes do, so newer ids sort last.
fn id_encoding() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
    specification.encoding().ok()
}

fn encode_id(bytes: [u8; 16]) -> String {
    id_encoding().map(|e| e.encode(&bytes)).unwrap_or_default()
}

fn decode_id(text: &str) -> Result<[u8; 16], MalformedId> {
    if text.len() != TEXT_LENGTH {
        return Err(MalformedId);
    }
    let bytes = id_encoding().and_then(|e| e.decode(text.as_bytes()).ok()).ok_or(MalformedId)?;
    bytes.try_into().map_err(|_| MalformedId)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Makes the id of 16 bytes, usually a UUIDv7.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id's 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// When it was made, as Unix time in milliseconds: the first 48 bits of a UUIDv7 (RFC 9562, 5.7). Of other ids it says
            /// nothing.
            pub fn created_at_ms(&self) -> u64 {
                self.0.iter().take(6).fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode_id(self.0))
            }
        }

        impl FromStr for $name {
            type Err = MalformedId;
            fn from_str(text: &str) -> Result<Self, MalformedId> {
                decode_id(text).map(Self)
            }
        }

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
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": PATTERN })
            }
        }
    };
}

id!(
    /// A medium: what an owner published and a viewer plays.
    MediaId
);
id!(
    /// An upload: how bytes arrive.
    UploadId
);
id!(
    /// A job: one piece of work with parts.
    JobId
);
id!(
    /// A request: the entity of events that concern no lasting thing.
    RequestId
);
id!(
    /// An API key, its public half.
    KeyId
);
id!(
    /// A sign-in challenge; its text is the nonce, made of random bytes only.
    ChallengeId
);
id!(
    /// A session of a signed-in wallet.
    SessionId
);
id!(
    /// A playback session: one viewer and one medium.
    PlaybackId
);
id!(
    /// An object store: the id that its marker carries.
    StoreId
);
id!(
    /// A schedule: a job that is begun at set times.
    ScheduleId
);
id!(
    /// A right to bring one file, its public half.
    UploadGrantId
);
id!(
    /// A webhook.
    HookId
);
id!(
    /// One try of a webhook to deliver an event.
    DeliveryId
);

impl MediaId {
    /// No medium: all zeros, which no UUIDv7 is.
    pub const NONE: Self = Self([0; 16]);

    /// The id, unless it is that of no medium.
    pub fn if_any(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_id() {
        for text in [
            "",
            "0",
            "../../etc/passwd",
            "0123456789ABCDEFGHIJKLMNOP",
            "01234567890123456789012345678",
            "w1234567890123456789012345",
        ] {
            assert_eq!(text.parse::<MediaId>(), Err(MalformedId), "{text}");
        }
    }

    #[test]
    fn refuses_a_second_spelling() {
        // 26 characters hold 130 bits; the two spare ones must be zero, else one id has four names.
        for last in ('0'..='9').chain('a'..='v') {
            let text = format!("{}{last}", "0".repeat(TEXT_LENGTH - 1));
            let is_described =
                jsonschema::is_valid(&serde_json::json!({ "pattern": PATTERN }), &text.as_str().into());
            assert_eq!(text.parse::<MediaId>().is_ok(), is_described, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_agree(bytes: [u8; 16], other: [u8; 16]) {
            let (a, b) = (MediaId::from_bytes(bytes), MediaId::from_bytes(other));
            prop_assert_eq!(a.to_string().parse::<MediaId>(), Ok(a));
            prop_assert_eq!(a.to_string().len(), TEXT_LENGTH);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
