//! Sending a file to an address of a user, as it is read.
//!
//! Limits: those of [`crate::OutboundConfig`]. The host has the longest silence for each [`PIECE_BYTES_MAX`], and behind the last byte that
//! and the time of a head for its answer; that bytes have yet to be read here is not counted against it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, stream::BoxStream};
use reqwest::header::{self, HeaderValue};
use tokio::{sync::watch, time::Instant};

use crate::{
    client::{OutboundClient, OutboundResponse},
    config::OutboundConfig,
    error::OutboundError,
    target::OutboundUrl,
};

/// Bytes that are handed over at once at most: what is taken of a file is seen in such steps.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

/// How long the first byte of a file waits for an answer to the head alone.
///
/// Who refuses by the head answers and closes; bytes on the way to it then reset the connection (RFC 1122, 4.2.2.13), and that may
/// overtake the answer. RFC 9110, 10.1.1, has `Expect` for this, which hosts may refuse with 417: the wait needs nothing of them.
const HEAD_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether the host is in time.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// A file that is sent by PUT (RFC 9110, 9.3.4), with its exact length (8.6).
pub struct OutboundFile {
    /// Where to; a redirect is not followed.
    pub url: OutboundUrl,
    /// Bytes of the file.
    pub length_bytes: u64,
    /// What it is.
    pub content_type: &'static str,
    /// Its bytes, once. After an error the request is given up.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for OutboundFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundFile").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Whose turn it is, and since when.
#[derive(Debug, Clone, Copy)]
enum SendTurn {
    /// The host has yet to take anything.
    Begun(Instant),
    /// Bytes are being read here.
    Reading,
    /// The host has yet to take more.
    Taking(Instant),
    /// The host has yet to answer.
    Answering(Instant),
}

/// The bytes of a file, with whose turn it is.
struct SentBytes {
    bytes: BoxStream<'static, io::Result<Bytes>>,
    /// Bytes that are still to come: behind the last of them nobody asks for the end.
    left_bytes: u64,
    turn: Arc<watch::Sender<SendTurn>>,
}

impl Stream for SentBytes {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.bytes.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.left_bytes = self.left_bytes.saturating_sub(length);
        }
        self.turn.send_replace(match &polled {
            Poll::Pending => SendTurn::Reading,
            Poll::Ready(Some(_)) if self.left_bytes > 0 => SendTurn::Taking(Instant::now()),
            Poll::Ready(_) => SendTurn::Answering(Instant::now()),
        });
        polled
    }
}

/// Pieces that are small enough to see each go.
fn split_pieces(bytes: BoxStream<'static, io::Result<Bytes>>) -> BoxStream<'static, io::Result<Bytes>> {
    let split = |piece: io::Result<Bytes>| {
        let pieces: Vec<io::Result<Bytes>> = match piece {
            Ok(piece) => (0..piece.len())
                .step_by(PIECE_BYTES_MAX)
                .map(|at| Ok(piece.slice(at..piece.len().min(at.saturating_add(PIECE_BYTES_MAX)))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    };
    bytes.flat_map(split).boxed()
}

/// The bytes, from [`HEAD_ANSWER_WAIT`] after the head on.
fn wait_for_head_answer(
    bytes: BoxStream<'static, io::Result<Bytes>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    // Asked for the first time when the head has gone.
    let waited = async move {
        tokio::time::sleep(HEAD_ANSWER_WAIT).await;
        bytes
    };
    waited.flatten_stream().boxed()
}

impl OutboundClient {
    /// Sends a file, and nothing of it elsewhere.
    ///
    /// # Errors
    /// [`OutboundError`]; a status that is an error is none here. An error of the bytes ends the request as [`OutboundError::Broken`].
    pub async fn put(&self, file: OutboundFile) -> Result<OutboundResponse, OutboundError> {
        let OutboundFile { url, length_bytes, content_type, bytes } = file;
        let config = self.config();
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(config.total_time_ms_max);
        let turn = Arc::new(watch::channel(SendTurn::Begun(begun)).0);
        let bytes = wait_for_head_answer(split_pieces(bytes));
        let body = SentBytes { bytes, left_bytes: length_bytes, turn: Arc::clone(&turn) };
        let sending = self
            .build_put(&url)
            .header(header::CONTENT_LENGTH, length_bytes)
            .header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .body(reqwest::Body::wrap_stream(body))
            .send();
        let mut sending = std::pin::pin!(sending);
        loop {
            tokio::select! {
                biased;
                answered = &mut sending => return match answered {
                    Ok(response) => Ok(self.to_response(url, response, deadline, 0)),
                    Err(error) => Err(self.explain_failure(&url, &error)),
                },
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
            let now = Instant::now();
            let overdue = match find_overdue(*turn.borrow(), config, now) {
                None if now >= deadline => Some(("not all of it was taken", config.total_time_ms_max)),
                overdue => overdue,
            };
            if let Some((what, limit_ms)) = overdue {
                return Err(OutboundError::TimedOut { host: url.host().to_owned(), what, limit_ms });
            }
        }
    }
}

/// What the host has not done in time, and the limit in milliseconds.
fn find_overdue(turn: SendTurn, config: &OutboundConfig, now: Instant) -> Option<(&'static str, u64)> {
    let (since, what, limit_ms) = match turn {
        SendTurn::Reading => return None,
        SendTurn::Begun(at) => (at, "nothing of the file was taken", config.head_timeout_ms),
        SendTurn::Taking(at) => (at, "no more of the file was taken", config.idle_timeout_ms),
        // What lies in buffers on the way has to be taken first.
        SendTurn::Answering(at) => {
            (at, "no answer began", config.idle_timeout_ms.saturating_add(config.head_timeout_ms))
        }
    };
    (now >= since + Duration::from_millis(limit_ms)).then_some((what, limit_ms))
}
