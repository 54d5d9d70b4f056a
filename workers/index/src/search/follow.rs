//! Following the buckets for the search: one ordered reader each, and one writer that commits for both.
//!
//! Limits: [`BATCHES_MAX`] batches wait for the writer; [`SearchConfig`] says when it commits.

use std::{sync::Arc, time::Duration};

use nats::{Bus, reader::StreamEntry};
use schemas::{KvRecord, document::MediaDocumentRecord, ids::MediaId, media::MediaRecord};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    SearchBucket, SearchConfig,
    write::{SearchChange, SearchRecord, SearchWriter},
};
use crate::{
    IndexError,
    follow::{IndexProgress, read_batch, read_bucket, split_entry},
    projection::{BucketOrigin, IndexBucket},
};

/// Most batches that wait for the writer.
const BATCHES_MAX: usize = 4;

/// What a reader read.
struct SearchBatch {
    bucket: SearchBucket,
    changes: Vec<SearchChange>,
    /// True once everything is here that was in the bucket at the start.
    caught_up: bool,
}

/// Follows the buckets until `shutdown`, and writes what they say. Says in `seen` what can be found.
///
/// # Errors
/// As the writer, and [`nats::BusError::Reset`] when a bucket was made anew; a broker that is away only delays.
pub(crate) async fn run_search(
    bus: Bus,
    writer: SearchWriter,
    (config, batch_entries_max): (SearchConfig, usize),
    origins: Vec<BucketOrigin>,
    seen: Arc<watch::Sender<IndexProgress>>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let (batches, received) = mpsc::channel(BATCHES_MAX);
    let stop = shutdown.child_token();
    let mut tasks: JoinSet<Result<(), IndexError>> = JoinSet::new();
    for bucket in SearchBucket::ALL {
        let Some(origin) = origins.iter().find(|origin| origin.bucket == bucket.as_index_bucket()) else {
            continue;
        };
        let cursor = writer.cursor(bucket);
        let (bus, batches, stop) = (bus.clone(), batches.clone(), stop.clone());
        tasks.spawn(follow_bucket(bus, (bucket, *origin, cursor), batch_entries_max, batches, stop));
    }
    drop(batches);
    // Nothing of jobs is searched.
    seen.send_modify(|seen| seen.set(IndexBucket::Jobs, 0, true));
    tasks.spawn(run_writer(writer, config, received, seen, stop.clone()));
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        let ended =
            ended.unwrap_or_else(|_| Err(IndexError::SearchDamaged { what: "a task panicked".into() }));
        if first.is_ok() {
            first = ended;
        }
    }
    first
}

async fn follow_bucket(
    bus: Bus,
    (bucket, origin, cursor): (SearchBucket, BucketOrigin, u64),
    entries_max: usize,
    batches: mpsc::Sender<SearchBatch>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let mut reader = read_bucket(&bus, "search", origin, cursor);
    let opened = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = reader.wait_until_open() => opened?,
    };
    let mut caught_up = opened.pending == 0;
    let mut changes = Vec::new();
    loop {
        let batch = SearchBatch { bucket, changes, caught_up };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            sent = batches.send(batch) => if sent.is_err() { return Ok(()) },
        }
        let entries = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            entries = read_batch(&mut reader, entries_max, caught_up) => entries?,
        };
        caught_up = caught_up || entries.is_empty();
        changes = entries.iter().map(|entry| decode_entry(bucket, entry)).collect();
    }
}

/// Applies batches and commits them, until `shutdown`; what is not committed then is written last.
async fn run_writer(
    mut writer: SearchWriter,
    config: SearchConfig,
    mut batches: mpsc::Receiver<SearchBatch>,
    seen: Arc<watch::Sender<IndexProgress>>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let (mut is_caught_up, mut due): ([bool; 2], Option<Instant>) = ([false; 2], None);
    loop {
        let commit_due = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let batch = tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => Some(batch),
                None => break,
            },
            () = commit_due => None,
        };
        let is_due = batch.is_none();
        let was_complete = is_caught_up == [true; 2];
        if let Some(batch) = &batch {
            is_caught_up[batch.bucket as usize] = batch.caught_up;
        }
        let is_complete = is_caught_up == [true; 2];
        let media_max = if is_complete { config.commit_media_max } else { config.rebuild_media_max };
        // The moment it is complete is not waited for: questions are.
        let is_due = is_due || (is_complete && !was_complete);
        let step = move || {
            if let Some(batch) = batch {
                writer.apply_changes(batch.bucket, batch.changes)?;
            }
            let commits = (is_due && writer.is_ahead()) || writer.changed_count() >= media_max;
            if commits {
                writer.commit()?;
            }
            Ok::<_, IndexError>(writer)
        };
        writer = run_blocking(step).await?;
        if writer.is_ahead() {
            let wait = Duration::from_millis(config.commit_ms);
            // While it is built only the number of changes counts.
            due = if is_complete { Some(due.unwrap_or_else(|| Instant::now() + wait)) } else { None };
        } else {
            due = None;
            report_progress(&seen, &writer, is_caught_up);
        }
    }
    run_blocking(move || {
        if writer.is_ahead() {
            writer.commit()?;
        }
        writer.close()
    })
    .await
}

fn report_progress(seen: &watch::Sender<IndexProgress>, writer: &SearchWriter, is_caught_up: [bool; 2]) {
    seen.send_modify(|seen| {
        for bucket in SearchBucket::ALL {
            seen.set(bucket.as_index_bucket(), writer.cursor(bucket), is_caught_up[bucket as usize]);
        }
    });
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| IndexError::SearchDamaged { what: "writing panicked".into() })?
}

fn decode_entry(bucket: SearchBucket, entry: &StreamEntry) -> SearchChange {
    let (key, value) = split_entry(bucket.as_index_bucket(), entry);
    let record = decode_record(bucket, key, value).unwrap_or_else(|error| {
        // As in lists: the medium stays what it was.
        tracing::error!(%error, ?bucket, sequence = entry.sequence, "an entry can't be searched");
        None
    });
    SearchChange { sequence: entry.sequence, stored_at_ms: entry.stored_at_ms, record }
}

/// What an entry says of which medium; `value` is `None` when the key was deleted.
fn decode_record(
    bucket: SearchBucket,
    key: &str,
    value: Option<&[u8]>,
) -> Result<Option<(MediaId, SearchRecord)>, nats::BusError> {
    let media_id = key.parse().map_err(|_| nats::BusError::Invalid { what: format!("key of {bucket:?}") })?;
    let record = match bucket {
        SearchBucket::Media => match decode_value::<MediaDocumentRecord>(key, value)? {
            Some(record) if record.is_removed() => SearchRecord::Removed,
            record => SearchRecord::Document(record.map(Box::new)),
        },
        SearchBucket::Assets => {
            let record = decode_value::<MediaRecord>(key, value)?.filter(|record| !record.is_removed());
            SearchRecord::Asset(record.map(Box::new))
        }
    };
    Ok(Some((media_id, record)))
}

fn decode_value<R: KvRecord + DeserializeOwned>(
    key: &str,
    value: Option<&[u8]>,
) -> Result<Option<R>, nats::BusError> {
    value.map(|value| nats::decode_record::<R>(key, value).map(|(_, record)| record)).transpose()
}
