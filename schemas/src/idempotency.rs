//! Answers to requests that carry an idempotency key, so that a repeated request is answered, not done again.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Where the request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "State")]
pub enum IdempotencyState {
    /// A replica is working on it.
    Open {
        /// Unix time in milliseconds until which its claim holds unless it renews it; then whoever repeats the request does it.
        until_ms: u64,
    },
    /// It was answered.
    Answered {
        /// Status of the answer.
        status: u16,
        /// Headers of the answer that belong to it rather than to the connection.
        headers: BTreeMap<String, String>,
        /// Body of the answer.
        #[schemars(with = "Vec<u8>")]
        body: ByteBuf,
    },
}

/// One request in the bucket `idempotency`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct IdempotencyRecord {
    /// SHA-256 of principal, route and the client's key, in hex: client text is no key of ours.
    pub key: String,
    /// SHA-256 of what was asked; the same key with another request is refused.
    #[schemars(with = "Vec<u8>")]
    pub fingerprint: ByteBuf,
    /// Where it stands.
    pub state: IdempotencyState,
    /// Unix time in milliseconds after which the key is free again.
    pub expires_at_ms: u64,
}

impl crate::KvRecord for IdempotencyRecord {
    const BUCKET: &'static str = "idempotency";
    fn key(&self) -> String {
        self.key.clone()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}
