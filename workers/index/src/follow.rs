//! Following the buckets: one ordered reader each, entries in batches into the projection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use nats::metrics::{
    labels::IndexedBucket,
    table::{INDEX_CHANGES, INDEX_LAG_SECONDS, INDEX_WRITE_SECONDS},
};
use nats::{
    Bus, ReaderStart, StreamReader,
    reader::{self, StreamEntry, StreamPosition},
};
use schemas::{KvRecord, document, job, media, subjects};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    IndexError,
    projection::{BucketOrigin, IndexBucket, IndexChange, IndexEntry, IndexProjection, PartRow},
};

/// How soon buckets that can't be asked for are asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How far the projection is, per bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IndexProgress {
    states: [BucketProgress; 3],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct BucketProgress {
    sequence: u64,
    caught_up: bool,
}

impl IndexProgress {
    /// The newest revision of `bucket` that is in the projection.
    pub(crate) const fn revision(&self, bucket: IndexBucket) -> u64 {
        self.states[bucket as usize].sequence
    }

    /// The same, with what was written of `bucket`.
    pub(crate) const fn set(&mut self, bucket: IndexBucket, sequence: u64, caught_up: bool) {
        self.states[bucket as usize] = BucketProgress { sequence, caught_up };
    }

    /// True once everything that was in the buckets at the start is in the projection.
    pub(crate) fn is_complete(&self) -> bool {
        self.states.iter().all(|state| state.caught_up)
    }
}

/// A channel that carries how far the projection is.
pub(crate) fn progress_channel() -> (Arc<watch::Sender<IndexProgress>>, watch::Receiver<IndexProgress>) {
    let (sender, receiver) = watch::channel(IndexProgress::default());
    (Arc::new(sender), receiver)
}

/// Which buckets there are on the broker now.
///
/// # Errors
/// [`IndexError::Bus`] when the broker does not answer or a bucket is absent.
pub(crate) async fn read_origins(bus: &Bus) -> Result<Vec<BucketOrigin>, IndexError> {
    let mut origins = Vec::new();
    for bucket in IndexBucket::ALL {
        let name = subjects::kv_stream_name(bucket.name());
        let stream = bus.context().get_stream(&name).await.map_err(nats::BusError::unavailable)?;
        let info = stream.cached_info();
        // The creation time distinguishes a bucket that was made anew, whose sequences begin again.
        let created_at_us = u64::try_from(info.created.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        origins.push(BucketOrigin { bucket, created_at_us, last_sequence: info.state.last_sequence });
    }
    Ok(origins)
}

/// The same, once the broker answers; `None` when `shutdown` fires first.
pub(crate) async fn wait_for_origins(bus: &Bus, shutdown: &CancellationToken) -> Option<Vec<BucketOrigin>> {
    let mut failures: u32 = 0;
    loop {
        match read_origins(bus).await {
            Ok(origins) => return Some(origins),
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "the index waits for its buckets");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// The newest revision of `bucket` on the broker now.
///
/// # Errors
/// [`IndexError::Bus`] when the broker does not answer.
pub(crate) async fn read_newest_revision(bus: &Bus, bucket: IndexBucket) -> Result<u64, IndexError> {
    let name = subjects::kv_stream_name(bucket.name());
    let stream = bus.context().get_stream(&name).await.map_err(nats::BusError::unavailable)?;
    Ok(stream.cached_info().state.last_sequence)
}

/// Follows one bucket until `shutdown`.
///
/// # Errors
/// As the projection, and [`nats::BusError::Reset`] when the bucket was made anew; a broker that is away only delays.
pub(crate) async fn follow_bucket(
    bus: Bus,
    projection: Arc<IndexProjection>,
    origin: BucketOrigin,
    batch_entries_max: usize,
    seen: Arc<watch::Sender<IndexProgress>>,
    shutdown: CancellationToken,
) -> Result<(), IndexError> {
    let bucket = origin.bucket;
    let cursor = projection.read_cursor(bucket)?;
    let mut reader = read_bucket(&bus, "index", origin, cursor);
    let opened = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = reader.wait_until_open() => opened?,
    };
    let report = |sequence, caught_up| seen.send_modify(|seen| seen.set(bucket, sequence, caught_up));
    let (mut newest, mut caught_up) = (cursor, opened.pending == 0);
    report(newest, caught_up);
    loop {
        let batch = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            batch = read_batch(&mut reader, batch_entries_max, caught_up) => batch?,
        };
        let steps: Vec<IndexEntry> = batch.iter().map(|entry| decode_entry(bucket, entry)).collect();
        let Some((last, stored_at_ms)) = batch.last().map(|entry| (entry.sequence, entry.stored_at_ms))
        else {
            // Also where what waited expired or was removed meanwhile: it is not counted down.
            caught_up = true;
            INDEX_LAG_SECONDS.set(lag_label(bucket), 0.0);
            report(newest, caught_up);
            continue;
        };
        let (began, count) = (Instant::now(), steps.len());
        let target = Arc::clone(&projection);
        let written = tokio::task::spawn_blocking(move || {
            // The cursor moves in the same transaction: after a crash a batch is either there or read again.
            target.apply_entries(bucket, &steps)?;
            target.set_last_seen(bucket, stored_at_ms)
        })
        .await;
        written.map_err(|_| IndexError::Damaged { what: "writing panicked".into() })??;
        // A batch with room took all that was here.
        let behind_since_ms = (!caught_up || count >= batch_entries_max).then_some(stored_at_ms);
        count_batch(bucket, count, began, behind_since_ms);
        // Only what is written counts as seen: questions may ask for this revision.
        newest = last;
        report(newest, caught_up);
    }
}

fn lag_label(bucket: IndexBucket) -> IndexedBucket {
    match bucket {
        IndexBucket::Media => IndexedBucket::Media,
        IndexBucket::Assets => IndexedBucket::Assets,
        IndexBucket::Jobs => IndexedBucket::Jobs,
    }
}

/// Counts a batch that was written: how many changes, how long that took, and how old the last was then, unless nothing waits behind
/// it.
fn count_batch(bucket: IndexBucket, count: usize, began: Instant, behind_since_ms: Option<u64>) {
    let label = lag_label(bucket);
    INDEX_CHANGES.add(label, u64::try_from(count).unwrap_or(0));
    INDEX_WRITE_SECONDS.observe_since(label, began);
    let age_ms =
        behind_since_ms.map_or(0, |since_ms| nats::estimated_broker_now_ms().saturating_sub(since_ms));
    INDEX_LAG_SECONDS.set(label, age_ms as f64 / 1_000.0);
}

/// A reader of a bucket behind `cursor`, for a projection of this name.
pub(crate) fn read_bucket(bus: &Bus, projection: &str, origin: BucketOrigin, cursor: u64) -> StreamReader {
    let bucket = origin.bucket;
    let position = StreamPosition { created_at_ms: origin.created_at_us / 1_000, sequence: cursor };
    let config = reader::ReaderConfig::new(
        subjects::kv_stream_name(bucket.name()),
        vec![subjects::kv_subject(bucket.name(), ">")],
        ReaderStart::Behind(position),
    );
    bus.follow_stream(&format!("{projection} of {}", bucket.name()), config)
}

/// Waits for one entry and takes those that are here already. Until it has `caught_up` with what was there at the start: none when
/// nothing of it waits.
pub(crate) async fn read_batch(
    reader: &mut StreamReader,
    entries_max: usize,
    caught_up: bool,
) -> Result<Vec<StreamEntry>, IndexError> {
    let first = if caught_up { Some(reader.next().await?) } else { reader.next_pending().await? };
    let Some(first) = first else { return Ok(Vec::new()) };
    let mut batch = vec![first];
    while batch.len() < entries_max.max(1) {
        // What is there already shares one transaction; nothing is waited for.
        match reader.next().now_or_never() {
            Some(entry) => batch.push(entry?),
            None => break,
        }
    }
    Ok(batch)
}

/// Key and value of an entry; no value of a key that was deleted.
pub(crate) fn split_entry(bucket: IndexBucket, entry: &StreamEntry) -> (&str, Option<&[u8]>) {
    let key = entry.subject.strip_prefix(&subjects::kv_subject(bucket.name(), "")).unwrap_or_default();
    (key, (!entry.is_removal()).then_some(entry.payload.as_ref()))
}

fn decode_entry(bucket: IndexBucket, entry: &StreamEntry) -> IndexEntry {
    let (key, value) = split_entry(bucket, entry);
    let change = decode_change(bucket, key, value).unwrap_or_else(|error| {
        // Someone else's mistake must not stop every list; the record stays what it was.
        tracing::error!(%error, bucket = bucket.name(), sequence = entry.sequence, "an entry can't be indexed");
        IndexChange::Other
    });
    IndexEntry { sequence: entry.sequence, change }
}

/// What an entry means; `value` is `None` when the key was deleted.
pub(crate) fn decode_change(
    bucket: IndexBucket,
    key: &str,
    value: Option<&[u8]>,
) -> Result<IndexChange, nats::BusError> {
    let malformed = |_| nats::BusError::Invalid { what: format!("key of the bucket {}", bucket.name()) };
    Ok(match bucket {
        IndexBucket::Media => {
            IndexChange::Document(key.parse().map_err(malformed)?, decode_document(key, value)?.map(Box::new))
        }
        IndexBucket::Assets => IndexChange::Asset(
            key.parse().map_err(malformed)?,
            // Also of a removed medium: what can be restored is listed as it stood.
            decode_with_tombstone::<media::MediaRecord>(key, value)?.map(Box::new),
        ),
        IndexBucket::Jobs => match key.split_once('.') {
            None => {
                let record =
                    decode_record::<job::JobRecord>(key, value)?.map(|record| Box::new(record.into()));
                IndexChange::Job(key.parse().map_err(malformed)?, record)
            }
            Some((job_id, part)) => {
                let record = decode_record::<job::JobPartRecord>(key, value)?;
                let facts = record.map(|part| PartRow {
                    status: part.status,
                    cpu_ms: part.cpu_ms,
                    work_ms: part.wall_ms,
                });
                IndexChange::Part(job_id.parse().map_err(malformed)?, part.to_owned(), facts)
            }
        },
    })
}

fn decode_record<R: KvRecord>(key: &str, value: Option<&[u8]>) -> Result<Option<R>, nats::BusError> {
    Ok(decode_with_tombstone::<R>(key, value)?.filter(|record| !record.is_removed()))
}

fn decode_with_tombstone<R: KvRecord>(key: &str, value: Option<&[u8]>) -> Result<Option<R>, nats::BusError> {
    value.map(|value| nats::decode_record::<R>(key, value).map(|(_, record)| record)).transpose()
}

/// The document, also of a removed medium that can be restored: its owner lists those.
fn decode_document(
    key: &str,
    value: Option<&[u8]>,
) -> Result<Option<document::MediaDocumentRecord>, nats::BusError> {
    let record = decode_with_tombstone::<document::MediaDocumentRecord>(key, value)?;
    Ok(record.filter(|record| !record.is_removed() || record.is_restorable))
}
