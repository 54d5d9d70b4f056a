//! The outbox sweeper: follows every state bucket and publishes events that stayed in their record too long.
//!
//! Limits: one reader a bucket; a key waits here only while its record has unsent events.

use std::{collections::HashMap, time::Duration};

use nats::{Bus, Error, Start, reader};
use schemas::{
    Record, access, document, envelope::Envelope, gate, job, limit, media, session, subjects, upload,
};
use tokio_util::sync::CancellationToken;

use super::Config;

/// Buckets whose records carry events.
pub const BUCKETS: [&str; 9] = [
    upload::Record::BUCKET,
    media::Record::BUCKET,
    job::Record::BUCKET,
    document::Record::BUCKET,
    access::ApiKey::BUCKET,
    session::Challenge::BUCKET,
    session::Session::BUCKET,
    gate::Session::BUCKET,
    limit::Reported::BUCKET,
];

/// Sweeps until `held` fires.
pub async fn run(bus: Bus, config: Config, held: CancellationToken) {
    let sweeps = BUCKETS.map(|bucket| sweep(&bus, bucket, &config, &held));
    futures::future::join_all(sweeps).await;
}

async fn sweep(bus: &Bus, bucket: &str, config: &Config, held: &CancellationToken) {
    let settings = reader::Config::new(
        subjects::kv_stream(bucket),
        vec![subjects::kv(bucket, ">")],
        Start::LastPerSubject,
    );
    let name = format!("outbox of {bucket}");
    let mut entries = bus.follow(&name, settings.clone());
    let age = Duration::from_millis(config.unsent_age_ms);
    let mut ticks = tokio::time::interval(age.max(Duration::from_millis(100)) / 2);
    let mut waiting: HashMap<String, u64> = HashMap::new();
    let prefix = subjects::kv(bucket, "");
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            entry = entries.next() => match entry {
                Ok(entry) => {
                    let Some(key) = entry.subject.strip_prefix(&prefix) else { continue };
                    let unsent = nats::decode::<Envelope>(key, &entry.payload).is_ok_and(|e| !e.unsent.is_empty());
                    if unsent {
                        waiting.insert(key.to_owned(), entry.stored_at_ms);
                    } else {
                        waiting.remove(key);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, bucket, "records are followed anew");
                    waiting.clear();
                    entries = bus.follow(&name, settings.clone());
                }
            },
            _ = ticks.tick() => publish_old(bus, bucket, config.unsent_age_ms, &mut waiting).await,
        }
    }
}

/// Publishes what is older than the limit; what can't be published stays for the next round.
async fn publish_old(bus: &Bus, bucket: &str, age_ms: u64, waiting: &mut HashMap<String, u64>) {
    let now_ms = nats::now_ms();
    let old: Vec<String> = waiting
        .iter()
        .filter(|(_, since_ms)| **since_ms + age_ms <= now_ms)
        .map(|(key, _)| key.clone())
        .collect();
    for key in old {
        match bus.sweep(bucket, &key).await {
            Ok(found) => {
                waiting.remove(&key);
                if found {
                    tracing::info!(bucket, key, "published what a crash left unsent");
                }
            }
            // The record changed meanwhile: its new entry says whether anything is left.
            Err(Error::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, bucket, key, "events are still unsent"),
        }
    }
}
