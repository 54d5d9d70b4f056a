//! What each process says of itself on the bus, `log.<role>`: that it lives, what stands in its way, and what it logged. At most once: the
//! monitor that subscribes keeps it for a while, and nobody relies on it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often a process speaks at least, in seconds.
pub const PERIOD_S: u64 = 3;

/// Silence after which a process counts as gone, in seconds.
pub const SILENT_S: u64 = 9;

/// Most lines of a report.
pub const LINES_MAX: usize = 100;

/// Bytes of lines with which a report is full: the monitor takes twice as much.
pub const LINES_BYTES_MAX: usize = 256 * 1024;

/// Longest message of a line, and longest value of a field, in bytes.
pub const TEXT_BYTES_MAX: usize = 2_048;

/// Most fields of a line.
pub const FIELDS_MAX: usize = 24;

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProcessReport")]
pub struct ProcessReport {
    /// Names the process until it ends: 16 hexadecimal digits.
    pub instance: String,
    /// The role that it runs, or all of them in one process.
    pub roles: Vec<String>,
    /// Its version.
    pub version: String,
    /// Unix time in milliseconds at which it was started, by its own clock.
    pub started_at_ms: u64,
    /// What stands in its way; empty while it can do its work.
    pub causes: Vec<HealthCause>,
    /// What it logged since the last report, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines that were left out since it was started, since there were too many.
    pub dropped_lines: u64,
}

/// Why a process can't do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HealthCause")]
pub struct HealthCause {
    /// A stable code.
    pub code: String,
    /// What is wrong, for people.
    pub detail: String,
}

/// How bad a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LogSeverity")]
pub enum LogSeverity {
    /// Every step.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// What was done.
    Info,
    /// What somebody should know.
    Warn,
    /// What somebody should mend.
    Error,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LogLine")]
pub struct LogLine {
    /// Unix time in milliseconds, by the clock of the process.
    pub at_ms: u64,
    /// How bad it is.
    pub severity: LogSeverity,
    /// The module that logged it.
    pub target: String,
    /// What it says.
    pub message: String,
    /// What it says it of: its own fields and those of the requests and messages around it, by name (`request.id`, `trace_id`, `media.id`,
    /// `job.id`).
    pub fields: BTreeMap<String, String>,
}

impl LogLine {
    /// Bytes of its texts.
    pub fn size_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.len() + value.len());
        self.message.len() + self.target.len() + fields.sum::<usize>()
    }
}
