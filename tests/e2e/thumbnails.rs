//! Pictures at times: each is the one that is shown then, as wide as it was wanted, and only those see it who may.

use std::process::Command;

use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    cli::{program, run},
    harness::{Cluster, Options, WAIT_MAX, clip, poll},
};

/// Four seconds: black, red, green and blue, one each.
fn colours() -> Vec<u8> {
    let colour = |name: &str| format!("color={name}:size=320x180:rate=30:duration=1");
    let inputs: Vec<String> = ["black", "red", "lime", "blue"].map(colour).to_vec();
    let mut args: Vec<&str> = inputs.iter().flat_map(|input| ["-f", "lavfi", "-i", input]).collect();
    args.extend(["-filter_complex", "concat=n=4", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p"]);
    clip(&args, "mp4")
}

async fn ask(cluster: &Cluster, media_id: &str, query: &str) -> Response {
    cluster.request(Method::GET, &format!("/v1/media/{media_id}/thumbnail?{query}")).send().await.unwrap()
}

async fn code(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// Has pictures made; answers how the job ended.
async fn make(cluster: &Cluster, job: &Value) -> Value {
    let answer = cluster.request(Method::POST, "/v1/jobs").json(&json!({ "job": job })).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await.unwrap());
    let begun: Value = answer.json().await.unwrap();
    let path = format!("/v1/jobs/{}", begun["job_id"].as_str().unwrap());
    let ended = async || Some(cluster.get(&path).await).filter(|job| job["status"] != "active");
    poll(WAIT_MAX, ended).await.unwrap()
}

/// Width, height and the mean colour of a picture.
fn look(folder: &std::path::Path, bytes: &[u8]) -> (u32, u32, [u8; 3]) {
    let path = folder.join("picture.jpg");
    std::fs::write(&path, bytes).unwrap();
    let size = imagesize_of(&path);
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&path)
        .args(["-vf", "scale=1:1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    (size.0, size.1, output.stdout[..3].try_into().unwrap())
}

fn imagesize_of(path: &std::path::Path) -> (u32, u32) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (width, height) = text.trim().split_once(',').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

#[tokio::test]
async fn a_picture_is_the_one_that_is_shown_then() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(colours(), "colours.mp4").await;
    cluster.media_event("media.stored", &media_id).await;
    let early = json!({ "job": { "kind": "thumbnails", "media_id": media_id, "times_ms": [0] } });
    let answer = cluster.request(Method::POST, "/v1/jobs").json(&early).send().await.unwrap();
    assert_eq!(code(answer).await, (409, "nothing_stored".into()), "it is not ready");
    cluster.media_event("media.ready", &media_id).await;
    assert_eq!(code(ask(&cluster, &media_id, "t=1.5").await).await, (404, "thumbnail_missing".into()));
    let times: Vec<u64> = vec![0, 999, 1_000, 2_500, 3_999];
    let job = json!({ "kind": "thumbnails", "media_id": media_id, "times_ms": times, "width": 160 });
    let ended = make(&cluster, &job).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(ended["thumbnails"]["width"], 160);
    for (query, wanted) in [
        ("t=0&width=160", [0, 0, 0]),
        ("t=0.999&width=160", [0, 0, 0]),
        ("t=1&width=160", [254, 0, 0]),
        ("t=2.5&width=160", [0, 255, 0]),
        ("t=3.999&width=160", [0, 0, 254]),
    ] {
        let answer = ask(&cluster, &media_id, query).await;
        assert_eq!(answer.status(), StatusCode::OK, "{query}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "image/jpeg");
        let (width, height, colour) = look(cluster.dir.path(), &answer.bytes().await.unwrap());
        assert_eq!((width, height), (160, 90));
        let is_near = colour.iter().zip(wanted).all(|(found, wanted): (&u8, u8)| found.abs_diff(wanted) < 12);
        assert!(is_near, "{query}: {colour:?}");
    }
    assert_eq!(
        code(ask(&cluster, &media_id, "t=1").await).await,
        (404, "thumbnail_missing".into()),
        "another width"
    );
    for query in ["", "t=-1", "t=x", "t=1&width=5", "t=1&width=9999", "t=1&x=1"] {
        assert_eq!(
            code(ask(&cluster, &media_id, query).await).await,
            (400, "query_malformed".into()),
            "{query}"
        );
    }
    for (member, value, wanted) in [
        ("times_ms", json!([]), (400, "request_invalid")),
        ("times_ms", json!(vec![1; 33]), (400, "request_invalid")),
        ("times_ms", json!([4_000]), (409, "nothing_stored")),
        ("width", json!(8), (400, "request_invalid")),
    ] {
        let mut job = job.clone();
        job[member] = value;
        let request = cluster.request(Method::POST, "/v1/jobs").json(&json!({ "job": job }));
        let found = code(request.send().await.unwrap()).await;
        assert_eq!(found, (wanted.0, wanted.1.to_owned()), "{job}");
    }
    check_visibility(&cluster, &media_id).await;
    let asked = ["media", "thumbnail", &media_id, "--at", "2.25", "-o", "sea.jpg", "--url", &cluster.url];
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path(), &[&asked[..], &["--api-key", &cluster.key]].concat())).await;
    assert_eq!((said.status, said.out.as_str()), (0, "sea.jpg\n"), "{said:?}");
    let bytes = std::fs::read(folder.path().join("sea.jpg")).unwrap();
    assert_eq!(look(folder.path(), &bytes).0, 320);
}

async fn check_visibility(cluster: &Cluster, media_id: &str) {
    let url = format!("{}/v1/media/{media_id}/thumbnail?t=1&width=160", cluster.url);
    let anonymous = async || cluster.http.get(&url).send().await.unwrap().status();
    assert_eq!(anonymous().await, StatusCode::NOT_FOUND, "it is its owner's");
    let gate = cluster.request(Method::PUT, &format!("/v1/media/{media_id}/gate"));
    let gate = gate.header(header::IF_MATCH, "*").json(&json!({ "kind": "public" }));
    assert!(gate.send().await.unwrap().status().is_success());
    assert_eq!(anonymous().await, StatusCode::OK, "everybody plays it");
    let on = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}"));
    let on = on.header(header::IF_MATCH, "*").json(&json!({ "encryption": "aes_128" }));
    assert!(on.send().await.unwrap().status().is_success());
    assert_eq!(anonymous().await, StatusCode::NOT_FOUND, "nobody has in the clear what is encrypted");
    assert_eq!(ask(cluster, media_id, "t=1&width=160").await.status(), StatusCode::OK, "but its owner");
}
