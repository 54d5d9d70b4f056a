//! The end of the log: the last record, and messages behind it that are none.

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream};
use bytes::Bytes;
use nats::Bus;
use schemas::{
    audit::{FIRST_PREV_HASH, Record},
    subjects,
};

use crate::{
    Error, Head, Walk,
    record::{Foreign, digest},
    verify::FOREIGN_MAX,
};

/// A message of AUDIT.
struct Stored {
    n: u64,
    subject: String,
    line: Bytes,
}

/// Reads the end of the log from the leader of AUDIT: the newest record that continues the one before it, whatever else was
/// published behind it.
///
/// # Errors
/// [`Error::Foreign`] when the last [`FOREIGN_MAX`] messages hold none; [`Error::Bus`] when the broker does not answer.
pub(crate) async fn tail(bus: &Bus) -> Result<(Head, Option<Foreign>), Error> {
    let stream = bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(nats::Error::unavailable)?;
    let Some(last) = last(&stream).await? else { return Ok((Head::empty(), None)) };
    let mut behind = vec![last];
    let anchor = loop {
        let Some(candidate) = behind.last() else { break Head::empty() };
        if candidate.n <= 1 && !begins(candidate) {
            break Head::empty();
        }
        let before = if candidate.n > 1 { message(&stream, candidate.n - 1).await? } else { None };
        if let Some(head) = linked(candidate, before.as_ref()) {
            behind.pop();
            break head;
        }
        let Some(before) = before.filter(|_| behind.len() <= FOREIGN_MAX) else {
            return Err(Error::Foreign { n: candidate.n });
        };
        behind.push(before);
    };
    let mut walk = Walk::from(anchor);
    for stored in behind.iter().rev() {
        walk.step(stored.n, &stored.subject, &stored.line).map_err(|_| Error::Foreign { n: stored.n })?;
    }
    Ok(walk.tail())
}

/// The head that `stored` is, when it is a record that continues `before`.
fn linked(stored: &Stored, before: Option<&Stored>) -> Option<Head> {
    let record: Record = serde_json::from_slice(&stored.line).ok()?;
    // Where the log was cut nobody can say more than that it is a record.
    let is_next = before.is_none_or(|before| record.prev_hash == digest(&before.line));
    let head = Head::at(stored.n, &stored.line).ok()?;
    (record.n == stored.n && is_next && (stored.n > 1 || record.prev_hash == FIRST_PREV_HASH)).then_some(head)
}

fn begins(stored: &Stored) -> bool {
    linked(stored, None).is_some()
}

async fn last(stream: &Stream<()>) -> Result<Option<Stored>, Error> {
    match stream.get_last_raw_message_by_subject(subjects::AUDIT_ALL).await {
        Ok(found) => {
            Ok(Some(Stored { n: found.sequence, subject: found.subject.to_string(), line: found.payload }))
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(nats::Error::unavailable(error).into()),
    }
}

async fn message(stream: &Stream<()>, n: u64) -> Result<Option<Stored>, Error> {
    match stream.get_raw_message(n).await {
        Ok(found) => Ok(Some(Stored { n, subject: found.subject.to_string(), line: found.payload })),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(nats::Error::unavailable(error).into()),
    }
}
