//! Settings of the search.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Least memory of the writer in bytes: a little more than what the library asks for.
const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Most memory of the writer in bytes.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Limits of the full text search of media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Memory for documents that are being written, in bytes; reading takes pages of the file system.
    #[schemars(range(min = MEMORY_BYTES_MIN, max = MEMORY_BYTES_MAX))]
    pub memory_bytes_max: usize,
    /// How long a change waits at most until it is written and can be found, in milliseconds.
    #[schemars(range(min = 10, max = 10_000))]
    pub commit_ms: u64,
    /// So many changed media are written at once without waiting.
    #[schemars(range(min = 1, max = 100_000))]
    pub commit_media_max: usize,
    /// The same while the search is built or catches up: fewer and larger writes.
    #[schemars(range(min = 1, max = 100_000))]
    pub rebuild_media_max: usize,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: 32 * 1024 * 1024,
            commit_ms: 150,
            commit_media_max: 500,
            rebuild_media_max: 10_000,
        }
    }
}
