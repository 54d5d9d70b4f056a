//! A bad network between a store and its S3 server: passes, fails, hangs or is slow, as a test says.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::TestS3Server;
use crate::StoreConfig;

/// Bytes handed on at once.
const PIECE_BYTES: usize = 16 * 1024;

/// How the network behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Everything passes.
    Pass,
    /// Each request is answered with this status.
    Status(u16),
    /// Connections are taken and nothing is answered.
    Hang,
    /// Everything passes, each 16 KiB after this pause in milliseconds.
    Slow(u64),
}

/// A running proxy; connections end when its mode changes.
#[derive(Debug)]
pub struct FaultProxy {
    endpoint: String,
    mode: watch::Sender<ProxyMode>,
    _server: AbortOnDropHandle<()>,
}

impl FaultProxy {
    /// Starts one before `server` that passes everything; fails when no port can be had.
    pub async fn start(server: &TestS3Server) -> io::Result<Self> {
        let target = server.address().to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (mode, watched) = watch::channel(ProxyMode::Pass);
        let serving = tokio::task::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, mut watched) = (target.clone(), watched.clone());
                connections.spawn(async move {
                    let mode = *watched.borrow_and_update();
                    tokio::select! {
                        // A side that goes away is no error of the proxy.
                        ended = serve_connection(client, &target, mode) => drop(ended),
                        _ = watched.changed() => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { endpoint, mode, _server: AbortOnDropHandle::new(serving) })
    }

    /// Changes how the network behaves from now on; open connections break.
    pub fn set_mode(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }

    /// Settings of a store behind it that gives a request up after two seconds.
    pub fn store_config(&self, server: &TestS3Server) -> StoreConfig {
        let mut config = server.store_config();
        config.options.insert("aws_endpoint".into(), self.endpoint.clone());
        StoreConfig { request_timeout_ms: 2_000, retry_timeout_ms: 100, retries_max: 0, ..config }
    }
}

async fn serve_connection(mut client: TcpStream, target: &str, mode: ProxyMode) -> io::Result<()> {
    match mode {
        ProxyMode::Hang => std::future::pending().await,
        ProxyMode::Status(status) => {
            let mut piece = vec![0; PIECE_BYTES];
            while client.read(&mut piece).await? > 0 {
                let answer =
                    format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                client.write_all(answer.as_bytes()).await?;
            }
            Ok(())
        }
        ProxyMode::Pass | ProxyMode::Slow(_) => {
            let pause =
                if let ProxyMode::Slow(ms) = mode { Duration::from_millis(ms) } else { Duration::ZERO };
            let mut server = TcpStream::connect(target).await?;
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::try_join!(
                copy_delayed(&mut from_client, &mut to_server, pause),
                copy_delayed(&mut from_server, &mut to_client, pause),
            )?;
            Ok(())
        }
    }
}

async fn copy_delayed(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    pause: Duration,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        tokio::time::sleep(pause).await;
        to.write_all(piece.get(..count).unwrap_or_default()).await?;
    }
}
