//! Parts of a medium that are encoded alone: pictures, sound and subtitles are those of the source at these times, and all of it can be
//! brought back.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, clip},
};

/// Frames a second of the source.
const RATE: usize = 25;

/// Twelve seconds whose grey rises from frame to frame, a tone that begins at second 6, and a subtitle for each second.
fn source() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let subtitles = folder.path().join("s.srt");
    let cues =
        (0..12).map(|n| format!("{}\n00:00:{n:02},000 --> 00:00:{:02},000\nsecond {n}\n\n", n + 1, n + 1));
    std::fs::write(&subtitles, cues.collect::<String>()).unwrap();
    let picture =
        "color=black:size=320x180:rate=25:duration=12,format=gray,geq=lum='30+N*0.6',format=yuv420p";
    let tone = "aevalsrc='if(gte(t,6),0.5*sin(2*PI*440*t),0)':s=48000:d=12";
    let mut args =
        vec!["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, "-i", subtitles.to_str().unwrap()];
    args.extend("-map 0:v -map 1:a -map 2:s -c:v libx264 -bf 3 -g 100 -c:a flac -c:s srt".split(' '));
    clip(&args, "mkv")
}

/// The mean grey of each frame.
fn greys(input: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-i",
            input,
            "-map",
            "0:v:0",
            "-vf",
            "scale=1:1",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "gray",
            "-",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Seconds at which the tone begins, to a few milliseconds, and how long the sound is.
fn tone(input: &str) -> (f64, f64) {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i", input, "-map", "0:a:0", "-ac", "1", "-ar", "48000", "-f", "s16le", "-"])
        .output()
        .unwrap();
    let samples: Vec<i16> =
        output.stdout.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
    let first = samples.iter().position(|sample| sample.unsigned_abs() > 3_000).unwrap_or(samples.len());
    (first as f64 / 48_000.0, samples.len() as f64 / 48_000.0)
}

async fn transcode(cluster: &mut Cluster, media_id: &str, body: &Value) -> u64 {
    let request = cluster.request(Method::POST, &format!("/v1/media/{media_id}/transcode")).json(body);
    let answer = request.send().await.unwrap();
    let (status, begun) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert!(status.is_success(), "{begun}");
    let job_id = begun["job_id"].as_str().unwrap().to_owned();
    let wanted = |event: &crate::harness::Event| {
        event.kind.starts_with("job.")
            && event.id == job_id
            && event.kind != "job.queued"
            && event.kind != "job.started"
    };
    let ended = cluster.event("end of the job", wanted).await;
    assert_eq!(ended.kind, "job.succeeded", "{:?}", ended.data);
    begun["encode"].as_u64().unwrap()
}

/// Compares what plays with the source's frames from `first` on, and where its tone begins.
async fn check_part(
    cluster: &Cluster,
    media_id: &str,
    whole: &[u8],
    (first, count): (usize, usize),
    tone_at: f64,
) {
    let session = playback(cluster, media_id).await;
    let at = |path: &str| {
        format!("{}{}", cluster.url, session["hls_url"].as_str().unwrap().replace("master.m3u8", path))
    };
    let found = greys(&at("v180/index.m3u8"));
    assert_eq!(found.len(), count, "frames");
    let is_near = |(found, wanted): (&u8, &u8)| found.abs_diff(*wanted) <= 2;
    assert!(found.iter().zip(&whole[first..first + count]).all(is_near), "{found:?} from {first}");
    let (begins, seconds) = tone(&at("a0/index.m3u8"));
    assert!((begins - tone_at).abs() < 0.03, "the tone begins at {begins}, not {tone_at}");
    assert!((seconds - count as f64 / RATE as f64).abs() < 0.03, "{seconds} seconds of sound");
}

#[tokio::test]
async fn a_part_is_that_of_the_source_and_all_of_it_comes_back() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(source(), "grey.mkv").await;
    cluster.media_event("media.ready", &media_id).await;
    let url = playback(&cluster, &media_id).await["hls_url"].as_str().unwrap().to_owned();
    let whole = greys(&format!("{}{}", cluster.url, url.replace("master.m3u8", "v180/index.m3u8")));
    assert_eq!(whole.len(), 12 * RATE);
    for (body, wanted) in [
        (json!({ "start_s": 12 }), "/"),
        (json!({ "start_s": 5, "end_s": 5 }), "/"),
        (json!({ "end_s": 12.5 }), "/"),
        (json!({ "start_s": -1 }), "/start_s"),
    ] {
        let request = cluster.request(Method::POST, &format!("/v1/media/{media_id}/transcode")).json(&body);
        let answer = request.send().await.unwrap();
        let (status, problem) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
        assert_eq!(
            (status, problem["code"].as_str()),
            (422, Some("encode_range_invalid")),
            "{body} {wanted}: {problem}"
        );
    }
    // Behind a search in the file, and in the midst of its groups of pictures.
    assert_eq!(transcode(&mut cluster, &media_id, &json!({ "start_s": 5.01, "end_s": 9.5 })).await, 2);
    check_part(&cluster, &media_id, &whole, (125, 113), 1.0).await;
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!(document["encode"]["duration_ms"], 4_520);
    let warnings = document["encode"]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["code"] == "range_encoded"), "{warnings:?}");
    let session = playback(&cluster, &media_id).await;
    let at = |path: &str| session["hls_url"].as_str().unwrap().replace("master.m3u8", path);
    let subtitles = text(&cluster, &at("s0/subtitles.vtt")).await;
    assert!(subtitles.contains("00:00:01.000 --> 00:00:02.000\nsecond 6"), "{subtitles}");
    assert!(!subtitles.contains("second 4") && !subtitles.contains("second 10"), "{subtitles}");
    let storyboard = text(&cluster, &at("storyboard.vtt")).await;
    assert!(storyboard.trim_end().lines().any(|line| line.ends_with("--> 00:00:04.520")), "{storyboard}");
    // Its beginning, and its end.
    transcode(&mut cluster, &media_id, &json!({ "end_s": 2 })).await;
    check_part(&cluster, &media_id, &whole, (0, 50), 2.0).await;
    transcode(&mut cluster, &media_id, &json!({ "start_s": 11 })).await;
    check_part(&cluster, &media_id, &whole, (275, 25), 0.0).await;
    transcode(&mut cluster, &media_id, &json!({})).await;
    check_part(&cluster, &media_id, &whole, (0, 300), 6.0).await;
}
