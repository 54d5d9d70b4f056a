//! Answers kept in memory: of the api group (public keys, supported chains, this API's description) and of the metadata group.
//!
//! A key names a revision, so an entry can't be stale: a changed record has another key, and the old entry is never asked for again.
//! Nothing about the health of the service, and nothing that decides about a right, lies here. The policy is TinyLFU.
//!
//! Limits: entries, bytes and age of each, in [`Config`]; an entry of more than an eighth of the bytes is not kept.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Limits of one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Most entries.
    pub entries_max: u32,
    /// Most bytes of all entries with their keys.
    pub bytes_max: u32,
    /// Longest time an entry is kept, in seconds.
    pub age_s: u64,
}

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Public keys, supported chains, the description of the API.
    pub api: Bounds,
    /// Documents of media.
    pub metadata: Bounds,
}

impl Default for Config {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self {
            api: Bounds { entries_max: 10_000, bytes_max: 32 * mib, age_s: 5 * 60 },
            metadata: Bounds { entries_max: 10_000, bytes_max: 64 * mib, age_s: 30 * 60 },
        }
    }
}

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its media type.
    pub content_type: HeaderValue,
    /// Its bytes.
    pub body: Bytes,
}

/// One cache.
pub struct Cache {
    entries: stretto::Cache<String, Entry>,
    bounds: Bounds,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How a cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Entries held now.
    pub entries: usize,
    /// Questions that were answered.
    pub hits: u64,
    /// Questions that were not.
    pub misses: u64,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("bounds", &self.bounds)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The caches of one replica.
#[derive(Debug)]
pub struct Caches {
    /// Public keys, supported chains, the description of the API.
    pub api: Cache,
    /// Documents of media.
    pub metadata: Cache,
}

impl Caches {
    /// Empty caches.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self { api: Cache::new(config.api)?, metadata: Cache::new(config.metadata)? })
    }

    /// Empties all of them: at shutdown, and on the operator's word.
    pub fn flush(&self) {
        for cache in [&self.api, &self.metadata] {
            cache.flush();
        }
    }
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(bounds: Bounds) -> anyhow::Result<Self> {
        // TinyLFU counts uses of ten times as many keys as it keeps.
        let counters = usize::try_from(bounds.entries_max)?.saturating_mul(10);
        let entries = stretto::Cache::builder(counters, i64::from(bounds.bytes_max))
            .set_ignore_internal_cost(true)
            .finalize()?;
        Ok(Self { entries, bounds, hits: AtomicU64::new(0), misses: AtomicU64::new(0) })
    }

    /// What is kept of `id` at `revision`.
    pub fn get(&self, id: &str, revision: u64) -> Option<Entry> {
        let found = self.entries.get(&key(id, revision)).map(|entry| entry.value().clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps `entry` for `id` at `revision`, if it is worth its room. It may be seen a moment later only.
    pub fn put(&self, id: &str, revision: u64, entry: Entry) {
        let key = key(id, revision);
        let Some(cost) = self.cost(key.len() + entry.body.len()) else { return };
        self.entries.insert_with_ttl(key, entry, cost, Duration::from_secs(self.bounds.age_s));
    }

    /// Bytes an entry counts for: at least as many as bring the cache to its limit of bytes when it is at its limit of entries.
    fn cost(&self, size_bytes: usize) -> Option<i64> {
        let size = u32::try_from(size_bytes).ok().filter(|size| *size <= self.bounds.bytes_max / 8)?;
        Some(i64::from(size.max(self.bounds.bytes_max.div_ceil(self.bounds.entries_max.max(1)))))
    }

    /// Drops every entry.
    pub fn flush(&self) {
        if let Err(error) = self.entries.clear() {
            tracing::warn!(%error, "a cache could not be emptied; its entries age out");
        }
    }

    /// How it does.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.entries.len(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

fn key(id: &str, revision: u64) -> String {
    format!("{id}@{revision}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { entries_max: 100, bytes_max: 100_000, age_s: 60 };

    fn entry(body: &str) -> Entry {
        Entry {
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn an_older_revision_never_answers_for_a_newer_one() {
        let cache = Cache::new(BOUNDS).unwrap();
        cache.put("a", 1, entry("old"));
        cache.entries.wait().unwrap();
        assert_eq!(cache.get("a", 1), Some(entry("old")));
        assert_eq!(cache.get("a", 2), None);
        assert_eq!(cache.get("a@1", 0), None);
        assert_eq!(cache.stats(), Stats { entries: 1, hits: 1, misses: 2 });
    }

    #[test]
    fn neither_many_nor_large_entries_break_the_bounds() {
        let cache = Cache::new(BOUNDS).unwrap();
        for i in 0..1_000 {
            cache.put(&i.to_string(), 1, entry("small"));
        }
        cache.entries.wait().unwrap();
        assert!((1..=100).contains(&cache.entries.len()), "{}", cache.entries.len());
        let cache = Cache::new(BOUNDS).unwrap();
        let body = "x".repeat(10_000);
        for i in 0..100 {
            cache.put(&i.to_string(), 1, entry(&body));
        }
        cache.put("large", 1, entry(&"x".repeat(20_000)));
        cache.entries.wait().unwrap();
        assert!((1..=9).contains(&cache.entries.len()), "{}", cache.entries.len());
        assert_eq!(cache.get("large", 1), None);
    }

    #[test]
    fn an_entry_ends_with_its_time() {
        let cache = Cache::new(Bounds { age_s: 0, ..BOUNDS }).unwrap();
        assert_eq!(cache.cost(1), Some(1_000));
        let aged = Cache::new(BOUNDS).unwrap();
        aged.put("a", 1, entry("kept"));
        aged.entries.wait().unwrap();
        let left = aged.entries.get_ttl(&key("a", 1)).unwrap();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    }

    #[test]
    fn a_flush_leaves_nothing() {
        let caches = Caches::new(&Config::default()).unwrap();
        caches.api.put("keys", 1, entry("a"));
        caches.metadata.put("medium", 1, entry("b"));
        caches.api.entries.wait().unwrap();
        caches.metadata.entries.wait().unwrap();
        caches.flush();
        assert_eq!((caches.api.get("keys", 1), caches.metadata.get("medium", 1)), (None, None));
    }
}
