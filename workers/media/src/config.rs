//! Settings of the driver: where the child is and what it may use.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::MediaLimits;

/// Least memory of a child, in bytes: with less it does not even load its libraries.
const CHILD_MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Least [`MediaDriverConfig::threads_max`]: an encode has a thread for each of up to 16 rungs, and those of its decoder beside them.
const THREADS_MIN: u32 = 24;

/// How children are started and what each may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MediaDriverConfig {
    /// The `streamgate-media` program; by default the file of that name beside the running program.
    pub child_path: Option<PathBuf>,
    /// Children alive at once; further tasks wait.
    pub children_max: usize,
    /// Memory of all children together, in bytes; absent for half of what this machine, or its container, has. Each child is
    /// started once its own limit fits.
    #[schemars(range(min = CHILD_MEMORY_BYTES_MIN))]
    pub memory_bytes_max: Option<u64>,
    /// Address space of one child that encodes or takes stills, in bytes (`RLIMIT_AS`).
    #[schemars(range(min = CHILD_MEMORY_BYTES_MIN))]
    pub child_memory_bytes_max: u64,
    /// Address space of one child that probes or encodes sound, in bytes (`RLIMIT_AS`).
    #[schemars(range(min = CHILD_MEMORY_BYTES_MIN))]
    pub probe_memory_bytes_max: u64,
    /// Threads of one child; one that starts more is killed.
    #[schemars(range(min = THREADS_MIN))]
    pub threads_max: u32,
    /// CPU time of one child over all its threads, in seconds (`RLIMIT_CPU`).
    pub cpu_seconds_max: u64,
    /// Time without progress after which a child is killed, in seconds; waiting for the source or for the taker of the
    /// output does not count.
    pub wall_seconds_without_progress_max: u64,
    /// Longest time that any task may take, in seconds, however steady its progress.
    pub wall_seconds_max: u64,
    /// Most segments and images that one task may produce, in bytes.
    pub output_bytes_max: u64,
    /// How much one task may read, as a multiple of the size of its source (plus 256 MiB).
    pub read_amplification_max: u64,
    /// Work even where neither seccomp nor landlock is available. Only for machines that isolate by other means.
    pub unsandboxed: bool,
    /// What a media file may contain.
    pub limits: MediaLimits,
}

impl Default for MediaDriverConfig {
    fn default() -> Self {
        Self {
            child_path: None,
            children_max: 8,
            memory_bytes_max: None,
            child_memory_bytes_max: 2 << 30,
            probe_memory_bytes_max: 1 << 30,
            threads_max: 128,
            cpu_seconds_max: 24 * 3600,
            wall_seconds_without_progress_max: 60,
            wall_seconds_max: 24 * 3600,
            output_bytes_max: 64 << 30,
            read_amplification_max: 16,
            unsandboxed: false,
            limits: MediaLimits::default(),
        }
    }
}
