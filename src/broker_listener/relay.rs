//! Passing bytes on between a program and the broker, until either of them ends.
//!
//! Limits: what is left when one has ended has [`END_MAX`]; a piece of [`PIECE_BYTES`] that is not taken within [`WRITE_MAX`] ends the
//! connection; a peer that is gone without a word is noticed after [`KEEPALIVE_IDLE`] and [`KEEPALIVE_COUNT`] probes.

use std::{io, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::tls::ByteStream;

/// How long the other side of a connection stays when one has ended.
pub(super) const END_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a peer to take a piece; the broker itself gives up a slow client after 10 s.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 16 << 10;
/// Silence after which the peer is asked whether it is there, and the time between probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(10);
/// Probes without an answer that end a connection.
const KEEPALIVE_COUNT: u32 = 3;

/// Lets the system find out about peers that are gone.
pub(super) fn set_keepalive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_PERIOD)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?)
}

/// Passes bytes on in both directions. When the broker has ended the connection, as it does with who shows no key in time, the program
/// is not waited for: a silent one would keep its room for ever.
pub(super) async fn relay_bytes(program: Box<dyn ByteStream>, broker: TcpStream) -> io::Result<()> {
    let (mut from_program, mut to_program) = tokio::io::split(program);
    let (mut from_broker, mut to_broker) = broker.into_split();
    let mut requests = std::pin::pin!(async {
        copy_pieces(&mut from_program, &mut to_broker).await?;
        to_broker.shutdown().await
    });
    let answers = async {
        let copied = copy_pieces(&mut from_broker, &mut to_program).await;
        timeout(END_MAX, to_program.shutdown()).await.ok();
        copied
    };
    let mut answers = std::pin::pin!(answers);
    tokio::select! {
        answered = &mut answers => answered,
        asked = &mut requests => {
            timeout(END_MAX, answers).await.unwrap_or(Ok(()))?;
            asked
        }
    }
}

async fn copy_pieces(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read_bytes = from.read(&mut buffer).await?;
        if read_bytes == 0 {
            return Ok(());
        }
        let written = async {
            to.write_all(buffer.get(..read_bytes).unwrap_or_default()).await?;
            to.flush().await
        };
        timeout(WRITE_MAX, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
}
