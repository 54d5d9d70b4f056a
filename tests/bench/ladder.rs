//! The ladder: CPU against one ffmpeg CLI process with the same options, and a long title's time to playable and to ready.

use std::{
    fmt::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use schemas::job::{EncodePlan, VideoPlan};
use serde_json::Value;

use crate::{Aim, Row, server::Server, size};

/// A picture with detail and motion, and a tone.
pub(crate) fn clip(dir: &Path, seconds: u64, frame_size: &str) -> std::path::PathBuf {
    let path = dir.join("title.mp4");
    let video = format!("testsrc2=duration={seconds}:size={frame_size}:rate=25,noise=alls=12:allf=t");
    let audio = format!("sine=frequency=440:duration={seconds}:sample_rate=48000");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", &audio])
        .args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-crf",
            "20",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "250",
            "-c:a",
            "aac",
        ])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    path
}

/// The same rungs with the same x264 options in one process: one decode, a split, a scaler and an encoder for each.
fn cli(plan: &VideoPlan, plan_audio: &EncodePlan, source: &Path, out: &Path) -> (f64, f64) {
    let labels = (0..plan.rungs.len()).map(|i| format!("[s{i}]")).collect::<Vec<_>>().concat();
    let scales: Vec<String> = plan
        .rungs
        .iter()
        .enumerate()
        .map(|(i, rung)| format!("[s{i}]scale={}:{}:flags=bicubic[v{i}]", rung.width, rung.height))
        .collect();
    let graph = format!("[0:v]split={}{labels};{}", plan.rungs.len(), scales.join(";"));
    let mut command = Command::new("bash");
    let mut line = format!(
        "TIMEFORMAT='%R %U %S'; time ffmpeg -v error -nostdin -y -i '{}' -filter_complex '{graph}'",
        source.display()
    );
    for (i, rung) in plan.rungs.iter().enumerate() {
        write!(
            line,
            " -map '[v{i}]' -c:v libx264 -preset {} -profile:v {} -crf {} -maxrate {} -bufsize {} -threads {} -g {} \
             -keyint_min {} -sc_threshold 0 -flags +cgop -x264-params open-gop=0:stitchable=1 '{}/{i}.mp4'",
            plan.preset, rung.profile, rung.crf, rung.rate_max_bps, rung.buffer_bits, rung.threads, plan.gop_frames, plan.gop_frames, out.display()
        )
        .unwrap();
    }
    for (i, audio) in plan_audio.audio.iter().enumerate() {
        write!(
            line,
            " -map 0:a:{i} -c:a aac -b:a {} -ar {} -ac {} '{}/a{i}.mp4'",
            audio.bit_rate_bps,
            audio.sample_rate_hz,
            audio.channels,
            out.display()
        )
        .unwrap();
    }
    let output = command.args(["-c", &line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let times: Vec<f64> =
        text.lines().last().unwrap().split_whitespace().map(|t| t.parse().unwrap()).collect();
    (times[0], times[1] + times[2])
}

/// Where an installation is, and the key that opens it.
pub(crate) struct Address {
    pub(crate) url: String,
    pub(crate) key: String,
}

impl Address {
    fn of(server: &Server) -> Self {
        Self { url: server.url.clone(), key: server.key.clone() }
    }
}

pub(crate) struct Outcome {
    plan: EncodePlan,
    seconds_to_playable: f64,
    pub(crate) seconds_to_ready: f64,
    cpu_seconds: f64,
}

async fn get(server: &Address, path: &str) -> Value {
    let answer = reqwest::Client::new()
        .get(format!("{}{path}", server.url))
        .bearer_auth(&server.key)
        .send()
        .await
        .unwrap();
    answer.json().await.unwrap()
}

/// Uploads, and looks ten times a second how far it is.
pub(crate) async fn run(server: &Address, source: &Path) -> Outcome {
    let started = Instant::now();
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/media", server.url))
        .bearer_auth(&server.key)
        .header("content-type", "video/mp4")
        .body(std::fs::read(source).unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    let mut seconds_to_playable = None;
    loop {
        let document = get(server, &format!("/v1/media/{media_id}")).await;
        let status = document["status"].as_str().unwrap_or_default();
        assert!(!["failed", "rejected"].contains(&status), "{document}");
        if status == "playable" || status == "ready" {
            seconds_to_playable.get_or_insert(started.elapsed().as_secs_f64());
        }
        if status == "ready" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds_to_ready = started.elapsed().as_secs_f64();
    let jobs = get(server, &format!("/v1/jobs?media_id={media_id}")).await;
    let job = get(server, &format!("/v1/jobs/{}", jobs["items"][0]["job_id"].as_str().unwrap())).await;
    let cpu_ms: f64 =
        job["parts"].as_array().unwrap().iter().filter_map(|part| part["cpu_ms"].as_f64()).sum();
    Outcome {
        plan: serde_json::from_value(job["plan"].clone()).unwrap(),
        seconds_to_playable: seconds_to_playable.unwrap(),
        seconds_to_ready,
        cpu_seconds: cpu_ms / 1000.0,
    }
}

pub(crate) async fn cpu() -> Row {
    let server = Server::start("");
    let source = clip(server.dir.path(), 30, "1280x720");
    let ours = run(&Address::of(&server), &source).await;
    let (_, cpu_seconds) = cli(ours.plan.video.as_ref().unwrap(), &ours.plan, &source, server.dir.path());
    Row {
        name: "ladder CPU, 30 s of 720p",
        ours: ours.cpu_seconds,
        baseline: cpu_seconds,
        unit: "s",
        against: "one ffmpeg CLI",
        aim: Aim::RatioMost(1.03),
    }
}

pub(crate) async fn title() -> [Row; 2] {
    let seconds = size("BENCH_TITLE_SECONDS", 600);
    let server = Server::start("[transcode.parts]\nslots = 2\n");
    let source = clip(server.dir.path(), seconds, "640x360");
    let ours = run(&Address::of(&server), &source).await;
    let (wall, _) = cli(ours.plan.video.as_ref().unwrap(), &ours.plan, &source, server.dir.path());
    let row = |name, ours, aim| Row {
        name,
        ours,
        baseline: wall,
        unit: "s",
        against: "ffmpeg CLI wall",
        aim: Aim::RatioMost(aim),
    };
    [
        row("time to playable, 10-minute title", ours.seconds_to_playable, 0.10),
        row("time to ready, 10-minute title, two slots", ours.seconds_to_ready, 1.0),
    ]
}
