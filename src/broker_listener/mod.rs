//! A listener for programs of the operator on other machines, before the broker of `up`.
//!
//! That broker has one port, on loopback, where every role connects without TLS. Here each connection gets a connection of its own to
//! it. The broker's greeting goes first, as its protocol has it, and asks for TLS; everything behind the handshake is passed on
//! as it is. Who is let in, and what a program may do, is decided by the broker: each user has its nkey and its rights.
//!
//! Limits: [`BrokerListenerConfig`] bounds connections and the handshake; a greeting has at most [`GREETING_BYTES_MAX`] bytes; refused
//! connections are logged once in [`WARNING_PERIOD`].

mod relay;
mod slots;
mod tls;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use relay::{relay_bytes, set_keepalive};
use slots::{ConnectionSlot, ConnectionSlots};
pub use tls::CertificateError;
use tls::{TlsIdentity, accept};

use crate::{
    config::{BrokerListenerConfig, SettingsError},
    explained,
};

/// Longest first line of the broker, in bytes; ours have a few hundred.
pub const GREETING_BYTES_MAX: usize = 32 << 10;
/// How often refused connections are logged: everybody who reaches the port can cause them.
pub const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// An open listener.
pub struct BrokerListener {
    listener: TcpListener,
    identity: Option<Arc<TlsIdentity>>,
    slots: Arc<ConnectionSlots>,
    refusals: RefusalLog,
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
            (Some(certificate), Some(key)) => {
                let identity = TlsIdentity::open(certificate, key).map_err(|error| {
                    SettingsError::invalid("broker.listener.certificate_file", error.to_string())
                })?;
                Some(Arc::new(identity))
            }
            _ => None,
        };
        let listener = TcpListener::bind(address).await.map_err(|error| {
            explained::explain_listen_error("the broker's address", "broker.listener.listen", address, error)
        })?;
        Ok(Some(Self {
            listener,
            identity,
            slots: Arc::new(ConnectionSlots::new(config.connections_max, config.address_connections_max)),
            refusals: RefusalLog::default(),
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
    pub async fn run(mut self, broker: String, shutdown: CancellationToken) {
        let broker: Arc<str> = broker.into();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => match self.slots.try_take(peer.ip()) {
                    Ok(slot) => {
                        let identity = self.identity.clone();
                        let (broker, handshake_max) = (Arc::clone(&broker), self.handshake_max);
                        connections.spawn(serve_program(stream, identity, broker, handshake_max, slot));
                    }
                    Err(setting) => self.refusals.add(peer.ip(), setting),
                },
                Err(error) => {
                    tracing::warn!(%error, "a program's connection could not be accepted");
                    // Out of descriptors: the next try would fail at once, too.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Refused connections, counted between the lines of the log.
#[derive(Debug, Default)]
struct RefusalLog {
    logged_at: Option<Instant>,
    unlogged: u64,
}

impl RefusalLog {
    fn add(&mut self, peer: IpAddr, setting: &'static str) {
        self.unlogged += 1;
        if self.logged_at.is_none_or(|at| at.elapsed() >= WARNING_PERIOD) {
            let refused = std::mem::take(&mut self.unlogged);
            tracing::warn!(%peer, refused, "a program's connection is closed: there are as many as {setting}");
            self.logged_at = Some(Instant::now());
        }
    }
}

/// One connection of a program, from the greeting to its end.
async fn serve_program(
    stream: TcpStream,
    identity: Option<Arc<TlsIdentity>>,
    broker: Arc<str>,
    handshake_max: Duration,
    slot: ConnectionSlot,
) {
    let greeting = tokio::time::timeout(handshake_max, greet(stream, identity, &broker));
    let ended = match greeting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((program, broker)) => relay_bytes(program, broker).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a program's connection to the broker ended");
    }
    drop(slot);
}

/// Connects to the broker, hands its greeting on and agrees on TLS.
async fn greet(
    mut program: TcpStream,
    identity: Option<Arc<TlsIdentity>>,
    broker: &str,
) -> io::Result<(Box<dyn tls::ByteStream>, TcpStream)> {
    program.set_nodelay(true)?;
    set_keepalive(&program)?;
    let acceptor = match identity {
        Some(identity) => Some(identity.acceptor().await),
        None => None,
    };
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
