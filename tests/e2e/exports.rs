//! Media that are sent to an address, with every role in a process of its own and receivers on loopback.

use std::{net::SocketAddr, process::Command, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::put,
};
use data_encoding::HEXLOWER;
use reqwest::Method;
use schemas::job::JobRecord;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

const SETTINGS: &str = "[outbound]\nallow = [\"127.0.0.0/8\"]\nidle_timeout = \"1s\"\nhead_timeout = \"1s\"\n\
    [tasks.parts]\nattempts_max = 3\nretry_delay = \"50ms\"\nretry_delay_max = \"100ms\"\n";

/// What stands in the query of an address, and nowhere else.
const SECRET: &str = "5up3rs3cr3t";

/// A request as it came.
#[derive(Debug, Clone)]
struct TakenFile {
    length: Option<String>,
    content_type: Option<String>,
    bytes: Bytes,
}

/// A server that takes files; the first `failing` requests are answered with 500.
struct Receiver {
    address: SocketAddr,
    failing: usize,
    taken: parking_lot::Mutex<Vec<TakenFile>>,
}

impl Receiver {
    async fn start(failing: usize) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Arc::new(Self { address, failing, taken: parking_lot::Mutex::default() });
        let router = Router::new()
            .route("/kept/film", put(take_file))
            .route("/never", put(hang))
            .route("/forbidden", put(|| async { StatusCode::FORBIDDEN }))
            .with_state(Arc::clone(&receiver));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (receiver, AbortOnDropHandle::new(serving))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}?signature={SECRET}", self.address)
    }
}

async fn take_file(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Body) -> StatusCode {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let taken =
        TakenFile { length: text(header::CONTENT_LENGTH), content_type: text(header::CONTENT_TYPE), bytes };
    let mut all = receiver.taken.lock();
    all.push(taken);
    if all.len() <= receiver.failing { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED }
}

/// Takes nothing and answers nothing.
async fn hang(body: Body) -> StatusCode {
    std::future::pending::<()>().await;
    drop(body);
    StatusCode::OK
}

/// What the command prints, and whether it went well.
async fn export(cluster: &Cluster, args: &[&str]) -> (bool, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgate"));
    command.args(["--json", "jobs", "export"]).args(args);
    command.args(["--url", &cluster.url, "--api-key", &cluster.key]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    let printed = out.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (ran.status.success(), printed, err)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The status and the problem that a job is refused with.
async fn refuse(cluster: &Cluster, request: &Value) -> (u16, Value) {
    let answer = cluster.request(Method::POST, "/v1/jobs").json(request).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_public_and_a_time_are_refused() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.stored", &media_id).await;
    let job = |url: &str| json!({ "kind": "export", "media_id": media_id, "target_url": url });
    for url in ["http://127.0.0.1:9/a", "http://10.1.2.3/a", "http://[::ffff:a9fe:a9fe]/", "ftp://h.example/"]
    {
        let (status, problem) = refuse(&cluster, &json!({ "job": job(url) })).await;
        assert_eq!((status, &problem["code"]), (422, &"target_refused".into()), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/job/target_url", "{problem}");
    }
    let public = "https://archive.example/film.mp4?signature=5up3rs3cr3t";
    let later = json!({ "job": job(public), "run_at_ms": 4_000_000_000_000_u64 });
    let (status, problem) = refuse(&cluster, &later).await;
    assert_eq!((status, &problem["code"]), (422, &"export_scheduled".into()), "{problem}");
    let mut both = job(public);
    both["file"] = "source".into();
    both["height"] = 720.into();
    let (status, problem) = refuse(&cluster, &json!({ "job": both })).await;
    assert_eq!((status, &problem["code"]), (422, &"export_invalid".into()), "{problem}");

    // A key for jobs alone may ask for other jobs, but gets no bytes sent.
    let made = cluster.request(Method::POST, "/v1/auth/keys").json(&json!({ "scopes": ["worker"] }));
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}"));
    for (path, body) in [
        ("/v1/jobs", json!({ "job": job(public) })),
        ("/v1/jobs/bulk", json!({ "jobs": [{ "job": job(public) }] })),
    ] {
        let asked = cluster.http.post(format!("{}{path}", cluster.url)).bearer_auth(key).json(&body);
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        let problem = answer.get("items").map_or(&answer, |items| &items[0]["problem"]);
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&"scope_missing".into(), &403.into()),
            "{answer}"
        );
    }
    assert_eq!(problem["errors"][0]["pointer"], "/job/height", "{problem}");
    assert!(!cluster.logs().contains(SECRET), "a refused address stands in a log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_twice_has_the_file_then_and_its_digest_is_known() {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let film = sample(4, "320x180", "25");
    let media_id = cluster.upload(film.clone(), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let (receiver, _serving) = Receiver::start(2).await;

    let (went_well, job, said) =
        export(&cluster, &[&media_id, "--to", &receiver.url("/kept/film"), "--wait"]).await;
    assert!(went_well, "{said}\n{job}\n{}", cluster.logs());
    let taken = receiver.taken.lock().clone();
    assert_eq!(taken.len(), 3, "each try sends all of it");
    let last = taken.last().unwrap();
    assert_eq!(last.length, Some(last.bytes.len().to_string()));
    assert_eq!(last.content_type.as_deref(), Some("video/mp4"));
    let exported = &job["exported"];
    assert_eq!(exported["sha256"], json!(sha256(&last.bytes)), "{job}");
    assert_eq!(
        (&exported["size_bytes"], &exported["encode"]),
        (&json!(last.bytes.len()), &json!(1)),
        "{job}"
    );
    let target = format!("http://{}/kept/film", receiver.address);
    assert_eq!((&job["export"]["target"], &job["export"]["file"]), (&json!(target), &json!("mp4")), "{job}");
    // What plays, as one file that FFmpeg reads to its end.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    std::fs::write(&path, &last.bytes).unwrap();
    let frames = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-select_streams",
            "v",
            "-show_entries",
            "stream=nb_read_frames",
        ])
        .args(["-of", "csv=p=0"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&frames.stdout).trim(), "100");

    let args = [&media_id, "--to", &receiver.url("/kept/film"), "--what", "source", "--wait"];
    let (went_well, source, said) = export(&cluster, &args).await;
    assert!(went_well, "{said}");
    assert_eq!(receiver.taken.lock().last().unwrap().bytes, film);
    assert_eq!(source["exported"]["sha256"], json!(sha256(&film)));

    let job_id = job["job_id"].as_str().unwrap().to_owned();
    let events = cluster.all_events().await;
    let of_job = |kind: &str| {
        events
            .iter()
            .filter(|event| event.kind == kind && event.data["job_id"] == job["job_id"])
            .collect::<Vec<_>>()
    };
    assert_eq!(of_job("job.succeeded")[0].data["exported"]["sha256"], exported["sha256"]);
    assert_eq!(of_job("job.retried").len(), 2, "{events:?}");
    // The secret was in one record, and is not any more.
    let record = cluster.bus.load_record::<JobRecord>(&job_id).await.unwrap().unwrap().record;
    assert_eq!(record.export.unwrap().url, None);
    let mut texts = vec![job.to_string(), cluster.logs()];
    texts.extend(events.iter().map(|event| event.data.to_string()));
    let audit = cluster.request(Method::GET, "/v1/audit").send().await.unwrap().text().await.unwrap();
    texts.push(audit);
    assert!(texts.iter().all(|text| !text.contains(SECRET)), "the secret stands elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_or_refuses_fails_the_job_and_says_so() {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let (receiver, _serving) = Receiver::start(0).await;
    let (went_well, job, said) =
        export(&cluster, &[&media_id, "--to", &receiver.url("/never"), "--wait"]).await;
    assert!(!went_well && said.contains("export_timed_out"), "{said}\n{job}");
    assert_eq!(job["parts"][0]["attempt"], 3, "{job}");
    let (went_well, job, said) =
        export(&cluster, &[&media_id, "--to", &receiver.url("/forbidden"), "--wait"]).await;
    assert!(!went_well && said.contains("403") && said.contains("export_refused"), "{said}\n{job}");
    assert_eq!(job["parts"][0]["attempt"], 1, "what is refused is not asked again: {job}");
    let retry = format!("/v1/jobs/{}/retry", job["job_id"].as_str().unwrap());
    let again = cluster.request(Method::POST, &retry).send().await.unwrap();
    assert_eq!(again.status(), 409, "{}", again.text().await.unwrap());

    // Of an unfinished export nothing goes on once its job is cancelled.
    let (_, begun, said) = export(&cluster, &[&media_id, "--to", &receiver.url("/never")]).await;
    let path = format!("/v1/jobs/{}", begun["job_id"].as_str().unwrap_or_else(|| panic!("{said}")));
    let cancelled = cluster.request(Method::POST, &format!("{path}/cancel")).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    let ended = poll(WAIT_MAX, async || {
        let job = cluster.get(&path).await;
        (job["state"] == "cancelled").then_some(job)
    });
    assert!(ended.await.is_some(), "{}", cluster.logs());
    assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["status"], "ready");
}
