//! The ring of keys that sign access tokens: made once for all replicas, renewed without a refused request.
//!
//! A new key is in the ring for [`AuthConfig::ring_lead_s`] before any replica signs with it, so that all have read it; an old one
//! stays until the last token it signed is over. A replica that meets an unknown key reads the ring again, at most once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::{Bus, Outbox, metrics::table::SIGNING_KEY_OVERDUE_SECONDS};
use parking_lot::RwLock;
use schemas::{
    ids::KeyId,
    session::{KeyRing as Record, KeyRingEntry, ring_record_key},
};
use serde_bytes::ByteBuf;

use super::{
    config::AuthConfig,
    token::{AccessTokenKey, LEEWAY_S},
};

/// Name of the ring in KV.
const NAME: &str = "access";
/// Least time between two readings that unknown keys cause.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);

/// The keys that access tokens are signed with, as one replica knows them.
#[derive(Debug)]
pub struct SigningKeyRing {
    bus: Bus,
    config: Arc<AuthConfig>,
    keys: RwLock<Arc<[KeyRingEntry]>>,
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl SigningKeyRing {
    /// Reads the ring, making it where there is none.
    pub(super) async fn open(bus: Bus, config: Arc<AuthConfig>) -> Result<Self, nats::BusError> {
        let ring =
            Self { bus, config, keys: RwLock::new(Arc::default()), asked: tokio::sync::Mutex::new(None) };
        ring.rotate_keys(nats::now_ms()).await?;
        Ok(ring)
    }

    /// Reads the ring; adds the next key when the newest is old enough, and drops those that signed nothing still good.
    pub async fn rotate_keys(&self, now_ms: u64) -> Result<(), nats::BusError> {
        let fresh = KeyRingEntry {
            key_id: KeyId::from_bytes(nats::new_id_bytes()),
            bytes: ByteBuf::from(rand::random::<[u8; 32]>().to_vec()),
            signs_from_ms: 0,
        };
        let next = |found: Option<&Record>| {
            let keys = rotated_keys(found.map_or(&[][..], |ring| &ring.keys), &fresh, now_ms, &self.config)?;
            Some((Record { name: NAME.to_owned(), keys }, Outbox::new()))
        };
        let held = self.bus.change_record(&ring_record_key(NAME), next).await?;
        if let Some(held) = held {
            self.replace_keys(held.record.keys.into());
        }
        Ok(())
    }

    /// Counts for how long the next key is due: nobody makes it while the ring can't be written, and one key goes on signing.
    pub(super) fn record_overdue(&self, now_ms: u64) {
        let overdue_s = overdue_s(&self.known_keys(), now_ms, &self.config);
        SIGNING_KEY_OVERDUE_SECONDS.set((), i64::try_from(overdue_s).unwrap_or(i64::MAX));
    }

    /// The key that signs now.
    pub fn signing_key(&self, now_ms: u64) -> Option<AccessTokenKey> {
        let keys = self.known_keys();
        let started = keys.iter().rev().find(|key| key.signs_from_ms <= now_ms);
        started.or(keys.first()).map(to_token_key)
    }

    /// The key of this name; reads the ring again where it is not known.
    pub(super) async fn find_key(&self, key_id: KeyId) -> Result<Option<AccessTokenKey>, nats::BusError> {
        if let Some(key) = self.known_key(key_id) {
            return Ok(Some(key));
        }
        let mut asked = self.asked.lock().await;
        // The caller that held the lock before may just have read it.
        if self.known_key(key_id).is_none() && asked.is_none_or(|at| at.elapsed() >= UNKNOWN_PAUSE) {
            if let Some(held) = self.bus.load_record::<Record>(&ring_record_key(NAME)).await? {
                self.replace_keys(held.record.keys.into());
            }
            *asked = Some(Instant::now());
        }
        Ok(self.known_key(key_id))
    }

    fn known_key(&self, key_id: KeyId) -> Option<AccessTokenKey> {
        self.known_keys().iter().find(|key| key.key_id == key_id).map(to_token_key)
    }

    fn known_keys(&self) -> Arc<[KeyRingEntry]> {
        Arc::clone(&self.keys.read())
    }

    fn replace_keys(&self, keys: Arc<[KeyRingEntry]>) {
        *self.keys.write() = keys;
    }
}

fn to_token_key(key: &KeyRingEntry) -> AccessTokenKey {
    AccessTokenKey { key_id: key.key_id, bytes: key.bytes.to_vec() }
}

/// When the key behind `newest` is to be made, in Unix milliseconds.
const fn due_at_ms(newest: &KeyRingEntry, config: &AuthConfig) -> u64 {
    newest.signs_from_ms.saturating_add(config.ring_age_s.saturating_mul(1_000))
}

/// For how long the next key is due, in seconds.
fn overdue_s(keys: &[KeyRingEntry], now_ms: u64, config: &AuthConfig) -> u64 {
    keys.last().map_or(0, |newest| now_ms.saturating_sub(due_at_ms(newest, config)) / 1_000)
}

/// The keys as they should be now; `None` when they are.
fn rotated_keys(
    keys: &[KeyRingEntry],
    fresh: &KeyRingEntry,
    now_ms: u64,
    config: &AuthConfig,
) -> Option<Vec<KeyRingEntry>> {
    let Some(newest) = keys.last() else {
        // Nobody holds a token yet, so the first key signs at once.
        return Some(vec![KeyRingEntry { signs_from_ms: now_ms, ..fresh.clone() }]);
    };
    let lead_ms = config.ring_lead_s.saturating_mul(1_000);
    if due_at_ms(newest, config) > now_ms {
        return None;
    }
    // A key was last used when its successor began, by a replica that was late to read it.
    let used_ms = (config.access_ttl_s + LEEWAY_S).saturating_mul(1_000).saturating_add(lead_ms);
    let began = keys.iter().skip(1).map(|key| Some(key.signs_from_ms)).chain([None]);
    let mut left: Vec<KeyRingEntry> = keys
        .iter()
        .zip(began)
        .filter(|(_, next_ms)| next_ms.is_none_or(|at_ms| at_ms.saturating_add(used_ms) > now_ms))
        .map(|(key, _)| key.clone())
        .collect();
    left.push(KeyRingEntry { signs_from_ms: now_ms.saturating_add(lead_ms), ..fresh.clone() });
    Some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> KeyRingEntry {
        KeyRingEntry {
            key_id: KeyId::from_bytes([seed; 16]),
            bytes: ByteBuf::from(vec![seed; 32]),
            signs_from_ms: 0,
        }
    }

    #[test]
    fn a_ring_that_nobody_renews_is_overdue_from_the_age_of_its_newest_key_on() {
        let config = AuthConfig { ring_age_s: 3_600, ..AuthConfig::default() };
        let keys = rotated_keys(&[], &key(0), 0, &config).unwrap();
        for (now_s, wanted_s) in [(0, 0), (3_599, 0), (3_600, 0), (3_601, 1), (10_800, 7_200)] {
            assert_eq!(overdue_s(&keys, now_s * 1_000, &config), wanted_s, "{now_s}");
        }
        let renewed = rotated_keys(&keys, &key(1), 10_800_000, &config).unwrap();
        assert_eq!(overdue_s(&renewed, 10_800_000, &config), 0);
    }

    /// At every moment, whatever any replica signs is known to every other, and stays known until it is over.
    #[test]
    fn no_token_ever_meets_a_replica_without_its_key() {
        let config = AuthConfig { ring_age_s: 3_600, ..AuthConfig::default() };
        let (lead_ms, used_ms) = (config.ring_lead_s * 1_000, (config.access_ttl_s + LEEWAY_S) * 1_000);
        let mut keys = rotated_keys(&[], &key(0), 0, &config).unwrap();
        let mut history = vec![(0, keys.clone())];
        for step in 1..200_u64 {
            let now_ms = step * 300_000;
            if let Some(next) = rotated_keys(&keys, &key(u8::try_from(step).unwrap()), now_ms, &config) {
                assert!(next.len() <= 3, "the ring stays small");
                keys = next;
                history.push((now_ms, keys.clone()));
            }
        }
        assert!(history.len() > 10);
        for pair in history.windows(2) {
            let [(from_ms, old), (to_ms, new)] = pair else { unreachable!() };
            // What signed just before the change, by a replica that read the old ring up to the lead too late.
            let signer = old.iter().rev().find(|key| key.signs_from_ms <= to_ms + lead_ms).unwrap();
            assert!(new.iter().any(|key| key.key_id == signer.key_id));
            assert!(new.last().unwrap().signs_from_ms >= to_ms + lead_ms && to_ms > from_ms);
            for gone in old.iter().filter(|key| !new.contains(key)) {
                let next = old.iter().find(|key| key.signs_from_ms > gone.signs_from_ms).unwrap();
                assert!(next.signs_from_ms + used_ms <= *to_ms, "a key left before its last token was over");
            }
        }
    }
}
