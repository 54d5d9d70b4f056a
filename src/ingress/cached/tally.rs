//! How many entries each owner has, and how many bytes they take: counted from the headers of what is stored.
//!
//! A put is judged by what was received: those of a moment ago may not have come yet, so that many at once may pass a limit by as many.
//!
//! Limits: twice as many entries are counted as all owners may have together; those whose time is over are searched for at most once in
//! [`SEARCH_PAUSE`]. Nothing says that an entry has ended: its time does.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::CachedConfig;

/// Shortest time between two searches for entries whose time is over.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no room for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The owner has as many entries as one may have, or they take as much.
    Owner,
    /// All owners together have.
    All,
}

/// What an owner has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OwnerUsage {
    pub(super) entries: usize,
    pub(super) size_bytes: u64,
}

/// Entries by owner.
#[derive(Debug)]
pub(super) struct EntryTally {
    owners: Mutex<TalliedOwners>,
    config: CachedConfig,
}

#[derive(Debug, Default)]
struct TalliedOwners {
    owners: HashMap<u128, HashMap<u128, TalliedEntry>>,
    count: usize,
    size_bytes: u64,
    searched: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct TalliedEntry {
    size_bytes: u64,
    expires_at_ms: u64,
}

impl TalliedOwners {
    /// Drops entries whose time is over.
    fn drop_ended(&mut self, now_ms: u64) {
        self.owners.retain(|_, entries| {
            entries.retain(|_, entry| entry.expires_at_ms > now_ms);
            !entries.is_empty()
        });
        self.count = self.owners.values().map(HashMap::len).sum();
        self.size_bytes = self.owners.values().flat_map(HashMap::values).map(|entry| entry.size_bytes).sum();
    }

    fn may_search(&mut self) -> bool {
        let may = self.searched.is_none_or(|searched| searched.elapsed() >= SEARCH_PAUSE);
        if may {
            self.searched = Some(Instant::now());
        }
        may
    }

    fn usage(&self, owner: u128) -> OwnerUsage {
        self.owners.get(&owner).map_or_else(OwnerUsage::default, |entries| OwnerUsage {
            entries: entries.len(),
            size_bytes: entries.values().map(|entry| entry.size_bytes).sum(),
        })
    }
}

fn number(digest: &str) -> Option<u128> {
    u128::from_str_radix(digest, 16).ok()
}

impl EntryTally {
    /// Without entries.
    pub(super) fn new(config: CachedConfig) -> Self {
        Self { owners: Mutex::default(), config }
    }

    /// Nothing is known.
    pub(super) fn clear(&self) {
        *self.owners.lock() = TalliedOwners::default();
    }

    /// An entry is there, with so many bytes and until then.
    pub(super) fn note(&self, (owner, key): (&str, &str), size_bytes: u64, expires_at_ms: u64) {
        let (Some(owner), Some(key)) = (number(owner), number(key)) else { return };
        let mut tally = self.owners.lock();
        if tally.count >= self.config.entries_max.saturating_mul(2) {
            return;
        }
        let before =
            tally.owners.entry(owner).or_default().insert(key, TalliedEntry { size_bytes, expires_at_ms });
        tally.count += usize::from(before.is_none());
        tally.size_bytes = tally.size_bytes + size_bytes - before.map_or(0, |entry| entry.size_bytes);
    }

    /// An entry is gone.
    pub(super) fn remove(&self, (owner, key): (&str, &str)) {
        let (Some(owner), Some(key)) = (number(owner), number(key)) else { return };
        let mut tally = self.owners.lock();
        let Some(entries) = tally.owners.get_mut(&owner) else { return };
        let removed = entries.remove(&key);
        if entries.is_empty() {
            tally.owners.remove(&owner);
        }
        tally.count -= usize::from(removed.is_some());
        tally.size_bytes -= removed.map_or(0, |entry| entry.size_bytes);
    }

    /// Drops entries whose time is over, from time to time.
    pub(super) fn drop_ended(&self, now_ms: u64) {
        let mut tally = self.owners.lock();
        if tally.may_search() {
            tally.drop_ended(now_ms);
        }
    }

    /// What an owner has now.
    pub(super) fn usage(&self, owner: &str, now_ms: u64) -> OwnerUsage {
        let Some(owner) = number(owner) else { return OwnerUsage::default() };
        let tally = self.owners.lock();
        let entries = tally.owners.get(&owner).into_iter().flat_map(HashMap::values);
        let living = entries.filter(|entry| entry.expires_at_ms > now_ms);
        living.fold(OwnerUsage::default(), |usage, entry| OwnerUsage {
            entries: usage.entries + 1,
            size_bytes: usage.size_bytes + entry.size_bytes,
        })
    }

    /// Whether an entry of so many bytes may be put in the place of what is there under its key.
    ///
    /// # Errors
    /// Whose limit it would pass.
    pub(super) fn check_room(
        &self,
        (owner, key): (&str, &str),
        size_bytes: u64,
        now_ms: u64,
    ) -> Result<(), NoRoom> {
        let (Some(owner), Some(key)) = (number(owner), number(key)) else { return Ok(()) };
        let CachedConfig { entries_max, bytes_max, owner_entries_max, owner_bytes_max, .. } = self.config;
        let mut tally = self.owners.lock();
        let fits = |tally: &TalliedOwners| {
            let before = tally.owners.get(&owner).and_then(|entries| entries.get(&key));
            let usage = tally.usage(owner);
            let is_new = usize::from(before.is_none());
            let before_bytes = before.map_or(0, |entry| entry.size_bytes);
            let with_it = |all_bytes: u64| (all_bytes - before_bytes).saturating_add(size_bytes);
            if usage.entries + is_new > owner_entries_max || with_it(usage.size_bytes) > owner_bytes_max {
                return Err(NoRoom::Owner);
            }
            if tally.count + is_new > entries_max || with_it(tally.size_bytes) > bytes_max {
                return Err(NoRoom::All);
            }
            Ok(())
        };
        fits(&tally).or_else(|_| {
            if tally.may_search() {
                tally.drop_ended(now_ms);
            }
            fits(&tally)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: CachedConfig =
        CachedConfig { owner_entries_max: 2, owner_bytes_max: 100, entries_max: 3, ..CachedConfig::DEFAULT };

    #[test]
    fn an_owner_and_all_have_an_end() {
        let tally = EntryTally::new(CONFIG);
        let room = |owner, key, bytes, now_ms| tally.check_room((owner, key), bytes, now_ms);
        tally.note(("a", "1"), 60, 1_000);
        assert_eq!(room("a", "1", 100, 0), Ok(()), "it takes the place of what is there");
        tally.note(("a", "2"), 40, 2_000);
        assert_eq!(tally.usage("a", 0), OwnerUsage { entries: 2, size_bytes: 100 });
        assert_eq!(tally.usage("a", 1_000), OwnerUsage { entries: 1, size_bytes: 40 });
        assert_eq!(room("a", "3", 1, 1_000), Ok(()), "one has ended");
        assert_eq!(room("a", "3", 61, 1_000), Err(NoRoom::Owner), "bytes");
        tally.note(("b", "1"), 1, 5_000);
        tally.note(("b", "2"), 1, 5_000);
        assert_eq!(room("b", "3", 1, 0), Err(NoRoom::Owner), "entries");
        assert_eq!(room("c", "1", 1, 0), Err(NoRoom::All));
        tally.remove(("b", "2"));
        tally.remove(("b", "2"));
        assert_eq!(room("c", "1", 1, 0), Ok(()));
    }

    #[test]
    fn all_together_have_an_end_of_bytes() {
        let tally = EntryTally::new(CachedConfig { bytes_max: 150, ..CONFIG });
        tally.note(("a", "1"), 90, 1_000);
        assert_eq!(tally.check_room(("b", "1"), 61, 0), Err(NoRoom::All));
        assert_eq!(tally.check_room(("b", "1"), 60, 0), Ok(()));
    }

    #[test]
    fn what_nobody_asks_about_does_not_grow_without_end() {
        let tally = EntryTally::new(CONFIG);
        for number in 0..100 {
            tally.note(("a", &number.to_string()), 1, 1_000);
        }
        assert_eq!(tally.usage("a", 0).entries, 6, "twice as many as all may have");
        tally.drop_ended(1_000);
        assert_eq!(tally.owners.lock().count, 0);
    }
}
