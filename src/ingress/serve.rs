//! The accept loop: hyper-util with bounded buffers and header time-outs, which `axum::serve` can't set.
//!
//! Limits: [`BUFFER_BYTES_MAX`] per connection, [`HEADER_SECONDS_MAX`] for a request head, [`CONNECTIONS_MAX`] connections.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::polite::{Polite, Reached};

/// Read buffer of one connection in bytes; hyper's default costs 0.8 MB with a slow upload on it (measured).
pub const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Longest wait for a complete request head in seconds.
pub const HEADER_SECONDS_MAX: u64 = 15;
/// Most connections at once; more wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Serves `router` on `listener` until `shutdown`, then gives open requests `grace` to end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, grace: Duration) {
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer, slot) = tokio::select! {
            accepted = accept(&listener, &slots) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors is the usual cause; a short wait lets connections end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        let mut router = router.clone();
        let reached = Reached::default();
        let reaching = Arc::clone(&reached);
        let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            reaching.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(request.map(axum::body::Body::new))
        });
        let builder = Arc::clone(&builder);
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let stream = TokioIo::new(Polite::new(stream, reached));
            let connection =
                builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections were cut at the end of the grace time");
    }
    connections.shutdown().await;
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
        .max_buf_size(BUFFER_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(128);
    builder
}

type Accepted = (tokio::net::TcpStream, std::net::SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}
