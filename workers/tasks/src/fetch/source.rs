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

use super::FetchError;

/// A body on its way.
#[derive(Debug, Clone)]
pub(super) struct SourceBody {
    /// The body, behind bytes of it that were read.
    body: Arc<Mutex<Option<(OutboundBody, Bytes)>>>,
    passed_bytes: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<OutboundError>>>,
}

impl SourceBody {
    /// Leaves out the first `skipped_bytes`, before anybody waits for those behind them: that may take long, and is no silence.
    ///
    /// # Errors
    /// What ended the body before that; [`FetchError::SourceChanged`] where it has fewer bytes.
    pub(super) async fn begin(mut body: OutboundBody, skipped_bytes: u64) -> Result<Self, FetchError> {
        let (mut skip, mut first) = (skipped_bytes, Bytes::new());
        while skip > 0 {
            let Some(mut chunk) = body.next_chunk().await? else {
                return Err(FetchError::SourceChanged("it has fewer bytes than before"));
            };
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let skipped = skip.min(length);
            skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            first = chunk;
        }
        let body = Arc::new(Mutex::new(Some((body, first))));
        Ok(Self { body, passed_bytes: Arc::default(), failure: Arc::default() })
    }

    /// Its bytes, once; an error behind the last of them where they end early.
    pub(super) fn stream(&self) -> BoxStream<'static, io::Result<Bytes>> {
        let Some((body, first)) = self.body.lock().take() else { return futures::stream::empty().boxed() };
        let (passed, failure) = (Arc::clone(&self.passed_bytes), Arc::clone(&self.failure));
        let rest = futures::stream::try_unfold((body, failure), |(mut body, failure)| async move {
            match body.next_chunk().await {
                Ok(chunk) => Ok(chunk.map(|chunk| (chunk, (body, failure)))),
                Err(error) => {
                    *failure.lock() = Some(error);
                    Err(io::Error::other("the source broke off"))
                }
            }
        });
        let first = futures::stream::iter((!first.is_empty()).then_some(Ok(first)));
        let count = move |chunk: &io::Result<Bytes>| {
            let length = chunk.as_ref().map_or(0, Bytes::len);
            passed.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        first.chain(rest).inspect(count).boxed()
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
