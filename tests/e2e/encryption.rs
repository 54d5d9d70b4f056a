//! A medium whose segments are encrypted: what is stored stays clear, what is served is not, and players play it.

use std::process::Command;

use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
};

async fn patch(cluster: &Cluster, media_id: &str, tag: Option<&str>, body: &Value) -> (StatusCode, Value) {
    let mut request = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}")).json(body);
    if let Some(tag) = tag {
        request = request.header(header::IF_MATCH, tag);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn get(cluster: &Cluster, path: &str) -> Response {
    cluster.http.get(format!("{}{path}", cluster.url)).send().await.unwrap()
}

/// Changes that are refused, each for its own reason, then the one that is not. Turns encryption on.
async fn encrypt(cluster: &Cluster, media_id: &str) {
    let on = json!({ "title": " AC/DC\u{202e} live ", "encryption": "aes_128" });
    for (tag, body, status, code) in [
        (None, &on, StatusCode::PRECONDITION_REQUIRED, "precondition_required"),
        (Some("\"r1-1\""), &on, StatusCode::PRECONDITION_FAILED, "precondition_failed"),
        (Some("*"), &json!({ "encryption": "rot13" }), StatusCode::BAD_REQUEST, "json_invalid"),
        (Some("*"), &json!({ "encryption": null }), StatusCode::BAD_REQUEST, "json_invalid"),
        (Some("*"), &json!({ "owner": "bob" }), StatusCode::BAD_REQUEST, "json_invalid"),
        (Some("*"), &json!({ "title": "a".repeat(256) }), StatusCode::BAD_REQUEST, "title_invalid"),
        (Some("*"), &json!({ "title": "\u{202e}" }), StatusCode::BAD_REQUEST, "title_invalid"),
    ] {
        let (found, problem) = patch(cluster, media_id, tag, body).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
    }
    let change = async || {
        let seen = cluster.request(Method::GET, &format!("/v1/media/{media_id}")).send().await.unwrap();
        let tag = seen.headers()[header::ETAG].to_str().unwrap().to_owned();
        let (status, document) = patch(cluster, media_id, Some(&tag), &on).await;
        // A stage may have noted in between that its event is published: the tag is of the version before, and is read again.
        (status != StatusCode::PRECONDITION_FAILED).then_some((tag, status, document))
    };
    let (tag, status, document) = poll(WAIT_MAX, change).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{document}");
    assert_eq!((&document["title"], &document["encryption"]), (&json!("AC/DC live"), &json!("aes_128")));
    let (status, _) = patch(cluster, media_id, Some(&tag), &on).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "the tag is of the version before");
}

#[tokio::test]
async fn an_encrypted_medium_plays_and_its_segments_are_of_no_use_without_the_key() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(8, "320x180", "25"), "secret.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let before = playback(&cluster, &media_id).await["hls_url"].as_str().unwrap().to_owned();
    let clear = get(&cluster, &before.replace("master.m3u8", "v180/1.m4s")).await;
    let clear_tag = clear.headers()[header::ETAG].clone();
    let clear = clear.bytes().await.unwrap();
    assert_eq!(get(&cluster, &before.replace("master.m3u8", "key")).await.status(), StatusCode::NOT_FOUND);
    let stored = cluster.objects(&media_id).await;

    encrypt(&cluster, &media_id).await;
    let changed = cluster.media_event("media.changed", &media_id).await;
    assert_eq!(changed.data["encryption"], "aes_128");
    let session = playback(&cluster, &media_id).await;
    assert_eq!(session["dash_url"], Value::Null);
    let master = session["hls_url"].as_str().unwrap();
    let at = |name: &str| master.replace("master.m3u8", name);
    assert_eq!(get(&cluster, &at("manifest.mpd")).await.status(), StatusCode::NOT_FOUND);
    for name in ["v180/index.m3u8", "v180/event.m3u8"] {
        let playlist = text(&cluster, &at(name)).await;
        let wanted = "#EXT-X-MAP:URI=\"init.mp4\"\n#EXT-X-KEY:METHOD=AES-128,URI=\"../key\"\n";
        assert!(playlist.contains(wanted), "{playlist}");
    }

    let whole = get(&cluster, &at("v180/1.m4s")).await;
    assert_ne!(whole.headers()[header::ETAG], clear_tag);
    let length = (clear.len() / 16 + 1) * 16;
    assert_eq!(whole.headers()[header::CONTENT_LENGTH], length.to_string());
    let whole = whole.bytes().await.unwrap();
    assert_eq!(whole.len(), length);
    assert_ne!(whole[..16], clear[..16]);
    let part = cluster.http.get(format!("{}{}", cluster.url, at("v180/1.m4s")));
    let part = part.header(header::RANGE, "bytes=33-70").send().await.unwrap();
    assert_eq!(part.headers()[header::CONTENT_RANGE], format!("bytes 33-70/{length}"));
    assert_eq!(part.bytes().await.unwrap(), whole[33..71]);
    assert_eq!(cluster.objects(&media_id).await, stored, "the store is as it was");

    let key = get(&cluster, &at("key")).await;
    assert_eq!(key.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(key.bytes().await.unwrap().len(), 16);
    let token = session["token"].as_str().unwrap();
    let other = format!("{}{}", if token.starts_with('A') { 'B' } else { 'A' }, token.split_at(1).1);
    assert_eq!(get(&cluster, &at("key").replace(token, &other)).await.status(), StatusCode::FORBIDDEN);

    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-xerror", "-i", &format!("{}{master}", cluster.url)])
        .args(["-map", "0", "-f", "null", "-"])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.trim().is_empty(), "{complaints}");
    crate::flow::check_plays(&cluster, &media_id, 8.0, 0.04).await;
}
