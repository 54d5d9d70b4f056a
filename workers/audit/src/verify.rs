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

/// A walk over lines, from the first record on; wherever they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    head: Head,
    events_missing: u64,
}

impl Default for Walk {
    fn default() -> Self {
        Self { head: Head::empty(), events_missing: 0 }
    }
}

impl Walk {
    /// Number of the record that has to come next.
    pub const fn next_n(&self) -> u64 {
        self.head.n + 1
    }

    /// Takes the next record: its number, its subject, and its bytes as stored.
    ///
    /// # Errors
    /// [`Verdict::Broken`] when it does not follow the one before.
    pub fn step(&mut self, n: u64, subject: &str, line: &[u8]) -> Result<(), Verdict> {
        let next = self.head.check(n, subject, line).map_err(|fault| Verdict::Broken { n, fault })?;
        self.events_missing += next.source_sequence - self.head.source_sequence - 1;
        self.head = next;
        Ok(())
    }

    /// What the walk found when nothing broke it.
    pub fn end(self) -> Verdict {
        Verdict::Sound { head: self.head, events_missing: self.events_missing }
    }
}

/// Walks AUDIT as it is now. Needs memory for one record at a time.
///
/// # Errors
/// [`Error::Bus`] when the broker does not answer.
pub async fn verify(bus: &Bus) -> Result<Verdict, Error> {
    let filter = vec![subjects::AUDIT_ALL.to_owned()];
    let mut reader = bus.reader(nats::reader::Config::new(subjects::AUDIT, filter, Start::All)).await?;
    let mut walk = Walk::default();
    for _ in 0..reader.pending_at_start() {
        let entry = reader.next().await?;
        if let Err(broken) = walk.step(entry.sequence, &entry.subject, &entry.payload) {
            return Ok(broken);
        }
    }
    Ok(walk.end())
}
