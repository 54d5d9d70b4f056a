//! Answering searches, beside the lists: whatever goes wrong here is refused, and lists go on.
//!
//! Limits: [`READING_MAX`] searches read at once; others wait for them as long as for a revision.

use std::{sync::Arc, time::Duration};

use nats::Bus;
use schemas::{
    index_query::{self, IndexReply},
    search_query::{self, MediaSearchPage, MediaSearchQuery},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use super::SearchProjection;
use crate::{
    IndexConfig, IndexError,
    follow::IndexProgress,
    projection::IndexBucket,
    reply::{QueryRefusal, decode_query, send_reply, wait_for_revision},
};

/// Most searches that read at once.
const READING_MAX: usize = 8;

/// A search index that is open.
#[derive(Clone, Debug)]
pub(crate) struct SearchAccess {
    pub(crate) projection: SearchProjection,
    /// What can be found.
    pub(crate) seen: watch::Receiver<IndexProgress>,
    /// Takes what a question found damaged; the index is built anew then.
    pub(crate) damage: mpsc::Sender<String>,
}

/// Answers searches.
pub(crate) struct SearchResponder {
    bus: Bus,
    /// The index, while there is one.
    opened: watch::Receiver<Option<SearchAccess>>,
    wait_max: Duration,
    bytes_max: usize,
    reading: Arc<Semaphore>,
}

impl SearchResponder {
    pub(crate) fn new(bus: Bus, config: &IndexConfig, opened: watch::Receiver<Option<SearchAccess>>) -> Self {
        Self {
            bus,
            opened,
            wait_max: Duration::from_millis(config.revision_wait_ms_max),
            bytes_max: config.answer_bytes_max,
            reading: Arc::new(Semaphore::new(READING_MAX)),
        }
    }

    /// Answers a search, once everything that was there at the start can be found: before, it would look as if it did not exist.
    pub(crate) async fn answer_search(&self, payload: &[u8], reply: async_nats::Subject) {
        let answer = match self.find_page(payload).await {
            Ok(page) => IndexReply::Page(page),
            Err(refusal) => refusal.into_page(),
        };
        send_reply(&self.bus, reply, &answer).await;
    }

    async fn find_page(&self, payload: &[u8]) -> Result<MediaSearchPage, QueryRefusal> {
        let question: MediaSearchQuery = decode_query(payload)?;
        let access = self.opened.borrow().clone();
        let complete = access.filter(|access| access.seen.borrow().is_complete());
        let Some(SearchAccess { projection, seen, damage }) = complete else {
            let detail = "the search index is being built; ask again";
            return Err(QueryRefusal::new(index_query::INDEX_BEHIND, detail));
        };
        let wanted = (IndexBucket::Media, question.min_revision);
        wait_for_revision(&self.bus, self.wait_max, &seen, wanted).await?;
        let reading = timeout(self.wait_max, Arc::clone(&self.reading).acquire_owned()).await;
        let Ok(Ok(permit)) = reading else { return Err(QueryRefusal::busy()) };
        let bytes_max = self.bytes_max;
        let read = move || {
            // Held until it is read, also when nobody waits for the answer any more.
            let _permit = permit;
            projection.search_media(&question, bytes_max)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(refuse_failed(error, &damage)),
            Err(error) => {
                // A question alone must not make the index be built anew.
                tracing::error!(%error, "a search panicked");
                Err(QueryRefusal::new("index_damaged", "the search failed"))
            }
        }
    }
}

/// Why a search has no page; damage is passed on.
fn refuse_failed(error: IndexError, damage: &mpsc::Sender<String>) -> QueryRefusal {
    match error {
        IndexError::Cursor => {
            QueryRefusal::new(index_query::CURSOR_MALFORMED, "the cursor is none that the index gave out")
        }
        IndexError::SearchText(error) => QueryRefusal::new(search_query::TEXT_MALFORMED, error.to_string()),
        error => {
            tracing::error!(%error, "a search failed");
            if let IndexError::SearchDamaged { what } = error {
                // Full when it is known already.
                damage.try_send(what).ok();
            }
            QueryRefusal::new("index_damaged", "the index can't read its projection")
        }
    }
}
