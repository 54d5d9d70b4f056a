//! The index stage: technical metadata into state, and lists out of a local projection.
//!
//! - Consumes: `evt.media.*` and `evt.job.*` by the shared durable `index`; the KV buckets `media`, `assets` and `jobs`
//!   by one ordered reader each (two of them by another one for the search); `ask.index.*` in a queue group, so that replicas share.
//!   EVENTS by another one, without payloads.
//! - Emits: nothing but answers.
//! - Stores: `assets.<media_id>` (its `summary`); a projection in a sled database under [`IndexConfig::folder`], which is a
//!   function of the buckets alone: deleted at any time, it comes back equal. So does the index of the full text search, a second
//!   projection in the folder `search` in it, with a position of its own in the buckets. What goes wrong with it stops no list.
//!   The folder `history` has where the events of each medium and job lie in EVENTS, a function of that stream (`history/mod.rs`).
//! - Limits: [`IndexConfig`] names the database's cache, the entries of one transaction, the questions in flight, the wait for a
//!   revision and the bytes of one answer; a page has at most [`schemas::index_query::ITEMS_MAX`] items.

mod answer;
mod config;
mod describe;
mod error;
mod facts;
mod follow;
mod history;
mod order;
mod projection;
mod reply;
mod search;
mod summarise;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use nats::Bus;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::IndexConfig;
pub use error::IndexError;
pub use history::{HistoryEntry, HistoryStore, HistoryThing};
pub use projection::{BucketOrigin, IndexBucket, IndexProjection, ProjectionRow};
pub use search::{
    SearchBucket, SearchChange, SearchConfig, SearchProjection, SearchRecord, SearchRow, SearchTextError,
    SearchWriter,
};
pub use summarise::summarise_media;

/// Queue group of the replicas that answer questions.
pub const QUEUE_GROUP: &str = "index";

/// Runs the stage until `shutdown` fires: describes media, follows state, answers questions once it has caught up.
///
/// # Errors
/// [`IndexError::Locked`] when another process has the folder; [`IndexError::Database`] when the disk fails,
/// [`IndexError::Damaged`] when the projection has to be built anew at the next start.
pub async fn run(bus: Bus, config: IndexConfig, shutdown: CancellationToken) -> Result<(), IndexError> {
    loop {
        let Some(origins) = follow::wait_for_origins(&bus, &shutdown).await else { return Ok(()) };
        match run_with_origins(&bus, &config, origins, &shutdown).await {
            Err(IndexError::Bus(nats::BusError::Reset { stream })) => {
                tracing::error!(stream, "a bucket was made anew, and so is the projection");
            }
            ended => return ended,
        }
    }
}

/// Runs the stage over the buckets that there are, until `shutdown` fires or one of them is another.
async fn run_with_origins(
    bus: &Bus,
    config: &IndexConfig,
    origins: Vec<BucketOrigin>,
    shutdown: &CancellationToken,
) -> Result<(), IndexError> {
    let (settings, there) = (config.clone(), origins.clone());
    let opened = tokio::task::spawn_blocking(move || IndexProjection::open(&settings, &there)).await;
    let projection = Arc::new(opened.map_err(|_| IndexError::Damaged { what: "opening panicked".into() })??);
    let result = run_tasks(bus.clone(), config, &projection, &origins, shutdown).await;
    if let Err(IndexError::Damaged { what }) = &result {
        tracing::error!(what, "the projection is damaged and will be built anew at the next start");
        projection.mark_damaged()?;
    }
    let closing = tokio::task::spawn_blocking(move || projection.flush()).await;
    closing.map_err(|_| IndexError::Damaged { what: "closing panicked".into() })??;
    result
}

async fn run_tasks(
    bus: Bus,
    config: &IndexConfig,
    projection: &Arc<IndexProjection>,
    origins: &[BucketOrigin],
    shutdown: &CancellationToken,
) -> Result<(), IndexError> {
    let stop = shutdown.child_token();
    let (seen, progress) = follow::progress_channel();
    let mut tasks: JoinSet<Result<(), IndexError>> = JoinSet::new();
    for origin in origins {
        tasks.spawn(follow::follow_bucket(
            bus.clone(),
            Arc::clone(projection),
            *origin,
            config.batch_entries_max,
            Arc::clone(&seen),
            stop.clone(),
        ));
    }
    // Behind the lists: theirs is the lock of the whole folder.
    let (opened, search) = watch::channel(None);
    tasks.spawn(search::keep_search(bus.clone(), config.clone(), origins.to_vec(), opened, stop.clone()));
    let (indexed, history) = watch::channel(None);
    tasks.spawn(history::keep_history(bus.clone(), config.clone(), indexed, stop.clone()));
    tasks.spawn(answer::run_responder(
        bus.clone(),
        config.clone(),
        (Arc::clone(projection), progress),
        (search, history),
        stop.clone(),
    ));
    tasks.spawn(describe::run_summary_stage(bus, config.consume.clone(), stop.clone()));
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        let ended = ended.unwrap_or_else(|_| Err(IndexError::Damaged { what: "a task panicked".into() }));
        if first.is_ok() {
            first = ended;
        }
    }
    first
}
