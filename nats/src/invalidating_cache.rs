//! A cache of what records say. It answers only while changes to them are received, so that no missed change makes it wrong.
//!
//! A caller that looks something up notes [`InvalidatingCache::generation`] first: when something was forgotten meanwhile, what was
//! found may be old, and is not kept.
//!
//! Limits: so many entries; when there are more, those that have outlived their use go first, and what still does not fit is not
//! kept. They are searched for at most once in [`SEARCH_PAUSE`].

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{Bus, ReaderStart, reader};
use parking_lot::Mutex;
use schemas::subjects;
use tokio_util::sync::CancellationToken;

/// Shortest time between two searches for entries of no more use.
pub const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// Values by key. It answers nothing until [`follow_invalidations`] receives changes.
#[derive(Debug)]
pub struct InvalidatingCache<K, V> {
    entries: Mutex<InvalidatedCacheEntries<K, V>>,
    count_max: usize,
    generation: AtomicU64,
    following: AtomicBool,
}

#[derive(Debug)]
struct InvalidatedCacheEntries<K, V> {
    by_key: HashMap<K, V>,
    searched: Option<Instant>,
}

impl<K: Eq + Hash, V: Clone> InvalidatingCache<K, V> {
    /// An empty memory of at most `count_max` entries.
    pub fn new(count_max: usize) -> Self {
        Self {
            entries: Mutex::new(InvalidatedCacheEntries { by_key: HashMap::new(), searched: None }),
            count_max,
            generation: AtomicU64::new(0),
            following: AtomicBool::new(false),
        }
    }

    /// What is remembered of `key`.
    pub fn get(&self, key: &K) -> Option<V> {
        if !self.following.load(Ordering::Acquire) {
            return None;
        }
        self.entries.lock().by_key.get(key).cloned()
    }

    /// Counts what was forgotten.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Keeps what was looked up at `generation`. When there is no room, entries that `is_outlived` go.
    pub fn insert(&self, generation: u64, key: K, value: V, is_outlived: impl Fn(&V) -> bool) {
        let mut entries = self.entries.lock();
        // Under the lock: a change that is received now finds the entry.
        if self.generation() != generation {
            return;
        }
        if entries.by_key.len() >= self.count_max && !entries.by_key.contains_key(&key) {
            if entries.searched.is_some_and(|searched| searched.elapsed() < SEARCH_PAUSE) {
                return;
            }
            entries.searched = Some(Instant::now());
            entries.by_key.retain(|_, entry| !is_outlived(entry));
            if entries.by_key.len() >= self.count_max {
                return;
            }
        }
        entries.by_key.insert(key, value);
    }

    /// Forgets one entry.
    pub fn remove(&self, key: &K) {
        // Counted also when nothing is there: a look-up under way may hold the value of before.
        let mut entries = self.entries.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.by_key.remove(key);
    }

    /// Forgets the entries that are `concerned`.
    pub fn remove_where(&self, concerned: impl Fn(&V) -> bool) {
        let mut entries = self.entries.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.by_key.retain(|_, entry| !concerned(entry));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut entries = self.entries.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.by_key.clear();
    }

    /// Says whether changes are received: only then is anything answered from memory.
    pub fn set_following(&self, following: bool) {
        // Emptied first: what is held may have changed while nothing was received.
        self.clear();
        self.following.store(following, Ordering::Release);
    }
}

/// Hands every event that fits `filters` to `on_event` until `shutdown`; `memory` answers as long as nothing can be missed, which
/// is while the reader of `name` follows.
///
/// # Errors
/// None at present: a broker that is away, or refuses, is waited for, and meanwhile nothing is answered from memory.
pub async fn follow_invalidations<K: Eq + Hash, V: Clone>(
    bus: &Bus,
    name: &str,
    filters: Vec<String>,
    memory: &InvalidatingCache<K, V>,
    on_event: impl Fn(&reader::StreamEntry),
    shutdown: CancellationToken,
) -> Result<(), crate::BusError> {
    let config = reader::ReaderConfig::new(subjects::EVENTS, filters, ReaderStart::New);
    while !shutdown.is_cancelled() {
        let mut events = bus.follow_stream(name, config.clone());
        let mut following = events.status();
        loop {
            tokio::select! {
                // What was said before the reader began to follow again may be missed: everything is looked up again.
                biased;
                () = shutdown.cancelled() => break,
                () = following.wait_for_change() => memory.set_following(following.is_following()),
                event = events.next() => match event {
                    Ok(entry) => on_event(&entry),
                    Err(error) => {
                        tracing::error!(%error, name, "events are followed anew");
                        break;
                    }
                },
            }
        }
        memory.set_following(false);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> InvalidatingCache<u8, u8> {
        let memory = InvalidatingCache::new(1);
        memory.set_following(true);
        memory
    }

    #[test]
    fn what_was_looked_up_before_a_change_is_not_kept() {
        let memory = memory();
        let changes: [fn(&InvalidatingCache<u8, u8>); 3] =
            [|m| m.remove(&9), |m| m.remove_where(|_| false), InvalidatingCache::clear];
        for change in changes {
            let generation = memory.generation();
            change(&memory);
            memory.insert(generation, 1, 10, |_| false);
            assert_eq!(memory.get(&1), None);
        }
        memory.insert(memory.generation(), 1, 10, |_| false);
        assert_eq!(memory.get(&1), Some(10));
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let memory = memory();
        let changes: [fn(&InvalidatingCache<u8, u8>); 3] =
            [|m| m.remove(&1), |m| m.remove_where(|v| *v == 10), InvalidatingCache::clear];
        for change in changes {
            memory.insert(memory.generation(), 1, 10, |_| false);
            assert_eq!(memory.get(&1), Some(10));
            change(&memory);
            assert_eq!(memory.get(&1), None);
        }
    }

    #[test]
    fn it_is_bounded_and_silent_without_a_follower() {
        let memory = memory();
        memory.insert(memory.generation(), 1, 10, |_| false);
        memory.insert(memory.generation(), 2, 20, |_| false);
        assert_eq!((memory.get(&1), memory.get(&2)), (Some(10), None), "full");
        memory.insert(memory.generation(), 2, 20, |value| *value == 10);
        assert_eq!((memory.get(&1), memory.get(&2)), (Some(10), None), "searched a moment ago");
        memory.set_following(false);
        memory.insert(memory.generation(), 1, 10, |_| false);
        assert_eq!(memory.get(&1), None);
    }

    #[test]
    fn what_is_of_no_more_use_makes_room() {
        let memory = memory();
        memory.insert(memory.generation(), 1, 10, |_| false);
        memory.insert(memory.generation(), 2, 20, |value| *value == 10);
        assert_eq!((memory.get(&1), memory.get(&2)), (None, Some(20)));
    }
}
