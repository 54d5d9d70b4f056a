//! How much one owner may have done, with every role in a process of its own.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

const QUOTAS: &str = "
[ingress.quotas.each]
daily_encode_max = \"3s\"
open_jobs_max = 5
";

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_used_up_its_day_is_refused_and_sees_what_it_used() {
    let mut cluster = Cluster::start_with(Options::default(), QUOTAS).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "clip.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let usage: Value = cluster.get("/v1/usage").await;
    assert_eq!(usage["encoded_ms"], json!({ "used": 2_000, "max": 3_000 }), "{usage}");
    assert_eq!(usage["open_jobs"]["max"], 5, "{usage}");
    assert!(usage["uploaded_bytes"]["used"].as_u64().unwrap() > 1_000, "{usage}");
    // Two seconds more do not fit; the answer says since when they do.
    let path = format!("/v1/media/{media_id}/transcode");
    let ask =
        async |cluster: &Cluster| cluster.request(Method::POST, &path).json(&json!({})).send().await.unwrap();
    let refused = ask(&cluster).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["quota"]), (&json!("quota_exceeded"), &json!("daily_encode_ms")));
    // One second is left, so a file is taken; afterwards none is.
    let second = cluster.upload(sample(2, "320x180", "25"), "more.mp4").await;
    cluster.media_event("media.ready", &second).await;
    let late = cluster.request(Method::POST, "/v1/uploads");
    let late = late.header("Tus-Resumable", "1.0.0").header("Upload-Length", "5").send().await.unwrap();
    assert_eq!(late.status(), StatusCode::TOO_MANY_REQUESTS);
    // Removing it gives nothing back.
    let path = format!("/v1/media/{second}?permanent=true");
    let removed = cluster.request(Method::DELETE, &path).header("If-Match", "*").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    assert_eq!(cluster.get("/v1/usage").await["encoded_ms"]["used"], 4_000);
    let shown = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["usage", "--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("4.0 s") && shown.contains("3.0 s") && shown.contains("no limit"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_with_as_many_open_jobs_as_it_may_have_begins_no_other() {
    let quotas = "\n[ingress.quotas.of.admin]\nopen_jobs_max = 1\n";
    let mut cluster = Cluster::start_with(Options::default(), quotas).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "clip.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    // The medium is ready a moment before its job has ended.
    wait_for_active(&cluster, 0).await;
    // Nobody works on tasks, so the first one stays.
    cluster.kill("tasks");
    let verify = json!({ "job": { "kind": "verify", "media_id": media_id } });
    let ask = async |body: &Value| cluster.request(Method::POST, "/v1/jobs").json(body).send().await.unwrap();
    let first: Value = {
        let begun = ask(&verify).await;
        assert_eq!(begun.status(), StatusCode::ACCEPTED, "{}", begun.text().await.unwrap());
        begun.json().await.unwrap()
    };
    wait_for_active(&cluster, 1).await;
    let transcode = json!({ "job": { "kind": "transcode", "media_id": media_id } });
    let refused = ask(&transcode).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["quota"], &problem["used"], &problem["max"]),
        (&json!("open_jobs"), &json!(1), &json!(1))
    );
    let upload = cluster.request(Method::POST, "/v1/uploads");
    let upload = upload.header("Tus-Resumable", "1.0.0").header("Upload-Length", "5").send().await.unwrap();
    assert_eq!(upload.status(), StatusCode::TOO_MANY_REQUESTS);
    // With its end another one may begin.
    let cancel = format!("/v1/jobs/{}/cancel", first["job_id"].as_str().unwrap());
    assert_eq!(cluster.request(Method::POST, &cancel).send().await.unwrap().status(), StatusCode::OK);
    let begun =
        poll(WAIT_MAX, async || (ask(&transcode).await.status() == StatusCode::ACCEPTED).then_some(()));
    assert!(begun.await.is_some());
}

/// Waits until the index counts so many jobs that have not ended.
async fn wait_for_active(cluster: &Cluster, count: u64) {
    let counted =
        poll(WAIT_MAX, async || (cluster.get("/v1/jobs/counts").await["active"] == count).then_some(()));
    assert!(counted.await.is_some(), "{count} jobs have not ended");
}
