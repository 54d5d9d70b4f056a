//! Verifying: walks the whole log, recomputes the chain and accounts for what the notes in it name.

use nats::{Bus, Start};
use schemas::{
    audit::{NOTE, Note, Range, Record},
    subjects,
};

use crate::{
    Error, Fault, Head,
    record::{Content, Foreign, content},
};

/// Messages in a row that a note may step over.
pub const FOREIGN_MAX: usize = 1_000;

/// What the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every record follows the one before, and notes account for whatever is not the next event.
    Sound {
        /// The end of the log, for comparing with what was noted elsewhere: a chain can't prove its own end.
        head: Head,
        /// Events that left EVENTS before they were audited, by the gaps in the source sequences.
        events_missing: u64,
        /// The notes, by number.
        notes: Vec<(u64, Note)>,
    },
    /// A record does not follow the one before, and no note accounts for it.
    Broken {
        /// Number of the first bad record.
        n: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// A walk over lines, from the first record on; wherever they come from.
///
/// Of records written before [`schemas::audit::Source::epoch`] was, it remembers 24 bytes each: such a log may hold events twice.
#[derive(Debug, Clone)]
pub struct Walk {
    head: Head,
    events_missing: u64,
    notes: Vec<(u64, Note)>,
    /// Source sequence and content of the records that could be repeated.
    known: Vec<(u64, Content)>,
    /// Records that repeat an earlier one, and no note names them yet.
    repeated: Vec<Range>,
    /// Messages that are no records, and no note steps over them yet.
    foreign: Option<Foreign>,
}

impl Default for Walk {
    fn default() -> Self {
        Self::from(Head::empty())
    }
}

impl From<Head> for Walk {
    /// Goes on behind a record that is known to be sound.
    fn from(head: Head) -> Self {
        Self {
            head,
            events_missing: 0,
            notes: Vec::new(),
            known: Vec::new(),
            repeated: Vec::new(),
            foreign: None,
        }
    }
}

impl Walk {
    /// Number of the record that has to come next.
    pub fn next_n(&self) -> u64 {
        self.foreign.as_ref().map_or(self.head.n, |foreign| foreign.to) + 1
    }

    /// Takes the next message: its number, its subject, and its bytes as stored.
    ///
    /// # Errors
    /// [`Verdict::Broken`] when nothing behind it can account for it any more.
    pub fn step(&mut self, n: u64, subject: &str, line: &[u8]) -> Result<(), Verdict> {
        if let Some(foreign) = &self.foreign {
            if let Some((head, note)) = foreign.note(&self.head, n, subject, line) {
                self.foreign = None;
                self.note(note);
                self.head = head;
                return Ok(());
            }
            return self.step_over(n, line, None);
        }
        match self.head.check(n, subject, line) {
            Ok((next, record)) => {
                self.take(next, &record);
                Ok(())
            }
            Err(fault) => match self.head.repeat(n, subject, line) {
                Some((next, record)) if self.is_known(&record) => {
                    self.repeat(n);
                    self.head = next;
                    Ok(())
                }
                _ => self.step_over(n, line, Some(fault)),
            },
        }
    }

    fn take(&mut self, next: Head, record: &Record) {
        if record.kind == NOTE {
            if let Ok(note) = serde_json::from_value(record.data.clone()) {
                self.note((next.n, note));
            }
        } else {
            self.events_missing += next.source_sequence - self.head.source_sequence - 1;
            if record.source.epoch.is_none() {
                self.known.push((record.source.sequence, content(record)));
            }
        }
        self.head = next;
    }

    fn note(&mut self, (n, note): (u64, Note)) {
        self.repeated.retain(|range| !note.repeated.contains(range));
        self.notes.push((n, note));
    }

    /// True when the log holds the same event already, in the same words.
    fn is_known(&self, record: &Record) -> bool {
        let found = self.known.binary_search_by_key(&record.source.sequence, |(sequence, _)| *sequence);
        found.is_ok_and(|at| self.known.get(at).is_some_and(|(_, known)| *known == content(record)))
    }

    fn repeat(&mut self, n: u64) {
        match self.repeated.last_mut() {
            Some(last) if last.to + 1 == n => last.to = n,
            _ => self.repeated.push(Range { from: n, to: n }),
        }
    }

    fn step_over(&mut self, n: u64, line: &[u8], fault: Option<Fault>) -> Result<(), Verdict> {
        let fault = fault.unwrap_or(Fault::Missing { from: n, to: n });
        let foreign = self.foreign.get_or_insert_with(|| Foreign::behind(&self.head, n, fault));
        foreign.take(n, line);
        if foreign.count > FOREIGN_MAX { Err(foreign.verdict()) } else { Ok(()) }
    }

    /// What no note names yet: records that repeat earlier ones.
    pub(crate) fn repeated(&self) -> &[Range] {
        &self.repeated
    }

    /// The head, and the messages behind it that are no records.
    pub(crate) fn tail(self) -> (Head, Option<Foreign>) {
        (self.head, self.foreign)
    }

    /// What the walk found when nothing broke it.
    pub fn end(self) -> Verdict {
        if let Some(foreign) = self.foreign {
            return foreign.verdict();
        }
        match self.repeated.first() {
            Some(range) => Verdict::Broken { n: range.from, fault: Fault::Repeated { range: *range } },
            None => {
                Verdict::Sound { head: self.head, events_missing: self.events_missing, notes: self.notes }
            }
        }
    }
}

/// Walks AUDIT as it is now.
///
/// # Errors
/// [`Error::Bus`] when the broker does not answer.
pub async fn verify(bus: &Bus) -> Result<Verdict, Error> {
    Ok(match walk(bus).await? {
        Ok(walk) => walk.end(),
        Err(broken) => broken,
    })
}

/// The whole walk up to the last record there is at its start; the verdict when it ended before.
pub(crate) async fn walk(bus: &Bus) -> Result<Result<Walk, Verdict>, Error> {
    let filter = vec![subjects::AUDIT_ALL.to_owned()];
    let mut reader = bus.reader(nats::reader::Config::new(subjects::AUDIT, filter, Start::All)).await?;
    // By the leader of the stream: the server that reads may be behind it.
    let last = reader.opened().await?.last_sequence;
    let mut walk = Walk::default();
    let mut at = 0;
    while at < last {
        let entry = reader.next().await?;
        at = entry.sequence;
        if let Err(broken) = walk.step(entry.sequence, &entry.subject, &entry.payload) {
            return Ok(Err(broken));
        }
    }
    Ok(Ok(walk))
}
