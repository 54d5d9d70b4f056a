//! `streamgate upload -`: what comes from a pipe, over a restart of the server, and how its progress is shown.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    cli::{Proxy, Said, program, run},
    harness::{Cluster, Options, WAIT_MAX, sample},
};

/// A film of `size_bytes`: behind its end lies a box that nobody reads.
fn long_film(size_bytes: usize) -> Vec<u8> {
    let mut film = sample(2, "320x180", "25");
    let padding = u32::try_from(size_bytes - film.len()).unwrap();
    film.extend_from_slice(&padding.to_be_bytes());
    film.extend_from_slice(b"free");
    film.resize(size_bytes, 0);
    film
}

#[tokio::test]
async fn what_comes_from_a_pipe_is_uploaded_over_a_restart_of_the_server() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&cluster.url, u64::MAX).await;
    let film = long_film(20 << 20);
    let args = ["upload", "-", "--name", "film.mp4", "--type", "video/mp4", "--wait", "--json"];
    let server = ["--url", &proxy.url, "--api-key", &cluster.key];
    let mut command = program(home.path(), &[&args[..], &server].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let (first, rest) = film.split_at(9 << 20);
    let (first, rest) = (first.to_vec(), rest.to_vec());
    // The second part waits for the restart, off the thread that the way to the server runs on.
    let (restarted, is_restarted) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        pipe.write_all(&first)?;
        is_restarted.recv().unwrap();
        pipe.write_all(&rest)
    });
    // It begins before the pipe has ended, and nobody knows how long it will be.
    let created = cluster.event("upload.created", |event| event.kind == "upload.created").await;
    assert_eq!(created.data["length_bytes"], json!(null), "{}", created.data);
    let ready = cluster.restart("ingress");
    cluster.url = ready["url"].as_str().unwrap().to_owned();
    proxy.lead_to(&cluster.url);
    restarted.send(()).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let said: Said = tokio::time::timeout(WAIT_MAX, ended).await.unwrap().unwrap().into();
    assert_eq!(said.status, 0, "{said:?}\n{}", cluster.logs());
    writing.join().unwrap().unwrap();
    let answer = &said.json()[0];
    assert_eq!(answer["status"], "ready", "{answer}");
    let media_id = answer["media_id"].as_str().unwrap();
    let medium = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(
        (&medium["title"], &medium["source"]["size_bytes"]),
        (&json!("film.mp4"), &json!(20 << 20)),
        "{medium}"
    );
    let created = cluster.all_events().await.iter().filter(|event| event.kind == "upload.created").count();
    assert_eq!(created, 1, "one upload, over the restart");
}

#[tokio::test]
async fn a_pipe_of_little_or_nothing_is_said() {
    let cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("film.mp4");
    std::fs::write(&file, sample(1, "160x90", "25")).unwrap();
    let upload = |more: &[&str], stdin: Stdio| {
        let args = [&["upload", "--url", &cluster.url, "--api-key", &cluster.key][..], more].concat();
        let mut command = program(home.path(), &args);
        command.stdin(stdin);
        run(command)
    };
    let nothing = upload(&["-"], Stdio::null()).await;
    assert!(nothing.status == 1 && nothing.err.contains("nothing came from standard input"), "{nothing:?}");
    let twice = upload(&["-", "-"], Stdio::null()).await;
    assert!(twice.status == 1 && twice.err.contains("can be read once"), "{twice:?}");
    let named = upload(&["-", "film.mp4", "--name", "x"], Stdio::null()).await;
    assert!(named.status == 1 && named.err.contains("--name and --type are for one file"), "{named:?}");
    // Little, and a file beside it.
    let both = upload(&["-", "film.mp4", "--json"], std::fs::File::open(&file).unwrap().into()).await;
    assert_eq!((both.status, both.json().len()), (0, 2), "{both:?}");
    let mut titles = Vec::new();
    for answer in both.json() {
        let path = format!("/v1/media/{}", answer["media_id"].as_str().unwrap());
        titles.push(cluster.get(&path).await["title"].clone());
    }
    assert_eq!(titles, [json!("stdin"), json!("film.mp4")]);
}

#[tokio::test]
async fn a_bar_claims_no_speed_and_no_end_before_it_knows_them() {
    let cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("film.mp4"), long_film(3 << 20)).unwrap();
    let upload = format!(
        "{} upload film.mp4 --url {} --api-key {}",
        env!("CARGO_BIN_EXE_streamgate"),
        cluster.url,
        cluster.key
    );
    // A terminal, as `script` of util-linux makes one.
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &upload, "/dev/null"]);
    command
        .current_dir(home.path())
        .env("XDG_STATE_HOME", home.path())
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    let said = run(command).await;
    assert_eq!(said.status, 0, "{said:?}");
    let first = said.out.split("film.mp4 ").nth(1).unwrap();
    let first = first.split('\u{1b}').next().unwrap().trim();
    assert!(first.ends_with("0 B of 3.00 MiB"), "neither a speed nor an end: {first:?}");
    assert!(!said.out.contains("0s left") && !said.out.contains(" 0.0 s left"), "{said:?}");
}
