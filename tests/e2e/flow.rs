//! From an HTTP upload to a playing video, checked with the ffmpeg CLI.

use std::{collections::BTreeMap, path::Path, process::Command};

use reqwest::Method;
use serde_json::Value;

use crate::{
    browser::{self, Player},
    harness::{Cluster, Options, sample},
    webdriver::Browser,
};

/// The playback addresses of a medium.
pub(crate) async fn playback(cluster: &Cluster, media_id: &str) -> Value {
    let answer =
        cluster.request(Method::POST, &format!("/v1/media/{media_id}/playback")).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// Text at an absolute path of the ingress, without any key: the path token is the right.
pub(crate) async fn text(cluster: &Cluster, path: &str) -> String {
    let answer = cluster.http.get(format!("{}{path}", cluster.url)).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    text
}

/// What ffprobe decodes of one playlist: frames, times of key frames, seconds from the first frame to the end of the last.
#[derive(Debug)]
struct Decoded {
    frames: u64,
    keys: Vec<String>,
    seconds: f64,
}

fn decode(url: &str, stream: &str) -> Decoded {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", stream, "-show_entries"])
        .args(["frame=pts_time,pkt_duration_time,duration_time,key_frame", "-of", "json", url])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.trim().is_empty(), "{url}: {complaints}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let frames = report["frames"].as_array().unwrap();
    let number = |frame: &Value, name: &str| frame[name].as_str().and_then(|text| text.parse::<f64>().ok());
    let end = |frame: &Value| {
        let duration =
            number(frame, "duration_time").or_else(|| number(frame, "pkt_duration_time")).unwrap_or(0.0);
        number(frame, "pts_time").unwrap() + duration
    };
    Decoded {
        frames: frames.len() as u64,
        keys: frames
            .iter()
            .filter(|frame| frame["key_frame"] == 1)
            .map(|frame| frame["pts_time"].as_str().unwrap().to_owned())
            .collect(),
        seconds: frames.iter().map(end).fold(0.0, f64::max) - number(&frames[0], "pts_time").unwrap(),
    }
}

/// The variants of a multivariant playlist: address and attributes.
fn variants(master: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut lines = master.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(attributes) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            found.push((lines.next().unwrap().to_owned(), attributes_of(attributes)));
        }
    }
    found
}

fn attributes_of(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap(),
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        found.insert(name.trim_start_matches(',').to_owned(), value.to_owned());
        rest = next;
    }
    found
}

/// The ranges of an I-frame playlist, each of which is decoded alone, behind the init segment, and is one picture.
async fn check_iframes(cluster: &Cluster, path: &str) {
    let playlist = text(cluster, path).await;
    let at = |file: &str| format!("{}{}", cluster.url, path.replace("iframes.m3u8", file));
    let init = cluster.http.get(at("init.mp4")).send().await.unwrap().bytes().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut range = "";
    for line in playlist.lines() {
        range = line
            .strip_prefix("#EXT-X-BYTERANGE:")
            .and_then(|range| range.strip_suffix("@0"))
            .unwrap_or(range);
        if line.starts_with('#') {
            continue;
        }
        let last = range.parse::<u64>().unwrap() - 1;
        let part =
            cluster.http.get(at(line)).header("range", format!("bytes=0-{last}")).send().await.unwrap();
        let file = folder.path().join("picture.mp4");
        std::fs::write(&file, [init.clone(), part.bytes().await.unwrap()].concat()).unwrap();
        let output = Command::new("ffprobe")
            .args(["-v", "fatal", "-show_entries", "frame=pict_type", "-of", "csv=p=0"])
            .arg(&file)
            .output()
            .unwrap();
        let pictures = String::from_utf8(output.stdout).unwrap();
        let pictures: Vec<&str> = pictures.split([',', '\n']).filter(|kind| !kind.is_empty()).collect();
        assert_eq!(pictures, ["I"], "{path} {line}: {range} bytes");
    }
    assert!(!range.is_empty(), "{playlist}");
}

/// Decodes every rung and checks what a viewer relies on.
pub(crate) async fn check_plays(
    cluster: &Cluster,
    media_id: &str,
    seconds: f64,
    frame_seconds: f64,
) -> usize {
    let playback = playback(cluster, media_id).await;
    let master_path = playback["hls_url"].as_str().unwrap();
    let master = text(cluster, master_path).await;
    let base = Path::new(master_path).parent().unwrap().to_str().unwrap().to_owned();
    let variants = variants(&master);
    assert!(!variants.is_empty(), "{master}");
    let mut keys = None;
    for (name, attributes) in &variants {
        let url = format!("{}{base}/{name}", cluster.url);
        let decoded = decode(&url, "v:0");
        assert!(
            (decoded.seconds - seconds).abs() <= frame_seconds,
            "{name}: {} of {seconds} s",
            decoded.seconds
        );
        let expected_frames = (seconds / frame_seconds).round();
        assert!(
            (decoded.frames as f64 - expected_frames).abs() <= 1.0,
            "{name}: {} of {expected_frames} frames",
            decoded.frames
        );
        let first: f64 = decoded.keys[0].parse().unwrap();
        assert!(first.abs() < 0.005, "{name}: the first picture is presented at {first} s, the sound at 0");
        assert_eq!(keys.get_or_insert_with(|| decoded.keys.clone()), &decoded.keys, "key frames of {name}");
        check_bandwidth(cluster, &base, name, attributes, &master).await;
        let iframes = name.replace("index.m3u8", "iframes.m3u8");
        // An encrypted medium has none: a range of a segment can't be opened by itself.
        let is_encrypted = playback["dash_url"].is_null();
        assert_eq!(master.contains(&iframes), !is_encrypted, "{master}");
        if is_encrypted {
            for hidden in [iframes.as_str(), "storyboard.vtt", "storyboard/1.jpg"] {
                let answer =
                    cluster.http.get(format!("{}{base}/{hidden}", cluster.url)).send().await.unwrap();
                assert_eq!(answer.status(), 404, "{hidden} of an encrypted medium");
            }
        } else {
            check_iframes(cluster, &format!("{base}/{iframes}")).await;
        }
    }
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-xerror",
            "-i",
            &format!("{}{master_path}", cluster.url),
            "-map",
            "0",
            "-f",
            "null",
            "-",
        ])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.trim().is_empty(), "{complaints}");
    variants.len()
}

/// Measures the peak of the variant and of its audio, and compares it with what the playlist declares.
async fn check_bandwidth(
    cluster: &Cluster,
    base: &str,
    name: &str,
    declared: &BTreeMap<String, String>,
    master: &str,
) {
    let mut peak = segment_peak(cluster, base, name).await;
    if declared.contains_key("AUDIO") {
        let mut loudest = 0.0_f64;
        for line in master.lines().filter_map(|line| line.strip_prefix("#EXT-X-MEDIA:")) {
            loudest = loudest.max(segment_peak(cluster, base, &attributes_of(line)["URI"]).await);
        }
        peak += loudest;
    }
    let declared: f64 = declared["BANDWIDTH"].parse().unwrap();
    assert!((declared - peak).abs() <= peak * 0.10, "{name}: declared {declared}, measured {peak}");
}

async fn segment_peak(cluster: &Cluster, base: &str, playlist: &str) -> f64 {
    let body = text(cluster, &format!("{base}/{playlist}")).await;
    let folder = Path::new(playlist).parent().unwrap().to_str().unwrap();
    let mut peak = 0.0_f64;
    let mut seconds = 0.0;
    for line in body.lines() {
        if let Some(extinf) = line.strip_prefix("#EXTINF:") {
            seconds = extinf.trim_end_matches(',').parse().unwrap();
        } else if !line.starts_with('#') && !line.is_empty() {
            let answer =
                cluster.http.get(format!("{}{base}/{folder}/{line}", cluster.url)).send().await.unwrap();
            assert!(answer.status().is_success(), "{line}");
            peak = peak.max(answer.bytes().await.unwrap().len() as f64 * 8.0 / seconds);
        }
    }
    peak
}

/// What is published about a medium that becomes ready, in order.
pub(crate) const STORY: [&str; 8] = [
    "upload.created",
    "upload.received",
    "media.stored",
    "job.queued",
    "job.started",
    "media.playable",
    "media.ready",
    "job.succeeded",
];

#[tokio::test]
async fn a_sample_becomes_a_playing_video_with_the_full_ladder() {
    let mut cluster = Cluster::start(Options { full_ladder: true, ..Options::default() }).await;
    // Its sound lasts 5.312 s, one frame longer than its picture.
    let source = std::fs::read("tests/e2e/fixtures/bigbuckbunny.mp4").unwrap();
    let media_id = cluster.upload(source, "Big Buck Bunny.mp4").await;
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    let rungs = check_plays(&cluster, &media_id, 5.312, 0.04).await;
    assert!(rungs >= 4, "{rungs} rungs");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(document["status"], "ready", "{document}");
    let order: Vec<String> = cluster
        .all_events()
        .await
        .into_iter()
        .filter(|event| event.media_id.as_deref() == Some(&media_id))
        .map(|event| event.kind)
        .collect();
    let place =
        |kind: &str| order.iter().position(|k| k == kind).unwrap_or_else(|| panic!("{kind} in {order:?}"));
    let places: Vec<usize> = STORY.iter().map(|kind| place(kind)).collect();
    assert!(places.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn parts_join_without_a_gap() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(65, "320x180", "30000/1001"), "joints.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let jobs = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    let job_id = jobs["items"][0]["job_id"].as_str().unwrap().to_owned();
    let job = cluster.get(&format!("/v1/jobs/{job_id}")).await;
    let parts = job["parts"].as_array().unwrap().len();
    assert!(parts >= 3, "{job}");
    check_plays(&cluster, &media_id, 65.0, 1001.0 / 30000.0).await;
}

// The S3 server answers while this thread waits for ffprobe.
#[tokio::test(flavor = "multi_thread")]
async fn an_s3_store_does_the_same() {
    let mut cluster = Cluster::start(Options { remote_store: true, ..Options::default() }).await;
    let media_id = cluster.upload(sample(8, "320x180", "25"), "remote.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    check_plays(&cluster, &media_id, 8.0, 0.04).await;
}

#[tokio::test]
async fn a_page_plays_it_in_a_browser_both_ways() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(20, "320x180", "25"), "page.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let playback = playback(&cluster, &media_id).await;
    let token = playback["hls_url"].as_str().unwrap().split('/').nth(2).unwrap();
    let page = format!("{}/watch/{media_id}#token={token}", cluster.url);
    let rungs = variants(&text(&cluster, playback["hls_url"].as_str().unwrap()).await).len();
    for &browser in Browser::installed() {
        browser::plays(browser, &page, Player::HlsJs, rungs).await;
    }
    browser::plays(Browser::Chromium, &page, Player::Native, rungs).await;
    browser::plays_when_one_player_fails(&page).await;
    browser::plays_after_sign_in(&page, &cluster.key).await;
}
