//! A real S3 server (s3s-fs) in process, on a random port of the loopback, gone with its guard; stores that belong to no
//! installation.

pub mod proxy;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_LENGTH,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use schemas::ids::StoreId;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{MissingRootPolicy, PART_BYTES_FLOOR, Store, StoreConfig, StoreError, StoreIdentifier};

const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "test-secret-key";
const BUCKET: &str = "streamgate";

/// A running S3 server with one empty bucket.
pub struct TestS3Server {
    root: TempDir,
    endpoint: String,
    rules: SharedFaultRule,
    traffic: Arc<Traffic>,
    _server: AbortOnDropHandle<()>,
}

/// What may be done to a request instead of answering it.
#[derive(Debug, Clone)]
pub enum InjectedFault {
    /// It is answered with this status.
    Status(u16),
    /// It is answered with this status and body.
    Answer(u16, String),
    /// It waits until there is a permit, then it is answered.
    Hold(Arc<Semaphore>),
}

type FaultRule = dyn Fn(&Method, &str) -> Option<InjectedFault> + Send + Sync;
type SharedFaultRule = Arc<Mutex<Option<Arc<FaultRule>>>>;

/// Bytes of bodies since the server was started.
#[derive(Debug, Default)]
struct Traffic {
    /// In requests.
    taken_bytes: AtomicU64,
    /// In answers.
    given_bytes: AtomicU64,
}

fn count_body(counter: &AtomicU64, headers: &HeaderMap) {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    counter.fetch_add(length.unwrap_or(0), Ordering::Relaxed);
}

async fn serve_request(
    service: S3Service,
    rules: SharedFaultRule,
    traffic: Arc<Traffic>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    count_body(&traffic.taken_bytes, request.headers());
    let rule = rules.lock().clone();
    let fault = rule.and_then(|rule| rule(request.method(), &request.uri().to_string()));
    match fault {
        Some(InjectedFault::Status(status)) => {
            let mut response = Response::new(s3s::Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
            return Ok(response);
        }
        Some(InjectedFault::Answer(status, body)) => {
            let mut response = Response::new(s3s::Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
            return Ok(response);
        }
        Some(InjectedFault::Hold(permits)) => drop(permits.acquire().await),
        None => {}
    }
    let is_head = request.method() == Method::HEAD;
    let answer = hyper::service::Service::call(&service, request).await?;
    if !is_head {
        count_body(&traffic.given_bytes, answer.headers());
    }
    Ok(answer)
}

/// A slow way to a server: the bytes to it pass at one rate, however many connections there are.
#[derive(Debug)]
pub struct ThrottledLink {
    endpoint: String,
    _task: AbortOnDropHandle<()>,
}

impl ThrottledLink {
    /// Opens a way to `s3`; fails when no port can be had.
    pub async fn start(s3: &TestS3Server, rate_bytes_per_s: u32) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let server = s3.endpoint.trim_start_matches("http://").to_owned();
        let free_at = Arc::new(tokio::sync::Mutex::new(Instant::now()));
        let task = tokio::task::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, free_at) = (server.clone(), free_at.clone());
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((mut from, mut back), (mut answers, mut to)) =
                        (client.into_split(), server.into_split());
                    let there = copy_throttled(&mut from, &mut to, &free_at, rate_bytes_per_s);
                    // Whichever side ends ends the other.
                    tokio::select! {
                        _ = there => {}
                        _ = tokio::io::copy(&mut answers, &mut back) => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { endpoint, _task: AbortOnDropHandle::new(task) })
    }

    /// Settings of a store that is reached over this way.
    pub fn store_config(&self, s3: &TestS3Server) -> StoreConfig {
        let mut config = s3.store_config();
        config.options.insert("aws_endpoint".to_owned(), self.endpoint.clone());
        config
    }
}

async fn copy_throttled(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    free_at: &tokio::sync::Mutex<Instant>,
    rate_bytes_per_s: u32,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let until = {
            let mut free_at = free_at.lock().await;
            let bytes = u32::try_from(length).unwrap_or(u32::MAX);
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs(1) * bytes / rate_bytes_per_s;
            *free_at
        };
        tokio::time::sleep_until(until).await;
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}

impl fmt::Debug for TestS3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("root", &self.root)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl TestS3Server {
    /// Starts the server; fails when no port or temporary folder can be had.
    pub async fn start() -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join(BUCKET))?;
        let files = FileSystem::new(root.path()).map_err(|e| io::Error::other(format!("{e:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let (service, rules) = (builder.build(), SharedFaultRule::default());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (known, traffic) = (rules.clone(), Arc::new(Traffic::default()));
        let counted = traffic.clone();
        let server = tokio::task::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (service, rules, traffic) = (service.clone(), known.clone(), counted.clone());
                let service = service_fn(move |request| {
                    serve_request(service.clone(), rules.clone(), traffic.clone(), request)
                });
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no error of the server.
                    builder.serve_connection(TokioIo::new(socket), service).await.ok();
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { root, endpoint, rules, traffic, _server: AbortOnDropHandle::new(server) })
    }

    /// What is done to requests from now on, by method and the address with its query; `None` lets one through.
    pub fn set_fault_rule(
        &self,
        rule: impl Fn(&Method, &str) -> Option<InjectedFault> + Send + Sync + 'static,
    ) {
        *self.rules.lock() = Some(Arc::new(rule));
    }

    /// Lets every request through again.
    pub fn clear_fault_rule(&self) {
        *self.rules.lock() = None;
    }

    /// Bytes of bodies that went to the server and came from it, since it was started.
    pub fn transferred_bytes(&self) -> (u64, u64) {
        let Traffic { taken_bytes, given_bytes } = &*self.traffic;
        (taken_bytes.load(Ordering::Relaxed), given_bytes.load(Ordering::Relaxed))
    }

    /// Address and port it listens on.
    pub fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    /// URL of the bucket.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// Options to reach it.
    pub fn store_options(&self) -> BTreeMap<String, String> {
        [
            ("aws_endpoint", self.endpoint.as_str()),
            ("aws_access_key_id", ACCESS_KEY),
            ("aws_secret_access_key", SECRET_KEY),
            ("aws_region", "us-east-1"),
            ("aws_virtual_hosted_style_request", "false"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    /// Settings of a store in the bucket, with the smallest parts S3 allows.
    pub fn store_config(&self) -> StoreConfig {
        StoreConfig {
            options: self.store_options(),
            part_bytes_min: PART_BYTES_FLOOR,
            ..StoreConfig::from_url(self.url())
        }
    }

    /// Files of multipart uploads that were neither completed nor aborted.
    pub fn multipart_files(&self) -> io::Result<usize> {
        let mut found = 0;
        for entry in std::fs::read_dir(self.root.path())? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            found += usize::from(name.starts_with(".upload_id-") || name.starts_with(".upload-"));
        }
        Ok(found)
    }

    /// Folder of the bucket on this host, to damage objects in tests.
    pub fn bucket_folder(&self) -> std::path::PathBuf {
        Path::new(self.root.path()).join(BUCKET)
    }
}

/// Opens a store for the one its marker says; one that has none is made and marked at its first use, and never again.
///
/// Fails as [`Store::open`].
pub fn open_test_store(config: StoreConfig) -> Result<Store, StoreError> {
    Store::open(config, Arc::new(SelfMarkingIdentifier::default()))
}

#[derive(Debug, Default)]
struct SelfMarkingIdentifier {
    store_id: OnceCell<StoreId>,
}

impl StoreIdentifier for SelfMarkingIdentifier {
    fn identify_store<'a>(&'a self, store: &'a Store) -> BoxFuture<'a, Result<StoreId, StoreError>> {
        let found = async move {
            if let Some(found) = store.read_marker().await? {
                return Ok(found);
            }
            let fresh = StoreId::from_bytes(std::array::from_fn(|_| {
                RandomState::new().build_hasher().finish().to_le_bytes()[0]
            }));
            store.write_marker(fresh, MissingRootPolicy::Make).await?;
            Ok(fresh)
        };
        Box::pin(async move { self.store_id.get_or_try_init(|| found).await.copied() })
    }
}
