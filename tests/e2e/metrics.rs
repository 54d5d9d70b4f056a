//! Every declared metric is counted by real traffic: an installation with each role in a process of its own, a real chain, a receiver
//! of webhooks, and a monitor that shows what all of them report.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use nats::metrics::{MetricDeclaration, MetricKind, declarations};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chain::{self, Anvil, CHAIN_ID, Wallet},
    gate::Site,
    harness::{WAIT_MAX, sample},
};

const SETTINGS: &str = "\n[outbound]\nallow = [\"127.0.0.0/8\"]\n";
const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Gauges that are 0, or not there, while all is well and nothing waits.
const ZERO_WHEN_WELL: [&str; 17] = [
    "streamgate_audit_lag_events",
    "streamgate_audit_lag_seconds",
    "streamgate_broker_write_broken",
    "streamgate_capacity_full",
    "streamgate_chain_head_lag_blocks",
    "streamgate_clock_offset_seconds",
    "streamgate_dead_letter_messages",
    "streamgate_dispatch_queue_parts",
    "streamgate_dispatch_waiting_jobs",
    "streamgate_durable_oldest_age_seconds",
    "streamgate_durable_pending_messages",
    "streamgate_durable_redelivered_messages",
    "streamgate_durable_unacknowledged_messages",
    "streamgate_index_lag_seconds",
    "streamgate_signing_key_overdue_seconds",
    "streamgate_webhook_lag_seconds",
    "streamgate_stream_unconfirmed_seconds",
];

/// What counts work that is under way: shown at 0 when it is over.
const ZERO_WHEN_IDLE: [&str; 3] =
    ["streamgate_durable_waiting_pulls", "streamgate_stage_busy", "streamgate_upload_writers"];

/// What only trouble counts, and the test that makes it, which looks at the metric.
const FED_BY_TROUBLE: [(&str, &str, &str); 16] = [
    // Nothing is sent where nobody takes it.
    ("streamgate_trace_spans", "tests/e2e/traces.rs", "streamgate_trace_spans_total"),
    ("streamgate_trace_queue_spans", "tests/e2e/traces.rs", "streamgate_trace_queue_spans"),
    ("streamgate_audit_faults", "workers/audit/src/tests/broker.rs", "AUDIT_FAULTS.count("),
    (
        "streamgate_broker_write_errors",
        "nats/tests/server/full_disk.rs",
        "streamgate_broker_write_errors_total",
    ),
    ("streamgate_task_restarts", "nats/src/health.rs", "streamgate_task_restarts_total"),
    ("streamgate_dropped_messages", "workers/monitor/src/tests/core.rs", "streamgate_dropped_messages"),
    ("streamgate_cache_departures", "src/ingress/cache.rs", "streamgate_cache_departures_total"),
    ("streamgate_chain_faults", "src/gate/tests/granting.rs", "streamgate_chain_faults_total"),
    (
        "streamgate_gate_refusals_untold",
        "src/gate/tests/granting.rs",
        "streamgate_gate_refusals_untold_total",
    ),
    (
        "streamgate_webhook_skipped_events",
        "src/keeper/webhooks/tests/mod.rs",
        "streamgate_webhook_skipped_events_total",
    ),
    ("streamgate_http_cut_answers", "src/web/request_metrics.rs", "streamgate_http_cut_answers_total"),
    ("streamgate_cache_refusals", "src/ingress/cached/tests.rs", "table::CACHE_REFUSALS.count(())"),
    ("streamgate_index_refusals", "workers/index/src/tests/broker.rs", "streamgate_index_refusals_total"),
    ("streamgate_part_workers_lost", "workers/transcode/tests/stage.rs", "table::WORKERS_LOST.count(())"),
    (
        "streamgate_stage_dead_letters",
        "workers/upload/tests/outages.rs",
        "streamgate_stage_dead_letters_total",
    ),
    ("streamgate_transcode_faults", "workers/transcode/tests/stage.rs", "streamgate_transcode_faults_total"),
];

/// Sums of all series of a family over all processes: counts of counters and histograms, the largest size of gauges.
fn read_values(document: &str) -> BTreeMap<&'static str, f64> {
    let mut values = BTreeMap::new();
    for declared in declarations() {
        let MetricDeclaration { name, kind, .. } = declared;
        let series = match kind {
            MetricKind::Counter => format!("{name}_total"),
            MetricKind::Gauge => (*name).to_owned(),
            MetricKind::Histogram => format!("{name}_count"),
        };
        for line in document.lines().filter_map(|line| line.strip_prefix(&series)) {
            if let Some((_, value)) = line.rsplit_once(' ').filter(|_| line.starts_with(['{', ' '])) {
                let value: f64 = value.parse().unwrap();
                *values.entry(*name).or_insert(0.0) += value.abs();
            }
        }
    }
    values
}

/// Families that nothing has fed yet.
fn unfed(document: &str) -> BTreeSet<&'static str> {
    let values = read_values(document);
    let has_trouble = |name: &str| FED_BY_TROUBLE.iter().any(|(fed, ..)| *fed == name);
    let names = declarations().map(|declared| declared.name).filter(|name| !has_trouble(name));
    let is_unfed = |name: &&'static str| match values.get(name) {
        None => *name != "streamgate_stream_unconfirmed_seconds",
        Some(value) => *value == 0.0 && !ZERO_WHEN_WELL.contains(name) && !ZERO_WHEN_IDLE.contains(name),
    };
    names.filter(is_unfed).collect()
}

/// Opens an upload of `length` bytes; answers its path.
async fn open_upload(site: &Site, length: usize) -> String {
    let request = site.cluster.request(Method::POST, "/v1/uploads").header(TUS.0, TUS.1);
    let answer = request.header("upload-length", length).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().unwrap();
    location.split_once("/v1/").map(|(_, path)| format!("/v1/{path}")).unwrap()
}

async fn append(site: &Site, path: &str, offset: usize, bytes: &[u8], checksum: Option<&str>) -> u16 {
    let mut request = site.cluster.request(Method::PATCH, path).header(TUS.0, TUS.1);
    request =
        request.header("upload-offset", offset).header("content-type", "application/offset+octet-stream");
    if let Some(checksum) = checksum {
        request = request.header("upload-checksum", checksum);
    }
    request.body(bytes.to_vec()).send().await.unwrap().status().as_u16()
}

/// An upload in two pieces, one whose checksum is wrong, one that is ended.
async fn upload_in_pieces(site: &Site) {
    let path = open_upload(site, 10).await;
    assert_eq!(append(site, &path, 0, b"01234", None).await, 204);
    let wrong = Some("sha1 qUqP5cyxm6YcTAhz05Hph5gvu9M=");
    assert_eq!(append(site, &path, 5, b"56789", wrong).await, 460);
    assert_eq!(append(site, &path, 5, b"56789", None).await, 204);
    let ended = open_upload(site, 10).await;
    let request = site.cluster.request(Method::DELETE, &ended).header(TUS.0, TUS.1);
    assert_eq!(request.send().await.unwrap().status(), 204);
}

/// A wallet that signs in, goes on, and signs out; one that fails at it; a token that comes a third time.
async fn sign_in_and_out(site: &Site, wallet: &Wallet) {
    let tokens = wallet.sign_in(&site.cluster).await;
    let refresh = |tokens: &Value| Some(json!({ "refresh_token": tokens["refresh_token"] }));
    let (status, second) = site.ask(Method::POST, "/v1/auth/refresh", None, refresh(&tokens)).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    let (status, third) = site.ask(Method::POST, "/v1/auth/refresh", None, refresh(&second)).await;
    assert_eq!(status, StatusCode::OK, "{third}");
    let reused = site.ask(Method::POST, "/v1/auth/refresh", None, refresh(&tokens)).await;
    assert_eq!(reused.0, StatusCode::UNAUTHORIZED, "{}", reused.1);
    let token = wallet.token(&site.cluster).await;
    let out = site.ask(Method::POST, "/v1/auth/logout", Some(&token), None).await;
    assert!(out.0.is_success(), "{}", out.1);
    let over = site.ask(Method::GET, "/v1/auth/me", Some(&token), None).await;
    assert_eq!(over.0, StatusCode::UNAUTHORIZED);

    let asked = site.cluster.http.post(format!("{}/v1/auth/challenge", site.cluster.url));
    let given = asked
        .json(&json!({ "address": wallet.address.to_string(), "chain_id": CHAIN_ID }))
        .send()
        .await
        .unwrap();
    let cookie = given.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let challenge: Value = given.json().await.unwrap();
    let message = challenge["message"].as_str().unwrap();
    let body = json!({ "message": message, "signature": Wallet::new(99).sign(message) });
    let login =
        site.cluster.http.post(format!("{}/v1/auth/login", site.cluster.url)).header("cookie", cookie);
    assert_eq!(login.json(&body).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

/// A gate that lets one in and keeps another out, and a file to take home.
async fn play_gated(site: &Site, holder: &Wallet) {
    let token = holder.token(&site.cluster).await;
    let other = Wallet::new(83).token(&site.cluster).await;
    site.mint(holder).await;
    site.set_gate(site.nft_rule()).await;
    let (medium, viewers) = (format!("/v1/media/{}", site.media_id), json!({ "downloads": "viewers" }));
    assert!(site.ask(Method::PATCH, &medium, Some(&site.cluster.key), Some(viewers)).await.0.is_success());
    let session = site.open(&token).await;
    site.play(&session).await;
    report_view(site, &session).await;
    assert_eq!(site.playback(Some(&other)).await.0, StatusCode::FORBIDDEN);
    let download = session["download_url"].as_str().unwrap();
    assert_eq!(site.fetch(download).await.0, StatusCode::OK);
}

/// A view as its player reports it.
async fn report_view(site: &Site, session: &Value) {
    let place = session["hls_url"].as_str().unwrap().replace("master.m3u8", "cmcd");
    let lines = [(0, "sta=s"), (400, "br=(600),sta=p"), (2_400, "sta=r"), (2_900, "sta=p"), (5_000, "sta=e")];
    let body = lines
        .map(|(at_ms, said)| format!("sid=\"one\",ts={},{said}\n", 1_795_000_000_000_u64 + at_ms))
        .concat();
    let request = site.cluster.http.post(format!("{}{place}", site.cluster.url));
    let answer = request.header("content-type", "application/cmcd").body(body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{}", answer.text().await.unwrap());
}

/// Documents, lists, searches, entries, a repeated request, a job.
async fn ask_around(site: &Site) {
    let key = Some(site.cluster.key.as_str());
    let medium = format!("/v1/media/{}", site.media_id);
    for path in ["/v1/media", "/v1/media/search?q=film", &medium, &medium, "/v1/jobs", "/livez", "/nothing"] {
        site.ask(Method::GET, path, key, None).await;
    }
    site.set_title("A film").await;
    let stale = site.cluster.request(Method::PATCH, &medium).header("if-match", "\"0-0\"");
    let refused = stale.json(&json!({ "title": "Another" })).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    let entry = "/v1/cache/entries/one";
    for (method, body) in [(Method::PUT, Some("value")), (Method::GET, None), (Method::GET, None)] {
        let request = site.cluster.request(method, entry).header("content-type", "text/plain");
        let answer = request.body(body.unwrap_or_default()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
    let job = json!({ "job": { "kind": "verify", "media_id": site.media_id } });
    let mut made = Vec::new();
    for _ in 0..2 {
        let request = site.cluster.request(Method::POST, "/v1/jobs").header("idempotency-key", "\"once\"");
        let answer: Value = request.json(&job).send().await.unwrap().json().await.unwrap();
        made.push(answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
    }
    assert_eq!(made[0], made[1]);
}

/// A receiver of webhooks, and a hook that sends to it.
async fn make_hook(site: &Site) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(async || StatusCode::OK));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (status, made) =
        site.ask(Method::POST, "/v1/hooks", Some(&site.cluster.key), Some(json!({ "url": url }))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
}

async fn scrape(site: &Site, admin: &str, accept: &str) -> String {
    let request = site.cluster.http.get(format!("http://{admin}/metrics")).header("accept", accept);
    request.send().await.unwrap().text().await.unwrap()
}

/// Runs promtool, which `.ci/setup test` brings, over a text.
fn check_with_promtool(args: &[&str], text: &str) {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/promtool");
    let program = if own.exists() { own } else { "promtool".into() };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; `.ci/setup test` brings it");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(ended.status.success() && said.is_empty(), "{args:?}: {said}");
}

#[tokio::test]
async fn every_declared_metric_is_counted_by_real_traffic_and_shown_by_the_monitor() {
    let anvil = Anvil::start().await;
    let config = [chain::config(std::slice::from_ref(&anvil.url)), SETTINGS.to_owned()].concat();
    let mut site = Site::over(anvil, &config).await;
    let admin = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    site.cluster.stop("monitor");
    site.cluster.spawn("shown", &["worker", "monitor", "--admin-listen", &admin]);
    make_hook(&site).await;
    let wallet = Wallet::new(81);
    sign_in_and_out(&site, &wallet).await;
    play_gated(&site, &wallet).await;
    upload_in_pieces(&site).await;
    ask_around(&site).await;
    let again = site.cluster.upload(sample(2, "320x180", "25"), "again.mp4").await;
    site.cluster.media_event("media.ready", &again).await;
    let mut events = site.cluster.request(Method::GET, "/v1/events").send().await.unwrap();
    events.chunk().await.unwrap().unwrap();
    let began = Instant::now();
    let document = loop {
        let document = scrape(&site, &admin, OPEN_METRICS).await;
        let missing = unfed(&document);
        if missing.is_empty() {
            break document;
        }
        assert!(
            began.elapsed() < WAIT_MAX.min(Duration::from_secs(60)),
            "nothing feeds {missing:#?}\n{document}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    for role in ["ingress", "upload", "transcode", "tasks", "index", "audit", "keeper"] {
        let ready = format!("\nstreamgate_ready{{role=\"{role}\",instance=\"");
        assert!(document.contains(&ready), "{role} reports\n{document}");
    }
    for private in [&site.cluster.key, &site.media_id, &wallet.address.to_string().to_lowercase()] {
        assert!(!document.to_lowercase().contains(private.as_str()), "{private} in\n{document}");
    }
    check_with_promtool(&["check", "metrics"], &scrape(&site, &admin, "text/plain").await);
}

#[test]
fn what_only_trouble_feeds_has_a_test_that_looks_at_it() {
    for (name, file, text) in FED_BY_TROUBLE {
        assert!(declarations().any(|declared| declared.name == name), "{name} is not declared");
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let tests = source.split_once("#[cfg(test)]").map_or(source.as_str(), |(_, tests)| tests);
        assert!(tests.contains(text), "{name}: {file} has no {text}");
    }
    for name in ZERO_WHEN_WELL.iter().chain(&ZERO_WHEN_IDLE) {
        assert!(declarations().any(|declared| declared.name == *name), "{name} is not declared");
    }
}
