//! Appending: one term of one writer, from the last record on.

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
    stream::LastRawMessageErrorKind,
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use nats::{Bus, Start, reader::Entry};
use schemas::subjects;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, Head};

/// The confirmation of one record: its number and what the broker said.
type Confirmation = BoxFuture<'static, (u64, Result<PublishAck, PublishError>)>;

/// Reads the head of the log from the leader of AUDIT.
pub(crate) async fn head(bus: &Bus) -> Result<Head, Error> {
    let stream = bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(nats::Error::unavailable)?;
    match stream.get_last_raw_message_by_subject(subjects::AUDIT_ALL).await {
        Ok(message) => Head::at(message.sequence, &message.payload),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Head::empty()),
        Err(error) => Err(nats::Error::unavailable(error).into()),
    }
}

/// Appends every event behind the head until `stop` fires; then waits for what is in flight.
///
/// Records are published without waiting for each other: each names the sequence before it, so after one that fails all
/// others fail too, and the next term begins behind the last one that is stored.
///
/// # Errors
/// [`Error::Fenced`] when another writer is at work; [`Error::Interrupted`] when the connection was made anew.
pub(crate) async fn term(bus: &Bus, config: &Config, stop: &CancellationToken) -> Result<(), Error> {
    let mut connection = bus.connection();
    connection.mark_unchanged();
    let mut head = head(bus).await?;
    check_source(bus, &head).await?;
    let start = Start::Sequence(head.source_sequence + 1);
    let reading = nats::reader::Config::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], start);
    let mut events = bus.reader(reading).await?;
    let mut in_flight: FuturesOrdered<Confirmation> = FuturesOrdered::new();
    tracing::debug!(n = head.n, source_sequence = head.source_sequence, "auditing");
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = connection.changed() => return Err(Error::Interrupted),
            Some((n, confirmed)) = in_flight.next(), if !in_flight.is_empty() => confirm(n, confirmed)?,
            event = events.next(), if in_flight.len() < config.in_flight_max.max(1) => {
                head = send(bus, config, &head, &event?, &mut in_flight).await?;
            }
        }
    }
    while let Some((n, confirmed)) = in_flight.next().await {
        confirm(n, confirmed)?;
    }
    Ok(())
}

/// A log must not go on with the events of another stream.
async fn check_source(bus: &Bus, head: &Head) -> Result<(), Error> {
    let events = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::Error::unavailable)?;
    let events_last = events.cached_info().state.last_sequence;
    if events_last < head.source_sequence {
        return Err(Error::SourceReset { events_last, audited: head.source_sequence });
    }
    Ok(())
}

async fn send(
    bus: &Bus,
    config: &Config,
    head: &Head,
    event: &Entry,
    in_flight: &mut FuturesOrdered<Confirmation>,
) -> Result<Head, Error> {
    if event.sequence != head.source_sequence + 1 {
        tracing::error!(
            from = head.source_sequence + 1,
            to = event.sequence - 1,
            "events left EVENTS before they were audited"
        );
    }
    let line = head.follow(event, config.line_bytes_max)?;
    let n = line.head.n;
    let message = PublishMessage::build()
        .payload(line.bytes.into())
        .expected_stream(subjects::AUDIT)
        .expected_last_sequence(head.n);
    let sent = bus.context().send_publish(line.subject, message).await;
    let ack = sent.map_err(|error| failed(n, &error))?;
    in_flight.push_back(Box::pin(async move { (n, ack.await) }));
    Ok(line.head)
}

fn confirm(n: u64, confirmed: Result<PublishAck, PublishError>) -> Result<(), Error> {
    match confirmed {
        Ok(ack) if ack.sequence == n => Ok(()),
        Ok(_) => Err(Error::Fenced { n }),
        Err(error) => Err(failed(n, &error)),
    }
}

fn failed(n: u64, error: &PublishError) -> Error {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => Error::Fenced { n },
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::MaxAckPending => nats::Error::unavailable(error.to_string()).into(),
        _ => Error::Refused { n, reason: describe(error) },
    }
}

/// The whole chain of an error in one line; the client hides the broker's words in the source.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
