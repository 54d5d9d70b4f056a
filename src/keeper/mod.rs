//! The singletons, each under its own lease, so that two keepers give failover.
//!
//! - `outbox`: publishes the events that a crash left in their records.
//! - `expiry`: removes uploads whose time ran out.
//! - `purge`: removes what is left of removed media, and the sources of rejected ones.
//! - `watcher`: ends playback sessions whose gate a transfer closed.
//! - `fold`: puts what the parts of ended jobs came to into the jobs' own records, and removes the parts.
//! - `views`: sums the openings of public media by medium and hour.
//! - `memory`: makes memory streams anew that a restart of the broker forgot.
//! - `dispatch`, `dispatch-tasks`: let parts of jobs into their queue, in fair order over owners.
//! - `schedules`: begins jobs at their times.
//! - `webhooks`: sends events to the addresses that people gave.
//! - `clear`: removes what cancelled and failed jobs had stored.
//!
//! What is due is judged by the broker's clock, by which the records were stored: a keeper on a host whose clock is ahead
//! expires, purges and sums nothing early.
//!
//! Limits: [`KeeperConfig`] names periods and ages.

pub mod clear;
pub mod expiry;
pub mod fold;
pub mod memory_streams;
pub mod outbox;
pub mod purge;
pub mod schedules;
pub mod views;
pub mod watcher;
pub mod webhooks;

use dispatch::{DispatchConfig, DispatchMetrics};
use nats::Bus;
use schemars::JsonSchema;
use schemas::job::JobQueue;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use gate::grant::PlaybackGrants;
use ingress::{capacity::CapacityConfig, uploads::UploadConfig};

/// Periods and ages of the singletons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeeperConfig {
    /// Age from which unsent events are published by the sweeper, in milliseconds.
    pub unsent_age_ms: u64,
    /// Which part of which job goes into the queue next.
    pub dispatch: DispatchConfig,
    /// How often cancelled and folded failed jobs are looked for whose objects are still there, in milliseconds.
    pub clear_period_ms: u64,
    /// How often expired uploads are looked for, in milliseconds.
    pub expiry_period_ms: u64,
    /// Removed media.
    pub purge: purge::PurgeConfig,
    /// How long ago a job must have ended before its parts are folded into its own record, in milliseconds.
    pub fold_age_ms: u64,
    /// How often jobs to fold are looked for, in milliseconds.
    pub fold_period_ms: u64,
    /// How often views are summed, in milliseconds; each hour that is over is summed once.
    pub views_period_ms: u64,
    /// How long followers are notified that a part was removed, in milliseconds.
    #[serde(skip)]
    pub removal_told_ms: u64,
    /// How long a job or an upload is kept that ended without saying so, in milliseconds; set by `retention.ended_ms`.
    #[serde(skip)]
    pub ended_kept_ms: u64,
    /// From where on schedules begin nothing; set by `ingress.capacity`.
    #[serde(skip)]
    pub capacity: CapacityConfig,
    /// How much room uploads leave; set by `ingress.uploads`.
    #[serde(skip)]
    pub uploads: UploadConfig,
    /// The chain watcher.
    pub watcher: watcher::WatcherConfig,
    /// Webhooks; which addresses they reach is said by `outbound`.
    pub webhooks: webhooks::WebhookConfig,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            unsent_age_ms: 5_000,
            dispatch: DispatchConfig::default(),
            clear_period_ms: 60_000,
            expiry_period_ms: 60_000,
            purge: purge::PurgeConfig::default(),
            fold_age_ms: 24 * 3_600_000,
            fold_period_ms: 10 * 60_000,
            views_period_ms: 5 * 60_000,
            removal_told_ms: schemas::REMOVAL_MARKER_MS,
            ended_kept_ms: schemas::ENDED_KEPT_MS,
            capacity: CapacityConfig::default(),
            uploads: UploadConfig::default(),
            watcher: watcher::WatcherConfig::default(),
            webhooks: webhooks::WebhookConfig::default(),
        }
    }
}

/// Runs the singletons until `shutdown`; what goes into the queue is counted in `dispatched`.
///
/// # Errors
/// When a task panicked.
pub async fn run_keeper(
    bus: Bus,
    store: Store,
    grants: PlaybackGrants,
    dispatched: DispatchMetrics,
    receivers: webhooks::WebhookServices,
    config: KeeperConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let (leased, settings, stop) = (bus.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased
            .run_with_lease("outbox", stop, |held| {
                outbox::run_outbox_sweeps(leased.clone(), settings.clone(), held)
            })
            .await;
    });
    let (leased, objects, settings, stop) = (bus.clone(), store.clone(), config.purge, shutdown.clone());
    tasks.spawn(async move {
        let purge = |held| purge::run_purge(leased.clone(), objects.clone(), settings, held);
        leased.run_with_lease("purge", stop, purge).await;
    });
    let (leased, objects, settings, stop) = (bus.clone(), store.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        let sweep = |held| expiry::run_expiry(leased.clone(), objects.clone(), settings.clone(), held);
        leased.run_with_lease("expiry", stop, sweep).await;
    });
    let (leased, settings, stop) = (bus.clone(), config.watcher.clone(), shutdown.clone());
    tasks.spawn(async move {
        let watch = |held| watcher::run_watcher(leased.clone(), grants.clone(), settings.clone(), held);
        leased.run_with_lease("watcher", stop, watch).await;
    });
    let (leased, settings, stop) = (bus.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased
            .run_with_lease("views", stop, |held| {
                views::run_view_sums(leased.clone(), settings.clone(), held)
            })
            .await;
    });
    let (leased, settings, stop) = (bus.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased
            .run_with_lease("fold", stop, |held| fold::run_folding(leased.clone(), settings.clone(), held))
            .await;
    });
    let (leased, stop) = (bus.clone(), shutdown.clone());
    tasks.spawn(async move {
        leased
            .run_with_lease("memory", stop, |held| memory_streams::run_stream_restore(leased.clone(), held))
            .await;
    });
    let (leased, objects, settings, stop) = (bus.clone(), store.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        let fire = |held| schedules::run_schedules(leased.clone(), objects.clone(), settings.clone(), held);
        leased.run_with_lease("schedules", stop, fire).await;
    });
    let (leased, settings, stop) = (bus.clone(), config.webhooks.clone(), shutdown.clone());
    tasks.spawn(async move {
        let send = |held| webhooks::run_webhooks(leased.clone(), receivers.clone(), settings.clone(), held);
        leased.run_with_lease("webhooks", stop, send).await;
    });
    let (leased, objects, settings, stop) = (bus.clone(), store, config.clone(), shutdown.clone());
    tasks.spawn(async move {
        let clear = |held| clear::run_clearing(leased.clone(), objects.clone(), settings.clone(), held);
        Box::pin(leased.run_with_lease("clear", stop, clear)).await;
    });
    // They take their leases themselves: a standby follows the jobs, too.
    for queue in JobQueue::ALL {
        let (bus, settings, dispatched) = (bus.clone(), config.dispatch.clone(), dispatched.clone());
        tasks.spawn(dispatch::run_dispatcher(bus, queue, settings, dispatched, shutdown.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
