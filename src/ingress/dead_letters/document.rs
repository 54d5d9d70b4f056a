//! Dead letters as operators see them.

use data_encoding::BASE64;
use nats::dead_letter::{DeadLetter, LetterMark};
use schemars::JsonSchema;
use schemas::ids::{JobId, MediaId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::redrive::RedriveOutcome;

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DeadLetterState")]
pub enum DeadLetterState {
    /// Nobody did anything about it yet.
    Waiting,
    /// It had a second chance. What fails again is another letter.
    Redriven,
    /// Somebody says that nothing is to be done about it.
    Discarded,
}

impl DeadLetterState {
    /// Where `letter` stands.
    pub const fn of(letter: &DeadLetter) -> Self {
        match letter.mark {
            None => Self::Waiting,
            Some((LetterMark::Redriven, _)) => Self::Redriven,
            Some((LetterMark::Discarded, _)) => Self::Discarded,
        }
    }
}

/// A message that a stage gave up.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct DeadLetterDocument {
    /// The name of the letter.
    sequence: u64,
    /// The stage that gave it up, such as `transcode`.
    stage: String,
    /// Where it stands.
    state: DeadLetterState,
    /// Subject of the message.
    subject: String,
    /// Stream in which it lay.
    stream: String,
    /// Why it was given up: a stable code.
    code: String,
    /// The same for people.
    reason: String,
    /// Tries before that; null when it is not known.
    attempts: Option<u64>,
    /// Unix time in milliseconds at which it was given up.
    given_up_at_ms: u64,
    /// Unix time in milliseconds at which something was done about it; null while it waits.
    changed_at_ms: Option<u64>,
    /// Size of the message in bytes.
    payload_bytes: usize,
}

impl DeadLetterDocument {
    /// `letter` without its message.
    pub fn new(letter: &DeadLetter) -> Self {
        Self {
            sequence: letter.sequence,
            stage: letter.stage.clone(),
            state: DeadLetterState::of(letter),
            subject: letter.subject.clone(),
            stream: letter.stream.clone(),
            code: letter.code.clone(),
            reason: letter.reason.clone(),
            attempts: letter.attempts.parse().ok(),
            given_up_at_ms: letter.buried_at_ms,
            changed_at_ms: letter.mark.map(|(_, at_ms)| at_ms),
            payload_bytes: letter.payload.len(),
        }
    }
}

fn example_letter() -> Value {
    json!({
        "sequence": 17, "stage": "transcode", "state": "waiting", "subject": "job.transcode.p1.06db008a0lt0303jc5mn0r355k.v0001",
        "stream": "JOBS", "code": "crashed", "reason": "the media child crashed", "attempts": 5, "given_up_at_ms": 1_763_900_814_467_u64,
        "changed_at_ms": null, "payload_bytes": 61,
    })
}

/// Some dead letters.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterList", example = json!({ "items": [example_letter()], "next_after": null }))]
pub(super) struct DeadLetterList {
    /// Oldest first.
    pub(super) items: Vec<DeadLetterDocument>,
    /// `after` of the next page; null at the end.
    pub(super) next_after: Option<u64>,
}

fn example_detail() -> Value {
    let mut detail = example_letter();
    detail["payload"] = json!({ "job_id": "06db008a0lt0303jc5mn0r355k", "part": "v0001" });
    detail
}

/// A dead letter with its message.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterDetail", example = example_detail())]
pub struct DeadLetterDetail {
    /// The letter.
    #[serde(flatten)]
    letter: DeadLetterDocument,
    /// The message; absent when it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    /// Its bytes, when it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl DeadLetterDetail {
    /// `letter` with its message.
    pub fn new(letter: &DeadLetter) -> Self {
        let payload = nats::decode_message::<Value>(&letter.subject, &letter.payload).ok();
        let payload_base64 = payload.is_none().then(|| BASE64.encode(&letter.payload));
        Self { letter: DeadLetterDocument::new(letter), payload, payload_base64 }
    }
}

/// What a second chance came to.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RedriveResult")]
enum RedriveResult {
    /// Its medium begins a new attempt.
    Reopened,
    /// A part that was put aside is let in again, or its job is tried again as another one.
    Resumed,
    /// Nothing was to be done: `reason` says why.
    Superseded,
}

/// A letter that had its second chance.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterRedriven", example = json!({
    "sequence": 17, "result": "reopened", "media_id": "06db00820dt0303jc5mn0r355k", "attempt": 2,
}))]
pub struct RedrivenDocument {
    /// The letter.
    sequence: u64,
    /// What came of it.
    result: Option<RedriveResult>,
    /// The medium that is taken up again.
    #[serde(skip_serializing_if = "Option::is_none")]
    media_id: Option<MediaId>,
    /// Which attempt of the medium begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// The job whose part is let in again, or that is another try.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// That part.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    /// Why nothing was to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl RedrivenDocument {
    /// What became of letter `sequence`.
    pub fn new(sequence: u64, outcome: RedriveOutcome) -> Self {
        let none = Self { sequence, ..Self::default() };
        match outcome {
            RedriveOutcome::Reopened { media_id, attempt } => Self {
                result: Some(RedriveResult::Reopened),
                media_id: Some(media_id),
                attempt: Some(attempt),
                ..none
            },
            RedriveOutcome::Resumed { job_id, part } => {
                Self { result: Some(RedriveResult::Resumed), job_id: Some(job_id), part: Some(part), ..none }
            }
            RedriveOutcome::Retried { job_id } => {
                Self { result: Some(RedriveResult::Resumed), job_id: Some(job_id), ..none }
            }
            RedriveOutcome::Superseded { reason } => {
                Self { result: Some(RedriveResult::Superseded), reason: Some(reason), ..none }
            }
        }
    }
}
