//! The cache API: values that a principal keeps for a while under keys of its own, the same on every replica.
//!
//! They are in the bucket `cache`, each with its end. In front of it each replica keeps what was read (see `src/ingress/coherent_memory.rs`): a change of
//! another replica is received within 100 ms as a rule, and two seconds after the begin of the last tick that came back every read asks
//! the leader.
//! One's own change is seen at once on the replica that made it. A key of the bucket is a digest of principal and key.
//!
//! Limits: [`CachedConfig`]; a key has at most [`cached::KEY_BYTES_MAX`] bytes; a value ends by itself, after a day at most.

mod batch;
mod entry;
pub(crate) use entry::KEY_PATTERN;
mod follow;
mod memory;
mod overview;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nats::metrics::{
    labels::CacheWrite,
    table::{CACHE_REFUSALS, CACHE_WRITES},
};
use nats::{Bus, BusError, Outbox};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    cached::{self, CachedEntry},
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use self::{
    follow::load_epoch,
    memory::EntryMemory,
    tally::{EntryTally, NoRoom},
};
use super::{
    AppState,
    cache::{CacheConfig, ResponseCache},
    openapi,
};
use auth::Principal;
use web::{
    error::Problem,
    operation::{Operation, OperationRouter},
    problem_code::ProblemCode,
};

/// Settings of the cache API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CachedConfig {
    /// Most entries that all principals have together.
    pub entries_max: usize,
    /// Most that the entries of all principals take together, in bytes, with what is stored beside each value: less than the bucket holds.
    pub bytes_max: u64,
    /// Most entries of one principal.
    pub owner_entries_max: usize,
    /// Most that the entries of one principal take, in bytes, with what is stored beside each value.
    pub owner_bytes_max: u64,
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// How long an entry is kept whose request does not say, in seconds.
    pub ttl_s: u64,
    /// What each replica keeps in memory of entries that were read.
    pub memory: CacheConfig,
}

impl CachedConfig {
    /// The defaults.
    pub(super) const DEFAULT: Self = Self {
        entries_max: 100_000,
        owner_entries_max: 10_000,
        bytes_max: 192 * 1024 * 1024,
        owner_bytes_max: 16 * 1024 * 1024,
        value_bytes_max: 64 * 1024,
        ttl_s: 300,
        memory: CacheConfig { entries_max: 10_000, bytes_max: 32 * 1024 * 1024, age_s: 300 },
    };
}

impl Default for CachedConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&entry::READ_CACHED, entry::read_cached)
        .with(&entry::PUT_CACHED, entry::put_cached)
        .with(&entry::REMOVE_CACHED, entry::remove_cached)
        .with(&batch::CHANGE_CACHED_BATCH, batch::change_cached_batch)
        .with(&batch::WARM_CACHE, batch::warm_cache)
        .with(&overview::READ_CACHE_STATS, overview::read_cache_stats)
        .with(&overview::CLEAR_CACHE, overview::clear_cache)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    entry::read_cached,
    entry::put_cached,
    entry::remove_cached,
    batch::change_cached_batch,
    batch::warm_cache,
    overview::read_cache_stats,
    overview::clear_cache,
))]
pub(super) struct CacheApiDoc;

impl openapi::OperationGroup for CacheApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<entry::CachedEntryDocument>();
        schemas.add_request::<batch::CachedBatchRequest>();
        schemas.add_response::<batch::CachedBatchDocument>();
        schemas.add_request::<batch::CacheWarmRequest>();
        schemas.add_response::<batch::CacheWarmDocument>();
        schemas.add_response::<overview::CacheStatsDocument>();
    }
}

/// Entries of all principals.
#[derive(Debug)]
pub struct CachedEntries {
    config: CachedConfig,
    memory: EntryMemory,
    tally: EntryTally,
    /// True once this host's clock was compared with the broker's.
    has_clock: AtomicBool,
}

/// The digests of whose an entry is, and of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EntryName {
    owner_digest: String,
    key_digest: String,
}

impl EntryName {
    fn new(who: &Principal, key: &str) -> Self {
        Self { owner_digest: digest(&[&who.owner]), key_digest: digest(&[&who.owner, key]) }
    }

    fn digests(&self) -> (&str, &str) {
        (&self.owner_digest, &self.key_digest)
    }

    fn bucket_key(&self) -> String {
        cached::entry_key(&self.owner_digest, &self.key_digest)
    }
}

/// What fits the keys of all values that one principal has in the bucket.
pub fn entry_filter(owner: &str) -> String {
    cached::entry_key(&digest(&[owner]), "*")
}

/// The first 16 bytes of the SHA-256 of texts, each ended, in lower-case hex.
fn digest(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    let digest = hasher.finalize();
    data_encoding::HEXLOWER.encode(digest.get(..16).unwrap_or_default())
}

/// What a put made.
struct PutOutcome {
    entry: CachedEntry,
    is_new: bool,
}

impl CachedEntries {
    /// Without entries in memory.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: CachedConfig) -> anyhow::Result<Self> {
        Ok(Self {
            config,
            memory: EntryMemory::new(config.memory)?,
            tally: EntryTally::new(config),
            has_clock: AtomicBool::new(false),
        })
    }

    /// The cache in memory, for those who count what it does.
    pub fn answers(&self) -> &Arc<ResponseCache> {
        self.memory.answers()
    }

    /// The time of the broker, in Unix milliseconds: asked for once, and from then on with each tick.
    async fn broker_now_ms(&self, bus: &Bus) -> Result<u64, BusError> {
        if !self.has_clock.load(Ordering::Relaxed) {
            bus.broker_now_ms(&subjects::kv_stream_name(cached::BUCKET)).await?;
            self.has_clock.store(true, Ordering::Relaxed);
        }
        Ok(nats::estimated_broker_now_ms())
    }

    /// The entry, from memory where it may answer.
    async fn read(&self, bus: &Bus, name: &EntryName) -> Result<Option<CachedEntry>, BusError> {
        self.memory.mark_used();
        let key = name.bucket_key();
        let now_ms = self.broker_now_ms(bus).await?;
        match self.memory.get(&key, now_ms) {
            Some(entry) => Ok(Some(entry)),
            None => self.load(bus, &key).await,
        }
    }

    /// The entry as the leader of the bucket has it, and keeps it.
    async fn load(&self, bus: &Bus, key: &str) -> Result<Option<CachedEntry>, BusError> {
        let generation = self.memory.generation(key);
        let (found, epoch) = tokio::try_join!(bus.load_record::<CachedEntry>(key), load_epoch(bus))?;
        let now_ms = nats::estimated_broker_now_ms();
        let is_valid = |entry: &CachedEntry| entry.epoch == epoch && entry.expires_at_ms > now_ms;
        let entry = found.map(|held| held.record).filter(is_valid);
        if let Some(entry) = &entry {
            self.memory.keep(key, generation, entry);
        }
        Ok(entry)
    }

    /// Puts a value in the place of what is there, if `may_replace` what that is.
    async fn put(
        &self,
        bus: &Bus,
        name: &EntryName,
        value: (String, ByteBuf),
        ttl_s: u64,
        may_replace: impl FnMut(Option<&CachedEntry>) -> Result<(), Problem> + Send,
    ) -> Result<PutOutcome, Problem> {
        let size_bytes = u64::try_from(value.1.len()).unwrap_or(u64::MAX);
        let now_ms = self.broker_now_ms(bus).await?;
        self.tally.check_room(name.digests(), size_bytes, now_ms).map_err(|full| self.explain_full(full))?;
        let entry = CachedEntry {
            owner_digest: name.owner_digest.clone(),
            key_digest: name.key_digest.clone(),
            content_type: value.0,
            value: value.1,
            epoch: load_epoch(bus).await?,
            expires_at_ms: now_ms.saturating_add(ttl_s.saturating_mul(1_000)),
            writer_expires_at_ms: nats::now_ms().saturating_add(ttl_s.saturating_mul(1_000)),
        };
        let is_new = !self.replace(bus, &entry, may_replace).await?;
        CACHE_WRITES.increment(CacheWrite::Put);
        Ok(PutOutcome { entry, is_new })
    }

    /// Removes the entry, if `may_remove` it; [`ProblemCode::CacheMiss`] when there was none.
    async fn remove(
        &self,
        bus: &Bus,
        name: &EntryName,
        mut may_remove: impl FnMut(Option<&CachedEntry>) -> Result<(), Problem> + Send,
    ) -> Result<(), Problem> {
        // One that has ended, and goes by itself: who puts another one finds its place as that of any.
        let entry = CachedEntry {
            owner_digest: name.owner_digest.clone(),
            key_digest: name.key_digest.clone(),
            content_type: String::new(),
            value: ByteBuf::new(),
            epoch: load_epoch(bus).await?,
            expires_at_ms: 0,
            writer_expires_at_ms: nats::now_ms(),
        };
        let removed = self.replace(bus, &entry, |found| {
            may_remove(found)?;
            found.map(drop).ok_or_else(|| Problem::new(ProblemCode::CacheMiss))
        });
        removed.await?;
        CACHE_WRITES.increment(CacheWrite::Remove);
        Ok(())
    }

    /// Puts an entry where nothing is, or what `may_replace`; true when there was one before.
    async fn replace(
        &self,
        bus: &Bus,
        entry: &CachedEntry,
        mut may_replace: impl FnMut(Option<&CachedEntry>) -> Result<(), Problem> + Send,
    ) -> Result<bool, Problem> {
        self.memory.mark_used();
        let key = entry.key();
        let now_ms = self.broker_now_ms(bus).await?;
        let mut judged = Ok(false);
        let stored = bus.change_record::<CachedEntry>(&key, |found| {
            judged = judge_replacement(found, entry, now_ms, &mut may_replace);
            judged.is_ok().then(|| (entry.clone(), Outbox::new()))
        });
        let stored = Box::pin(stored).await;
        // Also where the answer was lost: it may be there.
        self.memory.forget(&key);
        stored?;
        judged
    }

    fn explain_full(&self, full: NoRoom) -> Problem {
        let CachedConfig { owner_entries_max, owner_bytes_max, entries_max, bytes_max, .. } = self.config;
        let detail = match full {
            NoRoom::Owner => {
                format!("one has at most {owner_entries_max} entries and {owner_bytes_max} bytes")
            }
            NoRoom::All => format!("all together have at most {entries_max} entries and {bytes_max} bytes"),
        };
        CACHE_REFUSALS.increment(());
        Problem::new(ProblemCode::CacheFull).with_detail(detail)
    }
}

/// Whether there is an entry that `entry` replaces, if it may.
fn judge_replacement(
    found: Option<&CachedEntry>,
    entry: &CachedEntry,
    now_ms: u64,
    may_replace: &mut (impl FnMut(Option<&CachedEntry>) -> Result<(), Problem> + Send),
) -> Result<bool, Problem> {
    // Everything was cleared since the epoch was read, and somebody put this one: it is none that is nothing any more.
    if found.is_some_and(|found| found.epoch > entry.epoch) {
        return Err(Problem::new(ProblemCode::Conflict));
    }
    let found = found.filter(|found| found.epoch == entry.epoch && found.expires_at_ms > now_ms);
    may_replace(found).map(|()| found.is_some())
}
