//! Encodes: frame counts, joints, boxes, and the same bytes each time.

use std::path::Path;

use media::{AudioSpec, ClockMap, EncodeRung, EncodeSpec, EncoderPreset, MediaRatio};

use crate::harness::{
    COUNTED, Job, Product, SAMPLE, Studio, driver, encode_spec, ffprobe, frame_hashes, probe, produce, run,
    rung, steps,
};

/// Good enough to distinguish one step of brightness from the next.
fn faithful(mut rung: EncodeRung) -> EncodeRung {
    rung.crf = 1.0;
    rung.rate_bits_per_second_max = 500_000_000;
    rung.buffer_bits = 500_000_000;
    rung.level = 51;
    rung
}

/// The first box of a type, looked for anywhere below the containers that matter here.
fn find_box<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut rest = file;
    while rest.len() >= 8 {
        let size = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
        let (kind, body) = (&rest[4..8], &rest[8..size]);
        if kind == wanted {
            return Some(body);
        }
        let skip = match kind {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"traf" | b"mvex" | b"edts" => {
                Some(0)
            }
            b"stsd" => Some(8),
            b"avc1" => Some(78),
            _ => None,
        };
        if let Some(found) = skip.and_then(|skip| find_box(&body[skip..], wanted)) {
            return Some(found);
        }
        rest = &rest[size..];
    }
    None
}

fn count_boxes(file: &[u8], wanted: &[u8]) -> usize {
    file.windows(4).filter(|kind| *kind == wanted).count()
}

/// The time a segment says it begins at.
fn decode_time(segment: &[u8]) -> u64 {
    let body = find_box(segment, b"tfdt").unwrap();
    match body[0] {
        0 => u64::from(u32::from_be_bytes(body[4..8].try_into().unwrap())),
        _ => u64::from_be_bytes(body[4..12].try_into().unwrap()),
    }
}

/// Checks a rendition against its plan with the ffmpeg command line and by its boxes.
fn check(studio: &Studio, product: &Product, spec: &EncodeSpec, position: usize) -> Vec<String> {
    let rung = &spec.rungs[position];
    let path = studio.write(&format!("out-{position}.mp4"), &product.file(rung.rendition));
    let hashes = frame_hashes(&path, "0:v");
    assert_eq!(hashes.len(), usize::try_from(spec.frame_count).unwrap());
    let shown = ffprobe(
        &path,
        "-show_entries stream=codec_name,width,height,pix_fmt,color_range,color_space,color_transfer,color_primaries",
    );
    assert_eq!(shown[0], format!("h264,{},{},yuv420p,tv,bt709,bt709,bt709", rung.width, rung.height));
    let ticks = spec.check().unwrap();
    let mut expected = ticks.frame_start_ticks(spec.start_frame);
    for (number, (shown, start, duration, samples, bytes)) in
        product.segments(rung.rendition).into_iter().enumerate()
    {
        assert_eq!(shown, spec.first_segment + u32::try_from(number).unwrap());
        assert_eq!((start, decode_time(&bytes)), (expected, expected), "segment {shown}");
        assert_eq!(duration, ticks.frame_start_ticks(u64::from(samples)));
        assert_eq!(count_boxes(&bytes, b"traf"), 1);
        expected += duration;
    }
    let init = product.init(rung.rendition);
    assert!(find_box(&init, b"ftyp").unwrap().chunks(4).any(|brand| brand == b"cmfc"));
    // What a player built on FFmpeg makes of it: the first picture is presented where the first segment begins.
    let presented = ffprobe(&path, "-show_entries packet=pts");
    let earliest = presented.iter().map(|pts| pts.parse::<u64>().unwrap()).min();
    assert_eq!(earliest, Some(ticks.frame_start_ticks(spec.start_frame)));
    assert_eq!(find_box(&init, b"colr").unwrap(), b"nclx\0\x01\0\x01\0\x01\0");
    assert_eq!(count_boxes(&init, b"trak"), 1);
    hashes
}

fn keyframes(path: &Path) -> Vec<String> {
    ffprobe(path, "-skip_frame nokey -show_entries frame=pts")
}

#[test]
fn the_sample_becomes_a_ladder_with_aligned_keyframes() {
    run(async {
        let studio = Studio::new();
        let spec = encode_spec((25, 1), 132, vec![rung(0, 640, 360), rung(1, 320, 180)]);
        let driver = driver().await;
        let product = produce(&driver, Path::new(SAMPLE), Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &product, &spec, 0);
        check(&studio, &product, &spec, 1);
        let keys = keyframes(&studio.path("out-0.mp4"));
        assert_eq!(keys, keyframes(&studio.path("out-1.mp4")));
        assert_eq!(keys, ["0", "25600", "51200"]);
        let report = &product.report;
        assert_eq!((report.frames_written, report.frames_repeated, report.frames_dropped), (132, 0, 0));
        assert!(report.cpu_seconds > 0.0 && report.rss_bytes_max > 1 << 20);
        // The same task gives the same bytes.
        let again = produce(&driver, Path::new(SAMPLE), Job::Encode(spec)).await.unwrap();
        for rendition in [0, 1] {
            assert!(again.file(rendition) == product.file(rendition), "rendition {rendition} differs");
        }
    });
}

#[test]
fn ranges_join_without_a_trace() {
    run(async {
        let studio = Studio::new();
        // Long groups of pictures with B frames, so that joints fall in the middle of them.
        let path = studio.make(
            "long.mkv",
            &format!(
                "-f lavfi -i color=size=320x180:rate=30000/1001 -t 10 -vf {COUNTED} -c:v libx264 -g 120 -bf 3 -qp 1 -preset veryfast"
            ),
        );
        let driver = driver().await;
        let spec = EncodeSpec {
            segment_frames: 60,
            gop_frames: 30,
            ..encode_spec((30_000, 1001), 290, vec![faithful(rung(0, 320, 180))])
        };
        let whole = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &whole, &spec, 0);
        let mut joined = whole.init(0);
        for (start, count) in [(0, 60), (60, 120), (180, 110)] {
            let part = EncodeSpec {
                start_frame: start,
                frame_count: count,
                first_segment: u32::try_from(start).unwrap() / 60,
                ..spec.clone()
            };
            let product = produce(&driver, &path, Job::Encode(part.clone())).await.unwrap();
            check(&studio, &product, &part, 0);
            assert_eq!(product.init(0), whole.init(0), "init of the range at {start}");
            for (.., bytes) in product.segments(0) {
                joined.extend_from_slice(&bytes);
            }
        }
        let whole_path = studio.write("whole.mp4", &whole.file(0));
        let joined_path = studio.write("joined.mp4", &joined);
        let source = steps(&path);
        assert_eq!(steps(&whole_path), source[..290]);
        assert_eq!(steps(&joined_path), source[..290]);
        assert_eq!(keyframes(&joined_path), keyframes(&whole_path));
        let times = |path: &Path| ffprobe(path, "-show_entries packet=pts,duration");
        let mut sorted = times(&joined_path);
        assert_eq!(sorted.len(), 290);
        sorted.sort();
        let mut expected = times(&whole_path);
        expected.sort();
        assert_eq!(sorted, expected);
    });
}

#[test]
fn every_kind_of_input_is_encoded_to_its_plan() {
    run(async {
        let studio = Studio::new();
        let video = "-f lavfi -i testsrc2=size=320x180:rate=25 -t 2";
        let mut inputs = vec![
            studio.make("a.mov", &format!("{video} -c:v prores_ks")),
            studio.make("a.webm", &format!("{video} -c:v libvpx-vp9 -deadline realtime -cpu-used 8")),
            studio.make("a.ts", &format!("{video} -c:v libx264 -bf 3 -output_ts_offset 1000")),
            studio.make("a.avi", &format!("{video} -c:v mpeg4 -bf 2")),
            studio.make("a.gif", video),
            studio.make("a.apng", video),
            studio.make("a.flv", &format!("{video} -c:v libx264 -bf 2")),
            studio.make("a.mpg", &format!("{video} -c:v mpeg2video -bf 2")),
            studio.make("a.mxf", &format!("{video} -c:v mpeg2video -bf 2")),
            studio.make("a.wmv", &format!("{video} -c:v wmv2")),
            studio.make("deep.mp4", &format!("{video} -c:v libx264 -pix_fmt yuv422p10le")),
            studio.make("full.mp4", &format!("{video} -c:v libx264 -pix_fmt yuvj444p")),
            studio.make("odd.mkv", "-f lavfi -i testsrc=size=321x181:rate=25 -t 2 -c:v ffv1 -pix_fmt bgra"),
            studio.make("one.mp4", "-f lavfi -i testsrc2=size=320x180:rate=25 -frames:v 1 -c:v libx264"),
            studio.make("slow.mp4", "-f lavfi -i testsrc2=size=320x180:rate=1 -t 2 -c:v libx264"),
            studio.make("uneven.mkv", &format!("{video} -vf select='not(eq(mod(n,3),1))' -vsync vfr -c:v libx264")),
            studio.make("fields.ts", &format!("{video} -c:v mpeg2video -flags +ildct+ilme -top 1")),
            studio.make(
                "hdr.mkv",
                &format!("{video} -c:v libx264 -pix_fmt yuv420p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc"),
            ),
        ];
        let plain = studio.make("plain.mp4", &format!("{video} -c:v libx264"));
        inputs.push(
            studio.make("turned.mp4", &format!("-i {} -c copy -metadata:s:v:0 rotate=90", plain.display())),
        );
        let driver = driver().await;
        for path in inputs {
            let found = probe(&path).await.unwrap();
            let stream = found.best_video().unwrap();
            let mut spec = encode_spec((25, 1), 50, vec![rung(0, 160, 90)]);
            spec.origin_us = found.start_us;
            spec.deinterlace = stream.video.as_ref().unwrap().is_interlaced;
            let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
            check(&studio, &product, &spec, 0);
            assert_eq!(product.report.decode_errors, 0, "{}", path.display());
        }
    });
}

#[test]
fn a_cut_file_is_encoded_to_where_it_goes() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        let film = "-f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=sample_rate=48000 -t 10 -g 25";
        let h264 = "-c:v libx264 -preset ultrafast -c:a aac";
        for (name, codecs) in [
            ("fragments.mp4", format!("{h264} -movflags +frag_keyframe+empty_moov")),
            ("faststart.mp4", format!("{h264} -movflags +faststart")),
            ("a.mkv", h264.to_owned()),
            ("a.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libopus".to_owned()),
            ("a.avi", "-c:v mpeg4 -c:a mp3".to_owned()),
            ("a.ts", h264.to_owned()),
            ("a.flv", h264.to_owned().replace("aac", "aac -ar 44100")),
            ("a.mpg", "-c:v mpeg2video -c:a mp2".to_owned()),
            ("a.wmv", "-c:v wmv2 -c:a wmav2".to_owned()),
        ] {
            let whole = std::fs::read(studio.make(name, &format!("{film} {codecs} -shortest"))).unwrap();
            // Transport streams may begin inside a packet as well.
            let start = if name == "a.ts" { 100 } else { 0 };
            let path = studio.write(&format!("cut-{name}"), &whole[start..whole.len() * 3 / 5]);
            let found = probe(&path).await.unwrap();
            let frames = u32::try_from(found.duration_us / 40_000).unwrap();
            let mut spec = encode_spec((25, 1), frames, vec![rung(0, 160, 90)]);
            spec.origin_us = found.start_us;
            spec.stream = found.best_video().unwrap().index;
            let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
            check(&studio, &product, &spec, 0);
            let report = product.report;
            assert!(frames > 100 && report.frames_repeated <= 10, "{name}: {report:?}");
            let sound = AudioSpec {
                stream: found.audio_streams()[0].index,
                origin_us: found.start_us,
                rendition: 1,
                duration_samples: found.duration_us * 48 / 1000,
                segment_seconds: MediaRatio::new(2, 1),
                rate_bits_per_second: 128_000,
                loudness_lufs: None,
                clock: ClockMap::default(),
            };
            let report = produce(&driver, &path, Job::Audio(sound)).await.unwrap().report;
            // Program streams send sound up to 0.7 s behind the pictures.
            assert!(report.silence_samples < 48_000, "{name}: {report:?}");
        }
    });
}

#[test]
fn rates_change_by_whole_frames() {
    run(async {
        let studio = Studio::new();
        let path = studio.make("fast.mkv", "-f lavfi -i testsrc2=size=320x180:rate=50 -t 4 -c:v libx264");
        let driver = driver().await;
        let spec = encode_spec((25, 1), 100, vec![rung(0, 160, 90)]);
        let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &product, &spec, 0);
        assert_eq!((product.report.frames_repeated, product.report.frames_dropped), (0, 99));
        let spec = encode_spec((60, 1), 240, vec![rung(0, 160, 90)]);
        let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &product, &spec, 0);
        assert_eq!((product.report.frames_repeated, product.report.frames_dropped), (40, 0));
        // Planned longer than the source is: the last picture stays.
        let spec = encode_spec((50, 1), 220, vec![rung(0, 160, 90)]);
        let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &product, &spec, 0);
        assert_eq!(product.report.frames_repeated, 20);
    });
}

#[test]
fn interlaced_ranges_join_as_well() {
    run(async {
        let studio = Studio::new();
        let path = studio.make(
            "fields.ts",
            &format!(
                "-f lavfi -i color=size=320x180:rate=50 -t 8 -vf {COUNTED},tinterlace=interleave_top,setfield=tff \
                 -c:v mpeg2video -flags +ildct+ilme -g 12 -bf 2 -q:v 1 -top 1"
            ),
        );
        let found = probe(&path).await.unwrap();
        let mut spec = encode_spec((25, 1), 190, vec![faithful(rung(0, 320, 180))]);
        spec.origin_us = found.start_us;
        spec.deinterlace = true;
        let driver = driver().await;
        let whole = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &whole, &spec, 0);
        let all = steps(&studio.path("out-0.mp4"));
        let part = EncodeSpec { start_frame: 100, frame_count: 90, first_segment: 2, ..spec };
        let product = produce(&driver, &path, Job::Encode(part.clone())).await.unwrap();
        check(&studio, &product, &part, 0);
        assert_eq!(steps(&studio.path("out-0.mp4")), all[100..]);
        let mut distinct = all.clone();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len(), "a picture is shown twice");
    });
}

#[test]
fn thread_counts_and_presets_are_taken() {
    run(async {
        let studio = Studio::new();
        let mut spec = encode_spec((25, 1), 100, vec![rung(0, 320, 180)]);
        spec.rungs[0].threads = 4;
        spec.preset = EncoderPreset::Veryfast;
        let driver = driver().await;
        let first = produce(&driver, Path::new(SAMPLE), Job::Encode(spec.clone())).await.unwrap();
        check(&studio, &first, &spec, 0);
        spec.decode_threads = 1;
        let again = produce(&driver, Path::new(SAMPLE), Job::Encode(spec.clone())).await.unwrap();
        assert!(first.file(0) == again.file(0), "decoder threads or chance changed the output");
        let out = studio.path("out-0.mp4");
        assert_eq!(ffprobe(&out, "-show_entries stream=profile,level"), ["High,31"]);
        assert!(
            ffprobe(
                &out,
                "-show_entries stream_tags=encoder -show_entries format_tags=encoder,creation_time"
            )
            .concat()
            .is_empty()
        );
        assert_eq!(spec.frame_rate, MediaRatio::new(25, 1));
    });
}

#[test]
fn pictures_that_are_not_reordered_are_presented_at_their_time_too() {
    run(async {
        let studio = Studio::new();
        let driver = driver().await;
        // One and two frames leave nothing to reorder, and every frame of a title of one picture a segment stands alone.
        for (frames, segment_frames) in [(1, 50), (2, 50), (5, 1), (7, 2)] {
            let path = studio.make(
                "short.mp4",
                &format!("-f lavfi -i testsrc2=size=320x180:rate=25 -frames:v {frames} -c:v libx264 -pix_fmt yuv420p"),
            );
            let spec = EncodeSpec {
                preset: EncoderPreset::Veryfast,
                segment_frames,
                ..encode_spec((25, 1), frames, vec![rung(0, 320, 180)])
            };
            let product = produce(&driver, &path, Job::Encode(spec.clone())).await.unwrap();
            check(&studio, &product, &spec, 0);
        }
    });
}
