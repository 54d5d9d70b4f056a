//! Resumable uploads by clients that are not ours: raw HTTP here, tuspy below.

use std::process::Command;

use reqwest::Method;

use crate::harness::{Cluster, Options, sample};

/// Opens an upload; answers its address and its medium.
pub(crate) async fn create(cluster: &Cluster, length: usize) -> (String, String) {
    let answer = cluster
        .request(Method::POST, "/v1/uploads")
        .header("tus-resumable", "1.0.0")
        .header("upload-length", length)
        .header("upload-metadata", "filename Y2xpcC5tcDQ=")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let path = reqwest::Url::parse(&header("location")).unwrap().path().to_owned();
    (path, header("streamgate-media-id"))
}

/// The offset the server promises.
pub(crate) async fn offset(cluster: &Cluster, location: &str) -> usize {
    let answer =
        cluster.request(Method::HEAD, location).header("tus-resumable", "1.0.0").send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.headers()["upload-offset"].to_str().unwrap().parse().unwrap()
}

fn patch_request(cluster: &Cluster, location: &str, offset: usize) -> reqwest::RequestBuilder {
    cluster
        .request(Method::PATCH, location)
        .header("tus-resumable", "1.0.0")
        .header("content-type", "application/offset+octet-stream")
        .header("upload-offset", offset)
}

/// Appends; answers the new offset.
pub(crate) async fn patch(cluster: &Cluster, location: &str, offset: usize, bytes: &[u8]) -> usize {
    let answer = patch_request(cluster, location, offset).body(bytes.to_vec()).send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    answer.headers()["upload-offset"].to_str().unwrap().parse().unwrap()
}

/// Begins to append `bytes` of a longer body and leaves the connection hanging, as a client does that lost its network.
pub(crate) async fn start_patch(cluster: &Cluster, location: &str, bytes: &[u8], length: usize) {
    use tokio::io::AsyncWriteExt;
    let address = cluster.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: {length}\r\n\r\n",
        cluster.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    // Kept open until the process ends: the server sees neither an end nor a reset.
    std::mem::forget(stream);
}

#[tokio::test]
async fn tuspy_uploads_and_resumes_after_a_cut() {
    let mut cluster = Cluster::start(Options::default()).await;
    let source = sample(10, "640x360", "25");
    let path = cluster.dir.path().join("clip.mp4");
    std::fs::write(&path, &source).unwrap();
    let script = r#"
import os, sys
from tusclient import client
url, key, path, cut = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
tus = client.TusClient(url + "/v1/uploads", headers={"Authorization": "Bearer " + key})
first = tus.uploader(path, chunk_size=64 * 1024, metadata={"filename": "clip.mp4"}, upload_checksum=True)
first.upload(stop_at=cut)
assert 0 < first.offset < os.path.getsize(path), first.offset
again = tus.uploader(path, chunk_size=256 * 1024, url=first.url, upload_checksum=True)
assert again.offset == first.offset, (again.offset, first.offset)
again.upload()
assert again.offset == os.path.getsize(path)
print(again.url)
"#;
    let python = std::env::current_dir().unwrap().join(".tools/python");
    let output = Command::new("python3")
        .env("PYTHONPATH", python)
        .args(["-c", script, &cluster.url, &cluster.key])
        .arg(&path)
        .arg((source.len() / 2).to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), cluster.logs());
    let received = cluster.event("upload.received", |event| event.kind == "upload.received").await;
    assert_eq!(received.data["size_bytes"].as_u64().unwrap(), source.len() as u64);
    let media_id = received.media_id.unwrap();
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    crate::flow::check_plays(&cluster, &media_id, 10.0, 0.04).await;
}

#[tokio::test]
async fn two_replicas_continue_each_others_upload_on_s3() {
    let mut cluster = Cluster::start(Options { remote_store: true, ..Options::default() }).await;
    let second = cluster.spawn("ingress-2", &["ingress", "--listen", "127.0.0.1:0"]);
    let first_url = cluster.url.clone();
    let mut source = sample(6, "320x180", "25");
    // A free box makes the file long enough for several parts.
    let padding = 12 * 1024 * 1024_u32;
    source.extend((padding + 8).to_be_bytes());
    source.extend(*b"free");
    source.resize(source.len() + padding as usize, 0x55);
    let (location, media_id) = create(&cluster, source.len()).await;
    let cuts = [0, 100_000, 6_000_000, 6_000_001, source.len()];
    for (turn, ends) in cuts.windows(2).enumerate() {
        let url = if turn % 2 == 0 { &first_url } else { second["url"].as_str().unwrap() };
        cluster.url = url.to_owned();
        assert_eq!(offset(&cluster, &location).await, ends[0]);
        assert_eq!(patch(&cluster, &location, ends[0], &source[ends[0]..ends[1]]).await, ends[1]);
    }
    let stored = cluster.media_event("media.stored", &media_id).await;
    assert_eq!(stored.data["source"]["size_bytes"].as_u64().unwrap(), source.len() as u64);
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
}

#[tokio::test]
async fn a_wrong_digest_or_length_never_becomes_media() {
    let mut cluster = Cluster::start(Options::default()).await;
    let source = sample(3, "320x180", "25");
    // SHA-256 of nothing.
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let answer = cluster
        .request(Method::POST, "/v1/media")
        .header("content-type", "video/mp4")
        .header("repr-digest", digest)
        .body(source.clone())
        .send()
        .await
        .unwrap();
    // Refused at once, or taken and rejected by the upload stage: never stored.
    if answer.status().is_success() {
        let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
        let end = cluster.end_of(&media_id).await;
        assert_eq!(
            (end.kind.as_str(), end.data["code"].as_str()),
            ("media.rejected", Some("digest_mismatch"))
        );
    } else {
        assert_eq!(answer.status(), 400);
    }
    let (location, _) = create(&cluster, source.len() - 1).await;
    let answer = patch_request(&cluster, &location, 0).body(source.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(offset(&cluster, &location).await, 0);
}
