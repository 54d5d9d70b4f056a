//! Forms with one file, over real connections.

use nats::{Outbox, Role};
use schemas::{
    access::ApiKey, document::MediaDocumentRecord, ids::MediaId, session::UploadToken, upload::UploadStatus,
};
use serde_json::Value;

use crate::tests::{Answer, Site};

const TYPE: &str = "Content-Type: multipart/form-data; boundary=xx\r\n";
const BROWSER: &str = "Accept: text/html,*/*;q=0.8\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn part(head: &str, value: &str) -> String {
    format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
}

fn field(name: &str, value: &str) -> String {
    part(&format!("name=\"{name}\""), value)
}

fn file(name: &str, bytes: &str) -> String {
    part(&format!("name=\"clip\"; filename=\"{name}\"\r\nContent-Type: video/mp4"), bytes)
}

const END: &str = "--xx--\r\n";

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

async fn token(site: &Site, key: &str, body: &str) -> String {
    let made = site.ask("POST", "/v1/forms/tokens", &format!("{}{JSON}", bearer(key)), body).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(read(&made)["form_url"], "http://localhost/v1/forms");
    read(&made)["token"].as_str().unwrap().to_owned()
}

async fn send(site: &Site, headers: &str, parts: &[String]) -> Answer {
    site.ask("POST", "/v1/forms", &format!("{TYPE}{headers}"), &(parts.concat() + END)).await
}

async fn document(site: &Site, media_id: &str) -> MediaDocumentRecord {
    let media_id: MediaId = media_id.parse().unwrap();
    let admin = site.broker.bus(Role::Admin).await;
    admin.load_record::<MediaDocumentRecord>(&media_id.to_string()).await.unwrap().unwrap().record
}

#[tokio::test]
async fn a_form_with_a_token_brings_one_file_once() {
    let site = Site::start(|_| {}).await;
    let token = token(&site, &site.key, "{}").await;
    let parts = [
        field("csrf", "something of the page"),
        field("upload_token", &token),
        field("title", "A day at the sea"),
        field("description", ""),
        field("visibility", "public"),
        file("../../Möwe.mp4", "hello"),
        field("submit", "Send"),
    ];
    let sent = send(&site, "", &parts).await;
    assert_eq!(sent.status, 201, "{sent:?}");
    let media_id = read(&sent)["media_id"].as_str().unwrap().to_owned();
    assert_eq!(sent.header("streamgate-media-id"), Some(media_id.as_str()));
    let found = document(&site, &media_id).await;
    assert_eq!(
        (found.title.as_str(), found.is_public(), found.owner.as_str()),
        ("A day at the sea", true, "admin")
    );
    let status = site
        .ask(
            "GET",
            &format!("/v1/uploads/{}/status", read(&sent)["upload_id"].as_str().unwrap()),
            &bearer(&site.key),
            "",
        )
        .await;
    assert_eq!(
        (&read(&status)["filename"], &read(&status)["length_bytes"]),
        (&"Möwe.mp4".into(), &5.into()),
        "{status:?}"
    );
    for _ in 0..2 {
        let again = send(&site, "", &parts).await;
        assert_eq!((again.status, &read(&again)["code"]), (401, &"upload_token_refused".into()), "{again:?}");
    }
    assert_eq!(site.uploads().await, [UploadStatus::Received]);
}

#[tokio::test]
async fn a_form_that_is_refused_for_want_of_room_can_be_sent_again() {
    let site = Site::start(|config| config.uploads.open_per_owner_max = 1).await;
    let token = token(&site, &site.key, "{}").await;
    let headers = format!("{}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n", bearer(&site.key));
    let open = site.ask("POST", "/v1/uploads", &headers, "").await;
    assert_eq!(open.status, 201, "{open:?}");
    let parts = [field("upload_token", &token), file("a.mp4", "hello")];
    let refused = send(&site, "", &parts).await;
    assert_eq!((refused.status, &read(&refused)["code"]), (429, &"uploads_open".into()), "{refused:?}");
    let path = open.header("location").unwrap().replace("http://localhost", "");
    let headers = format!("{}Tus-Resumable: 1.0.0\r\n", bearer(&site.key));
    assert_eq!(site.ask("DELETE", &path, &headers, "").await.status, 204);
    let sent = send(&site, "", &parts).await;
    assert_eq!(sent.status, 201, "{sent:?}");
    assert_eq!(send(&site, "", &parts).await.status, 401, "once");
}

/// Forms that are refused: their parts, where `TOKEN` is a good token, then status, code and a word of the detail.
fn wrong_forms() -> Vec<(Vec<String>, u16, &'static str, &'static str)> {
    let long = "x".repeat(9_000);
    vec![
        (vec![file("a.mp4", "hello")], 401, "upload_token_refused", ""),
        (vec![field("upload_token", "wrong"), file("a.mp4", "hello")], 401, "upload_token_refused", ""),
        (vec![field("upload_token", "TOKEN")], 400, "form_malformed", "it has no file"),
        (vec![field("upload_token", "TOKEN"), file("", "")], 400, "form_malformed", "no file was chosen"),
        (
            vec![field("upload_token", "TOKEN"), field("title", &long)],
            400,
            "form_malformed",
            "more than 8192 bytes",
        ),
        (
            vec![field("upload_token", "TOKEN"), field("visibility", "all"), file("a.mp4", "hello")],
            400,
            "form_malformed",
            "visibility",
        ),
        (vec![file("a.mp4", "hello"), field("upload_token", "TOKEN")], 401, "upload_token_refused", ""),
        (
            vec![field("upload_token", "TOKEN"), file("a.mp4", "hello"), file("b.mp4", "other")],
            400,
            "form_malformed",
            "more than one file",
        ),
        (
            vec![field("upload_token", "TOKEN"), file("a.mp4", "hello"), field("title", "late")],
            400,
            "form_malformed",
            "title has to stand before the file",
        ),
        (
            vec![
                field("upload_token", "TOKEN"),
                part("name=\"f\"; filename=\"a.html\"\r\nContent-Type: text/html", "<b>"),
            ],
            415,
            "media_type",
            "",
        ),
        (
            vec![field("upload_token", "TOKEN"), file("a.mp4", &"y".repeat(200_000))],
            413,
            "upload_too_large",
            "",
        ),
        (
            // A head without an end is not kept.
            vec![field("upload_token", "TOKEN"), format!("--xx\r\nX-Head: {}", "h".repeat(3_000_000))],
            400,
            "form_malformed",
            "around the file",
        ),
        (
            vec![
                field("upload_token", "TOKEN"),
                file("a.mp4", "hello"),
                field("more", &"m".repeat(1_500_000)),
            ],
            400,
            "form_malformed",
            "around the file",
        ),
        (
            (0..40).map(|index| field(&format!("f{index}"), "")).collect(),
            400,
            "form_malformed",
            "more than 32 fields",
        ),
    ]
}

#[tokio::test]
async fn what_is_no_form_with_one_file_says_why_and_leaves_nothing() {
    let site = Site::start(|config| config.uploads.size_bytes_max = 100_000).await;
    let mut left = Vec::new();
    for (parts, status, code, detail) in wrong_forms() {
        let fresh = token(&site, &site.key, "{}").await;
        let parts: Vec<String> = parts.iter().map(|part| part.replace("TOKEN", &fresh)).collect();
        let answer = send(&site, "", &parts).await;
        let problem = read(&answer);
        assert_eq!((answer.status, &problem["code"]), (status, &code.into()), "{answer:?}");
        assert!(detail.is_empty() || problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        left.push(site.uploads().await.iter().filter(|status| **status != UploadStatus::Terminated).count());
    }
    assert!(left.iter().all(|count| *count == 0), "{left:?}");
    let other =
        site.ask("POST", "/v1/forms", "Content-Type: application/x-www-form-urlencoded\r\n", "a=b").await;
    assert_eq!((other.status, &read(&other)["code"]), (415, &"media_type".into()));
    let bare = site.ask("POST", "/v1/forms", "Content-Type: multipart/form-data\r\n", "a=b").await;
    assert_eq!((bare.status, &read(&bare)["code"]), (415, &"media_type".into()));
}

#[tokio::test]
async fn a_form_that_is_cut_off_leaves_nothing() {
    let site = Site::start(|_| {}).await;
    for cut in [
        "--xx\r\nContent-Disposition: form-data; name=\"clip\"; filename=\"a.mp4\"\r\n\r\nhel",
        "--xx\r\nContent-Dis",
        "",
    ] {
        let token = token(&site, &site.key, "{}").await;
        let body = field("upload_token", &token) + cut;
        let answer = site.ask("POST", "/v1/forms", TYPE, &body).await;
        assert!(answer.status == 400, "{answer:?}");
    }
    assert!(site.uploads().await.iter().all(|status| *status == UploadStatus::Terminated));
}

#[tokio::test]
async fn a_browser_gets_a_page_or_goes_where_the_site_wants_it() {
    let site = Site::start(|_| {}).await;
    let plain = token(&site, &site.key, "{}").await;
    let page = send(&site, BROWSER, &[field("upload_token", &plain), file("a.mp4", "hello")]).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (201, Some("text/html; charset=utf-8")),
        "{page:?}"
    );
    assert!(page.body.contains("Your file has arrived"), "{page:?}");
    let used = send(&site, BROWSER, &[field("upload_token", &plain), file("a.mp4", "hello")]).await;
    assert_eq!(
        (used.status, used.header("content-type")),
        (401, Some("text/html; charset=utf-8")),
        "{used:?}"
    );
    assert!(used.body.contains("Load it again"), "{used:?}");

    let body = "{\"redirect_url\":\"https://blog.example.org/thanks?from=form\"}";
    let led = token(&site, &site.key, body).await;
    let led = send(&site, BROWSER, &[field("upload_token", &led), file("a.mp4", "hello")]).await;
    let media_id = led.header("streamgate-media-id").unwrap();
    let wanted = format!("https://blog.example.org/thanks?from=form&media_id={media_id}");
    assert_eq!((led.status, led.header("location")), (303, Some(wanted.as_str())), "{led:?}");
    for wrong in ["javascript:alert(1)", "/thanks", "https://a.example/#x", ""] {
        let body = serde_json::json!({ "redirect_url": wrong }).to_string();
        let headers = format!("{}{JSON}", bearer(&site.key));
        let refused = site.ask("POST", "/v1/forms/tokens", &headers, &body).await;
        assert_eq!((refused.status, &read(&refused)["code"]), (400, &"json_invalid".into()), "{wrong}");
    }
}

#[tokio::test]
async fn a_token_is_worth_no_more_than_its_credential() {
    let site = Site::start(|_| {}).await;
    let headers = format!("{}{JSON}", bearer(&site.key));
    let made = read(&site.ask("POST", "/v1/auth/keys", &headers, "{\"scopes\":[\"upload\"]}").await);
    let key = made["key"].as_str().unwrap();
    // A key that may not say who plays a medium gives no token that may.
    let limited = token(&site, key, "{}").await;
    let parts = [field("upload_token", &limited), field("visibility", "public"), file("a.mp4", "hello")];
    let refused = send(&site, "", &parts).await;
    assert_eq!((refused.status, &read(&refused)["code"]), (403, &"scope_missing".into()), "{refused:?}");
    // What was refused before the file began can be sent again, once.
    let parts = [field("upload_token", &limited), file("a.mp4", "hello")];
    assert_eq!(send(&site, "", &parts).await.status, 201);
    assert_eq!(send(&site, "", &parts).await.status, 401);
    let late = token(&site, key, "{}").await;
    let revoked = token(&site, key, "{}").await;
    let admin = site.broker.bus(Role::Admin).await;
    let aged = |found: Option<&UploadToken>| {
        Some((UploadToken { expires_at_ms: 1, ..found?.clone() }, Outbox::new()))
    };
    let digest = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(late.as_bytes()));
    admin.change_record(&schemas::session::upload_token_key(&digest), aged).await.unwrap().unwrap();
    let path = format!("/v1/auth/keys/{}", made["key_id"].as_str().unwrap());
    assert_eq!(site.ask("DELETE", &path, &bearer(&site.key), "").await.status, 204);
    assert!(
        admin
            .load_record::<ApiKey>(made["key_id"].as_str().unwrap())
            .await
            .unwrap()
            .is_none_or(|key| !key.record.is_active(nats::now_ms()))
    );
    for token in [late, revoked] {
        let answer = send(&site, "", &[field("upload_token", &token), file("a.mp4", "hello")]).await;
        assert_eq!(
            (answer.status, &read(&answer)["code"]),
            (401, &"upload_token_refused".into()),
            "{answer:?}"
        );
    }
    assert_eq!(site.uploads().await.len(), 1);
}

#[tokio::test]
async fn a_form_with_a_credential_needs_no_token() {
    let site = Site::start(|_| {}).await;
    let headers = format!("{TYPE}{}", bearer(&site.key));
    let body = field("title", "By curl") + &file("clip.mp4", "hello") + END;
    let sent = site.ask("POST", "/v1/media", &headers, &body).await;
    assert_eq!(sent.status, 201, "{sent:?}");
    assert_eq!(document(&site, read(&sent)["media_id"].as_str().unwrap()).await.title, "By curl");
}

#[tokio::test]
async fn a_form_with_many_fields_and_a_large_file_arrives_whole() {
    let site = Site::start(|_| {}).await;
    let bytes = "0123456789abcdef".repeat(200_000);
    let token = token(&site, &site.key, "{}").await;
    let mut parts = vec![field("upload_token", &token)];
    parts.extend((0..30).map(|index| field(&format!("field{index}"), &"x".repeat(200))));
    parts.push(file("a.mp4", &bytes));
    let sent = send(&site, "", &parts).await;
    assert_eq!(sent.status, 201, "{sent:?}");
    let upload_id = read(&sent)["upload_id"].as_str().unwrap().to_owned();
    let status = site.ask("GET", &format!("/v1/uploads/{upload_id}/status"), &bearer(&site.key), "").await;
    assert_eq!(read(&status)["length_bytes"], bytes.len(), "{status:?}");
}

#[tokio::test]
async fn what_a_form_cannot_keep_is_refused() {
    let site = Site::start(|_| {}).await;
    let body = file("clip.mp4", "hello") + END;
    for promise in [
        "Repr-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        "Upload-Metadata: visibility cHVibGlj",
        "Idempotency-Key: \"k\"",
        "Upload-Length: 5",
    ] {
        let headers = format!("{TYPE}{}{promise}\r\n", bearer(&site.key));
        let refused = site.ask("POST", "/v1/media", &headers, &body).await;
        assert_eq!((refused.status, &read(&refused)["code"]), (400, &"header_invalid".into()), "{refused:?}");
    }
    let put = site.ask("PUT", "/v1/files/clip.mp4", &format!("{TYPE}{}", bearer(&site.key)), &body).await;
    assert_eq!(put.status, 415, "{put:?}");
    assert_eq!(site.uploads().await, []);
}
