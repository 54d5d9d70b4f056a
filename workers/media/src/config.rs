//! Settings of the driver: where the child is and what it may use.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::Limits;

/// How children are started and what each may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The `streamgate-media` program; by default the file of that name beside the running program.
    pub child_path: Option<PathBuf>,
    /// Children alive at once; further tasks wait.
    pub children_max: usize,
    /// Address space of one child, in bytes (`RLIMIT_AS`).
    pub memory_bytes_max: u64,
    /// CPU seconds of one child over all its threads (`RLIMIT_CPU`).
    pub cpu_seconds_max: u64,
    /// A child that makes no progress for this long is killed; waiting for the source or for the taker of the
    /// output does not count.
    pub wall_seconds_without_progress_max: u64,
    /// Seconds that any task may take, however steady its progress.
    pub wall_seconds_max: u64,
    /// Bytes of segments and images that one task may produce.
    pub output_bytes_max: u64,
    /// Bytes that one task may read, as a multiple of the size of its source (plus 256 MiB).
    pub read_amplification_max: u64,
    /// Work even where neither seccomp nor landlock is available. Only for machines that isolate by other means.
    pub unsandboxed: bool,
    /// What a media file may contain.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            child_path: None,
            children_max: 8,
            memory_bytes_max: 4 << 30,
            cpu_seconds_max: 24 * 3600,
            wall_seconds_without_progress_max: 60,
            wall_seconds_max: 24 * 3600,
            output_bytes_max: 64 << 30,
            read_amplification_max: 16,
            unsandboxed: false,
            limits: Limits::default(),
        }
    }
}
