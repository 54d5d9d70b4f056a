//! Status documents of uploads that are complete: what a client asks for again and again while its medium is made.
//!
//! Of a complete upload nothing changes any more but what its medium became, and media are followed: a document is kept with the generation
//! of the records of its medium (see [`KnownDocuments`]), and answers while that is the same. Offsets are never kept: an upload that takes
//! bytes is read from the leader.
//!
//! Limits: those of [`CacheConfig`].

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use schemas::ids::{MediaId, UploadId};

use crate::{
    cache::{CacheConfig, ResponseCache},
    media::KnownDocuments,
};

/// Documents by upload.
#[derive(Debug, Clone)]
pub struct KnownStatuses {
    answers: Arc<ResponseCache>,
    media: Arc<KnownDocuments>,
}

/// A document that was made, and whose it is.
pub(super) struct KnownStatus {
    /// Whose it is.
    pub(super) owner: String,
    /// The document, as JSON.
    pub(super) body: Bytes,
}

/// Which records a document is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct StatusSource {
    /// The upload.
    pub(super) upload_id: UploadId,
    /// Its medium.
    pub(super) media_id: MediaId,
    /// Taken before the record of the medium was read.
    pub(super) generation: u64,
}

impl KnownStatuses {
    /// An empty memory.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(config: CacheConfig, media: Arc<KnownDocuments>) -> anyhow::Result<Self> {
        Ok(Self { answers: Arc::new(ResponseCache::new(config)?), media })
    }

    /// Where the documents are, for those who count them.
    pub(crate) const fn answers(&self) -> &Arc<ResponseCache> {
        &self.answers
    }

    /// Taken before the record of a medium is read.
    pub(super) fn generation(&self, media_id: MediaId) -> u64 {
        self.media.generation(media_id)
    }

    /// The document of an upload, if it is known and can't have changed since.
    pub(super) fn get(&self, upload_id: UploadId) -> Option<KnownStatus> {
        let is_current = |kept: &Bytes| {
            let mut head = kept.clone();
            let media_id = head.try_get_u128().map(|id| MediaId::from_bytes(id.to_be_bytes()));
            let generation = head.try_get_u64();
            media_id.is_ok_and(|id| generation.is_ok_and(|generation| self.media.is_current(id, generation)))
        };
        let mut kept = self.answers.get_current(&upload_id.to_string(), is_current)?;
        kept.advance(24);
        let owner_bytes = usize::try_from(kept.try_get_u32().ok()?).ok()?;
        let owner = (owner_bytes <= kept.len()).then(|| kept.split_to(owner_bytes))?;
        Some(KnownStatus { owner: String::from_utf8(owner.to_vec()).ok()?, body: kept })
    }

    /// Keeps a document.
    pub(super) fn keep(&self, source: StatusSource, owner: &str, body: &[u8]) {
        let mut kept = BytesMut::with_capacity(28 + owner.len() + body.len());
        kept.put_slice(source.media_id.as_bytes());
        kept.put_u64(source.generation);
        kept.put_u32(u32::try_from(owner.len()).unwrap_or(u32::MAX));
        kept.put_slice(owner.as_bytes());
        kept.put_slice(body);
        self.answers.put(source.upload_id.to_string(), kept.freeze());
    }
}
