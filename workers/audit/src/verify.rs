//! Verifying: walks the whole log, recomputes the chain and accounts for what the notes in it name.

use nats::{Bus, ReaderStart};
use schemas::{
    audit::{AuditNote, AuditRange, AuditRecord, NOTE},
    subjects,
};

use crate::{
    AuditError, AuditFault, AuditHead,
    hash_chain::{ForeignMessages, RecordContentDigest, digest_content},
};

/// Messages in a row that a note may step over.
pub const FOREIGN_MAX: usize = 1_000;

/// What the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditLogStatus {
    /// Every record follows the one before, and notes account for whatever is not the next event.
    Sound {
        /// The end of the log, for comparing with what was noted elsewhere: a chain can't prove its own end.
        head: AuditHead,
        /// Events that left EVENTS before they were audited, by the gaps in the source sequences.
        events_missing: u64,
        /// The notes, by number.
        notes: Vec<(u64, AuditNote)>,
    },
    /// A record does not follow the one before, and no note accounts for it.
    Broken {
        /// Number of the first bad record.
        n: u64,
        /// What is wrong with it.
        fault: AuditFault,
    },
}

/// A walk over lines, from the first record on; wherever they come from.
///
/// Of records written before [`schemas::audit::AuditSource::epoch`] was, it remembers 24 bytes each: such a log may hold events
/// twice.
#[derive(Debug, Clone)]
pub struct AuditLogVerifier {
    head: AuditHead,
    events_missing: u64,
    notes: Vec<(u64, AuditNote)>,
    /// Source sequence and content of the records that could be repeated.
    known: Vec<(u64, RecordContentDigest)>,
    /// Records that repeat an earlier one, and no note names them yet.
    repeated: Vec<AuditRange>,
    /// Messages that are no records, and no note steps over them yet.
    foreign: Option<ForeignMessages>,
}

impl Default for AuditLogVerifier {
    fn default() -> Self {
        Self::from(AuditHead::empty())
    }
}

impl From<AuditHead> for AuditLogVerifier {
    /// Goes on behind a record that is known to be sound.
    fn from(head: AuditHead) -> Self {
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

impl AuditLogVerifier {
    /// Number of the record that has to come next.
    pub fn next_n(&self) -> u64 {
        self.foreign.as_ref().map_or(self.head.n, |foreign| foreign.to) + 1
    }

    /// Takes the next message: its number, its subject, and its bytes as stored.
    ///
    /// # Errors
    /// [`AuditLogStatus::Broken`] when nothing behind it can account for it any more.
    pub fn push_message(&mut self, n: u64, subject: &str, line: &[u8]) -> Result<(), AuditLogStatus> {
        if let Some(foreign) = &self.foreign {
            if let Some((head, note)) = foreign.match_note(&self.head, n, subject, line) {
                self.foreign = None;
                self.accept_note(note);
                self.head = head;
                return Ok(());
            }
            return self.skip_message(n, line, None);
        }
        match self.head.check_line(n, subject, line) {
            Ok((next, record)) => {
                self.accept_record(next, &record);
                Ok(())
            }
            Err(fault) => match self.head.parse_repeated(n, subject, line) {
                Some((next, record)) if self.is_duplicate(&record) => {
                    self.mark_repeated(n);
                    self.head = next;
                    Ok(())
                }
                _ => self.skip_message(n, line, Some(fault)),
            },
        }
    }

    fn accept_record(&mut self, next: AuditHead, record: &AuditRecord) {
        if record.kind == NOTE {
            if let Ok(note) = serde_json::from_value(record.data.clone()) {
                self.accept_note((next.n, note));
            }
        } else {
            self.events_missing += next.source_sequence - self.head.source_sequence - 1;
            if record.source.epoch.is_none() {
                self.known.push((record.source.sequence, digest_content(record)));
            }
        }
        self.head = next;
    }

    fn accept_note(&mut self, (n, note): (u64, AuditNote)) {
        self.repeated.retain(|range| !note.repeated.contains(range));
        self.notes.push((n, note));
    }

    /// True when the log holds the same event already, in the same words.
    fn is_duplicate(&self, record: &AuditRecord) -> bool {
        let found = self.known.binary_search_by_key(&record.source.sequence, |(sequence, _)| *sequence);
        found.is_ok_and(|at| self.known.get(at).is_some_and(|(_, known)| *known == digest_content(record)))
    }

    fn mark_repeated(&mut self, n: u64) {
        match self.repeated.last_mut() {
            Some(last) if last.to + 1 == n => last.to = n,
            _ => self.repeated.push(AuditRange { from: n, to: n }),
        }
    }

    fn skip_message(&mut self, n: u64, line: &[u8], fault: Option<AuditFault>) -> Result<(), AuditLogStatus> {
        let fault = fault.unwrap_or(AuditFault::Missing { from: n, to: n });
        let foreign = self.foreign.get_or_insert_with(|| ForeignMessages::after_head(&self.head, n, fault));
        foreign.add_message(n, line);
        if foreign.count > FOREIGN_MAX { Err(foreign.broken_status()) } else { Ok(()) }
    }

    /// What no note names yet: records that repeat earlier ones.
    pub(crate) fn repeated_ranges(&self) -> &[AuditRange] {
        &self.repeated
    }

    /// The head, and the messages behind it that are no records.
    pub(crate) fn into_tail(self) -> (AuditHead, Option<ForeignMessages>) {
        (self.head, self.foreign)
    }

    /// What the walk found when nothing broke it.
    pub fn finish(self) -> AuditLogStatus {
        if let Some(foreign) = self.foreign {
            return foreign.broken_status();
        }
        match self.repeated.first() {
            Some(range) => {
                AuditLogStatus::Broken { n: range.from, fault: AuditFault::Repeated { range: *range } }
            }
            None => AuditLogStatus::Sound {
                head: self.head,
                events_missing: self.events_missing,
                notes: self.notes,
            },
        }
    }
}

/// Walks AUDIT as it is now.
///
/// # Errors
/// [`AuditError::Bus`] when the broker does not answer.
pub async fn verify_log(bus: &Bus) -> Result<AuditLogStatus, AuditError> {
    Ok(match scan_log(bus).await? {
        Ok(walk) => walk.finish(),
        Err(broken) => broken,
    })
}

/// The whole walk up to the last record there is at its start; the verdict when it ended before.
pub(crate) async fn scan_log(bus: &Bus) -> Result<Result<AuditLogVerifier, AuditLogStatus>, AuditError> {
    let filter = vec![subjects::AUDIT_ALL.to_owned()];
    let mut reader =
        bus.open_reader(nats::reader::ReaderConfig::new(subjects::AUDIT, filter, ReaderStart::All)).await?;
    // By the leader of the stream: the server that reads may be behind it.
    let last = reader.wait_until_open().await?.last_sequence;
    let mut walk = AuditLogVerifier::default();
    let mut at = 0;
    while at < last {
        let entry = reader.next().await?;
        at = entry.sequence;
        if let Err(broken) = walk.push_message(entry.sequence, &entry.subject, &entry.payload) {
            return Ok(Err(broken));
        }
    }
    Ok(Ok(walk))
}
