//! Answering where the events of one thing lie.

use std::{sync::Arc, time::Duration};

use nats::Bus;
use schemas::index_query::{self, HistoryIndexPage, HistoryIndexQuery, IndexReply};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    follow::run_blocking,
    store::{HistoryStore, HistoryThing},
};
use crate::{
    IndexConfig,
    reply::{QueryRefusal, decode_query, send_reply},
};

/// The index of events, and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct HistoryAccess {
    pub(super) store: Arc<HistoryStore>,
    pub(super) created_at_ms: u64,
    /// Sequence up to which EVENTS is in it.
    pub(super) seen: watch::Receiver<u64>,
    /// Cancelled by who finds it damaged, so that it is built anew.
    pub(super) damaged: CancellationToken,
}

/// Answers questions for histories. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HistoryResponder {
    bus: Bus,
    wait_max: Duration,
    access: watch::Receiver<Option<HistoryAccess>>,
}

impl HistoryResponder {
    pub(crate) fn new(
        bus: Bus,
        config: &IndexConfig,
        access: watch::Receiver<Option<HistoryAccess>>,
    ) -> Self {
        Self { bus, wait_max: Duration::from_millis(config.revision_wait_ms_max), access }
    }

    pub(crate) async fn answer_history(&self, payload: &[u8], reply: async_nats::Subject) {
        let answer = match self.find_page(payload).await {
            Ok(page) => IndexReply::Page(page),
            Err(refusal) => refusal.into_page(),
        };
        send_reply(&self.bus, reply, &answer).await;
    }

    async fn find_page(&self, payload: &[u8]) -> Result<HistoryIndexPage, QueryRefusal> {
        let question: HistoryIndexQuery = decode_query(payload)?;
        let thing = match (question.media_id, question.job_id) {
            (Some(media_id), None) => HistoryThing::Medium(media_id),
            (None, Some(job_id)) => HistoryThing::Job(job_id),
            _ => {
                let detail = "name one of both: a medium, or a job";
                return Err(QueryRefusal::new(index_query::QUESTION_MALFORMED, detail));
            }
        };
        let away = |detail: &str| QueryRefusal::new("history_away", detail);
        let access = self.access.borrow().clone().ok_or_else(|| away("the index of events is away"))?;
        let mut seen = access.seen.clone();
        // One that is behind answers with what it has, and says how far it is.
        let waited = seen.wait_for(|seen| *seen >= question.wait_for_sequence);
        timeout(self.wait_max, waited).await.ok();
        let seen_sequence = *access.seen.borrow();
        let limit = usize::try_from(question.limit.clamp(1, index_query::ITEMS_MAX)).unwrap_or(1);
        let (store, behind) = (access.store, question.behind_sequence);
        let found = run_blocking(move || store.list(thing, behind, limit)).await;
        let (sequences, has_more) = found.map_err(|error| {
            tracing::error!(%error, "the index of events can't be read");
            if HistoryStore::is_damage(&error) {
                access.damaged.cancel();
            }
            away("the index of events can't be read")
        })?;
        Ok(HistoryIndexPage { created_at_ms: access.created_at_ms, sequences, has_more, seen_sequence })
    }
}
