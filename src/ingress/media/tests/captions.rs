//! Captions, chapters and posters that an owner brings, and what players get of them.

use futures::TryStreamExt;
use nats::{Outbox, Role, VersionedRecord};
use schemas::media::MediaStatus;
use serde_json::{Value, json};

use super::Owner;
use crate::tests::{Answer, asset};

const VTT: &str = "WEBVTT\n\n00:01.000 --> 00:02.500\nHallo <b>du</b>\n\n00:07.000 --> 00:08.000\nEnde\n";
const ANY: &str = "If-Match: *\r\nContent-Type: text/vtt\r\n";
/// A picture of 17 by 17 pixels, of its head alone (RFC 9649, 2.7).
const WEBP: &str = "RIFF\u{16}\0\0\0WEBPVP8X\u{a}\0\0\0\0\0\0\0\u{10}\0\0\u{10}\0\0";

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, read(answer)["code"].as_str().unwrap_or_default().to_owned())
}

/// Objects of a medium that its owner brought beside the file, by the folder that they are in.
async fn objects(owner: &Owner, medium: &str, folder: &str) -> Vec<String> {
    let media_id = medium.rsplit('/').next().unwrap();
    let found = owner.site.store.list(&format!("media/{media_id}/{folder}"));
    found.map_ok(|object| object.key).try_collect().await.unwrap()
}

/// The header of a key of somebody else.
async fn stranger(owner: &Owner) -> String {
    let body = json!({ "owner": "olga" }).to_string();
    let made = owner.ask("POST", "/v1/auth/keys", "Content-Type: application/json\r\n", &body).await;
    format!("Authorization: Bearer {}\r\n", read(&made)["key"].as_str().unwrap())
}

#[tokio::test]
async fn of_two_editors_at_once_one_is_refused_and_nothing_is_lost() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let list = format!("{medium}/captions");
    let seen = owner.ask("GET", &list, "", "").await;
    let headers = format!("If-Match: {}\r\nContent-Type: text/vtt\r\n", seen.header("etag").unwrap());
    let (german, french) = (format!("{list}/de"), format!("{list}/fr"));
    let (one, other) =
        tokio::join!(owner.ask("PUT", &german, &headers, VTT), owner.ask("PUT", &french, &headers, VTT));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 412], "{one:?} {other:?}");
    let now = owner.ask("GET", &list, "", "").await;
    let kept = if one.status == 201 { "de" } else { "fr" };
    let listed = read(&now)["captions"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["language"]), (1, &json!(kept)));
    assert_eq!(objects(&owner, &medium, "captions").await.len(), 1, "what was refused left nothing");
    let bare = owner.ask("PUT", &german, "Content-Type: text/vtt\r\n", VTT).await;
    assert_eq!(code(&bare), (428, "precondition_required".into()));
}

#[tokio::test]
async fn what_can_not_be_captions_is_refused_and_changes_nothing() {
    let owner = Owner::with(|config| config.media.captions_bytes_max = 2_000).await;
    let medium = owner.upload("").await;
    let before = owner.document(&medium).await;
    let subrip = "If-Match: *\r\nContent-Type: application/x-subrip\r\n";
    let coded = format!("{ANY}Content-Encoding: gzip\r\n");
    for (path, headers, body, status, wanted) in [
        ("de", ANY, "hello", 422, "captions_invalid"),
        ("de", ANY, "1\n00:00:01,000 --> 00:00:02,000\nx\n", 422, "captions_invalid"),
        ("de", subrip, "hello", 422, "captions_invalid"),
        ("de", ANY, "WEBVTT\n\n00:02.000 --> 00:01.000\nx\n", 422, "captions_invalid"),
        ("de", ANY, &format!("WEBVTT\n\n{}", "x".repeat(2_000)), 413, "body_too_large"),
        ("german", ANY, VTT, 422, "captions_invalid"),
        ("und", ANY, VTT, 422, "captions_invalid"),
        ("de?kind=lyrics", ANY, VTT, 400, "query_malformed"),
        (&format!("de?label={}", "x".repeat(101)), ANY, VTT, 422, "captions_invalid"),
        ("de", "If-Match: *\r\nContent-Type: text/plain\r\n", VTT, 415, "media_type"),
        ("de", "If-Match: *\r\n", VTT, 415, "media_type"),
        ("de", &coded, VTT, 415, "content_encoding"),
    ] {
        let refused = owner.ask("PUT", &format!("{medium}/captions/{path}"), headers, body).await;
        assert_eq!(code(&refused), (status, wanted.to_owned()), "{path} {body:?}: {refused:?}");
    }
    let line = owner.ask("PUT", &format!("{medium}/captions/de"), ANY, "WEBVTT\n\n00:02 --> x\nx\n").await;
    assert_eq!(read(&line)["line"], 3, "{line:?}");
    let olga = stranger(&owner).await;
    for (method, path) in
        [("GET", "captions"), ("GET", "captions/de"), ("PUT", "captions/de"), ("DELETE", "captions/de")]
    {
        let headers = format!("{olga}{ANY}");
        let refused = owner.site.ask(method, &format!("{medium}/{path}"), &headers, VTT).await;
        assert_eq!(code(&refused), (404, "not_found".into()), "{method} {path}");
    }
    let missing = owner.ask("DELETE", &format!("{medium}/captions/de"), "If-Match: *\r\n", "").await;
    assert_eq!(code(&missing), (404, "captions_missing".into()));
    assert_eq!(owner.document(&medium).await, before);
    assert!(objects(&owner, &medium, "captions").await.is_empty());
}

#[tokio::test]
async fn captions_are_listed_read_replaced_and_removed() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let path = format!("{medium}/captions/DE?label=Deutsch");
    let made = owner.ask("PUT", &path, ANY, VTT).await;
    assert_eq!(made.status, 201, "{made:?}");
    let first = &read(&made)["captions"][0];
    let shown = (&first["language"], &first["kind"], &first["label"], &first["source"], &first["cue_count"]);
    let wanted = (&json!("de"), &json!("subtitles"), &json!("Deutsch"), &json!("uploaded"), &json!(2));
    assert_eq!(shown, wanted);
    assert_eq!(owner.document(&medium).await["captions"][0], *first);
    let text = owner.ask("GET", &format!("{medium}/captions/de"), "", "").await;
    assert_eq!(text.header("content-type"), Some("text/vtt; charset=utf-8"));
    assert!(text.body.starts_with("WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nHallo <b>du</b>\n"), "{text:?}");
    let other = owner.ask("GET", &format!("{medium}/captions/de?kind=captions"), "", "").await;
    assert_eq!(code(&other), (404, "captions_missing".into()));
    let headers =
        format!("If-Match: {}\r\nContent-Type: application/x-subrip\r\n", made.header("etag").unwrap());
    let next = "1\n00:00:01,000 --> 00:00:02,000\nNeu\n";
    let replaced = owner.ask("PUT", &format!("{medium}/captions/de"), &headers, next).await;
    assert_eq!((replaced.status, &read(&replaced)["captions"][0]["label"]), (200, &json!("German")));
    assert_eq!(objects(&owner, &medium, "captions").await.len(), 1, "the file before is gone");
    let removed = owner.ask("DELETE", &format!("{medium}/captions/de"), "If-Match: *\r\n", "").await;
    assert_eq!((removed.status, read(&removed)), (200, json!({ "captions": [] })));
    assert!(objects(&owner, &medium, "captions").await.is_empty());
}

/// A medium that is ready, with playlists in the store.
async fn playing(owner: &Owner) -> String {
    let medium = owner.upload("").await;
    let media_id = medium.rsplit('/').next().unwrap().parse().unwrap();
    let admin = owner.site.broker.bus(Role::Admin).await;
    let film = asset(media_id, "admin", MediaStatus::Ready);
    let prefix = film.encode.as_ref().unwrap().prefix.clone();
    admin.commit_record(&mut VersionedRecord::new(film), Outbox::new()).await.unwrap();
    for (name, text) in [
        ("master.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv360/index.m3u8\n"),
        (
            "v360/index.m3u8",
            "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:6.000000,\n1.m4s\n#EXTINF:4.000000,\n2.m4s\n#EXT-X-ENDLIST\n",
        ),
        ("manifest.mpd", "<MPD>\n  <Period id=\"0\">\n  </Period>\n</MPD>\n"),
    ] {
        owner.site.store.put(&format!("{prefix}/{name}"), text).await.unwrap();
    }
    medium
}

#[tokio::test]
async fn what_was_ready_before_plays_with_captions_that_come_later() {
    let owner = Owner::new().await;
    let medium = playing(&owner).await;
    let opened = read(&owner.ask("POST", &format!("{medium}/playback"), "", "").await);
    let master = opened["hls_url"].as_str().unwrap().to_owned();
    let at = |name: &str| master.replace("master.m3u8", name);
    let before = owner.ask("GET", &master, "", "").await;
    assert!(!before.body.contains("SUBTITLES"), "{before:?}");
    owner.ask("PUT", &format!("{medium}/captions/de"), ANY, VTT).await;
    let after = owner.ask("GET", &master, "", "").await;
    assert!(after.body.contains("BANDWIDTH=1,SUBTITLES=\"subtitles\"\nv360/index.m3u8\n"), "{after:?}");
    assert_ne!(after.header("etag"), before.header("etag"));
    let (_, uri) = after.body.split_once("LANGUAGE=\"de\",NAME=\"German\"").unwrap();
    let uri = uri.split("URI=\"").nth(1).unwrap().split('"').next().unwrap();
    let playlist = owner.ask("GET", &at(uri), "", "").await;
    assert_eq!(
        playlist.body,
        "#EXTM3U\n#EXTINF:6.000000,\n1.vtt\n#EXTINF:4.000000,\n2.vtt\n#EXT-X-ENDLIST\n"
    );
    let segment = async |number: u32| {
        owner.ask("GET", &at(&uri.replace("index.m3u8", &format!("{number}.vtt"))), "", "").await
    };
    let (first, second, third) = (segment(1).await, segment(2).await, segment(3).await);
    assert!(first.body.contains("Hallo") && !first.body.contains("Ende"), "{first:?}");
    assert!(second.body.contains("X-TIMESTAMP-MAP=MPEGTS:0") && second.body.contains("Ende"), "{second:?}");
    assert!(!second.body.contains("Hallo") && third.status == 404, "{second:?} {third:?}");
    let manifest = owner.ask("GET", &at("manifest.mpd"), "", "").await;
    let whole = uri.replace("index.m3u8", "subtitles.vtt");
    assert!(manifest.body.contains(&format!("<BaseURL>{whole}</BaseURL>")), "{manifest:?}");
    assert_eq!(manifest.header("cache-control"), Some("private, no-cache"));
    assert_eq!(owner.ask("GET", &at(&whole), "", "").await.body.matches("-->").count(), 2);
    let encrypted = owner.patch(&medium, &json!({ "encryption": "aes_128" })).await;
    assert_eq!(encrypted.0, 200);
    let playlist = owner.ask("GET", &at(uri), "", "").await;
    assert!(
        playlist.body.contains("#EXT-X-KEY:METHOD=AES-128") && playlist.body.contains("1.vtt?aes-128"),
        "{playlist:?}"
    );
    assert_eq!(
        owner.ask("GET", &at(&whole), "", "").await.status,
        404,
        "no clear text of an encrypted medium"
    );
}

#[tokio::test]
async fn chapters_are_set_served_and_taken_back() {
    let owner = Owner::new().await;
    let medium = playing(&owner).await;
    for (chapters, pointer) in [
        (json!([{ "start_s": 1, "title": "a" }]), "/chapters/0/start_s"),
        (json!([{ "start_s": 0, "title": "a" }, { "start_s": 0, "title": "b" }]), "/chapters/1/start_s"),
        (json!([{ "start_s": 0, "title": "" }]), "/chapters/0/title"),
    ] {
        let (status, problem) = owner.patch(&medium, &json!({ "chapters": chapters })).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let chapters = json!([{ "start_s": 0.0, "title": "Arrival" }, { "start_s": 0.5, "title": "Sea & sand" }]);
    let (status, document) = owner.patch(&medium, &json!({ "chapters": chapters })).await;
    assert_eq!((status, &document["chapters"]), (200, &chapters), "{document}");
    let opened = read(&owner.ask("POST", &format!("{medium}/playback"), "", "").await);
    let served = owner.ask("GET", opened["chapters_url"].as_str().unwrap(), "", "").await;
    let wanted =
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nArrival\n\n00:00:00.500 --> 00:00:01.000\nSea &amp; sand\n";
    assert_eq!(served.body, wanted);
    let (_, document) = owner.patch(&medium, &json!({ "chapters": null })).await;
    assert_eq!(document.get("chapters"), None);
    assert_eq!(owner.ask("GET", opened["chapters_url"].as_str().unwrap(), "", "").await.status, 404);
}

#[tokio::test]
async fn a_poster_is_chosen_and_taken_back() {
    let owner = Owner::new().await;
    let medium = playing(&owner).await;
    let poster = format!("{medium}/poster");
    assert_eq!(owner.ask("GET", &poster, "", "").await.status, 404);
    let typed = |kind: &str| format!("If-Match: *\r\nContent-Type: {kind}\r\n");
    for (kind, body, status, wanted) in [
        ("image/png", WEBP, 422, "picture_invalid"),
        ("image/webp", "RIFF", 422, "picture_invalid"),
        ("image/svg+xml", "<svg/>", 415, "media_type"),
        ("application/json", "{\"at_s\":1}", 404, "thumbnail_missing"),
        ("application/json", "{\"at_s\":-1}", 400, "json_invalid"),
    ] {
        let refused = owner.ask("PUT", &poster, &typed(kind), body).await;
        assert_eq!(code(&refused), (status, wanted.to_owned()), "{kind}: {refused:?}");
    }
    let chosen = owner.ask("PUT", &poster, &typed("image/webp"), WEBP).await;
    assert_eq!(chosen.status, 200, "{chosen:?}");
    let wanted =
        json!({ "at_s": null, "media_type": "image/webp", "width": 17, "height": 17, "size_bytes": 30 });
    assert_eq!(read(&chosen)["poster"], wanted);
    let shown = owner.ask("GET", &poster, "", "").await;
    assert_eq!(
        (shown.status, shown.header("content-type"), shown.body.as_str()),
        (200, Some("image/webp"), WEBP)
    );
    let opened = read(&owner.ask("POST", &format!("{medium}/playback"), "", "").await);
    let played = owner.ask("GET", opened["poster_url"].as_str().unwrap(), "", "").await;
    assert_eq!((played.header("content-type"), played.body.as_str()), (Some("image/webp"), WEBP));
    let olga = stranger(&owner).await;
    let refused = owner.site.ask("DELETE", &poster, &format!("{olga}If-Match: *\r\n"), "").await;
    assert_eq!(code(&refused), (404, "not_found".into()));
    let stale = owner.ask("DELETE", &poster, "If-Match: \"b1\"\r\n", "").await;
    assert_eq!(code(&stale), (412, "precondition_failed".into()));
    let removed = owner.ask("DELETE", &poster, "If-Match: *\r\n", "").await;
    assert_eq!((removed.status, read(&removed).get("poster")), (200, None));
    assert!(objects(&owner, &medium, "posters").await.is_empty());
}
