//! What questions of lists and of the search have in common: decoding, waiting for a revision, replying.

use std::time::Duration;

use nats::Bus;
use nats::metrics::table::INDEX_REFUSALS;
use schemas::index_query::{self, IndexReply};
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

use crate::{
    follow::{self, IndexProgress},
    projection::IndexBucket,
};

/// Why there is no page: a stable code and the same for people.
#[derive(Debug)]
pub(crate) struct QueryRefusal {
    code: &'static str,
    detail: String,
}

impl QueryRefusal {
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    pub(crate) fn busy() -> Self {
        Self::new("index_busy", "too many questions at once; ask again")
    }

    pub(crate) fn into_page<P>(self) -> IndexReply<P> {
        INDEX_REFUSALS.increment(&[self.code]);
        IndexReply::Refused { code: self.code.into(), detail: self.detail }
    }
}

pub(crate) fn decode_query<Q: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<Q, QueryRefusal> {
    if payload.len() > index_query::QUESTION_BYTES_MAX {
        return Err(QueryRefusal::new(
            index_query::QUESTION_MALFORMED,
            format!("the question has more than {} bytes", index_query::QUESTION_BYTES_MAX),
        ));
    }
    nats::decode_message("question", payload)
        .map_err(|_| QueryRefusal::new(index_query::QUESTION_MALFORMED, "the question can't be decoded"))
}

/// Waits at most `limit` until a projection has seen `revision`; for one that was never given nobody waits.
pub(crate) async fn wait_for_revision(
    bus: &Bus,
    limit: Duration,
    seen: &watch::Receiver<IndexProgress>,
    (bucket, revision): (IndexBucket, Option<u64>),
) -> Result<(), QueryRefusal> {
    let Some(revision) = revision else { return Ok(()) };
    let mut seen = seen.clone();
    let waiting = async {
        if seen.borrow().revision(bucket) < revision
            && follow::read_newest_revision(bus, bucket).await.is_ok_and(|newest| newest < revision)
        {
            let detail = format!("there is no revision {revision} of {} yet", bucket.name());
            return Err(QueryRefusal::new(index_query::REVISION_UNKNOWN, detail));
        }
        Ok(seen.wait_for(|seen| seen.revision(bucket) >= revision).await.is_ok())
    };
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
pub(crate) async fn send_reply<P: Serialize>(bus: &Bus, reply: async_nats::Subject, answer: &IndexReply<P>) {
    let sent = match nats::encode_message("answer", answer) {
        Ok(payload) => bus.client().publish(reply, payload.into()).await.map_err(nats::BusError::unavailable),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "an answer could not be sent");
    }
}
