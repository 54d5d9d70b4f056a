//! Everything that goes over the bus is what `schemas` says.

use std::collections::HashMap;

use futures::{FutureExt, StreamExt};
use nats::{ReaderStart, reader};
use schemas::{catalog, envelope::RecordEnvelope, subjects};
use serde_json::Value;

use crate::harness::{Cluster, Options, sample};

fn matches(address: &str, subject: &str) -> bool {
    let (address, subject): (Vec<&str>, Vec<&str>) =
        (address.split('.').collect(), subject.split('.').collect());
    address.len() == subject.len() && address.iter().zip(&subject).all(|(a, s)| a.starts_with('{') || a == s)
}

/// MessagePack as the schemas describe it: bytes are a list of numbers.
fn to_json(value: rmpv::Value) -> Value {
    match value {
        rmpv::Value::Binary(bytes) => bytes.into(),
        rmpv::Value::Array(items) => items.into_iter().map(to_json).collect(),
        rmpv::Value::Map(entries) => {
            let entry =
                |(key, value): (rmpv::Value, rmpv::Value)| (key.as_str().unwrap().to_owned(), to_json(value));
            Value::Object(entries.into_iter().map(entry).collect())
        }
        plain => serde_json::to_value(plain).unwrap(),
    }
}

struct Contract {
    validators: HashMap<String, (String, jsonschema::Validator)>,
}

impl Contract {
    fn load() -> Self {
        let validators = catalog::all_entries()
            .into_iter()
            .map(|entry| {
                let text = std::fs::read_to_string(format!("schemas/json/{}.v1.json", entry.name)).unwrap();
                let schema: Value = serde_json::from_str(&text).unwrap();
                (entry.name, (entry.address, jsonschema::validator_for(&schema).unwrap()))
            })
            .collect();
        Self { validators }
    }

    /// Checks one message; answers the kind it is.
    fn check(&self, subject: &str, payload: &[u8]) -> String {
        let (name, (_, validator)) = self
            .validators
            .iter()
            .find(|(name, (address, _))| name.as_str() != "kv.envelope" && matches(address, subject))
            .unwrap_or_else(|| panic!("{subject} is in no schema"));
        let is_record = subject.starts_with("$KV.");
        let bytes = if is_record {
            let envelope: RecordEnvelope = nats::decode_message(subject, payload).unwrap();
            for unsent in &envelope.unsent {
                self.check(&unsent.subject, &unsent.payload);
            }
            envelope.record.into_vec()
        } else {
            payload.to_vec()
        };
        let value = to_json(rmp_serde::from_slice(&bytes).unwrap());
        if let Err(error) = validator.validate(&value) {
            panic!("{subject} is no {name}: {error}\n{value:#}");
        }
        name.clone()
    }
}

#[tokio::test]
async fn every_message_validates_against_its_published_schema() {
    let mut cluster = Cluster::start(Options::default()).await;
    let contract = Contract::load();
    let mut wire = cluster.bus.client().subscribe(">").await.unwrap();
    let good = cluster.upload(sample(14, "320x180", "25"), "good.mp4").await;
    let bad = cluster.upload(b"no film".repeat(100), "bad.mp4").await;
    assert_eq!(cluster.end_of(&good).await.kind, "job.succeeded");
    assert_eq!(cluster.end_of(&bad).await.kind, "media.rejected");
    let ours = ["evt", "job", "progress", "$KV"];
    let mut kinds: HashMap<String, u32> = HashMap::new();
    // What the broker keeps, and what went by meanwhile.
    for stream in
        [subjects::EVENTS, "KV_media", "KV_assets", "KV_jobs", "KV_uploads", "KV_apikeys", "KV_secrets"]
    {
        let mut reader = cluster
            .bus
            .open_reader(reader::ReaderConfig::new(stream, vec![], ReaderStart::All))
            .await
            .unwrap();
        let mut left = reader.pending_at_start();
        while left > 0 {
            let entry = reader.next().await.unwrap();
            left = entry.pending;
            *kinds.entry(contract.check(&entry.subject, &entry.payload)).or_default() += 1;
        }
    }
    // Unconstrained: the runtime would say `not now` after so many messages, which reads like the end.
    while let Some(Some(message)) = tokio::task::unconstrained(wire.next()).now_or_never() {
        let delivery = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK"));
        let first = message.subject.split('.').next().unwrap_or_default().to_owned();
        // No records: who holds a lease, who can write.
        let lease = ["$KV.leases.", "$KV.workers."].iter().any(|bucket| message.subject.starts_with(bucket));
        if ours.contains(&first.as_str()) && !delivery && !lease && message.status.is_none() {
            *kinds.entry(contract.check(&message.subject, &message.payload)).or_default() += 1;
        }
    }
    for kind in [
        "upload.received",
        "media.ready",
        "media.rejected",
        "job.task",
        "job.progress",
        "kv.jobs.part",
        "kv.assets",
    ] {
        assert!(kinds.contains_key(kind), "{kind} was never seen: {kinds:?}");
    }
}
