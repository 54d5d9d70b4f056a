//! Captions, chapters and a poster that an owner brings: players and browsers get them, also of what was finished before, and somebody
//! without a credential brings a film by a grant.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    browser,
    cli::{program, run},
    flow::{playback, text},
    harness::{Cluster, Options, clip, sample},
};

const VTT: &str = "WEBVTT\n\n00:00.500 --> 00:01.500\n<i>Eins</i>\n\n00:01.750 --> 00:02.500\nZwei & drei\n\n00:03.000 --> 00:07.000\nVier\n\n00:07.200 --> 00:07.400\nEnde\n";

/// A file of SubRip with a text every two seconds.
fn english(text: &str) -> String {
    let cue = |n: u32| format!("{}\n00:00:0{},200 --> 00:00:0{},900\n{text}\n", n + 1, 2 * n, 2 * n + 1);
    (0..4).map(cue).collect::<Vec<_>>().join("\n")
}

/// Eight seconds with English subtitles of its own.
fn film() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.srt");
    std::fs::write(&file, english("Of the file")).unwrap();
    let file = file.display().to_string();
    let args = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=160x90:rate=25:duration=8",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:duration=8:sample_rate=48000",
        "-i",
        &file,
        "-map",
        "0",
        "-map",
        "1",
        "-map",
        "2",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-c:s",
        "mov_text",
        "-metadata:s:s:0",
        "language=eng",
    ];
    clip(&args, "mp4")
}

async fn put(cluster: &Cluster, path: &str, content_type: &str, body: &str) -> Value {
    let request = cluster.request(Method::PUT, path).header(header::IF_MATCH, "*");
    let answer =
        request.header(header::CONTENT_TYPE, content_type).body(body.to_owned()).send().await.unwrap();
    let (status, body) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {body}");
    serde_json::from_str(&body).unwrap()
}

fn page_of(cluster: &Cluster, session: &Value) -> String {
    format!("{}{}", cluster.url, session["watch_url"].as_str().unwrap())
}

#[tokio::test]
async fn what_was_ready_before_shows_captions_in_a_browser_clear_and_encrypted() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(film(), "film.mp4").await;
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    let list = format!("/v1/media/{media_id}/captions");
    let before = cluster.get(&list).await;
    assert_eq!(before["captions"][0]["source"], "embedded", "{before}");
    put(&cluster, &format!("{list}/de"), "text/vtt", VTT).await;
    put(&cluster, &format!("{list}/en"), "application/x-subrip", &english("Of the owner")).await;
    let after = cluster.get(&list).await;
    let sources: Vec<&Value> =
        after["captions"].as_array().unwrap().iter().map(|one| &one["source"]).collect();
    assert_eq!(
        sources,
        ["uploaded", "uploaded"],
        "one of the owner takes the place of that of the file: {after}"
    );
    for encryption in ["none", "aes_128"] {
        let patch =
            cluster.request(Method::PATCH, &format!("/v1/media/{media_id}")).header(header::IF_MATCH, "*");
        let changed = patch.json(&json!({ "encryption": encryption })).send().await.unwrap();
        assert!(changed.status().is_success(), "{}", changed.text().await.unwrap());
        let session = playback(&cluster, &media_id).await;
        let master = text(&cluster, session["hls_url"].as_str().unwrap()).await;
        assert_eq!(master.matches("TYPE=SUBTITLES").count(), 2, "{master}");
        let page = page_of(&cluster, &session);
        let shown = browser::shows_subtitles(&page, "German", &[1.0, 2.2, 6.5, 7.5]).await;
        assert_eq!(shown, ["Eins", "Zwei & drei", "Vier", ""], "{encryption}");
        let shown = browser::shows_subtitles(&page, "English", &[1.0]).await;
        assert_eq!(shown, ["Of the owner"], "{encryption}");
    }
    let removed = cluster.request(Method::DELETE, &format!("{list}/en")).header(header::IF_MATCH, "*");
    assert!(removed.send().await.unwrap().status().is_success());
    let session = playback(&cluster, &media_id).await;
    let shown = browser::shows_subtitles(&page_of(&cluster, &session), "English", &[1.0]).await;
    assert_eq!(shown, ["Of the file"], "that of the file plays again");
    cluster.check_running();
}

#[tokio::test]
async fn a_title_that_grows_has_captions_and_the_manifest_of_the_end_has_them() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(60, "1280x720", "30"), "long.mp4").await;
    put(&cluster, &format!("/v1/media/{media_id}/captions/de"), "text/vtt", VTT).await;
    cluster.media_event("media.playable", &media_id).await;
    cluster.signal("transcode", "STOP");
    let session = playback(&cluster, &media_id).await;
    assert_eq!(session["status"], "playable", "it was encoded before it could be stopped");
    let address = session["hls_url"].as_str().unwrap().to_owned();
    let master = text(&cluster, &address).await;
    let line =
        master.lines().find(|line| line.contains("LANGUAGE=\"de\"")).unwrap_or_else(|| panic!("{master}"));
    let uri = line.split("URI=\"").nth(1).unwrap().trim_end_matches('"').to_owned();
    let playlist = text(&cluster, &address.replace("master.m3u8", &uri)).await;
    assert!(playlist.contains("\n1.vtt\n") && !playlist.contains("EXT-X-MAP"), "{playlist}");
    let folder = uri.split('/').next().unwrap().to_owned();
    let first = text(&cluster, &address.replace("master.m3u8", &format!("{folder}/1.vtt"))).await;
    assert!(first.contains("<i>Eins</i>") && !first.contains("Vier"), "{first}");
    cluster.signal("transcode", "CONT");
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    let grown = text(&cluster, &address.replace("master.m3u8", &format!("{folder}/event.m3u8"))).await;
    assert!(grown.starts_with(playlist.split("#EXTINF").next().unwrap()), "{grown} {playlist}");
    assert!(grown.ends_with("#EXT-X-ENDLIST\n"), "{grown}");
    let session = playback(&cluster, &media_id).await;
    let manifest = text(&cluster, session["dash_url"].as_str().unwrap()).await;
    assert!(manifest.contains(&format!("<BaseURL>{folder}/subtitles.vtt</BaseURL>")), "{manifest}");
}

#[tokio::test]
async fn the_command_line_brings_captions_chapters_and_a_poster() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(film(), "film.mp4").await;
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("de.vtt");
    std::fs::write(&file, VTT).unwrap();
    let say = async |args: &[&str]| {
        let server = ["--url", &cluster.url, "--api-key", &cluster.key];
        let said = run(program(folder.path(), &[args, &server[..]].concat())).await;
        assert_eq!(said.status, 0, "{args:?}: {said:?}");
        said.out
    };
    let shown = say(&["media", "captions", &media_id, "--add", "de.vtt", "--language", "de"]).await;
    assert!(shown.contains("de ") && shown.contains("uploaded") && shown.contains("embedded"), "{shown}");
    let shown = say(&["media", "captions", &media_id, "--remove", "de"]).await;
    assert!(!shown.contains("uploaded"), "{shown}");
    say(&["media", "edit", &media_id, "--chapter", "0 Arrival", "--chapter", "4 The sea"]).await;
    let shown = say(&["media", "poster", &media_id, "--at", "2"]).await;
    assert!(shown.contains("/poster"), "{shown}");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(
        (&document["poster"]["at_s"], &document["chapters"][1]["title"]),
        (&json!(2.0), &json!("The sea"))
    );
    let session = playback(&cluster, &media_id).await;
    browser::goes_to_chapter(&page_of(&cluster, &session), 1, "The sea", 4.0).await;
    say(&["media", "poster", &media_id, "--remove"]).await;
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(document.get("poster"), None, "{document}");
    let grant = say(&["media", "grant", "--size", "500MiB", "--type", "video/*", "--expires", "30m"]).await;
    assert!(grant.starts_with("sgu_"), "{grant}");
    let listed = say(&["media", "grant", "--list"]).await;
    let grant_id = listed.split(' ').next().unwrap();
    assert!(listed.contains("waits") && grant.contains(grant_id), "{listed}");
    say(&["media", "grant", "--revoke", grant_id]).await;
    assert_eq!(say(&["media", "grant", "--list"]).await, "");
}

#[tokio::test]
async fn who_has_a_grant_brings_one_film_from_another_site() {
    let mut cluster =
        Cluster::start_with(Options::default(), "[ingress.manners]\norigins = [\"https://blog.example\"]\n")
            .await;
    let bytes = sample(2, "160x90", "25");
    let wanted = json!({ "size_bytes_max": bytes.len(), "types": ["video/*"] });
    let made = cluster.request(Method::POST, "/v1/uploads/grants").json(&wanted).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let grant = made["grant"].as_str().unwrap();
    let address = format!("{}/v1/files/visitor.mp4", cluster.url);
    let asked =
        cluster.http.request(Method::OPTIONS, &address).header(header::ORIGIN, "https://blog.example");
    let asked = asked.header("access-control-request-method", "PUT");
    let asked =
        asked.header("access-control-request-headers", "authorization,content-type").send().await.unwrap();
    assert_eq!(asked.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://blog.example");
    let other = cluster.spawn("ingress-2", &["ingress", "--listen", "127.0.0.1:0"]);
    let other = format!("{}/v1/files/visitor.mp4", other["url"].as_str().unwrap());
    let send = async |address: &str| {
        let request =
            cluster.http.put(address).bearer_auth(grant).header(header::ORIGIN, "https://blog.example");
        request.header(header::CONTENT_TYPE, "video/mp4").body(bytes.clone()).send().await.unwrap()
    };
    let (one, two) = tokio::join!(send(&address), send(&other));
    let mut statuses = [one.status().as_u16(), two.status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 403], "of two replicas one takes it");
    let brought = if one.status() == StatusCode::CREATED { one } else { two };
    assert_eq!(brought.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://blog.example");
    let brought: Value = brought.json().await.unwrap();
    let media_id = brought["media_id"].as_str().unwrap().to_owned();
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
}
