//! Documents kept in memory by what they were made of, so that a document costs its reads alone, and one that can't change any more
//! costs one.
//!
//! A key names revisions, so an entry can't be stale: a changed record has another key, and the old entry is never asked for again.
//! Nothing that decides about a right lies here. The policy is TinyLFU.
//!
//! Limits: entries, bytes and age in [`Config`]; an entry of more than an eighth of the bytes is not kept.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{error::Problem, tagged::Document};

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most documents.
    pub entries_max: u32,
    /// Most bytes of all documents with their keys.
    pub bytes_max: u32,
    /// Longest time a document is kept, in seconds.
    pub age_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 64 * 1024 * 1024, age_s: 30 * 60 }
    }
}

/// The documents of one replica.
pub struct Documents {
    entries: stretto::Cache<String, Document>,
    config: Config,
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

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Documents {
    /// An empty cache.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        // TinyLFU counts uses of ten times as many keys as it keeps.
        let counters = usize::try_from(config.entries_max)?.saturating_mul(10);
        let entries = stretto::Cache::builder(counters, i64::from(config.bytes_max))
            .set_ignore_internal_cost(true)
            .finalize()?;
        Ok(Self { entries, config, hits: AtomicU64::new(0), misses: AtomicU64::new(0) })
    }

    /// The document of `id` made of `revisions`.
    pub fn get(&self, id: &str, revisions: &[u64]) -> Option<Document> {
        let found = self.entries.get(&key(id, revisions)).map(|entry| entry.value().clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The same, made now and kept if it is worth its room.
    ///
    /// # Errors
    /// As `make`.
    pub fn get_or_make(
        &self,
        id: &str,
        revisions: &[u64],
        make: impl FnOnce() -> Result<Document, Problem>,
    ) -> Result<Document, Problem> {
        if let Some(document) = self.get(id, revisions) {
            return Ok(document);
        }
        let document = make()?;
        self.put(id, revisions, document.clone());
        Ok(document)
    }

    /// Keeps a document, if it is worth its room. It may be seen a moment later only.
    pub fn put(&self, id: &str, revisions: &[u64], document: Document) {
        let key = key(id, revisions);
        let Some(cost) = self.cost(key.len() + document.body().len()) else { return };
        self.entries.insert_with_ttl(key, document, cost, Duration::from_secs(self.config.age_s));
    }

    /// Bytes an entry counts for: at least as many as bring the cache to its limit of bytes when it is at its limit of entries.
    fn cost(&self, size_bytes: usize) -> Option<i64> {
        let size = u32::try_from(size_bytes).ok().filter(|size| *size <= self.config.bytes_max / 8)?;
        Some(i64::from(size.max(self.config.bytes_max.div_ceil(self.config.entries_max.max(1)))))
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

fn key(id: &str, revisions: &[u64]) -> String {
    revisions.iter().fold(id.to_owned(), |key, revision| format!("{key}@{revision}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Config = Config { entries_max: 100, bytes_max: 100_000, age_s: 60 };

    fn entry(body: &str) -> Document {
        Document::new(&body).unwrap()
    }

    #[test]
    fn an_older_revision_never_answers_for_a_newer_one() {
        let cache = Documents::new(BOUNDS).unwrap();
        cache.put("a", &[1], entry("old"));
        cache.entries.wait().unwrap();
        assert_eq!(cache.get("a", &[1]), Some(entry("old")));
        assert_eq!(cache.get("a", &[2]), None);
        assert_eq!(cache.get("a@1", &[0]), None);
        assert_eq!(cache.stats(), Stats { entries: 1, hits: 1, misses: 2 });
    }

    #[test]
    fn neither_many_nor_large_entries_break_the_bounds() {
        let cache = Documents::new(BOUNDS).unwrap();
        for i in 0..1_000 {
            cache.put(&i.to_string(), &[1], entry("small"));
        }
        cache.entries.wait().unwrap();
        assert!((1..=100).contains(&cache.entries.len()), "{}", cache.entries.len());
        let cache = Documents::new(BOUNDS).unwrap();
        let body = "x".repeat(10_000);
        for i in 0..100 {
            cache.put(&i.to_string(), &[1], entry(&body));
        }
        cache.put("large", &[1], entry(&"x".repeat(20_000)));
        cache.entries.wait().unwrap();
        assert!((1..=9).contains(&cache.entries.len()), "{}", cache.entries.len());
        assert_eq!(cache.get("large", &[1]), None);
    }

    #[test]
    fn an_entry_ends_with_its_time() {
        let cache = Documents::new(Config { age_s: 0, ..BOUNDS }).unwrap();
        assert_eq!(cache.cost(1), Some(1_000));
        let aged = Documents::new(BOUNDS).unwrap();
        aged.put("a", &[1], entry("kept"));
        aged.entries.wait().unwrap();
        let left = aged.entries.get_ttl(&key("a", &[1])).unwrap();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    }

    #[test]
    fn a_flush_leaves_nothing() {
        let cache = Documents::new(Config::default()).unwrap();
        cache.put("medium", &[1, 2], entry("b"));
        cache.entries.wait().unwrap();
        assert!(cache.get("medium", &[1, 2]).is_some());
        cache.flush();
        assert_eq!(cache.get("medium", &[1, 2]), None);
    }
}
