//! Where the store is and how much it may hold in memory.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Smallest part size S3 accepts for all parts but the last, in bytes (AWS docs, "Amazon S3 multipart upload limits").
pub const PART_BYTES_FLOOR: u64 = 5 * MIB;

/// Largest part that S3 accepts, in bytes (AWS docs, "Amazon S3 multipart upload limits").
pub(crate) const PART_BYTES_CEILING: u64 = 5 * 1024 * MIB;

/// Least memory for all uploads of a process, in bytes: what a connection delivers at once has to fit, or no upload goes on.
const IN_FLIGHT_BYTES_FLOOR: u64 = MIB;

/// Most parts one upload may have; S3 allows 10 000, the rest is headroom for rounding.
pub const PARTS_MAX: u64 = 9_000;

pub(crate) const MIB: u64 = 1024 * 1024;

/// Settings of [`crate::Store`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `file:///folder`, `s3://bucket[/prefix]`, `gs://bucket[/prefix]` or `az://container[/prefix]`.
    pub url: String,
    /// Options of the remote store by `object_store` name (`aws_endpoint`, `aws_access_key_id`, ...); they win over the
    /// environment. May hold secrets.
    pub options: BTreeMap<String, String>,
    /// Longest time one request to a remote store may take beside that for its bytes, in milliseconds.
    pub request_timeout_ms: u64,
    /// Slowest rate at which the bytes of one request may pass, in bytes per second: its time grows with them.
    pub rate_bytes_per_s_min: u64,
    /// Longest time a failed request is repeated, in milliseconds.
    pub retry_timeout_ms: u64,
    /// Most repeats of one failed request.
    pub retries_max: usize,
    /// Longest time a marker that was seen in a remote store stands for one that is there, in milliseconds.
    pub marker_ms: u64,
    /// Smallest multipart part, in bytes; grows with the length so that 9 000 parts suffice. An upload that is joined of equal ones may
    /// have smaller parts, and ones of up to twice the size.
    #[schemars(range(min = PART_BYTES_FLOOR, max = PART_BYTES_CEILING))]
    pub part_bytes_min: u64,
    /// Most parts of one upload on their way to a remote store at the same time.
    pub parts_in_flight_max: usize,
    /// How much is collected before one write to the local spool, in bytes.
    pub batch_bytes: usize,
    /// Size at which a group of writes to the local spool is made durable, in bytes.
    pub group_bytes: u64,
    /// Longest time written bytes stay without being durable in a local spool, in milliseconds.
    pub group_interval_ms: u64,
    /// Shortest time between two tail objects of a running upload to a remote store, in milliseconds.
    pub tail_interval_ms: u64,
    /// How much of all uploads of this process may be in memory at once, in bytes.
    #[schemars(range(min = IN_FLIGHT_BYTES_FLOOR))]
    pub in_flight_bytes_max: usize,
    /// Longest time an upload waits for room in memory, in milliseconds.
    pub in_flight_wait_ms: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "file:///var/lib/streamgate/store".to_owned(),
            options: BTreeMap::new(),
            request_timeout_ms: 30_000,
            rate_bytes_per_s_min: 128 * 1024,
            retry_timeout_ms: 10_000,
            retries_max: 3,
            marker_ms: 5_000,
            part_bytes_min: 16 * MIB,
            parts_in_flight_max: 3,
            batch_bytes: 128 * 1024,
            group_bytes: 16 * MIB,
            group_interval_ms: 1_000,
            tail_interval_ms: 15_000,
            in_flight_bytes_max: 512 * 1024 * 1024,
            in_flight_wait_ms: 10_000,
        }
    }
}

impl StoreConfig {
    /// The defaults at another place.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Refuses an address or an option that no store has. Connects to nothing; whether credentials suffice only a request can say.
    ///
    /// # Errors
    /// Which setting below `store`, and what is wrong; values are not repeated, since they may be secrets.
    pub fn check(&self) -> Result<(), (String, String)> {
        crate::backend::check_address(&self.url).map_err(|reason| ("url".to_owned(), reason))?;
        self.options.keys().try_for_each(|name| {
            crate::backend::check_option(&self.url, name)
                .map_err(|reason| (format!("options.{name}"), reason))
        })
    }

    /// Longest time of a request that moves so many bytes.
    pub(crate) fn request_deadline(&self, size_bytes: u64) -> Duration {
        let moving_ms = size_bytes.saturating_mul(1_000) / self.rate_bytes_per_s_min.max(1);
        Duration::from_millis(self.request_timeout_ms.saturating_add(moving_ms))
    }

    pub(crate) fn retry_timeout(&self) -> Duration {
        Duration::from_millis(self.retry_timeout_ms)
    }

    pub(crate) fn marker_ttl(&self) -> Duration {
        Duration::from_millis(self.marker_ms)
    }

    pub(crate) fn group_interval(&self) -> Duration {
        Duration::from_millis(self.group_interval_ms)
    }

    pub(crate) fn tail_interval(&self) -> Duration {
        Duration::from_millis(self.tail_interval_ms)
    }

    pub(crate) fn in_flight_wait(&self) -> Duration {
        Duration::from_millis(self.in_flight_wait_ms)
    }

    /// Most bytes that the writer of an upload may have taken before they are durable, for an upload that may become
    /// `length_bytes` long.
    pub fn unrecorded_bytes_max(&self, is_local: bool, length_bytes: u64) -> u64 {
        let pending = if is_local {
            // Groups written and not yet synced, a batch being written and one filling.
            let batch = u64::try_from(self.batch_bytes).unwrap_or(u64::MAX);
            self.group_bytes.saturating_mul(6).saturating_add(batch.saturating_mul(2))
        } else {
            // Parts on their way, one being filled, one done and not yet reported.
            let parts = u64::try_from(self.parts_in_flight_max).unwrap_or(u64::MAX).saturating_add(2);
            self.part_bytes(length_bytes).saturating_mul(parts)
        };
        // One frame of a body more.
        pending.saturating_add(2 * MIB)
    }

    /// Size of every part but the last of an upload that may become `length_bytes` long.
    pub fn part_bytes(&self, length_bytes: u64) -> u64 {
        let needed = length_bytes.div_ceil(PARTS_MAX).div_ceil(MIB) * MIB;
        needed.max(self.part_bytes_min)
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option_names: Vec<&String> = self.options.keys().collect();
        f.debug_struct("StoreConfig")
            .field("url", &self.url)
            .field("option_names", &option_names)
            .finish_non_exhaustive()
    }
}
