//! Questions to the dispatcher and its answers, over core request/reply: subject `ask.dispatch.<verb>`, MessagePack both ways. The
//! keeper that lets parts into the queue answers; nobody does when there is none.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ids::JobId, job::JobQueue};

/// Verb: where a job of a queue stands. Each queue has a dispatcher of its own.
pub const fn position_verb(queue: JobQueue) -> &'static str {
    match queue {
        JobQueue::Transcode => "position",
        JobQueue::Tasks => "tasks_position",
    }
}

/// Largest question in bytes.
pub const QUESTION_BYTES_MAX: usize = 1_024;

/// Where does a job stand?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DispatchPositionQuery")]
pub struct DispatchPositionQuery {
    /// The job.
    pub job_id: JobId,
}

/// Where a job stands among those whose parts are let into the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DispatchPosition")]
pub struct DispatchPosition {
    /// True when parts of it wait for a turn.
    pub is_waiting: bool,
    /// Parts of it that lie in the queue or are worked on.
    pub queued_parts: u32,
    /// Parts of it that somebody has to resume.
    pub parked_parts: u32,
    /// Parts of it that are tried again later, since they lost workers.
    #[serde(default)]
    pub delayed_parts: u32,
    /// Unix time in milliseconds at which the first of those is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
    /// True when it waits for workers that make the bytes its other parts are made of.
    #[serde(default)]
    pub lacks_version: bool,
    /// Jobs of the same owner and priority that go first; at most 10,000 are counted.
    pub own_jobs_ahead: u32,
    /// Owners with something that waits at its priority, its own among them; 0 when nothing waits.
    pub owners_waiting: u32,
    /// Jobs that wait, of everybody.
    pub jobs_waiting: u32,
    /// Parts of all jobs that lie in the queue or are worked on.
    pub queue_parts: u32,
    /// Parts that the queue takes.
    pub queue_parts_max: u32,
    /// Workers that showed themselves lately.
    pub workers: u32,
    /// Parts that those workers run at once.
    pub slots: u32,
    /// Parts that are estimated to be let in before its next one.
    pub parts_ahead: u64,
    /// Parts that were let in a minute, lately; absent before there were some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts_per_minute: Option<u32>,
    /// Most parts of its owner at once, where it waits since there are as many; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_parts_max: Option<u32>,
}
