//! Audio: every sound where it was, segments that follow the video's, the planned length.

use std::path::Path;

use media::{AudioSpec, MediaRatio};

use crate::harness::{Job, SAMPLE, Studio, driver, ffmpeg, ffprobe, probe, produce, run};

fn spec(stream: u32, origin_us: i64, seconds: f64) -> AudioSpec {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test's few seconds")]
    let duration_samples = (seconds * 48_000.0).round() as u64;
    AudioSpec {
        stream,
        origin_us,
        rendition: 9,
        duration_samples,
        segment_seconds: MediaRatio::new(2, 1),
        rate_bits_per_second: 128_000,
    }
}

/// Decodes a file to mono samples at 48 kHz.
fn samples(path: &Path) -> Vec<f32> {
    let decoded = ffmpeg(&format!("-i {} -map 0:a -ac 1 -ar 48000 -f f32le -", path.display()));
    assert!(decoded.stderr.is_empty(), "{}", String::from_utf8_lossy(&decoded.stderr));
    decoded.stdout.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Where the clicks are: the loudest sample of each stretch that is not quiet.
fn clicks(samples: &[f32]) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    for (place, sample) in samples.iter().enumerate() {
        if sample.abs() < 0.2 {
            continue;
        }
        match found.last_mut() {
            Some(last) if place - *last < 4800 => {
                if sample.abs() > samples[*last].abs() {
                    *last = place;
                }
            }
            _ => found.push(place),
        }
    }
    found
}

const CLICKS: &str = "-f lavfi -i aevalsrc=if(between(mod(t\\,1)\\,0.5\\,0.5003)\\,0.9\\,0):s=48000:d=5";

fn assert_near(found: &[usize], expected: &[usize]) {
    assert_eq!(found.len(), expected.len(), "{found:?} instead of {expected:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.abs_diff(*expected) <= 48, "{found} instead of {expected}: more than 1 ms");
    }
}

#[test]
fn clicks_stay_where_they_were() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let expected: Vec<usize> = (0..5).map(|second| second * 48_000 + 24_000 + 7).collect();
        for (name, codec) in [
            ("a.wav", "pcm_s16le"),
            ("a.m4a", "aac"),
            ("a.mkv", "libopus"),
            ("a.mp3", "libmp3lame"),
            ("a.ts", "aac"),
        ] {
            let path = studio.make(name, &format!("{CLICKS} -c:a {codec}"));
            let found = probe(&path).await.unwrap();
            let job = Job::Audio(spec(0, found.start_us, 5.0));
            let product = produce(&driver, &path, job).await.unwrap();
            let out = studio.write("out.mp4", &product.file(9));
            // Formats without a record of their encoder's run-in keep it as sound; compare with what they decode to.
            let reference = if matches!(name, "a.ts") { clicks(&samples(&path)) } else { expected.clone() };
            assert_near(&clicks(&samples(&out)), &reference);
        }
    });
}

#[test]
fn segments_follow_the_video_and_fill_the_plan() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let product = produce(&driver, Path::new(SAMPLE), Job::Audio(spec(1, 0, 5.28))).await.unwrap();
        let segments = product.segments(9);
        let starts: Vec<u64> = segments.iter().map(|segment| segment.1).collect();
        // 2 s are 93.75 frames of 1024 samples, 4 s are 187.5.
        assert_eq!(starts, [0, 94 * 1024, 188 * 1024]);
        let total: u64 = segments.iter().map(|segment| segment.2).sum();
        assert_eq!(total, 248 * 1024);
        let out = studio.write("out.mp4", &product.file(9));
        assert_eq!(
            ffprobe(&out, "-show_entries stream=codec_name,profile,sample_rate,channels"),
            ["aac,LC,48000,2"]
        );
        let times: Vec<u64> =
            ffprobe(&out, "-show_entries packet=pts").iter().map(|pts| pts.parse().unwrap()).collect();
        let expected: Vec<u64> = (0..248).map(|packet| packet * 1024).collect();
        assert_eq!(times, expected);
        let again = produce(&driver, Path::new(SAMPLE), Job::Audio(spec(1, 0, 5.28))).await.unwrap();
        assert!(again.file(9) == product.file(9), "the same task gave other bytes");
    });
}

#[test]
fn gaps_are_silent_and_a_late_start_stays_late() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        // One second of video before the sound begins; the sound has a hole of one second.
        let sound =
            studio.make("hole.mkv", &format!("{CLICKS} -af aselect='not(between(t,2,3))' -c:a pcm_s16le"));
        let path = studio.make(
            "late.mkv",
            &format!(
                "-f lavfi -i testsrc2=size=64x64:rate=25:duration=6 -itsoffset 1 -i {} -map 0 -map 1 -c:v libx264 -c:a copy",
                sound.display()
            ),
        );
        let product = produce(&driver, &path, Job::Audio(spec(1, 0, 7.0))).await.unwrap();
        let out = studio.write("out.mp4", &product.file(9));
        let expected: Vec<usize> =
            [0, 1, 3, 4].iter().map(|second| (second + 1) * 48_000 + 24_000 + 7).collect();
        assert_near(&clicks(&samples(&out)), &expected);
        assert_eq!(product.report.frames_written, (7_u64 * 48_000).div_ceil(1024));
        assert!(product.report.silence_samples >= 3 * 48_000 - 4800, "{}", product.report.silence_samples);
        // A later origin cuts the beginning off.
        let product = produce(&driver, &path, Job::Audio(spec(1, 2_000_000, 3.0))).await.unwrap();
        let out = studio.write("cut.mp4", &product.file(9));
        assert_near(&clicks(&samples(&out)), &[24_007, 2 * 48_000 + 24_007]);
    });
}

#[test]
fn every_layout_and_rate_becomes_stereo() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        for (name, options) in [
            ("low.wav", "-ar 8000 -ac 1"),
            ("odd.wav", "-ar 44100 -ac 2"),
            ("high.wav", "-ar 96000 -ac 6"),
            ("seven.wav", "-ar 48000 -ac 8"),
            ("three.flac", "-ar 48000 -ac 3"),
        ] {
            let path = studio.make(name, &format!("-f lavfi -i sine=frequency=440:duration=2 {options}"));
            let product = produce(&driver, &path, Job::Audio(spec(0, 0, 2.0))).await.unwrap();
            let out = studio.write("out.mp4", &product.file(9));
            let decoded = samples(&out);
            assert!(decoded.iter().map(|sample| sample.abs()).fold(0.0, f32::max) > 0.02, "{name} is silent");
            assert_eq!(decoded.len(), 94 * 1024, "{name}");
        }
    });
}
