//! `streamgate demo` as people run it: it plays for everybody, or by a token, and leaves nothing behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    chain::CHAIN_ID,
    cli::{next, program, run, start},
    harness::WAIT_MAX,
};

/// An anvil that leaves its process id in a file.
struct Anvil {
    program: PathBuf,
    pid_file: PathBuf,
}

impl Anvil {
    fn new(folder: &Path) -> Self {
        let (program, pid_file) = (folder.join("noted-anvil"), folder.join("anvil-pid"));
        let script = format!("#!/bin/sh\necho $$ >'{}'\nexec anvil \"$@\"\n", pid_file.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Self { program, pid_file }
    }

    /// Whether it runs; it did once.
    fn runs(&self) -> bool {
        let pid = fs::read_to_string(&self.pid_file).expect("it was started");
        Path::new("/proc").join(pid.trim()).exists()
    }
}

/// A segment of the session at `hls_url`, as somebody without any credential gets it.
async fn segment(hls_url: &Value) -> reqwest::StatusCode {
    let hls_url = hls_url.as_str().unwrap();
    let get = async |url: String| reqwest::get(url).await.unwrap();
    let first = |text: String| {
        text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    };
    let multivariant = get(hls_url.to_owned()).await.error_for_status().unwrap().text().await.unwrap();
    let media_url = hls_url.replace("master.m3u8", &first(multivariant).unwrap());
    let media = get(media_url.clone()).await.error_for_status().unwrap().text().await.unwrap();
    let (folder, _) = media_url.rsplit_once('/').unwrap();
    get(format!("{folder}/{}", first(media).unwrap())).await.status()
}

#[tokio::test]
async fn a_demo_plays_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program(dir.path(), &["demo", "--exit"]);
    command.env("TMPDIR", dir.path());
    let said = run(command).await;
    assert_eq!(said.status, 0, "{said:?}");
    let last: Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    let seconds = |name: &str| last[name].as_f64().unwrap();
    assert!(seconds("seconds_to_playable") <= seconds("seconds_to_ready"), "{last}");
    let hls_url = last["hls_url"].as_str().unwrap();
    assert!(hls_url.starts_with("http://127.0.0.1:") && hls_url.ends_with("/master.m3u8"), "{last}");
    assert!(hls_url.contains(last["media_id"].as_str().unwrap()), "{last}");
    assert!(said.err.contains("media.ready"), "{said:?}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_demo_that_stays_plays_for_somebody_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, mut lines) = start(program(dir.path(), &["demo", "--json", "--profile", "tiny"]));
    let printed = next(&mut lines).await;
    let watch_url = printed["watch_url"].as_str().unwrap();
    assert!(watch_url.ends_with(&format!("/watch/{}", printed["media_id"].as_str().unwrap())), "{printed}");
    assert!(reqwest::get(watch_url).await.unwrap().status().is_success(), "{printed}");
    let library_url = printed["library_url"].as_str().unwrap();
    assert!(library_url.starts_with(&format!("{}/#sign-in=", printed["url"].as_str().unwrap())), "{printed}");
    assert!(reqwest::get(library_url).await.unwrap().status().is_success(), "{printed}");
    // What the page asks for.
    let playback = watch_url.replace("/watch/", "/v1/media/") + "/playback";
    let opened = reqwest::Client::new().post(playback).send().await.unwrap();
    assert_eq!(opened.status(), 200);
    let session: Value = opened.json().await.unwrap();
    let hls_url = format!("{}{}", printed["url"].as_str().unwrap(), session["hls_url"].as_str().unwrap());
    assert_eq!(segment(&json!(hls_url)).await, 200);
    let ended = Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    assert!(ended.success() && demo.wait().unwrap().success());
}

#[tokio::test]
async fn a_gated_demo_shows_who_plays_and_who_does_not_and_ends_its_chain() {
    let dir = tempfile::tempdir().unwrap();
    let anvil = Anvil::new(dir.path());
    let mut command = program(dir.path(), &["demo", "--gated", "--exit", "--profile", "tiny"]);
    command.env("ANVIL", &anvil.program);
    let said = run(command).await;
    assert_eq!(said.status, 0, "{said:?}");
    let last: Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["chain_id"], CHAIN_ID, "{last}");
    let after = &last["after_transfer"];
    let (a, b) = (&last["holder"]["address"], &after["holder"]["address"]);
    let not_owner =
        |address: &Value, code: &str| json!({ "address": address, "code": code, "reason": "not_owner" });
    assert_ne!(a, b, "{last}");
    assert_eq!(last["refused"], not_owner(b, "gate_closed"), "{last}");
    assert_eq!(after["refused"], not_owner(a, "playback_refused"), "{last}");
    let media_id = last["media_id"].as_str().unwrap();
    for holder in [&last["holder"], &after["holder"]] {
        assert!(holder["hls_url"].as_str().unwrap().contains(media_id), "{last}");
    }
    // The story says the same to people.
    for (name, wallet) in [("wallet A", a), ("wallet B", b), ("contract at", &last["contract"])] {
        let address = wallet.as_str().unwrap();
        assert!(said.err.lines().any(|line| line.contains(name) && line.contains(address)), "{said:?}");
    }
    let order = ["wallet A plays", "wallet B refused", "Token 1 goes", "wallet A refused", "wallet B plays"];
    let places: Vec<usize> = order.iter().map(|words| said.err.find(words).expect(words)).collect();
    assert!(places.is_sorted(), "{said:?}");
    assert!(!anvil.runs(), "the node outlived the demo");
}

#[tokio::test]
async fn a_gated_demo_that_stays_plays_for_the_owner_until_it_is_killed_and_takes_its_chain_along() {
    let dir = tempfile::tempdir().unwrap();
    let anvil = Anvil::new(dir.path());
    let args = ["demo", "--gated", "--json", "--profile", "tiny"];
    let mut command = program(dir.path(), &args);
    command.env("ANVIL", &anvil.program);
    let (mut demo, mut lines) = start(command);
    let printed = next(&mut lines).await;
    assert_eq!(segment(&printed["after_transfer"]["holder"]["hls_url"]).await, 200, "{printed}");
    let before = reqwest::get(printed["holder"]["hls_url"].as_str().unwrap()).await.unwrap();
    assert_eq!(before.status(), 403, "{printed}");
    assert!(anvil.runs());
    demo.kill().unwrap();
    demo.wait().unwrap();
    let killed = Instant::now();
    while anvil.runs() {
        assert!(killed.elapsed() < WAIT_MAX, "the node outlives a demo that was killed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_gated_demo_without_anvil_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program(dir.path(), &["demo", "--gated", "--exit"]);
    command.env("ANVIL", dir.path().join("absent")).env("TMPDIR", dir.path());
    let said = run(command).await;
    assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("absent") && said.err.contains(".ci/setup gated"), "{said:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was started");
}
