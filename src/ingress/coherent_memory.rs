//! What a replica keeps in memory of the records of a bucket, and when it may answer from it.
//!
//! Two things have to hold for an answer. No change of the record was received since it was read: each change raises the generation of
//! the shard of its key, and what was made of it is kept under the generation that was there before it was read. And changes are
//! received: who follows the bucket proves again and again that all that was stored at some moment has come. Memory answers for
//! [`COHERENT_MAX`] from that moment; after that every read asks the leader of the bucket.
//!
//! Limits: those of [`ResponseCache`]; [`SHARDS`] generations; proofs are looked for until [`USED_MAX`] after the last use.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::{ResponseCache, versioned_key};

/// How long memory answers after a moment of which it is proven that all that was stored before was received.
pub(crate) const COHERENT_MAX: Duration = Duration::from_secs(2);

/// For how long after the last use proofs are looked for: a replica that nobody asks costs the broker nothing.
const USED_MAX: Duration = Duration::from_secs(60);

/// Keys of a shard share a generation: a change of one makes the others be read again.
const SHARDS: usize = 4_096;

/// What was made of records, by their keys.
#[derive(Debug)]
pub(crate) struct CoherentMemory {
    answers: Arc<ResponseCache>,
    generations: Box<[AtomicU64]>,
    clock: Mutex<CoherenceClock>,
}

#[derive(Debug, Default)]
struct CoherenceClock {
    /// The newest moment of which it is proven that all that was stored before was received.
    proven_at: Option<Instant>,
    used_at: Option<Instant>,
}

impl CoherentMemory {
    /// Keeps what there is in `answers`, which may hold other things, too.
    pub(crate) fn new(answers: Arc<ResponseCache>) -> Self {
        let generations = (0..SHARDS).map(|_| AtomicU64::new(0)).collect();
        Self { answers, generations, clock: Mutex::default() }
    }

    /// Where the answers are, for those who count them.
    pub(crate) fn answers(&self) -> &Arc<ResponseCache> {
        &self.answers
    }

    fn shard(&self, key: &str) -> Option<&AtomicU64> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let shards = u64::try_from(self.generations.len()).unwrap_or(1).max(1);
        self.generations.get(usize::try_from(hasher.finish() % shards).unwrap_or(0))
    }

    /// Counts the changes of what shares a shard with `key`; taken before a record is read.
    pub(crate) fn generation(&self, key: &str) -> u64 {
        self.shard(key).map_or(0, |shard| shard.load(Ordering::Acquire))
    }

    /// What was made of the record under `key`, if memory may answer.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        if !self.is_coherent() {
            return None;
        }
        self.answers.get(&versioned_key(key, &[self.generation(key)]))
    }

    /// Keeps what was made of a record that was read at `generation`.
    pub(crate) fn keep(&self, key: &str, generation: u64, answer: Bytes) {
        self.answers.put(versioned_key(key, &[generation]), answer);
    }

    /// A record was changed: what is kept of it answers no more.
    pub(crate) fn forget(&self, key: &str) {
        if let Some(shard) = self.shard(key) {
            shard.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Nothing that is kept answers any more.
    pub(crate) fn forget_all(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// True while nothing can have been missed for longer than [`COHERENT_MAX`].
    pub(crate) fn is_coherent(&self) -> bool {
        self.clock.lock().proven_at.is_some_and(|at| at.elapsed() < COHERENT_MAX)
    }

    /// All that was stored at `moment` was received.
    pub(crate) fn prove(&self, moment: Instant) {
        self.clock.lock().proven_at = Some(moment);
    }

    /// Changes may be missed from now on.
    pub(crate) fn lose(&self) {
        self.clock.lock().proven_at = None;
        self.forget_all();
    }

    /// Somebody asks.
    pub(crate) fn mark_used(&self) {
        self.clock.lock().used_at = Some(Instant::now());
    }

    /// True when somebody asked a while ago at most.
    pub(crate) fn is_used(&self) -> bool {
        self.clock.lock().used_at.is_some_and(|at| at.elapsed() < USED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheConfig;

    const KEY: &str = "a key";

    fn memory() -> CoherentMemory {
        let config = CacheConfig { entries_max: 100, bytes_max: 100_000, age_s: 60 };
        CoherentMemory::new(Arc::new(ResponseCache::new(config).unwrap()))
    }

    /// Keeps an answer, and waits until it is seen.
    fn keep(memory: &CoherentMemory, generation: u64, answer: &'static str) {
        memory.keep(KEY, generation, Bytes::from_static(answer.as_bytes()));
        memory.answers.wait_until_seen();
    }

    #[test]
    fn it_answers_only_while_it_is_proven_that_nothing_is_missed() {
        let memory = memory();
        keep(&memory, memory.generation(KEY), "one");
        assert_eq!(memory.get(KEY), None, "nothing proves that changes are received");
        memory.prove(Instant::now());
        assert_eq!(memory.get(KEY), Some(Bytes::from_static(b"one")));
        memory.prove(Instant::now().checked_sub(COHERENT_MAX).unwrap());
        assert_eq!(memory.get(KEY), None);
        memory.prove(Instant::now());
        memory.lose();
        memory.prove(Instant::now());
        assert_eq!(memory.get(KEY), None, "what was kept before changes were missed");
    }

    #[test]
    fn what_was_read_before_a_change_never_answers_behind_it() {
        let memory = memory();
        memory.prove(Instant::now());
        let generation = memory.generation(KEY);
        memory.forget(KEY);
        keep(&memory, generation, "old");
        assert_eq!(memory.get(KEY), None);
        keep(&memory, memory.generation(KEY), "new");
        assert_eq!(memory.get(KEY), Some(Bytes::from_static(b"new")));
        memory.forget_all();
        assert_eq!(memory.get(KEY), None);
    }
}
