//! The dispatcher: lets parts of jobs into the work queue, a few for each slot of the workers, in fair order over owners. It runs in
//! the keeper, one for each queue under a lease of its own, and nothing else publishes `job.>`.
//!
//! - Follows: job records in `KV_jobs` (a standby, too, so that it takes over at once), live workers in `KV_workers`.
//! - Publishes: `job.<queue>.<priority>.<job_id>.<part>`.
//! - Emits: `evt.job.waiting`, of jobs that are next of their owners and are not let in (`wait_reports`).
//! - Answers: `ask.dispatch.position` and `ask.dispatch.tasks_position`; looks anew at the job that `ctl.dispatch.<job_id>` names.
//!
//! What is let in is read from the queue itself, and what became of a part from its record: a dispatcher that is killed, frozen or
//! doubled loses nothing. Two of them fill the queue at most twice over, for the time of one lease; a part that comes twice is
//! claimed once. A part that left the queue without an end is let in again, and so is the finish of a job whose parts are over.
//!
//! What can't be made yet stays out of the queue: parts that lost workers until they are due, parts that somebody has to resume, and
//! jobs whose version of the encoder options no live worker makes.
//!
//! Limits: with `S` slots the queue holds at most `2 * S` parts ([`QUEUED_PARTS_PER_SLOT`]), at least [`QUEUED_PARTS_MIN`], beside
//! finishes and what workers hold that take no more; the first part of an owner that comes new starts after at most `2 * S + N - 1`
//! parts of its priority, where `N` owners wait. While slots stay free beside a full queue, as in an outage, up to eight more for
//! each slot are let in, and the bound grows by them. Looking at the
//! queue is spaced by [`FULL_PERIOD`] while it is full, by [`QUIET_PERIOD`] otherwise. [`DispatchConfig`] names the rest.

mod answer;
mod config;
mod dispatcher;
mod follow;
mod metrics;
mod open_job;
mod queue;
mod rate;
mod records;
mod settle;
mod state;
mod version_waits;
mod wait_reports;
mod worker_table;
mod workers;

#[cfg(test)]
mod tests;

use nats::Bus;
use schemas::job::JobQueue;
use tokio_util::sync::CancellationToken;

pub use config::DispatchConfig;
pub use dispatcher::{FULL_PERIOD, QUIET_PERIOD};
pub use metrics::DispatchMetrics;
pub use queue::{FairQueue, JOBS_AHEAD_COUNTED_MAX, QueuePosition, WaitingJob};

pub use worker_table::{QUEUED_PARTS_MIN, QUEUED_PARTS_PER_SLOT};

use dispatcher::Dispatcher;

/// Name of the lease of a queue's dispatcher.
pub const fn lease_name(queue: JobQueue) -> &'static str {
    match queue {
        JobQueue::Transcode => "dispatch",
        JobQueue::Tasks => "dispatch-tasks",
    }
}

/// Follows the jobs of a queue, and lets parts in whenever this process holds the lease, until `shutdown`.
pub async fn run_dispatcher(
    bus: Bus,
    queue: JobQueue,
    config: DispatchConfig,
    metrics: DispatchMetrics,
    shutdown: CancellationToken,
) {
    let dispatcher = Dispatcher::new(bus.clone(), queue, config, metrics);
    let leading = bus.run_with_lease(lease_name(queue), shutdown, |held| {
        let dispatcher = dispatcher.clone();
        async move { dispatcher.run_term(held).await }
    });
    // The lease ends with the shutdown, and is given back then.
    tokio::select! {
        () = follow::follow_jobs(&dispatcher) => {}
        () = workers::follow_workers(&dispatcher) => {}
        () = leading => {}
    }
}
