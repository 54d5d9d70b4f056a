//! The singletons, each under its own lease, so that two keepers give failover.
//!
//! - `outbox`: publishes the events that a crash left in their records.
//! - `expiry`: removes uploads whose time ran out.
//! - `purge`: removes what is left of removed media, and the sources of rejected ones.
//! - `watcher`: ends playback sessions whose gate a transfer closed.
//! - `memory`: makes memory streams anew that a restart of the broker forgot.
//! - `drift`: compares job records with the queue and repairs both directions.
//!
//! Limits: [`Config`] names periods and ages.

pub mod drift;
pub mod expiry;
pub mod memory;
pub mod outbox;
pub mod purge;
pub mod watcher;

use nats::Bus;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::gate::grant::Grants;

/// Periods and ages of the singletons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Age in milliseconds from which unsent events are published by the sweeper.
    pub unsent_age_ms: u64,
    /// How often queue and state are compared, in milliseconds.
    pub drift_period_ms: u64,
    /// How often expired uploads are looked for, in milliseconds.
    pub expiry_period_ms: u64,
    /// Removed media.
    pub purge: purge::Config,
    /// The chain watcher.
    pub watcher: watcher::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unsent_age_ms: 5_000,
            drift_period_ms: 60_000,
            expiry_period_ms: 60_000,
            purge: purge::Config::default(),
            watcher: watcher::Config::default(),
        }
    }
}

/// Runs the singletons until `shutdown`.
///
/// # Errors
/// When a task panicked.
pub async fn run(
    bus: Bus,
    store: Store,
    grants: Grants,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let (leased, settings, stop) = (bus.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased.hold("outbox", stop, |held| outbox::run(leased.clone(), settings.clone(), held)).await;
    });
    let (leased, objects, settings, stop) = (bus.clone(), store.clone(), config.purge, shutdown.clone());
    tasks.spawn(async move {
        let purge = |held| purge::run(leased.clone(), objects.clone(), settings, held);
        leased.hold("purge", stop, purge).await;
    });
    let (leased, settings, stop) = (bus.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        let sweep = |held| expiry::run(leased.clone(), store.clone(), settings.clone(), held);
        leased.hold("expiry", stop, sweep).await;
    });
    let (leased, settings, stop) = (bus.clone(), config.watcher.clone(), shutdown.clone());
    tasks.spawn(async move {
        let watch = |held| watcher::run(leased.clone(), grants.clone(), settings.clone(), held);
        leased.hold("watcher", stop, watch).await;
    });
    let (leased, stop) = (bus.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased.hold("memory", stop, |held| memory::run(leased.clone(), held)).await;
    });
    tasks.spawn(async move {
        bus.hold("drift", shutdown, |held| drift::run(bus.clone(), config.clone(), held)).await;
    });
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
