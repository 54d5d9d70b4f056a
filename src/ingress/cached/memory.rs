//! What a replica keeps of entries in memory, and when it may answer from it.
//!
//! Two things have to hold for an answer. No change of the entry was received since it was read: each change raises the generation of
//! the shard of its key, and an entry is kept under the generation that was there before it was read. And changes are received: a
//! replica writes a tick among the entries each second, and once that comes back, all that was stored before has come, too. Memory
//! answers for [`COHERENT_MAX`] from when such a tick was begun; after that every read asks the leader of the bucket.
//!
//! Limits: those of [`ResponseCache`]; [`SHARDS`] generations; ticks are written for [`USED_MAX`] after the last use.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use schemas::cached::CachedEntry;
use serde_bytes::ByteBuf;

use crate::cache::{CacheConfig, ResponseCache, versioned_key};

/// How long memory answers after the begin of a tick that came back.
pub(super) const COHERENT_MAX: Duration = Duration::from_secs(2);

/// For how long after the last use ticks are written: a replica that nobody asks for entries writes none.
const USED_MAX: Duration = Duration::from_secs(60);

/// Keys of a shard share a generation: a change of one makes the others be read again.
const SHARDS: usize = 4_096;

/// Entries in memory.
#[derive(Debug)]
pub(super) struct EntryMemory {
    answers: Arc<ResponseCache>,
    generations: Box<[AtomicU64]>,
    clock: Mutex<CoherenceClock>,
}

#[derive(Debug, Default)]
struct CoherenceClock {
    /// When the newest tick was begun of those that came back.
    proven_at: Option<Instant>,
    used_at: Option<Instant>,
    /// The epoch that was read with the newest tick.
    epoch: Option<u64>,
}

impl EntryMemory {
    /// An empty memory.
    ///
    /// # Errors
    /// When a limit is 0.
    pub(super) fn new(config: CacheConfig) -> anyhow::Result<Self> {
        Ok(Self {
            answers: Arc::new(ResponseCache::new(config)?),
            generations: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            clock: Mutex::default(),
        })
    }

    /// Where the answers are, for those who count them.
    pub(super) fn answers(&self) -> &Arc<ResponseCache> {
        &self.answers
    }

    fn shard(&self, key: &str) -> Option<&AtomicU64> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let shards = u64::try_from(self.generations.len()).unwrap_or(1).max(1);
        self.generations.get(usize::try_from(hasher.finish() % shards).unwrap_or(0))
    }

    /// Counts the changes of what shares a shard with `key`; taken before an entry is read.
    pub(super) fn generation(&self, key: &str) -> u64 {
        self.shard(key).map_or(0, |shard| shard.load(Ordering::Acquire))
    }

    /// The entry under `key` in the bucket, if memory may answer. An entry whose time is over is none.
    pub(super) fn get(&self, key: &str, now_ms: u64) -> Option<CachedEntry> {
        if !self.is_coherent() {
            return None;
        }
        let kept = self.answers.get(&versioned_key(key, &[self.generation(key)]))?;
        decode_entry(key, &kept).filter(|entry| entry.expires_at_ms > now_ms)
    }

    /// Keeps an entry that was read at `generation`.
    pub(super) fn keep(&self, key: &str, generation: u64, entry: &CachedEntry) {
        self.answers.put(versioned_key(key, &[generation]), encode_entry(entry));
    }

    /// An entry was changed: what is kept of it answers no more.
    pub(super) fn forget(&self, key: &str) {
        if let Some(shard) = self.shard(key) {
            shard.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Nothing that is kept answers any more.
    pub(super) fn forget_all(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// True while nothing can have been missed for longer than [`COHERENT_MAX`].
    pub(super) fn is_coherent(&self) -> bool {
        self.clock.lock().proven_at.is_some_and(|at| at.elapsed() < COHERENT_MAX)
    }

    /// A tick that was begun at `begun` came back, and the epoch was `epoch` then; true when it was another one before.
    pub(super) fn prove(&self, begun: Instant, epoch: u64) -> bool {
        let mut clock = self.clock.lock();
        let before = clock.epoch.replace(epoch);
        // Also where nothing is known of before: what was kept may be of another one.
        if before != Some(epoch) {
            self.forget_all();
        }
        clock.proven_at = Some(begun);
        before.is_some_and(|before| before != epoch)
    }

    /// Changes may be missed from now on.
    pub(super) fn lose(&self) {
        self.clock.lock().proven_at = None;
        self.forget_all();
    }

    /// Somebody asks for entries.
    pub(super) fn mark_used(&self) {
        self.clock.lock().used_at = Some(Instant::now());
    }

    /// True when somebody asked for entries a while ago at most.
    pub(super) fn is_used(&self) -> bool {
        self.clock.lock().used_at.is_some_and(|at| at.elapsed() < USED_MAX)
    }
}

/// End, length of the media type, media type, value.
fn encode_entry(entry: &CachedEntry) -> Bytes {
    let content_type = entry.content_type.as_bytes();
    let mut bytes = BytesMut::with_capacity(12 + content_type.len() + entry.value.len());
    bytes.put_u64(entry.expires_at_ms);
    bytes.put_u32(u32::try_from(content_type.len()).unwrap_or(0));
    bytes.put_slice(content_type);
    bytes.put_slice(&entry.value);
    bytes.freeze()
}

fn decode_entry(key: &str, kept: &Bytes) -> Option<CachedEntry> {
    let (owner_digest, key_digest) = schemas::cached::parse_entry_key(key)?;
    let (expires_at_ms, rest) = kept.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (content_type, value) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(CachedEntry {
        owner_digest: owner_digest.to_owned(),
        key_digest: key_digest.to_owned(),
        content_type: std::str::from_utf8(content_type).ok()?.to_owned(),
        value: ByteBuf::from(value.to_vec()),
        // Those of another epoch were forgotten.
        epoch: 0,
        expires_at_ms: u64::from_be_bytes(*expires_at_ms),
        writer_expires_at_ms: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "entry.aa.bb";

    fn memory() -> EntryMemory {
        EntryMemory::new(CacheConfig { entries_max: 100, bytes_max: 100_000, age_s: 60 }).unwrap()
    }

    fn entry(value: &str) -> CachedEntry {
        CachedEntry {
            owner_digest: "aa".into(),
            key_digest: "bb".into(),
            content_type: "text/plain".into(),
            value: ByteBuf::from(value.as_bytes().to_vec()),
            epoch: 0,
            expires_at_ms: 1_000,
            writer_expires_at_ms: 0,
        }
    }

    /// Keeps an entry, and waits until it is seen.
    fn keep(memory: &EntryMemory, generation: u64, value: &str) {
        memory.keep(KEY, generation, &entry(value));
        memory.answers.wait_until_seen();
    }

    #[test]
    fn it_answers_only_while_a_tick_came_back_a_moment_ago() {
        let memory = memory();
        keep(&memory, memory.generation(KEY), "one");
        assert_eq!(memory.get(KEY, 0), None, "nothing proves that changes are received");
        memory.prove(Instant::now(), 1);
        assert_eq!(memory.get(KEY, 0), None, "it may be of an epoch of before");
        keep(&memory, memory.generation(KEY), "one");
        assert_eq!(memory.get(KEY, 0), Some(entry("one")));
        assert_eq!(memory.get(KEY, 1_000), None, "its time is over");
        let long_ago = Instant::now().checked_sub(COHERENT_MAX).unwrap();
        memory.prove(long_ago, 1);
        assert_eq!(memory.get(KEY, 0), None);
        memory.prove(Instant::now(), 1);
        memory.lose();
        memory.prove(Instant::now(), 1);
        assert_eq!(memory.get(KEY, 0), None, "what was kept before changes were missed");
    }

    #[test]
    fn what_was_read_before_a_change_never_answers_behind_it() {
        let memory = memory();
        memory.prove(Instant::now(), 1);
        let generation = memory.generation(KEY);
        memory.forget(KEY);
        keep(&memory, generation, "old");
        assert_eq!(memory.get(KEY, 0), None);
        keep(&memory, memory.generation(KEY), "new");
        assert_eq!(memory.get(KEY, 0), Some(entry("new")));
        memory.prove(Instant::now(), 2);
        assert_eq!(memory.get(KEY, 0), None, "all was cleared");
    }
}
