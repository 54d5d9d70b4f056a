//! Appending: one term of one writer, from the last record on.

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
};
use nats::{
    Bus, Start,
    reader::{Entry, Position},
};
use schemas::{audit::Note, fault::error_chain, subjects};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, Head, Verdict,
    record::{Foreign, Line},
    tail::tail,
    verify,
};

/// Name of the reader of EVENTS.
const READER: &str = "audit";

/// Appends every event behind the head until `stop` fires.
///
/// One record at a time: what is sent before its predecessor is confirmed could follow the record of another writer, since
/// the broker compares sequences, not bytes.
///
/// # Errors
/// [`Error::Fenced`] when another writer is at work; [`Error::Interrupted`] when the connection was made anew;
/// [`Error::SourceReset`] when EVENTS is another stream than the one this log is of.
pub(crate) async fn term(bus: &Bus, config: &Config, stop: &CancellationToken) -> Result<(), Error> {
    let mut connection = bus.connection();
    connection.mark_unchanged();
    let (mut head, foreign) = tail(bus).await?;
    let position = position(bus, &head).await?;
    if let Some(foreign) = foreign {
        head = step_over(bus, &head, &foreign).await?;
    }
    if head.n > 0 && head.epoch.is_none() {
        head = adopt(bus, head).await?;
    }
    head.epoch = Some(epoch(position.created_at_ms));
    let start = Start::Behind(Position { sequence: head.source_sequence, ..position });
    let reading = nats::reader::Config::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], start);
    let mut events = bus.follow(READER, reading);
    tracing::debug!(n = head.n, source_sequence = head.source_sequence, "auditing");
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = connection.changed() => return Err(Error::Interrupted),
            event = events.next() => event?,
        };
        head = tokio::select! {
            biased;
            appended = append(bus, config, &head, &event) => appended?,
            _ = connection.changed() => return Err(Error::Interrupted),
        };
    }
}

/// How a record names the life of EVENTS: as the ids of followed events do.
fn epoch(created_at_ms: u64) -> String {
    format!("{created_at_ms:x}")
}

/// Where in EVENTS the log is. A log must not go on with the events of another stream.
async fn position(bus: &Bus, head: &Head) -> Result<Position, Error> {
    let events = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::Error::unavailable)?;
    let info = events.cached_info();
    let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let found = epoch(created_at_ms);
    if let Some(audited) = head.epoch.as_ref().filter(|audited| **audited != found) {
        return Err(Error::SourceReset { found, audited: audited.clone() });
    }
    let events_last = info.state.last_sequence;
    if events_last < head.source_sequence {
        return Err(Error::SourceBehind { events_last, audited: head.source_sequence });
    }
    Ok(Position { created_at_ms, sequence: head.source_sequence })
}

/// Notes what was published behind the last record by somebody else.
async fn step_over(bus: &Bus, head: &Head, foreign: &Foreign) -> Result<Head, Error> {
    tracing::error!(
        from = foreign.from,
        to = foreign.to,
        "messages in AUDIT are no records; a note steps over them"
    );
    let line = head.note(&foreign.skipped(), Some(foreign), nats::now_ms())?;
    publish(bus, foreign.to, line).await
}

/// Looks once through a log from before records named the life of EVENTS: it may hold events twice, and a note says where.
async fn adopt(bus: &Bus, head: Head) -> Result<Head, Error> {
    let walk = match verify::walk(bus).await? {
        Ok(walk) => walk,
        Err(Verdict::Broken { n, fault }) => {
            tracing::error!(n, %fault, "the audit log is broken; it goes on behind its last record");
            return Ok(head);
        }
        Err(Verdict::Sound { .. }) => return Ok(head),
    };
    let repeated = walk.repeated().to_vec();
    let (newest, foreign) = walk.tail();
    if newest.n != head.n || foreign.is_some() {
        return Ok(head);
    }
    if repeated.is_empty() {
        return Ok(newest);
    }
    tracing::warn!(?repeated, "the audit log holds events twice; a note says where");
    let reason = "these records repeat earlier ones".into();
    let line = newest.note(&Note { reason, skipped: None, repeated }, None, nats::now_ms())?;
    publish(bus, newest.n, line).await
}

/// Appends the record of one event; answers the head once it is stored.
pub(crate) async fn append(bus: &Bus, config: &Config, head: &Head, event: &Entry) -> Result<Head, Error> {
    if event.sequence <= head.source_sequence {
        tracing::error!(
            sequence = event.sequence,
            audited = head.source_sequence,
            "an event was offered again"
        );
        return Ok(head.clone());
    }
    if event.sequence != head.source_sequence + 1 {
        tracing::error!(
            from = head.source_sequence + 1,
            to = event.sequence - 1,
            "events left EVENTS before they were audited"
        );
    }
    publish(bus, head.n, head.follow(event, config.line_bytes_max)?).await
}

/// Stores a line as the message behind number `last`.
async fn publish(bus: &Bus, last: u64, line: Line) -> Result<Head, Error> {
    let n = line.head.n;
    let message = PublishMessage::build()
        .payload(line.bytes.into())
        .expected_stream(subjects::AUDIT)
        .expected_last_sequence(last);
    let sent = bus.context().send_publish(line.subject, message).await.map_err(|error| failed(n, &error))?;
    let ack = sent.await.map_err(|error| failed(n, &error))?;
    if ack.sequence == n { Ok(line.head) } else { Err(Error::Fenced { n }) }
}
fn failed(n: u64, error: &PublishError) -> Error {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => Error::Fenced { n },
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::MaxAckPending => nats::Error::unavailable(error.to_string()).into(),
        _ => Error::Refused { n, reason: error_chain(error) },
    }
}
