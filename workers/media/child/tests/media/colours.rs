//! Colours are what they were: sources of other primaries than BT.709 are converted, not only named anew.

use crate::harness::{Job, Studio, driver, encode_spec, ffmpeg, produce, run, rung};

/// The red of BT.709, coded with other primaries (SMPTE EG 432-1, ITU-R BT.2020), and the tags that say so. As a display shows it: by the
/// curve of ITU-R BT.1886, or that of sRGB.
const REDS: [(&str, &str, &str); 6] = [
    ("bt709.mp4", "0xFF0000", "-color_primaries bt709 -color_trc bt709 -colorspace bt709"),
    ("untagged.mp4", "0xFF0000", ""),
    ("p3.mp4", "0xEB3E2F", "-color_primaries smpte432 -color_trc bt709 -colorspace bt709"),
    ("p3-srgb.mp4", "0xEA3323", "-color_primaries smpte432 -color_trc iec61966-2-1 -colorspace bt709"),
    ("bt2020.mp4", "0xD2542E", "-color_primaries bt2020 -color_trc bt2020-10 -colorspace bt2020nc"),
    ("bt2020-8.mkv", "0xD2542E", "-color_primaries bt2020 -color_trc bt709 -colorspace bt2020nc"),
];

#[test]
fn pictures_of_odd_sides_are_converted() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let film = "-f lavfi -i testsrc2=size=321x181:rate=25 -t 1";
        let p3 = "-color_primaries smpte432 -color_trc bt709 -colorspace bt709";
        let pq = "-color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc";
        for (name, options) in [
            ("420.webm", format!("-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 {p3}")),
            ("444.mkv", format!("-pix_fmt yuv444p -c:v libx264 {p3}")),
            (
                "rgb.mkv",
                "-pix_fmt bgra -c:v ffv1 -color_primaries smpte432 -color_trc bt709 -colorspace rgb".into(),
            ),
            ("hdr.mkv", format!("-pix_fmt yuv444p10le -c:v libx264 {pq}")),
        ] {
            let source = studio.make(name, &format!("{film} {options}"));
            let spec = encode_spec((25, 1), 25, vec![rung(0, 160, 90)]);
            let product = produce(&driver, &source, Job::Encode(spec)).await;
            assert_eq!(product.map(|product| product.report.frames_written).ok(), Some(25), "{name}");
        }
    });
}

#[test]
fn wide_gamuts_are_converted() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        for (name, colour, tags) in REDS {
            // The matrix by which the colour is coded is the one that the tags name.
            let matrix = if tags.contains("bt2020nc") { "bt2020" } else { "bt709" };
            let matrix = if tags.is_empty() { "smpte170m" } else { matrix };
            let source = studio.make(
                name,
                &format!(
                    "-f lavfi -i color={colour}:size=320x180:rate=25,format=gbrp,scale=out_color_matrix={matrix}:out_range=tv,format=yuv444p \
                     -t 1 -c:v libx264 -qp 4 {tags}"
                ),
            );
            let spec = encode_spec((25, 1), 25, vec![rung(0, 320, 180)]);
            let product = produce(&driver, &source, Job::Encode(spec)).await.unwrap();
            let made = studio.write(&format!("made-{name}"), &product.file(0));
            let shown = ffmpeg(&format!(
                "-i {} -frames:v 1 -vf scale=in_color_matrix=bt709:in_range=tv,format=rgb24,scale=1:1:flags=area -f rawvideo -",
                made.display()
            ));
            let pixel: [u8; 3] = shown.stdout[..3].try_into().unwrap();
            let is_red = pixel[0] > 245 && pixel[1] < 14 && pixel[2] < 14;
            assert!(is_red, "{name} is {pixel:?}");
        }
    });
}
