//! What a connection needs that hyper does not do.
//!
//! A limit of the wait for its first bytes: hyper's own time-outs begin once it knows which version is spoken.
//!
//! Answers to heads that can't be read: hyper refuses them itself, with a bare status line, before any handler is asked. This puts
//! a problem document in the place of that answer.
//!
//! Only while no request of the connection has reached the router: until then nothing but such a refusal can be written, so bytes
//! of an answer are never touched. A later head of the same connection that can't be read gets the bare answer; a head that does
//! not come in time gets none, its connection is closed.
//!
//! Limits: [`OPENING_SECONDS_MAX`] until the version is known; one refusal a connection, after which hyper closes it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use schemas::ids::RequestId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    error::instance_urn,
    interim::{InterimQueue, InterimWriter},
    problem_code::ProblemCode,
};

/// Longest wait for the bytes that say which version of HTTP a connection speaks, in seconds.
pub(super) const OPENING_SECONDS_MAX: u64 = 15;
/// What a connection begins with that speaks HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// True once a request has reached the router.
pub(super) type RouterReached = Arc<AtomicBool>;

/// A connection.
#[derive(Debug)]
pub(super) struct GuardedConnection<C> {
    connection: C,
    reached: RouterReached,
    /// Until the version is known: when the wait for it is over, and how many bytes of the preface came.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// What is being written in place of a refusal.
    instead: Option<Bytes>,
    interim: InterimWriter,
}

impl<C> GuardedConnection<C> {
    pub(super) fn new(connection: C, reached: RouterReached, interim: Arc<InterimQueue>) -> Self {
        let until = tokio::time::sleep(Duration::from_secs(OPENING_SECONDS_MAX));
        let interim = InterimWriter::new(interim);
        Self { connection, reached, opening: Some((Box::pin(until), 0)), instead: None, interim }
    }

    /// Notes what came first; the wait is over once it is no preface, or a whole one.
    fn track_opening(&mut self, bytes: &[u8]) {
        let Some((_, known)) = &mut self.opening else { return };
        let rest = PREFACE.get(*known..).unwrap_or_default();
        // hyper starts its time-outs once it knows the version: the beginning of a preface keeps it waiting.
        if bytes.len() < rest.len() && rest.starts_with(bytes) {
            *known += bytes.len();
        } else {
            self.opening = None;
        }
    }

    /// Begins a document in place of the refusal that `first` is; false when it is none.
    fn replace_refusal(&mut self, first: &[u8]) -> bool {
        // Only before any handler was reached: later bytes may be the body of an answer that looks like one.
        if self.instead.is_none() && !self.reached.load(Ordering::Relaxed) {
            self.instead = problem_document(first);
        }
        self.instead.is_some()
    }
}

impl<C: AsyncWrite + Unpin> GuardedConnection<C> {
    fn poll_replacement(&mut self, context: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        while let Some(left) = self.instead.as_mut().filter(|left| !left.is_empty()) {
            let written = ready!(Pin::new(&mut self.connection).poll_write(context, left))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            left.advance(written);
        }
        self.instead = None;
        // From here on the refusal counts as an answer.
        self.reached.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(length))
    }
}

/// The whole answer in place of a refusal.
fn problem_document(refusal: &[u8]) -> Option<Bytes> {
    let head = std::str::from_utf8(refusal).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse::<u16>().ok()?;
    let kind = match status {
        400 => ProblemCode::RequestMalformed,
        414 => ProblemCode::TargetTooLong,
        431 => ProblemCode::HeadersTooLarge,
        _ => return None,
    };
    let line = head.lines().next()?;
    let id = RequestId::from_bytes(nats::new_id_bytes());
    let request_id = id.to_string();
    tracing::debug!(request.id = request_id, status, "a head was refused");
    let body = serde_json::json!({
        "type": kind.type_uri(),
        "title": kind.title(),
        "status": status,
        "code": kind.code(),
        "instance": instance_urn(id),
        "request_id": request_id,
    })
    .to_string();
    let length = body.len();
    Some(Bytes::from(format!(
        "{line}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n{body}"
    )))
}

impl<C: AsyncRead + Unpin> AsyncRead for GuardedConnection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.connection).poll_read(context, buffer);
        if let Some((until, _)) = &mut self.opening
            // Polled only while nothing comes, so that bytes that are there count before the time-out.
            && outcome.is_pending()
        {
            return until.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.track_opening(buffer.filled().get(before..).unwrap_or_default());
        outcome
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for GuardedConnection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replace_refusal(bytes) {
            return self.poll_replacement(context, bytes.len());
        }
        let Self { connection, interim, .. } = &mut *self;
        ready!(interim.poll_begun(connection, context))?;
        Pin::new(connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        if first.is_some_and(|first| self.replace_refusal(first)) {
            let length = slices.iter().map(|slice| slice.len()).sum();
            return self.poll_replacement(context, length);
        }
        let Self { connection, interim, .. } = &mut *self;
        ready!(interim.poll_begun(connection, context))?;
        Pin::new(connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { connection, interim, .. } = &mut *self;
        // hyper flushes once all of its own bytes are written: the one moment at which another response may stand between them.
        ready!(interim.poll_all(connection, context))?;
        Pin::new(connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
