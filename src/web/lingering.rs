//! The end of a connection whose peer is still sending.
//!
//! A request that is refused by its head leaves its body unread. A close resets the connection then (RFC 1122, 4.2.2.13), and the reset takes
//! the answer along that the client has not read yet: it sees a broken pipe in place of a 401. So what still comes is read and thrown
//! away until the client closes, too (RFC 9112, 9.6).
//!
//! Limits: [`LINGER_SECONDS_MAX`] in all, [`LINGER_IDLE_SECONDS_MAX`] of silence, one buffer of [`LINGER_BYTES`] while it is polled.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Longest time for which a client is listened to that has its last answer, in seconds.
const LINGER_SECONDS_MAX: u64 = 30;
/// Longest silence of such a client, in seconds.
const LINGER_IDLE_SECONDS_MAX: u64 = 2;
/// What is read of it at once, in bytes.
const LINGER_BYTES: usize = 16 * 1024;

/// A connection that is closed once its peer has closed, or has been waited for long enough.
#[derive(Debug)]
pub(super) struct LingeringConnection<C> {
    connection: C,
    closing: Option<Closing>,
}

/// Our own direction is closed.
#[derive(Debug)]
struct Closing {
    latest: Instant,
    idle: Pin<Box<Sleep>>,
}

impl Closing {
    fn begin() -> Self {
        let latest = Instant::now() + Duration::from_secs(LINGER_SECONDS_MAX);
        Self { latest, idle: Box::pin(tokio::time::sleep(Duration::from_secs(LINGER_IDLE_SECONDS_MAX))) }
    }

    /// Something came.
    fn restart(&mut self) {
        let idle_until = Instant::now() + Duration::from_secs(LINGER_IDLE_SECONDS_MAX);
        self.idle.as_mut().reset(idle_until.min(self.latest));
    }
}

impl<C> LingeringConnection<C> {
    pub(super) const fn new(connection: C) -> Self {
        Self { connection, closing: None }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringConnection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { connection, closing } = &mut *self;
        if closing.is_none() {
            ready!(Pin::new(&mut *connection).poll_shutdown(context))?;
        }
        let closing = closing.get_or_insert_with(Closing::begin);
        let mut room = [MaybeUninit::uninit(); LINGER_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *connection).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < closing.latest => {
                    closing.restart();
                }
                // Its end, or an error: there is nobody to whom it matters.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.idle.as_mut().poll(context).map(Ok),
            }
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for LingeringConnection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

    use super::*;
    use crate::serve::{WRITE_SECONDS_MAX, serve_connections};

    /// A server, which ends by the token, and a connection to it.
    async fn connect(router: Router) -> (AbortOnDropHandle<()>, CancellationToken, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let grace = Duration::from_secs(3_600);
        let serving = tokio::spawn(serve_connections(listener, router, shutdown.clone(), grace));
        (AbortOnDropHandle::new(serving), shutdown, TcpStream::connect(address).await.unwrap())
    }

    fn refusing() -> Router {
        Router::new().route("/", post(async || StatusCode::UNAUTHORIZED))
    }

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n";

    #[tokio::test]
    async fn who_sends_all_of_a_refused_body_reads_why() {
        for _ in 0..10 {
            let (_serving, _, mut stream) = connect(refusing()).await;
            stream.write_all(HEAD).await.unwrap();
            stream.write_all(&vec![0; 64 << 20]).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answer));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_neither_sends_nor_closes_is_not_waited_for() {
        let (serving, shutdown, mut stream) = connect(refusing()).await;
        stream.write_all(HEAD).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let begun = Instant::now();
        shutdown.cancel();
        serving.await.unwrap();
        let waited = begun.elapsed();
        assert!(waited <= Duration::from_secs(LINGER_IDLE_SECONDS_MAX + 1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_without_end_is_cut() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            while theirs.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        let mut closed = LingeringConnection::new(ours);
        closed.shutdown().await.unwrap();
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(LINGER_SECONDS_MAX), "{waited:?}");
        assert!(waited <= Duration::from_secs(LINGER_SECONDS_MAX + 1), "{waited:?}");
        drop(closed);
        sending.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_given_up() {
        let (held, given_up) = tokio::sync::oneshot::channel::<()>();
        let held = std::sync::Arc::new(parking_lot::Mutex::new(Some(held)));
        let endless = post(async move || {
            let held = held.lock().take();
            let pieces = futures::stream::repeat_with(move || {
                let _held = &held;
                Ok::<_, io::Error>(bytes::Bytes::from_static(&[0; 1024]))
            });
            axum::body::Body::from_stream(pieces)
        });
        let (_serving, _, mut stream) = connect(Router::new().route("/", endless)).await;
        let begun = Instant::now();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(given_up.await.is_err(), "what it is read from is let go");
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(WRITE_SECONDS_MAX), "{waited:?}");
        // The clock may jump while the system still takes bytes.
        assert!(waited <= Duration::from_secs(WRITE_SECONDS_MAX * 3), "{waited:?}");
    }
}
