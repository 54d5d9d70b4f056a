//! Questions to the monitor and its answers, over core request/reply: subject `ask.monitor.<verb>`, MessagePack both ways. Any monitor
//! answers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::process_report::{HealthCause, LogLine, LogSeverity};

/// Verb: which processes there are.
pub const PROCESSES: &str = "processes";
/// Verb: what they logged.
pub const LOGS: &str = "logs";
/// Verb: what they count.
pub const METRICS: &str = "metrics";

/// Verb: what was logged, as the monitor of that name has it.
pub fn logs_of_verb(monitor: &str) -> String {
    format!("{LOGS}-{monitor}")
}

/// Largest question in bytes.
pub const QUESTION_BYTES_MAX: usize = 4_096;

/// Most lines of an answer.
pub const LINES_MAX: u32 = 500;

/// Most families of an answer.
pub const FAMILIES_MAX: u32 = 50;

/// Which processes are there?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProcessQuery")]
pub struct ProcessQuery {}

/// Processes that were seen within an hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProcessList")]
pub struct ProcessList {
    /// By role and instance.
    pub processes: Vec<SeenProcess>,
    /// Processes for which there was no place.
    pub omitted_count: u64,
    /// How long the monitor that answers has listened, in milliseconds: what was silent before is not known to it.
    pub listening_ms: u64,
}

/// A process as the monitor saw it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SeenProcess")]
pub struct SeenProcess {
    /// Names the process until it ends.
    pub instance: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// Its version.
    pub version: String,
    /// Unix time in milliseconds at which it was started, by its own clock.
    pub started_at_ms: u64,
    /// How long ago it spoke last, in milliseconds.
    pub silent_ms: u64,
    /// What stood in its way then.
    pub causes: Vec<HealthCause>,
    /// Lines of its log that were left out, since there were too many.
    pub dropped_lines: u64,
}

/// What was logged?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LogQuery")]
pub struct LogQuery {
    /// Only lines behind this number; the newest ones where there is none.
    #[serde(default)]
    pub behind: Option<u64>,
    /// Only lines at least that bad.
    #[serde(default)]
    pub severity_min: Option<LogSeverity>,
    /// Only of processes with this role.
    #[serde(default)]
    pub role: Option<String>,
    /// Only of this process.
    #[serde(default)]
    pub instance: Option<String>,
    /// Only of modules whose name begins so.
    #[serde(default)]
    pub target: Option<String>,
    /// Only lines that say all of this.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Most lines.
    pub limit: u32,
}

/// Lines, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LogPage")]
pub struct LogPage {
    /// The lines.
    pub lines: Vec<KeptLine>,
    /// Number of the last line that was looked at: what is behind it is new. Numbers are those of the monitor that answers, see
    /// `monitor`.
    pub last: u64,
    /// Names the monitor that answers: another one has other numbers.
    pub monitor: String,
    /// Lines that went before they were asked for, since there was no room.
    pub lost: u64,
}

/// A line that the monitor keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "KeptLine")]
pub struct KeptLine {
    /// Its number, which grows.
    pub number: u64,
    /// The role under which the process speaks.
    pub role: String,
    /// The process.
    pub instance: String,
    /// What it logged.
    pub line: LogLine,
}

/// What is counted?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MetricQuery")]
pub struct MetricQuery {
    /// Only families whose name begins so.
    #[serde(default)]
    pub prefix: String,
    /// Only families behind this name.
    #[serde(default)]
    pub behind: String,
    /// Most families.
    pub limit: u32,
}

/// Families, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MetricPage")]
pub struct MetricPage {
    /// The families.
    pub families: Vec<MetricFamilyView>,
    /// Name of the last family, where more follow.
    #[serde(default)]
    pub next: Option<String>,
}

/// A family of metrics with its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MetricFamily")]
pub struct MetricFamilyView {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it counts.
    pub help: String,
    /// Its samples; at most so many that an answer fits, see `omitted_samples`.
    pub samples: Vec<MetricSampleView>,
    /// Samples that were left out.
    pub omitted_samples: u64,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MetricSample")]
pub struct MetricSampleView {
    /// The name of the family, with `_total`, `_bucket`, `_sum` or `_count` where it has one.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value as it is written: what is infinite or no number has no other form in JSON.
    pub value: String,
}
