//! One ingress in this process, spoken to over loopback: what limits cost a request, and what a document costs.

use std::{
    collections::BTreeMap,
    ffi::OsString,
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
    keys,
    media::{MediaEncode, MediaRecord, MediaStatus},
};
use store::Store;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use web::{client, limit, registry, request, serve};

use crate::{Aim, Row};

pub(crate) const OWNER: &str = "bench";
const PREFIX: &str = "media/bench/enc/1";
/// Playlists, and segments, that are asked for once cold and once warm.
pub(crate) const OBJECTS: u32 = 300;
/// Bytes of such a segment: a second of 720p.
const SEGMENT_BYTES: usize = 250_000;

pub(crate) struct Site {
    pub(crate) app: AppState,
    pub(crate) key: String,
    pub(crate) admin: Bus,
    pub(crate) media_id: MediaId,
    tasks: JoinSet<()>,
    _broker: TestBroker,
    _folder: TempDir,
}

impl Site {
    /// A medium that is ready, whose playlists are in the store.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(set: impl FnOnce(&mut ingress::IngressConfig)) -> Self {
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::connect(&broker.config(Role::Ingress)).await.unwrap();
        let admin = broker.bus(Role::Admin).await;
        let key = auth::create_api_key(&bus, OWNER, schemas::access::PrincipalRole::Admin).await.unwrap();
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
        (rates.cache, rates.upload) = (rate, rate);
        config.limit.replicas_assumed_count = 1;
        set(&mut config);
        let metrics = registry::MetricsRegistry::default();
        let app = AppState::build(bus, store, grants, metrics, config, auth::AuthConfig::default());
        let app = Box::pin(app).await.unwrap();
        let mut tasks = JoinSet::new();
        let beside = app.clone();
        tasks.spawn(async move { Box::pin(beside.run(CancellationToken::new())).await.unwrap() });
        Self { app, key, admin, media_id, tasks, _broker: broker, _folder: folder }
    }

    pub(crate) async fn serve(&mut self, router: Router) -> SocketAddr {
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
            .layer(middleware::from_fn_with_state(app.access_sums.clone(), request::assign_request_id))
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
    for i in 0..OBJECTS {
        let playlist_path = keys::media_playlist_path(&format!("v{i}"));
        store.put(&format!("{PREFIX}/{playlist_path}"), playlist.clone()).await.unwrap();
        let segment_path = keys::segment_path("v0", i + 1);
        store.put(&format!("{PREFIX}/{segment_path}"), vec![7; SEGMENT_BYTES]).await.unwrap();
    }
    store.put(&format!("{PREFIX}/{}", keys::MULTIVARIANT), "#EXTM3U\n").await.unwrap();
}

/// A connection that is kept. It costs little, so that what is measured is the other side.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Sends a request and reads the whole answer; its body.
    pub(crate) fn ask(&mut self, head: &str) -> Vec<u8> {
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
    pub(crate) fn time(&mut self, head: &str) -> f64 {
        let started = Instant::now();
        self.ask(head);
        started.elapsed().as_secs_f64() * 1e6
    }
}

/// Requests a second over two connections.
pub(crate) fn rate(address: SocketAddr, head: &str) -> f64 {
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

/// Microseconds of a processor that a document costs the server while some clients ask, without what these and the broker spend: 20,000 a
/// second and core.
pub(crate) async fn document_cost() -> Row {
    const CLIENTS: u32 = 4;
    const REQUESTS: u32 = 10_000;
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
        // Of the threads that there are before the clients: what these spend does not count.
        let begun = busy_threads();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Client::new(address);
                    (0..REQUESTS).for_each(|_| drop(client.ask(&head)));
                });
            }
        });
        let ended = busy_threads();
        let spent_us = begun.iter().filter_map(|(thread, before_us)| Some(ended.get(thread)? - before_us));
        spent_us.sum::<f64>() / f64::from(CLIENTS * REQUESTS)
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

/// Microseconds that each thread of this process was on a processor (proc_pid_schedstat(5): the first number, in nanoseconds).
fn busy_threads() -> BTreeMap<OsString, f64> {
    let busy_us = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let busy_ns = text.split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
        (thread.file_name(), busy_ns / 1e3)
    };
    std::fs::read_dir("/proc/self/task").unwrap().map(|thread| busy_us(thread.unwrap())).collect()
}
