//! What a replica keeps of entries in memory: see [`CoherentMemory`]. A replica writes a tick among the entries each second, and once
//! that comes back, all that was stored before has come, too.
//!
//! Limits: those of [`CoherentMemory`].

use std::{sync::Arc, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use schemas::cached::CachedEntry;
use serde_bytes::ByteBuf;

use crate::{
    cache::{CacheConfig, ResponseCache},
    coherent_memory::CoherentMemory,
};

/// Entries in memory.
#[derive(Debug)]
pub(super) struct EntryMemory {
    memory: CoherentMemory,
    /// The epoch that was read with the newest tick.
    epoch: Mutex<Option<u64>>,
}

impl std::ops::Deref for EntryMemory {
    type Target = CoherentMemory;

    fn deref(&self) -> &CoherentMemory {
        &self.memory
    }
}

impl EntryMemory {
    /// An empty memory.
    ///
    /// # Errors
    /// When a limit is 0.
    pub(super) fn new(config: CacheConfig) -> anyhow::Result<Self> {
        let memory = CoherentMemory::new(Arc::new(ResponseCache::new(config)?));
        Ok(Self { memory, epoch: Mutex::default() })
    }

    /// The entry under `key` in the bucket, if memory may answer. An entry whose time is over is none.
    pub(super) fn get(&self, key: &str, now_ms: u64) -> Option<CachedEntry> {
        let kept = self.memory.get(key)?;
        decode_entry(key, &kept).filter(|entry| entry.expires_at_ms > now_ms)
    }

    /// Keeps an entry that was read at `generation`.
    pub(super) fn keep(&self, key: &str, generation: u64, entry: &CachedEntry) {
        self.memory.keep(key, generation, encode_entry(entry));
    }

    /// A tick that was begun at `begun` came back, and the epoch was `epoch` then; true when it was another one before.
    pub(super) fn prove(&self, begun: Instant, epoch: u64) -> bool {
        let before = self.epoch.lock().replace(epoch);
        // Also where nothing is known of before: what was kept may be of another one.
        if before != Some(epoch) {
            self.memory.forget_all();
        }
        self.memory.prove(begun);
        before.is_some_and(|before| before != epoch)
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

    #[test]
    fn an_entry_answers_until_its_time_is_over_or_all_is_cleared() {
        let memory =
            EntryMemory::new(CacheConfig { entries_max: 100, bytes_max: 100_000, age_s: 60 }).unwrap();
        let keep = |value: &str| {
            memory.keep(KEY, memory.generation(KEY), &entry(value));
            memory.answers().wait_until_seen();
        };
        keep("one");
        memory.prove(Instant::now(), 1);
        assert_eq!(memory.get(KEY, 0), None, "it may be of an epoch of before");
        keep("one");
        assert_eq!(memory.get(KEY, 0), Some(entry("one")));
        assert_eq!(memory.get(KEY, 1_000), None, "its time is over");
        memory.prove(Instant::now(), 2);
        assert_eq!(memory.get(KEY, 0), None, "all was cleared");
    }
}
