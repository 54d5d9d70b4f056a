//! Bytes in: one large upload against `cat` and fdatasync on the same disk; memory of many slow ones.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
    time::Instant,
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{Aim, Row, median, process::resident_kb, server::Server, size};

/// Creates an upload at a tus server and gives the path of its address.
pub(crate) async fn create(url: &str, key: &str, length: u64) -> String {
    let answer = reqwest::Client::new()
        .post(format!("{url}/v1/uploads"))
        .bearer_auth(key)
        .header("tus-resumable", "1.0.0")
        .header("upload-length", length)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().unwrap();
    reqwest::Url::parse(url).unwrap().join(location).unwrap().path().to_owned()
}

fn head(url: &str, key: &str, path: &str, length: u64) -> String {
    let host = url.strip_prefix("http://").unwrap();
    format!(
        "PATCH {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n",
    )
}

/// One PATCH from a file over a plain socket, so that the client costs as little as `cat` does; the seconds until its answer.
pub(crate) fn patch(url: &str, key: &str, path: &str, file: &Path, length: u64) -> f64 {
    let started = Instant::now();
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(head(url, key, path, length).as_bytes()).unwrap();
    let mut source = std::fs::File::open(file).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = source.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        stream.write_all(&buffer[..count]).unwrap();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204", "{}", String::from_utf8_lossy(&answer));
    started.elapsed().as_secs_f64()
}

pub(crate) async fn throughput() -> Row {
    let mib = size("BENCH_UPLOAD_MIB", 1024);
    let length = mib * 1024 * 1024;
    let server = Server::start("");
    let source = server.dir.path().join("source");
    let status = Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", &format!("count={mib}"), "status=none"])
        .arg(format!("of={}", source.display()))
        .status();
    assert!(status.unwrap().success());
    let copy = server.dir.path().join("copy");
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let started = Instant::now();
        let script =
            format!("cat '{}' > '{}' && sync -d '{}'", source.display(), copy.display(), copy.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        plain.push(mib as f64 / started.elapsed().as_secs_f64());
        std::fs::remove_file(&copy).unwrap();
        let path = create(&server.url, &server.key, length).await;
        ours.push(mib as f64 / patch(&server.url, &server.key, &path, &source, length));
    }
    Row {
        name: "one tus upload",
        ours: median(ours),
        baseline: median(plain),
        unit: "MiB/s",
        against: "cat + fdatasync",
        aim: Aim::RatioLeast(0.55),
    }
}

pub(crate) async fn memory_per_slow_upload() -> Row {
    let count = size("BENCH_SLOW", 1_000);
    let server = Server::start(
        "[ingress.uploads]\nopen_per_owner_max = 100000\n\
         [ingress.limit]\nreplicas_assumed_count = 1\n\
         [ingress.limit.rates.upload]\ncapacity = 100000\nrefill_per_s = 1000\n",
    );
    let mut streams = Vec::new();
    let mut paths = Vec::new();
    for _ in 0..count {
        paths.push(create(&server.url, &server.key, 1 << 30).await);
    }
    let before = resident_kb(server.pid());
    for path in &paths {
        let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(head(&server.url, &server.key, path, 1 << 30).as_bytes()).await.unwrap();
        stream.write_all(&vec![7; 128 * 1024]).await.unwrap();
        streams.push(stream);
    }
    // All of them trickle for a while, as phones on bad networks do.
    for _ in 0..5 {
        for stream in &mut streams {
            stream.write_all(&[7; 4096]).await.unwrap();
        }
    }
    let after = resident_kb(server.pid());
    Row {
        name: "memory of one slow upload",
        ours: (after - before) / count as f64,
        baseline: 200.0,
        unit: "kB",
        against: "-",
        aim: Aim::Most(200.0),
    }
}
