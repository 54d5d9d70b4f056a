//! Answering questions: decode, wait for the revision, read the projection, reply.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use nats::Bus;
use schemas::{
    index_query::{
        self, EncodeActivityQuery, IndexReply, JobCountsQuery, JobIndexQuery, MediaIndexQuery,
        PublicMediaIndexQuery,
    },
    search_query::{self, MediaSearchQuery},
    subjects,
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    IndexConfig, IndexError, QUEUE_GROUP,
    follow::{self, IndexProgress},
    projection::{IndexBucket, IndexProjection},
    search::SearchProjection,
};

/// Why there is no page: a stable code and the same for people.
#[derive(Debug)]
struct QueryRefusal {
    code: &'static str,
    detail: String,
}

impl QueryRefusal {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    fn into_page<P>(self) -> IndexReply<P> {
        IndexReply::Refused { code: self.code.into(), detail: self.detail }
    }
}

struct QueryResponder {
    bus: Bus,
    projection: Arc<IndexProjection>,
    search: SearchProjection,
    config: IndexConfig,
    seen: watch::Receiver<IndexProgress>,
    searchable: watch::Receiver<IndexProgress>,
}

/// Waits until the projection has caught up, then answers questions until `shutdown`.
///
/// # Errors
/// [`IndexError::Bus`] when the questions can't be subscribed to; [`IndexError::Damaged`] when a question found the projection
/// damaged.
pub(crate) async fn run_responder(
    bus: Bus,
    config: IndexConfig,
    (projection, mut seen): (Arc<IndexProjection>, watch::Receiver<IndexProgress>),
    (search, searchable): (SearchProjection, watch::Receiver<IndexProgress>),
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
    let desk = Arc::new(QueryResponder { bus, projection, search, config, seen, searchable });
    let mut answering: JoinSet<Result<(), IndexError>> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = answering.join_next() => {
                ended.unwrap_or_else(|_| Err(IndexError::Damaged { what: "answering panicked".into() }))?;
            }
            question = questions.next() => {
                let Some(question) = question else { break };
                let Some(reply) = question.reply.clone() else { continue };
                if answering.len() < in_flight_max {
                    answering.spawn(Arc::clone(&desk).handle_query(question, reply));
                } else {
                    let busy = QueryRefusal::new("index_busy", "too many questions at once; ask again");
                    desk.send_reply(reply, &busy.into_page::<()>()).await;
                }
            }
        }
    }
    answering.shutdown().await;
    Ok(())
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
            search_query::SEARCH_MEDIA => self.answer_search(&question.payload, bytes_max, reply).await,
            _ => {
                let unknown = QueryRefusal::new(index_query::QUESTION_MALFORMED, "there is no such question");
                self.send_reply(reply, &unknown.into_page::<()>()).await;
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
                self.send_reply(reply, &refusal.into_page::<P>()).await;
                return Ok(());
            }
        };
        if let Err(refusal) = self.wait_for_revision(&self.seen, bucket, revision(&question)).await {
            self.send_reply(reply, &refusal.into_page::<P>()).await;
            return Ok(());
        }
        let projection = Arc::clone(&self.projection);
        self.send_page(reply, move || read(&projection, &question)).await
    }

    /// Answers a search, once everything that was there at the start can be found: before, it would look as if it did not exist.
    async fn answer_search(
        &self,
        payload: &[u8],
        bytes_max: usize,
        reply: async_nats::Subject,
    ) -> Result<(), IndexError> {
        let question: Result<MediaSearchQuery, _> = decode_query(payload);
        let ready = async {
            let question = question?;
            self.wait_for_search().await?;
            self.wait_for_revision(&self.searchable, IndexBucket::Media, question.min_revision).await?;
            Ok(question)
        };
        match ready.await {
            Ok(question) => {
                let search = self.search.clone();
                self.send_page(reply, move || search.search_media(&question, bytes_max)).await
            }
            Err(refusal) => {
                let refusal: QueryRefusal = refusal;
                self.send_reply(reply, &refusal.into_page::<()>()).await;
                Ok(())
            }
        }
    }

    /// Waits a bounded time until the search index is complete.
    async fn wait_for_search(&self) -> Result<(), QueryRefusal> {
        let mut searchable = self.searchable.clone();
        let limit = Duration::from_millis(self.config.revision_wait_ms_max);
        match timeout(limit, searchable.wait_for(IndexProgress::is_complete)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(QueryRefusal::new(
                index_query::INDEX_BEHIND,
                "the search index is being built; ask again",
            )),
        }
    }

    /// Reads a page off the async threads, and sends it.
    async fn send_page<P: Serialize + Send + 'static>(
        &self,
        reply: async_nats::Subject,
        read: impl FnOnce() -> Result<P, IndexError> + Send + 'static,
    ) -> Result<(), IndexError> {
        let reading = tokio::task::spawn_blocking(read).await;
        match reading.map_err(|_| IndexError::Damaged { what: "reading panicked".into() })? {
            Ok(page) => self.send_reply(reply, &IndexReply::Page(page)).await,
            Err(IndexError::Cursor) => {
                let refusal = QueryRefusal::new(
                    index_query::CURSOR_MALFORMED,
                    "the cursor is none that the index gave out",
                );
                self.send_reply(reply, &refusal.into_page::<P>()).await;
            }
            Err(IndexError::SearchText(error)) => {
                let refusal = QueryRefusal::new(search_query::TEXT_MALFORMED, error.to_string());
                self.send_reply(reply, &refusal.into_page::<P>()).await;
            }
            Err(error) => {
                let refusal = QueryRefusal::new("index_damaged", "the index can't read its projection");
                self.send_reply(reply, &refusal.into_page::<P>()).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits a bounded time until the projection has seen `revision`; for one that was never given nobody waits.
    async fn wait_for_revision(
        &self,
        seen: &watch::Receiver<IndexProgress>,
        bucket: IndexBucket,
        revision: Option<u64>,
    ) -> Result<(), QueryRefusal> {
        let Some(revision) = revision else { return Ok(()) };
        let mut seen = seen.clone();
        let waiting = async {
            if seen.borrow().revision(bucket) < revision
                && follow::read_newest_revision(&self.bus, bucket).await.is_ok_and(|newest| newest < revision)
            {
                let detail = format!("there is no revision {revision} of {} yet", bucket.name());
                return Err(QueryRefusal::new(index_query::REVISION_UNKNOWN, detail));
            }
            Ok(seen.wait_for(|seen| seen.revision(bucket) >= revision).await.is_ok())
        };
        let limit = Duration::from_millis(self.config.revision_wait_ms_max);
        match timeout(limit, waiting).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok(false)) | Err(_) => Err(QueryRefusal::new(
                index_query::INDEX_BEHIND,
                format!("revision {revision} of {} is not in the index yet; ask again", bucket.name()),
            )),
        }
    }

    /// An answer nobody gets is asked for again; so a failed reply is only noted.
    async fn send_reply<P: Serialize>(&self, reply: async_nats::Subject, answer: &IndexReply<P>) {
        let sent = match nats::encode_message("answer", answer) {
            Ok(payload) => {
                self.bus.client().publish(reply, payload.into()).await.map_err(nats::BusError::unavailable)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer could not be sent");
        }
    }
}

fn decode_query<Q: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<Q, QueryRefusal> {
    if payload.len() > index_query::QUESTION_BYTES_MAX {
        return Err(QueryRefusal::new(
            index_query::QUESTION_MALFORMED,
            format!("the question has more than {} bytes", index_query::QUESTION_BYTES_MAX),
        ));
    }
    nats::decode_message("question", payload)
        .map_err(|_| QueryRefusal::new(index_query::QUESTION_MALFORMED, "the question can't be decoded"))
}
