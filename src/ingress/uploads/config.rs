//! Settings of uploads; every limit is here.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quotas::QuotaConfig;

/// Settings of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UploadConfig {
    /// Largest upload, in bytes (`Tus-Max-Size`).
    pub size_bytes_max: u64,
    /// Longest `Upload-Metadata` header, in bytes.
    pub metadata_bytes_max: usize,
    /// Most open uploads of one owner.
    pub open_per_owner_max: usize,
    /// Time after its last byte at which an open upload is removed, in seconds.
    pub expiry_s: u64,
    /// Longest silence inside one request, in milliseconds; its prefix is kept.
    pub idle_timeout_ms: u64,
    /// Slowest average over one idle time-out, in bytes per second.
    pub rate_bytes_per_s_min: u64,
    /// How often a running request looks at its timers, in milliseconds.
    pub tick_ms: u64,
    /// Longest wait for another request to let go of an upload, in milliseconds.
    pub takeover_ms: u64,
    /// Longest time HEAD waits for the completion of a full upload, which goes on after it, in milliseconds.
    pub finish_wait_ms: u64,
    /// Longest time a displaced request spends on saving its last bytes, in milliseconds.
    pub release_ms: u64,
    /// True when clients that ask for them get interim responses (104, over HTTP/1.1); some proxies take those for the answer.
    pub interim_responses: bool,
    /// How much is read and dropped after an early refusal, in bytes, so that the client reads the answer.
    pub drain_bytes_max: u64,
    /// Longest time spent on reading after an early refusal, in milliseconds.
    pub drain_ms: u64,
    /// How long an upload that ended is kept, in milliseconds; set by `retention.ended_ms`.
    #[serde(skip)]
    pub ended_kept_ms: u64,
    /// Networks from which media are fetched besides public ones; set by `outbound.allow`.
    #[serde(skip)]
    pub fetch_networks: Vec<IpNet>,
    /// How much each owner may bring; set by `ingress.quotas`.
    #[serde(skip)]
    pub quotas: QuotaConfig,
    /// Room that must stay free on the disk of a local store, in bytes, however small it is; below it no upload is opened.
    pub free_bytes_min: u64,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            size_bytes_max: 128 * 1024 * 1024 * 1024,
            metadata_bytes_max: 8 * 1024,
            open_per_owner_max: 1_000,
            expiry_s: 24 * 3600,
            idle_timeout_ms: 60_000,
            rate_bytes_per_s_min: 16,
            tick_ms: 1_000,
            takeover_ms: 200,
            finish_wait_ms: 2_000,
            release_ms: 120,
            interim_responses: true,
            drain_bytes_max: 1024 * 1024,
            drain_ms: 500,
            ended_kept_ms: schemas::ENDED_KEPT_MS,
            fetch_networks: Vec::new(),
            quotas: QuotaConfig::default(),
            free_bytes_min: 16 * 1024 * 1024,
        }
    }
}

impl UploadConfig {
    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(super) fn tick_interval(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(1))
    }

    pub(super) fn takeover_timeout(&self) -> Duration {
        Duration::from_millis(self.takeover_ms)
    }

    pub(super) fn finish_timeout(&self) -> Duration {
        Duration::from_millis(self.finish_wait_ms)
    }

    pub(super) fn release_timeout(&self) -> Duration {
        Duration::from_millis(self.release_ms)
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    pub(crate) fn expires_at_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.expiry_s.saturating_mul(1000))
    }
}
