//! Interim responses (RFC 9110, 15.2) while a request is handled, over HTTP/1.1.
//!
//! Own code, since hyper takes a 1xx that a handler answers for an error and offers no other way. The connection writes them when
//! hyper has written all that it has (its flush says so), and none once a request has its answer: so that no byte of an interim
//! response comes between those of another one.
//!
//! Limits: [`PENDING_MAX`] wait on a connection; one that finds no room is left out, as interim responses may be.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use axum::http::HeaderMap;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

/// Most interim responses that wait on a connection.
pub const PENDING_MAX: usize = 8;

/// What a connection may write before the answer to its request.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// How many requests the connection has had.
    request: u64,
    /// False while there is no request that waits for its answer.
    is_open: bool,
    pending: VecDeque<Bytes>,
    waker: Option<Waker>,
}

/// Sends interim responses to the client of one request; among the extensions of a request that may get some.
#[derive(Debug, Clone)]
pub struct InterimSender {
    queue: Arc<InterimQueue>,
    request: u64,
}

impl InterimQueue {
    /// Begins a request.
    pub(super) fn begin_request(self: &Arc<Self>) -> InterimSender {
        let mut state = self.state.lock();
        state.request += 1;
        state.is_open = true;
        state.pending.clear();
        InterimSender { queue: Arc::clone(self), request: state.request }
    }

    /// Ends the request that runs: what is not being written is dropped. Before its answer is.
    pub(super) fn end_request(&self) {
        let mut state = self.state.lock();
        state.is_open = false;
        state.pending.clear();
    }

    fn next(&self, context: &Context<'_>) -> Option<Bytes> {
        let mut state = self.state.lock();
        let next = state.pending.pop_front();
        if next.is_none() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        next
    }
}

impl InterimSender {
    /// Sends one, unless the request has its answer. `status` is its code and phrase, such as `104 Upload Resumption Supported`.
    pub fn send(&self, status: &str, headers: &HeaderMap) {
        let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in headers {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(piece);
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut state = self.queue.state.lock();
        if state.is_open && state.request == self.request && state.pending.len() < PENDING_MAX {
            state.pending.push_back(head.into());
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Writes the interim responses of a queue; part of a connection.
#[derive(Debug)]
pub(super) struct InterimWriter {
    queue: Arc<InterimQueue>,
    /// What is being written: its rest comes before anything else.
    writing: Bytes,
}

impl InterimWriter {
    pub(super) const fn new(queue: Arc<InterimQueue>) -> Self {
        Self { queue, writing: Bytes::new() }
    }

    /// Writes the rest of the one that was begun.
    pub(super) fn poll_begun<C: AsyncWrite + Unpin>(
        &mut self,
        connection: &mut C,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.writing.is_empty() {
            let written = ready!(Pin::new(&mut *connection).poll_write(context, &self.writing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writing.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that wait; for a moment at which everything else has been written.
    pub(super) fn poll_all<C: AsyncWrite + Unpin>(
        &mut self,
        connection: &mut C,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_begun(connection, context))?;
            let Some(next) = self.queue.next(context) else { return Poll::Ready(Ok(())) };
            self.writing = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Extension, Router, http::HeaderValue, routing::post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serve::serve_connections;

    const BODY_BYTES: usize = 1024 * 1024;
    const REQUESTS: usize = 20;

    /// A server whose handlers send interim responses, answer at length, and hand their sender on.
    async fn serve() -> (TcpStream, mpsc::UnboundedReceiver<InterimSender>) {
        let (late, kept) = mpsc::unbounded_channel();
        let handler = move |Extension(sender): Extension<InterimSender>| {
            let late = late.clone();
            async move {
                let headers = HeaderMap::from_iter([("x-step".parse().unwrap(), HeaderValue::from(1))]);
                for _ in 0..PENDING_MAX * 2 {
                    sender.send("104 Upload Resumption Supported", &headers);
                    tokio::task::yield_now().await;
                }
                late.send(sender).unwrap();
                "b".repeat(BODY_BYTES)
            }
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let router = Router::new().route("/", post(handler));
        tokio::spawn(serve_connections(listener, router, CancellationToken::new(), Duration::ZERO));
        (stream, kept)
    }

    /// The next head and, behind one of an answer, its body.
    async fn read_response(stream: &mut TcpStream) -> (String, usize) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        assert!(body.iter().all(|byte| *byte == b'b'), "an answer is whole");
        (head, body.len())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_comes_into_an_answer_however_requests_follow_each_other() {
        let (mut stream, mut kept) = serve().await;
        // All at once, so that a request runs while the answer to the one before is still on its way.
        let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".repeat(REQUESTS);
        stream.write_all(request.as_bytes()).await.unwrap();
        // What is sent behind an answer is dropped.
        let late = tokio::spawn(async move {
            for _ in 0..REQUESTS {
                kept.recv().await.unwrap().send("104 Late", &HeaderMap::new());
            }
        });
        let (mut answers, mut interim) = (0, 0);
        while answers < REQUESTS {
            let (head, length) = read_response(&mut stream).await;
            if head.starts_with("HTTP/1.1 104") {
                assert_eq!(head, "HTTP/1.1 104 Upload Resumption Supported\r\nx-step: 1\r\n\r\n");
                interim += 1;
            } else {
                assert!(head.starts_with("HTTP/1.1 200") && length == BODY_BYTES, "{head}");
                answers += 1;
            }
        }
        assert!(interim > 0);
        late.await.unwrap();
    }
}
