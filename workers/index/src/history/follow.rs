//! Following EVENTS: one ordered reader without payloads, entries in batches into the store.

use std::{sync::Arc, time::Duration};

use nats::{
    Bus, BusError, ReaderStart,
    reader::{ReaderConfig, StreamEntry, StreamPosition},
};
use schemas::{headers, subjects};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    answer::HistoryAccess,
    store::{HistoryEntry, HistoryStore, HistoryThing},
};
use crate::{IndexConfig, IndexError, follow::read_batch};

/// How soon it is tried again after something went wrong.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked at what EVENTS has dropped.
pub(super) const TRIM_PAUSE: Duration = Duration::from_secs(60);

/// Keeps the index of events until `shutdown`; what goes wrong is tried again.
///
/// # Errors
/// None: lists go on without it.
pub(crate) async fn keep_history(
    bus: Bus,
    config: IndexConfig,
    opened: watch::Sender<Option<HistoryAccess>>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let mut failures: u32 = 0;
    loop {
        let error = tokio::select! {
            () = shutdown.cancelled() => break,
            kept = follow_events(&bus, &config, &opened) => kept.err(),
        };
        opened.send_replace(None);
        if error.as_ref().is_some_and(HistoryStore::is_damage) {
            let folder = config.folder.join("history");
            if let Err(error) = run_blocking(move || HistoryStore::discard(&folder)).await {
                tracing::warn!(%error, "the damaged index of events can't be removed");
            }
        }
        match error {
            Some(IndexError::Bus(BusError::Reset { .. })) | None => {
                tracing::error!("the stream of events was made anew, and so is its index");
            }
            Some(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "the index of events is tried again");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    opened.send_replace(None);
    Ok(())
}

async fn follow_events(
    bus: &Bus,
    config: &IndexConfig,
    opened: &watch::Sender<Option<HistoryAccess>>,
) -> Result<(), IndexError> {
    let created_at_ms = bus.stream_extent(subjects::EVENTS).await?.end.created_at_ms;
    let (folder, cache_bytes_max) = (config.folder.join("history"), config.history_cache_bytes_max);
    let open = move || HistoryStore::open(&folder, cache_bytes_max, created_at_ms);
    let store = Arc::new(run_blocking(open).await?);
    let cursor = store.read_cursor()?;
    let (progress, seen) = watch::channel(cursor);
    let damaged = CancellationToken::new();
    let access = HistoryAccess { store: Arc::clone(&store), created_at_ms, seen, damaged: damaged.clone() };
    opened.send_replace(Some(access));
    tokio::select! {
        kept = follow_into(bus, config, (store, created_at_ms, cursor), progress) => kept,
        () = damaged.cancelled() => Err(IndexError::Damaged { what: "the index of events".into() }),
    }
}

/// Adds what comes behind `cursor`.
async fn follow_into(
    bus: &Bus,
    config: &IndexConfig,
    (store, created_at_ms, cursor): (Arc<HistoryStore>, u64, u64),
    progress: watch::Sender<u64>,
) -> Result<(), IndexError> {
    let position = StreamPosition { created_at_ms, sequence: cursor };
    let settings = ReaderConfig {
        is_headers_only: true,
        ..ReaderConfig::new(
            subjects::EVENTS,
            vec![subjects::EVENTS_ALL.to_owned()],
            ReaderStart::Behind(position),
        )
    };
    let mut reader = bus.follow_stream("index of events", settings);
    let mut trim_at = Instant::now();
    loop {
        if Instant::now() >= trim_at {
            trim_at = Instant::now() + TRIM_PAUSE;
            let first_sequence = trim(bus, &store).await?;
            // What was dropped by age unseen never comes: nobody is to wait for it.
            progress.send_if_modified(|seen| {
                let is_behind = *seen + 1 < first_sequence;
                *seen = (*seen).max(first_sequence.saturating_sub(1));
                is_behind
            });
        }
        let batch = read_batch(&mut reader, config.batch_entries_max, true);
        let Ok(batch) = tokio::time::timeout_at(trim_at, batch).await else { continue };
        let entries: Vec<HistoryEntry> = batch?.iter().map(read_entry).collect();
        let Some(last) = entries.last().map(|entry| entry.sequence) else { continue };
        let target = Arc::clone(&store);
        run_blocking(move || target.add(&entries)).await?;
        // Only what is written counts as seen: questions wait for it.
        progress.send_modify(|seen| *seen = (*seen).max(last));
    }
}

/// Drops what EVENTS has dropped by age; answers the first sequence that there is.
async fn trim(bus: &Bus, store: &Arc<HistoryStore>) -> Result<u64, IndexError> {
    let first_sequence = bus.stream_extent(subjects::EVENTS).await?.first_sequence;
    let target = Arc::clone(store);
    let dropped = run_blocking(move || target.drop_before(first_sequence)).await?;
    if dropped > 0 {
        tracing::debug!(dropped, first_sequence, "events that were dropped by age are indexed no more");
    }
    Ok(first_sequence)
}

fn read_entry(entry: &StreamEntry) -> HistoryEntry {
    let text = |name: &str| entry.headers.get_last(name).map(|value| value.as_str().to_owned());
    let medium = text(headers::MEDIA_ID).and_then(|id| id.parse().ok()).map(HistoryThing::Medium);
    let job = text(headers::JOB_ID).and_then(|id| id.parse().ok()).map(HistoryThing::Job);
    HistoryEntry { sequence: entry.sequence, things: medium.into_iter().chain(job).collect() }
}

pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| IndexError::Damaged { what: "the index of events panicked".into() })?
}
