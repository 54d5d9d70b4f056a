//! The tasks stage: the jobs that make no encode, of whatever kind. No kind has a stream or a durable of its own.
//!
//! - Consumes: `job.tasks.>`, core `ctl.job.<job_id>` (cancel) and `ctl.worker.<worker>` (pause, resume, drain).
//! - Emits: `evt.job.{started,retried,succeeded,failed,dead,parked}`, `progress.<job_id>.task`.
//! - Asks: `ask.index.jobs`, for the jobs of a filter.
//! - Stores: the end of jobs, claims of their parts, what this worker holds. What is done with other jobs changes them and their media as
//!   the HTTP surface does ([`JobActor`]), and so does what is fetched ([`FetchedUploads`]). Pictures are the only objects that are written here.
//! - Limits: [`TasksConfig`]; a job that makes no encode is one part.
//!
//! The kinds: `verify` reads all that is stored of a medium and compares it with what was written down; `job_action` does one thing with
//! all jobs of a filter; `fetch` brings the bytes of an upload from an address; `thumbnails` makes pictures of what plays, which another
//! taker decodes ([`PictureTaker`]); `export` sends a file of a medium to an address, which others put together ([`ExportedFiles`]).

mod config;
mod error;
mod export;
mod fetch;
mod job_actions;
mod job_result;
mod processor;
mod progress;
#[cfg(test)]
mod tests;
mod thumbnails;
mod verify;

use std::sync::Arc;

use nats::{Bus, consume};
use queue_worker::{WorkerIdentity, WorkerStatus};
use schemas::job::JobQueue;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use config::TasksConfig;
pub use error::TaskError;
pub use export::{ExportError, ExportedFile, ExportedFiles};
pub use fetch::{FetchError, FetchStanding, FetchedUploads, SourceBytes, TaskServices};
pub use job_actions::{JOBS_AT_ONCE, JobActor, PAGE_JOBS_MAX};
use processor::TaskProcessor;
pub use thumbnails::{PictureError, PictureRequest, PictureTaker};

/// What every part of the stage works with.
#[derive(Debug)]
pub(crate) struct TasksContext {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) config: TasksConfig,
    pub(crate) services: TaskServices,
    /// What this worker says of itself.
    pub(crate) status: WorkerStatus,
}

/// Runs the stage until `shutdown` fires, then lets running parts finish within the grace time.
///
/// # Errors
/// When the durables are not there.
pub async fn run_tasks(
    bus: Bus,
    store: Store,
    config: TasksConfig,
    services: TaskServices,
    shutdown: CancellationToken,
) -> Result<(), nats::BusError> {
    let status = WorkerStatus::new(WorkerIdentity {
        worker: data_encoding::HEXLOWER.encode(&nats::new_id_bytes()),
        queue: JobQueue::Tasks,
        slots: config.parts.slots,
        options_version: String::new(),
        other_version_wait_ms: 0,
    });
    let context = Arc::new(TasksContext { bus: bus.clone(), store, config, services, status });
    let processor = Arc::new(TaskProcessor::new(Arc::clone(&context)));
    let working = consume::run_gated_stage(
        bus.clone(),
        consume::StageQueue::of_jobs(JobQueue::Tasks),
        Arc::clone(&processor),
        context.config.parts.clone(),
        context.status.watch_parts(),
        shutdown.clone(),
    );
    // On the heap: its future is larger than that of a role may be.
    let working = Box::pin(working);
    // A hint alone: work neither waits for it nor ends with it.
    let ended = tokio::select! {
        ended = working => ended,
        () = processor.watch_broker() => Ok(()),
        never = context.status.publish_changes(&bus, &shutdown) => match never {},
        never = queue_worker::answer_commands(&bus, &context.status) => match never {},
    };
    context.status.withdraw(&bus).await;
    ended
}
