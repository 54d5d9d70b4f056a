//! API keys as one replica knows them: a key that was read a moment ago is not read again at each request.
//!
//! A key that this replica changes is forgotten before its writer goes on, so that it opens nothing from then on. What another replica
//! changed is known once its message came (`ctl.revoked`), and after [`AuthConfig::recheck_ms`] where that was lost: as long as a session
//! that has ended. Only records are kept; the secret is compared at every use, and ids of no key are asked for each time.
//!
//! Limits: [`AuthConfig::remembered_max`] keys. What was read before any key was changed here is read anew: changes are rare.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nats::Bus;
use quick_cache::sync::Cache;
use schemas::{KvRecord as _, access::ApiKey, ids::KeyId};

use crate::{AuthConfig, key};

/// The keys in use.
#[derive(Debug)]
pub(super) struct KnownKeys {
    bus: Bus,
    recheck: Duration,
    read: Cache<KeyId, ReadKey>,
    /// Counts the changes of keys that are known here.
    generation: AtomicU64,
}

/// A key as it was read.
#[derive(Debug, Clone)]
struct ReadKey {
    key: Arc<ApiKey>,
    /// The number of changes that were known before it was read.
    generation: u64,
    /// Just before it was read.
    read_at: Instant,
}

impl KnownKeys {
    pub(super) fn new(bus: Bus, config: &AuthConfig) -> Self {
        Self {
            bus,
            recheck: Duration::from_millis(config.recheck_ms),
            read: Cache::new(config.remembered_max),
            generation: AtomicU64::new(0),
        }
    }

    /// The record of a key text, if it opens something now.
    pub(super) async fn find(&self, text: &str) -> Result<Option<Arc<ApiKey>>, nats::BusError> {
        let Some((key_id, secret)) = key::parse_key(text) else { return Ok(None) };
        let Some(found) = self.load(key_id).await? else { return Ok(None) };
        Ok(key::opens_now(&found, secret).then_some(found))
    }

    async fn load(&self, key_id: KeyId) -> Result<Option<Arc<ApiKey>>, nats::BusError> {
        // Both before the reading: what is read may be that old.
        let (generation, read_at) = (self.generation.load(Ordering::Acquire), Instant::now());
        let is_fresh = |read: &ReadKey| {
            read.generation == generation && read_at.duration_since(read.read_at) < self.recheck
        };
        if let Some(read) = self.read.get(&key_id).filter(is_fresh) {
            return Ok(Some(read.key));
        }
        let Some(held) = self.bus.load_record::<ApiKey>(&key_id.to_string()).await? else {
            self.read.remove(&key_id);
            return Ok(None);
        };
        let key = Arc::new(held.record);
        self.read.insert(key_id, ReadKey { key: Arc::clone(&key), generation, read_at });
        Ok(Some(key))
    }

    /// A value of a bucket was written here.
    pub(super) fn note_write(&self, bucket: &str, key: &str) {
        // Grants lie beside the keys, under longer names.
        if bucket == ApiKey::BUCKET && key.parse::<KeyId>().is_ok() {
            self.forget();
        }
    }

    /// A credential of this id is over, as another replica says. Most are sessions.
    pub(super) fn note_end(&self, credential_id: &str) {
        let is_known = |key_id| self.read.get(&key_id).is_some();
        if credential_id.parse::<KeyId>().is_ok_and(is_known) {
            self.forget();
        }
    }

    fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}
