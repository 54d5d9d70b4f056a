//! Verifying: walks the whole log and recomputes the chain.

use nats::{Bus, Start};
use schemas::subjects;

use crate::{Error, Fault, Head};

/// What the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every record follows the one before.
    Sound {
        /// The end of the log, for comparing with what was noted elsewhere: a chain can't prove its own end.
        head: Head,
        /// Events that left EVENTS before they were audited, by the gaps in the source sequences.
        events_missing: u64,
    },
    /// A record does not follow the one before; nothing behind it was looked at.
    Broken {
        /// Number of the first bad record.
        n: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// Walks AUDIT as it is now. Needs memory for one record at a time.
///
/// # Errors
/// [`Error::Bus`] when the broker does not answer.
pub async fn verify(bus: &Bus) -> Result<Verdict, Error> {
    let filter = vec![subjects::AUDIT_ALL.to_owned()];
    let mut reader = bus.reader(nats::reader::Config::new(subjects::AUDIT, filter, Start::All)).await?;
    let mut head = Head::empty();
    let mut events_missing = 0;
    for _ in 0..reader.pending_at_start() {
        let entry = reader.next().await?;
        let next = match head.check(entry.sequence, &entry.subject, &entry.payload) {
            Ok(next) => next,
            Err(fault) => return Ok(Verdict::Broken { n: entry.sequence, fault }),
        };
        events_missing += next.source_sequence - head.source_sequence - 1;
        head = next;
    }
    Ok(Verdict::Sound { head, events_missing })
}
