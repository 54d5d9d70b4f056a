//! Entries of the cache API: what principals keep for a while in the bucket `cache`, and how replicas know what they missed.
//!
//! A key of the bucket is made of digests: text of a client is never a subject.
//!
//! Limits: an entry lives for at most [`TTL_S_MAX`]; its key has at most [`KEY_BYTES_MAX`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{BusEvent, EventContext, KvRecord, ids::RequestId};

/// The bucket.
pub const BUCKET: &str = "cache";

/// Longest key of a client, in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// Longest life of an entry, in seconds: a day.
pub const TTL_S_MAX: u64 = 86_400;

/// Key of an entry in the bucket, from digests of owner and key in lower-case hex.
pub fn entry_key(owner_digest: &str, key_digest: &str) -> String {
    format!("entry.{owner_digest}.{key_digest}")
}

/// The digests of owner and key that are in a key of the bucket; `None` for one that is no entry's.
pub fn parse_entry_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("entry.")?.split_once('.')
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CachedEntry {
    /// Digest of whose it is: SHA-256, its first 16 bytes in lower-case hex.
    pub owner_digest: String,
    /// Digest of the client's key, in the same form.
    pub key_digest: String,
    /// Media type of the value.
    pub content_type: String,
    /// The value.
    #[schemars(with = "Vec<u8>")]
    pub value: ByteBuf,
    /// The epoch in which it was put: of another one it is nothing any more.
    pub epoch: u64,
    /// Unix time in milliseconds by the broker at which it ends; what is removed ends at once.
    pub expires_at_ms: u64,
    /// The same by the clock of the replica that wrote it, from which the broker's time to live is made.
    pub writer_expires_at_ms: u64,
}

impl KvRecord for CachedEntry {
    const BUCKET: &'static str = BUCKET;
    fn key(&self) -> String {
        entry_key(&self.owner_digest, &self.key_digest)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.writer_expires_at_ms)
    }
}

/// How often everything was cleared: in the bucket `limits`, whose events the keeper sends when a crash left them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheEpoch {
    /// Entries of another epoch are nothing any more.
    pub epoch: u64,
}

impl CacheEpoch {
    /// Its key; there is one record.
    pub const KEY: &'static str = "cache_epoch";
}

impl KvRecord for CacheEpoch {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// What is written among the entries once the epoch is another one, so that replicas forget at once what they have in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheFlush {
    /// The epoch from now on.
    pub epoch: u64,
}

impl CacheFlush {
    /// Its key; there is one record.
    pub const KEY: &'static str = "flush";
}

impl KvRecord for CacheFlush {
    const BUCKET: &'static str = BUCKET;
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// What a replica writes to know that it receives what others write: once it has received this, it has received all before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheTick {
    /// Random name of the replica, lower-case hexadecimal.
    pub replica: String,
    /// Number of the tick, from 1.
    pub number: u64,
    /// Unix time in milliseconds by the replica.
    pub written_at_ms: u64,
}

impl CacheTick {
    /// How long it is kept, in milliseconds.
    pub const KEPT_MS: u64 = 10_000;
}

impl KvRecord for CacheTick {
    const BUCKET: &'static str = BUCKET;
    fn key(&self) -> String {
        format!("tick.{}.{}", self.replica, self.number)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.written_at_ms.saturating_add(Self::KEPT_MS))
    }
}

/// `evt.cache.cleared`: an admin cleared all entries, and what replicas keep in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheCleared {
    /// Names this event.
    pub request_id: RequestId,
    /// The account of the admin.
    pub cleared_by: String,
    /// The epoch from now on.
    pub epoch: u64,
}

impl BusEvent for CacheCleared {
    const ENTITY: &'static str = "cache";
    const VERB: &'static str = "cleared";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.request_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}
