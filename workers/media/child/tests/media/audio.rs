//! Audio: every sound where it was, segments that follow the video's, the planned length.

use std::path::Path;

use media::{AudioSpec, ClockMap, MediaRatio};

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
        loudness_lufs: None,
        clock: ClockMap::default(),
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

/// The left channel of a file at 48 kHz, at its level: a mix of both would be louder.
fn left_samples(path: &Path) -> Vec<f32> {
    let decoded = ffmpeg(&format!("-i {} -map 0:a -af pan=mono|c0=c0 -ar 48000 -f f32le -", path.display()));
    decoded.stdout.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Root mean square of samples, in dB below full scale.
fn level_db(samples: &[f32]) -> f64 {
    let power: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    10.0 * (power / samples.len() as f64).log10()
}

/// Windows of 5 ms in which nothing is louder than -60 dBFS.
fn silent_windows(samples: &[f32]) -> usize {
    samples.chunks_exact(240).filter(|window| window.iter().all(|sample| sample.abs() < 0.001)).count()
}

async fn encode_to(
    studio: &Studio,
    path: &Path,
    seconds: f64,
) -> (std::path::PathBuf, media::MediaTaskReport) {
    let found = probe(path).await.unwrap();
    let product = produce(&driver().await, path, Job::Audio(spec(0, found.start_us, seconds))).await.unwrap();
    (studio.write("out.mp4", &product.file(9)), product.report)
}

#[test]
fn time_stamps_that_jitter_make_no_dropouts() {
    run(async {
        let studio = Studio::new();
        // Each packet's time stamp is off by up to one packet, as recorders write them; and the same in another container.
        for (name, ticks) in [("jitter.mp4", 1_024), ("jitter.mkv", 23), ("jitter.ts", 2_090)] {
            let jitter =
                format!("setts=pts=PTS+if(mod(N\\,3)\\,0\\,{ticks}):dts=DTS+if(mod(N\\,3)\\,0\\,{ticks})");
            let path = studio.make(
                name,
                &format!(
                    "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=4 -c:a aac -bsf:a {jitter}"
                ),
            );
            let (out, report) = encode_to(&studio, &path, 4.0).await;
            let silent = silent_windows(&samples(&out)[480..190_000]);
            assert_eq!(silent, 0, "{name}: windows of silence");
            assert!(report.silence_samples < 4_800, "{name}: {} samples of silence", report.silence_samples);
        }
    });
}

#[test]
fn a_clock_that_drifts_is_followed_without_a_cut() {
    run(async {
        let studio = Studio::new();
        // Time stamps grow by 0.3 % more, or less, than there are samples: 60 ms at the end of 20 s.
        for (name, clock, expected) in [("slow.mkv", "1.003", 19.5585), ("fast.mkv", "0.997", 19.4415)] {
            let path = studio.make(
                name,
                &format!(
                    "-f lavfi -i aevalsrc=if(between(mod(t\\,1)\\,0.5\\,0.5003)\\,0.9\\,0.01*sin(2000*t)):s=44100:d=20 \
                     -c:a pcm_s16le -bsf:a setts=ts=TS*{clock}"
                ),
            );
            let (out, report) = encode_to(&studio, &path, 20.0).await;
            let found = clicks(&samples(&out));
            assert_eq!(found.len(), 20, "{name}: {found:?}");
            let last = *found.last().unwrap() as f64 / 48_000.0;
            assert!(
                (last - expected).abs() < 0.025,
                "{name}: the last click is at {last} instead of {expected}"
            );
            assert!(report.silence_samples < 4_800, "{name}: {} samples of silence", report.silence_samples);
        }
    });
}

#[test]
fn several_frames_in_a_packet_follow_each_other() {
    run(async {
        let studio = Studio::new();
        for (name, codec, rate) in [
            ("ima.wav", "adpcm_ima_wav", 44_100),
            ("ms.wav", "adpcm_ms", 22_050),
            ("yamaha.wav", "adpcm_yamaha", 48_000),
            ("qt.mov", "adpcm_ima_qt", 44_100),
        ] {
            let path = studio.make(
                name,
                &format!("-f lavfi -i sine=frequency=440:sample_rate={rate}:duration=4 -c:a {codec}"),
            );
            let (out, _) = encode_to(&studio, &path, 4.0).await;
            let sound = samples(&out);
            assert_eq!(silent_windows(&sound[2400..186_000]), 0, "{name}: windows of silence");
            let crossings =
                sound[4_800..148_800].windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
            assert!(crossings.abs_diff(440 * 3) <= 2, "{name}: {crossings} waves in 3 s instead of 1320");
        }
    });
}

#[test]
fn levels_are_those_of_the_source() {
    run(async {
        let studio = Studio::new();
        let tone = "sin(2*PI*440*t)";
        for (name, channels, layout, expected_db) in [
            ("mono.wav", format!("0.25*{tone}"), "mono", -15.05),
            ("stereo.wav", format!("0.25*{tone}|0.25*{tone}"), "stereo", -15.05),
            // The front alone keeps its level; the centre alone is 3 dB lower on each side (BS.775).
            ("front.wav", format!("0.25*{tone}|0.25*{tone}|0|0|0|0"), "5.1", -15.05),
            ("centre.wav", format!("0|0|0.25*{tone}|0|0|0"), "5.1", -18.06),
            ("seven.wav", format!("0.25*{tone}|0.25*{tone}|0|0|0|0|0|0"), "7.1", -15.05),
            ("side.wav", format!("0|0|0|0|0.25*{tone}|0.25*{tone}"), "5.1", -18.06),
        ] {
            let path = studio.make(
                name,
                &format!("-f lavfi -i aevalsrc={channels}:s=48000:d=3:c={layout} -c:a pcm_s16le"),
            );
            let (out, _) = encode_to(&studio, &path, 3.0).await;
            let level = level_db(&left_samples(&out)[24_000..120_000]);
            assert!((level - expected_db).abs() < 0.3, "{name}: {level:.2} dB instead of {expected_db}");
        }
        // All channels at full scale: limited, not clipped, and not turned down by more than it takes.
        let all = ["0.9*sin(2*PI*440*t)"; 6].join("|");
        let path =
            studio.make("full.wav", &format!("-f lavfi -i aevalsrc={all}:s=48000:d=3:c=5.1 -c:a pcm_s16le"));
        let (out, _) = encode_to(&studio, &path, 3.0).await;
        let sound = left_samples(&out);
        let peak = sound[24_000..120_000].iter().map(|sample| sample.abs()).fold(0.0, f32::max);
        assert!((0.8..0.95).contains(&peak), "a peak of {peak}");
        let crest_db = level_db(&sound[24_000..120_000]) - 20.0 * f64::from(peak).log10();
        assert!((crest_db + 3.01).abs() < 0.5, "{crest_db:.2} dB: no sine any more");
    });
}

#[test]
fn loudness_is_what_the_profile_wants() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let tone = "sin(2*PI*1000*t)";
        for (name, volume, gate, wanted_lufs) in [
            ("loud.wav", 0.5, "", -23),
            ("quiet.wav", 0.05, "", -16),
            ("near.wav", 0.2, "", -14),
            ("pauses.wav", 0.1, "*lt(mod(t\\,4)\\,2)", -20),
        ] {
            let sound = format!("{volume}*{tone}{gate}");
            let path = studio.make(
                name,
                &format!("-f lavfi -i aevalsrc={sound}|{sound}:s=48000:d=12:c=stereo -c:a pcm_s16le"),
            );
            let wanted = AudioSpec { loudness_lufs: Some(wanted_lufs), ..spec(0, 0, 12.0) };
            let product = produce(&driver, &path, Job::Audio(wanted)).await.unwrap();
            let found = measure_lufs(&studio.write("out.mp4", &product.file(9)));
            assert!(
                (found - f64::from(wanted_lufs)).abs() < 0.5,
                "{name}: {found} LUFS instead of {wanted_lufs}"
            );
            assert!(product.report.loudness_missing_lu < 0.5, "{name}: {:?}", product.report);
        }
        // Nothing can be amplified to something.
        let path = studio.make("silence.wav", "-f lavfi -i anullsrc=r=48000:cl=stereo -t 3 -c:a pcm_s16le");
        let wanted = AudioSpec { loudness_lufs: Some(-16), ..spec(0, 0, 3.0) };
        let product = produce(&driver, &path, Job::Audio(wanted)).await.unwrap();
        let out = studio.write("out.mp4", &product.file(9));
        assert!(samples(&out).iter().all(|sample| sample.abs() < 0.001));
        assert!(product.report.loudness_missing_lu < 0.1, "{:?}", product.report);
    });
}

#[test]
fn sound_that_can_not_be_made_as_loud_says_how_much_is_missing() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let tone = "sin(2*PI*1000*t)";
        for (name, sound, wanted_lufs) in [
            // 30 LU would be needed, and 20 are given.
            ("faint.wav", format!("0.005*{tone}"), -16),
            // Each click is as high as a peak may be.
            ("clicks.wav", format!("0.02*{tone}+if(lt(mod(t\\,0.05)\\,0.0003)\\,0.8\\,0)"), -5),
        ] {
            let path = studio.make(
                name,
                &format!("-f lavfi -i aevalsrc={sound}|{sound}:s=48000:d=6:c=stereo -c:a pcm_s16le"),
            );
            let wanted = AudioSpec { loudness_lufs: Some(wanted_lufs), ..spec(0, 0, 6.0) };
            let product = produce(&driver, &path, Job::Audio(wanted)).await.unwrap();
            let found = measure_lufs(&studio.write("out.mp4", &product.file(9)));
            let missing = f64::from(wanted_lufs) - found;
            let said = product.report.loudness_missing_lu;
            assert!(missing > 2.0 && (said - missing).abs() < 0.7, "{name}: {said} said of {missing} LU");
        }
    });
}

/// The integrated loudness by FFmpeg's own meter.
fn measure_lufs(path: &Path) -> f64 {
    let output = std::process::Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-i"])
        .arg(path)
        .args(["-map", "0:a", "-af", "ebur128", "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary = text.rsplit("Integrated loudness:").next().unwrap();
    summary.split_whitespace().nth(1).unwrap().parse().unwrap_or_else(|_| panic!("{text}"))
}
