//! Keeping a search index open beside the lists: after a failure it is opened again, after damage built anew.
//!
//! Limits: between two attempts [`AGAIN_MIN`] to [`AGAIN_MAX`] pass, twice as long after each failure.

use std::{path::PathBuf, time::Duration};

use nats::Bus;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{SearchProjection, answer::SearchAccess, follow::run_search};
use crate::{IndexConfig, IndexError, follow, projection::BucketOrigin};

/// Folder of the search index in that of the projection.
const SEARCH_FOLDER: &str = "search";

/// Least time between two attempts.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Most time between two attempts. One that ran for longer was none that failed.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Keeps the search open until `shutdown`; `opened` has it while it is.
///
/// # Errors
/// [`nats::BusError::Reset`] when a bucket was made anew. Everything else is tried again.
pub(crate) async fn keep_search(
    bus: Bus,
    config: IndexConfig,
    mut origins: Vec<BucketOrigin>,
    opened: watch::Sender<Option<SearchAccess>>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let folder = config.folder.join(SEARCH_FOLDER);
    let mut wait = AGAIN_MIN;
    loop {
        let began = Instant::now();
        let ended = run_opened(&bus, &config, &folder, &origins, &opened, &shutdown).await;
        opened.send_replace(None);
        match ended {
            Ok(()) => return Ok(()),
            Err(error @ IndexError::Bus(nats::BusError::Reset { .. })) => return Err(error),
            Err(IndexError::SearchDamaged { what }) => {
                tracing::error!(what, "the search index is damaged and is built anew");
                let place = folder.clone();
                if let Err(error) = run_blocking(move || SearchProjection::discard(&place)).await {
                    tracing::error!(%error, "the damaged search index can't be removed");
                }
            }
            Err(error) => tracing::error!(%error, "the search failed and is opened again"),
        }
        wait = if began.elapsed() > AGAIN_MAX { AGAIN_MIN } else { wait };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(AGAIN_MAX);
        // What the index holds by now may lie behind what the buckets ended with at first.
        let Some(newer) = follow::wait_for_origins(&bus, &shutdown).await else { return Ok(()) };
        origins = newer;
    }
}

/// Opens the search and follows the buckets until `shutdown`, a failure, or a question that finds damage.
async fn run_opened(
    bus: &Bus,
    config: &IndexConfig,
    folder: &std::path::Path,
    origins: &[BucketOrigin],
    opened: &watch::Sender<Option<SearchAccess>>,
    shutdown: &CancellationToken,
) -> Result<(), IndexError> {
    let (place, settings, there): (PathBuf, _, _) = (folder.into(), config.search.clone(), origins.to_vec());
    let (projection, writer) =
        run_blocking(move || SearchProjection::open(&place, &settings, &there)).await?;
    let (searchable, seen) = follow::progress_channel();
    let (damage, mut damaged) = mpsc::channel(1);
    opened.send_replace(Some(SearchAccess { projection, seen, damage }));
    let stop = shutdown.child_token();
    let settings = (config.search.clone(), config.batch_entries_max);
    let running = run_search(bus.clone(), writer, settings, origins.to_vec(), searchable, stop.clone());
    let mut running = std::pin::pin!(running);
    let what = tokio::select! {
        ended = &mut running => return ended,
        Some(what) = damaged.recv() => what,
    };
    stop.cancel();
    if let Err(error) = running.await {
        tracing::warn!(%error, "the damaged search index could not be closed");
    }
    Err(IndexError::SearchDamaged { what })
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| IndexError::SearchDamaged { what: "opening panicked".into() })?
}
