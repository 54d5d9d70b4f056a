//! The transcode stage: from a verified source to an adaptive stream.
//!
//! - Consumes: `evt.media.stored.*` and `evt.media.reopened.*` (planner), `job.transcode.>` (parts and finish), core `ctl.job.<job_id>` (cancel).
//! - Emits: `evt.job.{queued,started,retried,succeeded,failed,dead,parked}`, `evt.media.{playable,ready,delayed}`,
//!   `progress.<job_id>.<part>`.
//! - Stores: records of jobs and parts, status and encode of the medium; init and media segments, playlists, manifest,
//!   poster and `report.json` below the encode's folder.
//! - Limits: [`Config`] and [`packaging::Profile`]; at most [`schemas::job::PARTS_MAX`] parts a job; those of the media child.
//!
//! A part is one range of the output frame grid in every rung, or one whole audio track. Its claim record is its fence:
//! whoever loses a compare-and-set stops, deletes nothing and does not acknowledge. Keys carry the digest of the options
//! and encoders have a fixed thread count, so a repeat writes the same bytes to the same keys. After two crashes of the
//! media child a part runs with one decoder thread, which does not change the bytes; when the tries are used up, the job
//! fails. Workers that vanish are counted apart and end no job.

pub mod boxes;
pub mod check;
mod claim;
mod close;
mod config;
mod encode;
mod error;
mod finish;
mod outage;
mod part;
mod planner;
mod playable;
mod report;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod tracks;

use std::sync::Arc;

use nats::{Bus, consume};
use schemas::subjects;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use config::{Config, DEFAULT_PROFILE};
pub use error::Error;
pub use schemas::job::TRANSCODE as KIND;

/// Durable of the planner on EVENTS.
pub const PLAN_DURABLE: &str = "transcode-plan";

/// What every part of the stage works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) driver: Arc<media::Driver>,
    pub(crate) config: Config,
    /// Random name of this process.
    pub(crate) worker: String,
}

/// Runs planner and parts until `shutdown` fires, then lets running parts finish within the grace time.
///
/// Fails when the durables are not there or the configured profile does not exist.
pub async fn run(
    bus: Bus,
    store: Store,
    driver: impl Into<Arc<media::Driver>>,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), nats::Error> {
    if config.profile(&config.profile).is_none() {
        return Err(nats::Error::Invalid {
            what: format!("transcode.profile {}: no such profile", config.profile),
        });
    }
    let worker = data_encoding::HEXLOWER.encode(&nats::fresh_id());
    let context = Arc::new(Context { bus: bus.clone(), store, driver: driver.into(), config, worker });
    let plans = consume::Queue {
        stream: subjects::EVENTS.to_owned(),
        durables: vec![PLAN_DURABLE.to_owned()],
        wake: vec![
            subjects::events_of::<schemas::media::Stored>(),
            subjects::events_of::<schemas::media::Reopened>(),
        ],
    };
    let parts = consume::Queue {
        stream: subjects::JOBS.to_owned(),
        durables: subjects::Priority::ALL
            .iter()
            .map(|priority| format!("{KIND}-{}", priority.token()))
            .collect(),
        wake: vec![subjects::jobs_of(KIND)],
    };
    let planner = Arc::new(planner::Planner { context: Arc::clone(&context) });
    let maker = Arc::new(part::Parts::new(Arc::clone(&context)));
    let planning =
        consume::run(bus.clone(), plans, planner, context.config.planner.clone(), shutdown.clone());
    let making = consume::run(bus, parts, maker, context.config.parts.clone(), shutdown);
    tokio::try_join!(planning, making)?;
    Ok(())
}
