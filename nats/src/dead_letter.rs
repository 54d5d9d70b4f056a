//! Dead letters: storing, listing and reading them, and which had a second chance. Only the CLI reads them, as admin.

use std::collections::HashMap;

use async_nats::{
    HeaderMap,
    jetstream::message::{PublishMessage, StreamMessage},
};
use bytes::Bytes;
use schemas::{fault::error_chain, subjects};

use crate::{Bus, BusError, MessageDelivery, PublishOutcome, ReaderStart, StageFault, reader};

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

/// In place of a stage: marks that say which letters had a second chance. A letter itself never changes.
const REDRIVEN: &str = "redriven";

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
    /// Unix time in milliseconds at which it last had a second chance; `None` when it never had.
    pub redriven_at_ms: Option<u64>,
    /// The payload as it was.
    pub payload: Vec<u8>,
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
        redriven_at_ms: None,
        payload: payload.to_vec(),
    }
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

    /// The dead letters, oldest first, at most `count_max`.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn dead_letters(&self, count_max: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.dead_letters_matching(count_max, |_| true).await
    }

    /// The dead letters that `wanted` takes, oldest first, at most `count_max`.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn dead_letters_matching(
        &self,
        count_max: usize,
        wanted: impl Fn(&DeadLetter) -> bool,
    ) -> Result<Vec<DeadLetter>, BusError> {
        let marks = self.redrive_times().await?;
        let mut reader = self.open_dead_letter_reader(subjects::DEAD_ALL.to_owned()).await?;
        let mut letters = Vec::new();
        while letters.len() < count_max {
            let Some(entry) = reader.next_pending().await? else { break };
            let found = dead_letter_from_message(
                entry.sequence,
                &entry.subject,
                &entry.headers,
                &entry.payload,
                entry.stored_at_ms,
            );
            let found = DeadLetter { redriven_at_ms: marks.get(&entry.sequence).copied(), ..found };
            if found.stage != REDRIVEN && wanted(&found) {
                letters.push(found);
            }
        }
        Ok(letters)
    }

    /// When letters were last sent again, by their sequences.
    async fn redrive_times(&self) -> Result<HashMap<u64, u64>, BusError> {
        let mut reader = self.open_dead_letter_reader(subjects::dead_letter_filter(REDRIVEN)).await?;
        let mut marks = HashMap::new();
        while let Some(entry) = reader.next_pending().await? {
            let sequence = entry.headers.get_last(SEQUENCE).and_then(|value| value.as_str().parse().ok());
            if let Some(sequence) = sequence {
                marks.insert(sequence, entry.stored_at_ms);
            }
        }
        Ok(marks)
    }

    async fn open_dead_letter_reader(&self, filter: String) -> Result<reader::StreamReader, BusError> {
        self.open_reader(reader::ReaderConfig::new(subjects::DEAD, vec![filter], ReaderStart::All)).await
    }

    async fn raw_dead_letter(&self, sequence: u64) -> Result<StreamMessage, BusError> {
        let stream =
            self.context().get_stream_no_info(subjects::DEAD).await.map_err(BusError::unavailable)?;
        let refused = |reason| BusError::Refused { what: format!("dead letter {sequence}"), reason };
        let raw = stream.get_raw_message(sequence).await.map_err(|e| refused(error_chain(&e)))?;
        if stage_from_subject(&raw.subject) == REDRIVEN {
            return Err(refused("it only says that another one had a second chance".into()));
        }
        Ok(raw)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`BusError::Refused`] when there is none with that sequence.
    pub async fn dead_letter(&self, sequence: u64) -> Result<DeadLetter, BusError> {
        let raw = self.raw_dead_letter(sequence).await?;
        let at_ms = u64::try_from(raw.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let found = dead_letter_from_message(raw.sequence, &raw.subject, &raw.headers, &raw.payload, at_ms);
        Ok(DeadLetter { redriven_at_ms: self.redrive_times().await?.get(&sequence).copied(), ..found })
    }

    /// Remembers that a letter had its second chance now.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn record_redrive(&self, sequence: u64) -> Result<(), BusError> {
        let mut mark = HeaderMap::new();
        mark.insert(SEQUENCE, sequence.to_string().as_str());
        let subject = subjects::dead_letter_subject(REDRIVEN, subjects::DEAD, sequence);
        // The time makes it new: within the duplicate window a second redrive would be dropped as a repeat.
        let id = format!("redriven.{sequence}.{}", crate::now_ms());
        self.publish_raw(subjects::DEAD, &subject, &id, mark, Vec::new()).await?;
        Ok(())
    }
}
