//! The index stage: technical metadata into state, and lists out of a local projection.
//!
//! - Consumes: `evt.media.*` and `evt.job.*` by the shared durable `index`; the KV buckets `media`, `assets` and `jobs`
//!   by one ordered reader each; `ask.index.media` and `ask.index.jobs` in a queue group, so that replicas share.
//! - Emits: nothing but answers.
//! - Stores: `assets.<media_id>` (its `summary`); a projection in a sled database under [`Config::folder`], which is a
//!   function of the buckets alone: deleted at any time, it comes back equal.
//! - Limits: [`Config`] names the database's cache, the entries of one transaction, the questions in flight, the wait for a
//!   revision and the bytes of one answer; a page has at most [`schemas::ask::ITEMS_MAX`] items.

mod answer;
mod config;
mod describe;
mod error;
mod follow;
mod order;
mod projection;
mod summarise;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use nats::Bus;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use projection::{Bucket, Origin, Projection, Row};
pub use summarise::summary;

/// Queue group of the replicas that answer questions.
pub const QUEUE_GROUP: &str = "index";

/// Runs the stage until `shutdown` fires: describes media, follows state, answers questions once it has caught up.
///
/// # Errors
/// [`Error::Locked`] when another process has the folder; [`Error::Database`] when the disk fails, [`Error::Damaged`] when the projection has to be built anew at the next start.
pub async fn run(bus: Bus, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    loop {
        let Some(origins) = follow::origins_once_there(&bus, &shutdown).await else { return Ok(()) };
        match run_over(&bus, &config, origins, &shutdown).await {
            Err(Error::Bus(nats::Error::Reset { stream })) => {
                tracing::error!(stream, "a bucket was made anew, and so is the projection");
            }
            ended => return ended,
        }
    }
}

/// Runs the stage over the buckets that there are, until `shutdown` fires or one of them is another.
async fn run_over(
    bus: &Bus,
    config: &Config,
    origins: Vec<Origin>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let (settings, there) = (config.clone(), origins.clone());
    let opened = tokio::task::spawn_blocking(move || Projection::open(&settings, &there)).await;
    let projection = Arc::new(opened.map_err(|_| Error::Damaged { what: "opening panicked".into() })??);
    let result = serve(bus.clone(), config, &projection, &origins, shutdown).await;
    if let Err(Error::Damaged { what }) = &result {
        tracing::error!(what, "the projection is damaged and will be built anew at the next start");
        projection.condemn()?;
    }
    let closing = tokio::task::spawn_blocking(move || projection.flush()).await;
    closing.map_err(|_| Error::Damaged { what: "closing panicked".into() })??;
    result
}

async fn serve(
    bus: Bus,
    config: &Config,
    projection: &Arc<Projection>,
    origins: &[Origin],
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let stop = shutdown.child_token();
    let (seen, watch) = follow::seen();
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    for origin in origins {
        tasks.spawn(follow::run(
            bus.clone(),
            Arc::clone(projection),
            *origin,
            config.batch_entries_max,
            Arc::clone(&seen),
            stop.clone(),
        ));
    }
    tasks.spawn(answer::run(bus.clone(), Arc::clone(projection), config.clone(), watch, stop.clone()));
    tasks.spawn(describe::run(bus, config.consume.clone(), stop.clone()));
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        let ended = ended.unwrap_or_else(|_| Err(Error::Damaged { what: "a task panicked".into() }));
        if first.is_ok() {
            first = ended;
        }
    }
    first
}
