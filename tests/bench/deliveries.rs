//! Webhooks: deliveries a second of a hook that has everything sent again, against plain requests to the same address.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode};
use futures::StreamExt;
use reqwest::{Method, header};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{Aim, Row, server::Server, size};

/// Media that are changed by turns: events of one go one after another, those of others beside them.
const MEDIA: usize = 32;
/// Requests that are under way at the same time, as deliveries are.
const PARALLEL: usize = 8;

const SETTINGS: &str = "[outbound]\nallow = [\"127.0.0.1/32\"]\n[ingress.limit.rates]\n\
    api = { capacity = 1000000, refill_per_s = 100000 }\nmetadata = { capacity = 1000000, refill_per_s = 100000 }\n\
    upload = { capacity = 1000, refill_per_s = 1000 }\n";

/// An address that takes everything, and how often it was asked.
async fn serve_receiver() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let answer = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { StatusCode::NO_CONTENT }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (url, received)
}

async fn wait_for(received: &AtomicUsize, count: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let arriving = async {
        while received.load(Ordering::Relaxed) < count {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), arriving).await.expect("everything is delivered");
}

pub(crate) async fn deliveries_per_second() -> Row {
    let events = usize::try_from(size("BENCH_DELIVERIES", 2_000)).unwrap();
    let server = Server::start(SETTINGS);
    let client = reqwest::Client::new();
    let ask =
        |method, path: &str| client.request(method, format!("{}{path}", server.url)).bearer_auth(&server.key);
    let mut media = Vec::new();
    for _ in 0..MEDIA {
        let opened =
            ask(Method::POST, "/v1/uploads").header("tus-resumable", "1.0.0").header("upload-length", 5);
        let opened = opened.send().await.unwrap();
        assert_eq!(opened.status(), 201, "{:?}", opened.headers());
        media.push(opened.headers()["streamgate-media-id"].to_str().unwrap().to_owned());
    }
    for number in 0..events {
        let change = ask(Method::PATCH, &format!("/v1/media/{}", media[number % MEDIA]));
        let change =
            change.header(header::IF_MATCH, "*").json(&json!({ "title": format!("bench {number}") }));
        assert_eq!(change.send().await.unwrap().status(), 200);
    }
    let (url, received) = serve_receiver().await;
    let hook = json!({ "url": url, "types": ["media.changed"] });
    let hook: serde_json::Value =
        ask(Method::POST, "/v1/hooks").json(&hook).send().await.unwrap().json().await.unwrap();
    let hook_id = hook["hook"]["hook_id"].as_str().unwrap_or_else(|| panic!("no hook: {hook}"));
    let replay = format!("/v1/hooks/{hook_id}/replay");
    let begun = Instant::now();
    let asked = ask(Method::POST, &replay).json(&json!({ "behind": "0-0" })).send().await.unwrap();
    assert!(asked.status().is_success(), "{}", asked.text().await.unwrap());
    wait_for(&received, events).await;
    let ours = events as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    futures::stream::iter(0..events)
        .for_each_concurrent(PARALLEL, |number| {
            let request = client.post(&url).json(&json!({ "title": format!("bench {number}") }));
            async { drop(request.send().await.unwrap()) }
        })
        .await;
    Row {
        name: "deliveries of a webhook",
        ours,
        baseline: events as f64 / begun.elapsed().as_secs_f64(),
        unit: "/s",
        against: "plain requests, 8 at once",
        aim: Aim::RatioLeast(0.05),
    }
}
