//! Answering questions: decode, wait for the revision, read the projection, reply.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use nats::{
    Bus,
    metrics::{
        LabelValue as _,
        labels::IndexQuestion,
        table::{INDEX_QUESTION_SECONDS, INDEX_QUESTIONS},
    },
};
use schemas::{
    index_query::{
        self, EncodeActivityQuery, IndexReply, JobCountsQuery, JobIndexQuery, MediaIndexQuery,
        PublicMediaIndexQuery,
    },
    search_query, subjects,
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    IndexConfig, IndexError, QUEUE_GROUP,
    follow::IndexProgress,
    history::{HistoryAccess, HistoryResponder},
    projection::{IndexBucket, IndexProjection},
    reply::{QueryRefusal, decode_query, send_reply, wait_for_revision},
    search::{SearchAccess, SearchResponder},
};

/// Histories that are looked for at the same time.
const HISTORIES_MAX: usize = 16;

struct QueryResponder {
    bus: Bus,
    projection: Arc<IndexProjection>,
    config: IndexConfig,
    seen: watch::Receiver<IndexProgress>,
}

/// Waits until the projection has caught up, then answers questions until `shutdown`. Searches and histories are counted by themselves, and whatever
/// goes wrong with one ends nothing.
///
/// # Errors
/// [`IndexError::Bus`] when the questions can't be subscribed to; [`IndexError::Damaged`] when a question found the projection
/// damaged.
pub(crate) async fn run_responder(
    bus: Bus,
    config: IndexConfig,
    (projection, mut seen): (Arc<IndexProjection>, watch::Receiver<IndexProgress>),
    (search, history): (watch::Receiver<Option<SearchAccess>>, watch::Receiver<Option<HistoryAccess>>),
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        complete = seen.wait_for(IndexProgress::is_complete) => if complete.is_err() { return Ok(()) },
    }
    let filter = subjects::index_request_subject("*");
    let group = QUEUE_GROUP.to_owned();
    let mut questions =
        bus.client().queue_subscribe(filter, group).await.map_err(nats::BusError::unavailable)?;
    let in_flight_max = config.questions_in_flight_max.max(1);
    let searcher = Arc::new(SearchResponder::new(bus.clone(), &config, search));
    let historian = HistoryResponder::new(bus.clone(), &config, history);
    let desk = Arc::new(QueryResponder { bus, projection, config, seen });
    let search_subject = subjects::index_request_subject(search_query::SEARCH_MEDIA);
    let history_subject = subjects::index_request_subject(index_query::HISTORY);
    let mut answering: JoinSet<Result<(), IndexError>> = JoinSet::new();
    let (mut searching, mut remembering) = (JoinSet::<()>::new(), JoinSet::<()>::new());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = answering.join_next() => {
                ended.unwrap_or_else(|_| Err(IndexError::Damaged { what: "answering panicked".into() }))?;
            }
            Some(ended) = searching.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "answering a search panicked");
                }
            }
            Some(ended) = remembering.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "answering for a history panicked");
                }
            }
            question = questions.next() => {
                let Some(question) = question else { break };
                let Some(reply) = question.reply.clone() else { continue };
                let is_search = question.subject.as_str() == search_subject;
                let is_history = question.subject.as_str() == history_subject;
                let kind = question_kind(question.subject.as_str());
                let span = nats::answer_span(&question, kind.text());
                // Also those for which there is no room.
                INDEX_QUESTIONS.increment(kind);
                let is_full = if is_search {
                    searching.len() >= in_flight_max
                } else if is_history {
                    remembering.len() >= HISTORIES_MAX.min(in_flight_max)
                } else {
                    answering.len() >= in_flight_max
                };
                if is_full {
                    send_reply(&desk.bus, reply, &QueryRefusal::busy().into_page::<()>()).await;
                } else if is_search {
                    let searcher = Arc::clone(&searcher);
                    let answering = async move { searcher.answer_search(&question.payload, reply).await };
                    searching.spawn(span.run(observe_question(kind, answering)));
                } else if is_history {
                    let historian = historian.clone();
                    let answering = async move { historian.answer_history(&question.payload, reply).await };
                    remembering.spawn(span.run(observe_question(kind, answering)));
                } else {
                    let answer = Arc::clone(&desk).handle_query(question, reply);
                    answering.spawn(span.run(observe_question(kind, answer)));
                }
            }
        }
    }
    answering.shutdown().await;
    searching.shutdown().await;
    remembering.shutdown().await;
    Ok(())
}

/// Observes the time until a question is answered.
async fn observe_question<T>(kind: IndexQuestion, answering: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answered = answering.await;
    INDEX_QUESTION_SECONDS.observe_since(kind, began);
    answered
}

fn question_kind(subject: &str) -> IndexQuestion {
    match subject.strip_prefix(&subjects::index_request_subject("")).unwrap_or_default() {
        index_query::MEDIA => IndexQuestion::Media,
        index_query::PUBLIC_MEDIA => IndexQuestion::PublicMedia,
        index_query::JOBS => IndexQuestion::Jobs,
        index_query::JOB_COUNTS => IndexQuestion::JobCounts,
        index_query::ENCODE_ACTIVITY => IndexQuestion::EncodeActivity,
        search_query::SEARCH_MEDIA => IndexQuestion::Search,
        index_query::HISTORY => IndexQuestion::History,
        _ => IndexQuestion::Other,
    }
}

impl QueryResponder {
    async fn handle_query(
        self: Arc<Self>,
        question: async_nats::Message,
        reply: async_nats::Subject,
    ) -> Result<(), IndexError> {
        let verb =
            question.subject.as_str().strip_prefix(&subjects::index_request_subject("")).unwrap_or_default();
        let bytes_max = self.config.answer_bytes_max;
        match verb {
            index_query::MEDIA => {
                let read = move |projection: &IndexProjection, q: &MediaIndexQuery| {
                    projection.list_media(q, bytes_max)
                };
                self.answer_query(
                    IndexBucket::Media,
                    &question.payload,
                    |q: &MediaIndexQuery| q.min_revision,
                    read,
                    reply,
                )
                .await
            }
            index_query::PUBLIC_MEDIA => {
                let read = move |projection: &IndexProjection, q: &PublicMediaIndexQuery| {
                    projection.list_public_media(q, bytes_max)
                };
                self.answer_query(IndexBucket::Media, &question.payload, |_| None, read, reply).await
            }
            index_query::JOBS => {
                let read =
                    move |projection: &IndexProjection, q: &JobIndexQuery| projection.list_jobs(q, bytes_max);
                self.answer_query(
                    IndexBucket::Jobs,
                    &question.payload,
                    |q: &JobIndexQuery| q.min_revision,
                    read,
                    reply,
                )
                .await
            }
            index_query::ENCODE_ACTIVITY => {
                let read =
                    |projection: &IndexProjection, q: &EncodeActivityQuery| projection.encode_activity(q);
                self.answer_query(IndexBucket::Jobs, &question.payload, |_| None, read, reply).await
            }
            index_query::JOB_COUNTS => {
                let read = |projection: &IndexProjection, q: &JobCountsQuery| projection.count_jobs(q);
                let revision = |q: &JobCountsQuery| q.min_revision;
                self.answer_query(IndexBucket::Jobs, &question.payload, revision, read, reply).await
            }
            _ => {
                let unknown = QueryRefusal::new(index_query::QUESTION_MALFORMED, "there is no such question");
                send_reply(&self.bus, reply, &unknown.into_page::<()>()).await;
                Ok(())
            }
        }
    }

    /// Answers one question: it is decoded, its revision awaited, and `read` done off the async threads.
    async fn answer_query<Q, P>(
        &self,
        bucket: IndexBucket,
        payload: &[u8],
        revision: impl Fn(&Q) -> Option<u64>,
        read: impl FnOnce(&IndexProjection, &Q) -> Result<P, IndexError> + Send + 'static,
        reply: async_nats::Subject,
    ) -> Result<(), IndexError>
    where
        Q: serde::de::DeserializeOwned + Send + 'static,
        P: Serialize + Send + 'static,
    {
        let question: Q = match decode_query(payload) {
            Ok(question) => question,
            Err(refusal) => {
                send_reply(&self.bus, reply, &refusal.into_page::<P>()).await;
                return Ok(());
            }
        };
        let limit = Duration::from_millis(self.config.revision_wait_ms_max);
        let wanted = (bucket, revision(&question));
        if let Err(refusal) = wait_for_revision(&self.bus, limit, &self.seen, wanted).await {
            send_reply(&self.bus, reply, &refusal.into_page::<P>()).await;
            return Ok(());
        }
        let projection = Arc::clone(&self.projection);
        self.send_page(reply, move || read(&projection, &question)).await
    }

    /// Reads a page off the async threads, and sends it.
    async fn send_page<P: Serialize + Send + 'static>(
        &self,
        reply: async_nats::Subject,
        read: impl FnOnce() -> Result<P, IndexError> + Send + 'static,
    ) -> Result<(), IndexError> {
        let reading = tokio::task::spawn_blocking(read).await;
        match reading.map_err(|_| IndexError::Damaged { what: "reading panicked".into() })? {
            Ok(page) => send_reply(&self.bus, reply, &IndexReply::Page(page)).await,
            Err(IndexError::Cursor) => {
                let refusal = QueryRefusal::new(
                    index_query::CURSOR_MALFORMED,
                    "the cursor is none that the index gave out",
                );
                send_reply(&self.bus, reply, &refusal.into_page::<P>()).await;
            }
            Err(error) => {
                let refusal = QueryRefusal::new("index_damaged", "the index can't read its projection");
                send_reply(&self.bus, reply, &refusal.into_page::<P>()).await;
                return Err(error);
            }
        }
        Ok(())
    }
}
