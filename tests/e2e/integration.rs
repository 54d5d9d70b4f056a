//! What every handler has in common, seen from outside: a request that goes through, its metrics, its limits, its cache, its audit
//! records.

use std::{collections::BTreeMap, process::Command, time::Duration};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    flow,
    harness::{Cluster, Options, poll, sample},
};

/// How long a process may take to report what it counts, and the monitor to have it: three of its reports.
const REPORTED_WITHIN: Duration = Duration::from_secs(30);

/// The handlers, and a question to each.
const HANDLERS: [(&str, &str); 10] = [
    ("gateway", "/nowhere"),
    ("api", "/v1/hooks"),
    ("upload", "/v1/uploads/grants"),
    ("streaming", "/v1/media/00000000000000000000000000/poster"),
    ("metadata", "/v1/media"),
    ("cache", "/v1/cache/stats"),
    ("auth", "/v1/auth/me"),
    ("worker", "/v1/jobs"),
    ("transcoder", "/v1/profiles"),
    ("monitor", "/v1/monitor/alerts"),
];

/// An installation whose only workers are those named.
async fn small(workers: &[&str], settings: &str) -> Cluster {
    let options = Options { without_workers: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options, settings).await;
    for worker in workers {
        cluster.spawn(worker, &["worker", worker]);
    }
    cluster
}

async fn status_of(cluster: &Cluster, path: &str) -> StatusCode {
    cluster.request(Method::GET, path).send().await.unwrap().status()
}

/// Sums of the samples of a family by the value of one of their labels, as `GET /v1/monitor/metrics` has them now.
async fn sums_by(
    cluster: &Cluster,
    family: &str,
    label: &str,
    wanted: (&str, &str),
) -> BTreeMap<String, u64> {
    let path = format!("/v1/monitor/metrics?prefix={family}&limit=1");
    let answer = cluster.request(Method::GET, &path).send().await.unwrap();
    // A monitor that has just started answers in a moment: who asks looks again.
    let page: Value = answer.json().await.unwrap();
    let mut sums = BTreeMap::new();
    let samples = page["items"][0]["samples"].as_array().into_iter().flatten();
    for sample in samples.filter(|sample| wanted.0.is_empty() || sample["labels"][wanted.0] == wanted.1) {
        let name = sample["labels"][label].as_str().unwrap_or_default().to_owned();
        *sums.entry(name).or_insert(0) += sample["value"].as_str().unwrap().parse::<u64>().unwrap();
    }
    sums
}

/// The same once `enough` finds in it what it wants.
async fn sums_once(
    cluster: &Cluster,
    (family, label, wanted): (&str, &str, (&str, &str)),
    enough: impl Fn(&BTreeMap<String, u64>) -> bool,
) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    let found = poll(REPORTED_WITHIN, async || {
        last = sums_by(cluster, family, label, wanted).await;
        enough(&last).then_some(())
    })
    .await;
    assert!(found.is_some(), "{family} by {label}: {last:?}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn end_to_end_request_flow() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "clip.mp4").await;
    for step in flow::STORY {
        cluster.media_event(step, &media_id).await;
    }
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(
        (&document["status"], &document["media_id"]),
        (&json!("ready"), &json!(media_id)),
        "{document}"
    );
    assert_eq!(flow::check_plays(&cluster, &media_id, 2.0, 0.04).await, 2);
    let path = format!("/v1/media/{media_id}?permanent=true");
    let removed = cluster.request(Method::DELETE, &path).header("If-Match", "*").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    cluster.media_event("media.removed", &media_id).await;
    assert_eq!(status_of(&cluster, &format!("/v1/media/{media_id}")).await, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_in_handlers() {
    let cluster = small(&["index", "monitor"], "").await;
    let wanted = ("streamgate_http_requests", "handler", ("", ""));
    let before = sums_once(&cluster, wanted, |sums| !sums.is_empty()).await;
    for (index, (handler, path)) in HANDLERS.iter().enumerate() {
        for _ in 0..=index {
            let status = status_of(&cluster, path).await;
            assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{handler} {path}: {status}");
        }
    }
    let grown = |sums: &BTreeMap<String, u64>, handler: &str| {
        sums.get(handler).copied().unwrap_or(0) - before.get(handler).copied().unwrap_or(0)
    };
    let sums = sums_once(&cluster, wanted, |sums| {
        HANDLERS.iter().zip(1..).all(|((handler, _), count)| grown(sums, handler) >= count)
    })
    .await;
    for ((handler, _), count) in HANDLERS.iter().zip(1..) {
        // Looking at the metrics counts itself.
        assert!(*handler == "monitor" || grown(&sums, handler) == count, "{handler}: {before:?} {sums:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_enforced() {
    const CAPACITY: usize = 4;
    let limited: Vec<_> =
        HANDLERS.iter().filter(|(handler, _)| !["gateway", "monitor"].contains(handler)).collect();
    let rates: Vec<String> = limited
        .iter()
        .map(|(handler, _)| format!("{handler} = {{ capacity = {CAPACITY}, refill_per_s = 1 }}\n"))
        .collect();
    let settings =
        format!("\n[ingress.limit]\nreplicas_assumed_count = 1\n[ingress.limit.rates]\n{}", rates.concat());
    let cluster = small(&["monitor"], &settings).await;
    for (handler, path) in &limited {
        // Sent at once: what comes back meanwhile is less than what is too much.
        let asked = (0..3 * CAPACITY).map(|_| cluster.request(Method::GET, path).send());
        let mut refused = Vec::new();
        for answer in futures::future::join_all(asked).await {
            let answer = answer.unwrap();
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                refused.push(answer);
            }
        }
        assert!(
            (CAPACITY..=2 * CAPACITY).contains(&refused.len()),
            "{handler}: {} of {} are refused",
            refused.len(),
            3 * CAPACITY
        );
        for answer in refused {
            let wait_s: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!((1..=CAPACITY as u64).contains(&wait_s), "{handler}: {wait_s} s");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], "rate_limited", "{handler}: {problem}");
        }
    }
    // What one group refuses costs another nothing.
    assert_eq!(status_of(&cluster, "/v1/monitor/alerts").await, StatusCode::OK);
    let denied = ("streamgate_limit_requests", "group", ("outcome", "denied"));
    let handlers = limited.iter().map(|(handler, _)| *handler);
    sums_once(&cluster, denied, |sums| {
        handlers.clone().all(|handler| sums.get(handler).is_some_and(|count| *count >= CAPACITY as u64))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_hit_and_miss() {
    let cluster = small(&["monitor"], "").await;
    let media_id = cluster.upload(sample(1, "320x180", "25"), "clip.mp4").await;
    let (entry, document) = ("/v1/cache/entries/greeting", format!("/v1/media/{media_id}"));
    assert_eq!(status_of(&cluster, entry).await, StatusCode::NOT_FOUND);
    let put = cluster.request(Method::PUT, entry).header("content-type", "text/plain").body("good morning");
    assert!(put.send().await.unwrap().status().is_success());
    let title = json!({ "title": "Morning" });
    cluster.get(&document).await;
    let changed = cluster.request(Method::PATCH, &document).json(&title).header("If-Match", "*");
    assert!(changed.send().await.unwrap().status().is_success());
    // Memory answers from the moment on of which it is proven that all changes came.
    let mut last = [BTreeMap::new(), BTreeMap::new()];
    let found = poll(REPORTED_WITHIN, async || {
        let answer = cluster.request(Method::GET, entry).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "good morning");
        assert_eq!(cluster.get(&document).await["title"], "Morning", "what is kept is not what was");
        for (sums, outcome) in last.iter_mut().zip(["miss", "hit"]) {
            *sums = sums_by(&cluster, "streamgate_cache_requests", "cache", ("outcome", outcome)).await;
        }
        let is_counted = |sums: &BTreeMap<String, u64>| {
            ["entries", "metadata"].iter().all(|cache| sums.get(*cache).is_some_and(|count| *count > 0))
        };
        last.iter().all(is_counted).then_some(())
    })
    .await;
    assert!(found.is_some(), "misses and hits: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_records_made() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(1, "320x180", "25"), "clip.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let document = format!("/v1/media/{media_id}");
    let title = json!({ "title": "Audited" });
    let changed = cluster.request(Method::PATCH, &document).json(&title).header("If-Match", "*");
    assert!(changed.send().await.unwrap().status().is_success());
    let created = cluster.request(Method::POST, "/v1/auth/keys").json(&json!({ "owner": "bob" }));
    assert!(created.send().await.unwrap().status().is_success());
    let newest = cluster.all_events().await.last().unwrap().sequence;
    // Followed to the newest event: the answer ends when that is audited.
    let replay = cluster.request(Method::GET, &format!("/v1/audit?follow=true&to={newest}"));
    let text = replay.send().await.unwrap().text().await.unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len() as u64, newest, "each event has its record");
    for wanted in flow::STORY.into_iter().chain(["media.changed", "auth.key_created"]) {
        assert!(records.iter().any(|record| record["type"] == wanted), "{wanted}: {text}");
    }
    let verified = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["audit", "verify", "--json", "--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&verdict["sound"], &verdict["events_missing"]), (&json!(true), &json!(0)), "{verdict}");
}
