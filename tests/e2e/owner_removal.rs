//! Removing an owner: what is left of it, counted in everything that is stored.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use nats::{ReaderStart, reader};
use reqwest::{Method, StatusCode};
use schemas::access::PrincipalRole;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

/// A name that stands nowhere but where it is named.
const OWNER: &str = "owner-that-leaves";
const OTHER: &str = "owner-that-stays";

/// What is removed is purged soon.
const SETTINGS: &str = "[outbound]\nallow = [\"127.0.0.1/32\"]\n[keeper.purge]\ngrace = \"1s\"\nmark = \"1s\"\nperiod = \"200ms\"\n";

fn hex_digest(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Names by which an owner is stored: itself, and digests of it.
fn names(owner: &str) -> Vec<String> {
    let plain = hex_digest(owner.as_bytes());
    let ended = hex_digest(&[owner.as_bytes(), &[0]].concat());
    let half = |digest: &str| digest.chars().take(32).collect::<String>();
    vec![owner.to_owned(), half(&plain), half(&ended)]
}

/// In which streams an owner is still named, how often. What happened is not looked at: EVENTS, the audit log, and their mirrors; nor is
/// the work queue, whose messages name jobs, and progress, which goes within the hour.
async fn count_names(cluster: &Cluster, owner: &str) -> BTreeMap<String, usize> {
    let names = names(owner);
    let streams: Vec<String> = cluster.bus.context().stream_names().try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    for stream in streams {
        if ["EVENTS", "AUDIT", "JOBS", "PROGRESS"].contains(&stream.as_str()) {
            continue;
        }
        let config = reader::ReaderConfig::new(&stream, Vec::new(), ReaderStart::All);
        let mut entries = cluster.bus.open_reader(config).await.unwrap();
        while let Some(entry) = entries.next_pending().await.unwrap() {
            let is_named = names.iter().any(|name| {
                entry.payload.windows(name.len()).any(|bytes| bytes == name.as_bytes())
                    || (!entry.is_removal() && entry.subject.contains(name.as_str()))
            });
            if is_named {
                *found.entry(stream.clone()).or_default() += 1;
            }
        }
    }
    found
}

/// One owner, by its key.
struct OwnerClient<'a> {
    cluster: &'a Cluster,
    key: String,
}

impl OwnerClient<'_> {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.cluster.http.request(method.clone(), format!("{}{path}", self.cluster.url));
        let request = request.bearer_auth(&self.key);
        let request = if method == Method::PATCH { request.header("if-match", "*") } else { request };
        let answer = if let Some(body) = body { request.json(&body) } else { request }.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// All that an owner can have.
    async fn fill(&self, hook_url: &str) -> String {
        let upload = self.cluster.http.post(format!("{}/v1/media", self.cluster.url)).bearer_auth(&self.key);
        let upload = upload.header("content-type", "video/mp4").body(sample(2, "320x180", "25"));
        let answer = upload.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
        let medium = format!("/v1/media/{media_id}");
        let is_ready = poll(WAIT_MAX, async || {
            (self.send(Method::GET, &medium, None).await.1["status"] == "ready").then_some(())
        });
        assert!(is_ready.await.is_some());
        let job = json!({ "kind": "verify", "media_id": media_id });
        for (method, path, body, expected) in [
            (Method::PUT, "/v1/cache/entries/note", None, 201),
            (Method::POST, "/v1/hooks", Some(json!({ "url": hook_url })), 201),
            (
                Method::POST,
                "/v1/schedules",
                Some(json!({ "job": job, "timing": { "type": "cron", "expression": "30 2 1 1 *" } })),
                201,
            ),
            (
                Method::POST,
                "/v1/jobs/actions",
                Some(json!({ "action": { "type": "pause" }, "filter": { "status": "active" } })),
                202,
            ),
            (Method::POST, &format!("{medium}/playback"), None, 200),
            (
                Method::PATCH,
                &medium,
                Some(json!({ "title": "a film", "contact_email": "a@example.org" })),
                200,
            ),
        ] {
            let (status, answer) = self.send(method.clone(), path, body).await;
            assert_eq!(status.as_u16(), expected, "{method} {path}: {answer}");
        }
        media_id
    }
}

/// An address of webhooks that takes everything.
async fn serve_hook() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(|| async { StatusCode::NO_CONTENT });
    // Until the test's runtime ends.
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_owner_that_is_removed() {
    let cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let hook_url = serve_hook().await;
    let mut media = Vec::new();
    for owner in [OWNER, OTHER] {
        auth::create_api_key(&cluster.bus, owner, PrincipalRole::Owner).await.unwrap();
        let key = auth::create_api_key(&cluster.bus, owner, PrincipalRole::Owner).await.unwrap();
        let client = OwnerClient { cluster: &cluster, key };
        media.push((client.fill(&hook_url).await, client));
    }
    let delivered =
        poll(WAIT_MAX, async || count_names(&cluster, OWNER).await.contains_key("HOOKLOG").then_some(()));
    assert!(delivered.await.is_some(), "{:?}", count_names(&cluster, OWNER).await);
    let (before, other_before) = (count_names(&cluster, OWNER).await, count_names(&cluster, OTHER).await);
    for stream in [
        "KV_media",
        "KV_assets",
        "KV_jobs",
        "KV_uploads",
        "KV_apikeys",
        "KV_hooks",
        "KV_schedules",
        "KV_cache",
    ] {
        assert!(before.contains_key(stream), "{stream}: {before:?}");
    }

    let refused = cluster.run(&["owner", "rm", OWNER]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    assert_eq!(count_names(&cluster, OWNER).await.get("KV_media"), before.get("KV_media"));
    let removed = cluster.run(&["--json", "owner", "rm", OWNER, "--yes"]);
    let said = String::from_utf8_lossy(&removed.stdout).into_owned();
    assert!(removed.status.success(), "{said}{}", String::from_utf8_lossy(&removed.stderr));
    let said: Value = serde_json::from_str(&said).unwrap();
    for (what, count) in [
        ("media_count", 1),
        ("key_count", 2),
        ("hook_count", 1),
        ("schedule_count", 1),
        ("job_count", 1),
        ("value_count", 1),
    ] {
        assert_eq!(said[what], count, "{what}: {said}");
    }
    let is_gone = poll(WAIT_MAX, async || count_names(&cluster, OWNER).await.is_empty().then_some(()));
    assert!(is_gone.await.is_some(), "{:?}\n{}", count_names(&cluster, OWNER).await, cluster.logs());
    assert!(cluster.objects(&media[0].0).await.is_empty());
    let refused = poll(WAIT_MAX, async || {
        (media[0].1.send(Method::GET, "/v1/media", None).await.0 == 401).then_some(())
    });
    assert!(refused.await.is_some(), "its key opens nothing");
    // Neither lists nor the search know anything of it, and what others have is as it was.
    for path in ["/v1/media", "/v1/media/search?q=film", "/v1/jobs", "/v1/schedules", "/v1/hooks"] {
        let page = cluster.get(path).await;
        let text = page.to_string();
        assert!(!text.contains(OWNER) && !text.contains(&media[0].0), "{path}: {text}");
    }
    assert_eq!(media[1].1.send(Method::GET, &format!("/v1/media/{}", media[1].0), None).await.0, 200);
    for (stream, count) in count_names(&cluster, OTHER).await {
        assert!(
            stream == "HOOKLOG" || count >= *other_before.get(&stream).unwrap_or(&0),
            "{stream}: {count}"
        );
    }
    // Nothing is left to do.
    let again = cluster.run(&["--json", "owner", "rm", OWNER, "--yes"]);
    let said: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(said.as_object().unwrap().values().all(|count| *count == 0), "{said}");
}
