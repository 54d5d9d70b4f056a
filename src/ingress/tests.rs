//! The router on a real listener, spoken to in raw bytes: whatever goes wrong is a problem document.

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use axum::{extract::Path, http::Method};
use futures::{StreamExt, TryStreamExt};
use nats::{Role, testing::TestBroker};
use schemas::{
    ids::{JobId, MediaId},
    job,
    media::{MediaEncode, MediaStatus},
    subjects,
    upload::UploadStatus,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::*;
use web::{
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Playback sessions without a chain to ask.
pub(crate) fn grants(bus: &Bus) -> PlaybackGrants {
    let chains = evm::EvmClient::open(&[]).unwrap();
    PlaybackGrants::with_chains(
        bus,
        chains,
        &auth::AuthConfig::default(),
        gate::grant::GrantConfig::default(),
    )
}

/// One ingress with its broker and store.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) key: String,
    pub(super) broker: TestBroker,
    pub(super) store: Store,
    pub(super) app: AppState,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let named = self.head.lines().filter_map(|line| line.split_once(": "));
        named.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The code of the problem document that this has to be.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(body["status"], self.status, "{self:?}");
        assert_eq!(body["request_id"].as_str().map(str::len), Some(26), "{self:?}");
        assert_eq!(self.header("x-request-id"), body["request_id"].as_str(), "{self:?}");
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{self:?}");
        assert!(body["title"].is_string() && !body["title"].as_str().unwrap().contains("panic"), "{self:?}");
        let code = body["code"].as_str().unwrap();
        // What is answered is listed, and explained where its type leads to.
        let kind = &listed()[code];
        assert_eq!((&body["title"], &body["type"]), (&kind["title"], &kind["type"]), "{self:?}");
        let id: schemas::ids::RequestId = body["request_id"].as_str().unwrap().parse().unwrap();
        let instance = body["instance"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
        assert_eq!(instance.parse::<uuid::Uuid>().unwrap().as_bytes(), id.as_bytes());
        code.to_owned()
    }
}

/// The kinds of problems as the description lists them.
fn listed() -> &'static Value {
    static LISTED: LazyLock<Value> = LazyLock::new(|| openapi::build_document()["x-problems"].take());
    &LISTED
}

/// What the stages say of a medium of `owner`.
pub(super) fn asset(media_id: MediaId, owner: &str, status: MediaStatus) -> schemas::media::MediaRecord {
    schemas::media::MediaRecord {
        encode: Some(MediaEncode {
            number: 1,
            job_id: JobId::from_bytes([8; 16]),
            prefix: "media/film/enc/1".into(),
            duration_ms: 1_000,
            renditions: vec![schemas::media::EncodedRendition {
                name: "v360".into(),
                codecs: "avc1.64001e".into(),
                width: 640,
                height: 360,
                peak_bps: 800_000,
                average_bps: 600_000,
                segment_count: 1,
                size_bytes: 75_000,
            }],
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums: false,
            warnings: Vec::new(),
        }),
        ..schemas::media::MediaRecord::new(media_id, owner.to_owned(), status, 1)
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(rename = "count")]
    _count: u8,
}

static TEST_OPERATIONS: [Operation; 3] = [
    Operation::read("/test/panic", OperationAccess::Open, Some(RateLimitGroup::Api)),
    Operation::read("/test/slow", OperationAccess::Open, Some(RateLimitGroup::Api)),
    Operation::change(Method::PUT, "/test/json/{id}", OperationAccess::Open, Some(RateLimitGroup::Api), &[]),
];

/// Handlers that only tests have, under the layers that all have.
fn extra() -> OperationRouter<AppState> {
    let [panic, slow, json] = &TEST_OPERATIONS;
    OperationRouter::default()
        .with(panic, || async { panic!("secret words") as &'static str })
        .with(slow, std::future::pending::<&'static str>)
        .with(json, |Path(_): Path<String>, body::JsonBody::<Wanted>(_)| async { "taken" })
}

impl Site {
    pub(super) async fn start(change: impl FnOnce(&mut IngressConfig)) -> Self {
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut settings = broker.config(Role::Ingress);
        settings.request_timeout_ms = 2_000;
        let bus = Bus::connect(&settings).await.unwrap();
        let key = auth::create_first_key(&bus).await.unwrap().unwrap();
        let store = store::testing::open_test_store(store::StoreConfig::from_url(format!(
            "file://{}/store",
            folder.path().display()
        )))
        .unwrap();
        // As a role does at its start.
        store.verify_marker_now().await.unwrap();
        let mut config = IngressConfig::default();
        config.body.window_ms = 300;
        change(&mut config);
        let app = AppState::build(
            bus.clone(),
            store.clone(),
            grants(&bus),
            registry::MetricsRegistry::default(),
            config,
            auth::AuthConfig::default(),
        )
        .await
        .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let beside = app.clone();
        tasks.spawn(async move { Box::pin(beside.run(CancellationToken::new())).await.unwrap() });
        let router = router_with_routes(app.clone(), extra());
        tasks.spawn(web::serve::serve_connections(
            listener,
            router,
            CancellationToken::new(),
            Duration::from_secs(1),
        ));
        Self { address, key, broker, store, app, _folder: folder, _tasks: tasks }
    }

    /// Leaves the one repeated request as a replica does that did everything but answer.
    pub(super) async fn unanswer(&self) {
        let admin = self.broker.bus(Role::Admin).await;
        let bucket = admin.context().get_key_value("idempotency").await.unwrap();
        let key = bucket.keys().await.unwrap().next().await.unwrap().unwrap();
        let unanswered = |found: Option<&schemas::idempotency::IdempotencyRecord>| {
            let state = schemas::idempotency::IdempotencyState::Open { until_ms: 0 };
            Some((schemas::idempotency::IdempotencyRecord { state, ..found?.clone() }, nats::Outbox::new()))
        };
        admin.change_record(&key, unanswered).await.unwrap().unwrap();
    }

    /// Where all uploads stand.
    pub(super) async fn uploads(&self) -> Vec<UploadStatus> {
        let admin = self.broker.bus(Role::Admin).await;
        let bucket = admin.context().get_key_value("uploads").await.unwrap();
        let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        let mut found = Vec::new();
        for key in keys.iter().filter(|key| !key.contains('.')) {
            found.push(
                admin.load_record::<schemas::upload::UploadRecord>(key).await.unwrap().unwrap().record.status,
            );
        }
        found.sort_by_key(|status| *status as u8);
        found
    }

    /// Sends bytes as they are and reads until the connection ends.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            // The server may have answered and closed before it read all.
            writer.write_all(bytes.as_ref()).await.ok();
            std::future::pending::<()>().await;
        };
        let mut read = Vec::new();
        let receiving = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut read));
        tokio::select! {
            () = sending => {}
            done = receiving => {
                done.expect("an answer in time").ok();
            }
        }
        let text = String::from_utf8(read).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A request whose connection ends with the answer.
    pub(super) async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }
}

#[tokio::test]
async fn who_opens_a_wrong_address_in_a_browser_gets_a_page() {
    let site = Site::start(|_| {}).await;
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    for (path, status, heading) in [
        ("/nothing", 404, "There is nothing here"),
        ("/watch/short", 404, "There is nothing here"),
        ("/v1/media", 401, "Sign in first"),
        ("/play/wrong/06db00820dt0303jc5mn0r355k/master.m3u8", 403, "This link does not play any more"),
    ] {
        let page = site.ask("GET", path, browser, "").await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (status, Some("text/html; charset=utf-8")),
            "{page:?}"
        );
        assert!(page.body.contains(&format!("<h1>{heading}</h1>")), "{page:?}");
        let program = site.ask("GET", path, "", "").await;
        assert_eq!((program.status, program.problem().is_empty()), (status, false), "{program:?}");
    }
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem() {
    let site = Site::start(|config| config.manners.answer_ms_max = 1_000).await;
    let json = "Content-Type: application/json\r\n";
    let (long, large) = ("x".repeat(9_000), "x".repeat(300_000));
    for (method, path, headers, body, status, code) in [
        ("GET", "/nothing", "", "", 404, "not_found"),
        ("GET", "/v1/nothing", "", "", 404, "not_found"),
        ("POST", "/livez", "", "", 405, "method_not_allowed"),
        ("PATCH", "/v1/uploads", "", "", 405, "method_not_allowed"),
        ("BREW", "/version", "", "", 405, "method_not_allowed"),
        ("POST", "/v1/uploads", "", "", 401, "unauthorized"),
        ("GET", "/test/panic", "", "", 500, "internal"),
        ("GET", "/test/slow", "", "", 503, "timeout"),
        ("GET", &format!("/?{long}"), "", "", 414, "target_too_long"),
        ("PUT", "/test/json/a", "", "{}", 415, "media_type"),
        ("PUT", "/test/json/a", "Content-Type: text/plain\r\n", "{}", 415, "media_type"),
        ("PUT", "/test/json/a", json, "{", 400, "json_malformed"),
        ("PUT", "/test/json/a", json, "{\"count\":300}", 400, "json_invalid"),
        ("PUT", "/test/json/a", json, "{\"count\":1,\"more\":1}", 400, "json_invalid"),
        ("PUT", "/test/json/a", json, &large, 413, "body_too_large"),
        ("PUT", "/test/json/%ff", json, "{\"count\":1}", 400, "request_invalid"),
    ] {
        let answer = site.ask(method, path, headers, body).await;
        let shown = path.get(..20).unwrap_or(path);
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, code),
            "{method} {shown}: {answer:?}"
        );
        assert!(!answer.body.contains("secret words"), "{answer:?}");
    }
    let answer = site.ask("PUT", "/test/json/a", json, "{\"count\":300}").await;
    assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap()["errors"][0]["pointer"], "/count");
    assert_eq!(site.ask("PUT", "/test/json/a", json, "{\"count\":3}").await.status, 200);
}

#[tokio::test]
async fn a_method_that_is_not_taken_is_answered_with_those_that_are() {
    let site = Site::start(|_| {}).await;
    let key = format!("Authorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n", site.key);
    for (path, wanted) in [
        ("/livez", &["GET", "HEAD"][..]),
        ("/v1/uploads", &["POST", "OPTIONS"]),
        ("/v1/uploads/x", &["HEAD", "PATCH", "DELETE", "POST", "OPTIONS"]),
        ("/openapi.json", &["GET", "HEAD"]),
    ] {
        let answer = site.ask("PROPFIND", path, &key, "").await;
        assert_eq!(answer.problem(), "method_not_allowed");
        let allow: Vec<&str> = answer.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        assert!(wanted.iter().all(|method| allow.contains(method)), "{path}: {allow:?}");
    }
    // POST on an upload is an override or nothing.
    let answer = site.ask("POST", "/v1/uploads/x", &key, "").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("DELETE, GET, HEAD, OPTIONS, PATCH, POST"))
    );
}

#[tokio::test]
async fn heads_that_can_not_be_read_are_problems_too() {
    let site = Site::start(|_| {}).await;
    let many = "x-many: 1\r\n".repeat(150);
    let (half, huge) = ("x".repeat(40_000), "x".repeat(200_000));
    for (bytes, status, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "request_malformed"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400, "request_malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), 400, "request_malformed"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431, "headers_too_large"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx: {half}\r\n\r\n"),
            431,
            "headers_too_large",
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nx: {huge}\r\n\r\n"), 431, "headers_too_large"),
    ] {
        let answer = site.raw(&bytes).await;
        let shown = bytes.get(..30).unwrap_or(&bytes);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{shown:?}: {}", answer.head);
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(length, answer.body.len(), "{shown:?}");
    }
}

#[tokio::test]
async fn options_of_uploads_says_what_is_offered() {
    let site = Site::start(|_| {}).await;
    let answer = site.ask("OPTIONS", "/v1/uploads", "Origin: https://app.example.org\r\n", "").await;
    assert_eq!((answer.status, answer.header("tus-version")), (204, Some("1.0.0")), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_player_of_any_origin_can_read_every_answer_below_play() {
    let app = "https://app.example.org";
    let site = Site::start(|config| {
        config.manners.origins = vec![app.to_owned()];
        config.manners.credentials = true;
        config.limit.replicas_assumed_count = 1;
        config.limit.rates.streaming = limit::gcra::BucketRate { capacity: 8, refill_per_s: 1 };
    })
    .await;
    let (long, huge) = ("x".repeat(9_000), format!("X-Huge: {}\r\n", "x".repeat(40_000)));
    let (film, foreign) = ("/play/token/film/master.m3u8", "https://player.example.org");
    let mut statuses = std::collections::BTreeSet::new();
    for (method, path, more) in [
        ("GET", film, ""),
        ("DELETE", film, ""),
        ("GET", "/play/nothing", ""),
        ("GET", &format!("{film}?{long}"), ""),
        ("GET", film, &huge),
        ("GET", film, ""),
        ("GET", film, ""),
        ("GET", film, ""),
        ("GET", film, ""),
    ] {
        for origin in [foreign, app] {
            let answer = site.ask(method, path, &format!("Origin: {origin}\r\n{more}"), "").await;
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
            let exposed = answer.header("access-control-expose-headers").unwrap();
            assert!(exposed.contains("retry-after"), "{exposed}");
            statuses.insert(answer.status);
        }
    }
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [403, 404, 405, 414, 429, 431]);
    for (origin, wanted) in [(foreign, (None, None)), (app, (Some(app), Some("true")))] {
        let answer = site.ask("GET", "/v1/media", &format!("Origin: {origin}\r\n"), "").await;
        let found =
            ["access-control-allow-origin", "access-control-allow-credentials"].map(|n| answer.header(n));
        assert_eq!((found[0], found[1]), wanted, "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_drips_is_cut() {
    // Only the body's own limit may end it.
    let site = Site::start(|_| {}).await;
    let started = std::time::Instant::now();
    let answer = site
        .raw(
            "PUT /test/json/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: 5000\r\n\r\n{\"co",
        )
        .await;
    assert_eq!((answer.status, answer.problem().as_str()), (408, "body_too_slow"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn limits_stand_before_and_behind_authentication() {
    let rate = limit::gcra::BucketRate { capacity: 3, refill_per_s: 1 };
    let site = Site::start(|config| {
        config.limit.replicas_assumed_count = 1;
        config.limit.rates.upload = rate;
        config.client.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    // Guessing keys counts for the address, whatever else it claims to be.
    for i in 0..3 {
        let headers =
            format!("X-Forwarded-For: 1.2.3.{i}, 192.0.2.1\r\nAuthorization: Bearer sg_wrong_{i}\r\n");
        assert_eq!(site.ask("POST", "/v1/uploads", &headers, "").await.status, 401);
    }
    let refused = site.ask("POST", "/v1/uploads", "X-Forwarded-For: 192.0.2.1\r\n", "").await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // The principal is counted from wherever it comes.
    let create = |i: usize| {
        format!(
            "X-Forwarded-For: 192.0.3.{i}\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n",
            site.key
        )
    };
    for i in 0..3 {
        let answer = site.ask("POST", "/v1/uploads", &create(i), "").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(answer.header("ratelimit").unwrap().contains("\"upload-principal\";r="), "{answer:?}");
    }
    // Clients of tus give up at a 429; others do not.
    let refused = site.ask("POST", "/v1/uploads", &create(9), "").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "rate_limited"));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.body.contains("upload-principal"), "{refused:?}");
    let whole = create(9).replace("Tus-Resumable: 1.0.0\r\n", "Content-Type: video/mp4\r\n");
    assert_eq!(site.ask("POST", "/v1/media", &whole, "").await.status, 429);
}

#[tokio::test]
async fn an_upload_that_is_created_twice_with_one_key_is_one() {
    let site = Site::start(|_| {}).await;
    let headers = format!(
        "Authorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nIdempotency-Key: \"one\"\r\n",
        site.key
    );
    let first = site.ask("POST", "/v1/uploads", &headers, "").await;
    let again = site.ask("POST", "/v1/uploads", &headers, "").await;
    assert_eq!((first.status, again.status), (201, 201), "{again:?}");
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.header("streamgate-media-id"), again.header("streamgate-media-id"));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!(
        (first.header("tus-resumable"), again.header("tus-resumable")),
        (Some("1.0.0"), Some("1.0.0"))
    );
    let refused =
        headers.replace("\"one\"", "\"two\"").replace("Tus-Resumable: 1.0.0", "Tus-Resumable: 0.2.2");
    for _ in 0..2 {
        let answer = site.ask("POST", "/v1/uploads", &refused, "").await;
        assert_eq!((answer.status, answer.header("tus-version")), (412, Some("1.0.0")), "{answer:?}");
    }
    let other = site.ask("POST", "/v1/uploads", &headers.replace("Length: 5", "Length: 6"), "").await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency_mismatch"));
}

#[tokio::test]
async fn an_upload_whose_replica_died_before_it_answered_is_found_again() {
    let site = Site::start(|_| {}).await;
    let headers = format!(
        "Authorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 9\r\nIdempotency-Key: \"one\"\r\n\
         Content-Type: application/offset+octet-stream\r\n",
        site.key
    );
    let first = site.ask("POST", "/v1/uploads", &headers, "hello").await;
    assert_eq!((first.status, first.header("upload-offset")), (201, Some("5")), "{first:?}");
    site.unanswer().await;
    let again = site.ask("POST", "/v1/uploads", &headers, "hello").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, None), "{again:?}");
    for name in ["location", "streamgate-media-id", "upload-offset"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
    assert_eq!(site.uploads().await, [UploadStatus::Open]);
    // And one that was given up meanwhile is not answered as if it were there.
    let location = first.header("location").unwrap();
    let upload = format!("/v1/uploads/{}", location.rsplit('/').next().unwrap());
    assert_eq!(site.ask("DELETE", &upload, &headers, "").await.status, 204);
    site.unanswer().await;
    assert_eq!(site.ask("POST", "/v1/uploads", &headers, "hello").await.status, 410);
}

#[tokio::test]
async fn a_whole_file_whose_answer_was_lost_is_brought_in_once() {
    let site = Site::start(|config| config.uploads.idle_timeout_ms = 300).await;
    let headers = format!(
        "Authorization: Bearer {}\r\nIdempotency-Key: \"one\"\r\nContent-Type: video/mp4\r\n",
        site.key
    );
    // Nothing comes after the first bytes, so the request ends early; nobody receives the answer.
    let cut = site
        .raw(format!("POST /v1/media HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: 9\r\n\r\nhello"))
        .await;
    assert_eq!((cut.status, cut.problem().as_str()), (503, "upload_idle"));
    site.unanswer().await;
    let first = site.ask("POST", "/v1/media", &headers, "hello you").await;
    assert_eq!(first.status, 201, "{first:?}");
    site.unanswer().await;
    let again = site.ask("POST", "/v1/media", &headers, "hello you").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, None), "{again:?}");
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(site.uploads().await, [UploadStatus::Received, UploadStatus::Terminated]);
}

#[tokio::test]
async fn a_whole_that_was_cut_is_taken_when_it_comes_again() {
    let site = Site::start(|_| {}).await;
    for (path, state) in [
        ("/v1/media", ""),
        ("/v1/media", "Upload-Complete: ?1\r\n"),
        ("/v1/uploads", "Upload-Complete: ?1\r\n"),
    ] {
        let key = format!("{path} {}", state.len());
        let headers = format!(
            "Authorization: Bearer {}\r\nIdempotency-Key: \"{key}\"\r\nContent-Type: video/mp4\r\n{state}",
            site.key
        );
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n{headers}\r\nhello"
        );
        let mut cut = TcpStream::connect(site.address).await.unwrap();
        cut.write_all(head.as_bytes()).await.unwrap();
        cut.shutdown().await.unwrap();
        // What is said to who is gone does not matter, only that it is over.
        cut.read_to_end(&mut Vec::new()).await.unwrap();
        let again = site.ask("POST", path, &headers, "hello you").await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (201, None), "{again:?}");
        if !state.is_empty() {
            assert_eq!(
                (again.header("upload-complete"), again.header("upload-offset")),
                (Some("?1"), Some("9"))
            );
        }
        // Its answer is kept with all that it says, and is not that to another request.
        let kept = site.ask("POST", path, &headers, "hello you").await;
        assert_eq!((kept.status, kept.header("idempotency-replayed")), (201, Some("true")), "{kept:?}");
        assert_eq!(kept.header("upload-complete"), again.header("upload-complete"));
        let other = headers.replace("?1", "?0");
        if other != headers {
            assert_eq!(site.ask("POST", path, &other, "hello you").await.problem(), "idempotency_mismatch");
        }
    }
    let received = site.uploads().await.into_iter().filter(|status| *status == UploadStatus::Received);
    assert_eq!(received.count(), 3);
}

#[tokio::test]
async fn who_asks_to_play_too_early_leaves_no_session() {
    let site = Site::start(|_| {}).await;
    let authorization = format!("Authorization: Bearer {}\r\n", site.key);
    let headers = format!(
        "{authorization}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nContent-Type: application/offset+octet-stream\r\n"
    );
    let uploaded = site.ask("POST", "/v1/uploads", &headers, "hello").await;
    assert_eq!(uploaded.status, 201, "{uploaded:?}");
    let media_id = uploaded.header("streamgate-media-id").unwrap();
    let path = format!("/v1/media/{media_id}/playback");
    let early = site.ask("POST", &path, &authorization, "").await;
    assert_eq!((early.status, early.problem().as_str()), (409, "not_playable"));
    let admin = site.broker.bus(Role::Admin).await;
    let events = admin.context().get_stream_no_info(schemas::subjects::EVENTS).await.unwrap();
    assert!(events.get_last_raw_message_by_subject("evt.upload.received.*").await.is_ok());
    assert!(events.get_last_raw_message_by_subject(&format!("evt.gate.granted.{media_id}")).await.is_err());
}

#[tokio::test]
async fn playback_ends_with_the_key_that_opened_it() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let media_id = MediaId::from_bytes([5; 16]);
    let asset = asset(media_id, "admin", MediaStatus::Ready);
    let playlist = format!("{}/{}", asset.encode.as_ref().unwrap().prefix, schemas::keys::MULTIVARIANT);
    site.store.put(&playlist, "#EXTM3U\n").await.unwrap();
    admin.commit_record(&mut nats::VersionedRecord::new(asset), nats::Outbox::new()).await.unwrap();
    let boss = format!("Authorization: Bearer {}\r\n", site.key);
    let json = format!("{boss}Content-Type: application/json\r\n");
    let read = |answer: &Answer| serde_json::from_str::<Value>(&answer.body).unwrap();
    let made = read(&site.ask("POST", "/v1/auth/keys", &json, "{}").await);
    let headers = format!("Authorization: Bearer {}\r\n", made["key"].as_str().unwrap());
    let path = format!("/v1/media/{media_id}/playback");
    let (lent, own) = (site.ask("POST", &path, &headers, "").await, site.ask("POST", &path, &boss, "").await);
    let (lent, own) = (read(&lent), read(&own));
    let play = async |session: &Value| site.ask("GET", session["hls_url"].as_str().unwrap(), "", "").await;
    assert_eq!((play(&lent).await.status, play(&own).await.status), (200, 200));
    let key = format!("/v1/auth/keys/{}", made["key_id"].as_str().unwrap());
    assert_eq!(site.ask("DELETE", &key, &boss, "").await.status, 204);
    let started = std::time::Instant::now();
    let refused = loop {
        let answer = play(&lent).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(started.elapsed() < Duration::from_secs(1), "the key is revoked, and it plays on");
    };
    assert_eq!((refused.status, read(&refused)["reason"].as_str()), (403, Some("ended")), "{refused:?}");
    assert_eq!(play(&own).await.status, 200, "what another credential opened plays on");
}

#[tokio::test]
async fn every_401_names_a_way_in() {
    let site = Site::start(|_| {}).await;
    let json = "Content-Type: application/json\r\n";
    let nobody = "0".repeat(26);
    for (method, path, headers, body) in [
        ("GET", "/v1/media", "", ""),
        ("GET", "/v1/auth/me", "", ""),
        ("POST", &format!("/v1/media/{nobody}/playback"), "", ""),
        ("POST", "/v1/auth/refresh", json, "{\"refresh_token\":\"none\"}"),
        ("POST", "/v1/auth/challenge", json, "{\"domain\":\"evil.org\"}"),
    ] {
        let answer = site.ask(method, path, headers, body).await;
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"streamgate\""),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn metrics_are_for_operators_and_a_document_is_made_once() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let (mine, media_id) = (format!("Authorization: Bearer {}\r\n", site.key), MediaId::from_bytes([3; 16]));
    let mut held = nats::VersionedRecord::new(asset(media_id, "ann", MediaStatus::Playable));
    admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
    let path = format!("/v1/media/{media_id}");
    let first = site.ask("GET", &path, &mine, "").await;
    // Rewritten, and saying the same.
    admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
    let known = format!("{mine}If-None-Match: {}\r\n", first.header("etag").unwrap());
    assert_eq!(site.ask("GET", &path, &known, "").await.status, 304);
    held.record.status = MediaStatus::Ready;
    admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
    let changed = site.ask("GET", &path, &known, "").await;
    assert!(changed.status == 200 && changed.body.contains("\"ready\""), "{changed:?}");
    assert_eq!(site.ask("GET", &path, &mine, "").await.body, changed.body);

    let plain = site.ask("GET", "/metrics", &mine, "").await;
    assert_eq!(plain.header("content-type"), Some(web::registry::METRICS_TEXT_TYPE));
    assert!(plain.body.contains("\n# TYPE streamgate_cache_requests_total counter\n"), "{}", plain.body);
    let open = format!("{mine}Accept: application/openmetrics-text; version=1.0.0\r\n");
    let metrics = site.ask("GET", "/metrics", &open, "").await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    assert_eq!(metrics.header("content-type"), Some(web::registry::METRICS_TYPE));
    assert!(metrics.body.contains("\nstreamgate_gate_refusals_untold_total 0\n"), "{}", metrics.body);
    let (hits, misses) = ("metadata\",outcome=\"hit\"} ", "metadata\",outcome=\"miss\"} ");
    let count = |what: &str| {
        let line = metrics.body.lines().find_map(|line| line.split_once(what)).map(|(_, count)| count);
        line.unwrap().parse::<u64>().unwrap()
    };
    // What is put into it may be seen a moment later only.
    assert_eq!((count(misses) + count(hits), count(hits) <= 1), (4, true));
    openmetrics_parser::openmetrics::parse_openmetrics(&metrics.body).unwrap();
    let ann = auth::create_api_key(&admin, "ann", schemas::access::PrincipalRole::Owner).await.unwrap();
    let refused = site.ask("GET", "/metrics", &format!("Authorization: Bearer {ann}\r\n"), "").await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "operators_only"));
    assert_eq!(site.ask("GET", "/metrics", "", "").await.status, 401);
}

#[tokio::test]
async fn progress_of_a_job_that_cant_be_read_ends_nothing() {
    let broker = TestBroker::start().await;
    let health = nats::ProcessHealth::new();
    let settings = nats::BusConfig { health: health.clone(), ..broker.config(Role::Ingress) };
    let bus = Bus::connect(&settings).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = store::testing::open_test_store(store::StoreConfig::from_url(format!(
        "file://{}/store",
        folder.path().display()
    )))
    .unwrap();
    let grants = grants(&bus);
    let metrics = registry::MetricsRegistry::default();
    let app =
        AppState::build(bus, store, grants, metrics, IngressConfig::default(), auth::AuthConfig::default());
    let app = app.await.unwrap();
    let shutdown = CancellationToken::new();
    let (beside, stop) = (app.clone(), shutdown.clone());
    let running = tokio::spawn(async move { Box::pin(beside.run(stop)).await });
    // Progress of a job whose record can't be read: once that ended the ingress.
    let admin = broker.bus(Role::Admin).await;
    admin.context().delete_stream("KV_jobs").await.unwrap();
    let progress = schemas::job::JobPartProgress {
        job_id: JobId::from_bytes([1; 16]),
        media_id: MediaId::from_bytes([2; 16]),
        owner: "ann".into(),
        part: "v0000".into(),
        done_ms: 1,
        total_ms: 2,
        kind: String::new(),
    };
    let subject = schemas::subjects::progress_subject(progress.job_id, &progress.part);
    let publish = async || {
        let payload = nats::encode_message(&subject, &progress).unwrap();
        admin.context().publish(subject.clone(), payload.into()).await.unwrap().await.unwrap();
    };
    publish().await;
    // Once the record's bucket is back, progress is sent to followers.
    let mut messages = app.followers.hub().subscribe_to_all();
    nats::topology::apply_topology(admin.context(), &nats::topology::TopologySettings::default())
        .await
        .unwrap();
    publish().await;
    let message = tokio::time::timeout(Duration::from_secs(20), messages.next())
        .await
        .expect("it is published")
        .unwrap();
    assert_eq!(message.kind, "job.progress", "{message:?}");
    assert!(!running.is_finished(), "the ingress goes on");
    assert_eq!(health.restart_count(Role::Ingress, "followers"), 0);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn heads_are_read_as_the_standards_have_them() {
    let site = Site::start(|_| {}).await;
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: ann@a\r\n", "Host: a/b\r\n"] {
        let answer = site.raw(format!("GET /version HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "request_malformed"), "{hosts:?}");
    }
    assert_eq!(site.raw("GET /version HTTP/1.0\r\n\r\n").await.status, 200);
    // The scheme of a credential has no case.
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let headers = format!("Authorization: {scheme} {}\r\n", site.key);
        assert_eq!(site.ask("GET", "/v1/auth/me", &headers, "").await.status, 200, "{scheme}");
    }
    // Ranges are for GET, and all that is read this way has them.
    let range = "Range: bytes=0-3\r\n";
    for path in ["/openapi.json", "/docs", "/watch/assets/watch.js"] {
        let whole = site.ask("GET", path, "", "").await;
        let part = site.ask("GET", path, range, "").await;
        assert_eq!((part.status, part.body.as_str()), (206, whole.body.get(..4).unwrap()), "{path}");
        let head = site.ask("HEAD", path, range, "").await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, whole.header("content-length")),
            "{path}"
        );
        let tag = whole.header("etag").unwrap();
        for lists in [
            format!("If-None-Match: \"x\"\r\nIf-None-Match: {tag}\r\n"),
            format!("If-None-Match: {tag}\r\nIf-None-Match: \"x\"\r\n"),
        ] {
            assert_eq!(site.ask("GET", path, &lists, "").await.status, 304, "{path}");
        }
    }
}

#[tokio::test]
async fn whatever_is_answered_below_uploads_names_the_version_of_tus() {
    let site = Site::start(|_| {}).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    for (method, path, headers, status) in [
        ("POST", "/v1/uploads", "", 401),
        ("PATCH", "/v1/uploads", &*key, 405),
        ("PUT", "/v1/uploads/06db00820dt0303jc5mn0r355k", &key, 405),
        ("HEAD", "/v1/uploads/06db00820dt0303jc5mn0r355k", "", 401),
        ("GET", "/v1/uploads/06db00820dt0303jc5mn0r355k/nothing", &key, 404),
    ] {
        let answer = site.ask(method, path, headers, "").await;
        assert_eq!(
            (answer.status, answer.header("tus-resumable")),
            (status, Some("1.0.0")),
            "{method} {path}"
        );
    }
    // What a POST stands for is what counts, at the collection, too.
    let options = site.ask("POST", "/v1/uploads", "X-HTTP-Method-Override: OPTIONS\r\n", "").await;
    assert_eq!((options.status, options.header("tus-version")), (204, Some("1.0.0")), "{options:?}");
    let meant = format!("{key}X-HTTP-Method-Override: GET\r\n");
    assert_eq!(site.ask("POST", "/v1/uploads", &meant, "").await.status, 405);
}

#[tokio::test]
async fn two_hundred_viewers_play_on_beside_an_abuser_behind_the_same_address() {
    const VIEWERS: usize = 200;
    // Refills too slow to matter, so that a slow machine sees the same.
    let rate = |capacity| limit::gcra::BucketRate { capacity, refill_per_s: 1 };
    let site = Site::start(|config| {
        config.limit.replicas_assumed_count = 1;
        (config.limit.rates.streaming, config.limit.rates.credential) = (rate(450), rate(60));
    })
    .await;
    let admin = site.broker.bus(Role::Admin).await;
    let media_id = MediaId::from_bytes([5; 16]);
    let asset = asset(media_id, "olga", MediaStatus::Ready);
    let playlist = format!("{}/{}", asset.encode.as_ref().unwrap().prefix, schemas::keys::MULTIVARIANT);
    site.store.put(&playlist, "#EXTM3U\n").await.unwrap();
    admin.commit_record(&mut nats::VersionedRecord::new(asset), nats::Outbox::new()).await.unwrap();
    let boss = format!("Authorization: Bearer {}\r\n", site.key);
    let json = format!("{boss}Content-Type: application/json\r\nIf-Match: *\r\n");
    let gate = format!("/v1/media/{media_id}/gate");
    assert_eq!(site.ask("PUT", &gate, &json, "{\"kind\":\"public\"}").await.status, 200);
    let path = format!("/v1/media/{media_id}/playback");
    let open = async || {
        let answer = site.ask("POST", &path, "", "").await;
        (
            answer.status,
            serde_json::from_str::<Value>(&answer.body).unwrap()["hls_url"].as_str().map(str::to_owned),
        )
    };
    let play = async |url: &str| site.ask("GET", url, "", "").await.status;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let (status, url) = open().await;
        let url = url.unwrap_or_else(|| panic!("{status}"));
        assert_eq!(play(&url).await, 200);
        viewers.push(url);
    }
    // The abuser opens what it does not play, asks until it is refused, and guesses keys.
    let mut refusals = 0;
    for _ in 0..400 {
        refusals += usize::from(open().await.0 == 429);
    }
    assert!(refusals > 0, "the abuser is limited");
    let mut guesses = Vec::new();
    for i in 0..150 {
        let headers = format!("Authorization: Bearer sg_06db00820dt0303jc5mn0r355k_{i}\r\n");
        guesses.push(site.ask("GET", "/v1/media/06db00820dt0303jc5mn0r355k", &headers, "").await.status);
    }
    assert!(guesses[..50].iter().all(|status| *status == 401), "{guesses:?}");
    assert!(guesses.ends_with(&[429]), "{guesses:?}");
    for url in &viewers {
        assert_eq!(play(url).await, 200);
    }
    assert_eq!(site.ask("GET", "/v1/auth/me", &boss, "").await.status, 200, "a good key is good");
}

#[tokio::test]
async fn a_chain_that_is_not_taken_is_answered_with_those_that_are() {
    let site = Site::start(|_| {}).await;
    let json = "Content-Type: application/json\r\n";
    let given = site.ask("POST", "/v1/auth/challenge", json, "{\"chain_id\":1}").await;
    let given: Value = serde_json::from_str(&given.body).unwrap();
    let refused = site.ask("POST", "/v1/auth/challenge", json, "{\"chain_id\":999}").await;
    assert_eq!((refused.status, refused.problem().as_str()), (401, "chain_refused"));
    let refused: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(given["chains"].as_array().is_some_and(|chains| !chains.is_empty()), "{given}");
    assert_eq!(refused["chains"], given["chains"]);
}

/// The job of an encode of a medium, without parts.
pub(crate) fn job_record(
    media_id: MediaId,
    owner: &str,
    number: u32,
    status: job::JobStatus,
) -> job::JobRecord {
    let plan = job::EncodePlan {
        source_key: schemas::keys::source_key(media_id),
        source_bytes: 5,
        duration_ms: 1,
        options_digest: "abc".into(),
        ..job::EncodePlan::default()
    };
    job::JobRecord {
        status,
        encode: number,
        prefix: schemas::keys::encode_prefix(media_id, number, "abc"),
        parts: Vec::new(),
        ..job::JobRecord::new_task(
            packaging::plan::derive_job_id(media_id, number),
            job::TRANSCODE,
            (media_id, owner),
            (plan, subjects::JobPriority::P1),
            1,
        )
    }
}

/// What verifying a film found.
pub(crate) fn technical_metadata() -> schemas::media::TechnicalMetadata {
    schemas::media::TechnicalMetadata {
        container: "mp4".into(),
        duration_ms: 1_000,
        bit_rate_bps: 1,
        video: vec![schemas::examples::video_track()],
        audio: Vec::new(),
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    }
}
