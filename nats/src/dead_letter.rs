//! Dead letters: storing, listing and reading them, and what people did about them. A letter itself never changes.
//!
//! Limits: a page looks at no more than [`SCANNED_LETTERS_MAX`] letters and marks of letters, beside all marks there are: one for each
//! change that a person made within the time for which letters are kept.

use std::collections::HashMap;

use async_nats::{
    HeaderMap,
    jetstream::{
        message::{PublishMessage, StreamMessage},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use schemas::subjects;
use spans::TraceContext;

use crate::{Bus, BusError, MessageDelivery, PublishOutcome, ReaderStart, StageFault, event_context, reader};

/// Header: subject the message was published to.
pub const SUBJECT: &str = "sg-dead-subject";
/// Header: stream it lay in.
pub const STREAM: &str = "sg-dead-stream";
/// Header: its sequence there.
pub const SEQUENCE: &str = "sg-dead-sequence";
/// Header: stable code of the last fault.
pub const CODE: &str = "sg-dead-code";
/// Header: the last fault for people.
pub const REASON: &str = "sg-dead-reason";
/// Header: tries before it was given up.
pub const ATTEMPTS: &str = "sg-dead-attempts";

/// Letters and marks that one page looks at before it ends, also when few of them are wanted.
pub const SCANNED_LETTERS_MAX: usize = 10_000;

/// What people do about a letter. Marks say so, which lie in the stream of the letters with this in place of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LetterMark {
    /// It had a second chance.
    Redriven,
    /// Nothing is to be done about it.
    Discarded,
}

impl LetterMark {
    const ALL: [Self; 2] = [Self::Redriven, Self::Discarded];

    const fn token(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }
}

/// What lies in the stream of dead letters, by its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadSubject<'a> {
    /// A letter of a stage.
    Letter {
        /// The stage.
        stage: &'a str,
    },
    /// Something was done about a letter.
    Mark {
        /// What.
        mark: LetterMark,
        /// The stage of that letter.
        stage: &'a str,
        /// Its sequence.
        sequence: u64,
    },
}

impl<'a> DeadSubject<'a> {
    /// Reads a subject; a mark that names no letter is one of letter 0, which there is not.
    pub fn parse(subject: &'a str) -> Self {
        let stage = stage_from_subject(subject);
        let Some(mark) = LetterMark::ALL.into_iter().find(|mark| mark.token() == stage) else {
            return Self::Letter { stage };
        };
        let (stage, sequence) =
            subject.splitn(3, '.').nth(2).and_then(|id| id.rsplit_once('-')).unwrap_or_default();
        Self::Mark { mark, stage, sequence: sequence.parse().unwrap_or(0) }
    }
}

/// Some dead letters, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// Those that are wanted.
    pub letters: Vec<DeadLetter>,
    /// Sequence behind which there may be more; `None` at the end.
    pub next_after: Option<u64>,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence in DEAD, the name people use for it.
    pub sequence: u64,
    /// Stage that gave it up.
    pub stage: String,
    /// Subject it was published to.
    pub subject: String,
    /// Stream it lay in.
    pub stream: String,
    /// Stable code of the last fault.
    pub code: String,
    /// The last fault for people.
    pub reason: String,
    /// Tries before it was given up.
    pub attempts: String,
    /// Unix time in milliseconds at which it was given up.
    pub buried_at_ms: u64,
    /// What was done about it last, and the Unix time in milliseconds of that; `None` while it waits for somebody.
    pub mark: Option<(LetterMark, u64)>,
    /// The payload as it was.
    pub payload: Vec<u8>,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

fn dead_letter_from_message(
    sequence: u64,
    subject: &str,
    headers: &HeaderMap,
    payload: &[u8],
    buried_at_ms: u64,
) -> DeadLetter {
    let text = |name: &str| headers.get_last(name).map(ToString::to_string).unwrap_or_default();
    DeadLetter {
        sequence,
        stage: stage_from_subject(subject).to_owned(),
        subject: text(SUBJECT),
        stream: text(STREAM),
        code: text(CODE),
        reason: text(REASON),
        attempts: text(ATTEMPTS),
        buried_at_ms,
        mark: None,
        payload: payload.to_vec(),
        trace: event_context(&text(schemas::headers::TRACE_PARENT), &text(schemas::headers::ID)),
    }
}

/// Unix time in milliseconds at which the broker stored a message.
fn stored_at_ms(raw: &StreamMessage) -> u64 {
    u64::try_from(raw.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

fn stage_from_subject(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Headers of a dead letter: the original ones plus where it came from and why it lies there.
fn dead_letter_headers(delivery: &MessageDelivery, fault: &StageFault) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &delivery.headers {
        // The broker would obey them: an expectation, an id or a time to live of the original would apply to the
        // letter.
        if !name.starts_with("Nats-") {
            headers.insert(name.as_str(), value.as_str());
        }
    }
    // A line break ends a header on the wire.
    let one_line: String = fault.describe().chars().filter(|c| !c.is_control()).take(1_000).collect();
    let attempts = fault.attempt.unwrap_or(1);
    headers.insert(SUBJECT, delivery.subject.as_str());
    headers.insert(STREAM, delivery.stream.as_str());
    headers.insert(SEQUENCE, delivery.sequence.to_string().as_str());
    headers.insert(CODE, fault.code);
    headers.insert(REASON, one_line.as_str());
    headers.insert(ATTEMPTS, attempts.to_string().as_str());
    headers
}

impl Bus {
    /// Stores the letter of a message that `stage` gives up. Its subject names stage, stream and sequence and may hold one
    /// letter, so a repeat is known, and stages that give up the same message have a letter each.
    pub(crate) async fn store_dead_letter(
        &self,
        stage: &str,
        delivery: &MessageDelivery,
        fault: &StageFault,
        payload: &Bytes,
    ) -> Result<PublishOutcome, BusError> {
        let MessageDelivery { stream, sequence, .. } = delivery;
        let message = PublishMessage::build()
            .payload(payload.clone())
            .headers(dead_letter_headers(delivery, fault))
            .message_id(format!("dead.{stage}.{stream}.{sequence}"))
            .expected_stream(subjects::DEAD)
            .expected_last_subject_sequence(0);
        self.publish_message(
            subjects::DEAD,
            &subjects::dead_letter_subject(stage, stream, *sequence),
            message,
        )
        .await
    }

    /// The dead letters behind `after` that `wanted` takes, oldest first, at most `count_max`.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn dead_letters(
        &self,
        after: u64,
        count_max: usize,
        wanted: impl Fn(&DeadLetter) -> bool,
    ) -> Result<DeadLetterPage, BusError> {
        let marks = self.letter_marks().await?;
        let start = ReaderStart::Sequence(after.saturating_add(1));
        let mut reader = self.open_dead_letter_reader(vec![subjects::DEAD_ALL.to_owned()], start).await?;
        let (mut letters, mut scanned, mut next_after) = (Vec::new(), 0, None);
        while let Some(entry) = reader.next_pending().await? {
            if letters.len() >= count_max || scanned >= SCANNED_LETTERS_MAX {
                return Ok(DeadLetterPage { letters, next_after });
            }
            next_after = Some(entry.sequence);
            scanned += 1;
            if let DeadSubject::Mark { .. } = DeadSubject::parse(&entry.subject) {
                continue;
            }
            let found = dead_letter_from_message(
                entry.sequence,
                &entry.subject,
                &entry.headers,
                &entry.payload,
                entry.stored_at_ms,
            );
            let found = DeadLetter { mark: marks.get(&entry.sequence).copied(), ..found };
            if wanted(&found) {
                letters.push(found);
            }
        }
        Ok(DeadLetterPage { letters, next_after: None })
    }

    /// What was done about letters last, by their sequences.
    async fn letter_marks(&self) -> Result<HashMap<u64, (LetterMark, u64)>, BusError> {
        let filters = LetterMark::ALL.map(|mark| subjects::dead_letter_filter(mark.token())).to_vec();
        let mut reader = self.open_dead_letter_reader(filters, ReaderStart::All).await?;
        let mut marks = HashMap::new();
        while let Some(entry) = reader.next_pending().await? {
            if let DeadSubject::Mark { mark, sequence, .. } = DeadSubject::parse(&entry.subject) {
                marks.insert(sequence, (mark, entry.stored_at_ms));
            }
        }
        Ok(marks)
    }

    async fn open_dead_letter_reader(
        &self,
        filters: Vec<String>,
        start: ReaderStart,
    ) -> Result<reader::StreamReader, BusError> {
        self.open_reader(reader::ReaderConfig::new(subjects::DEAD, filters, start)).await
    }

    /// One dead letter; `None` when there is none with that sequence.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn dead_letter(&self, sequence: u64) -> Result<Option<DeadLetter>, BusError> {
        // The broker takes 0 for no sequence at all.
        if sequence == 0 {
            return Ok(None);
        }
        let stream = self.stream_handle(subjects::DEAD).await?;
        let raw = match stream.get_raw_message(sequence).await {
            Ok(raw) => raw,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(BusError::unavailable(error)),
        };
        if let DeadSubject::Mark { .. } = DeadSubject::parse(&raw.subject) {
            return Ok(None);
        }
        let at_ms = stored_at_ms(&raw);
        let found = dead_letter_from_message(raw.sequence, &raw.subject, &raw.headers, &raw.payload, at_ms);
        let mark = self.letter_mark(&stream, &found).await?;
        Ok(Some(DeadLetter { mark, ..found }))
    }

    /// What was done about one letter last.
    async fn letter_mark(
        &self,
        stream: &Stream<()>,
        letter: &DeadLetter,
    ) -> Result<Option<(LetterMark, u64)>, BusError> {
        let mut last = None;
        for mark in LetterMark::ALL {
            let subject = subjects::dead_letter_subject(mark.token(), &letter.stage, letter.sequence);
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(raw) => last = last.max(Some((raw.sequence, mark, stored_at_ms(&raw)))),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(BusError::unavailable(error)),
            }
        }
        Ok(last.map(|(_, mark, at_ms)| (mark, at_ms)))
    }

    /// Remembers what was done about a letter now.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn mark_dead_letter(&self, letter: &DeadLetter, mark: LetterMark) -> Result<(), BusError> {
        let DeadLetter { sequence, stage, .. } = letter;
        let subject = subjects::dead_letter_subject(mark.token(), stage, *sequence);
        // The time makes it new: within the duplicate window a second mark would be dropped as a repeat.
        let id = format!("{}.{sequence}.{}", mark.token(), crate::now_ms());
        self.publish_raw(subjects::DEAD, &subject, &id, HeaderMap::new(), Vec::new()).await?;
        Ok(())
    }
}
