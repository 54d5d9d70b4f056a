use std::time::Duration;

use axum::http::Method;
use nats::{Bus, Role};
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::{
    openapi,
    tests::{Answer, Site},
};

const GIB: u64 = 1 << 30;
const SOON: Duration = Duration::from_secs(20);

fn problem(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// Sets what a bucket may hold to a share of what it holds, in percent.
async fn squeeze(admin: &Bus, stream: &str, percent: i64) {
    let info = admin.context().get_stream(stream).await.unwrap().cached_info().clone();
    let mut config = info.config;
    config.max_bytes = i64::try_from(info.state.bytes).unwrap() * percent / 100;
    admin.context().update_stream(&config).await.unwrap();
}

#[test]
fn a_disk_is_full_at_its_share_unless_what_is_left_is_enough() {
    let config = CapacityConfig::default();
    let mib = 1_u64 << 20;
    for (total_bytes, free_bytes, free_bytes_min, room_bytes) in [
        // A small one: 5 of 100, or what must stay free.
        (100 * mib, 24 * mib, 0, 19 * mib),
        (100 * mib, 24 * mib, 16 * mib, 8 * mib),
        (100 * mib, 5 * mib, 0, 0),
        (100 * mib, 4 * mib, 0, 0),
        // A large one does not have to stay empty by hundreds of gigabytes.
        (10_000 * GIB, 40 * GIB, 16 * mib, 36 * GIB),
        (10_000 * GIB, 4 * GIB, 16 * mib, 0),
    ] {
        let space = store::DiskSpace { free_bytes, total_bytes };
        let limit = CapacityLimit::from_disk_space(STORE_DISK, space, &config, free_bytes_min);
        assert_eq!((limit.room_bytes, limit.free_bytes()), (room_bytes, free_bytes), "{limit:?}");
        assert_eq!(limit.is_full(), room_bytes == 0);
    }
}

#[test]
fn a_stream_is_full_at_its_share() {
    for (used_bytes, room_bytes) in [(0, 950), (949, 1), (950, 0), (2_000, 0)] {
        let fill = nats::StreamUsage {
            stream: "S".into(),
            limit_bytes: 1_000,
            used_bytes,
            oldest_ms: 0,
            age_s_max: 0,
            drops_oldest: false,
        };
        let limit = CapacityLimit::from_fill(fill, &CapacityConfig::default());
        assert_eq!((limit.room_bytes, limit.is_full()), (room_bytes, room_bytes == 0), "{limit:?}");
    }
    assert_eq!(percent_of(u64::MAX, 95), u64::MAX / 100 * 95 + 14);
}

#[tokio::test]
async fn all_that_creates_is_refused_without_room_and_nothing_else() {
    let site = Site::start(|config| config.capacity.percent_max = 0).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let document = openapi::build_document();
    let operations = openapi::all_operations();
    let (mut refused, mut others) = (Vec::new(), 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let steps = path
                .split('/')
                .map(|step| if step.starts_with('{') { "00000000000000000000000000" } else { step });
            let place = steps.collect::<Vec<_>>().join("/");
            if method == Method::GET && place.starts_with("/v1/events") {
                continue;
            }
            let answer = site.ask(method.as_str(), &place, &key, "").await;
            let mut declared = operations.iter().filter(|operation| operation.path == path);
            let is_needed = declared.any(|found| found.method == method && !found.room.limits.is_empty());
            assert_eq!(answer.status == 507, is_needed, "{method} {path}: {answer:?}");
            if is_needed {
                let problem = problem(&answer);
                assert!(
                    ["broker_full", "store_full"].contains(&problem["code"].as_str().unwrap()),
                    "{problem}"
                );
                assert!(problem["limit"].is_string() && problem["limit_bytes"].is_u64(), "{problem}");
                assert!(problem["free_bytes"].is_u64() && problem["room_bytes"] == 0, "{problem}");
                assert_eq!(answer.header("retry-after"), Some("60"));
                let documented = &item[method.as_str().to_lowercase()]["responses"]["507"];
                assert!(documented.is_object(), "{method} {path} says that it may be refused");
                refused.push(format!("{method} {path}"));
            } else {
                others += 1;
            }
        }
    }
    refused.sort_unstable();
    assert_eq!(
        refused,
        [
            "POST /v1/auth/challenge",
            "POST /v1/auth/keys",
            "POST /v1/auth/links",
            "POST /v1/auth/login",
            "POST /v1/auth/me/links",
            "POST /v1/dead-letters/{sequence}/redrive",
            "POST /v1/forms",
            "POST /v1/forms/tokens",
            "POST /v1/hooks",
            "POST /v1/jobs",
            "POST /v1/jobs/actions",
            "POST /v1/jobs/bulk",
            "POST /v1/jobs/{job_id}/retry",
            "POST /v1/media",
            "POST /v1/media/{media_id}/playback",
            "POST /v1/media/{media_id}/transcode",
            "POST /v1/schedules",
            "POST /v1/schedules/{schedule_id}/run-now",
            "POST /v1/uploads",
            "POST /v1/uploads/grants",
            "PUT /v1/cache/entries/{key}",
            "PUT /v1/files/{filename}",
            "PUT /v1/media/{media_id}/captions/{language}",
            "PUT /v1/media/{media_id}/poster",
        ]
    );
    assert!(others > 20, "{others}");
}

#[tokio::test]
async fn a_full_bucket_is_named_and_what_was_begun_goes_on() {
    let site = Site::start(|config| config.capacity.poll_ms = 100).await;
    let admin = site.broker.bus(Role::Admin).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let tus = format!("{key}Tus-Resumable: 1.0.0\r\n");
    let open = async || site.ask("POST", "/v1/uploads", &format!("{tus}Upload-Length: 5\r\n"), "").await;
    let begun = open().await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let begun = format!("/v1/uploads/{}", begun.header("location").unwrap().rsplit('/').next().unwrap());
    // So much that the last twentieth has room for what goes on.
    let bucket = admin.context().get_key_value("uploads").await.unwrap();
    for number in 0..16 {
        bucket.put(format!("junk.{number}"), vec![0; 64 * 1024].into()).await.unwrap();
    }
    squeeze(&admin, "KV_uploads", 104).await;
    let deadline = Instant::now() + SOON;
    let refused = loop {
        let answer = open().await;
        if answer.status != 201 {
            break answer;
        }
        assert!(Instant::now() < deadline, "it is seen that the bucket is full");
    };
    let problem = problem(&refused);
    assert_eq!((refused.status, &problem["code"]), (507, &"broker_full".into()), "{problem}");
    assert_eq!(problem["limit"], "KV_uploads", "{problem}");
    let free_bytes = problem["free_bytes"].as_u64().unwrap();
    assert!(free_bytes > 0 && free_bytes < problem["limit_bytes"].as_u64().unwrap() / 20, "{problem}");
    let metrics = site.ask("GET", "/metrics", &key, "").await.body;
    assert!(metrics.contains("streamgate_capacity_full{limit=\"KV_uploads\"} 1"), "{metrics}");
    assert!(metrics.contains("streamgate_capacity_full{limit=\"EVENTS\"} 0"), "{metrics}");
    assert_eq!(
        site.ask("GET", "/readyz", "", "").await.body,
        "{\"status\":\"ready\",\"full\":[\"KV_uploads\"],\"missing\":[\"keeper\"]}",
        "a replica that takes nothing new answers all the same"
    );
    // Other things have room, and what is acknowledged goes on.
    let challenge = "{\"address\":\"0x000000000000000000000000000000000000dEaD\"}";
    let json = "Content-Type: application/json\r\n";
    assert_eq!(site.ask("POST", "/v1/auth/challenge", json, challenge).await.status, 201);
    let bytes = format!("{tus}Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n");
    let appended = site.ask("PATCH", &begun, &bytes, "hello").await;
    assert_eq!(appended.status, 204, "{appended:?}");
    squeeze(&admin, "KV_uploads", 200).await;
    while open().await.status != 201 {
        assert!(Instant::now() < deadline, "it is seen that there is room");
    }
}

#[tokio::test]
async fn what_fills_between_two_looks_is_no_fault_of_the_service() {
    let site = Site::start(|config| config.capacity.poll_ms = 3_600_000).await;
    let admin = site.broker.bus(Role::Admin).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let tus = format!("{key}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n");
    assert_eq!(site.ask("POST", "/v1/uploads", &tus, "").await.status, 201);
    squeeze(&admin, "KV_uploads", 100).await;
    for (path, headers) in
        [("/v1/uploads", &tus), ("/v1/media", &format!("{key}Content-Type: video/mp4\r\n"))]
    {
        let refused = site.ask("POST", path, headers, if path == "/v1/media" { "hello" } else { "" }).await;
        let problem = problem(&refused);
        assert_eq!((refused.status, &problem["code"]), (507, &"broker_full".into()), "{path}: {problem}");
        assert_eq!(problem["limit"], "KV_uploads", "{problem}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    // Another bucket answers the same.
    let challenge = async || {
        let address = "{\"address\":\"0x000000000000000000000000000000000000dEaD\"}";
        let json = "Content-Type: application/json\r\n";
        site.ask("POST", "/v1/auth/challenge", json, address).await
    };
    assert_eq!(challenge().await.status, 201);
    squeeze(&admin, "KV_nonces", 100).await;
    let refused = challenge().await;
    assert_eq!((refused.status, &problem(&refused)["limit"]), (507, &"KV_nonces".into()), "{refused:?}");
}

#[tokio::test]
async fn a_length_for_which_there_is_no_room_is_refused_at_creation() {
    let site = Site::start(|config| config.uploads.size_bytes_max = u64::MAX).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let length = 1_u64 << 60;
    let headers = format!("{key}Tus-Resumable: 1.0.0\r\nUpload-Length: {length}\r\n");
    let refused = site.ask("POST", "/v1/uploads", &headers, "").await;
    let problem = problem(&refused);
    assert_eq!((refused.status, &problem["code"]), (507, &"store_full".into()), "{problem}");
    assert_eq!(
        (&problem["limit"], &problem["size_bytes"]),
        (&"store_disk".into(), &length.into()),
        "{problem}"
    );
    let room_bytes = problem["room_bytes"].as_u64().unwrap();
    assert!(room_bytes > 0 && room_bytes < length, "{problem}");
    let headers = format!("{key}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n");
    assert_eq!(site.ask("POST", "/v1/uploads", &headers, "").await.status, 201, "a smaller one has room");
}
