//! What operators ask the monitor: how everything stands, what was logged, what is counted.

use std::time::Duration;

use reqwest::StatusCode;
use schemas::access::PrincipalRole;
use serde_json::Value;

use crate::harness::{Cluster, Options, WAIT_MAX, poll};

/// A process that is gone is known to be so after at most that time.
const GONE_MAX: Duration = Duration::from_secs(10);

async fn until_health(cluster: &Cluster, limit: Duration, holds: impl Fn(&Value) -> bool) -> Value {
    let found = poll(limit, async || {
        let answer = cluster.request(reqwest::Method::GET, "/v1/monitor/health").send().await.unwrap();
        let is_answered = answer.status() == 200;
        let health: Value = answer.json().await.unwrap();
        (is_answered && holds(&health)).then_some(health)
    });
    match found.await {
        Some(health) => health,
        None => panic!("{}\n{}", cluster.get("/v1/monitor/health").await, cluster.logs()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_each_process_what_it_logs_and_what_it_counts() {
    let mut cluster = Cluster::start(Options::default()).await;
    let roles = ["ingress", "keeper", "upload", "transcode", "tasks", "index", "audit", "monitor"];
    let health = until_health(&cluster, WAIT_MAX, |health| {
        health["state"] == "ok" && health["processes"].as_array().is_some_and(|all| all.len() == roles.len())
    })
    .await;
    let processes = health["processes"].as_array().unwrap();
    for role in roles {
        let process = processes.iter().find(|process| process["roles"][0] == role).unwrap();
        assert_eq!((&process["state"], &process["causes"]), (&"ready".into(), &Value::Array(Vec::new())));
        assert_eq!(process["version"], env!("CARGO_PKG_VERSION"));
    }

    // What one process says about a medium is found by the medium, and no secret is in it.
    let media_id = cluster.upload(b"no video".to_vec(), "odd.mp4").await;
    cluster.end_of(&media_id).await;
    let path = format!("/v1/monitor/logs?media_id={media_id}&role=upload&severity=info");
    let found = poll(WAIT_MAX, async || {
        let page = cluster.get(&path).await;
        page["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(page)
    });
    let page = found.await.expect("the upload stage has logged it");
    let line = &page["items"][0]["line"];
    assert_eq!(line["fields"]["media.id"], media_id.as_str(), "{page}");
    let all = cluster.get("/v1/monitor/logs?limit=500").await.to_string();
    for secret in [cluster.key.as_str(), cluster.key.rsplit('_').next().unwrap()] {
        assert!(!all.contains(secret));
    }
    let behind = format!("/v1/monitor/logs?behind={}&limit=500", page["next"]);
    assert!(!cluster.get(&behind).await.to_string().contains("\"number\":1,"), "only what is new");

    // Processes report what they count every ten seconds.
    let reported = poll(WAIT_MAX, async || {
        let ready = cluster.get("/v1/monitor/metrics?prefix=streamgate_ready").await;
        let samples = ready["items"][0]["samples"].as_array().unwrap();
        let is_of = |sample: &&Value| sample["labels"]["role"] == "upload" && sample["value"] == "1";
        samples.iter().find(is_of).map(|_| ())
    });
    assert!(reported.await.is_some());
    let first = cluster.get("/v1/monitor/metrics?limit=2").await;
    let next = format!("/v1/monitor/metrics?limit=2&behind={}", first["next"].as_str().unwrap());
    assert!(first["items"][1]["name"].as_str() < cluster.get(&next).await["items"][0]["name"].as_str());

    let mallory = auth::create_api_key(&cluster.bus, "mallory", PrincipalRole::Owner).await.unwrap();
    for path in ["health", "logs", "metrics"] {
        let url = format!("{}/v1/monitor/{path}", cluster.url);
        let refused = cluster.http.get(url).bearer_auth(&mallory).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
    }

    // One that is killed says nothing any more; the command line ends with what that means.
    cluster.kill("tasks");
    let health =
        until_health(&cluster, GONE_MAX + Duration::from_secs(2), |health| health["state"] == "degraded")
            .await;
    assert!(health["degraded"][0].as_str().unwrap().contains("role tasks"), "{health}");
    let cli = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_streamgate"));
        command
            .args(arguments)
            .args(["--url", &cluster.url, "--api-key", &cluster.key])
            .output()
            .await
            .unwrap()
    };
    let shown = cli(&["health"]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.status.code(), Some(1), "{text}");
    assert!(text.contains("silent") && text.contains("nothing is fetched or verified"), "{text}");
    let shown = cli(&["logs", "--media", &media_id]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains(&media_id), "{text}");

    cluster.kill("monitor");
    let answer = cluster.request(reqwest::Method::GET, "/v1/monitor/health").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("streamgate worker monitor"));
}
