//! The rate of a track, whatever its container and codec say of it.

use media::MediaRatio;

use crate::harness::{Studio, probe, run};

const H264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";

fn source(rate: &str, seconds: u32) -> String {
    format!("-f lavfi -i testsrc2=size=128x96:rate={rate}:duration={seconds}")
}

/// Name of the file, how it is made, frames per second, whether frames are evenly spaced.
fn sources() -> Vec<(&'static str, String, f64, bool)> {
    let constant = |name, rate: &str, expected| (name, format!("{} {H264}", source(rate, 4)), expected, true);
    let pause = "setpts='PTS+if(gte(N,60),20/TB,0)'";
    let bursts = "select='not(mod(n,3))+not(mod(n,7))+lt(mod(n,50),25)'";
    vec![
        constant("film.mp4", "24000/1001", 23.976),
        constant("film.mkv", "24", 24.0),
        constant("pal.mov", "25", 25.0),
        constant("ntsc.mkv", "30000/1001", 29.97),
        constant("webcam.mp4", "9", 9.0),
        constant("odd.mkv", "45", 45.0),
        constant("fast.ts", "50", 50.0),
        constant("ntsc60.mkv", "60000/1001", 59.94),
        constant("game.mp4", "120", 120.0),
        constant("slides.mp4", "1/2", 0.5),
        constant("slides2.mp4", "2", 2.0),
        // One pause is no slower rate.
        ("pause.mp4", format!("{} -vf {pause} -vsync vfr {H264}", source("30", 4)), 30.0, true),
        ("pause.mkv", format!("{} -vf {pause} -vsync vfr {H264}", source("25", 4)), 25.0, true),
        ("pause.mov", format!("{} -vf {pause} -vsync vfr {H264} -bf 2", source("60", 4)), 60.0, true),
        // A time stamp that comes twice is no faster rate.
        (
            "twice.mkv",
            format!(
                "{} -vf setpts='if(eq(N,40),PREV_OUTPTS,PTS)' -vsync passthrough {H264} -bf 0",
                source("24", 4)
            ),
            24.0,
            false,
        ),
        // Motion in bursts keeps the rate of the bursts.
        ("bursts.mkv", format!("{} -vf {bursts} -vsync vfr {H264}", source("25", 4)), 25.0, false),
        ("bursts.mp4", format!("{} -vf {bursts} -vsync vfr {H264}", source("60", 4)), 60.0, false),
        // Interlaced pictures are pictures, not fields.
        (
            "fields.ts",
            format!(
                "{} -vf tinterlace=interleave_top -c:v mpeg2video -flags +ildct+ilme -top 1",
                source("50", 4)
            ),
            25.0,
            true,
        ),
        (
            "fields.mp4",
            format!(
                "{} -vf tinterlace=interleave_top {H264} -flags +ildct+ilme -top 1",
                source("60000/1001", 4)
            ),
            29.97,
            true,
        ),
        // Film as video by hard pull-down is coded at the video's rate.
        ("telecine.mkv", format!("{} -vf telecine {H264}", source("24000/1001", 4)), 29.97, true),
    ]
}

#[test]
fn the_rate_is_that_of_the_pictures() {
    run(async {
        let studio = Studio::new();
        for (name, arguments, expected, is_even) in sources() {
            let found = probe(&studio.make(name, &arguments)).await.unwrap();
            let video = found.best_video().unwrap().video.clone().unwrap();
            let rate = video.average_frame_rate.as_f64();
            assert!((rate / expected - 1.0).abs() < 0.002, "{name}: {rate} instead of {expected}: {video:?}");
            assert_eq!(!video.is_variable_rate, is_even, "{name}: {video:?}");
        }
        let one = studio.make("one.mp4", &format!("{} -frames:v 1 {H264}", source("25", 1)));
        let video = probe(&one).await.unwrap().streams[0].video.clone().unwrap();
        assert!(video.average_frame_rate == MediaRatio::new(25, 1) || !video.average_frame_rate.is_usable());
    });
}
