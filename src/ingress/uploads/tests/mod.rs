//! The protocol as a client sees it: a real broker, real stores, real HTTP.

mod concat;
mod described;
mod fence;
mod fetched;
mod form;
mod grants;
mod medium;
mod requested;
mod resumable;

use std::{collections::HashMap, path::PathBuf, time::Duration};

use axum::{Router, extract::Request, middleware, middleware::Next, response::Response};
use nats::{Bus, Outbox, Role, testing::TestBroker};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use schemas::{
    BusEvent, access, document, keys, subjects,
    upload::{UploadCreated, UploadExpired, UploadReceived, UploadRecord, UploadStatus, UploadTerminated},
};
use serde_json::json;
use store::testing::TestS3Server;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{UploadConfig, UploadState, router};
use crate::{
    quotas::{OwnerQuota, QuotaConfig},
    transcode::ProfileCatalog,
};
use auth::Principal;
use web::serve;

const OFFSET_TYPE: &str = "application/offset+octet-stream";
const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1024 * 1024;

/// A broker, a store and any number of ingress replicas.
struct Site {
    broker: TestBroker,
    admin: Bus,
    store: store::StoreConfig,
    _folder: TempDir,
    s3: Option<TestS3Server>,
    root: PathBuf,
    client: Client,
    tasks: JoinSet<()>,
}

/// One running replica.
#[derive(Clone)]
struct Replica {
    url: String,
    client: Client,
    shutdown: CancellationToken,
}

/// An open upload as its client knows it.
#[derive(Clone)]
struct Upload {
    replica: Replica,
    id: String,
    media_id: String,
}

async fn who(mut request: Request, next: Next) -> Response {
    let owner = request.headers().get("x-owner").and_then(|v| v.to_str().ok()).unwrap_or("alice").to_owned();
    let mut principal = Principal::new(owner, access::PrincipalRole::Owner);
    principal.scopes = request.headers().get("x-scopes").map(|scopes| {
        let names = scopes.to_str().unwrap().split(' ');
        names.map(|name| serde_json::from_value(name.into()).unwrap()).collect()
    });
    request.extensions_mut().insert(principal);
    next.run(request).await
}

impl Site {
    async fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        Self::with(folder, None, store::StoreConfig::from_url(format!("file://{}", root.display())), root)
            .await
    }

    async fn remote() -> Self {
        let s3 = TestS3Server::start().await.unwrap();
        let (config, root) = (s3.store_config(), s3.bucket_folder());
        Self::with(tempfile::tempdir().unwrap(), Some(s3), config, root).await
    }

    async fn with(
        folder: TempDir,
        s3: Option<TestS3Server>,
        store: store::StoreConfig,
        root: PathBuf,
    ) -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        let client = Client::new();
        Self { broker, admin, store, _folder: folder, s3, root, client, tasks: JoinSet::new() }
    }

    async fn replica(&mut self, config: UploadConfig) -> Replica {
        let mut settings = self.broker.config(Role::Ingress);
        settings.request_timeout_ms = 1_000;
        let bus = Bus::connect(&settings).await.unwrap();
        let store = store::testing::open_test_store(self.store.clone()).unwrap();
        let state = UploadState::new(bus, store, config, ProfileCatalog::default(), None);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app: Router = router(state.clone()).into_parts().0.layer(middleware::from_fn(who));
        let shutdown = CancellationToken::new();
        self.tasks.spawn(serve::serve_connections(listener, app, shutdown.clone(), Duration::from_secs(5)));
        let stop = shutdown.clone();
        self.tasks.spawn(async move { state.run(stop).await.unwrap() });
        Replica { url, client: self.client.clone(), shutdown }
    }

    fn object(&self, media_id: &str) -> Vec<u8> {
        std::fs::read(self.root.join(keys::source_key(media_id.parse().unwrap()))).unwrap()
    }

    fn spool(&self, upload: &Upload) -> PathBuf {
        self.root.join(keys::spool_path(upload.id.parse().unwrap()))
    }

    async fn record(&self, upload: &Upload) -> UploadRecord {
        self.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap().record
    }

    /// The one event of this kind about the upload, if it was published.
    async fn event<E: BusEvent>(&self, upload: &Upload) -> Option<E> {
        let subject = format!("evt.{}.{}.{}", E::ENTITY, E::VERB, upload.id);
        let stream = self.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
        let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(nats::decode_message(&subject, &message.payload).unwrap())
    }

    /// Waits until the record shows what is looked for.
    async fn until(
        &self,
        upload: &Upload,
        what: &str,
        mut holds: impl FnMut(&UploadRecord) -> bool,
    ) -> UploadRecord {
        let deadline = Instant::now() + SOON;
        loop {
            let record = self.record(upload).await;
            if holds(&record) {
                return record;
            }
            assert!(Instant::now() < deadline, "{what}: {record:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Replica {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).header("tus-resumable", "1.0.0")
    }

    fn post(&self, pairs: &[(&str, &str)]) -> RequestBuilder {
        pairs
            .iter()
            .fold(self.request(Method::POST, "/v1/uploads"), |r, (name, value)| r.header(*name, *value))
    }

    async fn create(&self, length: usize) -> Upload {
        self.opened(self.post(&[("upload-length", &length.to_string())])).await
    }

    async fn opened(&self, request: RequestBuilder) -> Upload {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        let location = text(answer.headers(), "location");
        let media_id = text(answer.headers(), "streamgate-media-id");
        let id = location.strip_prefix(&format!("{}/v1/uploads/", self.url)).unwrap().to_owned();
        Upload { replica: self.clone(), id, media_id }
    }
}

impl Upload {
    fn on(&self, replica: &Replica) -> Self {
        Self { replica: replica.clone(), ..self.clone() }
    }

    fn path(&self) -> String {
        format!("/v1/uploads/{}", self.id)
    }

    fn request(&self, method: Method) -> RequestBuilder {
        self.replica.request(method, &self.path())
    }

    fn patch(&self, offset: usize, bytes: &[u8]) -> RequestBuilder {
        self.request(Method::PATCH)
            .header("content-type", OFFSET_TYPE)
            .header("upload-offset", offset)
            .body(bytes.to_vec())
    }

    async fn append(&self, offset: usize, bytes: &[u8]) {
        let answer = self.patch(offset, bytes).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        assert_eq!(status, 204, "{}", answer.text().await.unwrap());
        assert_eq!(text(&headers, "upload-offset"), (offset + bytes.len()).to_string());
    }

    async fn head(&self) -> (StatusCode, HeaderMap) {
        let answer = self.request(Method::HEAD).send().await.unwrap();
        (answer.status(), answer.headers().clone())
    }

    async fn offset(&self) -> usize {
        let (status, headers) = self.head().await;
        assert_eq!(status, 200);
        text(&headers, "upload-offset").parse().unwrap()
    }

    /// A PATCH by hand, of which only `bytes` are sent; the connection stays open.
    async fn hang(&self, offset: usize, length: usize, bytes: &[u8]) -> TcpStream {
        let address = self.replica.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PATCH {} HTTP/1.1\r\nHost: {address}\r\nTus-Resumable: 1.0.0\r\nContent-Type: {OFFSET_TYPE}\r\n\
             Upload-Offset: {offset}\r\nContent-Length: {length}\r\n\r\n",
            self.path()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).unwrap_or_else(|| panic!("{name} in {headers:?}")).to_str().unwrap().to_owned()
}

async fn code(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(text(answer.headers(), "content-type"), "application/problem+json");
    assert_eq!(text(answer.headers(), "tus-resumable"), "1.0.0");
    let body: HashMap<String, serde_json::Value> = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

async fn read_answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
            }
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.map_or(0, |l| l.parse().unwrap()) {
                return;
            }
        }
    };
    timeout(SOON, read).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + i / 251 + i / 65_521) % 251).unwrap()).collect()
}

#[tokio::test]
async fn discovery_and_version() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for path in ["/v1/uploads", "/v1/uploads/00000000000000000000000000"] {
        let answer =
            site.client.request(Method::OPTIONS, format!("{}{path}", replica.url)).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        let headers = answer.headers();
        assert_eq!(text(headers, "tus-version"), "1.0.0");
        assert_eq!(text(headers, "tus-max-size"), UploadConfig::default().size_bytes_max.to_string());
        assert_eq!(
            text(headers, "tus-extension"),
            "creation,creation-with-upload,creation-defer-length,termination,expiration,checksum,checksum-trailer,concatenation,\
         concatenation-unfinished"
        );
        assert_eq!(text(headers, "tus-checksum-algorithm"), "sha1,md5,crc32,sha256,sha512,blake3");
    }
    let upload = replica.create(5).await;
    for method in [Method::HEAD, Method::PATCH, Method::DELETE] {
        let url = format!("{}{}", replica.url, upload.path());
        for version in [None, Some("0.2.2"), Some("1.0.1")] {
            let mut request = site.client.request(method.clone(), &url);
            if let Some(version) = version {
                request = request.header("tus-resumable", version);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 412, "{method} {version:?}");
            assert_eq!(text(answer.headers(), "tus-version"), "1.0.0");
            assert_eq!(text(answer.headers(), "tus-resumable"), "1.0.0");
        }
    }
    assert_eq!(upload.offset().await, 0, "nothing was processed");
}

#[tokio::test]
async fn creation_by_the_checklist() {
    let mut site = Site::local().await;
    let replica = site
        .replica(UploadConfig { size_bytes_max: 1000, metadata_bytes_max: 100, ..UploadConfig::default() })
        .await;
    let long = "a".repeat(101);
    for (pairs, status, wanted) in [
        (&[][..], 400, "header_invalid"),
        (&[("upload-length", "5"), ("upload-defer-length", "1")], 400, "header_invalid"),
        (&[("upload-defer-length", "2")], 400, "header_invalid"),
        (&[("upload-length", "-1")], 400, "header_invalid"),
        (&[("upload-length", "9223372036854775808")], 400, "header_invalid"),
        (&[("upload-length", "1001")], 413, "upload_too_large"),
        (&[("upload-length", "5"), ("upload-metadata", "a ???")], 400, "header_invalid"),
        (&[("upload-length", "5"), ("upload-metadata", "a,a")], 400, "header_invalid"),
        (&[("upload-length", "5"), ("upload-metadata", &long)], 431, "metadata_too_long"),
    ] {
        let found = code(replica.post(pairs).send().await.unwrap()).await;
        assert_eq!(found, (status, wanted.to_owned()), "{pairs:?}");
    }
    let raw = "filename d29ybGQubXA0,filetype dmlkZW8vbXA0,is_secret";
    let upload = replica.opened(replica.post(&[("upload-length", "5"), ("upload-metadata", raw)])).await;
    let (status, headers) = upload.head().await;
    assert_eq!(status, 200);
    assert_eq!(text(&headers, "upload-metadata"), raw, "byte for byte");
    assert_eq!((text(&headers, "upload-offset"), text(&headers, "upload-length")), ("0".into(), "5".into()));
    assert_eq!(text(&headers, "cache-control"), "no-store");
    assert_eq!(text(&headers, "streamgate-media-id"), upload.media_id);
    httpdate::parse_http_date(&text(&headers, "upload-expires")).unwrap();
    let created = site.event::<UploadCreated>(&upload).await.unwrap();
    assert_eq!((created.length_bytes, created.filename.as_deref()), (Some(5), Some("world.mp4")));
    // A widely used client sends the header empty.
    replica.opened(replica.post(&[("upload-length", "5"), ("upload-metadata", "")])).await;
}

#[tokio::test]
async fn an_empty_upload_is_complete_at_once() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let upload = replica.create(0).await;
        assert_eq!(site.event::<UploadReceived>(&upload).await.unwrap().size_bytes, 0);
        assert_eq!(upload.offset().await, 0);
        assert!(site.object(&upload.media_id).is_empty());
        upload.append(0, b"").await;
    }
}

#[tokio::test]
async fn bytes_arrive_whole_on_every_store() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(11 * MIB + 7);
        let upload = replica.create(bytes.len()).await;
        upload.append(0, &bytes[..100]).await;
        upload.append(100, b"").await;
        upload.append(100, &bytes[100..6 * MIB]).await;
        assert_eq!(upload.offset().await, 6 * MIB);
        assert!(site.event::<UploadReceived>(&upload).await.is_none());
        upload.append(6 * MIB, &bytes[6 * MIB..]).await;
        assert!(site.object(&upload.media_id) == bytes, "the object differs");
        let received = site.event::<UploadReceived>(&upload).await.unwrap();
        assert_eq!(received.size_bytes, u64::try_from(bytes.len()).unwrap());
        assert_eq!(received.media_id.to_string(), upload.media_id);
        // The answer to the last PATCH may have been lost.
        upload.append(bytes.len(), b"").await;
        let (status, headers) = upload.head().await;
        assert_eq!((status.as_u16(), text(&headers, "upload-offset")), (200, bytes.len().to_string()));
        assert!(headers.get("upload-expires").is_none());
        let found = code(upload.request(Method::DELETE).send().await.unwrap()).await;
        assert_eq!(found, (403, "upload_finished".to_owned()));
    }
}

#[tokio::test]
async fn creation_takes_the_first_bytes() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let pairs = [("upload-length", "5"), ("content-type", OFFSET_TYPE)];
    let answer = replica.post(&pairs).body("hel").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), text(answer.headers(), "upload-offset")), (201, "3".to_owned()));
    let id = text(answer.headers(), "location").rsplit('/').next().unwrap().to_owned();
    let upload =
        Upload { id, media_id: text(answer.headers(), "streamgate-media-id"), replica: replica.clone() };
    upload.append(3, b"lo").await;
    assert_eq!(site.object(&upload.media_id), b"hello");
    let whole = replica.opened(replica.post(&pairs).body("hello")).await;
    assert_eq!(site.object(&whole.media_id), b"hello");
    let found = code(replica.post(&pairs).body("hello!").send().await.unwrap()).await;
    assert_eq!(found, (413, "upload_too_large".to_owned()));
    let other = replica
        .opened(replica.post(&[("upload-length", "5"), ("content-type", "video/mp4")]).body("hello"))
        .await;
    assert_eq!(other.offset().await, 0, "a body of another type is not taken");
}

#[tokio::test]
async fn a_deferred_length_is_set_once() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { size_bytes_max: 100, ..UploadConfig::default() }).await;
    let upload = replica.opened(replica.post(&[("upload-defer-length", "1")])).await;
    let (_, headers) = upload.head().await;
    assert_eq!(text(&headers, "upload-defer-length"), "1");
    assert!(headers.get("upload-length").is_none());
    upload.append(0, b"hello").await;
    for length in ["4", "101", "x", "-1"] {
        let answer = upload.patch(5, b"").header("upload-length", length).send().await.unwrap();
        assert_eq!(code(answer).await, (400, "header_invalid".to_owned()), "{length}");
    }
    let answer = upload.patch(5, b"!").header("upload-length", "7").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let answer = upload.patch(6, b"").header("upload-length", "8").send().await.unwrap();
    assert_eq!(code(answer).await, (400, "header_invalid".to_owned()));
    upload.append(6, b"!").await;
    assert_eq!(site.object(&upload.media_id), b"hello!!");
    let second = replica.opened(replica.post(&[("upload-defer-length", "1")])).await;
    second.append(0, b"abc").await;
    let answer = second.patch(3, b"").header("upload-length", "3").send().await.unwrap();
    assert_eq!(answer.status(), 204, "the length alone completes");
    assert_eq!(site.object(&second.media_id), b"abc");
}

#[tokio::test]
async fn appends_are_refused_without_a_trace() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(10).await;
    upload.append(0, b"hello").await;
    let bare = || upload.request(Method::PATCH).body("xxxxx");
    for (request, status, wanted) in [
        (bare().header("upload-offset", "5"), 415, "media_type"),
        (bare().header("upload-offset", "5").header("content-type", "text/plain"), 415, "media_type"),
        (bare().header("content-type", OFFSET_TYPE), 400, "header_invalid"),
        (bare().header("content-type", OFFSET_TYPE).header("upload-offset", "-1"), 400, "header_invalid"),
        (
            bare().header("content-type", OFFSET_TYPE).header("upload-offset", "99999999999999999999"),
            400,
            "header_invalid",
        ),
        (upload.patch(4, b"xxxxx"), 409, "upload_offset"),
        (upload.patch(6, b"xxxx"), 409, "upload_offset"),
        (upload.patch(5, b"xxxxxx"), 413, "upload_too_large"),
        (upload.patch(5, b"xx").header("upload-checksum", "sha3 AAAA"), 400, "checksum_algorithm"),
        (upload.patch(5, b"xx").header("upload-checksum", "sha1 ???"), 400, "header_invalid"),
        (upload.patch(5, b"xx").header("upload-checksum", "crc32 AAAAAA=="), 460, "checksum_mismatch"),
    ] {
        let answer = request.send().await.unwrap();
        if status == 409 {
            assert_eq!(text(answer.headers(), "upload-offset"), "5", "the true offset");
        }
        assert_eq!(code(answer).await, (status, wanted.to_owned()));
        assert_eq!(upload.offset().await, 5);
    }
    let chunks = futures::stream::iter(["xxx", "xxx", "xxx"].map(|c| Ok::<_, std::io::Error>(c.to_owned())));
    let chunked = upload
        .request(Method::PATCH)
        .header("content-type", OFFSET_TYPE)
        .header("upload-offset", "5")
        .body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(code(chunked.send().await.unwrap()).await, (413, "upload_too_large".to_owned()));
    let kept = upload.offset().await;
    assert!((5..=10).contains(&kept), "{kept}");
    assert!(
        std::fs::metadata(site.spool(&upload)).unwrap().len() <= 10,
        "the file never grows beyond the length"
    );
}

#[tokio::test]
async fn checksums_hold_or_nothing_is_kept() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(7 * MIB);
        let upload = replica.create(bytes.len()).await;
        upload.append(0, &bytes[..1000]).await;
        let wrong = upload.patch(1000, &vec![9; 6 * MIB]).header("upload-checksum", "crc32 AAAAAA==");
        assert_eq!(code(wrong.send().await.unwrap()).await, (460, "checksum_mismatch".to_owned()));
        assert_eq!(upload.offset().await, 1000);
        // Cut short under a checksum: the bytes that came are not kept either.
        let digest = "crc32 AAAAAA==";
        let address = replica.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PATCH {} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nContent-Type: {OFFSET_TYPE}\r\nUpload-Offset: 1000\r\n\
             Upload-Checksum: {digest}\r\nContent-Length: 5000\r\n\r\nabc",
            upload.path()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        site.until(&upload, "the request holds the upload", |r| r.holder.is_some()).await;
        drop(stream);
        site.until(&upload, "it has let go", |r| r.holder.is_none()).await;
        assert_eq!(upload.offset().await, 1000);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[1000..]);
        let right = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            hasher.finalize().to_be_bytes(),
        );
        let answer = upload
            .patch(1000, &bytes[1000..])
            .header("upload-checksum", format!("crc32 {right}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 204);
        assert!(site.object(&upload.media_id) == bytes);
    }
}

/// A PATCH by hand: one chunk, and the trailer behind it.
async fn append_with_trailer(
    upload: &Upload,
    offset: usize,
    bytes: &[u8],
    announced: &str,
    trailer: &str,
) -> String {
    let address = upload.replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nContent-Type: {OFFSET_TYPE}\r\nUpload-Offset: {offset}\r\n\
         Transfer-Encoding: chunked\r\n{announced}\r\n{:x}\r\n",
        upload.path(),
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.write_all(format!("\r\n0\r\n{trailer}\r\n").as_bytes()).await.unwrap();
    read_answer(stream).await
}

#[tokio::test]
async fn a_checksum_may_follow_the_bytes() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(22).await;
    let announced = "Trailer: Upload-Checksum\r\n";
    for (more, trailer, wanted) in [
        ("", "Upload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n", "HTTP/1.1 460"),
        ("", "Upload-Checksum: sha1 AAAA\r\n", "HTTP/1.1 400"),
        ("", "Upload-Checksum: sha0 AAAA\r\n", "HTTP/1.1 400"),
        // Announced, and never sent.
        ("", "", "HTTP/1.1 460"),
        ("Upload-Checksum: sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=\r\n", "", "HTTP/1.1 400"),
    ] {
        let answer =
            append_with_trailer(&upload, 0, b"hello world", &format!("{announced}{more}"), trailer).await;
        assert!(answer.starts_with(wanted), "{trailer}: {answer}");
        assert_eq!(upload.offset().await, 0, "{trailer}");
    }
    for (offset, digest) in [(0, "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="), (11, "md5 XrY7u+Ae7tCTyyK7j1rNww==")] {
        let trailer = format!("Upload-Checksum: {digest}\r\n");
        let answer = append_with_trailer(&upload, offset, b"hello world", announced, &trailer).await;
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    assert_eq!(site.object(&upload.media_id), b"hello worldhello world");
}

#[tokio::test]
async fn strangers_see_what_is_not_there() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(5).await;
    let nothing = Upload { id: "0".repeat(26), ..upload.clone() };
    let nonsense = Upload { id: "..%2Fx".into(), ..upload.clone() };
    for method in [Method::PATCH, Method::DELETE, Method::HEAD] {
        for target in [&nothing, &nonsense, &upload] {
            let answer = target
                .request(method.clone())
                .header("x-owner", "mallory")
                .header("content-type", OFFSET_TYPE)
                .header("upload-offset", "0")
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 404, "{method} {}", target.id);
            assert!(answer.headers().get("upload-offset").is_none());
            assert_eq!(text(answer.headers(), "tus-resumable"), "1.0.0");
        }
    }
    let status = replica.request(Method::GET, &format!("{}/status", upload.path()));
    assert_eq!(status.header("x-owner", "mallory").send().await.unwrap().status(), 404);
    assert_eq!(upload.offset().await, 0);
}

#[tokio::test]
async fn a_cut_connection_leaves_its_prefix() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(9 * MIB);
        let upload = replica.create(bytes.len()).await;
        let sent = 8 * MIB + 3;
        let stream = upload.hang(0, bytes.len(), &bytes[..sent]).await;
        // A reset, not an orderly end.
        let socket = stream.into_std().unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        drop(socket);
        let kept =
            site.until(&upload, "the prefix is recorded", |r| r.offset_bytes > 0 && r.holder.is_none()).await;
        let kept = usize::try_from(kept.offset_bytes).unwrap();
        assert!(kept <= sent);
        assert_eq!(upload.offset().await, kept);
        upload.append(kept, &bytes[kept..]).await;
        assert!(site.object(&upload.media_id) == bytes, "no byte is lost or doubled");
    }
}

#[tokio::test]
async fn an_orderly_cut_keeps_every_byte_sent() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(MIB);
    let upload = replica.create(bytes.len()).await;
    let mut stream = upload.hang(0, bytes.len(), &bytes[..700_001]).await;
    stream.shutdown().await.unwrap();
    site.until(&upload, "every byte is kept", |r| r.offset_bytes == 700_001 && r.holder.is_none()).await;
    upload.append(700_001, &bytes[700_001..]).await;
    assert!(site.object(&upload.media_id) == bytes);
}

/// Measures how long HEAD and the next PATCH take while a request hangs.
async fn check_takeover(site: &Site, upload: &Upload, other: &Upload, bytes: &[u8]) {
    let sent = 300_000;
    let hung = upload.hang(0, bytes.len(), &bytes[..sent]).await;
    site.until(upload, "the first request holds the upload", |r| r.holder.is_some()).await;
    // A second request that starts behind the bytes that arrived displaces the first, whose answer says so.
    let started = Instant::now();
    let offset = other.offset().await;
    let took = started.elapsed();
    assert!(took <= Duration::from_millis(250), "HEAD took {took:?}");
    other.append(offset, &bytes[offset..]).await;
    let answer = read_answer(hung).await;
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    assert!(answer.contains("upload_displaced"), "{answer}");
    assert!(site.object(&upload.media_id) == bytes, "the bytes of two requests are mixed");
    assert_eq!(site.record(upload).await.status, UploadStatus::Received);
}

#[tokio::test]
async fn a_hung_request_is_taken_over() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(2 * MIB);
    for _ in 0..5 {
        let upload = replica.create(bytes.len()).await;
        check_takeover(&site, &upload, &upload, &bytes).await;
    }
}

#[tokio::test]
async fn a_hung_request_on_another_replica_is_taken_over() {
    for mut site in [Site::local().await, Site::remote().await] {
        let first = site.replica(UploadConfig::default()).await;
        let second = site.replica(UploadConfig::default()).await;
        let bytes = pattern(2 * MIB);
        let upload = first.create(bytes.len()).await;
        check_takeover(&site, &upload, &upload.on(&second), &bytes).await;
    }
}

#[tokio::test]
async fn a_replica_that_died_is_fenced_off() {
    let mut site = Site::remote().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(10).await;
    upload.append(0, b"hello").await;
    let mut held = site.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap();
    held.record.holder = Some("somebody-who-died".into());
    site.admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
    let generation = held.record.generation;
    let started = Instant::now();
    assert_eq!(upload.offset().await, 5);
    assert!(started.elapsed() <= Duration::from_millis(400), "{:?}", started.elapsed());
    let record = site.record(&upload).await;
    assert_eq!((record.holder, record.generation), (None, generation + 1));
    upload.append(5, b"world").await;
    assert_eq!(site.object(&upload.media_id), b"helloworld");
}

#[tokio::test]
async fn of_two_appends_at_one_offset_one_wins() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { takeover_ms: 10_000, ..UploadConfig::default() }).await;
    for round in 0..10_u8 {
        let upload = replica.create(400_000).await;
        let mut tasks = JoinSet::new();
        for letter in [round * 2, round * 2 + 1] {
            let upload = upload.clone();
            tasks.spawn(async move {
                (letter, upload.patch(0, &vec![letter; 400_000]).send().await.unwrap().status())
            });
        }
        let outcomes = tasks.join_all().await;
        let winners: Vec<_> = outcomes.iter().filter(|(_, status)| *status == 204).collect();
        assert!(winners.len() <= 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|(_, status)| [204, 409].contains(&status.as_u16())), "{outcomes:?}");
        let offset = upload.offset().await;
        if let Some((letter, _)) = winners.first() {
            assert!(site.object(&upload.media_id).iter().all(|b| b == letter), "mixed bytes");
        } else {
            let kept = std::fs::read(site.spool(&upload)).unwrap();
            assert!(kept[..offset].windows(2).all(|w| w[0] == w[1]), "mixed bytes");
        }
    }
}

#[tokio::test]
async fn deleting_frees_and_stops() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(7 * MIB);
        let upload = replica.create(bytes.len() + 1).await;
        upload.append(0, &bytes).await;
        let hung = upload.hang(bytes.len(), 1, b"").await;
        site.until(&upload, "a request holds it", |r| r.holder.is_some()).await;
        assert_eq!(upload.request(Method::DELETE).send().await.unwrap().status(), 204);
        assert!(read_answer(hung).await.starts_with("HTTP/1.1 4"), "the running request is refused");
        for method in [Method::HEAD, Method::DELETE, Method::PATCH] {
            let answer = upload
                .request(method)
                .header("content-type", OFFSET_TYPE)
                .header("upload-offset", bytes.len())
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 410);
            assert!(answer.headers().get("upload-offset").is_none());
        }
        assert!(!site.spool(&upload).exists());
        if let Some(s3) = &site.s3 {
            assert_eq!(s3.multipart_files().unwrap(), 0);
        }
        let ended = site.event::<UploadTerminated>(&upload).await.unwrap();
        assert_eq!((ended.offset_bytes, ended.code), (u64::try_from(bytes.len()).unwrap(), None));
        assert!(site.record(&upload).await.freed);
    }
}

#[tokio::test]
async fn a_proxy_that_knows_post_only_is_served() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(5).await;
    let overridden = |verb: &str| upload.request(Method::POST).header("x-http-method-override", verb);
    let answer = overridden("PATCH")
        .header("content-type", OFFSET_TYPE)
        .header("upload-offset", "0")
        .body("hel")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    let answer = overridden("HEAD").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), text(answer.headers(), "upload-offset")), (200, "3".to_owned()));
    assert_eq!(overridden("GET").send().await.unwrap().status(), 405);
    assert_eq!(upload.request(Method::POST).send().await.unwrap().status(), 405);
    assert_eq!(overridden("DELETE").send().await.unwrap().status(), 204);
    assert_eq!(upload.head().await.0, 410);
    assert_eq!(
        upload.request(Method::GET).send().await.unwrap().status(),
        405,
        "bytes are never served here"
    );
}

#[tokio::test]
async fn refusals_come_before_the_body() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(5).await;
    let address = replica.url.strip_prefix("http://").unwrap();
    let head = |length: usize, more: &str| {
        format!(
            "PATCH {} HTTP/1.1\r\nHost: {address}\r\nTus-Resumable: 1.0.0\r\nContent-Type: {OFFSET_TYPE}\r\n\
             Upload-Offset: 3\r\nContent-Length: {length}\r\n{more}\r\n",
            upload.path()
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head(2, "Expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let answer = read_answer(stream).await;
    assert!(answer.starts_with("HTTP/1.1 409"), "no 100 before a refusal: {answer}");
    // The client is still sending when it is refused, and reads the answer all the same.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head(900_000, "").as_bytes()).await.unwrap();
    stream.write_all(&vec![0; 900_000]).await.unwrap();
    assert!(read_answer(stream).await.starts_with("HTTP/1.1 409"));
}

#[tokio::test]
async fn an_idle_or_slow_request_ends_with_its_prefix() {
    let mut site = Site::local().await;
    let config = UploadConfig {
        idle_timeout_ms: 1_000,
        rate_bytes_per_s_min: 50,
        tick_ms: 20,
        ..UploadConfig::default()
    };
    let replica = site.replica(config).await;
    let upload = replica.create(1000).await;
    let answer = read_answer(upload.hang(0, 1000, b"hello").await).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("upload_idle"), "{answer}");
    assert_eq!(upload.offset().await, 5);
    let mut stream = upload.hang(5, 995, b"x").await;
    let (mut reading, mut writing) = stream.split();
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if writing.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    let mut answer = [0; 2048];
    let length = tokio::select! {
        () = trickle => 0,
        read = reading.read(&mut answer) => read.unwrap(),
    };
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("upload_too_slow"), "{answer}");
    assert!(upload.offset().await > 5);
}

#[tokio::test]
async fn an_owner_has_a_bounded_number_of_open_uploads() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { open_per_owner_max: 2, ..UploadConfig::default() }).await;
    let first = replica.create(5).await;
    let second = replica.create(5).await;
    let refused = replica.post(&[("upload-length", "5")]).send().await.unwrap();
    assert_eq!(code(refused).await, (429, "uploads_open".to_owned()));
    replica.opened(replica.post(&[("upload-length", "5")]).header("x-owner", "bob")).await;
    first.append(0, b"hello").await;
    let third = replica.create(5).await;
    // A crash left the second one in the list: the full list is compared with the records.
    let mut held = site.admin.load_record::<UploadRecord>(&second.id).await.unwrap().unwrap();
    held.record.status = UploadStatus::Terminated;
    site.admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
    replica.create(5).await;
    assert_eq!(third.offset().await, 0);
}

#[tokio::test]
async fn an_owner_brings_no_more_bytes_a_day_than_its_quota_open_uploads_among_them() {
    let mut site = Site::local().await;
    let each = OwnerQuota { daily_upload_bytes_max: Some(10), ..OwnerQuota::default() };
    let none = OwnerQuota { daily_upload_bytes_max: Some(0), ..OwnerQuota::default() };
    let quotas = QuotaConfig { each, of: [("bob".to_owned(), none)].into() };
    let replica = site.replica(UploadConfig { quotas, ..UploadConfig::default() }).await;
    let begin = async |length: &str| replica.post(&[("upload-length", length)]).send().await.unwrap();
    let refused = begin("11").await;
    let wait_s: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=24 * 3_600).contains(&wait_s), "{wait_s}");
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["code"], &problem["quota"], &problem["used"], &problem["max"]),
        (&json!("quota_exceeded"), &json!("daily_upload_bytes"), &json!(0), &json!(10)),
        "{problem}"
    );
    let first = replica.create(5).await;
    first.append(0, b"hello").await;
    let second = replica.create(4).await;
    // 5 came, and 4 are on their way; also where a crash left their number out.
    assert_eq!(code(begin("2").await).await, (429, "quota_exceeded".to_owned()));
    let last = replica.create(1).await;
    let empty = replica.create(0).await;
    assert_eq!(empty.offset().await, 0);
    // What ended without its bytes leaves room; what came does not, and a refused one takes none.
    let ended = second.request(Method::DELETE).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(code(begin("5").await).await, (429, "quota_exceeded".to_owned()));
    let third = replica.create(4).await;
    third.append(0, b"abcd").await;
    last.append(0, b"x").await;
    assert_eq!(code(begin("1").await).await, (429, "quota_exceeded".to_owned()));
    let bob = replica.post(&[("upload-length", "1")]).header("x-owner", "bob").send().await.unwrap();
    assert_eq!(code(bob).await, (429, "quota_exceeded".to_owned()));
}

#[tokio::test]
async fn a_full_disk_is_reported_and_a_lost_file_ends_the_upload() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(1000).await;
    std::fs::remove_file(site.spool(&upload)).unwrap();
    std::os::unix::fs::symlink("/dev/full", site.spool(&upload)).unwrap();
    let found = code(upload.patch(0, &[1; 1000]).send().await.unwrap()).await;
    assert_eq!(found, (507, "store_full".to_owned()));
    assert_eq!(upload.offset().await, 0);
    std::fs::remove_file(site.spool(&upload)).unwrap();
    let found = code(upload.patch(0, b"x").send().await.unwrap()).await;
    assert_eq!(found, (410, "upload_bytes_lost".to_owned()));
    assert_eq!(upload.head().await.0, 410);
    let ended = site.event::<UploadTerminated>(&upload).await.unwrap();
    assert_eq!(ended.code.as_deref(), Some("upload_bytes_lost"));
}

#[tokio::test]
async fn a_crash_before_the_completion_is_made_good() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig { finish_wait_ms: 60_000, ..UploadConfig::default() }).await;
        let mut uploads = Vec::new();
        for _ in 0..3 {
            let upload = replica.create(5).await;
            upload.append(0, b"hello").await;
            // As the record was just before: every byte recorded, nothing completed.
            let mut held = site.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap();
            held.record.status = UploadStatus::Open;
            held.record.holder = Some("somebody-who-died".into());
            site.admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
            uploads.push(upload);
        }
        assert_eq!(uploads[0].offset().await, 5, "HEAD completes it");
        uploads[1].append(5, b"").await;
        let keeper = site.broker.bus(Role::Keeper).await;
        let store = store::testing::open_test_store(site.store.clone()).unwrap();
        let pass = super::expiry::run_expiry_pass(&keeper, &store, nats::now_ms(), 0, schemas::ENDED_KEPT_MS)
            .await
            .unwrap();
        assert_eq!(pass.completed_count, 1, "{pass:?}");
        for upload in &uploads {
            assert_eq!(site.record(upload).await.status, UploadStatus::Received);
            assert_eq!(site.object(&upload.media_id), b"hello");
        }
    }
}

#[tokio::test]
async fn time_runs_out_for_open_uploads() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let upload = replica.create(7 * MIB).await;
        upload.append(0, &pattern(6 * MIB)).await;
        let complete = replica.create(1).await;
        complete.append(0, b"x").await;
        let keeper = site.broker.bus(Role::Keeper).await;
        let store = store::testing::open_test_store(site.store.clone()).unwrap();
        let now_ms = nats::now_ms();
        let pass =
            |now_ms| super::expiry::run_expiry_pass(&keeper, &store, now_ms, 60_000, schemas::ENDED_KEPT_MS);
        assert_eq!(pass(now_ms).await.unwrap().expired_count, 0, "its time has not come");
        let later = now_ms + 25 * 3600 * 1000;
        assert_eq!(pass(later).await.unwrap().expired_count, 1);
        assert_eq!(pass(later).await.unwrap(), super::expiry::ExpiryReport::default(), "once is enough");
        assert_eq!(upload.head().await.0, 410);
        let expired = site.event::<UploadExpired>(&upload).await.unwrap();
        assert_eq!(expired.offset_bytes, u64::try_from(6 * MIB).unwrap());
        assert!(!site.spool(&upload).exists());
        if let Some(s3) = &site.s3 {
            assert_eq!(s3.multipart_files().unwrap(), 0);
        }
        assert_eq!(complete.offset().await, 1, "a complete upload does not expire");
    }
}

#[tokio::test]
async fn a_stop_keeps_prefixes_and_ends_soon() {
    let mut site = Site::local().await;
    let first = site.replica(UploadConfig::default()).await;
    let second = site.replica(UploadConfig::default()).await;
    let bytes = pattern(MIB);
    let upload = first.create(bytes.len()).await;
    let hung = upload.hang(0, bytes.len(), &bytes[..500_000]).await;
    site.until(&upload, "the request holds it", |r| r.holder.is_some()).await;
    // What was written is in the kernel's hands now; the request must have taken it before the stop.
    let upload = upload.on(&second);
    let grown = async {
        while std::fs::metadata(site.spool(&upload)).unwrap().len() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, grown).await.unwrap();
    first.shutdown.cancel();
    let answer = read_answer(hung).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.to_ascii_lowercase().contains("retry-after"),
        "{answer}"
    );
    let kept = upload.offset().await;
    assert!(kept > 0);
    upload.append(kept, &bytes[kept..]).await;
    assert!(site.object(&upload.media_id) == bytes);
}

#[tokio::test]
async fn without_a_broker_head_is_503() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(5).await;
    let Site { broker, admin, tasks, .. } = site;
    drop(admin);
    drop(broker);
    let (status, headers) = upload.head().await;
    assert_eq!(status, 503, "a client that gets a 4xx here starts over");
    assert!(headers.contains_key("retry-after"));
    assert_eq!(text(&headers, "tus-resumable"), "1.0.0");
    drop(tasks);
}

#[tokio::test]
async fn the_status_says_where_it_stands() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica
        .opened(replica.post(&[("upload-length", "9"), ("upload-metadata", "filename YS5tcDQ=")]))
        .await;
    upload.append(0, b"hello").await;
    let path = format!("{}/status", upload.path());
    let answer = replica.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), text(answer.headers(), "cache-control")),
        (200, "no-store".to_owned())
    );
    let status: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(status["status"], "open");
    assert_eq!((&status["offset_bytes"], &status["length_bytes"]), (&5.into(), &9.into()));
    assert_eq!(status["filename"], "a.mp4");
    assert_eq!(status["media_id"], upload.media_id);
}

#[tokio::test]
async fn a_whole_file_in_one_request() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(6 * MIB);
        let post = |body: reqwest::Body| {
            site.client
                .post(format!("{}/v1/media", replica.url))
                .header("content-type", "video/mp4")
                .body(body)
        };
        let answer = post(bytes.clone().into())
            .header("content-disposition", "attachment; filename=\"clip.mp4\"")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        let media_id = text(answer.headers(), "streamgate-media-id");
        assert_eq!(text(answer.headers(), "location"), format!("/v1/media/{media_id}"));
        let created: HashMap<String, String> = answer.json().await.unwrap();
        assert_eq!(created["media_id"], media_id);
        assert!(site.object(&media_id) == bytes);
        let upload = Upload { replica: replica.clone(), id: created["upload_id"].clone(), media_id };
        assert_eq!(
            site.event::<UploadReceived>(&upload).await.unwrap().filename.as_deref(),
            Some("clip.mp4")
        );
        // Chunked, without a length.
        let pieces = bytes.chunks(50_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>();
        let answer = post(reqwest::Body::wrap_stream(futures::stream::iter(pieces))).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        assert!(site.object(&text(answer.headers(), "streamgate-media-id")) == bytes);
    }
}

#[tokio::test]
async fn a_whole_file_is_refused_whole() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { size_bytes_max: 100, ..UploadConfig::default() }).await;
    let post = |kind: &'static str, body: &'static str| {
        site.client.post(format!("{}/v1/media", replica.url)).header("content-type", kind).body(body)
    };
    // SHA-256 of nothing.
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    for (request, status, wanted) in [
        (post("application/x-ndjson", "{}"), 415, "media_type"),
        (post("application/json", "[]"), 400, "json_invalid"),
        (post("text/plain", "x"), 415, "media_type"),
        (post("video/mp4", "x").header("content-digest", digest), 400, "digest_mismatch"),
        (post("video/mp4", "x").header("repr-digest", digest), 400, "digest_mismatch"),
        (post("video/mp4", "x").header("repr-digest", "sha-256=x"), 400, "header_invalid"),
        (post("video/mp4", "x").body("y".repeat(101)), 413, "upload_too_large"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{wanted}");
        let body: HashMap<String, serde_json::Value> = answer.json().await.unwrap();
        assert_eq!(body["code"], wanted);
    }
    let found: Vec<_> =
        std::fs::read_dir(site.root.join("media")).map(|d| d.flatten().collect()).unwrap_or_default();
    assert!(found.is_empty(), "{found:?}");
    let good = post("video/mp4", "").header("repr-digest", digest).send().await.unwrap();
    assert_eq!(good.status(), 201);
}

#[tokio::test]
async fn a_whole_file_cut_short_leaves_nothing() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let mut events = site.admin.subscribe_core(subjects::event_filter::<UploadTerminated>()).await.unwrap();
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/media HTTP/1.1\r\nHost: {address}\r\nContent-Type: video/mp4\r\nContent-Length: 5000\r\n\r\nabc"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let message = timeout(SOON, futures::StreamExt::next(&mut events)).await.unwrap().unwrap();
    let ended: UploadTerminated = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(ended.code.as_deref(), Some("body_cut"));
    let upload = Upload { replica, id: ended.upload_id.to_string(), media_id: ended.media_id.to_string() };
    site.until(&upload, "nothing is left", |r| r.freed).await;
    assert!(!site.spool(&upload).exists());
}

#[tokio::test]
async fn an_upload_whose_medium_was_removed_is_refused_and_leaves_nothing() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let upload = replica.create(10).await;
        upload.append(0, b"hello").await;
        site.admin
            .change_record::<document::MediaDocumentRecord>(&upload.media_id, |found| {
                Some((found.unwrap().clone().into_removed(1), Outbox::new()))
            })
            .await
            .unwrap();
        for request in [upload.patch(5, b"world"), upload.patch(5, b"world"), upload.patch(10, b"")] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 410);
            let problem: HashMap<String, serde_json::Value> = answer.json().await.unwrap();
            assert_eq!(problem["code"], "media_removed");
        }
        assert_eq!(upload.head().await.0, 410);
        let record = site.until(&upload, "its bytes are freed", |record| record.freed).await;
        assert_eq!(
            (record.status, record.code.as_deref()),
            (UploadStatus::Terminated, Some("media_removed"))
        );
        assert_eq!(
            site.event::<UploadTerminated>(&upload).await.unwrap().code.as_deref(),
            Some("media_removed")
        );
        assert!(site.event::<UploadReceived>(&upload).await.is_none());
        let source = site.root.join(keys::source_key(upload.media_id.parse().unwrap()));
        assert!(!source.exists() && !site.spool(&upload).exists());
    }
}

#[tokio::test]
async fn a_store_that_is_away_costs_no_acknowledged_byte() {
    for mut site in [Site::local().await, Site::remote().await] {
        site.store.marker_ms = 0;
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(7 * MIB);
        let upload = replica.create(bytes.len()).await;
        upload.append(0, &bytes[..6 * MIB]).await;
        let other = replica.create(9).await;
        other.append(0, b"hello").await;
        let keeper = site.broker.bus(Role::Keeper).await;
        let store = store::testing::open_test_store(site.store.clone()).unwrap();
        store.verify_marker_now().await.unwrap();
        let away = site.root.with_extension("away");
        std::fs::rename(&site.root, &away).unwrap();
        for mount_point in [false, true] {
            if mount_point {
                std::fs::create_dir(&site.root).unwrap();
            }
            let length = [("upload-length", "5")];
            for request in [
                upload.patch(6 * MIB, &bytes[6 * MIB..]),
                upload.request(Method::HEAD),
                other.request(Method::DELETE),
                replica.post(&length),
                site.client
                    .post(format!("{}/v1/media", replica.url))
                    .header("content-type", "video/mp4")
                    .body("x"),
            ] {
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 503, "{answer:?}");
                assert!(answer.headers().contains_key("retry-after"));
            }
            // No time runs out, and nothing is freed, while the bytes can't be reached.
            let later = nats::now_ms() + 25 * 3600 * 1000;
            super::expiry::run_expiry_pass(&keeper, &store, later, 0, schemas::ENDED_KEPT_MS)
                .await
                .unwrap_err();
        }
        assert_eq!(
            std::fs::read_dir(&site.root).unwrap().count(),
            0,
            "nothing landed below the missing mount"
        );
        std::fs::remove_dir(&site.root).unwrap();
        std::fs::rename(&away, &site.root).unwrap();
        assert_eq!(upload.offset().await, 6 * MIB);
        upload.append(6 * MIB, &bytes[6 * MIB..]).await;
        assert!(site.object(&upload.media_id) == bytes);
        other.append(5, b"!").await;
        assert_eq!(site.record(&other).await.status, UploadStatus::Open);
    }
}

/// Makes the record what it was before the last bytes were put in place.
async fn reopen(site: &Site, upload: &Upload, before: &UploadRecord) {
    let mut held = site.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap();
    held.record = UploadRecord { holder: Some("somebody-who-died".into()), ..before.clone() };
    site.admin.commit_record(&mut held, nats::Outbox::new()).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_is_full_without_new_bytes_is_completed_from_every_entrance() {
    for mut site in [Site::local().await, Site::remote().await] {
        // The largest upload decides the size of parts while no length is known.
        let replica = site
            .replica(UploadConfig {
                size_bytes_max: 100 * 1024 * 1024,
                finish_wait_ms: 60_000,
                ..UploadConfig::default()
            })
            .await;
        // Neither is a multiple of the part size: some bytes are in no part when nobody knows yet that they are the last.
        for length in [6 * MIB + 1, 1000] {
            let bytes = pattern(length);
            let mut uploads = Vec::new();
            for _ in 0..3 {
                let upload = replica.opened(replica.post(&[("upload-defer-length", "1")])).await;
                upload.append(0, &bytes).await;
                uploads.push(upload);
            }
            let named = uploads[0].patch(length, b"").header("upload-length", length).send().await.unwrap();
            assert_eq!(named.status(), 204, "the length alone completes it");
            for upload in &uploads[1..] {
                // All bytes came and are recorded, then the process was killed.
                let record = UploadRecord { length_bytes: Some(length as u64), ..site.record(upload).await };
                reopen(&site, upload, &record).await;
            }
            assert_eq!(uploads[1].offset().await, length);
            let keeper = site.broker.bus(Role::Keeper).await;
            let store = store::testing::open_test_store(site.store.clone()).unwrap();
            let pass =
                super::expiry::run_expiry_pass(&keeper, &store, nats::now_ms(), 0, schemas::ENDED_KEPT_MS)
                    .await
                    .unwrap();
            assert_eq!(pass.completed_count, 1, "{pass:?}");
            for upload in &uploads {
                assert_eq!(site.record(upload).await.status, UploadStatus::Received);
                assert!(site.object(&upload.media_id) == bytes, "not one acknowledged byte is lost");
            }
        }
    }
}

#[tokio::test]
async fn a_slow_completion_goes_on_without_its_client() {
    let mut site = Site::remote().await;
    let replica = site
        .replica(UploadConfig {
            size_bytes_max: 100 * 1024 * 1024,
            finish_wait_ms: 50,
            ..UploadConfig::default()
        })
        .await;
    let bytes = pattern(6 * MIB);
    let upload = replica.opened(replica.post(&[("upload-defer-length", "1")])).await;
    upload.append(0, &bytes).await;
    let record = UploadRecord { length_bytes: Some(bytes.len() as u64), ..site.record(&upload).await };
    reopen(&site, &upload, &record).await;
    let held = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let permits = held.clone();
    site.s3.as_ref().unwrap().set_fault_rule(move |method, address| {
        let completes = *method == Method::POST && address.contains("uploadId=");
        completes.then(|| store::testing::InjectedFault::Hold(permits.clone()))
    });
    for _ in 0..2 {
        assert_eq!(upload.offset().await, bytes.len(), "HEAD answers meanwhile");
        assert_eq!(site.record(&upload).await.status, UploadStatus::Open);
    }
    held.add_permits(10);
    site.until(&upload, "it is completed", |record| record.status == UploadStatus::Received).await;
    assert!(site.object(&upload.media_id) == bytes);
}

#[tokio::test]
async fn a_request_that_fails_before_its_first_part_leaves_no_multipart_upload() {
    let mut site = Site::remote().await;
    site.store.retries_max = 0;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(6 * MIB);
    let upload = replica.create(bytes.len() + 1).await;
    let s3 = site.s3.as_ref().unwrap();
    s3.set_fault_rule(|_, address| {
        address.contains("partNumber").then_some(store::testing::InjectedFault::Status(500))
    });
    let found = code(upload.patch(0, &bytes).send().await.unwrap()).await;
    assert_eq!(found.0, 503);
    assert!(site.record(&upload).await.multipart.unwrap().multipart_id.is_some());
    assert!(s3.multipart_files().unwrap() > 0);
    assert_eq!(upload.request(Method::DELETE).send().await.unwrap().status(), 204);
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn an_append_that_can_not_become_right_disturbs_nobody() {
    let mut site = Site::local().await;
    let first = site.replica(UploadConfig::default()).await;
    let second = site.replica(UploadConfig::default()).await;
    let bytes = pattern(3 * MIB);
    let upload = first.create(bytes.len()).await;
    let mut running = upload.hang(0, bytes.len(), &bytes[..MIB]).await;
    site.until(&upload, "the request holds it", |r| r.holder.is_some()).await;
    let unlimited = first.opened(first.post(&[("upload-defer-length", "1")])).await;
    let mut other = unlimited.hang(0, MIB, &bytes[..1000]).await;
    site.until(&unlimited, "the request holds it", |r| r.holder.is_some()).await;
    for replica in [&first, &second] {
        let (upload, unlimited) = (upload.on(replica), unlimited.on(replica));
        for (request, status) in [
            (upload.patch(bytes.len() + 1, b"x"), 409),
            (upload.patch(bytes.len(), b"x"), 413),
            (upload.patch(MIB, b"x").header("upload-length", "7"), 400),
            // Further than a holder can have come.
            (unlimited.patch(1 << 40, b"x"), 409),
            (unlimited.patch(1 << 35, b"x"), 409),
        ] {
            assert_eq!(request.send().await.unwrap().status(), status);
        }
    }
    running.write_all(&bytes[MIB..]).await.unwrap();
    assert!(read_answer(running).await.starts_with("HTTP/1.1 204"), "the healthy request went on");
    assert!(site.object(&upload.media_id) == bytes);
    other.write_all(&bytes[1000..MIB]).await.unwrap();
    assert!(read_answer(other).await.starts_with("HTTP/1.1 204"));
}
