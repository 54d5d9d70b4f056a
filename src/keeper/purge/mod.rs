//! What is left of removed media, the sources of rejected ones, and replaced encodes: objects, segment keys and records go after their
//! time.
//!
//! A removed medium is known by the tombstone of its document. Work on it that a crash left running is ended at once; after the
//! grace time its objects are removed, then its segment key, its uploads, its jobs with their parts, what the stages know, and the
//! document last, so that a crash anywhere repeats the rest. A purged key leaves a mark for a while, which keeps late writers from
//! making the record anew; halfway through that time the store is looked at once more for what such a writer put there.
//!
//! Limits: [`PurgeConfig`]; one pass each period, one medium after the other; uploads and jobs are read through once in a pass that
//! has something to purge.

mod medium;
mod pending;
#[cfg(test)]
mod tests;

use std::time::Duration;

use nats::{Bus, BusError, ReaderStart, StreamReader, reader};
use schemars::JsonSchema;
use schemas::{KvRecord, document, media, subjects};
use serde::{Deserialize, Serialize};
use store::Store;
use tokio_util::sync::CancellationToken;

use self::{medium::MediaPurger, pending::PendingPurges};

/// When what goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PurgeConfig {
    /// Time from the end of a medium until its objects and records go, in seconds: from its removal for good, or from when it can't
    /// be restored any more.
    pub grace_s: u64,
    /// Time for which a purged key can't be made anew, in seconds.
    pub mark_s: u64,
    /// Age of a rejection at which the source goes, in seconds; its records stay and say why.
    pub rejected_age_s: u64,
    /// How often what is due is looked for, in milliseconds.
    pub period_ms: u64,
    /// Age at which an encode that another one replaced goes, in milliseconds: the longest session that plays it has ended. Set by
    /// `grants.session_ms`.
    #[serde(skip)]
    pub superseded_age_ms: u64,
    /// How long a removed medium can be restored before the grace time begins, in milliseconds. Set by `retention.removed_ms`.
    #[serde(skip)]
    pub restorable_ms: u64,
}

/// How much longer than a session a replaced encode is kept, in milliseconds: sessions are as long by the clock of the host that opened
/// them, and a replica opens sessions of the old one until the event of the new one has come.
pub const SUPERSEDED_MARGIN_MS: u64 = 30 * 60_000;

impl Default for PurgeConfig {
    fn default() -> Self {
        Self {
            grace_s: 300,
            mark_s: 24 * 3_600,
            rejected_age_s: 7 * 24 * 3_600,
            period_ms: 5_000,
            superseded_age_ms: 12 * 3_600_000 + SUPERSEDED_MARGIN_MS,
            restorable_ms: 0,
        }
    }
}

impl PurgeConfig {
    fn mark_ttl(&self) -> Duration {
        Duration::from_secs(self.mark_s.max(1))
    }
}

/// Purges until `held` fires, or a bucket is another one of the same name: the next term reads all of it.
pub async fn run_purge(bus: Bus, store: Store, config: PurgeConfig, held: CancellationToken) {
    let Some(mut documents) = open_bucket_reader(&bus, document::MediaDocumentRecord::BUCKET, &held).await
    else {
        return;
    };
    // Both from the newest of each key: what was removed while no keeper ran is found, too.
    let Some(mut assets) = open_bucket_reader(&bus, media::MediaRecord::BUCKET, &held).await else { return };
    let mut ticks = tokio::time::interval(Duration::from_millis(config.period_ms.max(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let purge = MediaPurger { bus, store, config };
    let mut pending = PendingPurges::default();
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            entry = documents.next() => match entry {
                Ok(entry) => pending.apply_document(&entry),
                Err(error) => return tracing::warn!(%error, "the documents are read anew"),
            },
            entry = assets.next() => match entry {
                Ok(entry) => pending.apply_asset(&entry),
                Err(error) => return tracing::warn!(%error, "what stages know of media is read anew"),
            },
            _ = ticks.tick() => {
                tokio::select! {
                    () = held.cancelled() => return,
                    () = purge.purge_due(&mut pending) => {}
                }
            }
        }
    }
}

/// Everything that is in a bucket, and what comes; `None` when `held` fired while the broker was away.
async fn open_bucket_reader(bus: &Bus, bucket: &str, held: &CancellationToken) -> Option<StreamReader> {
    let filters = vec![subjects::kv_subject(bucket, ">")];
    let settings =
        reader::ReaderConfig::new(subjects::kv_stream_name(bucket), filters, ReaderStart::LastPerSubject);
    loop {
        match bus.open_reader(settings.clone()).await {
            Ok(reader) => return Some(reader),
            Err(error) => tracing::warn!(%error, bucket, "purging waits for the broker"),
        }
        tokio::select! {
            () = held.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Hands every newest entry of a bucket to `take`: key and value.
async fn read_bucket(
    bus: &Bus,
    bucket: &str,
    mut take: impl FnMut(&str, &[u8]) + Send,
) -> Result<(), BusError> {
    let filters = vec![subjects::kv_subject(bucket, ">")];
    let settings =
        reader::ReaderConfig::new(subjects::kv_stream_name(bucket), filters, ReaderStart::LastPerSubject);
    let mut entries = bus.open_reader(settings).await?;
    let prefix = subjects::kv_subject(bucket, "");
    while let Some(entry) = entries.next_pending().await? {
        if let Some(key) = entry.subject.strip_prefix(&prefix) {
            take(key, &entry.payload);
        }
    }
    Ok(())
}
