//! Media as one file: what is downloaded decodes to what is played, every range of it is a part of it, and only those have it who may.

use std::{path::Path, process::Command};

use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    cli::{program, run},
    flow::playback,
    harness::{Cluster, Options, clip},
};

const TONE: &str = "sine=frequency=440:duration=7.3:sample_rate=44100";

/// A film of 29.97 pictures a second that are decoded in another order than they are shown, and sound of another length.
fn film() -> Vec<u8> {
    let video = "testsrc2=size=320x180:rate=30000/1001:duration=7.1";
    let encoders =
        "-c:v libx264 -preset veryfast -bf 3 -pix_fmt yuv420p -c:a aac -metadata:s:a:0 language=ger";
    let inputs = ["-f", "lavfi", "-i", video, "-f", "lavfi", "-i", TONE];
    clip(&[&inputs[..], &encoders.split(' ').collect::<Vec<_>>()].concat(), "mp4")
}

/// Upright, without sound, with as many pictures a second as are encoded at all.
fn portrait() -> Vec<u8> {
    let video = "testsrc2=size=180x320:rate=60:duration=2.5";
    clip(
        &["-f", "lavfi", "-i", video, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"],
        "mp4",
    )
}

fn sound() -> Vec<u8> {
    clip(&["-f", "lavfi", "-i", TONE, "-c:a", "libmp3lame"], "mp3")
}

async fn get(cluster: &Cluster, path: &str, fields: &[(header::HeaderName, &str)]) -> Response {
    let mut request = cluster.http.get(format!("{}{path}", cluster.url));
    for (name, value) in fields {
        request = request.header(name, *value);
    }
    request.send().await.unwrap()
}

async fn code(answer: Response) -> (StatusCode, String) {
    let status = answer.status();
    let problem: Value = answer.json().await.unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// Time and digest of each decoded frame of the first stream of a kind.
fn decoded(input: &str, kind: &str) -> Vec<String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-xerror", "-i", input])
        .args(["-map", &format!("0:{kind}:0"), "-f", "framemd5", "-"])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.trim().is_empty(), "{input}: {complaints}");
    let text = String::from_utf8(output.stdout).unwrap();
    let frames = text.lines().filter(|line| !line.starts_with('#'));
    frames.map(|line| line.split(',').skip(2).map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

fn probe(file: &Path) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_packets", "-show_streams", "-show_format", "-of", "json"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Downloads with a query; answers the bytes, after a look at what is said of them.
async fn download(cluster: &Cluster, url: &str, query: &str) -> Vec<u8> {
    let answer = get(cluster, &format!("{url}{query}"), &[]).await;
    assert_eq!(answer.status(), StatusCode::OK, "{query}");
    assert_eq!(answer.headers()[header::ACCEPT_RANGES], "bytes");
    let length: usize = answer.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
    let bytes = answer.bytes().await.unwrap().to_vec();
    assert_eq!(bytes.len(), length, "{query}");
    bytes
}

/// Compares a file with the renditions that it was made of; answers what a probe says of it.
async fn check_file(cluster: &Cluster, session: &Value, query: &str, renditions: &[&str]) -> Value {
    let url = session["download_url"].as_str().unwrap();
    let bytes = download(cluster, url, query).await;
    assert_eq!(&bytes[4..8], b"ftyp");
    let moov = bytes.windows(4).position(|kind| kind == b"moov").unwrap();
    let mdat = bytes.windows(4).position(|kind| kind == b"mdat").unwrap();
    assert!(moov < mdat, "it plays before all of it is there");
    let file = cluster.dir.path().join("download.mp4");
    std::fs::write(&file, &bytes).unwrap();
    for rendition in renditions {
        let kind = rendition.get(..1).unwrap();
        let playlist = session["hls_url"].as_str().unwrap();
        let playlist = playlist.replace("master.m3u8", &format!("{rendition}/index.m3u8"));
        let played = decoded(&format!("{}{playlist}", cluster.url), kind);
        let found = decoded(file.to_str().unwrap(), kind);
        assert_eq!(found.len(), played.len(), "{query} {rendition}");
        assert_eq!(found, played, "{query} {rendition}");
    }
    let found = probe(&file);
    assert_eq!(found["streams"].as_array().unwrap().len(), renditions.len(), "{query}: {found}");
    found
}

async fn check_ranges(cluster: &Cluster, url: &str) {
    let whole = download(cluster, url, "").await;
    let size = whole.len();
    let head = cluster.http.head(format!("{}{url}", cluster.url)).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], size.to_string());
    let tag = head.headers()[header::ETAG].to_str().unwrap().to_owned();
    let mut joined = Vec::new();
    // Pieces that end inside of the head, between two segments and in the midst of them.
    for start in (0..size).step_by(size / 7) {
        let range = format!("bytes={start}-{}", start + size / 7 - 1);
        let part = get(cluster, url, &[(header::RANGE, &range), (header::IF_RANGE, &tag)]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()[header::ETAG], tag);
        joined.extend(part.bytes().await.unwrap());
    }
    assert_eq!(joined, whole);
    let last = get(cluster, url, &[(header::RANGE, "bytes=-5")]).await.bytes().await.unwrap();
    assert_eq!(last, whole[size - 5..]);
    let other = get(cluster, url, &[(header::RANGE, "bytes=0-4"), (header::IF_RANGE, "\"another\"")]).await;
    assert_eq!(other.status(), StatusCode::OK, "another version is sent whole");
    let known = get(cluster, url, &[(header::IF_NONE_MATCH, &tag)]).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let outside = get(cluster, url, &[(header::RANGE, &format!("bytes={size}-"))]).await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_download_decodes_to_what_is_played() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut ids = Vec::new();
    for (bytes, name) in [(film(), "film.mp4"), (portrait(), "portrait.mp4"), (sound(), "sound.mp3")] {
        ids.push(cluster.upload(bytes, name).await);
    }
    for media_id in &ids {
        cluster.media_event("media.ready", media_id).await;
        say(&cluster, media_id, json!({ "downloads": "viewers" })).await;
    }
    let session = playback(&cluster, &ids[0]).await;
    let found = check_file(&cluster, &session, "", &["v180", "a0"]).await;
    assert_eq!(found["streams"][1]["tags"]["language"], "deu");
    assert_eq!(
        (&found["streams"][0]["width"], &found["streams"][0]["nb_read_packets"]),
        (&json!(320), &json!("219"))
    );
    let seconds: f64 = found["format"]["duration"].as_str().unwrap().parse().unwrap();
    assert!((seconds - 7.307).abs() < 0.03, "{seconds}");
    for (query, renditions) in [
        ("?height=100", &["v90", "a0"][..]),
        ("?height=10&audio=de", &["v90", "a0"]),
        ("?audio=none", &["v180"]),
    ] {
        check_file(&cluster, &session, query, renditions).await;
    }
    let url = session["download_url"].as_str().unwrap();
    check_ranges(&cluster, url).await;
    for query in ["?audio=fr", "?audio=a7", "?height=0", "?height=x", "?audio=", "?x=1"] {
        let answer = get(&cluster, &format!("{url}{query}"), &[]).await;
        assert_eq!(code(answer).await, (StatusCode::BAD_REQUEST, "query_malformed".into()), "{query}");
    }
    let session = playback(&cluster, &ids[1]).await;
    let found = check_file(&cluster, &session, "", &["v180"]).await;
    assert_eq!(
        (&found["streams"][0]["height"], &found["streams"][0]["nb_read_packets"]),
        (&json!(320), &json!("150"))
    );
    let session = playback(&cluster, &ids[2]).await;
    check_file(&cluster, &session, "", &["a0"]).await;
    let answer = get(&cluster, session["download_url"].as_str().unwrap(), &[]).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "audio/mp4");
    assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"sound.mp3.m4a\"");
}

/// A session of somebody without a credential.
async fn open_anonymously(cluster: &Cluster, media_id: &str) -> Value {
    let url = format!("{}/v1/media/{media_id}/playback", cluster.url);
    cluster.http.post(url).send().await.unwrap().json().await.unwrap()
}

async fn say(cluster: &Cluster, media_id: &str, change: Value) {
    let request = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}")).json(&change);
    let answer = request.header(header::IF_MATCH, "*").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{change}: {}", answer.text().await.unwrap());
}

#[tokio::test]
async fn only_those_have_the_file_whom_the_owner_lets() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(film(), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let gate = cluster.request(Method::PUT, &format!("/v1/media/{media_id}/gate"));
    let gate = gate.header(header::IF_MATCH, "*").json(&json!({ "kind": "public" }));
    let answer = gate.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let session = open_anonymously(&cluster, &media_id).await;
    assert_eq!(session["download_url"], Value::Null);
    let url = session["hls_url"].as_str().unwrap().replace("master.m3u8", "download.mp4");
    let refused = (StatusCode::FORBIDDEN, "download_refused".to_owned());
    assert_eq!(code(get(&cluster, &url, &[]).await).await, refused);
    // Addresses of an owner's session are passed on, so they carry no more than those of others.
    let own = playback(&cluster, &media_id).await;
    assert_eq!(own["download_url"], Value::Null);
    let own = own["hls_url"].as_str().unwrap().replace("master.m3u8", "download.mp4");
    assert_eq!(code(get(&cluster, &own, &[]).await).await, refused);

    say(&cluster, &media_id, json!({ "downloads": "viewers", "title": "Über \"alles\"" })).await;
    let session = open_anonymously(&cluster, &media_id).await;
    assert_eq!(
        session["download_url"],
        json!(session["hls_url"].as_str().unwrap().replace("master.m3u8", "download.mp4"))
    );
    let answer = get(&cluster, &url, &[]).await;
    assert_eq!(answer.status(), StatusCode::OK, "the session from before has it now");
    let name = "attachment; filename=\"_ber _alles_.mp4\"; filename*=UTF-8''%C3%9Cber%20_alles_.mp4";
    assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], name);

    say(&cluster, &media_id, json!({ "encryption": "aes_128" })).await;
    let answer = get(&cluster, &url, &[]).await;
    assert_eq!(code(answer).await, refused, "nobody has in the clear what is encrypted");
    assert_eq!(open_anonymously(&cluster, &media_id).await["download_url"], Value::Null);
    say(&cluster, &media_id, json!({ "encryption": "none" })).await;
    assert_eq!(get(&cluster, &url, &[]).await.status(), StatusCode::OK);

    let gate = cluster.request(Method::DELETE, &format!("/v1/media/{media_id}/gate"));
    let answer = gate.header(header::IF_MATCH, "*").send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let over = (StatusCode::FORBIDDEN, "playback_refused".to_owned());
    assert_eq!(code(get(&cluster, &url, &[]).await).await, over, "the gate is closed");
    let forged = url.replace("/play/", "/play/A");
    assert_eq!(code(get(&cluster, &forged, &[]).await).await, over);
    let unnamed = format!("/play/x/{media_id}/download.mp4");
    assert_eq!(code(get(&cluster, &unnamed, &[]).await).await, over);
}

#[tokio::test]
async fn a_download_that_was_cut_goes_on() {
    let mut cluster = Cluster::start(Options { remote_store: true, ..Options::default() }).await;
    let media_id = cluster.upload(film(), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    say(&cluster, &media_id, json!({ "downloads": "viewers" })).await;
    let url = playback(&cluster, &media_id).await["download_url"].as_str().unwrap().to_owned();
    let answer = get(&cluster, &url, &[]).await;
    let tag = answer.headers()[header::ETAG].to_str().unwrap().trim_matches('"').to_owned();
    let whole = answer.bytes().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // What a run before has left behind; its first bytes are others, so that it shows that they were kept.
    let mut part = whole[..100_000].to_vec();
    part[50_000] ^= 0xff;
    std::fs::write(folder.path().join(format!("sea.mp4.{}.part", tag.get(..12).unwrap())), &part).unwrap();
    let asked =
        ["media", "download", &media_id, "-o", "sea.mp4", "--url", &cluster.url, "--api-key", &cluster.key];
    let said = run(program(folder.path(), &asked)).await;
    assert_eq!((said.status, said.out.as_str()), (0, "sea.mp4\n"), "{said:?}");
    let found = std::fs::read(folder.path().join("sea.mp4")).unwrap();
    assert_eq!(found, [&part[..], &whole[100_000..]].concat());
    let said = run(program(folder.path(), &asked)).await;
    assert!(said.status != 0 && said.err.contains("--force"), "{said:?}");
    let said = run(program(folder.path(), &[&asked[..], &["--force", "--json"]].concat())).await;
    assert_eq!(said.json()[0]["size_bytes"], json!(whole.len()), "{said:?}");
    assert_eq!(std::fs::read(folder.path().join("sea.mp4")).unwrap(), whole);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "no part is left behind");
    let said = run(program(folder.path(), &[&asked[..], &["--force", "--audio", "fr"]].concat())).await;
    assert!(said.status != 0 && said.err.contains("audio=fr is none of a0 (de), none"), "{said:?}");
}
