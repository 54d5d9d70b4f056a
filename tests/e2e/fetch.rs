//! Media that are fetched from an address, with every role in a process of its own and sources on loopback.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::StreamExt as _;
use reqwest::Method;
use schemas::{job::JobRecord, upload::UploadRecord};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

const LOOPBACK: &str = "[outbound]\nallow = [\"127.0.0.0/8\"]\n";

/// What stands in the query of an address, and nowhere else.
const SECRET: &str = "5up3rs3cr3t";

/// A server with a film, which holds the second half back until it is let go.
struct Source {
    film: Bytes,
    address: SocketAddr,
    let_go: watch::Sender<bool>,
    ranges: parking_lot::Mutex<Vec<Option<String>>>,
    open: AtomicUsize,
}

/// An answer that somebody still reads.
struct OpenAnswer(Arc<Source>);

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source {
    async fn start(film: Vec<u8>, is_held: bool) -> (Arc<Self>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Arc::new(Self {
            film: film.into(),
            address: listener.local_addr().unwrap(),
            let_go: watch::channel(!is_held).0,
            ranges: parking_lot::Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let router = Router::new().route("/films/sea.mp4", get(serve_film)).with_state(Arc::clone(&source));
        (source, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
    }

    fn url(&self) -> String {
        format!("http://{}/films/sea.mp4?signature={SECRET}", self.address)
    }

    fn half_bytes(&self) -> usize {
        self.film.len() / 2
    }
}

async fn serve_film(State(source): State<Arc<Source>>, headers: HeaderMap) -> Response {
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    source.ranges.lock().push(range.clone());
    let start: usize = range.map_or(0, |range| {
        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap()
    });
    source.open.fetch_add(1, Ordering::SeqCst);
    let open = OpenAnswer(Arc::clone(&source));
    let (half, length) = (source.half_bytes().max(start), source.film.len());
    let begun = Bytes::copy_from_slice(&source.film[start..half]);
    let rest = Bytes::copy_from_slice(&source.film[half..]);
    let mut let_go = source.let_go.subscribe();
    let later = async move {
        let_go.wait_for(|is_let_go| *is_let_go).await.unwrap();
        drop(open);
        Ok::<_, std::io::Error>(rest)
    };
    let body = futures::stream::iter([Ok(begun)]).chain(futures::stream::once(later));
    let place = format!("bytes {start}-{}/{length}", length - 1);
    let status = if start > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = (status, [(header::ETAG, "\"v1\"")], Body::from_stream(body)).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, (length - start).into());
    if start > 0 {
        response.headers_mut().insert(header::CONTENT_RANGE, place.parse().unwrap());
    }
    response
}

/// What the command prints, a document a line, and whether it went well.
async fn media_fetch(cluster: &Cluster, args: &[&str]) -> (bool, Vec<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgate"));
    command.args(["--json", "media", "fetch"]).args(args);
    command.args(["--url", &cluster.url, "--api-key", &cluster.key]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    (ran.status.success(), out.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), err)
}

/// The ids of a fetch that was begun, and of which the first half is there.
async fn begin_half(cluster: &Cluster, source: &Source) -> [String; 3] {
    let (went_well, begun, said) = media_fetch(cluster, &["--detach", &source.url()]).await;
    assert!(went_well, "{said}\n{}", cluster.logs());
    let ids = ["media_id", "job_id", "upload_id"].map(|name| begun[0][name].as_str().unwrap().to_owned());
    let half = poll(WAIT_MAX, async || {
        let job = cluster.get(&format!("/v1/jobs/{}", ids[1])).await;
        (job["fetch"]["received_bytes"] == json!(source.half_bytes())).then_some(job)
    });
    let job = half.await.unwrap_or_else(|| panic!("the first half never comes\n{}", cluster.logs()));
    let fetch = &job["fetch"];
    assert_eq!(fetch["source"], json!(format!("http://{}/films/sea.mp4", source.address)), "{job}");
    assert_eq!(fetch["total_bytes"], json!(source.film.len()), "{job}");
    assert!([49, 50].contains(&job["progress"]["percent"].as_u64().unwrap()), "{job}");
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_followed_by_one_that_asks_for_the_rest() {
    let mut cluster = Cluster::start_with(Options::default(), LOOPBACK).await;
    let (source, serving) = Source::start(sample(8, "320x180", "25"), true).await;
    let [media_id, job_id, upload_id] = begin_half(&cluster, &source).await;

    // Nobody else brings bytes of it.
    let patch = cluster
        .request(Method::PATCH, &format!("/v1/uploads/{upload_id}"))
        .header("Tus-Resumable", "1.0.0")
        .header("Upload-Offset", source.half_bytes())
        .header(header::CONTENT_TYPE, "application/offset+octet-stream")
        .body("other bytes")
        .send()
        .await
        .unwrap();
    let status = patch.status();
    let problem: Value = patch.json().await.unwrap();
    assert_eq!((status.as_u16(), &problem["code"]), (403, &"upload_fetched".into()), "{problem}");

    cluster.kill("tasks");
    source.let_go.send_replace(true);
    cluster.spawn("tasks", &["worker", "tasks"]);
    cluster.media_event("media.ready", &media_id).await;
    let stored = cluster.store.get(&format!("media/{media_id}/source"), 1 << 30).await.unwrap();
    assert_eq!(stored, source.film, "the bytes are those of the source");
    let rest = format!("bytes={}-", source.half_bytes());
    let tries: Vec<_> =
        cluster.all_events().await.into_iter().filter(|event| event.kind.starts_with("job.")).collect();
    assert_eq!(*source.ranges.lock(), [None, Some(rest)], "{tries:?}\n{}", cluster.logs());
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(document["title"], "sea.mp4", "{document}");

    // The secret was in one record, and is not any more.
    let job = cluster.get(&format!("/v1/jobs/{job_id}")).await;
    assert_eq!((&job["status"], &job["kind"]), (&"succeeded".into(), &"fetch".into()), "{job}");
    let record = cluster.bus.load_record::<JobRecord>(&job_id).await.unwrap().unwrap().record;
    assert_eq!(record.fetch.unwrap().url, None);
    let mut texts = vec![job.to_string(), document.to_string(), cluster.logs()];
    texts.extend(cluster.all_events().await.iter().map(|event| event.data.to_string()));
    let audit = cluster.request(Method::GET, "/v1/audit").send().await.unwrap().text().await.unwrap();
    assert!(audit.contains(&job_id), "{audit}");
    texts.push(audit);
    assert!(texts.iter().all(|text| !text.contains(SECRET)), "the secret stands elsewhere");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_fetch_lets_go_of_its_source_and_leaves_nothing() {
    let cluster = Cluster::start_with(Options::default(), LOOPBACK).await;
    let (source, serving) = Source::start(sample(4, "320x180", "25"), true).await;
    let [media_id, job_id, upload_id] = begin_half(&cluster, &source).await;
    assert_eq!(source.open.load(Ordering::SeqCst), 1);
    let path = format!("/v1/jobs/{job_id}/cancel");
    let cancelled = cluster.request(Method::POST, &path).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    let since = Instant::now();
    let is_closed = poll(WAIT_MAX, async || (source.open.load(Ordering::SeqCst) == 0).then_some(())).await;
    assert!(is_closed.is_some() && since.elapsed() < Duration::from_secs(2), "after {:?}", since.elapsed());
    let ended = poll(WAIT_MAX, async || {
        let upload = cluster.bus.load_record::<UploadRecord>(&upload_id).await.unwrap().unwrap().record;
        upload.freed.then_some(upload)
    });
    let upload = ended.await.unwrap_or_else(|| panic!("its bytes stay\n{}", cluster.logs()));
    assert_eq!(upload.code.as_deref(), Some("job_cancelled"));
    let medium = cluster.request(Method::GET, &format!("/v1/media/{media_id}")).send().await.unwrap();
    assert_eq!(medium.status(), 404, "its medium went with it");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_waits_and_says_what_the_source_said() {
    let cluster = Cluster::start_with(Options::default(), LOOPBACK).await;
    let (source, serving) = Source::start(sample(2, "320x180", "25"), false).await;
    let args = ["--wait", "--public", "--title", "At the sea", &source.url()];
    let (went_well, found, said) = media_fetch(&cluster, &args).await;
    assert!(went_well, "{said}\n{}", cluster.logs());
    let answer = &found[0];
    assert!(answer["hls_url"].as_str().unwrap().contains("/play/"), "{answer}");
    let media_id = answer["media_id"].as_str().unwrap();
    let gate = cluster.get(&format!("/v1/media/{media_id}/gate")).await;
    assert_eq!(gate["rule"]["kind"], "public", "{gate}");
    assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["title"], "At the sea");

    let missing = format!("http://{}/films/other.mp4", source.address);
    let (went_well, found, said) = media_fetch(&cluster, &[&missing]).await;
    assert!(!went_well && said.contains("404") && said.contains("fetch_refused"), "{said}");
    assert_eq!(found[0]["code"], "fetch_refused", "{found:?}");

    for url in [
        "http://10.1.2.3/a.mp4",
        "http://[::ffff:a9fe:a9fe]/",
        "ftp://films.example/",
        "http://a:b@films.example/",
    ] {
        let body = json!({ "source_url": url });
        let refused = cluster.request(Method::POST, "/v1/media").json(&body).send().await.unwrap();
        let status = refused.status();
        let problem: Value = refused.json().await.unwrap();
        assert_eq!((status.as_u16(), &problem["code"]), (422, &"source_refused".into()), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/source_url", "{problem}");
    }

    // A request that is repeated is done once.
    let body = json!({ "source_url": source.url() });
    let ask = async || {
        let request = cluster.request(Method::POST, "/v1/media").header("Idempotency-Key", "\"a fetch\"");
        request.json(&body).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let (first, again) = (ask().await, ask().await);
    assert!(first["job_id"].is_string() && first == again, "{first} {again}");
    serving.abort();
}
