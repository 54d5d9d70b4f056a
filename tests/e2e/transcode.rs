//! A medium that plays is encoded again by another profile, by the command line and with every role in a process of its own: who plays
//! it goes on with what they began, and who comes afterwards plays the new encode.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

/// What the command prints, a document a line, and whether it went well.
fn streamgate(cluster: &Cluster, args: &[&str]) -> (bool, Vec<Value>) {
    let ran = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json"])
        .args(args)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let text = if ran.status.success() { ran.stdout } else { ran.stderr };
    let text = String::from_utf8(text).unwrap();
    (ran.status.success(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Height of the picture, and how many frames are decoded of it without a complaint.
fn decode(url: &str) -> (u64, u64) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-count_frames"])
        .args(["-show_entries", "stream=height,nb_read_frames", "-of", "json", url])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.trim().is_empty(), "{url}: {complaints}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stream = &report["streams"][0];
    let frames = stream["nb_read_frames"].as_str().unwrap().parse().unwrap();
    (stream["height"].as_u64().unwrap(), frames)
}

/// Where a new session plays the largest rendition.
async fn open_session(cluster: &Cluster, media_id: &str) -> String {
    let path = format!("/v1/media/{media_id}/playback");
    let answer = cluster.request(reqwest::Method::POST, &path).send().await.unwrap();
    let playback: Value = answer.error_for_status().unwrap().json().await.unwrap();
    format!("{}{}", cluster.url, playback["hls_url"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_encode_takes_the_place_of_the_old_one_and_breaks_nobody_who_plays() {
    let settings = "[transcode.profiles.small]\nshort_side_pixels_max = 90\nsegment_gops = 1\n";
    let mut cluster = Cluster::start_with(Options::default(), settings).await;
    let media_id = cluster.upload(sample(12, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    let old_url = open_session(&cluster, &media_id).await;
    let (height, frames) = decode(&old_url);
    assert_eq!((height, frames), (180, 300));

    let (went_well, profiles) = streamgate(&cluster, &["profiles"]);
    assert!(went_well, "{profiles:?}");
    let named: Vec<&str> = profiles.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["default", "small", "tiny"]);
    let (went_well, refused) = streamgate(&cluster, &["media", "transcode", "--profile", "huge", &media_id]);
    assert!(!went_well && refused.last().unwrap()["code"] == "profile_unknown", "{refused:?}");

    let (went_well, begun) =
        streamgate(&cluster, &["media", "transcode", "--profile", "small", "--priority", "p0", &media_id]);
    assert!(went_well, "{begun:?}");
    let path = format!("/v1/jobs/{}", begun[0]["job_id"].as_str().unwrap());
    let job = poll(WAIT_MAX, async || {
        let answer = cluster.request(reqwest::Method::GET, &path).send().await.unwrap();
        let job: Value = answer.json().await.unwrap();
        (job["state"] == "succeeded").then_some(job)
    });
    let job = job.await.unwrap_or_else(|| panic!("it never succeeds\n{}", cluster.logs()));
    assert_eq!(
        (&job["encode"], &job["priority"], &job["plan"]["profile"]),
        (&2.into(), &"p0".into(), &"small".into())
    );
    // The session that began before plays what it began with, from its first playlist to its last segment.
    assert_eq!(decode(&old_url), (180, 300));
    let new_url = open_session(&cluster, &media_id).await;
    assert_eq!(decode(&new_url), (90, 300));
    let medium = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(medium["status"], "ready", "{medium}");

    // A job that is cancelled leaves what plays.
    let (went_well, begun) = streamgate(&cluster, &["media", "transcode", &media_id]);
    assert!(went_well, "{begun:?}");
    let job_id = begun[0]["job_id"].as_str().unwrap().to_owned();
    let ended = poll(WAIT_MAX, async || {
        // Before it is planned there is nothing to cancel.
        let (_, said) = streamgate(&cluster, &["jobs", "cancel", &job_id]);
        (said.last()?["code"] != "not_found").then(|| said.last().cloned()).flatten()
    });
    let said = ended.await.unwrap();
    // It is short: it may have ended before.
    assert!(said["state"].is_string() || said["code"] == "job_ended", "{said}");
    let ended = poll(WAIT_MAX, async || {
        let job = cluster.get(&format!("/v1/jobs/{job_id}")).await;
        ["cancelled", "succeeded"].contains(&job["state"].as_str().unwrap()).then_some(())
    });
    ended.await.unwrap();
    assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["status"], "ready");
    let events = cluster.all_events().await;
    let ready = events.iter().filter(|event| event.kind == "media.ready").count();
    assert!((2..=3).contains(&ready), "{ready}");

    // What is uploaded says so for its first encode.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("short.mp4");
    std::fs::write(&file, sample(2, "320x180", "25")).unwrap();
    let upload = ["upload", file.to_str().unwrap(), "--profile", "small", "--priority", "p2", "--wait"];
    let (went_well, uploaded) = streamgate(&cluster, &upload);
    assert!(went_well, "{uploaded:?}");
    let media_id = uploaded.iter().find_map(|line| line["media_id"].as_str()).unwrap();
    assert_eq!(decode(&open_session(&cluster, media_id).await), (90, 50));
    let page = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    assert_eq!(page["items"][0]["priority"], "p2", "{page}");
}
