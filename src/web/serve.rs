//! The accept loop: hyper-util with bounded buffers and header time-outs, which `axum::serve` can't set.
//!
//! Limits: [`BUFFER_BYTES_MAX`] per connection, [`HEADER_SECONDS_MAX`] for a request head, [`CONNECTIONS_MAX`] connections,
//! [`CONNECTIONS_PER_PEER_MAX`] of one address, upgraded ones included, [`PING_SECONDS`] until a silent HTTP/2 connection is asked whether it lives,
//! [`WRITE_SECONDS_MAX`] in which nothing of an answer is taken.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{Version, header},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use nats::metrics::{
    GaugeHold,
    labels::ConnectionOutcome,
    table::{CONNECTIONS, CONNECTIONS_OPEN},
};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWrite,
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::Service;

use super::{
    connection::{GuardedConnection, RouterReached},
    interim::InterimQueue,
    lingering::LingeringConnection,
    request_head,
};

/// Read buffer of one connection in bytes; hyper's default costs 0.8 MB with a slow upload on it (measured).
pub const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Longest wait for a complete request head in seconds.
pub const HEADER_SECONDS_MAX: u64 = 15;
/// Longest time in which a client makes no room for more of what is being sent to it, in seconds; the connection and all that it holds end
/// then. The system makes room a third of its buffer at a time, which has up to 4 MiB: a client of 6 KiB/s is not cut.
pub const WRITE_SECONDS_MAX: u64 = 300;
/// Most connections at once; more wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Most connections of one address at once, a proxy in front included; more are closed, so that none can take all.
pub const CONNECTIONS_PER_PEER_MAX: usize = CONNECTIONS_MAX / 4;
/// Silence after which an HTTP/2 connection is asked whether it lives, and the wait for its answer, in seconds.
pub const PING_SECONDS: u64 = 20;

/// What a connection takes of what there is, and of the wait of a graceful stop; an upgraded one keeps it for as long as it lasts.
#[derive(Debug, Clone)]
pub struct ConnectionHold {
    #[cfg_attr(not(test), expect(dead_code, reason = "they are given back when it is dropped"))]
    places: Arc<(OwnedSemaphorePermit, PeerConnectionPermit, GaugeHold)>,
    _open: TaskTrackerToken,
}

/// How many connections each address has.
#[derive(Debug)]
struct PeerConnections {
    counts: Mutex<HashMap<IpAddr, usize>>,
    each_max: usize,
}

/// One of an address's connections, until it is dropped.
#[derive(Debug)]
struct PeerConnectionPermit {
    peers: Arc<PeerConnections>,
    address: IpAddr,
}

impl PeerConnections {
    fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), each_max })
    }

    /// `None` when the address has as many as it may have.
    fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Option<PeerConnectionPermit> {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_default();
        (*count < self.each_max).then(|| {
            *count += 1;
            PeerConnectionPermit { peers: Arc::clone(self), address }
        })
    }
}

impl Drop for PeerConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock();
        if let Entry::Occupied(mut entry) = counts.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Serves `router` on `listener` until `shutdown`, then gives open requests `grace` to end.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let builder = Arc::new(connection_builder());
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = PeerConnections::new(CONNECTIONS_PER_PEER_MAX);
    let (mut connections, open) = (JoinSet::new(), TaskTracker::new());
    loop {
        let (stream, peer, slot) = tokio::select! {
            accepted = accept_connection(&listener, &slots) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors is the usual cause; a short wait lets connections end.
                    CONNECTIONS.increment(ConnectionOutcome::Failed);
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            // A set keeps what ended until it is asked.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        // An IPv4 peer of a dual-stack socket has a mapped address: it is one peer, however it comes.
        let Some(seat) = peers.try_acquire(peer.ip().to_canonical()) else {
            CONNECTIONS.increment(ConnectionOutcome::Refused);
            tracing::debug!("an address has too many connections");
            continue;
        };
        CONNECTIONS.increment(ConnectionOutcome::Accepted);
        let places = Arc::new((slot, seat, CONNECTIONS_OPEN.hold(())));
        let hold = ConnectionHold { places, _open: open.token() };
        let lent = hold.clone();
        let mut router = router.clone();
        let (reached, interim) = (RouterReached::default(), Arc::<InterimQueue>::default());
        let (reaching, answering) = (Arc::clone(&reached), Arc::clone(&interim));
        let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            reaching.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            // Older versions of HTTP have none, and a newer one shares its connection among requests.
            if request.version() == Version::HTTP_11 {
                request.extensions_mut().insert(answering.begin_request());
            }
            if request.headers().contains_key(header::UPGRADE) {
                request.extensions_mut().insert(lent.clone());
            }
            request_head::prepare_request(&mut request);
            let answer = router.call(request.map(axum::body::Body::new));
            let answered = Arc::clone(&answering);
            async move {
                let answer = answer.await;
                answered.end_request();
                answer
            }
        });
        let (builder, watcher) = (Arc::clone(&builder), graceful.watcher());
        connections.spawn(async move {
            let stream = LingeringConnection::new(limit_writes(stream));
            let stream = TokioIo::new(GuardedConnection::new(stream, reached, interim));
            let connection =
                builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(hold);
        });
    }
    // Closed first: new clients are refused at once and go to another replica.
    drop(listener);
    open.close();
    let ending = async { tokio::join!(graceful.shutdown(), open.wait()) };
    if tokio::time::timeout(grace, ending).await.is_err() {
        tracing::warn!(open = open.len(), "connections were cut at the end of the grace time");
    }
    connections.shutdown().await;
}

/// Without it a client that stops reading holds its answer, and what that is read from, for as long as its machine acknowledges.
fn limit_writes<C: AsyncWrite>(stream: C) -> Pin<Box<TimeoutWriter<C>>> {
    let mut writer = TimeoutWriter::new(stream);
    writer.set_timeout(Some(Duration::from_secs(WRITE_SECONDS_MAX)));
    Box::pin(writer)
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
        .max_buf_size(BUFFER_BYTES_MAX);
    let ping = Duration::from_secs(PING_SECONDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .keep_alive_interval(ping)
        .keep_alive_timeout(ping)
        // Above what `manners` takes, so that it answers with a problem.
        .max_header_list_size(u32::try_from(BUFFER_BYTES_MAX).unwrap_or(u32::MAX));
    builder
}

type AcceptedConnection = (tokio::net::TcpStream, std::net::SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<AcceptedConnection> {
    // Before the accept: connections beyond the limit wait in the kernel's queue and cost no descriptor.
    let slot = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Nagle's algorithm holds small answers and events back until the one before is acknowledged.
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_is_not_waited_for() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve_connections(listener, Router::new(), CancellationToken::new(), Duration::ZERO);
        let serving = tokio::spawn(serving);
        for begun in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: a"]
        {
            let started = Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(HEADER_SECONDS_MAX * 2), "{begun:?}: {waited:?}");
            assert!(waited >= Duration::from_secs(10), "{begun:?}: {waited:?}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn an_upgraded_connection_is_waited_for_at_the_end() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut holds) = tokio::sync::mpsc::channel(1);
        let upgrade = axum::routing::get(async move |mut request: axum::extract::Request| {
            sender.send(request.extensions_mut().remove::<ConnectionHold>()).await.unwrap();
            [(header::CONNECTION, "close")]
        });
        let (router, shutdown) = (Router::new().route("/", upgrade), CancellationToken::new());
        let serving = serve_connections(listener, router, shutdown.clone(), Duration::from_secs(60));
        let serving = tokio::spawn(serving);
        let ask = async |more: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
        };
        ask("").await;
        assert!(holds.recv().await.unwrap().is_none(), "an ordinary request keeps nothing");
        ask("Connection: upgrade\r\nUpgrade: websocket\r\n").await;
        let hold = holds.recv().await.unwrap();
        assert_eq!(hold.as_ref().unwrap().places.1.peers.counts.lock().len(), 1, "it counts for its address");
        shutdown.cancel();
        let mut serving = Box::pin(serving);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut serving).await;
        assert!(early.is_err(), "what goes on is waited for");
        drop(hold);
        serving.await.unwrap();
    }

    #[test]
    fn one_address_takes_no_more_than_its_part() {
        let peers = PeerConnections::new(2);
        let (one, two) = (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into());
        let first = peers.try_acquire(one).unwrap();
        let _second = peers.try_acquire(one).unwrap();
        assert!(peers.try_acquire(one).is_none());
        assert!(peers.try_acquire(two).is_some());
        drop(first);
        assert!(peers.try_acquire(one).is_some());
        drop(peers.try_acquire(two));
        assert_eq!(peers.counts.lock().len(), 1, "who is gone is forgotten");
    }
}
