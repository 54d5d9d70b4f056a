//! The end of the log: the last record, and messages behind it that are none.

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream};
use bytes::Bytes;
use nats::Bus;
use schemas::{
    audit::{AuditRecord, FIRST_PREV_HASH},
    subjects,
};

use crate::{
    AuditError, AuditHead, AuditLogVerifier,
    hash_chain::{ForeignMessages, sha256_hex},
    verify::FOREIGN_MAX,
};

/// A message of AUDIT.
struct AuditMessage {
    n: u64,
    subject: String,
    line: Bytes,
}

/// Reads the end of the log from the leader of AUDIT: the newest record that continues the one before it, whatever else was
/// published behind it.
///
/// # Errors
/// [`AuditError::Foreign`] when the last [`FOREIGN_MAX`] messages hold none; [`AuditError::Bus`] when the broker does not answer.
pub(crate) async fn read_tail(bus: &Bus) -> Result<(AuditHead, Option<ForeignMessages>), AuditError> {
    let stream =
        bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(nats::BusError::unavailable)?;
    let Some(last) = read_last_message(&stream).await? else { return Ok((AuditHead::empty(), None)) };
    let mut behind = vec![last];
    let anchor = loop {
        let Some(candidate) = behind.last() else { break AuditHead::empty() };
        if candidate.n <= 1 && !is_first_record(candidate) {
            break AuditHead::empty();
        }
        let before = if candidate.n > 1 { read_message(&stream, candidate.n - 1).await? } else { None };
        if let Some(head) = linked_head(candidate, before.as_ref()) {
            behind.pop();
            break head;
        }
        // Foreign messages may lie at the end; a bound keeps a start from reading the whole log backwards.
        let Some(before) = before.filter(|_| behind.len() <= FOREIGN_MAX) else {
            return Err(AuditError::Foreign { n: candidate.n });
        };
        behind.push(before);
    };
    let mut walk = AuditLogVerifier::from(anchor);
    for stored in behind.iter().rev() {
        walk.push_message(stored.n, &stored.subject, &stored.line)
            .map_err(|_| AuditError::Foreign { n: stored.n })?;
    }
    Ok(walk.into_tail())
}

/// The head that `stored` is, when it is a record that continues `before`.
fn linked_head(stored: &AuditMessage, before: Option<&AuditMessage>) -> Option<AuditHead> {
    let record: AuditRecord = serde_json::from_slice(&stored.line).ok()?;
    // Where the log was cut nobody can say more than that it is a record.
    let is_next = before.is_none_or(|before| record.prev_hash == sha256_hex(&before.line));
    let head = AuditHead::from_line(stored.n, &stored.line).ok()?;
    (record.n == stored.n && is_next && (stored.n > 1 || record.prev_hash == FIRST_PREV_HASH)).then_some(head)
}

fn is_first_record(stored: &AuditMessage) -> bool {
    linked_head(stored, None).is_some()
}

async fn read_last_message(stream: &Stream<()>) -> Result<Option<AuditMessage>, AuditError> {
    match stream.get_last_raw_message_by_subject(subjects::AUDIT_ALL).await {
        Ok(found) => Ok(Some(AuditMessage {
            n: found.sequence,
            subject: found.subject.to_string(),
            line: found.payload,
        })),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(nats::BusError::unavailable(error).into()),
    }
}

async fn read_message(stream: &Stream<()>, n: u64) -> Result<Option<AuditMessage>, AuditError> {
    match stream.get_raw_message(n).await {
        Ok(found) => Ok(Some(AuditMessage { n, subject: found.subject.to_string(), line: found.payload })),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(nats::BusError::unavailable(error).into()),
    }
}
