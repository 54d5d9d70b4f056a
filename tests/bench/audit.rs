//! The audit log: how soon an event is in it while 5,000 a second are published, and what a record costs.
//!
//! Both times are the broker's: when the event was stored, and when its record was.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ::audit::AuditConfig;
use futures::StreamExt;
use nats::{Bus, ReaderStart, Role, reader, testing::TestBroker};
use schemas::{
    ids::{MediaId, UploadId},
    subjects,
    upload::UploadExpired,
};
use tokio_util::sync::CancellationToken;

use crate::{Aim, Row, process::cpu_seconds, size};

/// Events that are published in a second.
const RATE: u64 = 5_000;
/// Publishes that are under way at the same time.
const IN_FLIGHT: usize = 256;

/// Publishes events at a rate, as ingress replicas together do.
async fn publish(bus: &Bus, count: u64) {
    let begun = Instant::now();
    futures::stream::iter(0..count)
        .for_each_concurrent(IN_FLIGHT, |number| async move {
            tokio::time::sleep_until((begun + Duration::from_micros(number * 1_000_000 / RATE)).into()).await;
            let upload_id = UploadId::from_bytes(nats::new_id_bytes());
            let media_id = MediaId::from_bytes(nats::new_id_bytes());
            let event = UploadExpired { upload_id, media_id, owner: "bench".into(), offset_bytes: 0 };
            bus.publish_event(&event, &upload_id.to_string()).await.unwrap();
        })
        .await;
}

/// When each message of a stream was stored, by what `key` makes of it, and the bytes of all.
async fn stored_at(
    bus: &Bus,
    stream: &str,
    key: impl Fn(&reader::StreamEntry) -> u64,
) -> (HashMap<u64, u64>, u64) {
    let config = reader::ReaderConfig::new(stream, Vec::new(), ReaderStart::All);
    let mut entries = bus.open_reader(config).await.unwrap();
    let (mut times, mut bytes) = (HashMap::new(), 0);
    while let Some(entry) = entries.next_pending().await.unwrap() {
        bytes += entry.payload_bytes();
        times.insert(key(&entry), entry.stored_at_ms);
    }
    (times, bytes)
}

pub(crate) async fn appended() -> Vec<Row> {
    let count = size("BENCH_AUDITED", 50_000);
    let broker = TestBroker::start().await;
    let stop = CancellationToken::new();
    let stage =
        tokio::spawn(::audit::run(broker.bus(Role::Audit).await, AuditConfig::default(), stop.clone()));
    let (ingress, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);
    let cpu_before = cpu_seconds(std::process::id());
    publish(&ingress, count).await;
    let is_behind = async || {
        let mut log = admin.context().get_stream(subjects::AUDIT).await.unwrap();
        log.info().await.unwrap().state.messages < count
    };
    while is_behind().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cpu_s = cpu_seconds(std::process::id()) - cpu_before;
    stop.cancel();
    stage.await.unwrap().unwrap();
    let (events, _) = stored_at(&admin, subjects::EVENTS, |entry| entry.sequence).await;
    let (records, bytes) = stored_at(&admin, subjects::AUDIT, |entry| entry.sequence).await;
    // One record an event, and in order.
    let mut waits_ms: Vec<u64> = events.iter().map(|(n, at)| records[n].saturating_sub(*at)).collect();
    waits_ms.sort_unstable();
    let p99_ms = waits_ms[waits_ms.len() * 99 / 100] as f64;
    eprintln!("publishing and auditing {count} events took {cpu_s:.1} s of processors in this process");
    let row =
        |name, ours, unit, aim| Row { name, ours, baseline: 0.0, unit, against: "none", aim: Aim::Most(aim) };
    vec![
        row("from event to record at 5,000/s, p99", p99_ms, "ms", 10.0),
        row("a record, as it is stored", bytes as f64 / count as f64, "bytes", 1_024.0),
    ]
}
