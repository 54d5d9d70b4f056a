//! Settings of the index.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::search::SearchConfig;

/// Most [`IndexConfig::answer_bytes_max`], in bytes: the broker takes 1 MiB, and the last item of a page may go beyond the limit.
const ANSWER_BYTES_CEILING: u64 = 768 * 1024;

/// Limits and places of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    /// Folder of the projection; only one process may have it open, and nothing else belongs in it.
    pub folder: PathBuf,
    /// Memory for pages of the database, in bytes.
    pub cache_bytes_max: u64,
    /// Most KV entries written in one transaction.
    pub batch_entries_max: usize,
    /// Most questions answered at once; more are refused as `index_busy`.
    pub questions_in_flight_max: usize,
    /// Longest wait for a revision that a question names, in milliseconds.
    pub revision_wait_ms_max: u64,
    /// Size of the items of a page at which it ends early, in bytes; an answer must fit into the broker's `max_payload`.
    #[schemars(range(max = ANSWER_BYTES_CEILING))]
    pub answer_bytes_max: usize,
    /// Memory for pages of the index of events by medium and job, in bytes.
    pub history_cache_bytes_max: u64,
    /// The full text search of media.
    pub search: SearchConfig,
    /// The consume loop.
    pub consume: nats::consume::ConsumeConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("data/index"),
            cache_bytes_max: 64 * 1024 * 1024,
            batch_entries_max: 256,
            questions_in_flight_max: 64,
            revision_wait_ms_max: 2_000,
            answer_bytes_max: 512 * 1024,
            history_cache_bytes_max: 16 * 1024 * 1024,
            search: SearchConfig::default(),
            consume: nats::consume::ConsumeConfig::default(),
        }
    }
}
