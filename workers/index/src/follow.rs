//! Following the buckets: one ordered reader each, entries in batches into the projection.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use nats::{
    Bus, Reader, Start,
    reader::{self, Entry, Position},
};
use schemas::{Record, document, job, media, subjects};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    projection::{Bucket, Change, Origin, PartFacts, Projection, Step},
};

/// How soon buckets that can't be asked for are asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How far the projection is, per bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    states: [State; 3],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    sequence: u64,
    caught_up: bool,
}

impl Seen {
    /// The newest revision of `bucket` that is in the projection.
    pub(crate) const fn revision(&self, bucket: Bucket) -> u64 {
        self.states[bucket as usize].sequence
    }

    /// True once everything that was in the buckets at the start is in the projection.
    pub(crate) fn is_complete(&self) -> bool {
        self.states.iter().all(|state| state.caught_up)
    }
}

/// A place to tell how far the projection is, and to hear of it.
pub(crate) fn seen() -> (Arc<watch::Sender<Seen>>, watch::Receiver<Seen>) {
    let (sender, receiver) = watch::channel(Seen::default());
    (Arc::new(sender), receiver)
}

/// Which buckets there are on the broker now.
///
/// # Errors
/// [`Error::Bus`] when the broker does not answer or a bucket is absent.
pub(crate) async fn origins(bus: &Bus) -> Result<Vec<Origin>, Error> {
    let mut origins = Vec::new();
    for bucket in Bucket::ALL {
        let name = subjects::kv_stream(bucket.name());
        let stream = bus.context().get_stream(&name).await.map_err(nats::Error::unavailable)?;
        let info = stream.cached_info();
        let created_at_us = u64::try_from(info.created.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        origins.push(Origin { bucket, created_at_us, last_sequence: info.state.last_sequence });
    }
    Ok(origins)
}

/// The same, once the broker answers; `None` when `shutdown` fires first.
pub(crate) async fn origins_once_there(bus: &Bus, shutdown: &CancellationToken) -> Option<Vec<Origin>> {
    let mut failures: u32 = 0;
    loop {
        match origins(bus).await {
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
/// [`Error::Bus`] when the broker does not answer.
pub(crate) async fn newest(bus: &Bus, bucket: Bucket) -> Result<u64, Error> {
    let name = subjects::kv_stream(bucket.name());
    let stream = bus.context().get_stream(&name).await.map_err(nats::Error::unavailable)?;
    Ok(stream.cached_info().state.last_sequence)
}

/// Follows one bucket until `shutdown`.
///
/// # Errors
/// As the projection, and [`nats::Error::Reset`] when the bucket was made anew; a broker that is away only delays.
pub(crate) async fn run(
    bus: Bus,
    projection: Arc<Projection>,
    origin: Origin,
    batch_entries_max: usize,
    seen: Arc<watch::Sender<Seen>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let bucket = origin.bucket;
    let cursor = projection.cursor(bucket)?;
    let position = Position { created_at_ms: origin.created_at_us / 1_000, sequence: cursor };
    let filter = subjects::kv(bucket.name(), ">");
    let config =
        reader::Config::new(subjects::kv_stream(bucket.name()), vec![filter], Start::Behind(position));
    let mut reader = bus.follow(&format!("index of {}", bucket.name()), config);
    let opened = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = reader.opened() => opened?,
    };
    let mut missing = opened.pending;
    let tell = |sequence, missing| {
        seen.send_modify(|seen| seen.states[bucket as usize] = State { sequence, caught_up: missing == 0 });
    };
    tell(cursor, missing);
    loop {
        let batch = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            batch = gather(&mut reader, batch_entries_max) => batch?,
        };
        missing = missing.saturating_sub(batch.len() as u64);
        let steps: Vec<Step> = batch.iter().map(|entry| step(bucket, entry)).collect();
        let Some(last) = steps.last().map(|step| step.sequence) else { continue };
        let target = Arc::clone(&projection);
        let written = tokio::task::spawn_blocking(move || target.apply(bucket, &steps)).await;
        written.map_err(|_| Error::Damaged { what: "writing panicked".into() })??;
        tell(last, missing);
    }
}

/// Waits for one entry and takes those that are here already.
async fn gather(reader: &mut Reader, entries_max: usize) -> Result<Vec<Entry>, Error> {
    let mut batch = vec![reader.next().await?];
    while batch.len() < entries_max.max(1) {
        match reader.next().now_or_never() {
            Some(entry) => batch.push(entry?),
            None => break,
        }
    }
    Ok(batch)
}

fn step(bucket: Bucket, entry: &Entry) -> Step {
    let key = entry.subject.strip_prefix(&subjects::kv(bucket.name(), "")).unwrap_or_default();
    let deleted =
        ["KV-Operation", "Nats-Marker-Reason"].iter().any(|name| entry.headers.get(*name).is_some());
    let change = change(bucket, key, (!deleted).then_some(entry.payload.as_ref())).unwrap_or_else(|error| {
        // Someone else's mistake must not stop every list; the record stays what it was.
        tracing::error!(%error, bucket = bucket.name(), sequence = entry.sequence, "an entry can't be indexed");
        Change::Other
    });
    Step { sequence: entry.sequence, change }
}

/// What an entry means; `value` is `None` when the key was deleted.
pub(crate) fn change(bucket: Bucket, key: &str, value: Option<&[u8]>) -> Result<Change, nats::Error> {
    let malformed = |_| nats::Error::Invalid { what: format!("key of the bucket {}", bucket.name()) };
    Ok(match bucket {
        Bucket::Media => Change::Document(
            key.parse().map_err(malformed)?,
            open::<document::Record>(key, value)?.map(Box::new),
        ),
        Bucket::Assets => {
            Change::Asset(key.parse().map_err(malformed)?, open::<media::Record>(key, value)?.map(Box::new))
        }
        Bucket::Jobs => match key.split_once('.') {
            None => {
                let record = open::<job::Record>(key, value)?.map(|record| Box::new(record.into()));
                Change::Job(key.parse().map_err(malformed)?, record)
            }
            Some((job_id, part)) => {
                let record = open::<job::Part>(key, value)?;
                let facts = record.map(|part| PartFacts { status: part.status, cpu_ms: part.cpu_ms });
                Change::Part(job_id.parse().map_err(malformed)?, part.to_owned(), facts)
            }
        },
    })
}

fn open<R: Record>(key: &str, value: Option<&[u8]>) -> Result<Option<R>, nats::Error> {
    let record = value.map(|value| nats::open::<R>(key, value).map(|(_, record)| record)).transpose()?;
    Ok(record.filter(|record| !record.is_removed()))
}
