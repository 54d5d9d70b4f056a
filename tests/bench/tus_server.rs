//! One upload at `streamgate up` and at @tus/server, with the same client on the same disk: speed, memory, and the time until
//! the medium is verified.
//!
//! The other server writes through its file store and syncs nothing; ours has every byte on the disk before it answers.

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Aim, Row, median, process::peak_resident_kb, server::Server, size, uploads};

const ROUNDS: usize = 5;
const SCRIPT: &str = include_str!("tus_server/server.mjs");

struct TusServer {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl TusServer {
    fn start() -> Self {
        let folder = tempfile::tempdir_in("target").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("node")
            .args(["--input-type=module", "--eval", SCRIPT, &port.to_string()])
            .arg(std::fs::canonicalize(folder.path()).unwrap())
            // What it imports is installed there.
            .current_dir(".tools/tus_server")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "@tus/server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, url: format!("http://127.0.0.1:{port}"), _folder: folder }
    }
}

impl Drop for TusServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A WAV file of noise: nothing about it can be guessed, and it is verified in full like any other medium.
fn write_noise(path: &Path, length: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let u32_of = |value: u64| u32::try_from(value).unwrap().to_le_bytes();
    file.write_all(b"RIFF").unwrap();
    file.write_all(&u32_of(length - 8)).unwrap();
    // PCM, two channels of 16 bits at 48 kHz.
    file.write_all(b"WAVEfmt \x10\0\0\0\x01\0\x02\0\x80\xbb\0\0\0\xee\x02\0\x04\0\x10\0data").unwrap();
    file.write_all(&u32_of(length - 44)).unwrap();
    let mut noise = std::io::Read::take(std::fs::File::open("/dev/urandom").unwrap(), length - 44);
    std::io::copy(&mut noise, &mut file).unwrap();
    file.sync_all().unwrap();
}

/// Waits until the medium of an upload has been verified.
async fn wait_until_stored(server: &Server, upload_path: &str) {
    let client = reqwest::Client::new();
    let read = async |path: &str| -> Value {
        let url = format!("{}{path}", server.url);
        client.get(url).bearer_auth(&server.key).send().await.unwrap().json().await.unwrap()
    };
    let upload = read(&format!("{upload_path}/status")).await;
    let path = format!("/v1/media/{}", upload["media_id"].as_str().unwrap());
    let started = Instant::now();
    loop {
        let media = read(&path).await;
        match media["status"].as_str().unwrap() {
            "uploading" => {}
            "rejected" | "failed" => panic!("{media}"),
            _ => return,
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{media}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Speed of one PATCH, peak memory of the process, and bytes verified in a second from the first one sent.
pub(crate) async fn against_tus_server() -> Vec<Row> {
    let mib = size("BENCH_TUS_MIB", 256);
    let length = mib * 1024 * 1024;
    let folder = tempfile::tempdir_in("target").unwrap();
    let source = folder.path().join("noise.wav");
    write_noise(&source, length);
    let speed = |seconds: f64| mib as f64 / seconds;
    let (mut ours, mut stored, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_peaks, mut their_peaks) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Each round has servers of its own: a medium that is being encoded would slow the next one down.
        let other = TusServer::start();
        let path = uploads::create(&other.url, "none", length).await;
        theirs.push(speed(uploads::patch(&other.url, "none", &path, &source, length)));
        their_peaks.push(peak_resident_kb(other.child.id()) / 1024.0);
        drop(other);
        let server = Server::start("");
        let path = uploads::create(&server.url, &server.key, length).await;
        let started = Instant::now();
        ours.push(speed(uploads::patch(&server.url, &server.key, &path, &source, length)));
        our_peaks.push(peak_resident_kb(server.pid()) / 1024.0);
        wait_until_stored(&server, &path).await;
        stored.push(speed(started.elapsed().as_secs_f64()));
    }
    let row = |name, ours, baseline, unit, aim| Row {
        name,
        ours: median(ours),
        baseline: median(baseline),
        unit,
        against: "@tus/server",
        aim,
    };
    vec![
        row("one tus upload, on the disk", ours, theirs.clone(), "MiB/s", Aim::RatioLeast(1.5)),
        row("the same until it is verified", stored, theirs, "MiB/s", Aim::RatioLeast(1.0)),
        row("peak memory of the process", our_peaks, their_peaks, "MiB", Aim::RatioMost(0.3)),
    ]
}
