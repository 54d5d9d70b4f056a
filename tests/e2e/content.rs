//! Many kinds of media, each judged by its content: every picture is red on the left and blue on the right, every
//! sound is a tone of 440 Hz without a hole, both begin at 0 and last as long as the source.

use std::process::Command;

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, clip},
};

/// Seconds of a kind that says nothing else.
const SECONDS: f64 = 2.0;

/// What a source looks like once it plays.
#[derive(Debug, Clone)]
struct Kind {
    name: &'static str,
    bytes: Vec<u8>,
    /// Frames per second; 0 without a picture.
    rate: f64,
    seconds: f64,
    /// Width by height of the picture as shown.
    shape: f64,
    has_sound: bool,
    /// RMS of the tone in dB below full scale, where the source says it.
    level_db: Option<f64>,
}

/// Two halves; the noise keeps encoders from leaving out pictures that are like the one before.
fn picture(size: (u32, u32), rate: &str, seconds: f64) -> String {
    let half = size.0 / 2;
    let half_of = |colour: &str, width: u32, label: &str| {
        format!("color={colour}:size={width}x{}:rate={rate}:duration={seconds}[{label}]", size.1)
    };
    format!(
        "{};{};[l][r]hstack,noise=alls=4:allf=t",
        half_of("red", half, "l"),
        half_of("blue", size.0 - half, "r")
    )
}

fn tone(seconds: f64, rate: u32, channels: u32) -> String {
    let one = "0.25*sin(2*PI*440*t)";
    // Left and right of any layout; what else there is, is silent.
    let all: Vec<&str> = (0..channels).map(|channel| if channel < 2 { one } else { "0" }).collect();
    let layout = match channels {
        1 => "mono",
        2 => "stereo",
        6 => "5.1",
        _ => "7.1",
    };
    format!("aevalsrc={}:s={rate}:d={seconds}:c={layout}", all.join("|"))
}

/// A film of a kind: codecs and other options as the command line of ffmpeg takes them.
fn film(name: &'static str, rate: f64, options: &str) -> Kind {
    shaped_film(name, rate, (320, 180), options)
}

fn shaped_film(name: &'static str, rate: f64, size: (u32, u32), options: &str) -> Kind {
    let text = match (rate * 1001.0 / 1000.0).round() {
        whole if (whole * 1000.0 / 1001.0 - rate).abs() < 0.001 => format!("{}/1001", whole * 1000.0),
        _ => rate.to_string(),
    };
    let (video, audio) = (picture(size, &text, SECONDS), tone(SECONDS, 48_000, 2));
    let has_sound = !options.contains("-an");
    let mut args = vec!["-f", "lavfi", "-i", &video];
    if has_sound {
        args.extend(["-f", "lavfi", "-i", &audio]);
    }
    args.extend(options.split_whitespace());
    let bytes = clip(&args, name.rsplit('.').next().unwrap());
    Kind {
        name,
        bytes,
        rate,
        seconds: SECONDS,
        shape: f64::from(size.0) / f64::from(size.1),
        has_sound,
        level_db: None,
    }
}

fn sound(name: &'static str, rate: u32, channels: u32, options: &str) -> Kind {
    let audio = tone(SECONDS, rate, channels);
    let mut args = vec!["-f", "lavfi", "-i", &audio];
    args.extend(options.split_whitespace());
    let bytes = clip(&args, name.rsplit('.').next().unwrap());
    let level_db = Some(-15.05);
    Kind { name, bytes, rate: 0.0, seconds: SECONDS, shape: 0.0, has_sound: true, level_db }
}

const X264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";

fn containers() -> Vec<Kind> {
    vec![
        film("plain.mp4", 25.0, &format!("{X264} -c:a aac")),
        film("reordered.mp4", 30.0, "-c:v libx264 -preset veryfast -bf 3 -pix_fmt yuv420p -c:a aac"),
        film("faststart.mp4", 25.0, &format!("{X264} -c:a aac -movflags +faststart")),
        film("fragments.mp4", 25.0, &format!("{X264} -g 25 -c:a aac -movflags +frag_keyframe+empty_moov")),
        film("plain.mov", 25.0, &format!("{X264} -c:a pcm_s16le")),
        film("plain.mkv", 25.0, &format!("{X264} -c:a flac")),
        film("plain.ts", 25.0, &format!("{X264} -c:a mp2")),
        film("plain.m2ts", 25.0, &format!("{X264} -c:a ac3")),
        film("plain.avi", 25.0, "-c:v mpeg4 -q:v 2 -c:a mp3"),
        film("vp8.webm", 25.0, "-c:v libvpx -b:v 500k -deadline realtime -cpu-used 8 -c:a libvorbis"),
        film("vp9.webm", 25.0, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"),
        film("theora.ogv", 25.0, "-c:v libtheora -q:v 8 -c:a libvorbis -f ogg"),
        film("late.ts", 25.0, &format!("{X264} -c:a aac -output_ts_offset 1000")),
        film("late.mkv", 25.0, &format!("{X264} -c:a aac -output_ts_offset 5")),
        film("silent.mp4", 25.0, &format!("{X264} -an")),
        film("plain.flv", 25.0, &format!("{X264} -c:a aac -ar 44100")),
        film("plain.mpg", 25.0, "-c:v mpeg2video -q:v 2 -c:a mp2"),
        film("plain.mxf", 25.0, "-c:v mpeg2video -q:v 2 -c:a pcm_s16le"),
        film("plain.wmv", 25.0, "-c:v wmv2 -b:v 2M -c:a wmav2"),
    ]
}

fn codecs() -> Vec<Kind> {
    vec![
        film(
            "hevc.mp4",
            25.0,
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p -c:a aac",
        ),
        film(
            "hevc10.mkv",
            25.0,
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p10le -c:a eac3",
        ),
        film("av1.mkv", 25.0, "-c:v libsvtav1 -preset 12 -c:a libopus"),
        film("high10.mkv", 25.0, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p10le -c:a aac"),
        film("high422.mkv", 25.0, "-c:v libx264 -preset ultrafast -pix_fmt yuv422p -c:a aac"),
        film("high444.mkv", 25.0, "-c:v libx264 -preset ultrafast -pix_fmt yuv444p -c:a aac"),
        film("mpeg2.ts", 25.0, "-c:v mpeg2video -q:v 2 -c:a mp2"),
        film("mjpeg.mov", 25.0, "-c:v mjpeg -q:v 2 -c:a pcm_s16be"),
        film("prores.mov", 25.0, "-c:v prores_ks -c:a pcm_s24le"),
        film("ffv1.mkv", 25.0, "-c:v ffv1 -c:a pcm_f32le"),
        film("huffyuv.avi", 25.0, "-c:v huffyuv -c:a pcm_s16le"),
        film("png.mov", 25.0, "-c:v png -c:a pcm_s16le"),
        film("raw.avi", 25.0, "-c:v rawvideo -pix_fmt yuv420p -c:a pcm_u8"),
        film("rgb.avi", 25.0, "-c:v rawvideo -pix_fmt bgr24 -c:a pcm_s16le"),
        film("anim.gif", 25.0, "-an"),
    ]
}

fn clocks() -> Vec<Kind> {
    // By one packet of AAC: in samples, and in the milliseconds of Matroska.
    let jitter = |ticks: u32| {
        format!("-bsf:a setts=pts=PTS+if(mod(N\\,3)\\,0\\,{ticks}):dts=DTS+if(mod(N\\,3)\\,0\\,{ticks})")
    };
    let mut joined = film("joined.ts", 25.0, &format!("{X264} -c:a aac"));
    joined.bytes = joined.bytes.repeat(2);
    joined.seconds = 2.0 * SECONDS;
    vec![
        film("film.mp4", 24_000.0 / 1001.0, &format!("{X264} -c:a aac")),
        film("ntsc.mkv", 30_000.0 / 1001.0, &format!("{X264} -c:a aac")),
        film("ntsc60.mp4", 60_000.0 / 1001.0, &format!("{X264} -c:a aac")),
        film("nine.mp4", 9.0, &format!("{X264} -c:a aac")),
        film("odd.mkv", 45.0, &format!("{X264} -c:a aac")),
        film("fifty.ts", 50.0, &format!("{X264} -c:a aac")),
        film("two.mp4", 2.0, "-c:v libx264 -bf 3 -pix_fmt yuv420p -c:a aac"),
        film("jitter.mp4", 25.0, &format!("{X264} -c:a aac {}", jitter(1_024))),
        film("jitter.mkv", 25.0, &format!("{X264} -c:a aac {}", jitter(21))),
        joined,
    ]
}

fn shapes() -> Vec<Kind> {
    let mut wide = shaped_film("wide.mkv", 25.0, (240, 180), &format!("{X264} -c:a aac -aspect 16:9"));
    wide.shape = 16.0 / 9.0;
    let mut narrow = shaped_film("narrow.mp4", 25.0, (320, 180), &format!("{X264} -c:a aac -vf setsar=3/4"));
    narrow.shape = 4.0 / 3.0;
    vec![
        wide,
        narrow,
        shaped_film("odd-size.mkv", 25.0, (319, 179), "-c:v ffv1 -c:a aac"),
        shaped_film("tall.mp4", 25.0, (180, 320), &format!("{X264} -c:a aac")),
        shaped_film("small.mp4", 25.0, (64, 48), &format!("{X264} -c:a aac")),
        shaped_film("strip.mkv", 25.0, (640, 96), &format!("{X264} -c:a aac")),
    ]
}

fn sounds() -> Vec<Kind> {
    vec![
        sound("mono.wav", 48_000, 1, "-c:a pcm_s16le"),
        sound("stereo.wav", 44_100, 2, "-c:a pcm_s16le"),
        sound("deep.wav", 96_000, 2, "-c:a pcm_s24le"),
        sound("float.wav", 48_000, 2, "-c:a pcm_f32le"),
        sound("surround.wav", 48_000, 6, "-c:a pcm_s16le"),
        sound("seven.flac", 48_000, 8, "-c:a flac"),
        sound("phone.wav", 8_000, 1, "-c:a pcm_mulaw"),
        sound("ima.wav", 44_100, 1, "-c:a adpcm_ima_wav"),
        sound("ms.wav", 22_050, 2, "-c:a adpcm_ms"),
        sound("song.mp3", 44_100, 2, "-c:a libmp3lame -b:a 192k"),
        sound("song.m4a", 44_100, 2, "-c:a aac -b:a 192k"),
        sound("lossless.m4a", 48_000, 2, "-c:a alac"),
        sound("song.flac", 44_100, 2, "-c:a flac"),
        sound("song.ogg", 48_000, 2, "-c:a libvorbis -q:a 8"),
        sound("song.opus", 48_000, 2, "-c:a libopus -b:a 160k"),
        sound("song.aac", 48_000, 2, "-c:a aac -b:a 192k -f adts"),
        sound("song.mka", 48_000, 2, "-c:a ac3 -b:a 320k"),
        sound("plain.aiff", 44_100, 2, "-c:a pcm_s16be"),
        sound("plain.caf", 48_000, 2, "-c:a alac"),
        sound("song.wma", 44_100, 2, "-c:a wmav2 -b:a 192k"),
    ]
}

fn decode(url: &str, options: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", url])
        .args(options.split_whitespace())
        .arg("-")
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.trim().is_empty(), "{url}: {complaints}");
    output.stdout
}

/// When each track is presented first, in seconds, video before audio.
fn starts(url: &str) -> Vec<f64> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "stream=start_time", "-of", "csv=p=0", url])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

fn judge_picture(kind: &Kind, url: &str) {
    let pixels = decode(url, "-map 0:v:0 -vf format=rgb24,scale=2:1:flags=area -f rawvideo");
    let frames = pixels.chunks_exact(6).count() as f64;
    let expected = kind.seconds * kind.rate;
    assert!(
        (frames - expected).abs() <= 1.0 + expected / 50.0,
        "{}: {frames} frames instead of {expected}",
        kind.name
    );
    for (number, sides) in pixels.chunks_exact(6).enumerate() {
        let is_red = sides[0] > 150 && sides[1] < 100 && sides[2] < 100;
        let is_blue = sides[3] < 100 && sides[4] < 100 && sides[5] > 150;
        assert!(is_red && is_blue, "{}: frame {number} is {sides:?}", kind.name);
    }
}

fn judge_sound(kind: &Kind, url: &str) {
    let bytes = decode(url, "-map 0:a:0 -af pan=mono|c0=c0 -ar 48000 -f f32le");
    let samples: Vec<f32> =
        bytes.chunks_exact(4).map(|sample| f32::from_le_bytes(sample.try_into().unwrap())).collect();
    let seconds = samples.len() as f64 / 48_000.0;
    assert!((seconds - kind.seconds).abs() < 0.08, "{}: {seconds} s of sound", kind.name);
    // Codecs fade in and out; a joint of two recordings may lose a packet of its encoder's run-in.
    let inner = &samples[4_800..samples.len() - 4_800];
    let silent =
        inner.chunks_exact(240).filter(|window| window.iter().all(|sample| sample.abs() < 0.001)).count();
    let silent_max = if kind.name == "joined.ts" { 12 } else { 0 };
    assert!(silent <= silent_max, "{}: {silent} windows of 5 ms are silent", kind.name);
    let waves = inner.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count() as f64;
    let expected = 440.0 * inner.len() as f64 / 48_000.0;
    assert!((waves / expected - 1.0).abs() < 0.02, "{}: {waves} waves instead of {expected}", kind.name);
    if let Some(level_db) = kind.level_db {
        let power: f64 =
            inner.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / inner.len() as f64;
        let found_db = 10.0 * power.log10();
        assert!((found_db - level_db).abs() < 0.6, "{}: {found_db:.2} dB instead of {level_db}", kind.name);
    }
}

async fn judge(cluster: &Cluster, kind: &Kind, media_id: &str) {
    let path = playback(cluster, media_id).await["hls_url"].as_str().unwrap().to_owned();
    let url = format!("{}{path}", cluster.url);
    if kind.rate > 0.0 {
        judge_picture(kind, &url);
        let master = text(cluster, &path).await;
        let size = master.split("RESOLUTION=").nth(1).unwrap().split(',').next().unwrap().to_owned();
        let (width, height) = size.split_once('x').unwrap();
        let shape = width.parse::<f64>().unwrap() / height.parse::<f64>().unwrap();
        assert!((shape / kind.shape - 1.0).abs() < 0.03, "{}: shown as {size}", kind.name);
    }
    if kind.has_sound {
        judge_sound(kind, &url);
    }
    let starts = starts(&url);
    let is_together = starts.iter().all(|start| start.abs() < 0.005);
    assert!(!starts.is_empty() && is_together, "{}: tracks begin at {starts:?}", kind.name);
}

async fn check(kinds: Vec<Kind>) {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut sent = Vec::new();
    for kind in kinds {
        let media_id = cluster.upload(kind.bytes.clone(), kind.name).await;
        sent.push((kind, media_id));
    }
    for (kind, media_id) in sent {
        let end = cluster.end_of(&media_id).await;
        assert_eq!(end.kind, "job.succeeded", "{}: {end:?}", kind.name);
        judge(&cluster, &kind, &media_id).await;
    }
}

#[tokio::test]
async fn containers_play_what_came_in() {
    check(containers()).await;
}

#[tokio::test]
async fn codecs_play_what_came_in() {
    check(codecs()).await;
}

#[tokio::test]
async fn clocks_play_what_came_in() {
    check(clocks()).await;
}

#[tokio::test]
async fn shapes_and_sounds_play_what_came_in() {
    check(shapes().into_iter().chain(sounds()).collect()).await;
}
