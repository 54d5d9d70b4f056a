//! The source of a medium, served to the media child from the store.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use store::Store;

/// An object of the store as the media child reads it.
#[derive(Debug)]
pub(crate) struct StoredMediaSource {
    store: Store,
    key: String,
    size_bytes: u64,
}

impl StoredMediaSource {
    pub(crate) const fn new(store: Store, key: String, size_bytes: u64) -> Self {
        Self { store, key, size_bytes }
    }
}

impl media::MediaByteSource for StoredMediaSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX)).min(self.size_bytes);
            if offset >= end {
                return Ok(Bytes::new());
            }
            self.store.get_range(&self.key, offset..end).await.map_err(io::Error::other)
        })
    }
}
