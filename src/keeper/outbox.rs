//! The outbox sweeper: follows every state bucket and publishes events that stayed in their record too long.
//!
//! Limits: one reader a bucket; a key waits here only while its record has unsent events.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nats::{Bus, ReaderStart, reader};
use schemas::{
    KvRecord, access, document, envelope::RecordEnvelope, gate, hook, job, limit, media, schedule, session,
    subjects, upload,
};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Buckets whose records carry events.
pub const BUCKETS: [&str; 11] = [
    upload::UploadRecord::BUCKET,
    media::MediaRecord::BUCKET,
    job::JobRecord::BUCKET,
    document::MediaDocumentRecord::BUCKET,
    access::ApiKey::BUCKET,
    session::SignInChallenge::BUCKET,
    session::AuthSession::BUCKET,
    gate::PlaybackSession::BUCKET,
    limit::RateLimitEventCounter::BUCKET,
    schedule::ScheduleRecord::BUCKET,
    hook::HookRecord::BUCKET,
];

/// Sweeps until `held` fires.
pub async fn run_outbox_sweeps(bus: Bus, config: KeeperConfig, held: CancellationToken) {
    let sweeps = BUCKETS.map(|bucket| sweep_bucket(&bus, bucket, &config, &held));
    futures::future::join_all(sweeps).await;
}

async fn sweep_bucket(bus: &Bus, bucket: &str, config: &KeeperConfig, held: &CancellationToken) {
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(bucket),
        vec![subjects::kv_subject(bucket, ">")],
        ReaderStart::LastPerSubject,
    );
    let name = format!("outbox of {bucket}");
    let mut entries = bus.follow_stream(&name, settings.clone());
    let age = Duration::from_millis(config.unsent_age_ms);
    let mut ticks = tokio::time::interval(age.max(Duration::from_millis(100)) / 2);
    // By this machine's monotonic clock, from when it was seen: no two clocks are compared.
    let mut waiting: HashMap<String, Instant> = HashMap::new();
    let prefix = subjects::kv_subject(bucket, "");
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            entry = entries.next() => match entry {
                Ok(entry) => {
                    let Some(key) = entry.subject.strip_prefix(&prefix) else { continue };
                    let unsent = nats::decode_message::<RecordEnvelope>(key, &entry.payload).is_ok_and(|e| !e.unsent.is_empty());
                    if unsent {
                        // From the first sight: a record that is written often would otherwise never be old enough.
                        waiting.entry(key.to_owned()).or_insert_with(Instant::now);
                    } else {
                        waiting.remove(key);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, bucket, "records are followed anew");
                    waiting.clear();
                    entries = bus.follow_stream(&name, settings.clone());
                }
            },
            _ = ticks.tick() => publish_overdue(bus, bucket, age, &mut waiting).await,
        }
    }
}

/// Publishes what is older than the limit; what can't be published stays for the next round.
async fn publish_overdue(bus: &Bus, bucket: &str, age: Duration, waiting: &mut HashMap<String, Instant>) {
    let old: Vec<String> =
        waiting.iter().filter(|(_, since)| since.elapsed() >= age).map(|(key, _)| key.clone()).collect();
    for key in old {
        match bus.sweep_record(bucket, &key).await {
            Ok(found) => {
                waiting.remove(&key);
                if found {
                    tracing::info!(bucket, key, "published what a crash left unsent");
                }
            }
            Err(error) => tracing::warn!(%error, bucket, key, "events are still unsent"),
        }
    }
}
