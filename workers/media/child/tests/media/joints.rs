//! Files whose clock jumps: every frame of every recording is shown once, and sound stays with its picture.

use std::path::Path;

use media::{AudioSpec, ClockMap, EncodeSpec, MediaProbe, MediaRatio};

use crate::harness::{Job, Studio, driver, encode_spec, ffmpeg, probe, produce, run, rung};

/// A recording of a number of seconds at 30 frames a second, of one colour, with a tone.
fn recording(studio: &Studio, name: &str, colour: &str, seconds: u32, offset_s: u32) -> Vec<u8> {
    let path = studio.make(
        name,
        &format!(
            "-f lavfi -i color={colour}:size=128x96:rate=30:duration={seconds} -f lavfi -i sine=frequency=440:duration={seconds} \
             -c:v libx264 -preset ultrafast -bf 2 -g 30 -pix_fmt yuv420p -c:a aac -output_ts_offset {offset_s}"
        ),
    );
    std::fs::read(path).unwrap()
}

/// The pictures of an encode: how many are red, and how many are blue, in order of appearance.
fn colours(path: &Path) -> Vec<(char, usize)> {
    let decoded = ffmpeg(&format!("-i {} -map 0:v -vf scale=1:1,format=rgb24 -f rawvideo -", path.display()));
    let mut runs: Vec<(char, usize)> = Vec::new();
    for pixel in decoded.stdout.chunks_exact(3) {
        let colour = if pixel[0] > pixel[2] { 'r' } else { 'b' };
        match runs.last_mut() {
            Some((last, count)) if *last == colour => *count += 1,
            _ => runs.push((colour, 1)),
        }
    }
    runs
}

/// The sound begins a packet before the picture, so that the first picture may be shown for one frame more.
fn assert_near(found: &[(char, usize)], expected: &[(char, usize)], name: &str) {
    let is_near = |(found, expected): (&(char, usize), &(char, usize))| {
        found.0 == expected.0 && found.1.abs_diff(expected.1) <= 1
    };
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(is_near),
        "{name}: {found:?} instead of {expected:?}"
    );
}

fn video_spec(found: &MediaProbe, start_frame: u64, frames: u32) -> EncodeSpec {
    EncodeSpec {
        origin_us: found.start_us,
        start_frame,
        first_segment: 0,
        segment_frames: 30,
        gop_frames: 30,
        clock: found.clock.clone(),
        ..encode_spec((30, 1), frames, vec![rung(0, 128, 96)])
    }
}

#[test]
fn joined_recordings_follow_each_other() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        for (extension, second_offset_s) in [("ts", 0), ("ts", 3_600), ("ts", 90_000), ("ts", 12)] {
            let red = recording(&studio, &format!("red.{extension}"), "red", 3, 10);
            let blue = recording(&studio, &format!("blue.{extension}"), "blue", 5, second_offset_s);
            let path = studio.write(&format!("joined.{extension}"), &[red, blue].concat());
            let found = probe(&path).await.unwrap();
            let name = format!("{extension} with a second clock from {second_offset_s} s");
            assert_eq!(found.clock_joints, 1, "{name}: {:?}", found.clock);
            assert!(found.duration_us.abs_diff(8_000_000) < 60_000, "{name}: {} us", found.duration_us);
            let product = produce(&driver, &path, Job::Encode(video_spec(&found, 0, 240))).await.unwrap();
            let whole = studio.write("out.mp4", &product.file(0));
            assert_near(&colours(&whole), &[('r', 90), ('b', 150)], &name);
            // Ranges of the same grid, on either side of the joint and over it, show the same pictures.
            for (start, frames, expected) in
                [(30, 60, vec![('r', 60)]), (60, 60, vec![('r', 30), ('b', 30)]), (210, 30, vec![('b', 30)])]
            {
                let product =
                    produce(&driver, &path, Job::Encode(video_spec(&found, start, frames))).await.unwrap();
                let part = studio.write("part.mp4", &product.file(0));
                assert_near(&colours(&part), &expected, &format!("{name} from {start}"));
            }
            let sound = AudioSpec {
                stream: found.audio_streams()[0].index,
                origin_us: found.start_us,
                rendition: 9,
                duration_samples: 8 * 48_000,
                segment_seconds: MediaRatio::new(2, 1),
                rate_bits_per_second: 128_000,
                loudness_lufs: None,
                clock: found.clock.clone(),
            };
            let product = produce(&driver, &path, Job::Audio(sound)).await.unwrap();
            assert!(
                product.report.silence_samples < 9_600,
                "{name}: {} silent",
                product.report.silence_samples
            );
        }
    });
}

#[test]
fn a_clock_that_runs_on_is_left_alone() {
    run(async {
        let studio = Studio::new();
        for name in ["plain.ts", "plain.mp4", "plain.mkv"] {
            recording(&studio, name, "red", 3, 100);
            let found = probe(&studio.path(name)).await.unwrap();
            assert_eq!((found.clock_joints, &found.clock), (0, &ClockMap::default()), "{name}");
        }
        // A pause of 20 s in a container with one clock is a pause.
        let path = studio.make(
            "pause.mp4",
            "-f lavfi -i testsrc2=size=128x96:rate=30:duration=2 -vf setpts='PTS+if(gte(N,30),20/TB,0)' -vsync vfr -c:v libx264",
        );
        let found = probe(&path).await.unwrap();
        assert!(found.duration_us > 21_000_000 && found.clock.is_empty(), "{} us", found.duration_us);
    });
}

#[test]
fn many_recordings_are_joined_and_endless_jumps_refused() {
    run(async {
        let studio = Studio::new();
        let one = recording(&studio, "one.ts", "blue", 1, 0);
        let path = studio.write("twenty.ts", &one.repeat(20));
        let found = probe(&path).await.unwrap();
        assert_eq!(found.clock_joints, 19);
        assert!(found.duration_us.abs_diff(20_000_000) < 500_000, "{} us", found.duration_us);
        let path = studio.write("endless.ts", &one.repeat(300));
        assert!(probe(&path).await.is_err());
    });
}
