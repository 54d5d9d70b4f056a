//! What a request with JSON says of the medium that it begins, over real connections.

use nats::Role;
use schemas::{
    document::MediaDocumentRecord,
    subjects,
    upload::{UploadRecord, UploadStatus},
};
use serde_json::{Value, json};

use crate::{
    tests::{Answer, Site},
    uploads::expiry::run_expiry_pass,
};

/// Bytes that come later, and bytes that a job fetches.
const SOURCES: [Option<&str>; 2] = [None, Some("https://films.example/a.mp4")];
const MINTED: &str = "0x88DF016429689C079F3B2F6AD39FA052532C56795B733DA78A91EBE6A713944B";

fn head(site: &Site) -> String {
    format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", site.key)
}

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

async fn begin(site: &Site, body: &Value) -> Answer {
    site.ask("POST", "/v1/media", &head(site), &body.to_string()).await
}

async fn document(site: &Site, media_id: &str) -> Value {
    read(&site.ask("GET", &format!("/v1/media/{media_id}"), &head(site), "").await)
}

async fn patch(site: &Site, media_id: &str, body: &Value) -> Value {
    let headers = format!("{}If-Match: *\r\n", head(site));
    read(&site.ask("PATCH", &format!("/v1/media/{media_id}"), &headers, &body.to_string()).await)
}

fn id(answer: &Answer, name: &str) -> String {
    read(answer)[name].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// `said` with where the bytes are.
fn with_source(mut said: Value, source_url: Option<&str>) -> Value {
    if let Some(source_url) = source_url {
        said["source_url"] = json!(source_url);
    }
    said
}

/// Everything that can be said.
fn said() -> Value {
    json!({
        "title": " A day at the sea ", "description": "a day\r\nat the sea", "tags": ["Sea", "sea", " summer "],
        "language": "pt_br", "contact_email": "ann@Example.org", "mint_tx": MINTED, "visibility": "unlisted",
        "links": [{ "url": "https://example.org/sea", "label": " More " }, { "url": "http://example.org" }],
        "attributes": { "shelf": 7, "crew": { "camera": "Bo", "sound": null } },
    })
}

/// The same as it is kept.
fn kept() -> Value {
    json!({
        "title": "A day at the sea", "description": "a day\nat the sea", "tags": ["Sea", "summer"],
        "language": "pt-BR", "contact_email": "ann@example.org", "mint_tx": MINTED.to_lowercase(),
        "visibility": "unlisted", "attributes": { "shelf": 7, "crew": { "camera": "Bo" } },
        "links": [{ "url": "https://example.org/sea", "label": "More" }, { "url": "http://example.org/" }],
    })
}

#[track_caller]
fn assert_kept(document: &Value) {
    for (member, value) in kept().as_object().unwrap() {
        assert_eq!(&document[member], value, "{member}: {document}");
    }
}

#[tokio::test]
async fn all_that_is_said_of_a_medium_stands_in_its_document_at_once() {
    let site = Site::start(|_| {}).await;
    for (source_url, status) in SOURCES.into_iter().zip([201, 202]) {
        let begun = begin(&site, &with_source(said(), source_url)).await;
        assert_eq!(begun.status, status, "{begun:?}");
        assert_kept(&document(&site, begun.header("streamgate-media-id").unwrap()).await);
        // A change says the same by the same members.
        let plain = begin(&site, &with_source(json!({}), source_url)).await;
        assert_eq!(plain.status, status, "{plain:?}");
        assert_kept(&patch(&site, &id(&plain, "media_id"), &said()).await);
    }
    // Null and nothing are the same.
    let members = ["title", "description", "tags", "language", "links", "contact_email", "attributes"];
    let nothing: Value = members.into_iter().map(|member| (member, Value::Null)).collect();
    let begun = begin(&site, &nothing).await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let document = document(&site, &id(&begun, "media_id")).await;
    assert_eq!(document["title"], "");
    for member in &members[1..] {
        assert_eq!(document[member], Value::Null, "{member}: {document}");
    }
}

/// How many media there are, removed ones with them.
async fn media_count(site: &Site) -> usize {
    let admin = site.broker.bus(Role::Admin).await;
    let bucket = admin.context().get_key_value("media").await.unwrap();
    futures::StreamExt::count(bucket.keys().await.unwrap()).await
}

#[tokio::test]
async fn what_can_not_be_said_of_a_medium_is_pointed_at_as_by_a_change_and_nothing_is_made() {
    let site = Site::start(|config| config.limit.rates.upload = config.limit.rates.api).await;
    let plain = id(&begin(&site, &json!({})).await, "media_id");
    let long = |length: usize| "x".repeat(length);
    let made = (site.uploads().await, media_count(&site).await);
    for (wrong, code, pointer) in [
        (json!({ "title": " " }), "title_invalid", "/title"),
        (json!({ "title": long(256) }), "title_invalid", "/title"),
        (json!({ "description": long(1_001) }), "description_invalid", "/description"),
        (json!({ "tags": ["a", " "] }), "media_details_invalid", "/tags/1"),
        (json!({ "tags": vec!["a"; 21] }), "media_details_invalid", "/tags"),
        (json!({ "tags": "a" }), "json_invalid", "/tags"),
        (json!({ "language": "klingonish" }), "media_details_invalid", "/language"),
        (json!({ "links": [{ "url": "javascript:alert(1)" }] }), "media_details_invalid", "/links/0/url"),
        (
            json!({ "links": [{ "url": "https://a", "label": long(101) }] }),
            "media_details_invalid",
            "/links/0/label",
        ),
        (json!({ "links": [{ "url": "https://a", "rel": "b" }] }), "json_invalid", "/links/0/rel"),
        (json!({ "contact_email": "ann" }), "json_invalid", "/contact_email"),
        (json!({ "attributes": { "a": long(5_000) } }), "media_details_invalid", "/attributes"),
        (json!({ "attributes": { "a": [[[[]]]] } }), "media_details_invalid", "/attributes"),
        (json!({ "attributes": [] }), "json_invalid", "/attributes"),
        (json!({ "mint_tx": "0x1234" }), "json_invalid", "/mint_tx"),
        (json!({ "visibility": "hidden" }), "json_invalid", "/visibility"),
    ] {
        let changed = patch(&site, &plain, &wrong).await;
        assert_eq!(changed["code"], code, "{wrong}: {changed}");
        for source_url in SOURCES {
            let refused = begin(&site, &with_source(wrong.clone(), source_url)).await;
            let problem = read(&refused);
            assert_eq!((refused.status, &problem["code"]), (400, &json!(code)), "{wrong}: {problem}");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
            assert_eq!(problem["errors"][0]["pointer"], changed["errors"][0]["pointer"], "{changed}");
        }
    }
    // There is no rule yet.
    let gated = begin(&site, &json!({ "visibility": "gated" })).await;
    assert_eq!((gated.status, &read(&gated)["errors"][0]["pointer"]), (400, &json!("/visibility")));
    assert_eq!((site.uploads().await, media_count(&site).await), made);
}

#[tokio::test]
async fn what_is_said_survives_a_replica_that_died_before_the_document_was_there() {
    for source_url in SOURCES {
        let site = Site::start(|_| {}).await;
        let body = with_source(said(), source_url).to_string();
        let headers = format!("{}Idempotency-Key: \"one\"\r\n", head(&site));
        let first = site.ask("POST", "/v1/media", &headers, &body).await;
        let media_id = id(&first, "media_id");
        let admin = site.broker.bus(Role::Admin).await;
        let stream = admin.context().get_stream("KV_media").await.unwrap();
        stream.purge().filter(subjects::kv_subject("media", &media_id)).await.unwrap();
        site.unanswer().await;
        for replayed in [None, Some("true")] {
            let again = site.ask("POST", "/v1/media", &headers, &body).await;
            assert_eq!(again.header("idempotency-replayed"), replayed, "{again:?}");
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            assert_kept(&document(&site, &media_id).await);
        }
        assert_eq!(site.uploads().await, [UploadStatus::Open]);
    }
}

#[tokio::test]
async fn what_was_said_goes_with_an_upload_that_expires_and_stays_with_one_that_is_complete() {
    let site = Site::start(|_| {}).await;
    let (sent, expired) = (begin(&site, &said()).await, begin(&site, &said()).await);
    let tus = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nUpload-Length: 5\r\n";
    let bytes = "Content-Type: application/offset+octet-stream\r\n";
    let headers = format!("Authorization: Bearer {}\r\n{tus}{bytes}", site.key);
    let path = format!("/v1/uploads/{}", id(&sent, "upload_id"));
    let appended = site.ask("PATCH", &path, &headers, "hello").await;
    assert_eq!(appended.status, 204, "{appended:?}");
    let keeper = site.broker.bus(Role::Keeper).await;
    let later = nats::now_ms() + 25 * 3600 * 1000;
    run_expiry_pass(&keeper, &site.store, later, 60_000, 60_000).await.unwrap();

    assert_kept(&document(&site, &id(&sent, "media_id")).await);
    let admin = site.broker.bus(Role::Admin).await;
    let left = admin.load_with_tombstone::<MediaDocumentRecord>(&id(&expired, "media_id")).await.unwrap();
    let left = left.unwrap().record;
    assert!(left.removed_at_ms.is_some() && left.details.is_empty(), "{left:?}");
    for (begun, status) in [(&sent, UploadStatus::Received), (&expired, UploadStatus::Expired)] {
        let upload = admin.load_record::<UploadRecord>(&id(begun, "upload_id")).await.unwrap().unwrap();
        assert_eq!(upload.record.status, status);
        assert!(upload.record.details.is_empty(), "{:?}", upload.record);
    }
}
