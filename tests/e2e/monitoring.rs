//! What operators ask the monitor: how everything stands, what was logged, what is counted.

use std::time::Duration;

use reqwest::StatusCode;
use schemas::access::PrincipalRole;
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

const LEVEL: &str = "/v1/monitor/logs/level";

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

/// What comes behind a page of logs.
async fn check_pages_of_logs(cluster: &Cluster, page: &Value) {
    let behind = format!("/v1/monitor/logs?behind={}&limit=500", page["next"]);
    assert!(!cluster.get(&behind).await.to_string().contains("\"number\":1,"), "only what is new");
    // The monitor that numbered them goes on; another one would number anew.
    let named = format!("{behind}&monitor={}", page["monitor"].as_str().unwrap());
    assert_eq!(cluster.get(&named).await["monitor"], page["monitor"]);
    let gone = format!("{behind}&monitor=0000000000000000");
    assert_eq!(cluster.request(reqwest::Method::GET, &gone).send().await.unwrap().status(), 404);
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
    check_pages_of_logs(&cluster, &page).await;

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

/// Asks until a line of a role is among the newest.
async fn until_line(cluster: &Cluster, filter: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/monitor/logs?limit=500&{filter}");
    let found = poll(WAIT_MAX, async || {
        let page = cluster.get(&path).await;
        page["items"].as_array().unwrap().iter().find(|item| wanted(&item["line"])).cloned()
    });
    match found.await {
        Some(line) => line,
        None => panic!("no such line of {filter}: {}\n{}", cluster.get(&path).await, cluster.logs()),
    }
}

async fn set_level(cluster: &Cluster, key: &str, body: &Value) -> (StatusCode, Value) {
    let request = cluster.http.put(format!("{}{LEVEL}", cluster.url)).bearer_auth(key).json(body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

fn has_begun(line: &Value) -> bool {
    line["message"] == "what is logged is changed for a while" && line["target"] == "streamgate::log_levels"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_logs_is_changed_for_a_while_and_audited() {
    let mut cluster = Cluster::start(Options::default()).await;
    let operator = auth::create_api_key(&cluster.bus, "olga", PrincipalRole::Operator).await.unwrap();
    let mallory = auth::create_api_key(&cluster.bus, "mallory", PrincipalRole::Owner).await.unwrap();
    let of_upload = json!({ "filter": "debug", "role": "upload", "reason": "odd files" });
    for (key, code) in [(&mallory, "operators_only"), (&operator, "read_only")] {
        let (status, problem) = set_level(&cluster, key, &of_upload).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some(code)));
    }
    let key = cluster.key.clone();
    let (status, problem) = set_level(&cluster, &key, &json!({ "filter": "upload=loud" })).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("log_filter_invalid"))
    );
    assert!(problem["detail"].as_str().unwrap().contains("\"loud\" is no level"), "{problem}");

    // One role says more, the others what they said before.
    let (status, list) = set_level(&cluster, &key, &of_upload).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    assert_eq!(cluster.get(LEVEL).await, list);
    until_line(&cluster, "role=upload", has_begun).await;
    let first = cluster.upload(b"no video".to_vec(), "odd.mp4").await;
    cluster.end_of(&first).await;
    let is_done = |line: &Value| line["target"] == "nats::consume" && line["message"] == "done";
    let line = until_line(&cluster, "role=upload", is_done).await;
    assert_eq!(line["line"]["severity"], "debug");
    let of_index = cluster.get("/v1/monitor/logs?limit=500&role=index").await;
    assert!(!of_index.to_string().contains("\"debug\""), "{of_index}");

    // A process that starts meanwhile takes what is set.
    cluster.kill("tasks");
    assert_eq!(
        set_level(&cluster, &key, &json!({ "filter": "debug", "role": "tasks" })).await.0,
        StatusCode::OK
    );
    cluster.spawn("tasks", &["worker", "tasks"]);
    until_line(&cluster, "role=tasks", has_begun).await;

    // The time is over.
    let short = json!({ "filter": "debug", "role": "upload", "for_ms": 1 });
    assert_eq!(set_level(&cluster, &key, &short).await.0, StatusCode::OK);
    let is_over = |line: &Value| line["message"] == "what is logged is again what is configured";
    let over = until_line(&cluster, "role=upload", is_over).await;
    let second = cluster.upload(b"no video, again".to_vec(), "odd.mp4").await;
    cluster.end_of(&second).await;
    until_line(&cluster, &format!("role=upload&media_id={second}"), |_| true).await;
    let behind = format!("/v1/monitor/logs?limit=500&role=upload&behind={}", over["number"]);
    let after = cluster.get(&behind).await;
    assert!(!after.to_string().contains("\"debug\""), "{after}");
    let left = cluster.get(LEVEL).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "that of tasks: {left}");

    let found = poll(WAIT_MAX, async || {
        let request = cluster.request(reqwest::Method::GET, "/v1/audit?filter=admin.log_level_changed");
        let text = request.send().await.unwrap().text().await.unwrap();
        (text.lines().count() == 3).then_some(text)
    });
    let records = found.await.expect("each change has a record");
    let record: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    let text = record.to_string();
    for said in [
        "\"role\":\"upload\"",
        "\"filter\":\"debug\"",
        "\"reason\":\"odd files\"",
        "\"changed_by\"",
        "\"until_ms\"",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_at_the_lowest_level_of_every_process() {
    let mut cluster = Cluster::start(Options::default()).await;
    let key = cluster.key.clone();
    assert_eq!(set_level(&cluster, &key, &json!({ "filter": "trace" })).await.0, StatusCode::OK);
    let roles = ["ingress", "keeper", "upload", "transcode", "tasks", "index", "audit", "monitor"];
    for role in roles {
        until_line(&cluster, &format!("role={role}"), has_begun).await;
    }
    let media_id = cluster.upload(sample(1, "160x90", "25"), "clip.mp4").await;
    cluster.end_of(&media_id).await;
    let opened = cluster.request(reqwest::Method::POST, &format!("/v1/media/{media_id}/playback"));
    let opened: Value = opened.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
    let playlist = opened["hls_url"].as_str().unwrap();
    let token = playlist.split("/play/").nth(1).unwrap().split('/').next().unwrap();
    let url =
        if playlist.starts_with('/') { format!("{}{playlist}", cluster.url) } else { playlist.to_owned() };
    cluster.http.get(url).send().await.unwrap().error_for_status().unwrap();
    let is_answered =
        |line: &Value| line["message"] == "answered" && line["fields"]["route"].to_string().contains("play");
    until_line(&cluster, "role=ingress&target=web::request", is_answered).await;
    for role in roles {
        let log = cluster.log(role);
        for secret in [key.as_str(), key.rsplit('_').next().unwrap(), token] {
            assert!(secret.len() > 16 && !log.contains(secret), "{role} has logged a secret");
        }
    }
}
