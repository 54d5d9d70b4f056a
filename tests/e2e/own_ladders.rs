//! Renditions that were made elsewhere: published as they are, or refused with a reason while what played goes on playing.

use std::{path::PathBuf, process::Command};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Cluster, Options, sample};

/// Files that a person made with ffmpeg.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A rendition of 13 seconds at 25 frames a second, with these arguments behind the inputs.
    fn make(&self, name: &str, size: &str, args: &str) -> String {
        let picture = format!("testsrc2=duration=13:size={size}:rate=25,format=yuv420p");
        let path = self.path(name);
        let output = Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &picture])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:duration=13:sample_rate=44100"])
            .args(args.split(' '))
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        path.to_str().unwrap().to_owned()
    }
}

/// Keyframes each two seconds, and nowhere else.
const ALIGNED: &str = "-c:v libx264 -preset veryfast -bf 2 -force_key_frames expr:gte(t,n_forced*2) -sc_threshold 0 -c:a aac -ac 2";

/// What the command prints, and whether it went well.
async fn renditions(cluster: &Cluster, media_id: &str, files: &[&str]) -> (bool, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgate"));
    command.args(["--json", "media", "renditions", media_id]).args(files);
    command.args(["--url", &cluster.url, "--api-key", &cluster.key]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    let printed = out.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (ran.status.success(), printed, err)
}

/// Uploads a file whose encode waits; answers the id of its medium.
async fn upload_paused(cluster: &Cluster, file: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgate"));
    command.args(["--json", "upload", "--encode-paused", file]);
    command.args(["--url", &cluster.url, "--api-key", &cluster.key]);
    let sent = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said: Value = serde_json::from_slice(&sent.stdout).unwrap();
    said["media_id"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// Digests of the decoded frames, or of the packets, of one stream of an input.
fn digests(input: &str, map: &str, codec: &[&str]) -> Vec<String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i", input, "-map", map])
        .args(codec)
        .args(["-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

async fn playback(cluster: &Cluster, media_id: &str) -> String {
    let path = format!("/v1/media/{media_id}/playback");
    let answer = cluster.request(Method::POST, &path).send().await.unwrap();
    let opened: Value = answer.error_for_status().unwrap().json().await.unwrap();
    format!("{}{}", cluster.url, opened["hls_url"].as_str().unwrap())
}

async fn text(url: &str) -> String {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// A medium that plays, of another source.
async fn start() -> (Cluster, String) {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(13, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;
    (cluster, media_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_go_together_are_refused_and_the_old_encode_plays_on() {
    let (mut cluster, media_id) = start().await;
    let files = Files::new();
    let large = files.make("large.mp4", "640x360", ALIGNED);
    let before = cluster.get(&format!("/v1/media/{media_id}")).await;
    let shifted = ALIGNED.replace("n_forced*2", "n_forced*2.2");
    let shifted = files.make("shifted.mp4", "320x180", &shifted);
    let scattered = files.make("scattered.mp4", "320x180", "-c:v libx264 -g 400 -c:a aac");
    let short = files.make("short.mp4", "320x180", &format!("{ALIGNED} -t 11"));
    let other = files.make("other.mp4", "320x180", "-c:v mpeg4 -g 50 -c:a aac");
    let wide = files.make("wide.mp4", "320x180", &format!("{ALIGNED} -pix_fmt yuv444p"));
    let square = files.make("square.mp4", "240x240", ALIGNED);
    let mute = files.path("mute.m4a");
    let made = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-i", &large, "-vn", "-c:a", "libmp3lame", "-f", "mp4"])
        .arg(&mute)
        .output()
        .unwrap();
    assert!(made.status.success());
    let mute = mute.to_str().unwrap();
    for (second, code, said_of) in [
        (
            shifted.as_str(),
            "renditions_misaligned",
            ["2.000 s in large.mp4", "2.200 s in shifted.mp4", "-force_key_frames"],
        ),
        (&scattered, "rendition_keyframes", ["scattered.mp4", "regular distance", "-force_key_frames"]),
        (&short, "renditions_length", ["325 frames in large.mp4", "275 in short.mp4", "same source"]),
        (&other, "rendition_codec", ["other.mp4", "mpeg4", "libx264"]),
        (&square, "renditions_shape", ["640x360 in large.mp4", "240x240 in square.mp4", "one shape"]),
        (&wide, "rendition_colour", ["wide.mp4", "yuv444p", "yuv420p"]),
        (mute, "rendition_sound", ["mute.m4a", "mp3", "-c:a aac"]),
    ] {
        let (went_well, job, said) = renditions(&cluster, &media_id, &[&large, second]).await;
        assert!(!went_well && said.contains(code), "{code}: {said}\n{job}\n{}", cluster.logs());
        assert_eq!((&job["status"], &job["code"]), (&"failed".into(), &code.into()), "{job}");
        let detail = job["detail"].as_str().unwrap();
        assert!(said_of.iter().all(|part| detail.contains(part)), "{code}: {detail}");
        let after = cluster.get(&format!("/v1/media/{media_id}")).await;
        assert_eq!((&after["status"], &after["encode"]), (&before["status"], &before["encode"]), "{after}");
    }
    let master = text(&playback(&cluster, &media_id).await).await;
    assert!(master.contains("RESOLUTION=320x180") && !master.contains("640x360"), "{master}");

    cluster.check_running();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rendition_is_refused_at_once() {
    let (mut cluster, media_id) = start().await;
    let path = format!("/v1/media/{media_id}/transcode");
    let whole = cluster
        .request(Method::POST, "/v1/uploads")
        .header("Tus-Resumable", "1.0.0")
        .header("Upload-Length", "5");
    let whole = whole.send().await.unwrap();
    let location = whole.headers()["location"].to_str().unwrap().to_owned();
    let whole_id = location.rsplit('/').next().unwrap();
    for upload_id in [whole_id, "06db00820dt0303jc5mn0r355k"] {
        let body = json!({ "renditions": [upload_id] });
        let answer = cluster.request(Method::POST, &path).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((status, &problem["code"]), (422, &"renditions_invalid".into()), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/renditions/0", "{problem}");
    }
    let upload = |concat: &str, length: &str| {
        let request = cluster.request(Method::POST, "/v1/uploads").header("Tus-Resumable", "1.0.0");
        let request = request.header("Upload-Concat", concat);
        if concat == "partial" { request.header("Upload-Length", length) } else { request }
    };
    let created = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        answer.headers()["location"].to_str().unwrap().to_owned()
    };
    let taken = created(upload("partial", "5")).await;
    let waiting = created(upload("partial", "5")).await;
    created(upload(&format!("final;{taken} {waiting}"), "")).await;
    let body = json!({ "renditions": [taken.rsplit('/').next().unwrap()] });
    let answer = cluster.request(Method::POST, &path).json(&body).send().await.unwrap();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "renditions_invalid", "{problem}");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("final upload"), "{problem}");
    cluster.check_running();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ladder_that_was_made_elsewhere_plays_as_it_is() {
    let (mut cluster, media_id) = start().await;
    let files = Files::new();
    let large = files.make("large.mp4", "640x360", ALIGNED);
    // Another decoding order, and more keyframes than the others.
    let middle = files.make(
        "middle.mp4",
        "426x240",
        &ALIGNED.replace("-bf 2", "-bf 4").replace("n_forced*2", "n_forced*1"),
    );
    std::fs::write(files.path("title.ttf"), "a font").unwrap();
    let font = files.path("title.ttf").display().to_string();
    let attached = format!("-attach {font} -metadata:s:t mimetype=application/x-truetype-font");
    let small =
        files.make("small.mkv", "256x144", &format!("{} {attached}", ALIGNED.replace("-bf 2", "-bf 0")));
    let (went_well, job, said) = renditions(&cluster, &media_id, &[&small, &large, &middle]).await;
    assert!(went_well, "{said}\n{job}\n{}", cluster.logs());
    let rungs = job["plan"]["video"]["rungs"].as_array().unwrap();
    let heights: Vec<u64> = rungs.iter().map(|rung| rung["height"].as_u64().unwrap()).collect();
    assert_eq!(heights, [360, 240, 144], "{job}");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    let warnings = document["encode"]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["code"] == "data_track_dropped"), "{document}");

    let url = playback(&cluster, &media_id).await;
    let master = text(&url).await;
    for size in ["640x360", "426x240", "256x144"] {
        assert!(master.contains(&format!("RESOLUTION={size}")), "{master}");
    }
    let base = url.rsplit_once('/').unwrap().0;
    for (name, file) in [("v360", &large), ("v240", &middle), ("v144", &small)] {
        let played = format!("{base}/{name}/index.m3u8");
        assert_eq!(digests(&played, "0:v", &[]), digests(file, "0:v", &[]), "{name}: other frames");
        // Byte by byte: no encoder ran.
        let copy = ["-c", "copy"];
        assert_eq!(digests(&played, "0:v", &copy), digests(file, "0:v", &copy), "{name}: other bytes");
    }
    // The packets of the first file that has sound, without those before its beginning.
    let sound = digests(&format!("{base}/a0/index.m3u8"), "0:a", &["-c", "copy"]);
    let packets = digests(&small, "0:a", &["-c", "copy"]);
    let at =
        packets.iter().position(|packet| *packet == sound[0]).expect("the first packet is one of the file's");
    assert!(at <= 2, "{at} packets are left out");
    assert_eq!(sound[..], packets[at..at + sound.len()]);
    let seconds = sound.len() as f64 * 1_024.0 / 44_100.0;
    assert!((seconds - 13.0).abs() < 0.05, "{seconds} s of sound");
    // All else of an encode is there, too.
    for path in ["poster.jpg", "manifest.mpd", "storyboard.vtt", "v240/iframes.m3u8"] {
        let answer = reqwest::get(format!("{base}/{path}")).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }

    // The files are no media, and count as uploads do.
    let list = cluster.get("/v1/media").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let args = ["media", "verify", &media_id, "--url", &cluster.url, "--api-key", &cluster.key];
    let verified = Command::new(env!("CARGO_BIN_EXE_streamgate")).args(args).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    cluster.check_running();
}

/// The source is stored and never encoded; all that plays was made elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_ladder_of_ones_own_needs_no_encode_before_it() {
    let mut cluster = Cluster::start(Options::default()).await;
    let files = Files::new();
    let source = files.make("film.mp4", "640x360", ALIGNED);
    let small = files.make("small.mp4", "320x180", ALIGNED);
    let media_id = upload_paused(&cluster, &source).await;
    // At once: the command waits until the source is verified.
    let (went_well, job, said) = renditions(&cluster, &media_id, &[&source, &small]).await;
    assert!(went_well, "{said}\n{job}\n{}", cluster.logs());
    let cancelled = cluster.media_event("job.cancelled", &media_id).await;
    let first_id = cancelled.data["job_id"].as_str().unwrap();
    assert_ne!(job["job_id"], *first_id);
    let first = cluster.get(&format!("/v1/jobs/{first_id}")).await;
    let parts = first["parts"].as_array().unwrap();
    assert!(
        !parts.is_empty() && parts.iter().all(|part| part["attempt"] == 0),
        "a part of it was begun: {first}"
    );
    let base = playback(&cluster, &media_id).await;
    let base = base.rsplit_once('/').unwrap().0.to_owned();
    let copy = ["-c", "copy"];
    for (name, file) in [("v360", &source), ("v180", &small)] {
        let played = format!("{base}/{name}/index.m3u8");
        assert_eq!(digests(&played, "0:v", &copy), digests(file, "0:v", &copy), "{name}: other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encode_that_waits_begins_when_somebody_resumes_it() {
    let mut cluster = Cluster::start(Options::default()).await;
    let files = Files::new();
    let source = files.make("film.mp4", "320x180", ALIGNED);
    let media_id = upload_paused(&cluster, &source).await;
    let paused = cluster.media_event("job.paused", &media_id).await;
    let job_id = paused.data["job_id"].as_str().unwrap();
    let why = cluster.get(&format!("/v1/jobs/{job_id}/why")).await;
    assert!(why.to_string().contains("paused"), "{why}");
    assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["status"], "stored");
    let resumed = cluster.request(Method::POST, &format!("/v1/jobs/{job_id}/resume")).send().await.unwrap();
    assert_eq!(resumed.status(), 200);
    cluster.media_event("media.ready", &media_id).await;
    let history = cluster.get(&format!("/v1/jobs/{job_id}/history")).await.to_string();
    assert!(history.contains("job.paused") && history.contains("job.resumed"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_of_its_own_file_is_taken_and_a_failed_ladder_is_tried_again() {
    let (cluster, media_id) = start().await;
    let files = Files::new();
    let large = files.make("large.mp4", "640x360", &ALIGNED.replace("-c:a aac -ac 2", "-an"));
    let sound = files.make("sound.m4a", "64x64", "-vn -c:a aac -ac 2 -ar 48000");
    let (went_well, job, said) = renditions(&cluster, &media_id, &[&large, &sound]).await;
    assert!(went_well, "{said}\n{job}\n{}", cluster.logs());
    let audio = &job["plan"]["audio"][0];
    assert_eq!((&audio["sample_rate_hz"], &audio["channels"]), (&json!(48_000), &json!(2)), "{job}");
    let url = playback(&cluster, &media_id).await;
    let base = url.rsplit_once('/').unwrap().0;
    let played = digests(&format!("{base}/a0/index.m3u8"), "0:a", &["-c", "copy"]);
    let packets = digests(&sound, "0:a", &["-c", "copy"]);
    assert!(packets.windows(played.len()).any(|window| window == played), "other packets");

    let bad = files.make("bad.mp4", "320x180", "-c:v libx264 -g 400 -c:a aac");
    let (went_well, failed, said) = renditions(&cluster, &media_id, &[&bad]).await;
    assert!(!went_well, "{said}");
    let retry = format!("/v1/jobs/{}/retry", failed["job_id"].as_str().unwrap());
    let again: Value = cluster.request(Method::POST, &retry).send().await.unwrap().json().await.unwrap();
    let job_id = again["job_id"].as_str().unwrap_or_else(|| panic!("{again}"));
    let ended = crate::harness::poll(crate::harness::WAIT_MAX, async || {
        let answer = cluster.request(Method::GET, &format!("/v1/jobs/{job_id}")).send().await.unwrap();
        let job: Value = answer.json().await.unwrap();
        (job["status"] == "failed").then_some(job)
    });
    let ended = ended.await.unwrap_or_else(|| panic!("{}", cluster.logs()));
    assert_eq!(ended["code"], "rendition_keyframes", "it is of the same files: {ended}");
}
