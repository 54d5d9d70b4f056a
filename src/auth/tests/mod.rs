//! Sign-in: the pure parts by tables and vectors, the rest against a real broker.

mod anvil;
mod contract;
mod known_keys;
mod link;
mod message;
mod principal;
mod published;
mod sessions;
mod signature;
mod upload_grant;

/// Made by `tests/signin/vectors.mjs` with viem, which shares no code with ours.
const VECTORS: &str = include_str!("../../../tests/signin/vectors.json");

#[derive(Debug, serde::Deserialize)]
struct Vectors {
    personal: Vec<Personal>,
    typed: Vec<Typed>,
    texts: Vec<Personal>,
}

#[derive(Debug, serde::Deserialize)]
struct Personal {
    address: super::address::WalletAddress,
    message: String,
    #[serde(deserialize_with = "digest")]
    digest: alloy_primitives::B256,
    signature: String,
    compact: String,
}

#[derive(Debug, serde::Deserialize)]
struct Typed {
    address: super::address::WalletAddress,
    values: super::typed::TypedSignIn,
    #[serde(deserialize_with = "digest")]
    digest: alloy_primitives::B256,
    signature: String,
    compact: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(VECTORS).unwrap()
}

fn digest<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<alloy_primitives::B256, D::Error> {
    let text: String = serde::Deserialize::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
