//! Rate limits: a token bucket for each group, of whoever a request belongs to.
//!
//! An address is not a person: who shows a good credential is counted as that principal, wherever it comes from, and a player by its
//! playback session; what shows none, or none that is good, is counted by its client address. So what carries a good credential is
//! never refused for what others behind the same address do. [`by_client`] stands before authentication, [`by_principal`] behind it;
//! between them so many look-ups of a client's credentials are under way at a time (see `lookup.rs`), and a refused credential is
//! counted once it was refused. Wallets cost nothing, but a sign-in needs a challenge, which is counted by client.
//!
//! Rates hold over all replicas: each applies its part, by the number of replicas that are alive (see `replicas.rs`). A refused
//! request takes nothing, is answered with the seconds after which it passes, and is told as `evt.limit.exceeded`, which is capped.
//!
//! Limits: `keys_max` buckets (about 40 bytes each); what `lookup.rs`, `report.rs` and `replicas.rs` say.

mod fields;
pub mod gcra;
mod group;
mod layer;
mod lookup;
mod replicas;
mod report;
mod table;
#[cfg(test)]
mod tests;
mod ticket;

use std::{net::IpAddr, sync::Arc};

use nats::Bus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use fields::{RATE_LIMIT, RATE_LIMIT_POLICY, Scope};
pub use group::{Group, Rates};
pub use layer::{ByClient, Told, by_client, by_principal};
pub use lookup::{LOOKUPS_PER_CLIENT_MAX, Turn};
pub use report::Count;
pub use ticket::Ticket;

/// Settings of the rate limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Rates by group, over all replicas.
    pub rates: Rates,
    /// Most buckets held in memory.
    pub keys_max: usize,
    /// Replicas to assume while their number can't be read.
    pub replicas_assumed_count: u32,
    /// Most events about refusals in one minute, over all replicas.
    pub events_per_min_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rates: Rates::default(),
            keys_max: 1_000_000,
            replicas_assumed_count: 4,
            events_per_min_max: 60,
        }
    }
}

/// The limits of one replica. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    started: Instant,
    table: table::Table,
    sharers: replicas::Sharers,
    report: report::Report,
    lookups: lookup::Lookups,
}

impl Limits {
    /// All buckets are full; until [`Limits::run`] knows better, the assumed number of replicas shares the rates.
    pub fn new(config: Config) -> Self {
        let shared = Shared {
            started: Instant::now(),
            table: table::Table::new(config.keys_max),
            sharers: replicas::Sharers::new(config.replicas_assumed_count),
            report: report::Report::default(),
            lookups: lookup::Lookups::new(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counts replicas and tells about refusals until `shutdown`.
    pub async fn run(&self, bus: Bus, shutdown: CancellationToken) {
        let shared = &self.shared;
        tokio::join!(
            shared.sharers.run(&bus, &shutdown),
            shared.report.run(&bus, shared.config.events_per_min_max, &shutdown),
        );
    }

    /// The ticket of a request of `client` in `group`, for which nothing is taken yet.
    pub fn ticket(&self, client: IpAddr, group: Option<Group>) -> Ticket {
        Ticket::new(self.clone(), client, group)
    }

    /// How often each policy let pass and refused.
    pub fn counts(&self) -> Vec<Count> {
        self.shared.report.counts()
    }

    /// The counters as OpenMetrics text, without the closing `# EOF`.
    pub fn metrics(&self) -> String {
        report::metrics(&self.counts(), self.shared.sharers.count(), self.shared.table.len())
    }

    /// Monotonic: a clock that is set does not open or close a bucket.
    fn now_ns(&self) -> u64 {
        u64::try_from(self.shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn share(&self, group: Group) -> gcra::Share {
        self.shared.config.rates.of(group).share(self.shared.sharers.count())
    }
}
