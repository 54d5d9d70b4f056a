//! Rate limits: a token bucket for each group and each client, principal or session that requests belong to.
//!
//! An address is not a person: who shows a good credential is counted as that principal, wherever it comes from, and a player by
//! its playback session; what shows none, or none that is good, is counted by its client address. So what carries a good credential
//! is never refused for what others behind the same address do. [`limit_by_client`] stands before authentication,
//! [`limit_by_principal`] behind it; between them so many look-ups of a client's credentials are under way at a time (see
//! `lookup.rs`), and a refused credential is counted once it was refused. Wallets cost nothing, but a sign-in needs a challenge,
//! which is counted by client.
//!
//! Rates hold over all replicas: each applies its part, by the number of replicas that are alive (see `replicas.rs`). A refused
//! request takes nothing, is answered with the seconds after which it passes, and is published as `evt.limit.exceeded`, which is
//! capped; [`crate::access_sums`] has all of them.
//!
//! Limits: `keys_max` buckets (about 40 bytes each); what `lookup.rs`, `report.rs` and `replicas.rs` say.

mod fields;
pub mod gcra;
mod group;
mod layer;
mod lookup;
mod permit;
mod replicas;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use nats::{
    Bus,
    metrics::{Collector, DescriptorEncoder},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use fields::{RATE_LIMIT, RATE_LIMIT_POLICY, RateLimitScope};
pub use group::{GroupRates, RateLimitGroup};
pub use layer::{ClientLimitService, RateLimitFuture, limit_by_client, limit_by_principal};
pub use lookup::{LOOKUPS_PER_CLIENT_MAX, LookupPermit};
pub use permit::RateLimitPermit;
pub use report::PolicyCount;

/// Settings of the rate limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Rates by group, over all replicas.
    pub rates: GroupRates,
    /// Most buckets held in memory.
    pub keys_max: usize,
    /// Replicas to assume while their number can't be read.
    pub replicas_assumed_count: u32,
    /// Most events about refusals in one minute, over all replicas.
    pub events_per_min_max: u32,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            rates: GroupRates::default(),
            keys_max: 1_000_000,
            replicas_assumed_count: 4,
            events_per_min_max: 60,
        }
    }
}

/// The limits of one replica. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    shared: Arc<RateLimiterState>,
}

#[derive(Debug)]
struct RateLimiterState {
    config: RateLimitConfig,
    started: Instant,
    table: table::BucketTable,
    sharers: replicas::ReplicaCounter,
    report: report::RateLimitReporter,
    lookups: lookup::CredentialLookups,
}

impl RateLimiter {
    /// All buckets are full; until [`RateLimiter::run`] knows better, the assumed number of replicas shares the rates.
    pub fn new(config: RateLimitConfig) -> Self {
        let shared = RateLimiterState {
            started: Instant::now(),
            table: table::BucketTable::new(config.keys_max),
            sharers: replicas::ReplicaCounter::new(config.replicas_assumed_count),
            report: report::RateLimitReporter::default(),
            lookups: lookup::CredentialLookups::new(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counts replicas and publishes refusals until `shutdown`.
    pub async fn run(&self, bus: Bus, shutdown: CancellationToken) {
        let shared = &self.shared;
        tokio::join!(
            shared.sharers.run(&bus, &shutdown),
            shared.report.run(&bus, shared.config.events_per_min_max, &shutdown),
        );
    }

    /// The ticket of a request of `client` in `group`, for which nothing is taken yet.
    pub fn new_permit(&self, client: IpAddr, group: Option<RateLimitGroup>) -> RateLimitPermit {
        RateLimitPermit::new(self.clone(), client, group)
    }

    /// How often each policy let pass and refused.
    pub fn counts(&self) -> Vec<PolicyCount> {
        self.shared.report.counts()
    }

    /// Monotonic: a clock that is set does not open or close a bucket.
    fn now_ns(&self) -> u64 {
        u64::try_from(self.shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn group_share(&self, group: RateLimitGroup) -> gcra::ReplicaBucketRate {
        self.shared.config.rates.rate_for(group).share_among(self.shared.sharers.count())
    }
}

impl Collector for RateLimiter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (replicas, keys) = (self.shared.sharers.count(), self.shared.table.len());
        report::encode_metrics(&mut encoder, &self.counts(), replicas, keys)
    }
}
