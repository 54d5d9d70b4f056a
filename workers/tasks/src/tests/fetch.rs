//! Fetching from real servers on loopback. The uploads are kept in memory here: those of the HTTP surface are tested there, and both
//! together by the program's tests.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use futures::FutureExt as _;
use outbound::{OutboundClient, OutboundConfig};
use parking_lot::Mutex;
use schemas::{job::FetchSource, upload::UploadStatus};
use tokio::net::TcpListener;

use super::*;

const UPLOAD: UploadId = UploadId::from_bytes([5; 16]);

/// Largest upload of these tests, in bytes.
const SIZE_BYTES_MAX: u64 = 1_000_000;

fn film() -> Vec<u8> {
    (0_u32..60_000).flat_map(u32::to_be_bytes).collect()
}

/// One upload.
#[derive(Debug)]
struct MemoryUpload(Mutex<(FetchStanding, Vec<u8>, Option<String>)>);

impl MemoryUpload {
    fn new() -> Self {
        let standing = FetchStanding {
            status: UploadStatus::Open,
            offset_bytes: 0,
            length_bytes: None,
            validator: None,
            size_bytes_max: SIZE_BYTES_MAX,
        };
        Self(Mutex::new((standing, Vec::new(), None)))
    }

    fn standing(&self) -> FetchStanding {
        self.0.lock().0.clone()
    }

    /// Why it ended.
    fn ended(&self) -> Option<String> {
        self.0.lock().2.clone()
    }

    async fn take(&self, mut bytes: SourceBytes) -> Result<(), FetchError> {
        {
            let mut held = self.0.lock();
            assert_eq!(bytes.offset_bytes, held.0.offset_bytes, "bytes for another place");
            if held.0.offset_bytes > 0 {
                assert_eq!(bytes.validator, held.0.validator, "bytes of another version");
            }
            held.0.validator = bytes.validator.take();
            held.0.length_bytes = bytes.length_bytes;
        }
        while let Some(chunk) = bytes.bytes.next().await {
            let mut held = self.0.lock();
            held.1.extend_from_slice(&chunk.map_err(|_| FetchError::Cut)?);
            held.0.offset_bytes = held.1.len() as u64;
            if held.0.offset_bytes > held.0.length_bytes.unwrap_or(SIZE_BYTES_MAX) {
                return Err(FetchError::TooLarge { bytes_max: 0 });
            }
        }
        let mut held = self.0.lock();
        if held.0.length_bytes.is_some_and(|length_bytes| length_bytes != held.0.offset_bytes) {
            return Err(FetchError::Cut);
        }
        held.0.status = UploadStatus::Received;
        Ok(())
    }
}

impl FetchedUploads for MemoryUpload {
    fn read(&self, _: UploadId) -> BoxFuture<'_, Result<FetchStanding, FetchError>> {
        async { Ok(self.standing()) }.boxed()
    }

    fn receive(&self, _: UploadId, bytes: SourceBytes) -> BoxFuture<'_, Result<(), FetchError>> {
        self.take(bytes).boxed()
    }

    fn end<'a>(&'a self, _: UploadId, code: &'a str) -> BoxFuture<'a, Result<(), FetchError>> {
        async move {
            let mut held = self.0.lock();
            if held.0.status == UploadStatus::Open {
                (held.0.status, held.2) = (UploadStatus::Terminated, Some(code.to_owned()));
            }
            Ok(())
        }
        .boxed()
    }
}

/// How a source behaves; `asked` counts its requests.
#[derive(Debug, Default)]
struct Source {
    asked: AtomicU32,
    ranges: Mutex<Vec<Option<String>>>,
}

impl Source {
    /// Notes a request; answers which one it is, from 0.
    fn note(&self, headers: &HeaderMap) -> u32 {
        let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        self.ranges.lock().push(range);
        self.asked.fetch_add(1, Ordering::SeqCst)
    }
}

/// A body that claims to have all these bytes, and breaks off behind some of them.
fn cut_body(bytes: &[u8], cut_bytes: usize) -> Body {
    let begun = bytes[..cut_bytes].to_vec();
    let broken = async {
        // The bytes before it leave first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(io::Error::other("cut"))
    };
    Body::from_stream(
        futures::stream::iter([Ok(axum::body::Bytes::from(begun))]).chain(futures::stream::once(broken)),
    )
}

fn with_tag(mut response: Response, tag: &'static str) -> Response {
    response.headers_mut().insert(header::ETAG, HeaderValue::from_static(tag));
    response
}

/// All of it, broken off in the middle.
fn cut_film(tag: &'static str) -> Response {
    let film = film();
    let length = film.len();
    let mut response = with_tag(cut_body(&film, length / 2).into_response(), tag);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// The rest from where it is asked for.
fn rest_of_film(headers: &HeaderMap, tag: &'static str) -> Response {
    let film = film();
    assert_eq!(headers.get(header::IF_RANGE).unwrap(), tag);
    let range = headers[header::RANGE].to_str().unwrap();
    let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let place = format!("bytes {start}-{}/{}", film.len() - 1, film.len());
    let rest = film[start..].to_vec();
    with_tag((StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, place)], rest).into_response(), tag)
}

/// What the source says at `path` to its request of this number, from 0.
fn answer(path: &str, number: u32, headers: &HeaderMap) -> Response {
    let whole = |tag| with_tag(film().into_response(), tag);
    match (path, number) {
        ("/whole", _) => film().into_response(),
        ("/cut" | "/no-ranges" | "/changed", 0) => cut_film("\"v1\""),
        ("/cut", _) => rest_of_film(headers, "\"v1\""),
        ("/no-ranges", _) => whole("\"v1\""),
        ("/changed", _) => whole("\"v2\""),
        ("/unnamed", _) => cut_film("W/\"v1\""),
        ("/endless", _) => {
            let bytes = futures::stream::repeat_with(|| Ok::<_, io::Error>(vec![7; 10_000]));
            Body::from_stream(bytes).into_response()
        }
        ("/stuck", _) => {
            let begun = futures::stream::iter([Ok::<_, io::Error>(vec![7; 10_000])]);
            let body = Body::from_stream(begun.chain(futures::stream::pending()));
            with_tag(body.into_response(), "\"v1\"")
        }
        ("/inside", _) => Redirect::temporary("http://10.1.2.3/secret").into_response(),
        ("/large", _) => vec![0; usize::try_from(SIZE_BYTES_MAX).unwrap() + 1].into_response(),
        (status, _) => {
            let status = status.strip_prefix("/status/").unwrap().parse().unwrap();
            StatusCode::from_u16(status).unwrap().into_response()
        }
    }
}

fn router(source: Arc<Source>) -> Router {
    Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
        answer(uri.path(), source.note(&headers), &headers)
    })
}

/// A site with a source, and an upload that takes what it has.
struct FetchSite {
    site: Site,
    address: SocketAddr,
    source: Arc<Source>,
    upload: Arc<MemoryUpload>,
    _serving: AbortOnDropHandle<()>,
}

impl FetchSite {
    async fn start(attempts_max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (source, upload) = (Arc::new(Source::default()), Arc::new(MemoryUpload::new()));
        let router = router(source.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut site = Site::start().await;
        let outbound = OutboundConfig {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            idle_timeout_ms: 300,
            ..OutboundConfig::default()
        };
        let services = TaskServices {
            actor: Arc::new(NoActor),
            uploads: upload.clone(),
            client: OutboundClient::new(outbound).unwrap(),
            pictures: Arc::new(NoPictures),
            files: Arc::new(NoFiles),
        };
        let mut config = config();
        config.parts.attempts_max = attempts_max;
        site.worker_of(config, services).await;
        Self { site, address, source, upload, _serving: AbortOnDropHandle::new(serving) }
    }

    async fn begin(&self, path: &str) -> JobId {
        let job_id = JobId::from_bytes(nats::new_id_bytes());
        let (plan, url) = (job::EncodePlan::default(), format!("http://{}{path}?key=secret", self.address));
        let source = FetchSource { upload_id: UPLOAD, url: Some(url), shown: "shown".into() };
        let job = JobRecord::new_task(
            job_id,
            job::FETCH,
            (MEDIUM, "olga"),
            (plan, JobPriority::P1),
            nats::now_ms(),
        );
        self.site.put(JobRecord { fetch: Some(source), ..job }).await;
        job_id
    }

    /// The job once it has ended.
    async fn fetch(&self, path: &str) -> JobRecord {
        let job_id = self.begin(path).await;
        self.site.ended(job_id).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_what_the_source_has() {
    let site = FetchSite::start(2).await;
    let job = site.fetch("/whole").await;
    assert_eq!((job.status, job.code), (JobStatus::Succeeded, None));
    assert_eq!(site.upload.0.lock().1, film());
    assert_eq!(site.upload.standing().status, UploadStatus::Received);
    assert_eq!(job.fetch.unwrap().url, None, "the address is forgotten");
    assert_eq!(site.site.events(job.job_id).await, ["started", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_cut_is_asked_for_the_rest() {
    for (path, is_range_known) in [("/cut", true), ("/no-ranges", false)] {
        let site = FetchSite::start(3).await;
        let job = site.fetch(path).await;
        assert_eq!((job.status, job.code), (JobStatus::Succeeded, None), "{path}");
        assert_eq!(site.upload.0.lock().1, film(), "{path}");
        let ranges = site.source.ranges.lock().clone();
        assert_eq!(ranges, [None, Some(format!("bytes={}-", film().len() / 2))], "{path} {is_range_known}");
        assert_eq!(site.site.events(job.job_id).await, ["started", "retried", "succeeded"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_two_versions_are_never_put_together() {
    for (path, requests) in [("/changed", 2), ("/unnamed", 1)] {
        let site = FetchSite::start(5).await;
        let job = site.fetch(path).await;
        assert_eq!(
            (job.status, job.code.as_deref()),
            (JobStatus::Failed, Some("fetch_source_changed")),
            "{path}"
        );
        assert_eq!(site.source.asked.load(Ordering::SeqCst), requests, "{path}");
        assert_eq!(site.upload.ended().as_deref(), Some("fetch_source_changed"), "{path}: nothing lingers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_is_said_at_once() {
    for (path, code) in [
        ("/status/404", "fetch_refused"),
        ("/status/403", "fetch_refused"),
        ("/status/204", "fetch_malformed"),
        ("/inside", "fetch_redirect_refused"),
        ("/large", "fetch_too_large"),
        ("/endless", "fetch_too_large"),
    ] {
        let site = FetchSite::start(if path.ends_with("204") { 1 } else { 5 }).await;
        let job = site.fetch(path).await;
        assert_eq!((job.status, job.code.as_deref()), (JobStatus::Failed, Some(code)), "{path}");
        assert_eq!(site.source.asked.load(Ordering::SeqCst), 1, "{path}");
        assert_eq!(site.upload.ended().as_deref(), Some(code), "{path}");
        assert_eq!(job.fetch.unwrap().url, None, "{path}");
        let detail = job.detail.unwrap();
        assert!(!detail.contains("secret") && !detail.contains("10.1.2.3"), "{path}: {detail}");
        let letters = site.site.admin.dead_letters(0, 10, |_| true).await.unwrap().letters;
        assert_eq!(letters.len(), 0, "{path}: no operator has to look into that");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_away_is_asked_a_few_times() {
    for (path, code, kept_bytes) in [
        ("/status/503", "fetch_failed", 0),
        ("/status/429", "fetch_failed", 0),
        ("/stuck", "fetch_timed_out", 10_000),
    ] {
        let site = FetchSite::start(2).await;
        let job = site.fetch(path).await;
        assert_eq!((job.status, job.code.as_deref()), (JobStatus::Failed, Some(code)), "{path}");
        assert_eq!(site.source.asked.load(Ordering::SeqCst), 2, "{path}");
        assert_eq!(
            site.upload.standing().offset_bytes,
            kept_bytes,
            "{path}: {:?}",
            site.source.ranges.lock()
        );
        assert_eq!(site.upload.ended().as_deref(), Some(code), "{path}");
        assert_eq!(site.site.events(job.job_id).await, ["started", "retried", "failed"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_fetch_stops_at_once_and_ends_its_upload() {
    let mut site = FetchSite::start(2).await;
    let outbound =
        OutboundConfig { allow: vec!["127.0.0.0/8".parse().unwrap()], ..OutboundConfig::default() };
    site.site.tasks.pop();
    let (client, uploads) = (OutboundClient::new(outbound).unwrap(), site.upload.clone());
    site.site
        .worker_of(
            config(),
            TaskServices {
                actor: Arc::new(NoActor),
                uploads,
                client,
                pictures: Arc::new(NoPictures),
                files: Arc::new(NoFiles),
            },
        )
        .await;
    let job_id = site.begin("/stuck").await;
    let upload = site.upload.clone();
    site.site.wait("the first bytes", async || upload.standing().offset_bytes == 10_000).await;
    let cancel = |found: Option<&JobRecord>| {
        let (record, event) = found?.with_cancellation(Some("olga"), 1, schemas::ENDED_KEPT_MS)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    site.site.admin.change_record::<JobRecord>(&job_id.to_string(), cancel).await.unwrap();
    let cancelled = Instant::now();
    site.site.admin.publish_core(subjects::job_cancel_subject(job_id), Vec::new()).await.unwrap();
    site.site.wait("the end of the upload", async || upload.ended().is_some()).await;
    assert!(cancelled.elapsed() < Duration::from_secs(2), "it went on for {:?}", cancelled.elapsed());
    let job = site.site.ended(job_id).await;
    assert_eq!((job.status, job.fetch.unwrap().url), (JobStatus::Cancelled, None));
    assert_eq!(site.upload.ended().as_deref(), Some(job::JOB_CANCELLED));
}
