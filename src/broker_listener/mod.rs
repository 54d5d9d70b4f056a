//! A listener for programs of the operator on other machines, before the broker of `up`.
//!
//! That broker has one port, on loopback, where every role connects without TLS. Here each connection gets a connection of its own to
//! it. The broker's greeting goes first, as its protocol has it, and asks for TLS; everything behind the handshake is passed on
//! as it is. Who is let in, and what a program may do, is decided by the broker: each user has its nkey and its rights.
//!
//! Limits: [`BrokerListenerConfig`] bounds connections and the handshake; a greeting has at most [`GREETING_BYTES_MAX`] bytes.

mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use tls::CertificateError;
use tls::{TlsIdentity, accept};

use crate::{
    config::{BrokerListenerConfig, SettingsError},
    explained,
};

/// Longest first line of the broker, in bytes; ours have a few hundred.
pub const GREETING_BYTES_MAX: usize = 32 << 10;

/// An open listener.
pub struct BrokerListener {
    listener: TcpListener,
    identity: Option<TlsIdentity>,
    connections: Arc<Semaphore>,
    handshake_max: Duration,
}

impl std::fmt::Debug for BrokerListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerListener").field("has_tls", &self.identity.is_some()).finish_non_exhaustive()
    }
}

impl BrokerListener {
    /// Reads the certificate and listens; `None` where no address is set.
    ///
    /// # Errors
    /// [`SettingsError`] over a [`CertificateError`] when certificate and key can't be used; an explained error when the address can't
    /// be listened on.
    pub async fn open(config: &BrokerListenerConfig) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.listen else { return Ok(None) };
        let identity = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some(TlsIdentity::open(certificate, key).map_err(|error| {
                SettingsError::invalid("broker.listener.certificate_file", error.to_string())
            })?),
            _ => None,
        };
        let listener = TcpListener::bind(address).await.map_err(|error| {
            explained::explain_listen_error("the broker's address", "broker.listener.listen", address, error)
        })?;
        Ok(Some(Self {
            listener,
            identity,
            connections: Arc::new(Semaphore::new(config.connections_max)),
            handshake_max: Duration::from_millis(config.handshake_ms_max),
        }))
    }

    /// Address that it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Passes connections on to the broker at `broker`, a host and a port, until `shutdown` fires.
    pub async fn run(self, broker: String, shutdown: CancellationToken) {
        let broker: Arc<str> = broker.into();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a program's connection could not be accepted");
                    // Out of descriptors: the next try would fail at once, too.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                tracing::warn!(
                    "a program's connection is closed: there are as many as broker.listener.connections_max"
                );
                continue;
            };
            let acceptor = self.identity.as_ref().map(TlsIdentity::acceptor);
            let (broker, handshake_max) = (Arc::clone(&broker), self.handshake_max);
            connections.spawn(async move {
                let greeting = tokio::time::timeout(handshake_max, greet(stream, acceptor, &broker));
                let greeted = greeting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                let ended = match greeted {
                    Ok((mut program, mut broker)) => {
                        tokio::io::copy_bidirectional(&mut program, &mut broker).await.map(|_| ())
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a program's connection to the broker ended");
                }
                drop(permit);
            });
        }
    }
}

/// Connects to the broker, hands its greeting on and agrees on TLS.
async fn greet(
    mut program: TcpStream,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    broker: &str,
) -> io::Result<(Box<dyn tls::ByteStream>, TcpStream)> {
    program.set_nodelay(true)?;
    let mut broker = TcpStream::connect(broker).await?;
    broker.set_nodelay(true)?;
    let greeting = read_greeting(&mut broker).await?;
    program.write_all(&rewrite_greeting(&greeting, acceptor.is_some())?).await?;
    Ok((accept(acceptor, program).await?, broker))
}

/// The broker's first line, without its end. It says nothing more before the program has spoken.
async fn read_greeting(broker: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(1024);
    while !line.ends_with(b"\r\n") {
        if line.len() >= GREETING_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the broker's greeting has no end"));
        }
        line.push(broker.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    Ok(line)
}

/// The greeting for a program: it says that TLS is next, and no address that only this machine reaches.
fn rewrite_greeting(line: &[u8], has_tls: bool) -> io::Result<Vec<u8>> {
    let no_greeting = || io::Error::new(io::ErrorKind::InvalidData, "the broker's first line is no greeting");
    let json = line.strip_prefix(b"INFO ").ok_or_else(no_greeting)?;
    let mut info: Map<String, Value> = serde_json::from_slice(json)?;
    for name in ["connect_urls", "client_ip", "ip"] {
        info.remove(name);
    }
    if has_tls {
        info.insert("tls_required".into(), true.into());
    }
    let mut rewritten = b"INFO ".to_vec();
    serde_json::to_writer(&mut rewritten, &info)?;
    rewritten.extend_from_slice(b"\r\n");
    Ok(rewritten)
}

#[cfg(test)]
mod tests;
