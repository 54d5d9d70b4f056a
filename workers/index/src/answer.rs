//! Answering questions: decode, wait for the revision, read the projection, reply.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use nats::Bus;
use schemas::{
    ask::{self, Answer, ListJobs, ListMedia},
    subjects,
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, QUEUE_GROUP,
    follow::{self, Seen},
    projection::{Bucket, Projection},
};

/// Why there is no page: a stable code and the same for people.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    detail: String,
}

impl Refusal {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    fn answer<P>(self) -> Answer<P> {
        Answer::Refused { code: self.code.into(), detail: self.detail }
    }
}

struct Desk {
    bus: Bus,
    projection: Arc<Projection>,
    config: Config,
    seen: watch::Receiver<Seen>,
}

/// Waits until the projection has caught up, then answers questions until `shutdown`.
///
/// # Errors
/// [`Error::Bus`] when the questions can't be heard; [`Error::Damaged`] when a question found the projection damaged.
pub(crate) async fn run(
    bus: Bus,
    projection: Arc<Projection>,
    config: Config,
    mut seen: watch::Receiver<Seen>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        complete = seen.wait_for(Seen::is_complete) => if complete.is_err() { return Ok(()) },
    }
    let filter = subjects::ask_index("*");
    let group = QUEUE_GROUP.to_owned();
    let mut questions =
        bus.client().queue_subscribe(filter, group).await.map_err(nats::Error::unavailable)?;
    let in_flight_max = config.questions_in_flight_max.max(1);
    let desk = Arc::new(Desk { bus, projection, config, seen });
    let mut answering: JoinSet<Result<(), Error>> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = answering.join_next() => {
                ended.unwrap_or_else(|_| Err(Error::Damaged { what: "answering panicked".into() }))?;
            }
            question = questions.next() => {
                let Some(question) = question else { break };
                let Some(reply) = question.reply.clone() else { continue };
                if answering.len() < in_flight_max {
                    answering.spawn(Arc::clone(&desk).answer(question, reply));
                } else {
                    let busy = Refusal::new("index_busy", "too many questions at once; ask again");
                    desk.reply(reply, &busy.answer::<()>()).await;
                }
            }
        }
    }
    answering.shutdown().await;
    Ok(())
}

impl Desk {
    async fn answer(
        self: Arc<Self>,
        question: async_nats::Message,
        reply: async_nats::Subject,
    ) -> Result<(), Error> {
        let verb = question.subject.as_str().strip_prefix(&subjects::ask_index("")).unwrap_or_default();
        let bytes_max = self.config.answer_bytes_max;
        match verb {
            ask::MEDIA => {
                let read = move |projection: &Projection, q: &ListMedia| projection.media(q, bytes_max);
                self.page(Bucket::Media, &question.payload, |q: &ListMedia| q.min_revision, read, reply).await
            }
            ask::JOBS => {
                let read = move |projection: &Projection, q: &ListJobs| projection.jobs(q, bytes_max);
                self.page(Bucket::Jobs, &question.payload, |q: &ListJobs| q.min_revision, read, reply).await
            }
            _ => {
                let unknown = Refusal::new(ask::QUESTION_MALFORMED, "there is no such question");
                self.reply(reply, &unknown.answer::<()>()).await;
                Ok(())
            }
        }
    }

    /// Answers one list: the question is decoded, its revision awaited, and `read` done off the async threads.
    async fn page<Q, P>(
        &self,
        bucket: Bucket,
        payload: &[u8],
        revision: impl Fn(&Q) -> Option<u64>,
        read: impl FnOnce(&Projection, &Q) -> Result<P, Error> + Send + 'static,
        reply: async_nats::Subject,
    ) -> Result<(), Error>
    where
        Q: serde::de::DeserializeOwned + Send + 'static,
        P: Serialize + Send + 'static,
    {
        let question: Q = match decode(payload) {
            Ok(question) => question,
            Err(refusal) => {
                self.reply(reply, &refusal.answer::<P>()).await;
                return Ok(());
            }
        };
        if let Err(refusal) = self.wait(bucket, revision(&question)).await {
            self.reply(reply, &refusal.answer::<P>()).await;
            return Ok(());
        }
        let projection = Arc::clone(&self.projection);
        let reading = tokio::task::spawn_blocking(move || read(&projection, &question)).await;
        match reading.map_err(|_| Error::Damaged { what: "reading panicked".into() })? {
            Ok(page) => self.reply(reply, &Answer::Page(page)).await,
            Err(Error::Cursor) => {
                let refusal =
                    Refusal::new(ask::CURSOR_MALFORMED, "the cursor is none that the index gave out");
                self.reply(reply, &refusal.answer::<P>()).await;
            }
            Err(error) => {
                let refusal = Refusal::new("index_damaged", "the index can't read its projection");
                self.reply(reply, &refusal.answer::<P>()).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits a bounded time until the projection has seen `revision`; for one that was never given nobody waits.
    async fn wait(&self, bucket: Bucket, revision: Option<u64>) -> Result<(), Refusal> {
        let Some(revision) = revision else { return Ok(()) };
        let mut seen = self.seen.clone();
        let waiting = async {
            if seen.borrow().revision(bucket) < revision
                && follow::newest(&self.bus, bucket).await.is_ok_and(|newest| newest < revision)
            {
                let detail = format!("there is no revision {revision} of {} yet", bucket.name());
                return Err(Refusal::new(ask::REVISION_UNKNOWN, detail));
            }
            Ok(seen.wait_for(|seen| seen.revision(bucket) >= revision).await.is_ok())
        };
        let limit = Duration::from_millis(self.config.revision_wait_ms_max);
        match timeout(limit, waiting).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok(false)) | Err(_) => Err(Refusal::new(
                ask::INDEX_BEHIND,
                format!("revision {revision} of {} is not in the index yet; ask again", bucket.name()),
            )),
        }
    }

    /// An answer nobody gets is asked for again; so a failed reply is only noted.
    async fn reply<P: Serialize>(&self, reply: async_nats::Subject, answer: &Answer<P>) {
        let sent = match nats::encode("answer", answer) {
            Ok(payload) => {
                self.bus.client().publish(reply, payload.into()).await.map_err(nats::Error::unavailable)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer could not be sent");
        }
    }
}

fn decode<Q: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<Q, Refusal> {
    if payload.len() > ask::QUESTION_BYTES_MAX {
        return Err(Refusal::new(
            ask::QUESTION_MALFORMED,
            format!("the question has more than {} bytes", ask::QUESTION_BYTES_MAX),
        ));
    }
    nats::decode("question", payload)
        .map_err(|_| Refusal::new(ask::QUESTION_MALFORMED, "the question can't be decoded"))
}
