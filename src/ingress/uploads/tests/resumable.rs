//! Resumable Uploads for HTTP, case by case: what its draft and the suites of other servers ask.

use tokio::io::BufReader;

use super::*;

const PARTIAL: (&str, &str) = ("content-type", "application/partial-upload");
const MORE: (&str, &str) = ("upload-complete", "?0");
const LAST: (&str, &str) = ("upload-complete", "?1");
const OFFSET_TYPE_URI: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const LENGTH_TYPE_URI: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";
const COMPLETE_TYPE_URI: &str = "https://iana.org/assignments/http-problem-types#completed-upload";

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// An answer as its client sees it.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: serde_json::Value,
}

impl Answer {
    fn has(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status, completeness and offset.
    fn state(&self) -> (u16, Option<&str>, Option<&str>) {
        (self.status, self.has("upload-complete"), self.has("upload-offset"))
    }

    /// Status, problem type and completeness.
    fn problem(&self) -> (u16, &str, Option<&str>) {
        assert_eq!(self.has("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        (self.status, self.body["type"].as_str().unwrap(), self.has("upload-complete"))
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
    Answer { status, headers, body }
}

fn with(request: RequestBuilder, pairs: Pairs<'_>) -> RequestBuilder {
    pairs.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

impl Replica {
    /// A request without a word of tus.
    async fn ask(&self, method: Method, path: &str, pairs: Pairs<'_>, body: &[u8]) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.url));
        answer(with(request, pairs).body(body.to_vec())).await
    }

    async fn start(&self, pairs: Pairs<'_>, body: &[u8]) -> Answer {
        self.ask(Method::POST, "/v1/uploads", pairs, body).await
    }

    /// Opens an upload that stays open.
    async fn begin(&self, pairs: Pairs<'_>, body: &[u8]) -> Upload {
        let created = self.start(&[&[MORE], pairs].concat(), body).await;
        assert_eq!(created.state(), (201, Some("?0"), Some(&*body.len().to_string())), "{created:?}");
        Upload::of(self, &created)
    }
}

impl Upload {
    fn of(replica: &Replica, created: &Answer) -> Self {
        let location = created.has("location").unwrap();
        assert!(location.starts_with(&replica.url), "{location}");
        let id = location.rsplit('/').next().unwrap().to_owned();
        let media_id = created.has("streamgate-media-id").unwrap().to_owned();
        Self { replica: replica.clone(), id, media_id }
    }

    async fn ask(&self, method: Method, pairs: Pairs<'_>, body: &[u8]) -> Answer {
        self.replica.ask(method, &self.path(), pairs, body).await
    }

    async fn put(&self, offset: usize, state: (&str, &str), body: &[u8]) -> Answer {
        let offset = offset.to_string();
        self.ask(Method::PATCH, &[PARTIAL, state, ("upload-offset", &offset)], body).await
    }

    async fn question(&self) -> Answer {
        self.ask(Method::HEAD, &[], b"").await
    }
}

#[tokio::test]
async fn a_whole_comes_in_one_request_or_in_many() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(17 * MIB + 5);
        let disposition = "inline; filename=\"a;b.mp4\"; filename*=UTF-8''m%C3%B6we%3B.mp4";
        let said = [LAST, ("content-type", "video/mp4"), ("content-disposition", disposition)];
        let created = replica.start(&said, &bytes).await;
        let length = bytes.len().to_string();
        assert_eq!(created.state(), (201, Some("?1"), Some(&*length)), "{created:?}");
        let whole = Upload::of(&replica, &created);
        assert_eq!(created.body["media_id"], whole.media_id, "{created:?}");
        assert!(site.object(&whole.media_id) == bytes);
        let record = site.record(&whole).await;
        assert_eq!(
            (record.filename.as_deref(), record.content_type.as_deref()),
            (Some("möwe;.mp4"), Some("video/mp4"))
        );
        assert_eq!(
            site.event::<UploadReceived>(&whole).await.unwrap().filename.as_deref(),
            Some("möwe;.mp4")
        );

        let upload = replica.begin(&[], b"").await;
        for step in [0..5, 5..11 * MIB, 11 * MIB..11 * MIB] {
            let appended = upload.put(step.start, MORE, &bytes[step.clone()]).await;
            assert_eq!(appended.state(), (204, Some("?0"), Some(&*step.end.to_string())), "{appended:?}");
            let found = upload.question().await;
            assert_eq!(found.state(), appended.state(), "{found:?}");
            assert_eq!((found.has("upload-length"), found.has("cache-control")), (None, Some("no-store")));
        }
        let last = upload.put(11 * MIB, LAST, &bytes[11 * MIB..]).await;
        assert_eq!(last.state(), (201, Some("?1"), Some(&*length)), "{last:?}");
        assert_eq!(last.body["media_id"], upload.media_id);
        assert!(site.object(&upload.media_id) == bytes);
        for method in [Method::HEAD, Method::GET] {
            let found = upload.ask(method, &[], b"").await;
            assert_eq!(found.state(), (204, Some("?1"), Some(&*length)), "{found:?}");
            assert_eq!(found.has("upload-length"), Some(&*length));
        }
    }
}

#[tokio::test]
async fn only_a_request_that_says_so_completes_an_upload() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let upload = replica.begin(&[("upload-length", "5")], b"hello").await;
        let found = upload.question().await;
        assert_eq!((found.state(), found.has("upload-length")), ((204, Some("?0"), Some("5")), Some("5")));
        assert_eq!(site.record(&upload).await.status, UploadStatus::Open);
        // The keeper does not take it for one that a crash left full.
        let keeper = site.broker.bus(Role::Keeper).await;
        let store = store::testing::open_test_store(site.store.clone()).unwrap();
        let report =
            crate::uploads::expiry::run_expiry_pass(&keeper, &store, nats::now_ms(), 0, 1_000).await.unwrap();
        assert_eq!(report.completed_count, 0);
        let last = upload.put(5, LAST, b"").await;
        assert_eq!(last.state(), (201, Some("?1"), Some("5")), "{last:?}");
        assert_eq!(site.object(&upload.media_id), b"hello");
        assert_eq!(site.event::<UploadReceived>(&upload).await.unwrap().size_bytes, 5);

        let created = replica.start(&[LAST, ("upload-length", "0")], b"").await;
        assert_eq!(created.state(), (201, Some("?1"), Some("0")), "{created:?}");
        assert_eq!(site.object(&Upload::of(&replica, &created).media_id), b"");
    }
}

#[tokio::test]
async fn a_crash_before_the_completion_is_made_good_once_it_was_said() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"hello").await;
    let mut held = site.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap();
    held.record.length_bytes = Some(5);
    held.record.protocol = schemas::upload::UploadProtocol::Resumable { is_complete: true };
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let found = upload.question().await;
    assert_eq!(found.state(), (204, Some("?1"), Some("5")), "{found:?}");
    assert_eq!(site.object(&upload.media_id), b"hello");
}

#[tokio::test]
async fn bytes_for_another_place_are_refused_with_the_right_one() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"hello").await;
    for (offset, state) in [(0, MORE), (4, LAST), (6, MORE), (500, LAST)] {
        let refused = upload.put(offset, state, b"x").await;
        assert_eq!(refused.problem(), (409, OFFSET_TYPE_URI, Some("?0")), "{refused:?}");
        assert_eq!(refused.has("upload-offset"), Some("5"));
        assert_eq!(
            (&refused.body["expected-offset"], &refused.body["provided-offset"]),
            (&5.into(), &offset.into())
        );
    }
    assert_eq!(upload.put(5, LAST, b" world").await.status, 201);
    assert_eq!(site.object(&upload.media_id), b"hello world");
}

#[tokio::test]
async fn lengths_agree_or_nothing_is_made_of_them() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { size_bytes_max: 20, ..UploadConfig::default() }).await;
    for pairs in [&[LAST, ("upload-length", "6")][..], &[MORE, ("upload-length", "4")]] {
        let refused = replica.start(pairs, b"hello").await;
        assert_eq!(refused.problem(), (400, LENGTH_TYPE_URI, Some("?0")), "{pairs:?} {refused:?}");
        assert_eq!(refused.has("location"), None);
    }
    for pairs in [&[MORE, ("upload-length", "21")][..], &[LAST, ("upload-length", "21")]] {
        let refused = replica.start(pairs, &[0; 21]).await;
        assert_eq!(refused.status, 413, "{refused:?}");
        assert!(refused.has("upload-limit").unwrap().starts_with("max-size=20, min-size=0, "), "{refused:?}");
    }
    // What makes no sense is as if it were not there.
    let unknown = replica.begin(&[("upload-length", "-1")], b"hello").await;
    assert_eq!(unknown.question().await.has("upload-length"), None);
    // The length may be named later, once.
    let told = [PARTIAL, MORE, ("upload-offset", "5"), ("upload-length", "11")];
    assert_eq!(unknown.ask(Method::PATCH, &told, b" ").await.status, 204);
    assert_eq!(unknown.question().await.has("upload-length"), Some("11"));
    for (length, status) in [("12", 400), ("11", 204)] {
        let pairs = [PARTIAL, MORE, ("upload-offset", "6"), ("upload-length", length)];
        assert_eq!(unknown.ask(Method::PATCH, &pairs, b"").await.status, status, "{length}");
    }
    let short = unknown.put(6, LAST, b"wor").await;
    assert_eq!(short.problem(), (400, LENGTH_TYPE_URI, Some("?0")), "{short:?}");
    assert_eq!(unknown.question().await.state(), (204, Some("?0"), Some("6")), "nothing of it was taken");
    assert_eq!(unknown.put(6, LAST, b"world").await.status, 201);
    assert_eq!(site.object(&unknown.media_id), b"hello world");
}

#[tokio::test]
async fn more_than_was_said_ends_the_upload() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig { size_bytes_max: 20, ..UploadConfig::default() }).await;
        // Seen by the length of the content, and without it.
        for is_chunked in [false, true] {
            let upload = replica.begin(&[("upload-length", "6")], b"hello").await;
            let request = replica.client.patch(format!("{}{}", replica.url, upload.path()));
            let request = with(request, &[PARTIAL, MORE, ("upload-offset", "5")]);
            let body = if is_chunked {
                let pieces = ["a", "b"].map(Ok::<_, std::io::Error>);
                reqwest::Body::wrap_stream(futures::stream::iter(pieces))
            } else {
                "ab".into()
            };
            let refused = answer(request.body(body)).await;
            assert_eq!(refused.problem(), (400, LENGTH_TYPE_URI, Some("?0")), "{refused:?}");
            assert_eq!(upload.question().await.status, 410);
            let record = site.until(&upload, "it is freed", |record| record.freed).await;
            assert_eq!(record.code.as_deref(), Some("upload_length_exceeded"));
            assert!(site.event::<UploadTerminated>(&upload).await.is_some());
        }
        // Where no length was said, the limit of all uploads is: it can't be passed, and nothing is lost.
        let upload = replica.begin(&[], b"hello").await;
        let refused = upload.put(5, MORE, &[0; 16]).await;
        assert_eq!((refused.status, refused.has("upload-complete")), (413, Some("?0")), "{refused:?}");
        assert!(refused.has("upload-limit").is_some());
        assert_eq!(upload.question().await.state(), (204, Some("?0"), Some("5")));
    }
}

#[tokio::test]
async fn a_complete_upload_changes_no_more() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"hello").await;
    assert_eq!(upload.put(5, LAST, b" world").await.status, 201);
    // A client that missed the answer.
    let again = upload.put(5, LAST, b" world").await;
    assert_eq!(
        (again.state(), &again.body["media_id"]),
        ((201, Some("?1"), Some("11")), &upload.media_id.clone().into())
    );
    for (offset, state, bytes, wanted) in [
        (11, LAST, &b"!"[..], LENGTH_TYPE_URI),
        (11, MORE, b"!", LENGTH_TYPE_URI),
        (0, LAST, b"hello", LENGTH_TYPE_URI),
        (11, MORE, b"", COMPLETE_TYPE_URI),
        (5, LAST, b"", COMPLETE_TYPE_URI),
    ] {
        let refused = upload.put(offset, state, bytes).await;
        assert_eq!(refused.problem(), (400, wanted, Some("?0")), "{refused:?}");
    }
    assert_eq!(upload.question().await.state(), (204, Some("?1"), Some("11")));
    assert_eq!(upload.ask(Method::DELETE, &[], b"").await.status, 403);
    assert_eq!(site.object(&upload.media_id), b"hello world");
}

#[tokio::test]
async fn requests_are_read_before_bytes_are_taken() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"hello").await;
    let place = ("upload-offset", "5");
    for (pairs, status) in [
        (&[PARTIAL, LAST][..], 400),
        (&[PARTIAL, LAST, ("upload-offset", "abc")], 400),
        (&[PARTIAL, place], 400),
        (&[PARTIAL, place, ("upload-complete", "yes")], 400),
        (&[place, LAST], 415),
        (&[place, LAST, ("content-type", "video/mp4")], 415),
        (&[place, LAST, PARTIAL, ("content-range", "bytes 5-9/10")], 400),
        (&[place, LAST, PARTIAL, ("content-encoding", "gzip")], 415),
        (&[place, LAST, PARTIAL, ("upload-speed", "9")], 400),
        (&[place, LAST, PARTIAL, ("upload-checksum", "sha1 AAAA")], 400),
        (&[place, LAST, PARTIAL, ("trailer", "Content-Digest")], 400),
        (&[place, LAST, PARTIAL, ("tus-resumable", "1.0.0")], 415),
        (&[place, ("tus-resumable", "1.0.0"), ("content-type", OFFSET_TYPE)], 412),
    ] {
        let refused = upload.ask(Method::PATCH, pairs, b"x").await;
        assert_eq!(refused.status, status, "{pairs:?} {refused:?}");
    }
    for pairs in [&[place][..], &[LAST], &[("upload-incomplete", "?0")]] {
        assert_eq!(upload.ask(Method::HEAD, pairs, b"").await.status, 400, "{pairs:?}");
    }
    assert_eq!(upload.question().await.state(), (204, Some("?0"), Some("5")));
    for (pairs, status) in [
        (&[LAST, ("content-type", "multipart/form-data; boundary=x")][..], 415),
        (&[LAST, ("content-encoding", "br")], 415),
        (&[LAST, ("content-encoding", "identity, identity")], 201),
        (&[LAST, ("upload-concat", "partial")], 400),
        (&[("upload-complete", "true")], 412),
        (&[], 412),
    ] {
        let found = replica.start(pairs, b"x").await;
        assert_eq!(found.status, status, "{pairs:?} {found:?}");
    }
    // An upload of tus is none of these.
    let other = replica.create(5).await;
    assert_eq!(other.put(0, LAST, b"hello").await.status, 412);
    assert_eq!(other.question().await.status, 412);
    assert_eq!(other.ask(Method::GET, &[], b"").await.status, 412);
    assert_eq!(other.offset().await, 0);
    let stranger = upload.ask(Method::HEAD, &[("x-owner", "eve")], b"").await;
    assert_eq!(stranger.status, 404);
}

#[tokio::test]
async fn a_whole_file_is_no_upload_of_another_protocol() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for said in [
        ("upload-offset", "5"),
        ("upload-length", "100"),
        ("upload-checksum", "sha1 AAAA"),
        ("upload-concat", "partial"),
        ("upload-defer-length", "1"),
        ("tus-resumable", "1.0.0"),
    ] {
        let refused =
            replica.ask(Method::POST, "/v1/media", &[said, ("content-type", "video/mp4")], b"hello").await;
        assert_eq!(refused.status, 400, "{said:?} {refused:?}");
    }
    // Clients of tus send more than its fields.
    let created = replica.post(&[("upload-length", "5"), ("upload-creator", "ann")]).send().await.unwrap();
    assert_eq!(created.status(), 201);
}

#[tokio::test]
async fn a_question_by_get_disturbs_nobody() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"").await;
    let head = "Upload-Complete: ?1\r\nUpload-Offset: 0\r\nContent-Type: application/partial-upload\r\nContent-Length: 5\r\n";
    let mut stream = send_by_hand(&replica, "PATCH", &upload.path(), head, b"he").await;
    site.until(&upload, "a session has it", |record| record.holder.is_some()).await;
    let found = upload.ask(Method::GET, &[], b"").await;
    assert_eq!((found.status, found.has("upload-complete")), (204, Some("?0")), "{found:?}");
    stream.write_all(b"llo").await.unwrap();
    let found = heads(stream).await;
    assert!(found[0].starts_with("http/1.1 201"), "{found:?}");
    assert_eq!(site.object(&upload.media_id), b"hello");
}

#[tokio::test]
async fn the_last_byte_completes_an_upload_even_if_its_request_is_displaced_then() {
    let mut site = Site::remote().await;
    let replica = site.replica(UploadConfig::default()).await;
    for _ in 0..20 {
        let upload = replica.begin(&[], b"").await;
        let head = "Upload-Complete: ?1\r\nUpload-Offset: 0\r\nContent-Type: application/partial-upload\r\nContent-Length: 5\r\n";
        let stream = send_by_hand(&replica, "PATCH", &upload.path(), head, b"hello").await;
        // Whatever of the two is first: what is complete says so, and what does not can be gone on with.
        let found = upload.question().await;
        if found.has("upload-offset") == Some("5") {
            assert_eq!(found.has("upload-complete"), Some("?1"), "{found:?}");
        } else {
            // The question may have been read first, in which case both requests go on: the later finds that its place
            // is taken.
            drop(stream);
            let put = upload.put(0, LAST, b"hello").await;
            assert!([201, 409].contains(&put.status), "{put:?}");
        }
        assert_eq!(upload.question().await.state(), (204, Some("?1"), Some("5")));
        assert_eq!(site.object(&upload.media_id), b"hello");
    }
}

#[tokio::test]
async fn what_a_store_that_was_away_kept_from_completing_is_completed_and_not_ended() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[("upload-length", "5")], b"hello").await;
    let mut held = site.admin.load_record::<UploadRecord>(&upload.id).await.unwrap().unwrap();
    held.record.protocol = schemas::upload::UploadProtocol::Resumable { is_complete: true };
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let refused = upload.put(5, MORE, b"!").await;
    assert_eq!(refused.problem(), (400, LENGTH_TYPE_URI, Some("?0")), "{refused:?}");
    assert_eq!(upload.question().await.state(), (204, Some("?1"), Some("5")));
    assert_eq!(site.object(&upload.media_id), b"hello");
}

#[tokio::test]
async fn an_upload_whose_address_nobody_has_ends_with_its_request() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for (named, is_kept) in [("", false), ("Upload-Draft-Interop-Version: 8\r\n", true)] {
        let head = format!("Upload-Complete: ?1\r\n{named}Content-Length: 9\r\n");
        let mut stream = send_by_hand(&replica, "POST", "/v1/uploads", &head, b"hello").await;
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let keys = site.admin.context().get_key_value("uploads").await.unwrap().keys().await.unwrap();
        let ids: Vec<String> =
            futures::StreamExt::collect::<Vec<_>>(keys).await.into_iter().map(Result::unwrap).collect();
        let last = ids.iter().max().unwrap();
        let record = site.admin.load_record::<UploadRecord>(last).await.unwrap().unwrap().record;
        assert_eq!(record.status == UploadStatus::Open, is_kept, "{record:?}");
        assert_eq!(record.code.as_deref(), (!is_kept).then_some("upload_address_unknown"));
    }
}

#[tokio::test]
async fn an_upload_ends_when_its_client_says_so() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.begin(&[], b"hello").await;
    assert_eq!(upload.ask(Method::DELETE, &[], b"").await.status, 204);
    assert_eq!(upload.question().await.status, 410);
    assert_eq!(upload.put(5, LAST, b"x").await.status, 410);
    site.until(&upload, "it is freed", |record| record.freed).await;
    assert!(!site.spool(&upload).exists());
}

#[tokio::test]
async fn digests_hold_or_nothing_is_taken() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use sha2::Digest as _;
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let field = |bytes: &[u8]| format!("sha-256=:{}:", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let upload = replica.begin(&[("repr-digest", &field(b"hello world"))], b"").await;
    for (bytes, digest, status) in
        [(&b"hellO"[..], field(b"hello"), 400), (b"hello", field(b"hello"), 204), (b"", field(b""), 204)]
    {
        let offset = upload.question().await.has("upload-offset").unwrap().to_owned();
        let pairs = [PARTIAL, MORE, ("upload-offset", &*offset), ("content-digest", &digest)];
        let found = upload.ask(Method::PATCH, &pairs, bytes).await;
        assert_eq!(found.status, status, "{found:?}");
        assert_eq!(found.has("upload-complete"), Some("?0"));
    }
    assert_eq!(upload.put(5, LAST, b" world").await.status, 201);
    // The upload stage verifies the whole against it.
    let digest = site.event::<UploadReceived>(&upload).await.unwrap().digest.unwrap();
    assert_eq!(digest.value.as_ref(), sha2::Sha256::digest(b"hello world").as_slice());
}

#[tokio::test]
async fn each_version_is_answered_in_its_words() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for number in 3..=8_u8 {
        let version = ("upload-draft-interop-version", &*number.to_string());
        let (name, more, last) = match number {
            3 => ("upload-incomplete", "?1", "?0"),
            _ => ("upload-complete", "?0", "?1"),
        };
        let created = replica.start(&[version, (name, more)], b"he").await;
        assert_eq!(
            (created.status, created.has(name), created.has(version.0)),
            (201, Some(more), Some(version.1))
        );
        let limits = created.has("upload-limit").unwrap();
        let age = if number == 6 { ", expires=" } else { ", max-age=" };
        assert!(limits.contains(age), "{number}: {limits}");
        let upload = Upload::of(&replica, &created);
        let typed: Pairs<'_> = if number > 5 { &[PARTIAL] } else { &[] };
        let pairs = [typed, &[version, (name, more), ("upload-offset", "2")]].concat();
        let appended = upload.ask(Method::PATCH, &pairs, b"ll").await;
        let status = if number > 6 { 204 } else { 201 };
        assert_eq!((appended.status, appended.has("upload-offset")), (status, Some("4")), "{number}");
        let found = upload.ask(Method::HEAD, &[version], b"").await;
        assert_eq!((found.status, found.has(name)), (204, Some(more)), "{number}");
        // Up to 6, who does not say that more follows has sent the last bytes.
        let state: Pairs<'_> = if number > 6 { &[(name, last)] } else { &[] };
        let pairs = [typed, state, &[version, ("upload-offset", "4")]].concat();
        let done = upload.ask(Method::PATCH, &pairs, b"o").await;
        assert_eq!(
            (done.status, done.has(name), done.has("upload-offset")),
            (201, Some(last), Some("5")),
            "{number}"
        );
        assert_eq!(site.object(&upload.media_id), b"hello");
    }
}

/// What comes over a connection until all of its request is answered: the heads in order.
async fn heads(stream: TcpStream) -> Vec<String> {
    let mut heads = Vec::new();
    let mut lines = tokio::io::AsyncBufReadExt::lines(BufReader::new(stream));
    let read = async {
        let mut head = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if !line.is_empty() {
                head = head + &line.to_ascii_lowercase() + "\n";
                continue;
            }
            let is_interim = head.starts_with("http/1.1 1");
            heads.push(std::mem::take(&mut head));
            if !is_interim {
                return;
            }
        }
    };
    timeout(SOON, read).await.unwrap();
    heads
}

async fn send_by_hand(replica: &Replica, method: &str, path: &str, head: &str, bytes: &[u8]) -> TcpStream {
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{head}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn a_creation_that_is_cut_goes_on_from_its_interim_response() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(2 * MIB);
        let head = format!(
            "Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: 8\r\nContent-Length: {}\r\nExpect: 100-continue\r\n",
            bytes.len()
        );
        // Not a byte has to come for it.
        let mut stream = send_by_hand(&replica, "POST", "/v1/uploads", &head, b"").await;
        let mut interim = String::new();
        let read = async {
            let mut buffer = [0; 1024];
            while !interim.contains("104 Upload Resumption Supported") || !interim.contains("100 Continue") {
                let count = stream.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "{interim}");
                interim.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        timeout(SOON, read).await.unwrap();
        let value = |name: &str| {
            let line = interim.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(value("upload-draft-interop-version"), "8");
        assert!(value("upload-limit").contains("max-size="), "{interim}");
        stream.write_all(&bytes[..MIB + 7]).await.unwrap();
        drop(stream);
        let id = value("location").rsplit('/').next().unwrap().to_owned();
        let upload = Upload { replica: replica.clone(), id, media_id: String::new() };
        let record =
            site.until(&upload, "the prefix is kept", |record| record.offset_bytes == (MIB + 7) as u64).await;
        let found = upload.question().await;
        assert_eq!(found.state(), (204, Some("?0"), Some(&*(MIB + 7).to_string())), "{found:?}");
        assert_eq!(found.has("upload-length"), Some(&*bytes.len().to_string()));
        assert_eq!(upload.put(MIB + 7, LAST, &bytes[MIB + 7..]).await.status, 201);
        assert!(site.object(&record.media_id.to_string()) == bytes);
    }
}

#[tokio::test]
async fn interim_responses_say_where_and_how_far_and_nothing_comes_between_them() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(40 * MIB);
    for (version, has_location, has_progress) in [
        (Some("8"), true, true),
        (Some("5"), true, true),
        (Some("3"), true, false),
        (Some("9"), false, false),
        (None, false, false),
    ] {
        let named =
            version.map_or(String::new(), |number| format!("Upload-Draft-Interop-Version: {number}\r\n"));
        let head = format!("Upload-Complete: ?0\r\n{named}Content-Length: {}\r\n", bytes.len());
        let stream = send_by_hand(&replica, "POST", "/v1/uploads", &head, &bytes).await;
        let found = heads(stream).await;
        let (answer, interim) = found.split_last().unwrap();
        assert!(answer.starts_with("http/1.1 201"), "{answer}");
        let line =
            |head: &str, name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let location = line(answer, "location: ").unwrap();
        let first = interim.first().and_then(|head| line(head, "location: "));
        assert_eq!(first, has_location.then_some(location), "{version:?} {found:?}");
        let offsets: Vec<usize> = interim
            .iter()
            .filter_map(|head| line(head, "upload-offset: "))
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!(!offsets.is_empty(), has_progress, "{version:?} {found:?}");
        assert!(offsets.is_sorted() && offsets.iter().all(|offset| *offset <= bytes.len()), "{offsets:?}");
    }
    // An append says how far it is, and never where.
    let upload = replica.begin(&[], b"").await;
    let head = format!(
        "Upload-Complete: ?1\r\nUpload-Offset: 0\r\nUpload-Draft-Interop-Version: 8\r\n\
         Content-Type: application/partial-upload\r\nContent-Length: {}\r\n",
        bytes.len()
    );
    let found = heads(send_by_hand(&replica, "PATCH", &upload.path(), &head, &bytes).await).await;
    let (answer, interim) = found.split_last().unwrap();
    assert!(answer.starts_with("http/1.1 201") && answer.contains("upload-complete: ?1"), "{answer}");
    assert!(!interim.is_empty() && interim.iter().all(|head| !head.contains("location:")), "{interim:?}");
    assert!(site.object(&upload.media_id) == bytes);
}

#[tokio::test]
async fn interim_responses_can_be_switched_off() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { interim_responses: false, ..UploadConfig::default() }).await;
    let head = "Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: 8\r\nContent-Length: 5\r\n";
    let found = heads(send_by_hand(&replica, "POST", "/v1/uploads", head, b"hello").await).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("http/1.1 201"), "{found:?}");
}

#[tokio::test]
async fn other_targets_of_files_are_resumable_too() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for (method, path, name) in
        [(Method::POST, "/v1/media", None), (Method::PUT, "/v1/files/clip.mp4", Some("clip.mp4"))]
    {
        let created = replica.ask(method, path, &[MORE, ("content-type", "video/mp4")], b"he").await;
        assert_eq!(created.state(), (201, Some("?0"), Some("2")), "{created:?}");
        let upload = Upload::of(&replica, &created);
        assert_eq!(upload.put(2, LAST, b"llo").await.status, 201);
        assert_eq!(site.object(&upload.media_id), b"hello");
        assert_eq!(site.record(&upload).await.filename.as_deref(), name);
    }
}

#[tokio::test]
async fn options_say_what_is_taken() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { size_bytes_max: 20, ..UploadConfig::default() }).await;
    let found = replica.ask(Method::OPTIONS, "/v1/uploads", &[], b"").await;
    assert_eq!(found.status, 204);
    assert!(found.has("accept-patch").unwrap().contains("application/partial-upload"), "{found:?}");
    assert_eq!(found.has("upload-limit"), Some("max-size=20, min-size=0, max-age=86400"));
}
