//! Appending: one term of one writer, from the last record on.

use std::time::Duration;

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
};
use nats::metrics::{
    labels::AuditLogFault,
    table::{AUDIT_FAULTS, AUDIT_RECORDS},
};
use nats::{
    Bus, ReaderStart,
    atomic_batch::{BATCH_MESSAGES_MAX, BatchError, BatchMessage, BatchPublisher},
    reader::{StreamEntry, StreamPosition},
};
use schemas::{audit::AuditNote, fault::error_chain, subjects};
use tokio_util::sync::CancellationToken;

use crate::{
    AuditConfig, AuditError, AuditHead, AuditLogStatus,
    hash_chain::{AuditLine, ForeignMessages},
    tail::read_tail,
    verify,
};

/// Name of the reader of EVENTS.
const READER: &str = "audit";

/// Longest wait for the broker to confirm a batch.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// A batch of so many bytes takes no more records: the broker has it in memory until it is whole.
const BATCH_BYTES_FULL: usize = 1024 * 1024;

/// Appends every event behind the head until `stop` fires.
///
/// One batch at a time, which the broker stores whole or not at all: what is sent before its predecessor is confirmed could follow the
/// record of another writer, since the broker compares sequences, not bytes.
///
/// # Errors
/// [`AuditError::Fenced`] when another writer is at work; [`AuditError::Interrupted`] when the connection was made anew;
/// [`AuditError::SourceReset`] when EVENTS is another stream than the one this log is of.
pub(crate) async fn run_term(
    bus: &Bus,
    config: &AuditConfig,
    stop: &CancellationToken,
) -> Result<(), AuditError> {
    let mut connection = bus.watch_connection();
    // Before the tail is read: after a reconnect from here on, what was read of it may be old.
    connection.mark_unchanged();
    let (mut head, foreign) = read_tail(bus).await?;
    // Before anything is written: a log of another stream, or a server that is behind, is left as it is.
    let position = read_source_position(bus, &head).await?;
    if let Some(foreign) = foreign {
        head = append_skip_note(bus, &head, &foreign).await?;
    }
    if head.n > 0 && head.epoch.is_none() {
        head = note_legacy_duplicates(bus, head).await?;
    }
    head.epoch = Some(format_epoch(position.created_at_ms));
    let start = ReaderStart::Behind(StreamPosition { sequence: head.source_sequence, ..position });
    let reading = nats::reader::ReaderConfig::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], start);
    let mut events = bus.follow_stream(READER, reading);
    let mut batches = BatchPublisher::new(bus, ANSWER_WAIT_MAX).await?;
    // Looked at before anything is sent: a server that knows no batches would store single messages.
    let records_max =
        if takes_batches(bus).await? { config.batch_records_max.min(BATCH_MESSAGES_MAX) } else { 1 };
    tracing::debug!(n = head.n, source_sequence = head.source_sequence, "auditing");
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = connection.changed() => return Err(AuditError::Interrupted),
            event = events.next() => event?,
        };
        // What has come meanwhile goes with it, so that more events make larger batches and not a longer way.
        let mut lines = AuditLines::new(head, config);
        lines.push(&event)?;
        while lines.lines.len() < records_max
            && lines.size_bytes < BATCH_BYTES_FULL
            && let Some(event) = events.next_received()?
        {
            lines.push(&event)?;
        }
        head = tokio::select! {
            biased;
            // The answer first: records that were confirmed belong to this term.
            appended = append_lines(bus, &mut batches, lines) => appended?,
            _ = connection.changed() => return Err(AuditError::Interrupted),
        };
    }
}

/// Whether AUDIT takes batches. A broker whose topology is of before does not until `streamgate nats apply`.
async fn takes_batches(bus: &Bus) -> Result<bool, AuditError> {
    let log = bus.context().get_stream(subjects::AUDIT).await.map_err(nats::BusError::unavailable)?;
    let is_allowed = log.cached_info().config.allow_atomic_publish;
    if !is_allowed {
        tracing::warn!("records of the audit log are appended one by one: `streamgate nats diff` says why");
    }
    Ok(is_allowed)
}

/// How a record names the life of EVENTS: as the ids of followed events do.
fn format_epoch(created_at_ms: u64) -> String {
    format!("{created_at_ms:x}")
}

/// Where in EVENTS the log is. A log must not go on with the events of another stream.
async fn read_source_position(bus: &Bus, head: &AuditHead) -> Result<StreamPosition, AuditError> {
    let events = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::BusError::unavailable)?;
    let info = events.cached_info();
    let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let found = format_epoch(created_at_ms);
    if let Some(audited) = head.epoch.as_ref().filter(|audited| **audited != found) {
        return Err(AuditError::SourceReset { found, audited: audited.clone() });
    }
    let events_last = info.state.last_sequence;
    if events_last < head.source_sequence {
        return Err(AuditError::SourceBehind { events_last, audited: head.source_sequence });
    }
    Ok(StreamPosition { created_at_ms, sequence: head.source_sequence })
}

/// Notes what was published behind the last record by somebody else.
async fn append_skip_note(
    bus: &Bus,
    head: &AuditHead,
    foreign: &ForeignMessages,
) -> Result<AuditHead, AuditError> {
    AUDIT_FAULTS.increment(AuditLogFault::Foreign);
    tracing::error!(
        from = foreign.from,
        to = foreign.to,
        "messages in AUDIT are no records; a note steps over them"
    );
    let line = head.note_line(&foreign.skip_note(), Some(foreign), nats::now_ms())?;
    publish_line(bus, foreign.to, line).await
}

/// Looks once through a log from before records named the life of EVENTS: it may hold events twice, and a note says where.
async fn note_legacy_duplicates(bus: &Bus, head: AuditHead) -> Result<AuditHead, AuditError> {
    let walk = match verify::scan_log(bus).await? {
        Ok(walk) => walk,
        Err(AuditLogStatus::Broken { n, fault }) => {
            AUDIT_FAULTS.increment(AuditLogFault::Broken);
            tracing::error!(n, %fault, "the audit log is broken; it goes on behind its last record");
            return Ok(head);
        }
        Err(AuditLogStatus::Sound { .. }) => return Ok(head),
    };
    let repeated = walk.repeated_ranges().to_vec();
    let (newest, foreign) = walk.into_tail();
    if newest.n != head.n || foreign.is_some() {
        return Ok(head);
    }
    if repeated.is_empty() {
        return Ok(newest);
    }
    tracing::warn!(?repeated, "the audit log holds events twice; a note says where");
    let reason = "these records repeat earlier ones".into();
    let line = newest.note_line(&AuditNote { reason, skipped: None, repeated }, None, nats::now_ms())?;
    publish_line(bus, newest.n, line).await
}

/// Lines that are to be appended together, each behind the one before it.
pub(crate) struct AuditLines<'a> {
    config: &'a AuditConfig,
    /// Number of the record that they follow.
    last: u64,
    head: AuditHead,
    lines: Vec<AuditLine>,
    size_bytes: usize,
}

impl<'a> AuditLines<'a> {
    pub(crate) fn new(head: AuditHead, config: &'a AuditConfig) -> Self {
        Self { config, last: head.n, head, lines: Vec::new(), size_bytes: 0 }
    }

    /// Adds the record of an event.
    pub(crate) fn push(&mut self, event: &StreamEntry) -> Result<(), AuditError> {
        let audited = self.head.source_sequence;
        // Refused here as well as by the reader: a repeated record could never be taken back.
        if event.sequence <= audited {
            AUDIT_FAULTS.increment(AuditLogFault::Repeated);
            tracing::error!(sequence = event.sequence, audited, "an event was offered again");
            return Ok(());
        }
        if event.sequence != audited + 1 {
            AUDIT_FAULTS.increment(AuditLogFault::Gap);
            tracing::error!(
                from = audited + 1,
                to = event.sequence - 1,
                "events left EVENTS before they were audited"
            );
        }
        let line = self.head.event_line(event, self.config.line_bytes_max)?;
        self.head = line.head.clone();
        self.size_bytes += line.bytes.len();
        self.lines.push(line);
        Ok(())
    }
}

/// Stores lines behind the record that they follow; answers the head once they are stored.
pub(crate) async fn append_lines(
    bus: &Bus,
    batches: &mut BatchPublisher,
    mut appended: AuditLines<'_>,
) -> Result<AuditHead, AuditError> {
    if appended.lines.len() < 2 {
        return match appended.lines.pop() {
            Some(line) => publish_line(bus, appended.last, line).await,
            None => Ok(appended.head),
        };
    }
    let (last, n) = (appended.last, appended.head.n);
    let message =
        |line: &AuditLine| BatchMessage { subject: line.subject.clone(), payload: line.bytes.clone().into() };
    let messages: Vec<BatchMessage> = appended.lines.iter().map(message).collect();
    let count = messages.len() as u64;
    match batches.publish(subjects::AUDIT, last, messages).await {
        Ok(stored) if stored == n => {
            AUDIT_RECORDS.add((), count);
            Ok(appended.head)
        }
        // The records hold their own numbers: at another place they would break the chain.
        Ok(_) | Err(BatchError::WrongLastSequence { .. }) => Err(AuditError::Fenced { n: last + 1 }),
        Err(BatchError::Bus(error)) => Err(error.into()),
        // Also where the stream took batches when the term began: the next term looks again.
        Err(error) => Err(AuditError::Refused { n: last + 1, reason: error_chain(&error) }),
    }
}

/// Stores a line as the message behind number `last`.
async fn publish_line(bus: &Bus, last: u64, line: AuditLine) -> Result<AuditHead, AuditError> {
    let n = line.head.n;
    let message = PublishMessage::build()
        .payload(line.bytes.into())
        .expected_stream(subjects::AUDIT)
        // One record at a time, and only behind the last: the broker compares sequences, not what lies under them.
        .expected_last_sequence(last);
    let sent = bus
        .context()
        .send_publish(line.subject, message)
        .await
        .map_err(|error| map_publish_error(n, &error))?;
    let ack = sent.await.map_err(|error| map_publish_error(n, &error))?;
    // The record holds its own number: at another place it would break the chain.
    if ack.sequence != n {
        return Err(AuditError::Fenced { n });
    }
    AUDIT_RECORDS.increment(());
    Ok(line.head)
}
fn map_publish_error(n: u64, error: &PublishError) -> AuditError {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => AuditError::Fenced { n },
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::MaxAckPending => nats::BusError::unavailable(error.to_string()).into(),
        _ => AuditError::Refused { n, reason: error_chain(error) },
    }
}
