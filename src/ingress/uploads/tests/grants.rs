//! Rights to bring one file, over real connections.

use schemas::access::ApiKeyScope;
use serde_json::{Value, json};

use crate::tests::{Answer, Site};

const JSON: &str = "Content-Type: application/json\r\n";

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, read(answer)["code"].as_str().unwrap_or_default().to_owned())
}

fn bearer(text: &str) -> String {
    format!("Authorization: Bearer {text}\r\n")
}

/// A key of somebody, and its id.
async fn key(site: &Site, owner: &str, scopes: Option<&[ApiKeyScope]>) -> (String, String) {
    let body = json!({ "owner": owner, "scopes": scopes }).to_string();
    let made = read(&site.ask("POST", "/v1/auth/keys", &format!("{}{JSON}", bearer(&site.key)), &body).await);
    let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    (text("key"), text("key_id"))
}

async fn grant(site: &Site, key: &str, body: &Value) -> Value {
    let made =
        site.ask("POST", "/v1/uploads/grants", &format!("{}{JSON}", bearer(key)), &body.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    read(&made)
}

fn text(grant: &Value) -> String {
    grant["grant"].as_str().unwrap().to_owned()
}

async fn open(site: &Site, grant: &str, headers: &str) -> Answer {
    let headers = format!("{}Tus-Resumable: 1.0.0\r\n{headers}", bearer(grant));
    site.ask("POST", "/v1/uploads", &headers, "").await
}

fn path_of(answer: &Answer) -> String {
    let location = answer.header("location").unwrap_or_else(|| panic!("{answer:?}"));
    format!("/v1/uploads/{}", location.rsplit('/').next().unwrap())
}

async fn append(site: &Site, grant: &str, path: &str, bytes: &str) -> Answer {
    let headers = format!(
        "{}Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n",
        bearer(grant)
    );
    site.ask("PATCH", path, &headers, bytes).await
}

const LENGTH: &str = "Upload-Length: 5\r\n";

#[tokio::test]
async fn of_many_that_begin_with_one_grant_one_uploads() {
    let site = Site::start(|_| {}).await;
    let (olga, _) = key(&site, "olga", None).await;
    let given = grant(&site, &olga, &json!({ "size_bytes_max": 5, "title": "From a visitor" })).await;
    assert_eq!(given["upload_url"], "http://localhost/v1/uploads");
    let text = text(&given);
    let all = futures::future::join_all((0..4).map(|_| open(&site, &text, LENGTH))).await;
    let (made, refused): (Vec<_>, Vec<_>) = all.iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 3), "{all:?}");
    for answer in refused {
        assert_eq!(code(answer), (403, "upload_grant_refused".into()));
    }
    let path = path_of(made[0]);
    assert_eq!(append(&site, &text, &path, "hello").await.status, 204);
    let status = site.ask("GET", &format!("{path}/status"), &bearer(&text), "").await;
    assert_eq!((status.status, &read(&status)["status"]), (200, &json!("received")), "{status:?}");
    let media_id = read(&status)["media_id"].as_str().unwrap().to_owned();
    let document = read(&site.ask("GET", &format!("/v1/media/{media_id}"), &bearer(&olga), "").await);
    assert_eq!((&document["owner"], &document["title"]), (&json!("olga"), &json!("From a visitor")));
    let used = site.ask("PUT", "/v1/files/b.mp4", &bearer(&text), "hello").await;
    assert_eq!(code(&used), (403, "upload_grant_refused".into()), "also by another way");
    let listed = read(&site.ask("GET", "/v1/uploads/grants", &bearer(&olga), "").await);
    assert_eq!(listed["items"][0]["upload_id"], path.rsplit('/').next().unwrap(), "{listed}");
}

#[tokio::test]
async fn a_grant_is_for_a_file_of_its_size_and_type_and_for_nothing_else() {
    let site = Site::start(|_| {}).await;
    let (olga, _) = key(&site, "olga", None).await;
    let own = open(&site, &olga, LENGTH).await;
    assert_eq!(own.status, 201);
    let bounds = json!({ "size_bytes_max": 5, "types": ["video/*"] });
    let text = text(&grant(&site, &olga, &bounds).await);
    let video = "Upload-Metadata: filetype dmlkZW8vbXA0\r\n";
    for (headers, status, wanted) in [
        (format!("Upload-Length: 6\r\n{video}"), 413, "upload_too_large"),
        (format!("Upload-Defer-Length: 1\r\n{video}"), 400, "header_invalid"),
        (LENGTH.to_owned(), 415, "media_type"),
        (format!("{LENGTH}Upload-Metadata: filetype YXVkaW8vZmxhYw==\r\n"), 415, "media_type"),
        (format!("{LENGTH}{video}Upload-Concat: partial\r\n"), 400, "header_invalid"),
        (
            format!("{LENGTH}Upload-Metadata: filetype dmlkZW8vbXA0,visibility cHVibGlj\r\n"),
            403,
            "scope_missing",
        ),
    ] {
        assert_eq!(code(&open(&site, &text, &headers).await), (status, wanted.to_owned()), "{headers}");
    }
    let own = path_of(&own);
    let tus = format!("{}Tus-Resumable: 1.0.0\r\n", bearer(&text));
    for (method, path, body, status) in [
        ("DELETE", own.as_str(), "", 404),
        ("GET", &format!("{own}/status"), "", 404),
        ("GET", "/v1/auth/me", "", 403),
        ("POST", "/v1/auth/me/links", "", 403),
        ("GET", "/v1/media", "", 403),
        ("GET", "/v1/uploads/grants", "", 403),
        ("POST", "/v1/uploads/grants", "{\"size_bytes_max\":5}", 403),
        ("POST", "/v1/forms/tokens", "{}", 401),
        ("POST", "/v1/media", "{\"source_url\":\"https://films.example/a.mp4\"}", 403),
    ] {
        let refused = site.ask(method, path, &format!("{tus}{JSON}"), body).await;
        assert_eq!(refused.status, status, "{method} {path}: {refused:?}");
    }
    assert_eq!(append(&site, &text, &own, "hello").await.status, 404);
    // Refusals use nothing up.
    let whole = format!("{}Content-Type: video/mp4\r\n", bearer(&text));
    let brought = site.ask("PUT", "/v1/files/a.mp4", &whole, "hello").await;
    assert_eq!(brought.status, 201, "{brought:?}");
}

#[tokio::test]
async fn a_grant_ends_with_its_giver_and_when_it_is_taken_back() {
    let site = Site::start(|_| {}).await;
    let (olga, olga_id) = key(&site, "olga", Some(&[ApiKeyScope::Upload])).await;
    let bounds = json!({ "size_bytes_max": 5 });
    let (kept, gone) = (grant(&site, &olga, &bounds).await, grant(&site, &olga, &bounds).await);
    let begun = open(&site, &text(&gone), LENGTH).await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let path = format!("/v1/uploads/grants/{}", gone["grant_id"].as_str().unwrap());
    let (ann, _) = key(&site, "ann", None).await;
    assert_eq!(site.ask("DELETE", &path, &bearer(&ann), "").await.status, 404, "it is olga's");
    assert_eq!(site.ask("DELETE", &path, &bearer(&olga), "").await.status, 204);
    assert_eq!(site.ask("DELETE", &path, &bearer(&olga), "").await.status, 204);
    assert_eq!(append(&site, &text(&gone), &path_of(&begun), "hello").await.status, 401, "nor does it go on");
    let listed = read(&site.ask("GET", "/v1/uploads/grants", &bearer(&olga), "").await);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let revoked = site.ask("DELETE", &format!("/v1/auth/keys/{olga_id}"), &bearer(&site.key), "").await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    let dead = open(&site, &text(&kept), LENGTH).await;
    assert_eq!(code(&dead), (401, "unauthorized".into()));
    let (reader, _) = key(&site, "olga", Some(&[ApiKeyScope::Metadata])).await;
    let refused = site.ask("POST", "/v1/uploads/grants", &format!("{}{JSON}", bearer(&reader)), "{}").await;
    assert_eq!(code(&refused), (403, "scope_missing".into()));
    for wrong in ["sgu_", "sgu_x_y", &format!("{}0", text(&kept)), &text(&kept).to_uppercase()] {
        assert_eq!(open(&site, wrong, LENGTH).await.status, 401, "{wrong}");
    }
}

#[tokio::test]
async fn a_grant_whose_upload_ends_unfinished_is_for_another_one() {
    let site = Site::start(|_| {}).await;
    let (olga, _) = key(&site, "olga", None).await;
    let given = text(&grant(&site, &olga, &json!({ "size_bytes_max": 5 })).await);
    // Bytes that are not those of the checksum: nobody learns the address of the upload.
    let headers = format!(
        "{}Tus-Resumable: 1.0.0\r\n{LENGTH}Content-Type: application/offset+octet-stream\r\nUpload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
        bearer(&given)
    );
    let wrong = site.ask("POST", "/v1/uploads", &headers, "hello").await;
    assert_eq!(wrong.status, 460, "{wrong:?}");
    let begun = open(&site, &given, LENGTH).await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let tus = format!("{}Tus-Resumable: 1.0.0\r\n", bearer(&given));
    let ended = site.ask("DELETE", &path_of(&begun), &tus, "").await;
    assert_eq!(ended.status, 204, "{ended:?}");
    let brought = site.ask("PUT", "/v1/files/a.mp4", &bearer(&given), "hello").await;
    assert_eq!(brought.status, 201, "{brought:?}");
    assert_eq!(append(&site, &given, &path_of(&begun), "hello").await.status, 410, "it ended");
    assert_eq!(code(&open(&site, &given, LENGTH).await), (403, "upload_grant_refused".into()));
}

#[tokio::test]
async fn holders_of_two_grants_that_send_the_same_key_bring_two_files() {
    let site = Site::start(|_| {}).await;
    let (olga, _) = key(&site, "olga", None).await;
    let mut uploads = Vec::new();
    for _ in 0..2 {
        let given = text(&grant(&site, &olga, &json!({ "size_bytes_max": 5 })).await);
        let headers = format!("{LENGTH}Idempotency-Key: \"first\"\r\n");
        let begun = open(&site, &given, &headers).await;
        assert_eq!(begun.status, 201, "{begun:?}");
        let again = open(&site, &given, &headers).await;
        assert_eq!(path_of(&again), path_of(&begun), "the same request again");
        assert_eq!(append(&site, &given, &path_of(&begun), "hello").await.status, 204);
        uploads.push(path_of(&begun));
    }
    assert_ne!(uploads[0], uploads[1]);
}

#[tokio::test]
async fn what_is_taken_back_counts_until_its_record_is_gone() {
    let rate = web::limit::gcra::BucketRate { capacity: 1_000, refill_per_s: 1_000 };
    let site = Site::start(|config| config.limit.rates.upload = rate).await;
    let (olga, _) = key(&site, "olga", None).await;
    let long = json!({ "size_bytes_max": 5, "title": "\u{6587}".repeat(255), "types": [format!("video/{}", "x".repeat(118))] });
    let made = grant(&site, &olga, &long).await;
    let path = format!("/v1/uploads/grants/{}", made["grant_id"].as_str().unwrap());
    for _ in 1..schemas::upload_grant::GRANTS_MAX {
        grant(&site, &olga, &json!({ "size_bytes_max": 5 })).await;
    }
    assert_eq!(site.ask("DELETE", &path, &bearer(&olga), "").await.status, 204);
    let headers = format!("{}{JSON}", bearer(&olga));
    let refused = site.ask("POST", "/v1/uploads/grants", &headers, "{\"size_bytes_max\":5}").await;
    assert_eq!(code(&refused), (409, "upload_grants_too_many".into()));
}
