//! Uploads whose bytes a job fetches: opened over HTTP, filled with the rights of the role that runs the job.

use std::io;

use axum::body::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use schemas::{document, ids::JobId, job::JobRecord};
use serde_json::{Value, json};

use super::*;
use crate::uploads::{FetchedBytes, FetchedRefusal};

/// What was begun.
struct Begun {
    upload: Upload,
    job_id: JobId,
}

impl Begun {
    async fn ask(site: &Site, replica: &Replica, body: &Value) -> Self {
        let answer = site.client.post(format!("{}/v1/media", replica.url)).json(body).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let (location, media_id) =
            (text(answer.headers(), "location"), text(answer.headers(), "streamgate-media-id"));
        let ids: HashMap<String, String> = answer.json().await.unwrap();
        assert!(location.ends_with(&format!("/v1/jobs/{}", ids["job_id"])), "{location}");
        assert_eq!(ids["media_id"], media_id);
        let upload = Upload { replica: replica.clone(), id: ids["upload_id"].clone(), media_id };
        Self { upload, job_id: ids["job_id"].parse().unwrap() }
    }

    fn bytes(
        &self,
        offset_bytes: usize,
        validator: &str,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> FetchedBytes {
        FetchedBytes {
            job_id: self.job_id,
            offset_bytes: offset_bytes as u64,
            length_bytes: Some(pattern(5 * MIB).len() as u64),
            validator: Some(validator.to_owned()),
            bytes,
        }
    }
}

/// The uploads as the role has them that runs the job.
async fn tasks(site: &mut Site) -> (UploadState, CancellationToken) {
    let store = store::testing::open_test_store(site.store.clone()).unwrap();
    let bus = site.broker.bus(Role::Tasks).await;
    let state = UploadState::new(bus, store, UploadConfig::default(), ProfileCatalog::default(), None);
    let shutdown = CancellationToken::new();
    let (running, stop) = (state.clone(), shutdown.clone());
    site.tasks.spawn(async move { running.run(stop).await.unwrap() });
    (state, shutdown)
}

fn chunks(bytes: &[u8]) -> BoxStream<'static, io::Result<Bytes>> {
    let chunks: Vec<_> = bytes.chunks(64 * 1024).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    futures::stream::iter(chunks).boxed()
}

fn cut(bytes: &[u8]) -> BoxStream<'static, io::Result<Bytes>> {
    chunks(bytes).chain(futures::stream::iter([Err(io::Error::other("cut"))])).boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn fetched_bytes_go_the_way_of_a_client_s() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let body =
            json!({ "source_url": "https://films.example/a%20b.mp4?key=secret", "title": "At the sea" });
        let begun = Begun::ask(&site, &replica, &body).await;
        let (upload, film) = (&begun.upload, pattern(5 * MIB));
        let id = upload.id.parse().unwrap();
        let (first, _) = tasks(&mut site).await;
        let refused = first.receive_fetched(id, begun.bytes(0, "\"v1\"", cut(&film[..3 * MIB]))).await;
        assert!(matches!(refused, Err(FetchedRefusal::Cut)), "{refused:?}");
        let standing = first.read_fetched(id).await.unwrap();
        assert_eq!(standing.offset_bytes, 3 * MIB as u64, "what came is kept");
        assert_eq!(standing.validator.as_deref(), Some("\"v1\""));

        // Nobody but the job, and nothing of another version.
        assert_eq!(
            code(upload.patch(3 * MIB, b"other").send().await.unwrap()).await,
            (403, "upload_fetched".into())
        );
        let other = FetchedBytes {
            job_id: JobId::from_bytes([9; 16]),
            ..begun.bytes(3 * MIB, "\"v1\"", chunks(&[1]))
        };
        assert!(matches!(first.receive_fetched(id, other).await, Err(FetchedRefusal::Ended)));
        let newer = first.receive_fetched(id, begun.bytes(3 * MIB, "\"v2\"", chunks(&[1]))).await;
        assert!(matches!(newer, Err(FetchedRefusal::SourceChanged)), "{newer:?}");
        assert_eq!(upload.head().await.0, 200, "who asks disturbs nobody");

        // Another worker goes on, while the first one is still at it: the older one is displaced.
        let (second, _) = tasks(&mut site).await;
        let stuck = chunks(&film[3 * MIB..4 * MIB]).chain(futures::stream::pending()).boxed();
        let old = {
            let (first, bytes) = (first.clone(), begun.bytes(3 * MIB, "\"v1\"", stuck));
            tokio::spawn(async move { first.receive_fetched(id, bytes).await })
        };
        site.until(upload, "the older one", |record| record.holder.is_some()).await;
        let went_on = async {
            loop {
                // Where it is once the older one has let go.
                let offset = usize::try_from(second.read_fetched(id).await.unwrap().offset_bytes).unwrap();
                let rest = begun.bytes(offset, "\"v1\"", chunks(&film[offset..]));
                match second.receive_fetched(id, rest).await {
                    Err(FetchedRefusal::Displaced) => {}
                    taken => return taken,
                }
            }
        };
        timeout(SOON, went_on).await.unwrap().unwrap();
        assert!(matches!(old.await.unwrap(), Err(FetchedRefusal::Displaced)));
        assert_eq!(site.object(&upload.media_id), film);
        let received = site.event::<UploadReceived>(upload).await.unwrap();
        assert_eq!((received.filename.as_deref(), received.size_bytes), (Some("a b.mp4"), film.len() as u64));
        assert_eq!(second.read_fetched(id).await.unwrap().status, UploadStatus::Received);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_nobody_waits_for_any_more_are_kept() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let begun = Begun::ask(&site, &replica, &json!({ "source_url": "https://films.example/" })).await;
    let id = begun.upload.id.parse().unwrap();
    let (state, _) = tasks(&mut site).await;
    let stuck = chunks(&pattern(MIB)).chain(futures::stream::pending()).boxed();
    {
        let receiving = state.receive_fetched(id, begun.bytes(0, "\"v1\"", stuck));
        let some = site.until(&begun.upload, "a byte of it", |record| record.offset_bytes > 0);
        tokio::select! {
            outcome = receiving => panic!("it ends by itself: {outcome:?}"),
            _ = some => {}
        }
    }
    let record = site.until(&begun.upload, "it is let go", |record| record.holder.is_none()).await;
    assert_eq!(record.offset_bytes, MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_leaves_nothing_behind() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let begun = Begun::ask(&site, &replica, &json!({ "source_url": "https://films.example/a.mp4" })).await;
    let id = begun.upload.id.parse().unwrap();
    let (state, _) = tasks(&mut site).await;
    let too_large = FetchedBytes { length_bytes: Some(u64::MAX), ..begun.bytes(0, "\"v1\"", chunks(&[1])) };
    assert!(matches!(state.receive_fetched(id, too_large).await, Err(FetchedRefusal::TooLarge)));
    state.receive_fetched(id, begun.bytes(0, "\"v1\"", cut(&pattern(MIB)))).await.unwrap_err();
    assert!(site.spool(&begun.upload).exists());
    for _ in 0..2 {
        state.end_fetched(id, "fetch_refused").await.unwrap();
    }
    let record = site.record(&begun.upload).await;
    assert_eq!((record.status, record.code.as_deref()), (UploadStatus::Terminated, Some("fetch_refused")));
    assert!(record.freed && !site.spool(&begun.upload).exists());
    let terminated = site.event::<UploadTerminated>(&begun.upload).await.unwrap();
    assert_eq!(terminated.code.as_deref(), Some("fetch_refused"));
    let late = state.receive_fetched(id, begun.bytes(MIB, "\"v1\"", chunks(&[1]))).await;
    assert!(matches!(late, Err(FetchedRefusal::Ended)), "{late:?}");

    // Who deletes the upload cancels the job.
    let begun =
        Begun::ask(&site, &replica, &json!({ "source_url": "https://films.example/a.mp4?key=secret" })).await;
    let job = async || {
        site.admin.load_record::<JobRecord>(&begun.job_id.to_string()).await.unwrap().unwrap().record
    };
    let source = job().await.fetch.unwrap();
    assert_eq!(source.url.as_deref(), Some("https://films.example/a.mp4?key=secret"));
    assert!(!format!("{source:?}").contains("secret"), "{source:?}");
    assert_eq!(begun.upload.request(Method::DELETE).send().await.unwrap().status(), 204);
    let job = job().await;
    assert_eq!((job.status, job.fetch.unwrap().url), (schemas::job::JobStatus::Cancelled, None));
}

#[tokio::test]
async fn an_entry_is_there_before_its_bytes_and_takes_them_from_any_tus_client() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let address = format!("{}/v1/media", replica.url);
    let too_large = site.client.post(&address).json(&json!({ "size_bytes": u64::MAX })).send().await.unwrap();
    assert_eq!(too_large.status(), 413);
    for size_bytes in [Some(5), None] {
        let body = json!({ "title": "By the sea", "visibility": "unlisted", "size_bytes": size_bytes });
        let made = site.client.post(&address).json(&body).send().await.unwrap();
        assert_eq!(made.status(), 201, "{body}");
        let media_id = text(made.headers(), "streamgate-media-id");
        assert!(text(made.headers(), "location").ends_with(&format!("/v1/media/{media_id}")));
        let made: Value = made.json().await.unwrap();
        let held = site.admin.load_record::<document::MediaDocumentRecord>(&media_id).await.unwrap().unwrap();
        assert_eq!(
            (held.record.title.as_str(), held.record.visibility().as_str()),
            ("By the sea", "unlisted")
        );

        let upload_url = made["upload_url"].as_str().unwrap();
        let mut sending =
            site.client.patch(upload_url).header("tus-resumable", "1.0.0").header("upload-offset", "0");
        if size_bytes.is_none() {
            sending = sending.header("upload-length", "5");
        }
        let sent = sending
            .header("content-type", "application/offset+octet-stream")
            .body("hello")
            .send()
            .await
            .unwrap();
        assert_eq!((sent.status().as_u16(), text(sent.headers(), "upload-offset").as_str()), (204, "5"));
        let upload_id = made["upload_id"].as_str().unwrap();
        let upload =
            site.admin.load_record::<schemas::upload::UploadRecord>(upload_id).await.unwrap().unwrap();
        assert_eq!(upload.record.status, UploadStatus::Received);
        assert_eq!(upload.record.media_id.to_string(), media_id);
    }
}

#[tokio::test]
async fn what_can_t_be_fetched_is_refused_at_its_place() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for (body, wanted, pointer) in [
        (json!({ "source_url": "http://2130706433/" }), "source_refused", "/source_url"),
        (json!({ "source_url": "https://[64:ff9b::7f00:1]/a" }), "source_refused", "/source_url"),
        (json!({ "source_url": "file:///etc/passwd" }), "source_refused", "/source_url"),
        (json!({ "source_url": "https://films.example/", "title": " " }), "title_invalid", "/title"),
        (json!({ "source_url": "https://films.example/", "priority": "p0" }), "operators_only", "/priority"),
        (
            json!({ "source_url": "https://films.example/", "visibility": "some" }),
            "json_invalid",
            "/visibility",
        ),
        (json!({ "source_url": "https://films.example/", "profile": "none" }), "profile_unknown", "/profile"),
        (json!({ "url": "https://films.example/" }), "json_invalid", "/url"),
        (json!({ "size_bytes": 0 }), "json_invalid", "/size_bytes"),
        (json!({ "source_url": null }), "json_invalid", "/source_url"),
        (json!({ "title": " " }), "title_invalid", "/title"),
    ] {
        let answer = site.client.post(format!("{}/v1/media", replica.url)).json(&body).send().await.unwrap();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(
            (&problem["code"], &problem["errors"][0]["pointer"]),
            (&wanted.into(), &pointer.into()),
            "{body}: {problem}"
        );
    }
}
