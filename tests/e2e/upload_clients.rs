//! Upload clients of other projects, as they are, with all their options and our defaults.
//!
//! Limits: 160 uploads at once; 20 s for each step in the browser.

use std::{process::Output, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    flow::check_plays,
    harness::{Cluster, Options, sample},
    site::serve_site,
    tus::offset,
    webdriver::{Browser, Page},
};

/// Longest run of a client.
const CLIENT_MAX: Duration = Duration::from_secs(60);

/// Uploads that one person begins at once.
const CROWD: usize = 160;

/// Runs a client to its end.
async fn run(mut client: Command) -> Output {
    let output = client.kill_on_drop(true).output();
    tokio::time::timeout(CLIENT_MAX, output).await.expect("the client ends").unwrap()
}

async fn script(cluster: &Cluster, file: &[u8], program: &[&str], more: &[&str]) -> Output {
    let path = cluster.dir.path().join("clip.mp4");
    std::fs::write(&path, file).unwrap();
    let root = std::env::current_dir().unwrap();
    let mut client = Command::new(program[0]);
    client
        .args(&program[1..])
        .env("PYTHONPATH", root.join(".tools/python"))
        // With a slash, as its documentation writes it.
        .args([format!("{}/v1/uploads/", cluster.url), cluster.key.clone()])
        .arg(path)
        .args(more);
    run(client).await
}

/// The addresses that a client printed.
fn addresses(output: &Output) -> Vec<String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.lines().map(str::to_owned).collect()
}

/// The medium of an upload whose bytes are all there; it plays.
async fn check_upload(cluster: &mut Cluster, address: &str, size: usize, what: &str) {
    let path = address.strip_prefix(&cluster.url).unwrap_or_else(|| panic!("{what}: {address}")).to_owned();
    let document = cluster.get(&format!("{path}/status")).await;
    let media_id = document["media_id"].as_str().unwrap().to_owned();
    let received = cluster
        .event("upload.received", |event| {
            event.kind == "upload.received" && event.media_id.as_deref() == Some(&media_id)
        })
        .await;
    assert_eq!(received.data["size_bytes"], json!(size), "{what}");
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded", "{what}");
    check_plays(cluster, &media_id, 2.0, 0.04).await;
}

/// How many media there are.
async fn count_media(cluster: &Cluster) -> usize {
    cluster.get("/v1/media?limit=100").await["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn tus_js_client_uploads_with_all_its_options() {
    let mut cluster = Cluster::start(Options::default()).await;
    let film = sample(2, "320x180", "25");
    let options = [
        json!({}),
        json!({ "chunkSize": 10_000 }),
        json!({ "parallelUploads": 3 }),
        json!({ "parallelUploads": 2, "chunkSize": 10_000, "uploadDataDuringCreation": true }),
        json!({ "uploadLengthDeferred": true, "chunkSize": 10_000 }),
        json!({ "uploadDataDuringCreation": true }),
        json!({ "overridePatchMethod": true, "addRequestId": true }),
        json!({ "protocol": "ietf-draft-03" }),
        json!({ "protocol": "ietf-draft-03", "chunkSize": 10_000, "uploadDataDuringCreation": true }),
        json!({ "protocol": "ietf-draft-05" }),
        json!({ "protocol": "ietf-draft-05", "uploadDataDuringCreation": true }),
        json!({ "protocol": "ietf-draft-05", "chunkSize": 10_000, "uploadLengthDeferred": true }),
        json!({ "protocol": "ietf-draft-05", "chunkSize": 10_000, "overridePatchMethod": true }),
    ];
    for (count, options) in options.iter().enumerate() {
        let what = options.to_string();
        let output = script(&cluster, &film, &["node", "tests/e2e/upload_clients/tus.mjs"], &[&what]).await;
        let [address] = addresses(&output).try_into().unwrap();
        check_upload(&mut cluster, &address, film.len(), &what).await;
        assert_eq!(count_media(&cluster).await, count + 1, "{what}: a part is no medium");
    }
}

#[tokio::test]
async fn what_a_draft_has_no_word_for_is_refused_and_makes_no_medium() {
    let cluster = Cluster::start(Options::default()).await;
    let options = json!({ "protocol": "ietf-draft-05", "parallelUploads": 2 }).to_string();
    let program = ["node", "tests/e2e/upload_clients/tus.mjs"];
    let output = script(&cluster, &sample(2, "320x180", "25"), &program, &[&options]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("upload-concat is not known here"), "{said}");
    assert_eq!(count_media(&cluster).await, 0);
}

#[tokio::test]
async fn many_uploads_of_one_person_begin_at_once() {
    let cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    let output = script(
        &cluster,
        b"bytes",
        &["node", "tests/e2e/upload_clients/tus.mjs"],
        &["{}", &CROWD.to_string()],
    )
    .await;
    let found = addresses(&output);
    assert_eq!(found.len(), CROWD);
    for address in found {
        assert_eq!(offset(&cluster, address.strip_prefix(&cluster.url).unwrap()).await, 5);
    }
}

#[tokio::test]
async fn aiotus_uploads_one_file_and_several_as_one() {
    let mut cluster = Cluster::start(Options::default()).await;
    let film = sample(2, "320x180", "25");
    for parts in [1, 3] {
        let program = r#"
import asyncio, io, sys, aiotus
url, key, path, parts = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
data = open(path, "rb").read()
more = {"metadata": {"filename": b"clip.mp4"}, "headers": {"Authorization": "Bearer " + key}}
cuts = [len(data) * n // parts for n in range(parts + 1)]
files = [io.BytesIO(data[begin:end]) for begin, end in zip(cuts, cuts[1:])]
sent = aiotus.upload(url, files[0], **more) if parts == 1 else aiotus.upload_multiple(url, files, **more)
print(asyncio.run(sent))
"#;
        let output = script(&cluster, &film, &["python3", "-c", program], &[&parts.to_string()]).await;
        let [address] = addresses(&output).try_into().unwrap();
        check_upload(&mut cluster, &address, film.len(), &format!("{parts} parts")).await;
    }
    assert_eq!(count_media(&cluster).await, 2);
}

/// The value of a field in the heads that curl wrote, of the first that has it.
fn field(heads: &str, name: &str) -> Option<String> {
    let named = |line: &str| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    heads.lines().find_map(named)
}

#[tokio::test]
async fn curl_goes_on_where_a_resumable_upload_was_cut() {
    let mut cluster = Cluster::start(Options::default()).await;
    let film = sample(2, "320x180", "25");
    let (whole, rest) = (cluster.dir.path().join("clip.mp4"), cluster.dir.path().join("rest"));
    std::fs::write(&whole, &film).unwrap();
    let key = format!("Authorization: Bearer {}", cluster.key);
    let url = format!("{}/v1/uploads", cluster.url);
    let curl = |more: &[&str]| {
        let mut client = Command::new("curl");
        client.args(["--silent", "--dump-header", "-", "-H", &key, "-H", "Upload-Draft-Interop-Version: 8"]);
        client.args(more);
        run(client)
    };
    let body = |path: &std::path::Path| format!("@{}", path.display());
    // Slow enough that it is cut before its end.
    let rate = (film.len() / 10).to_string();
    let first = [
        "-H",
        "Upload-Complete: ?1",
        "-H",
        "Content-Type: video/mp4",
        "--limit-rate",
        &rate,
        "--max-time",
        "2",
    ];
    let cut = curl(&[&first[..], &["--data-binary", &body(&whole), &url]].concat()).await;
    assert_eq!(cut.status.code(), Some(28), "curl ran out of its time");
    let heads = String::from_utf8_lossy(&cut.stdout).into_owned();
    assert!(heads.contains("HTTP/1.1 104 Upload Resumption Supported"), "{heads}");
    let address = field(&heads, "location").unwrap();

    let asked = String::from_utf8_lossy(&curl(&["--head", &address]).await.stdout).into_owned();
    assert!(asked.starts_with("HTTP/1.1 204"), "{asked}");
    assert_eq!(field(&asked, "upload-complete").as_deref(), Some("?0"));
    let begun: usize = field(&asked, "upload-offset").unwrap().parse().unwrap();
    assert!(begun > 0 && begun < film.len(), "{asked}");
    std::fs::write(&rest, &film[begun..]).unwrap();
    let place = format!("Upload-Offset: {begun}");
    let last = [
        "-X",
        "PATCH",
        "-H",
        &place,
        "-H",
        "Upload-Complete: ?1",
        "-H",
        "Content-Type: application/partial-upload",
    ];
    // Another version of HTTP, which has the same answer without interim responses.
    let done =
        curl(&[&last[..], &["--http2-prior-knowledge", "--data-binary", &body(&rest), &address]].concat())
            .await;
    let done = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.starts_with("HTTP/2 201"), "{done}");
    assert_eq!(field(&done, "upload-complete").as_deref(), Some("?1"));
    check_upload(&mut cluster, &address, film.len(), "a cut upload").await;
    assert_eq!(count_media(&cluster).await, 1);
}

#[tokio::test]
async fn curl_uploads_a_file_by_its_name() {
    let mut cluster = Cluster::start(Options::default()).await;
    let film = sample(2, "320x180", "25");
    let path = cluster.dir.path().join("holiday clip.mp4");
    std::fs::write(&path, &film).unwrap();
    for way in [
        ["-T", path.to_str().unwrap()].as_slice(),
        &["--http2-prior-knowledge", "-T", path.to_str().unwrap()],
    ] {
        let mut client = Command::new("curl");
        client
            .args(["--silent", "--show-error", "--fail-with-body", "-H"])
            .arg(format!("Authorization: Bearer {}", cluster.key))
            .args(way)
            .arg(format!("{}/v1/files/", cluster.url));
        let output = run(client).await;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{answer} {}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_str(&answer).unwrap();
        let media_id = document["media_id"].as_str().unwrap().to_owned();
        assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
        assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["title"], "holiday clip.mp4");
    }
}

async fn upload_with_uppy(page: &Page, site: &str, cluster: &Cluster, options: &Value) -> String {
    let mut url = url::Url::parse(site).unwrap();
    url.query_pairs_mut()
        .append_pair("url", &format!("{}/v1/uploads/", cluster.url))
        .append_pair("key", &cluster.key)
        .append_pair("options", &options.to_string());
    page.open(url.as_str()).await;
    page.until("window.seen").await;
    let seen = page.run("return window.seen").await;
    assert_eq!(seen["failed"], json!([]), "{options}");
    page.check_console().await;
    seen["urls"][0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn uppy_uploads_from_another_site() {
    let film = sample(2, "320x180", "25");
    let site = serve_site("upload_clients", film.clone()).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let open = cluster.spawn("ingress-2", &["ingress", "--listen", "127.0.0.1:0", "--allow-origin", &site]);
    open["url"].as_str().unwrap().clone_into(&mut cluster.url);
    let mut count = 0;
    for &browser in Browser::installed() {
        let mut found = Vec::new();
        browser
            .run(false, async |page| {
                let parallel = json!({ "parallelUploads": 2, "chunkSize": 10_000 });
                for options in [json!({ "addRequestId": true }), parallel] {
                    found.push((upload_with_uppy(page, &site, &cluster, &options).await, options));
                }
            })
            .await;
        for (address, options) in found {
            check_upload(&mut cluster, &address, film.len(), &format!("{browser:?} {options}")).await;
            count += 1;
        }
        assert_eq!(count_media(&cluster).await, count, "each is a medium, and no part is");
    }
}
