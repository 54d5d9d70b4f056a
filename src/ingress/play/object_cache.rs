//! Small objects of the store in memory: what a key holds never changes, so nothing here can be stale.
//!
//! Those who want the same object at the same time read it once: when a segment of a growing title appears, all its viewers do. Of a larger
//! object its size is kept, which spares the store a question before each read of it.
//!
//! Limits: those of the cache; objects of at most [`ObjectCache::object_bytes_max`]. What is read and not kept is as large as that for each
//! request, which is less than what streaming a large object takes.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use store::{BoundedObject, Store, StoreError};
use tokio::sync::OnceCell;

use crate::cache::{CacheConfig, ResponseCache};

/// What came of a read. All who waited for it get the same, also where it failed: a store that is slow is not asked again by each.
type SharedRead = Arc<OnceCell<Result<BoundedObject, Arc<StoreError>>>>;

/// A cache of objects, and the reads that are under way.
#[derive(Debug)]
pub struct ObjectCache {
    answers: Arc<ResponseCache>,
    object_bytes_max: u64,
    reads: Mutex<HashMap<String, SharedRead>>,
}

/// A read that somebody waits for. The last one that leaves it removes it.
struct ReadGuard<'a> {
    cache: &'a ObjectCache,
    key: &'a str,
    read: SharedRead,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let mut reads = self.cache.reads.lock();
        // The one in the map, and this one: new ones come under the lock only. One that is over answers nobody who comes later.
        let is_last = Arc::strong_count(&self.read) == 2;
        let is_current = reads.get(self.key).is_some_and(|found| Arc::ptr_eq(found, &self.read));
        if is_current && (is_last || self.read.initialized()) {
            reads.remove(self.key);
        }
    }
}

impl ObjectCache {
    /// An empty cache for objects of at most `object_bytes_max` bytes.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: CacheConfig, object_bytes_max: u64) -> anyhow::Result<Self> {
        // One that the cache would not keep is not read whole for it.
        let object_bytes_max = object_bytes_max.min(u64::from(config.bytes_max / 8));
        Ok(Self { answers: Arc::new(ResponseCache::new(config)?), object_bytes_max, reads: Mutex::default() })
    }

    /// Where the objects are, for those who count them.
    pub const fn answers(&self) -> &Arc<ResponseCache> {
        &self.answers
    }

    /// The object, or the size of one that is too large for memory.
    ///
    /// # Errors
    /// As [`Store::get_bounded`]; those who read the same at the same time share the error.
    pub(super) async fn load(&self, store: &Store, key: &str) -> Result<BoundedObject, Arc<StoreError>> {
        if let Some(bytes) = self.answers.get(key) {
            return Ok(BoundedObject::Whole(bytes));
        }
        let size_key = format!("{key}?size");
        if let Some(size_bytes) = self.answers.peek(&size_key).and_then(|kept| kept.first_chunk().copied()) {
            return Ok(BoundedObject::Larger { size_bytes: u64::from_be_bytes(size_bytes) });
        }
        let read = Arc::clone(self.reads.lock().entry(key.to_owned()).or_default());
        let guard = ReadGuard { cache: self, key, read };
        let found = guard.read.get_or_init(async || {
            let found = store.get_bounded(key, self.object_bytes_max).await;
            match &found {
                Ok(BoundedObject::Whole(bytes)) => self.answers.put(key.to_owned(), bytes.clone()),
                Ok(BoundedObject::Larger { size_bytes }) => {
                    let bytes = Bytes::copy_from_slice(&size_bytes.to_be_bytes());
                    self.answers.put(size_key, bytes);
                }
                Err(_) => {}
            }
            found.map_err(Arc::new)
        });
        found.await.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;

    const CONFIG: CacheConfig = CacheConfig { entries_max: 100, bytes_max: 100_000, age_s: 60 };

    fn store(folder: &tempfile::TempDir) -> Store {
        let url = format!("file://{}", folder.path().display());
        store::testing::open_test_store(store::StoreConfig::from_url(url)).unwrap()
    }

    #[tokio::test]
    async fn many_at_once_read_a_small_object_once_and_a_large_one_by_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let (store, cache) = (store(&folder), ObjectCache::new(CONFIG, 10).unwrap());
        store.put("a/small", "0123456789").await.unwrap();
        store.put("a/large", "0123456789a").await.unwrap();
        let small = BoundedObject::Whole(Bytes::from_static(b"0123456789"));
        for _ in 0..2 {
            let all = join_all((0..50).map(|_| cache.load(&store, "a/small"))).await;
            assert!(all.into_iter().all(|found| found.unwrap() == small));
            let all = join_all((0..50).map(|_| cache.load(&store, "a/large"))).await;
            let large = BoundedObject::Larger { size_bytes: 11 };
            assert!(all.into_iter().all(|found| found.unwrap() == large));
            cache.answers.wait_until_seen();
            // From now on memory answers.
            store.delete("a/small").await.unwrap();
            store.delete("a/large").await.unwrap();
        }
        assert!(cache.reads.lock().is_empty(), "reads that are over are forgotten");
    }

    #[tokio::test]
    async fn a_failed_or_dropped_read_is_not_in_the_way_of_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (store, cache) = (store(&folder), ObjectCache::new(CONFIG, 10).unwrap());
        let missing = cache.load(&store, "a/small").await.unwrap_err();
        assert!(matches!(*missing, StoreError::NotFound { .. }), "{missing}");
        store.put("a/small", "01").await.unwrap();
        // Dropped before it has an answer; another one that waited beside it takes it over.
        let dropped = tokio::time::timeout(Duration::ZERO, cache.load(&store, "a/small"));
        let (_, beside) = tokio::join!(dropped, cache.load(&store, "a/small"));
        assert_eq!(beside.unwrap(), BoundedObject::Whole(Bytes::from_static(b"01")));
        assert!(cache.reads.lock().is_empty(), "reads that are over are forgotten");
    }
}
