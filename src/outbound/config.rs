//! Limits of requests to addresses that users give, units in the names.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of requests to addresses that users give: media that are fetched or exported, and webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// Networks that are reached besides public ones, such as `10.0.0.0/8`. Users can have anything there asked that answers to HTTP.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Longest time for a connection, with the look-up of the name and TLS, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time from a request to the head of its answer, with the connection, in milliseconds; for each redirect anew.
    pub head_timeout_ms: u64,
    /// Longest silence inside an answer, and longest time in which a host takes no more of a file that is sent to it, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Longest time of a request with its redirects, what is sent and the whole answer, in milliseconds.
    pub total_time_ms_max: u64,
    /// Largest body of an answer, in bytes, counted as it arrives; uploads have a limit of their own, `ingress.uploads.size_max`.
    pub body_bytes_max: u64,
    /// Most redirects that are followed; 0 for none.
    #[schemars(range(min = 0, max = 20))]
    pub redirects_max: u32,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            connect_timeout_ms: 10_000,
            head_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            total_time_ms_max: 12 * 3_600_000,
            body_bytes_max: 128 * 1024 * 1024 * 1024,
            redirects_max: 5,
        }
    }
}
