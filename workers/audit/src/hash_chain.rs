//! The pure core: an event becomes a line, a line is checked against the one before.

use std::{borrow::Cow, fmt, io::Cursor};

use data_encoding::{BASE64, HEXLOWER};
use nats::reader::StreamEntry;
use schemas::{
    audit::{AuditNote, AuditRange, AuditRecord, AuditSource, FIRST_PREV_HASH, NOTE},
    headers, subjects,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{AuditError, AuditLogStatus};

/// Deepest nesting of a payload that is shown as JSON; deeper ones are kept as base64.
const DEPTH_MAX: usize = 64;

/// The end of the log: what the next record has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the last record; 0 for an empty log.
    pub n: u64,
    /// SHA-256 in lower-case hex over its bytes.
    pub hash: String,
    /// Sequence in EVENTS of the newest event in the log; 0 for an empty log.
    pub source_sequence: u64,
    /// The life of EVENTS that this sequence is of; `None` in a log from before it was written down.
    pub epoch: Option<String>,
}

impl AuditHead {
    /// The head of an empty log.
    pub fn empty() -> Self {
        Self { n: 0, hash: FIRST_PREV_HASH.into(), source_sequence: 0, epoch: None }
    }

    /// The head of a log that ends with `line`, stored as number `n`.
    ///
    /// # Errors
    /// [`AuditError::Malformed`] when the line is no record.
    pub fn from_line(n: u64, line: &[u8]) -> Result<Self, AuditError> {
        let record: AuditRecord =
            serde_json::from_slice(line).map_err(|source| AuditError::Malformed { n, source })?;
        Ok(Self::from_record(n, line, &record))
    }

    fn from_record(n: u64, line: &[u8], record: &AuditRecord) -> Self {
        let AuditSource { sequence, epoch, .. } = &record.source;
        Self { n, hash: sha256_hex(line), source_sequence: *sequence, epoch: epoch.clone() }
    }

    /// The line that records `event` behind this head, and the head it leads to.
    pub(crate) fn event_line(
        &self,
        event: &StreamEntry,
        line_bytes_max: usize,
    ) -> Result<AuditLine, AuditError> {
        let mut record = self.build_record(event);
        let mut bytes = encode_record(&record)?;
        if bytes.len() > line_bytes_max {
            record.data = serde_json::json!({
                "sha256": sha256_hex(&event.payload),
                "size_bytes": event.payload.len(),
            });
            bytes = encode_record(&record)?;
        }
        Ok(AuditLine::new(bytes, &record))
    }

    /// The line that says why what lies before it is not just the next event; `foreign` is what it steps over.
    pub(crate) fn note_line(
        &self,
        note: &AuditNote,
        foreign: Option<&ForeignMessages>,
        now_ms: u64,
    ) -> Result<AuditLine, AuditError> {
        let n = foreign.map_or(self.n, |foreign| foreign.to) + 1;
        let time = format_timestamp(now_ms);
        let record = AuditRecord {
            n,
            source: AuditSource {
                stream: subjects::AUDIT.into(),
                sequence: self.source_sequence,
                id: String::new(),
                epoch: self.epoch.clone(),
            },
            time: time.clone(),
            stored_at: time,
            kind: NOTE.into(),
            subject: audit_subject(NOTE),
            entity_id: String::new(),
            owner: None,
            media_id: None,
            job_id: None,
            trace_id: None,
            data: serde_json::to_value(note).map_err(|source| AuditError::Unencodable { n, source })?,
            prev_hash: foreign.map_or_else(|| self.hash.clone(), ForeignMessages::hash),
        };
        Ok(AuditLine::new(encode_record(&record)?, &record))
    }

    fn build_record(&self, event: &StreamEntry) -> AuditRecord {
        let text = |name: &str| event.headers.get_last(name).map(|value| value.as_str().to_owned());
        let (entity, verb, id) =
            subjects::parse_event_subject(&event.subject).unwrap_or(("unknown", "unknown", ""));
        let stored_at = format_timestamp(event.stored_at_ms);
        AuditRecord {
            n: self.n + 1,
            source: AuditSource {
                stream: subjects::EVENTS.into(),
                sequence: event.sequence,
                id: text(headers::ID).or_else(|| text("Nats-Msg-Id")).unwrap_or_default(),
                epoch: self.epoch.clone(),
            },
            time: text(headers::TIME).unwrap_or_else(|| stored_at.clone()),
            stored_at,
            kind: format!("{entity}.{verb}"),
            subject: event.subject.clone(),
            entity_id: id.to_owned(),
            owner: text(headers::OWNER),
            media_id: text(headers::MEDIA_ID),
            job_id: text(headers::JOB_ID),
            trace_id: trace_id(event),
            data: msgpack_to_json(&event.payload),
            prev_hash: self.hash.clone(),
        }
    }

    /// Checks that `line`, stored under `subject` as number `n`, follows this head; answers the head it leads to, and the record.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check_line(&self, n: u64, subject: &str, line: &[u8]) -> Result<(Self, AuditRecord), AuditFault> {
        let record = self.parse_chained(n, subject, line)?;
        let (before, found) = (self.source_sequence, record.source.sequence);
        // A note is about no event: it stands at the newest one.
        if if is_note(&record) { found == before } else { found > before } {
            Ok((Self::from_record(n, line, &record), record))
        } else {
            Err(AuditFault::Order { before, found })
        }
    }

    /// The head behind a record of an event that is not newer than the newest, and that record.
    pub(crate) fn parse_repeated(&self, n: u64, subject: &str, line: &[u8]) -> Option<(Self, AuditRecord)> {
        let record = self.parse_chained(n, subject, line).ok().filter(|record| !is_note(record))?;
        let head = Self { source_sequence: self.source_sequence, ..Self::from_record(n, line, &record) };
        Some((head, record))
    }

    fn parse_chained(&self, n: u64, subject: &str, line: &[u8]) -> Result<AuditRecord, AuditFault> {
        let expected = self.n + 1;
        if n != expected {
            return Err(AuditFault::Missing { from: expected, to: n.saturating_sub(1) });
        }
        let record: AuditRecord =
            serde_json::from_slice(line).map_err(|e| AuditFault::NoRecord { reason: e.to_string() })?;
        if record.n != n {
            return Err(AuditFault::Number { found: record.n });
        }
        if record.prev_hash != self.hash {
            return Err(AuditFault::Chain { expected: self.hash.clone(), found: record.prev_hash });
        }
        if subject != audit_subject(&record.kind) {
            return Err(AuditFault::Subject { found: subject.to_owned() });
        }
        Ok(record)
    }
}

fn trace_id(event: &StreamEntry) -> Option<String> {
    let text = |name: &str| event.headers.get_last(name).map(async_nats::HeaderValue::as_str);
    let id = text(headers::ID).or_else(|| text("Nats-Msg-Id")).unwrap_or_default();
    nats::event_context(text(headers::TRACE_PARENT)?, id).map(|context| context.trace_id_text())
}

fn is_note(record: &AuditRecord) -> bool {
    record.kind == NOTE && record.source.stream == subjects::AUDIT
}

fn audit_subject(kind: &str) -> String {
    let (entity, verb) = kind.split_once('.').unwrap_or(("unknown", "unknown"));
    subjects::audit_subject(entity, verb)
}

fn encode_record(record: &AuditRecord) -> Result<Vec<u8>, AuditError> {
    serde_json::to_vec(record).map_err(|source| AuditError::Unencodable { n: record.n, source })
}

/// Digest of what a record says of its event, wherever in the log it says it.
pub(crate) type RecordContentDigest = [u8; 16];

/// The content of a record.
pub(crate) fn digest_content(record: &AuditRecord) -> RecordContentDigest {
    let mut plain = AuditRecord { n: 0, prev_hash: String::new(), ..record.clone() };
    plain.source.epoch = None;
    plain.trace_id = None;
    // Nothing in a record that was read can fail to be written.
    let digest = Sha256::digest(serde_json::to_vec(&plain).unwrap_or_default());
    let mut content = RecordContentDigest::default();
    content.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    content
}

/// Messages in the log that are no records of it, behind its last one.
#[derive(Debug, Clone)]
pub(crate) struct ForeignMessages {
    /// Number of the first one.
    pub(crate) from: u64,
    /// Number of the last one.
    pub(crate) to: u64,
    /// How many were taken.
    pub(crate) count: usize,
    fault: AuditFault,
    bytes: Sha256,
}

impl ForeignMessages {
    /// None yet; the first will be number `n`, and is none because of `fault`.
    pub(crate) fn after_head(head: &AuditHead, n: u64, fault: AuditFault) -> Self {
        let mut bytes = Sha256::new();
        bytes.update(&head.hash);
        Self { from: n, to: n, count: 0, fault, bytes }
    }

    /// Takes the bytes of one; over HTTP a message may come as several lines.
    pub(crate) fn add_message(&mut self, n: u64, message: &[u8]) {
        for line in message.split(|byte| *byte == b'\n') {
            self.bytes.update(line.strip_suffix(b"\r").unwrap_or(line));
            self.bytes.update(b"\n");
        }
        self.to = self.to.max(n);
        self.count += 1;
    }

    /// SHA-256 in lower-case hex over the hash of the last record and the bytes of all that lie behind it: `prev_hash` of the note
    /// that steps over them.
    pub(crate) fn hash(&self) -> String {
        HEXLOWER.encode(&self.bytes.clone().finalize())
    }

    /// What a note says of them.
    pub(crate) fn skip_note(&self) -> AuditNote {
        let reason = "these messages are no records of the audit log".into();
        AuditNote { reason, skipped: Some(AuditRange { from: self.from, to: self.to }), repeated: Vec::new() }
    }

    /// The head and the note when `line` is the note that steps over exactly them.
    pub(crate) fn match_note(
        &self,
        head: &AuditHead,
        n: u64,
        subject: &str,
        line: &[u8],
    ) -> Option<(AuditHead, (u64, AuditNote))> {
        let behind = AuditHead { n: n.checked_sub(1)?, hash: self.hash(), ..head.clone() };
        let (next, record) = behind.check_line(n, subject, line).ok()?;
        let note: AuditNote = serde_json::from_value(record.data).ok()?;
        let range = note.skipped?;
        (record.kind == NOTE && range.from == head.n + 1 && range.to + 1 == n).then_some((next, (n, note)))
    }

    pub(crate) fn broken_status(&self) -> AuditLogStatus {
        AuditLogStatus::Broken { n: self.from, fault: self.fault.clone() }
    }
}

/// A line ready to be appended.
#[derive(Debug, Clone)]
pub(crate) struct AuditLine {
    /// Where it is published.
    pub(crate) subject: String,
    /// Its bytes, as they will be stored, hashed and replayed.
    pub(crate) bytes: Vec<u8>,
    /// The head once it is stored.
    pub(crate) head: AuditHead,
}

impl AuditLine {
    fn new(bytes: Vec<u8>, record: &AuditRecord) -> Self {
        let head = AuditHead::from_record(record.n, &bytes, record);
        Self { subject: audit_subject(&record.kind), bytes, head }
    }
}

/// Why a record does not follow the one before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// Records are missing.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// First missing number.
        from: u64,
        /// Last missing number.
        to: u64,
    },
    /// The bytes are no audit record.
    #[error("the bytes are no audit record: {reason}")]
    NoRecord {
        /// Why.
        reason: String,
    },
    /// The record names another number.
    #[error("the record says it is number {found}")]
    Number {
        /// The number it names.
        found: u64,
    },
    /// The record was not written behind the bytes that are before it now.
    #[error("prev_hash is {found}, but the record before hashes to {expected}")]
    Chain {
        /// SHA-256 of the record before.
        expected: String,
        /// What the record names.
        found: String,
    },
    /// The record holds an event that is not newer than the one before.
    #[error("source sequence {found} does not come after {before}")]
    Order {
        /// Source sequence of the record before.
        before: u64,
        /// Source sequence of this one.
        found: u64,
    },
    /// Records repeat earlier ones, word for word, and no note says so.
    #[error("records {} to {} repeat earlier ones, and no note says so: the audit stage adds one at its next start", range.from, range.to)]
    Repeated {
        /// Their numbers.
        range: AuditRange,
    },
    /// The record lies under a subject that is not its type's.
    #[error("the record lies under the subject {found}")]
    Subject {
        /// Where it lies.
        found: String,
    },
}

/// SHA-256 in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn format_timestamp(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// MessagePack as JSON; bytes become base64 text.
fn msgpack_to_json(payload: &[u8]) -> Value {
    let mut reader = rmp_serde::Deserializer::new(Cursor::new(payload));
    reader.set_max_depth(DEPTH_MAX);
    match MsgpackJson::deserialize(&mut reader) {
        // Bytes behind the value would be missing from the log.
        Ok(MsgpackJson(value)) if usize::try_from(reader.position()).ok() == Some(payload.len()) => value,
        _ => serde_json::json!({ "undecodable_base64": BASE64.encode(payload) }),
    }
}

/// Any MessagePack value. Not `serde_json::Value` itself, because that refuses bytes and keys that are no text.
struct MsgpackJson(Value);

impl<'de> Deserialize<'de> for MsgpackJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MsgpackJsonVisitor).map(Self)
    }
}

struct MsgpackJsonVisitor;

impl<'de> Visitor<'de> for MsgpackJsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any MessagePack value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(BASE64.encode(value).into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(MsgpackJson(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = serde_json::Map::new();
        while let Some((MsgpackJson(key), MsgpackJson(value))) = access.next_entry()? {
            let key: Cow<'_, str> = match &key {
                Value::String(text) => text.into(),
                other => other.to_string().into(),
            };
            values.insert(key.into_owned(), value);
        }
        Ok(Value::Object(values))
    }
}
