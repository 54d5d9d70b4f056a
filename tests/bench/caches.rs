//! What each cache spares a request, how often it answers under a Zipf load, and what an entry costs in memory.
//!
//! All rows are of one ingress in this process. Misses are the first requests of things that nobody asked for before, hits the same requests
//! again.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use nats::{Outbox, VersionedRecord};
use schemas::{
    examples,
    ids::{JobId, MediaId, UploadId},
    job::{self, EncodePlan},
    keys,
    upload::{UploadRecord, UploadStatus},
};
use serde_json::json;

use crate::{
    Aim, Row,
    http::{Client, OBJECTS, OWNER, Site},
    median,
    process::resident_kb,
};

/// Jobs and their parts, which is what a 10-minute title has.
const JOBS: usize = 60;
const PARTS: usize = 12;
/// Bytes of a value of the cache API.
const VALUE_BYTES: usize = 512;
/// Values under the Zipf load, of which a fifth has room in memory.
const ZIPF_KEYS: u32 = 10_000;
const ZIPF_ROOM: u32 = 2_000;
const ZIPF_REQUESTS: usize = 60_000;
/// Writes that are under way at the same time.
const PUTS: usize = 32;

/// Requests with their key.
#[derive(Clone)]
struct Asker {
    address: SocketAddr,
    key: String,
}

impl Asker {
    fn head(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n", self.key)
    }

    /// Medians of the first and of the second requests for each path, in microseconds.
    async fn hits_and_misses(&self, paths: Vec<String>) -> (f64, f64) {
        let asker = self.clone();
        let asking = move || {
            let mut client = Client::new(asker.address);
            // Memory answers a moment after somebody began to ask.
            let warm = std::time::Instant::now();
            while warm.elapsed() < Duration::from_secs(3) {
                client.ask(&asker.head("/v1/cache/entries/warm"));
                client.ask(&asker.head(paths.first().unwrap()));
            }
            let mut of_all =
                || median(paths.iter().skip(1).map(|path| client.time(&asker.head(path))).collect());
            let misses = of_all();
            (of_all(), misses)
        };
        tokio::task::spawn_blocking(asking).await.unwrap()
    }
}

async fn asker(site: &mut Site) -> Asker {
    let router = ingress::router(site.app.clone());
    let asker = Asker { address: site.serve(router).await, key: site.key.clone() };
    put_values(&asker, ["warm".to_owned()]).await;
    asker
}

/// Puts values of the cache API.
async fn put_values(asker: &Asker, names: impl IntoIterator<Item = String>) {
    let client = reqwest::Client::new();
    let put = async |name: String| {
        let url = format!("http://{}/v1/cache/entries/{name}?ttl_s=3600", asker.address);
        let answer =
            client.put(url).bearer_auth(&asker.key).body(vec![b'v'; VALUE_BYTES]).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    };
    futures::stream::iter(names).for_each_concurrent(PUTS, put).await;
}

fn gain(name: &'static str, (hits, misses): (f64, f64), against: &'static str) -> Row {
    Row { name, ours: hits, baseline: misses, unit: "us", against, aim: Aim::RatioMost(1.0) }
}

/// Jobs that succeeded, with all their parts.
async fn store_jobs(site: &Site) -> Vec<JobId> {
    let plan: EncodePlan = serde_json::from_value(json!({
        "source_key": "media/bench/source", "source_bytes": 1, "origin_us": 0, "duration_ms": 600_000, "video": null,
        "audio": [], "poster": null, "profile": "default", "options_digest": "3fd1a7c2b94e5d60", "reasons": [],
    }))
    .unwrap();
    let parts: Vec<String> = (0..PARTS).map(|i| format!("v{i:04}")).collect();
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        let job_id = JobId::from_bytes(nats::new_id_bytes());
        let job = job::JobRecord {
            job_id,
            media_id: site.media_id,
            owner: OWNER.into(),
            status: job::JobStatus::Succeeded,
            plan: plan.clone(),
            parts: parts.clone(),
            ended_at_ms: Some(2),
            ..examples::job_record()
        };
        site.admin.commit_record(&mut VersionedRecord::new(job), Outbox::new()).await.unwrap();
        for part in parts.iter().map(String::as_str).chain([job::FINISH]) {
            site.admin
                .commit_record(&mut VersionedRecord::new(done(job_id, part)), Outbox::new())
                .await
                .unwrap();
        }
        ids.push(job_id);
    }
    ids
}

fn done(job_id: JobId, part: &str) -> job::JobPartRecord {
    job::JobPartRecord {
        status: job::JobPartStatus::Done,
        attempt: 1,
        worker: "bench".into(),
        cpu_ms: 1,
        wall_ms: 1,
        rss_bytes_max: 1,
        ..job::JobPartRecord::new(job_id, part)
    }
}

/// What a hit spares, for each cache.
pub(crate) async fn gains() -> Vec<Row> {
    let mut site = Site::start().await;
    let asker = asker(&mut site).await;
    put_values(&asker, (0..OBJECTS).map(|number| number.to_string())).await;
    let entries = (0..OBJECTS).map(|number| format!("/v1/cache/entries/{number}")).collect();
    let media = store_media(&site).await;
    let documents = media.iter().map(|(media_id, _)| format!("/v1/media/{media_id}")).collect();
    let statuses = media.iter().map(|(_, upload_id)| format!("/v1/uploads/{upload_id}/status")).collect();
    let jobs = store_jobs(&site).await.iter().map(|id| format!("/v1/jobs/{id}")).collect();
    let base = open_playback(&asker, site.media_id).await;
    let playlists =
        (0..OBJECTS).map(|i| format!("{base}/{}", keys::media_playlist_path(&format!("v{i}")))).collect();
    let segments = (0..OBJECTS).map(|i| format!("{base}/{}", keys::segment_path("v0", i + 1))).collect();
    vec![
        gain("a value of the cache API from memory", asker.hits_and_misses(entries).await, "from the broker"),
        gain("a document from memory", asker.hits_and_misses(documents).await, "from the broker"),
        gain("the status of an upload from memory", asker.hits_and_misses(statuses).await, "from the broker"),
        gain("a finished job from memory", asker.hits_and_misses(jobs).await, "its first request, 12 parts"),
        gain("a playlist from memory", asker.hits_and_misses(playlists).await, "from a folder"),
        gain("a segment of 250 kB from memory", asker.hits_and_misses(segments).await, "from a folder"),
    ]
}

/// The address of a playback session's files.
async fn open_playback(asker: &Asker, media_id: MediaId) -> String {
    let url = format!("http://{}/v1/media/{media_id}/playback", asker.address);
    let answer = reqwest::Client::new().post(url).bearer_auth(&asker.key).send().await.unwrap();
    let session: serde_json::Value = answer.json().await.unwrap();
    format!("/play/{}/{media_id}", session["token"].as_str().unwrap())
}

/// Media that are ready, each with its upload.
async fn store_media(site: &Site) -> Vec<(MediaId, UploadId)> {
    let mut media = Vec::new();
    for _ in 0..OBJECTS {
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        let upload_id = UploadId::from_bytes(nats::new_id_bytes());
        let asset =
            schemas::media::MediaRecord::new(media_id, OWNER.into(), schemas::media::MediaStatus::Ready, 1);
        let document = schemas::document::MediaDocumentRecord::new(media_id, OWNER.into(), 1);
        let upload = UploadRecord {
            upload_id,
            media_id,
            owner: OWNER.into(),
            status: UploadStatus::Received,
            ..examples::upload_record()
        };
        site.admin.commit_record(&mut VersionedRecord::new(asset), Outbox::new()).await.unwrap();
        site.admin.commit_record(&mut VersionedRecord::new(document), Outbox::new()).await.unwrap();
        site.admin.commit_record(&mut VersionedRecord::new(upload), Outbox::new()).await.unwrap();
        media.push((media_id, upload_id));
    }
    media
}

/// Numbers below `count` by a Zipf law of exponent 1, from a generator with a fixed seed.
fn zipf_numbers(count: u32, length: usize) -> Vec<u32> {
    let weights: Vec<f64> = (1..=count).map(|rank| 1.0 / f64::from(rank)).collect();
    let sum: f64 = weights.iter().sum();
    let bounds: Vec<f64> = weights
        .iter()
        .scan(0.0, |below, weight| {
            *below += weight / sum;
            Some(*below)
        })
        .collect();
    // Marsaglia, "Xorshift RNGs" (2003), 64 bits.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..length).map(|_| u32::try_from(bounds.partition_point(|bound| *bound < draw())).unwrap()).collect()
}

/// How often memory answers when a fifth of the values has room there, and requests follow a Zipf law.
pub(crate) async fn zipf_hit_ratio() -> Row {
    let mut site = Site::start_with(|config| {
        config.cache.memory.entries_max = ZIPF_ROOM;
        config.cache.owner_entries_max = 1_000_000;
    })
    .await;
    let asker = asker(&mut site).await;
    put_values(&asker, (0..ZIPF_KEYS).map(|number| number.to_string())).await;
    let path = |number: u32| format!("/v1/cache/entries/{number}");
    asker.hits_and_misses(vec![path(0), path(1)]).await;
    let before = entry_stats(&asker).await;
    let asking = asker.clone();
    tokio::task::spawn_blocking(move || {
        let mut client = Client::new(asking.address);
        for number in zipf_numbers(ZIPF_KEYS, ZIPF_REQUESTS) {
            client.ask(&asking.head(&path(number)));
        }
    })
    .await
    .unwrap();
    let after = entry_stats(&asker).await;
    let (hits, misses) = (after.0 - before.0, after.1 - before.1);
    Row {
        name: "hits under a Zipf load, room for a fifth of the values",
        ours: hits / (hits + misses),
        baseline: 1.0,
        unit: "",
        against: "all requests",
        aim: Aim::RatioLeast(0.8),
    }
}

/// Hits and misses of the values of the cache API.
async fn entry_stats(asker: &Asker) -> (f64, f64) {
    let url = format!("http://{}/v1/cache/stats", asker.address);
    let answer = reqwest::Client::new().get(url).bearer_auth(&asker.key).send().await.unwrap();
    let stats: serde_json::Value = answer.json().await.unwrap();
    let mut caches = stats["caches"].as_array().unwrap().iter();
    let entries = caches.find(|cache| cache["name"] == "entries").expect("an operator sees them");
    (entries["hits"].as_f64().unwrap(), entries["misses"].as_f64().unwrap())
}

/// Memory of 1,000 values of 512 bytes, of the ten thousand that have room.
pub(crate) async fn entry_memory() -> Row {
    let mut site = Site::start().await;
    let asker = asker(&mut site).await;
    let path = |number: u32| format!("/v1/cache/entries/{number}");
    put_values(&asker, (0..ZIPF_KEYS - 1).map(|number| number.to_string())).await;
    asker.hits_and_misses(vec![path(0), path(1)]).await;
    let before_kb = resident_kb(std::process::id());
    let asking = asker.clone();
    tokio::task::spawn_blocking(move || {
        let mut client = Client::new(asking.address);
        for number in 0..ZIPF_KEYS - 1 {
            client.ask(&asking.head(&path(number)));
        }
    })
    .await
    .unwrap();
    Row {
        name: "memory of 1,000 values of 512 bytes",
        ours: (resident_kb(std::process::id()) - before_kb) / 1_024.0 / f64::from(ZIPF_KEYS) * 1_000.0,
        baseline: 0.0,
        unit: "MiB",
        against: "none",
        aim: Aim::Most(1.0),
    }
}
