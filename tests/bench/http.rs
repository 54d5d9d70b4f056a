//! One ingress in this process, spoken to over loopback: what limits cost a request, and what a cache spares it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::{Router, middleware};
use ingress::{AppState, media};
use nats::{Bus, Outbox, Role, VersionedRecord, testing::TestBroker};
use schemas::{
    document,
    gate::{GateRule, MediaGate},
    ids::{JobId, MediaId},
    job::{self, EncodePlan},
    keys,
    media::{MediaEncode, MediaRecord, MediaStatus},
    subjects::JobPriority,
};
use serde_json::json;
use store::Store;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use web::{client, limit, registry, request, serve};

use crate::{Aim, Row, median};

const OWNER: &str = "bench";
const PREFIX: &str = "media/bench/enc/1";
/// Playlists that are asked for once cold and once warm.
const PLAYLISTS: usize = 300;
/// The same of jobs, and their parts, which is what a 10-minute title has.
const JOBS: usize = 60;
const PARTS: usize = 12;

struct Site {
    app: AppState,
    key: String,
    admin: Bus,
    media_id: MediaId,
    tasks: JoinSet<()>,
    _broker: TestBroker,
    _folder: TempDir,
}

impl Site {
    /// A medium that is ready, whose playlists are in the store.
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::connect(&broker.config(Role::Ingress)).await.unwrap();
        let admin = broker.bus(Role::Admin).await;
        let key = auth::create_api_key(&bus, OWNER, schemas::access::PrincipalRole::Owner).await.unwrap();
        let store = store::testing::open_test_store(store::StoreConfig::from_url(format!(
            "file://{}/store",
            folder.path().display()
        )))
        .unwrap();
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        seed(&admin, &store, media_id).await;
        let grants = streamgate::config::Settings::default().open_grants(&bus).unwrap();
        // Room for every request: refusals are not what is measured.
        let rate = limit::gcra::BucketRate { capacity: 1_000_000_000, refill_per_s: 1_000_000 };
        let mut config = ingress::IngressConfig::default();
        let rates = &mut config.limit.rates;
        (rates.metadata, rates.streaming, rates.worker) = (rate, rate, rate);
        config.limit.replicas_assumed_count = 1;
        let metrics = registry::MetricsRegistry::default();
        let app = AppState::build(bus, store, grants, metrics, config, auth::AuthConfig::default());
        let app = Box::pin(app).await.unwrap();
        let mut tasks = JoinSet::new();
        let beside = app.clone();
        tasks.spawn(async move { Box::pin(beside.run(CancellationToken::new())).await.unwrap() });
        Self { app, key, admin, media_id, tasks, _broker: broker, _folder: folder }
    }

    /// Jobs that succeeded, with all their parts.
    async fn jobs(&self) -> Vec<JobId> {
        let plan: EncodePlan = serde_json::from_value(json!({
            "source_key": "media/bench/source", "source_bytes": 1, "origin_us": 0, "duration_ms": 600_000, "video": null,
            "audio": [], "poster": null, "profile": "default", "options_digest": "3fd1a7c2b94e5d60", "reasons": [],
        }))
        .unwrap();
        let parts: Vec<String> = (0..PARTS).map(|i| format!("v{i:04}")).collect();
        let mut ids = Vec::new();
        for _ in 0..JOBS {
            let job_id = JobId::from_bytes(nats::new_id_bytes());
            let job = job::JobRecord {
                job_id,
                kind: "transcode".into(),
                priority: JobPriority::P1,
                media_id: self.media_id,
                owner: OWNER.into(),
                status: job::JobStatus::Succeeded,
                encode: 1,
                prefix: PREFIX.into(),
                plan: plan.clone(),
                parts: parts.clone(),
                code: None,
                detail: None,
                created_at_ms: 1,
                ended_at_ms: Some(2),
                kept_until_ms: None,
                folded: None,
                publishing_at_ms: None,
                retry_of: None,
                cleared_at_ms: None,
                made: Vec::new(),
                paused_at_ms: None,
                scheduled: None,
                verified: None,
                action: None,
                acted: None,
                fetch: None,
                thumbnails: None,
                export: None,
                exported: None,
            };
            self.admin.commit_record(&mut VersionedRecord::new(job), Outbox::new()).await.unwrap();
            for part in parts.iter().map(String::as_str).chain([job::FINISH]) {
                self.admin
                    .commit_record(&mut VersionedRecord::new(done(job_id, part)), Outbox::new())
                    .await
                    .unwrap();
            }
            ids.push(job_id);
        }
        ids
    }

    async fn serve(&mut self, router: Router) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let grace = Duration::from_secs(1);
        self.tasks.spawn(serve::serve_connections(listener, router, CancellationToken::new(), grace));
        address
    }

    /// The documents with all that stands before them, with and without limits.
    fn documents(&self, limited: bool) -> Router {
        let app = self.app.clone();
        let right = middleware::from_fn_with_state(app.sign_in.clone(), auth::enforce_access);
        let identity = ServiceBuilder::new()
            .layer(middleware::from_fn_with_state(app.refusals.clone(), request::assign_request_id))
            .layer(middleware::from_fn_with_state(
                std::sync::Arc::new(client::ClientIdentification {
                    config: app.config.client.clone(),
                    public_url: None,
                }),
                client::identify_client,
            ));
        let documents = media::router();
        let documents = if limited {
            documents.route_layer(ServiceBuilder::new().layer(right).layer(limit::limit_by_principal()))
        } else {
            documents.route_layer(right)
        };
        let (documents, operations) = documents.with_state(app.clone()).into_parts();
        let identity = identity.layer(operations.match_layer());
        if limited {
            documents.layer(identity.layer(limit::limit_by_client(app.limits.clone(), |_: &str| None)))
        } else {
            documents.layer(identity)
        }
    }
}

fn done(job_id: JobId, part: &str) -> job::JobPartRecord {
    job::JobPartRecord {
        status: job::JobPartStatus::Done,
        attempt: 1,
        worker: "bench".into(),
        cpu_ms: 1,
        wall_ms: 1,
        rss_bytes_max: 1,
        ..job::JobPartRecord::new(job_id, part)
    }
}

async fn seed(admin: &Bus, store: &Store, media_id: MediaId) {
    let asset = MediaRecord {
        encode: Some(MediaEncode {
            number: 1,
            job_id: JobId::from_bytes(nats::new_id_bytes()),
            prefix: PREFIX.into(),
            duration_ms: 600_000,
            renditions: Vec::new(),
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums: false,
            warnings: Vec::new(),
        }),
        ..MediaRecord::new(media_id, OWNER.into(), MediaStatus::Ready, 1)
    };
    let document = document::MediaDocumentRecord {
        title: "a film".into(),
        gate: Some(MediaGate {
            epoch: 1,
            rule: Some(GateRule::Public {}),
            rule_digest: String::new(),
            changed_at_ms: 1,
        }),
        ..document::MediaDocumentRecord::new(media_id, OWNER.into(), 1)
    };
    admin.commit_record(&mut VersionedRecord::new(asset), Outbox::new()).await.unwrap();
    admin.commit_record(&mut VersionedRecord::new(document), Outbox::new()).await.unwrap();
    // Ten minutes in segments of four seconds.
    let playlist = "#EXTINF:4.000,\n123.m4s\n".repeat(150);
    for i in 0..PLAYLISTS {
        let key = format!("{PREFIX}/{}", keys::media_playlist_path(&format!("v{i}")));
        store.put(&key, playlist.clone()).await.unwrap();
    }
    store.put(&format!("{PREFIX}/{}", keys::MULTIVARIANT), "#EXTM3U\n").await.unwrap();
}

/// A connection that is kept. It costs little, so that what is measured is the other side.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Sends a request and reads the whole answer; its body.
    fn ask(&mut self, head: &str) -> Vec<u8> {
        self.stream.write_all(head.as_bytes()).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
        let body_at = loop {
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
            if let Some(at) = find(&answer, b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let length_at = find(&answer, b"content-length: ").unwrap() + 16;
        let digits = answer[length_at..].iter().take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
        let known = answer.len();
        answer.resize(body_at + length, 0);
        self.stream.read_exact(&mut answer[known..]).unwrap();
        answer.split_off(body_at)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Client {
    /// Microseconds until the whole answer is there.
    fn time(&mut self, head: &str) -> f64 {
        let started = Instant::now();
        self.ask(head);
        started.elapsed().as_secs_f64() * 1e6
    }
}

/// Requests a second over two connections.
fn rate(address: SocketAddr, head: &str) -> f64 {
    // Short rounds, so that what else the machine does falls on both sides alike.
    const REQUESTS: usize = 250;
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Client::new(address);
                (0..REQUESTS).for_each(|_| drop(client.ask(head)));
            });
        }
    });
    2.0 * REQUESTS as f64 / started.elapsed().as_secs_f64()
}

/// A medium's document with limits and without, by turns.
pub(crate) async fn limited_get() -> Row {
    let mut site = Site::start().await;
    let (on, off) = (site.documents(true), site.documents(false));
    let (on, off) = (site.serve(on).await, site.serve(off).await);
    let head = format!(
        "GET /v1/media/{} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n",
        site.media_id, site.key
    );
    let (limited, free) = tokio::task::spawn_blocking(move || {
        crate::gate::by_turns(161, || rate(on, &head), || rate(off, &head))
    })
    .await
    .unwrap();
    Row {
        name: "GET of a document under limits",
        ours: limited,
        baseline: free,
        unit: "/s",
        against: "the same without limits",
        aim: Aim::RatioLeast(0.97),
    }
}

/// Microseconds of a processor that a document costs the server, without what the client and the broker spend: 20,000 a second and core.
pub(crate) async fn document_cost() -> Row {
    const REQUESTS: u32 = 20_000;
    let mut site = Site::start().await;
    let router = ingress::router(site.app.clone());
    let address = site.serve(router).await;
    let head = format!(
        "GET /v1/media/{} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n",
        site.media_id, site.key
    );
    let cost_us = tokio::task::spawn_blocking(move || {
        let mut client = Client::new(address);
        // As it is once somebody has asked for a while: from then on memory may answer.
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_secs(3) {
            client.ask(&head);
        }
        let (all, own) = (busy_us("/proc/self/task"), busy_us("/proc/thread-self"));
        (0..REQUESTS).for_each(|_| drop(client.ask(&head)));
        let spent = (busy_us("/proc/self/task") - all) - (busy_us("/proc/thread-self") - own);
        spent / f64::from(REQUESTS)
    })
    .await
    .unwrap();
    Row {
        name: "a document, time of a processor",
        ours: cost_us,
        baseline: 0.0,
        unit: "us",
        against: "none",
        aim: Aim::Most(50.0),
    }
}

/// Microseconds that a thread was on a processor, or all threads of a folder of them together (proc_pid_schedstat(5): the first number,
/// in nanoseconds).
fn busy_us(path: &str) -> f64 {
    let of_one = |folder: &std::path::Path| {
        let text = std::fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
    };
    if path.ends_with("thread-self") {
        return of_one(std::path::Path::new(path)) / 1e3;
    }
    let threads = std::fs::read_dir(path).unwrap();
    threads.map(|thread| of_one(&thread.unwrap().path())).sum::<f64>() / 1e3
}

/// The document of a finished job from memory, against the first time it is asked for.
pub(crate) async fn cached_job() -> Row {
    let mut site = Site::start().await;
    let router = ingress::router(site.app.clone());
    let (address, key, ids) = (site.serve(router).await, site.key.clone(), site.jobs().await);
    let (hits, misses) = tokio::task::spawn_blocking(move || {
        let mut client = Client::new(address);
        let mut of_all = || {
            let heads = ids.iter().map(|id| {
                format!("GET /v1/jobs/{id} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n")
            });
            heads.map(|head| client.time(&head)).collect()
        };
        let misses = median(of_all());
        (median(of_all()), misses)
    })
    .await
    .unwrap();
    Row {
        name: "a finished job from the cache",
        ours: hits,
        baseline: misses,
        unit: "us",
        against: "its first request, 12 parts",
        aim: Aim::RatioMost(1.0),
    }
}

/// A playlist of ten minutes from memory, against the first time it is asked for.
pub(crate) async fn cached_playlist() -> Row {
    let mut site = Site::start().await;
    let router = ingress::router(site.app.clone());
    let address = site.serve(router).await;
    let path = format!("/v1/media/{}/playback", site.media_id);
    let (key, media_id) = (site.key.clone(), site.media_id);
    let (hits, misses) = tokio::task::spawn_blocking(move || {
        let mut client = Client::new(address);
        let body = client.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Length: 0\r\n\r\n"
        ));
        let session: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let token = session["token"].as_str().unwrap().to_owned();
        let mut time = |path: &str| {
            client.time(&format!("GET /play/{token}/{media_id}/{path} HTTP/1.1\r\nHost: bench\r\n\r\n"))
        };
        // The session and the medium are looked up once.
        time(keys::MULTIVARIANT);
        let mut of_all =
            || (0..PLAYLISTS).map(|i| time(&keys::media_playlist_path(&format!("v{i}")))).collect();
        let misses = median(of_all());
        (median(of_all()), misses)
    })
    .await
    .unwrap();
    Row {
        name: "a playlist from the cache",
        ours: hits,
        baseline: misses,
        unit: "us",
        against: "its first request, local store",
        aim: Aim::RatioMost(1.0),
    }
}
