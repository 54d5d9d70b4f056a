//! Answers kept in memory under names that say what they were made of, so that an entry can't be stale: of a changed record the
//! name is another, and the old entry is never asked for again.
//!
//! Documents of jobs are kept by id and revisions, those of media by the generation of their records (`src/ingress/coherent_memory.rs`), final
//! playlists and init segments by the key of their object. The policy is TinyLFU.
//!
//! Limits: entries, bytes and age in [`CacheConfig`]; an entry of more than an eighth of the bytes is not kept.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nats::metrics::{
    Collector, DescriptorEncoder, encode_counters, encode_gauges,
    table::{CACHE_DEPARTURES, CACHE_ENTRIES, CACHE_REQUESTS, CACHE_SIZE_BYTES},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Most entries.
    pub entries_max: u32,
    /// Most that all entries may take with their names, in bytes.
    pub bytes_max: u32,
    /// Longest time an entry is kept, in seconds.
    pub age_s: u64,
}

/// One cache.
pub struct ResponseCache {
    entries: stretto::Cache<
        String,
        CountedBytes,
        stretto::DefaultKeyBuilder<String>,
        stretto::DefaultCoster<CountedBytes>,
        stretto::DefaultUpdateValidator<CountedBytes>,
        DepartureCounter,
    >,
    config: CacheConfig,
    hits: AtomicU64,
    misses: AtomicU64,
    departures: Arc<Departures>,
    size_bytes: Arc<AtomicU64>,
}

/// Bytes that count for as long as a cache holds them, wherever it drops them.
struct CountedBytes {
    bytes: Bytes,
    size_bytes: Arc<AtomicU64>,
}

impl CountedBytes {
    fn new(bytes: Bytes, size_bytes: &Arc<AtomicU64>) -> Self {
        size_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Self { bytes, size_bytes: Arc::clone(size_bytes) }
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.size_bytes.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// How many answers left a cache by themselves.
#[derive(Debug, Default)]
struct Departures {
    evicted: AtomicU64,
    expired: AtomicU64,
}

/// Counts what the policy takes out.
struct DepartureCounter(Arc<Departures>);

impl stretto::CacheCallback for DepartureCounter {
    type Value = CountedBytes;

    fn on_exit(&self, _: Option<CountedBytes>) {}

    fn on_evict(&self, item: stretto::Item<CountedBytes>) {
        let is_over = !item.exp.is_zero() && item.exp.is_expired();
        let counter = if is_over { &self.0.expired } else { &self.0.evicted };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries held now.
    pub entries: usize,
    /// Questions that were answered.
    pub hits: u64,
    /// Questions that were not.
    pub misses: u64,
    /// Bytes of the entries held now, without their names.
    pub size_bytes: u64,
    /// Entries that made room for others.
    pub evicted: u64,
    /// Entries whose time was over.
    pub expired: u64,
}

impl fmt::Debug for ResponseCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl ResponseCache {
    /// An empty cache.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: CacheConfig) -> anyhow::Result<Self> {
        // TinyLFU counts uses of ten times as many keys as it keeps.
        let counters = usize::try_from(config.entries_max)?.saturating_mul(10);
        let departures = Arc::<Departures>::default();
        let entries = stretto::Cache::builder(counters, i64::from(config.bytes_max))
            .set_ignore_internal_cost(true)
            .set_callback(DepartureCounter(Arc::clone(&departures)))
            .finalize()?;
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { entries, config, hits, misses, departures, size_bytes: Arc::default() })
    }

    /// What is kept under `name`.
    pub fn get(&self, name: &str) -> Option<Bytes> {
        let found = self.entries.get(name).map(|entry| entry.value().bytes.clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        // Relaxed: the counts are for people and order nothing.
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// What is kept under `name`, where `is_current` says that it may answer: else it counts as a miss.
    pub(crate) fn get_current(&self, name: &str, is_current: impl FnOnce(&Bytes) -> bool) -> Option<Bytes> {
        let found = self.peek(name).filter(is_current);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The same where the question counts already.
    pub(crate) fn peek(&self, name: &str) -> Option<Bytes> {
        self.entries.get(name).map(|entry| entry.value().bytes.clone())
    }

    /// Counts a question that was not asked, since nothing that is kept may answer.
    pub fn note_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps bytes, if it is worth its room. It may be seen a moment later only.
    pub fn put(&self, name: String, bytes: Bytes) {
        let Some(cost) = self.entry_cost(name.len() + bytes.len()) else { return };
        let bytes = CountedBytes::new(bytes, &self.size_bytes);
        self.entries.insert_with_ttl(name, bytes, cost, Duration::from_secs(self.config.age_s));
    }

    /// Bytes an entry counts for: at least as many as bring the cache to its limit of bytes when it is at its limit of entries.
    fn entry_cost(&self, size_bytes: usize) -> Option<i64> {
        let size = u32::try_from(size_bytes).ok().filter(|size| *size <= self.config.bytes_max / 8)?;
        // Small entries cost a share of the bytes, so that the number of entries is bounded as well.
        Some(i64::from(size.max(self.config.bytes_max.div_ceil(self.config.entries_max.max(1)))))
    }

    /// Drops every entry.
    pub fn flush(&self) {
        if let Err(error) = self.entries.clear() {
            tracing::warn!(%error, "a cache could not be emptied; its entries age out");
        }
    }

    /// How it does.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.entries.len(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            size_bytes: self.size_bytes.load(Ordering::Relaxed),
            evicted: self.departures.evicted.load(Ordering::Relaxed),
            expired: self.departures.expired.load(Ordering::Relaxed),
        }
    }

    /// Waits until what was put is seen.
    #[cfg(test)]
    pub(crate) fn wait_until_seen(&self) {
        self.entries.wait().unwrap();
    }
}

/// The name of what was made of `revisions` of `id`.
pub fn versioned_key(id: &str, revisions: &[u64]) -> String {
    revisions.iter().fold(id.to_owned(), |name, revision| format!("{name}@{revision}"))
}

/// How caches do, as metrics.
#[derive(Debug)]
pub struct CacheMetrics([(&'static str, Arc<ResponseCache>); 6]);

impl CacheMetrics {
    /// Those of `caches`, by their names.
    pub const fn new(caches: [(&'static str, Arc<ResponseCache>); 6]) -> Self {
        Self(caches)
    }
}

impl Collector for CacheMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let caches = self.0.each_ref().map(|(name, cache)| (*name, cache.stats()));
        let requests = caches.iter().flat_map(|(name, stats)| {
            [("hit", stats.hits), ("miss", stats.misses)]
                .map(|(outcome, count)| ([("cache", *name), ("outcome", outcome)], count))
        });
        encode_counters(&mut encoder, &CACHE_REQUESTS, requests)?;
        let departures = caches.iter().flat_map(|(name, stats)| {
            [("evicted", stats.evicted), ("expired", stats.expired)]
                .map(|(reason, count)| ([("cache", *name), ("reason", reason)], count))
        });
        encode_counters(&mut encoder, &CACHE_DEPARTURES, departures)?;
        let sizes = caches.iter().map(|(name, stats)| ([("cache", *name)], stats.size_bytes));
        encode_gauges(&mut encoder, &CACHE_SIZE_BYTES, sizes)?;
        let entries = caches.iter().map(|(name, stats)| ([("cache", *name)], stats.entries));
        encode_gauges(&mut encoder, &CACHE_ENTRIES, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: CacheConfig = CacheConfig { entries_max: 100, bytes_max: 100_000, age_s: 60 };

    /// A cache, and a way to put something into it that is seen at once.
    fn filled(entries: &[(&str, &str)]) -> ResponseCache {
        let cache = ResponseCache::new(CONFIG).unwrap();
        for (name, text) in entries {
            cache.put((*name).to_owned(), Bytes::from((*text).to_owned()));
        }
        cache.wait_until_seen();
        cache
    }

    #[test]
    fn an_older_revision_never_answers_for_a_newer_one() {
        let cache = filled(&[(&versioned_key("a", &[1]), "old")]);
        assert_eq!(cache.get(&versioned_key("a", &[1])), Some(Bytes::from("old")));
        for other in [
            versioned_key("a", &[2]),
            versioned_key("a", &[1, 0]),
            versioned_key("a", &[11]),
            versioned_key("a@1", &[0]),
        ] {
            assert_eq!(cache.get(&other), None, "{other}");
        }
        assert_eq!(
            cache.stats(),
            CacheStats { entries: 1, hits: 1, misses: 4, size_bytes: 3, evicted: 0, expired: 0 }
        );
    }

    #[test]
    fn neither_many_nor_large_entries_break_the_bounds() {
        let names: Vec<String> = (0..1_000).map(|i| i.to_string()).collect();
        let small: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "small")).collect();
        let cache = Arc::new(filled(&small));
        let held = cache.stats().entries;
        assert!((1..=100).contains(&held), "{held}");
        let text = nats::metrics::render_collector(CacheMetrics::new(
            ["a", "b", "c", "d", "e", "f"].map(|name| (name, Arc::clone(&cache))),
        ));
        let evicted =
            text.split_once("streamgate_cache_departures_total{cache=\"a\",reason=\"evicted\"} ").unwrap().1;
        assert!(!evicted.starts_with('0'), "{text}");
        let body = "x".repeat(10_000);
        let large: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), body.as_str())).collect();
        let held = filled(&large).stats().entries;
        assert!((1..=10).contains(&held), "{held}");
        assert_eq!(filled(&[("too large", &"x".repeat(12_501))]).get("too large"), None);
    }

    #[test]
    fn an_entry_ends_with_its_time() {
        let left = filled(&[("a", "kept")]).entries.get_ttl("a").unwrap();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    }

    #[test]
    fn a_flush_leaves_nothing() {
        let cache = filled(&[("a", "kept")]);
        assert!(cache.get("a").is_some());
        cache.flush();
        assert_eq!(cache.get("a"), None);
    }
}
