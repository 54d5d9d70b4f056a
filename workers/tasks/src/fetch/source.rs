//! The body of a source as a stream that goes to the upload: what went wrong, and how far it is, is known outside of it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, stream::BoxStream};
use outbound::{OutboundBody, OutboundError};
use parking_lot::Mutex;

/// A body on its way.
#[derive(Debug, Clone)]
pub(super) struct SourceBody {
    body: Arc<Mutex<Option<OutboundBody>>>,
    skipped_bytes: u64,
    passed_bytes: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<OutboundError>>>,
}

impl SourceBody {
    /// Leaves out the first `skipped_bytes`.
    pub(super) fn new(body: OutboundBody, skipped_bytes: u64) -> Self {
        Self {
            body: Arc::new(Mutex::new(Some(body))),
            skipped_bytes,
            passed_bytes: Arc::default(),
            failure: Arc::default(),
        }
    }

    /// Its bytes, once; an error behind the last of them where they end early.
    pub(super) fn stream(&self) -> BoxStream<'static, io::Result<Bytes>> {
        let Some(body) = self.body.lock().take() else { return futures::stream::empty().boxed() };
        let passed = (Arc::clone(&self.passed_bytes), Arc::clone(&self.failure));
        futures::stream::try_unfold(
            (body, self.skipped_bytes, passed),
            |(mut body, mut skip, passed)| async move {
                loop {
                    let mut chunk = match body.next_chunk().await {
                        Ok(Some(chunk)) => chunk,
                        // Shorter than what is there already: nothing of it may count.
                        Ok(None) if skip > 0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                        Ok(None) => return Ok(None),
                        Err(error) => {
                            *passed.1.lock() = Some(error);
                            return Err(io::Error::other("the source broke off"));
                        }
                    };
                    let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                    let skipped = skip.min(length);
                    skip -= skipped;
                    chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                    if chunk.is_empty() {
                        continue;
                    }
                    passed.0.fetch_add(length - skipped, Ordering::Relaxed);
                    return Ok(Some((chunk, (body, skip, passed))));
                }
            },
        )
        .boxed()
    }

    /// Bytes that went on.
    pub(super) fn passed_bytes(&self) -> u64 {
        self.passed_bytes.load(Ordering::Relaxed)
    }

    /// Why it ended early.
    pub(super) fn take_failure(&self) -> Option<OutboundError> {
        self.failure.lock().take()
    }
}
