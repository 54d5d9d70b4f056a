//! What the live worker processes say of themselves: a record each in the bucket `workers`, which ends by itself when its writer does.
//!
//! The record is a hint for people. Who holds a part is decided by the part's own record alone.
//!
//! Limits: a record lists at most [`HELD_MAX`] parts, and a host name of at most [`HOST_CHARS_MAX`] characters; one that is not
//! renewed is over after [`RECORD_TTL_MS`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, ids::JobId, subjects};

/// Bucket of the records of live workers. Heartbeats are there, too: values without bytes below other names.
pub const BUCKET: &str = "workers";

/// How long a record counts, and lies in its bucket, unless its worker renews it, in milliseconds of the broker's time.
pub const RECORD_TTL_MS: u64 = 10_000;

/// Most parts that a record lists.
pub const HELD_MAX: usize = 256;

/// Longest host name that is shown, in characters; what is longer is cut.
pub const HOST_CHARS_MAX: usize = 64;

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes parts.
    Running,
    /// It takes no new parts until it is resumed, and goes on with those that it holds.
    Paused,
    /// It takes no new work, because it stops or is to be stopped once what it holds is over.
    Draining,
    /// A state that only newer versions know.
    #[serde(other)]
    Unknown,
}

/// A part that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldPart {
    /// The job.
    pub job_id: JobId,
    /// Name of the part: `v0000`, `a0`, `finish`.
    pub part: String,
    /// Unix time in milliseconds since which it is held, by the broker's time.
    pub since_ms: u64,
}

/// One live worker process in the bucket `workers`, key `<queue>.<worker>`. Only the worker itself writes it, without
/// compare-and-set; it has no events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerRecord {
    /// Random name of the process, lower-case hexadecimal: the one in the claims of its parts.
    pub worker: String,
    /// The queue that it works through, such as `transcode`.
    pub queue: String,
    /// Parts that it works on at once.
    pub slots: u32,
    /// What it holds, the longest held first; at most [`HELD_MAX`].
    pub held: Vec<HeldPart>,
    /// Where it stands.
    pub state: WorkerState,
    /// Its version, such as `1.0.0`.
    pub version: String,
    /// Version of the encoder options with which it makes parts; empty from workers that do not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options_version: String,
    /// How long it leaves jobs of other such versions to others, in milliseconds after they were made and after it began; then it
    /// ends them.
    #[serde(default)]
    pub other_version_wait_ms: u64,
    /// Name of its host, at most [`HOST_CHARS_MAX`] characters; empty when it is not known.
    pub host: String,
    /// Unix time in milliseconds at which it began, by the broker's time.
    pub started_at_ms: u64,
    /// Milliseconds of output that it made in each 1,000 milliseconds in which it worked on any, over the parts that ended in the
    /// last hour. Absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u64>,
}

impl crate::KvRecord for WorkerRecord {
    const BUCKET: &'static str = BUCKET;
    fn key(&self) -> String {
        subjects::worker_key(&self.queue, &self.worker)
    }
}

/// What a worker is asked to do; it may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerAction {
    /// Take no new parts, and go on with those that are held.
    Pause,
    /// Take parts again, also after `drain`.
    Resume,
    /// Take no new work: the worker can be stopped once it holds nothing.
    Drain,
    /// Something that only newer versions know; nothing is done.
    #[serde(other)]
    Unknown,
}

impl WorkerAction {
    /// Where a worker stands that has done it; `None` for what is not known.
    pub const fn wanted_state(self) -> Option<WorkerState> {
        match self {
            Self::Pause => Some(WorkerState::Paused),
            Self::Resume => Some(WorkerState::Running),
            Self::Drain => Some(WorkerState::Draining),
            Self::Unknown => None,
        }
    }
}

/// A request to one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerCommand {
    /// What to do.
    pub action: WorkerAction,
}

/// What a worker answers: one that is being stopped, or does not know the action, stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerCommandReply {
    /// Where it stands now.
    pub state: WorkerState,
}

/// `evt.admin.worker_changed`: somebody had a worker paused, resumed or drained; it has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminWorkerChanged {
    /// Name of the worker.
    pub worker: String,
    /// Where it stands now.
    pub state: WorkerState,
    /// The account of the person.
    pub changed_by: String,
}

impl BusEvent for AdminWorkerChanged {
    const ENTITY: &'static str = "admin";
    const VERB: &'static str = "worker_changed";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.worker.clone()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{WorkerAction, WorkerState};

    #[test]
    fn an_action_of_a_newer_version_is_read_and_wants_nothing() {
        let packed = rmp_serde::to_vec_named("hibernate").unwrap();
        let action = rmp_serde::from_slice::<WorkerAction>(&packed).unwrap();
        assert_eq!((action, action.wanted_state()), (WorkerAction::Unknown, None));
    }

    #[test]
    fn a_state_of_a_newer_version_is_read() {
        for (text, wanted) in [
            ("running", WorkerState::Running),
            ("paused", WorkerState::Paused),
            ("draining", WorkerState::Draining),
            ("hibernating", WorkerState::Unknown),
        ] {
            let packed = rmp_serde::to_vec_named(text).unwrap();
            assert_eq!(rmp_serde::from_slice::<WorkerState>(&packed).unwrap(), wanted, "{text}");
        }
    }
}
