//! The transcode stage: from a verified source to an adaptive stream.
//!
//! - Consumes: `evt.media.stored.*` and `evt.media.reopened.*` (planner), `job.transcode.>` (parts and finish), core
//!   `ctl.job.<job_id>` (cancel) and `ctl.worker.<worker>` (pause, resume, drain).
//! - Emits: `evt.job.{queued,started,retried,succeeded,failed,dead,parked}`, `evt.media.{playable,ready,delayed}`,
//!   `progress.<job_id>.<part>`.
//! - Stores: records of jobs and parts, status and encode of the medium, what this worker holds; init and media segments, playlists, manifest,
//!   poster and `report.json` below the encode's folder.
//! - Limits: [`TranscodeConfig`] and [`packaging::EncodeProfile`]; at most [`schemas::job::PARTS_MAX`] parts a job; those of the
//!   media child.
//!
//! A part is one range of the output frame grid in every rung, or one whole audio track. Its claim record is its fence:
//! a worker that loses a compare-and-set stops, deletes nothing and does not acknowledge. A worker that is lost is missed after
//! six seconds, unless the broker was away meanwhile. Keys carry the digest of the options
//! and encoders have a fixed thread count, so a repeat writes the same bytes to the same keys. After two crashes of the
//! media child a part runs with one decoder thread, which does not change the bytes; when the tries are used up, the job
//! fails. Workers that vanish are counted apart and end no job.
//!
//! An encode whose renditions were made elsewhere is planned of what is found in their files, whose samples are copied; all else is as ever.

pub mod check;
mod config;
mod copies;
mod description;
mod encode;
mod error;
mod finish;
mod job_result;
mod outage;
mod own_ladder;
mod part;
mod part_metrics;
mod planner;
mod playable;
mod poster;
mod profile_check;
mod report;
mod source;
mod spec;
mod subtitles;
#[cfg(test)]
mod tests;
mod tracks;

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use nats::{Bus, consume};
use queue_worker::{WorkerIdentity, WorkerStatus};
use schemas::{job::JobQueue, subjects};
use sha2::{Digest, Sha256};
use store::Store;
use tokio_util::sync::CancellationToken;

pub use config::{DEFAULT_PROFILE, TranscodeConfig};
pub use error::TranscodeError;
pub use own_ladder::RenditionFault;
pub use profile_check::{ProfileFault, check_profile};
pub use schemas::job::{PLAN_TRANSCODE as PLAN_DURABLE, TRANSCODE as KIND};

/// What every part of the stage works with.
#[derive(Debug)]
pub(crate) struct TranscodeContext {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) driver: Arc<media::MediaDriver>,
    pub(crate) config: TranscodeConfig,
    /// Random name of this process.
    pub(crate) worker: String,
    /// What it says of itself.
    pub(crate) status: WorkerStatus,
}

impl TranscodeContext {
    /// Stores an object below the folder `prefix`; answers its SHA-256 in lower-case hex.
    pub(crate) async fn put_object(
        &self,
        prefix: &str,
        path: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<String, TranscodeError> {
        let (key, bytes) = (format!("{prefix}/{path}"), bytes.into());
        let hashed = bytes.clone();
        // Megabytes take milliseconds, too long for a thread that serves others.
        let hashing = tokio::task::spawn_blocking(move || HEXLOWER.encode(&Sha256::digest(&hashed)));
        let (stored, sha256) = tokio::join!(self.store.put(&key, bytes), hashing);
        stored?;
        // The process is about to stop, or out of memory.
        Ok(sha256.map_err(store::StoreError::unavailable)?)
    }
}

/// Runs planner and parts until `shutdown` fires, then lets running parts finish within the grace time.
///
/// Fails when the durables are not there or the configured profile does not exist.
pub async fn run_transcode(
    bus: Bus,
    store: Store,
    driver: impl Into<Arc<media::MediaDriver>>,
    config: TranscodeConfig,
    shutdown: CancellationToken,
) -> Result<(), nats::BusError> {
    if config.find_profile(&config.profile).is_none() {
        return Err(nats::BusError::Invalid {
            what: format!("transcode.profile {}: no such profile", config.profile),
        });
    }
    let worker = HEXLOWER.encode(&nats::new_id_bytes());
    let status = WorkerStatus::new(WorkerIdentity {
        worker: worker.clone(),
        queue: JobQueue::Transcode,
        slots: config.parts.slots,
        options_version: packaging::plan::OPTIONS_VERSION.to_owned(),
        other_version_wait_ms: config.other_version_wait_ms,
    });
    let driver = driver.into();
    let context = Arc::new(TranscodeContext { bus: bus.clone(), store, driver, config, worker, status });
    let plans = consume::StageQueue {
        stream: subjects::EVENTS.to_owned(),
        durables: vec![PLAN_DURABLE.to_owned()],
        wake: vec![
            subjects::event_filter::<schemas::media::MediaStored>(),
            subjects::event_filter::<schemas::media::MediaReopened>(),
        ],
    };
    let parts = consume::StageQueue::of_jobs(JobQueue::Transcode);
    let planner = Arc::new(planner::TranscodePlanner::new(Arc::clone(&context), shutdown.clone()));
    let maker = Arc::new(part::PartProcessor::new(Arc::clone(&context)));
    // On the heap: their futures are larger than that of a role may be.
    let planning = Box::pin(consume::run_gated_stage(
        bus.clone(),
        plans,
        planner,
        context.config.planner.clone(),
        context.status.watch_plans(),
        shutdown.clone(),
    ));
    let making = Box::pin(consume::run_gated_stage(
        bus.clone(),
        parts,
        Arc::clone(&maker),
        context.config.parts.clone(),
        context.status.watch_parts(),
        shutdown.clone(),
    ));
    // A hint alone: work neither waits for it nor ends with it.
    let ended = tokio::select! {
        ended = async { tokio::try_join!(planning, making) } => ended.map(drop),
        () = maker.watch_broker() => Ok(()),
        never = context.status.publish_changes(&bus, &shutdown) => match never {},
        never = queue_worker::answer_commands(&bus, &context.status) => match never {},
    };
    context.status.withdraw(&bus).await;
    ended
}
