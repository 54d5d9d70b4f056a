//! Appending: one term of one writer, from the last record on.

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    stream::LastRawMessageErrorKind,
};
use nats::{Bus, Start, reader::Entry};
use schemas::subjects;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, Head};

/// Reads the head of the log from the leader of AUDIT.
pub(crate) async fn head(bus: &Bus) -> Result<Head, Error> {
    let stream = bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(nats::Error::unavailable)?;
    match stream.get_last_raw_message_by_subject(subjects::AUDIT_ALL).await {
        Ok(message) => Head::at(message.sequence, &message.payload),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Head::empty()),
        Err(error) => Err(nats::Error::unavailable(error).into()),
    }
}

/// Appends every event behind the head until `stop` fires.
///
/// One record at a time: what is sent before its predecessor is confirmed could follow the record of another writer, since
/// the broker compares sequences, not bytes.
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

/// A log must not go on with the events of another stream.
async fn check_source(bus: &Bus, head: &Head) -> Result<(), Error> {
    let events = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::Error::unavailable)?;
    let events_last = events.cached_info().state.last_sequence;
    if events_last < head.source_sequence {
        return Err(Error::SourceReset { events_last, audited: head.source_sequence });
    }
    Ok(())
}

/// Appends the record of one event; answers the head once it is stored.
async fn append(bus: &Bus, config: &Config, head: &Head, event: &Entry) -> Result<Head, Error> {
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
