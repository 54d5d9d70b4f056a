//! A schedule as people read it.
//!
//! Limits: [`UPCOMING_MAX`] of its next times are worked out.

use schemars::JsonSchema;
use schemas::{
    ids::ScheduleId,
    schedule::{JobRequest, MissedRunPolicy, ScheduleRecord, ScheduleRun, ScheduleTiming, open_job_request},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{firing::read_timing, has_ended};
use web::{error::Problem, json_document::JsonDocument};

/// Most next times that are shown.
const UPCOMING_MAX: usize = 5;

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ScheduleState")]
enum ScheduleState {
    /// It fires at its times.
    Active,
    /// A person paused it.
    Paused,
    /// It has no time left.
    Ended,
}

/// One schedule. Times are those of the broker.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ScheduleDocument", example = example_document())]
pub(super) struct ScheduleDocument {
    /// The schedule.
    schedule_id: ScheduleId,
    /// Whose it is: the owner of the medium when it was made.
    owner: String,
    /// The account that made it.
    created_by: String,
    /// What people call it; may be empty.
    name: String,
    /// Where it stands.
    state: ScheduleState,
    /// When it fires.
    timing: ScheduleTiming,
    /// What becomes of times that pass while no keeper runs.
    missed: MissedRunPolicy,
    /// What is done then.
    #[schemars(schema_with = "open_job_request")]
    job: JobRequest,
    /// Unix time in milliseconds at which it was made.
    created_at_ms: u64,
    /// Unix time in milliseconds at which a person paused it; null while it is not.
    paused_at_ms: Option<u64>,
    /// Unix times in milliseconds at which it fires next, at most five; none while it is paused.
    upcoming_at_ms: Vec<u64>,
    /// Its newest runs, the latest first, at most 20; the others are events.
    runs: Vec<ScheduleRun>,
}

impl ScheduleDocument {
    pub(super) fn new(record: ScheduleRecord) -> Self {
        let state = match record.paused_at_ms {
            Some(_) => ScheduleState::Paused,
            None if has_ended(&record) => ScheduleState::Ended,
            None => ScheduleState::Active,
        };
        let next_ms = record.next_run_at_ms.filter(|_| state == ScheduleState::Active);
        let timing = next_ms.and_then(|_| read_timing(&record));
        let after = |ms: &u64| timing.as_ref().and_then(|timing| timing.find_after(*ms));
        let upcoming_at_ms = std::iter::successors(next_ms, after).take(UPCOMING_MAX).collect();
        let mut runs = record.runs;
        runs.reverse();
        Self {
            schedule_id: record.schedule_id,
            owner: record.owner,
            created_by: record.created_by,
            name: record.name,
            state,
            timing: record.timing,
            missed: record.missed,
            job: record.job,
            created_at_ms: record.created_at_ms,
            paused_at_ms: record.paused_at_ms,
            upcoming_at_ms,
            runs,
        }
    }
}

/// The document with its tag.
pub(super) fn render(record: ScheduleRecord) -> Result<JsonDocument, Problem> {
    JsonDocument::new(&ScheduleDocument::new(record))
}

pub(super) fn example_request() -> Value {
    json!({
        "name": "Nightly", "timing": { "type": "cron", "expression": "30 2 * * *", "time_zone": "Europe/Berlin" }, "missed": "once",
        "job": { "kind": "transcode", "media_id": "06db00820dt0303jc5mn0r355k", "profile": "default", "priority": "p2" },
    })
}

fn example_document() -> Value {
    let mut document = example_request();
    let known = json!({
        "schedule_id": "06db00830ht0303jc5mn0r355k", "owner": "admin", "created_by": "admin", "state": "active",
        "created_at_ms": 1_763_900_814_467_u64, "paused_at_ms": null, "upcoming_at_ms": [1_763_947_800_000_u64, 1_764_034_200_000_u64],
        "runs": [{
            "planned_at_ms": 1_763_861_400_000_u64, "fired_at_ms": 1_763_861_400_040_u64, "trigger": "time", "state": "begun",
            "job_id": "06db008a0lt0303jc5mn0r355k",
        }],
    });
    if let (Value::Object(document), Value::Object(known)) = (&mut document, known) {
        document.extend(known);
    }
    document
}

pub(super) fn example_list() -> Value {
    json!({ "items": [example_document()], "limit": 1_000, "has_more": false })
}
