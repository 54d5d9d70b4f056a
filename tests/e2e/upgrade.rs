//! A data folder of version 0.1.0, made before stores had a marker and jobs were folded: it starts, plays and verifies.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{harness::sample, whole::Up};

/// A finished medium of the folder, 2 s long.
const READY: &str = "06h1ll1ondp8f66augcc4he4j8";
/// A medium of the folder whose bytes were no video.
const REJECTED: &str = "06h1ll1p8prk5fbb20um9k8bas";

/// Unpacks the fixture as `data` below `folder`.
fn unpack(folder: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/fixtures/data-folder-0.1.0.tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(fixture).arg("-C").arg(folder).status().unwrap();
    assert!(status.success(), "{status}");
}

async fn document(up: &Up, path: &str) -> Value {
    let answer = up.get(path).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// Decodes the best rendition of a medium: frames of picture.
async fn frames(up: &Up, media_id: &str) -> u64 {
    let playback = up.http.post(format!("{}/v1/media/{media_id}/playback", up.url)).bearer_auth(&up.key);
    let playback: Value = playback.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
    let url = format!("{}{}", up.url, playback["hls_url"].as_str().unwrap());
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-count_frames"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", &url])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    line.trim_matches(',')
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_data_folder_of_the_version_before_starts_plays_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path());
    let up = Up::start(folder.path());
    assert_eq!(document(&up, &format!("/v1/media/{READY}")).await["status"], "ready");
    assert_eq!(document(&up, &format!("/v1/media/{REJECTED}")).await["code"], "unsupported_type");
    assert_eq!(frames(&up, READY).await, 50);
    let upload = up.http.post(format!("{}/v1/media", up.url)).bearer_auth(&up.key);
    let upload = upload.header("content-type", "video/mp4").body(sample(2, "320x180", "25"));
    let answer = upload.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    up.until(&media_id, "job.succeeded").await;
    assert_eq!(frames(&up, &media_id).await, 50);
    let listed = document(&up, "/v1/media").await;
    let listed: Vec<&str> =
        listed["items"].as_array().unwrap().iter().filter_map(|item| item["media_id"].as_str()).collect();
    assert!([READY, REJECTED, media_id.as_str()].iter().all(|id| listed.contains(id)), "{listed:?}");
    let verified = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["audit", "verify", "--json", "--url", &up.url, "--api-key", &up.key])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&verdict["sound"], &verdict["events_missing"]), (&Value::Bool(true), &Value::from(0)));
}
