//! What a probe says of good and bad files.

use std::path::Path;

use media::{
    ClockMap, MediaErrorCode, MediaFileKind, MediaRatio, MediaRetryDecision, MediaTaskError, MediaTaskOutput,
    StillsSpec,
};

use crate::harness::{Job, SAMPLE, Studio, driver, probe, produce, run};

const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
const AUDIO: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";

pub(crate) async fn refused(path: &Path) -> MediaErrorCode {
    match probe(path).await {
        Err(fault @ MediaTaskError::Rejected { code, .. }) => {
            assert_eq!(fault.retry_decision(), MediaRetryDecision::Reject);
            code
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn bad_files_are_refused_with_their_code() {
    run(async {
        let studio = Studio::new();
        assert_eq!(refused(&studio.write("empty.mp4", b"")).await, MediaErrorCode::MediaEmpty);
        let text = "The quick brown fox jumps over the lazy dog.\n".repeat(2000);
        assert_eq!(
            refused(&studio.write("text.mp4", text.as_bytes())).await,
            MediaErrorCode::MediaUnsupportedFormat
        );
        let playlist = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n";
        assert_eq!(
            refused(&studio.write("list.mp4", playlist)).await,
            MediaErrorCode::MediaUnsupportedFormat
        );
        let concat = b"ffconcat version 1.0\nfile /etc/passwd\n";
        assert_eq!(
            refused(&studio.write("concat.mp4", concat)).await,
            MediaErrorCode::MediaUnsupportedFormat
        );
        let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(refused(&studio.write("noise.bin", &noise)).await, MediaErrorCode::MediaUnsupportedFormat);
    });
}

#[test]
fn truncated_files_are_distinguished_from_damaged_ones() {
    run(async {
        let studio = Studio::new();
        // The index is at the end, and is lost.
        let sample = std::fs::read(studio.make("late.mp4", &format!("{VIDEO} -t 2 -c:v libx264"))).unwrap();
        let late = studio.write("late-cut.mp4", &sample[..sample.len() / 2]);
        assert_eq!(refused(&late).await, MediaErrorCode::MediaTruncated);
        // The index is at the beginning: what is there can be described, and is known not to be all.
        let early = studio.make("early.mp4", &format!("{VIDEO} -t 2 -c:v libx264 -movflags +faststart"));
        let sample = std::fs::read(early).unwrap();
        let cut = probe(&studio.write("early-cut.mp4", &sample[..sample.len() * 3 / 4])).await.unwrap();
        assert!(cut.is_truncated);
        let whole = probe(&studio.write("whole.mp4", &sample)).await.unwrap();
        assert!(!whole.is_truncated);
        assert!(cut.streams[0].packet_count < whole.streams[0].packet_count);
        let webm =
            std::fs::read(studio.make("a.webm", &format!("{VIDEO} -t 2 -c:v libvpx -deadline realtime")))
                .unwrap();
        let cut = probe(&studio.write("cut.webm", &webm[..webm.len() / 2])).await.unwrap();
        assert!(cut.is_truncated);
        // The box lengths fit, the index is nonsense.
        let mut damaged = sample.clone();
        let moov = damaged.windows(4).position(|kind| kind == b"moov").unwrap();
        damaged[moov + 4..moov + 600].fill(0xff);
        assert_eq!(refused(&studio.write("damaged.mp4", &damaged)).await, MediaErrorCode::MediaNoStreams);
        let mut damaged = std::fs::read(studio.make("a.wav", &format!("{AUDIO} -t 1"))).unwrap();
        damaged[12..].fill(0x55);
        assert_eq!(refused(&studio.write("damaged.wav", &damaged)).await, MediaErrorCode::MediaCorrupt);
    });
}

#[test]
fn a_picture_too_large_is_refused_before_it_is_decoded() {
    run(async {
        let studio = Studio::new();
        let large = studio.make(
            "8k.mp4",
            "-f lavfi -i color=black:size=7680x4320:rate=1 -t 1 -c:v libx264 -preset ultrafast",
        );
        assert_eq!(refused(&large).await, MediaErrorCode::MediaTooManyPixels);
        let stream = studio.make(
            "8k.ts",
            "-f lavfi -i color=black:size=7680x4320:rate=1 -t 2 -c:v libx264 -preset ultrafast",
        );
        assert_eq!(refused(&stream).await, MediaErrorCode::MediaTooManyPixels);
        // A header that promises far more than the file holds.
        let mut bomb =
            std::fs::read(studio.make("bomb.png", "-f lavfi -i color=black:size=64x64 -frames:v 1")).unwrap();
        bomb[16..24].copy_from_slice(&[0, 0, 0x2e, 0xe0, 0, 0, 0x2e, 0xe0]);
        assert_eq!(refused(&studio.write("bomb-large.png", &bomb)).await, MediaErrorCode::MediaTooManyPixels);
    });
}

#[test]
fn containers_are_described_alike() {
    run(async {
        let studio = Studio::new();
        let codecs = "-t 2 -c:v libx264 -c:a aac -shortest";
        for (name, container) in [
            ("a.mp4", "mov,mp4,m4a,3gp,3g2,mj2"),
            ("a.mov", "mov,mp4,m4a,3gp,3g2,mj2"),
            ("a.mkv", "matroska,webm"),
            ("a.ts", "mpegts"),
            ("a.avi", "avi"),
        ] {
            let path = studio.make(name, &format!("{VIDEO} {AUDIO} {codecs}"));
            let found = probe(&path).await.unwrap();
            assert_eq!((found.kind, found.container.as_str()), (MediaFileKind::Video, container), "{name}");
            assert!(!found.is_truncated, "{name}");
            let stream = found.best_video().unwrap();
            let video = stream.video.as_ref().unwrap();
            assert_eq!((stream.codec.as_str(), stream.packet_count), ("h264", 50), "{name}");
            assert_eq!((video.width, video.height, video.bit_depth), (320, 180, 8), "{name}");
            assert!((video.average_frame_rate.as_f64() - 25.0).abs() < 0.5, "{name}");
            assert_eq!(video.frame_interval_us_usual, 40_000, "{name}");
            assert!(!video.is_variable_rate, "{name}");
            let lasts = stream.end_us.unwrap() - stream.start_us.unwrap();
            assert!((lasts - 2_000_000).abs() <= 1_000, "{name}: {lasts}");
            let [sound] = found.audio_streams()[..] else { panic!("{name}") };
            let audio = sound.audio.as_ref().unwrap();
            assert_eq!(
                (sound.codec.as_str(), audio.sample_rate_hz, audio.channels),
                ("aac", 48_000, 1),
                "{name}"
            );
        }
        let webm = studio.make(
            "a.webm",
            &format!("{VIDEO} {AUDIO} -t 1 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"),
        );
        let found = probe(&webm).await.unwrap();
        assert_eq!(found.best_video().unwrap().codec, "vp9");
        assert_eq!(found.audio_streams()[0].codec, "opus");
    });
}

#[test]
fn files_of_cameras_studios_and_older_systems_are_described() {
    run(async {
        let studio = Studio::new();
        let film = |codecs: &str| format!("{VIDEO} {AUDIO} -t 2 {codecs} -shortest");
        for (name, container, arguments) in [
            ("a.flv", "flv", film("-c:v libx264 -c:a aac -ar 44100")),
            ("a.mpg", "mpeg", film("-c:v mpeg2video -c:a mp2")),
            ("a.vob", "mpeg", film("-c:v mpeg2video -c:a ac3")),
            ("a.mxf", "mxf", film("-c:v mpeg2video -c:a pcm_s16le")),
            ("a.wmv", "asf", film("-c:v wmv2 -c:a wmav2")),
            ("a.apng", "apng", format!("{VIDEO} -t 2")),
        ] {
            let found = probe(&studio.make(name, &arguments)).await.unwrap();
            assert_eq!((found.kind, found.container.as_str()), (MediaFileKind::Video, container), "{name}");
            assert!(!found.is_truncated, "{name}");
            let video = found.best_video().unwrap().video.as_ref().unwrap();
            assert_eq!((video.width, video.height), (320, 180), "{name}");
            assert!((video.average_frame_rate.as_f64() - 25.0).abs() < 0.5, "{name}");
            assert_eq!(found.audio_streams().len(), usize::from(container != "apng"), "{name}");
            assert!(found.duration_us.abs_diff(2_000_000) < 120_000, "{name}: {}", found.duration_us);
        }
        for (name, container, codec) in [
            ("a.aiff", "aiff", "pcm_s16be"),
            ("a.aifc", "aiff", "pcm_mulaw"),
            ("a.caf", "caf", "pcm_s16be"),
            ("alac.caf", "caf", "alac"),
            ("a.wma", "asf", "wmav2"),
        ] {
            let form = if container == "aiff" { "-f aiff" } else { "" };
            let path = studio.make(name, &format!("{AUDIO} -t 2 -c:a {codec} {form}"));
            let found = probe(&path).await.unwrap();
            assert_eq!((found.kind, found.container.as_str()), (MediaFileKind::Audio, container), "{name}");
            assert!(!found.is_truncated, "{name}");
            assert!(found.duration_us.abs_diff(2_000_000) < 120_000, "{name}: {}", found.duration_us);
        }
    });
}

#[test]
fn a_cut_file_is_described_to_where_it_goes() {
    run(async {
        let studio = Studio::new();
        let film = |codecs: &str| format!("{VIDEO} {AUDIO} -t 10 -g 25 {codecs} -shortest");
        let h264 = "-c:v libx264 -preset ultrafast -c:a aac";
        for (name, codecs) in [
            ("fragments.mp4", format!("{h264} -movflags +frag_keyframe+empty_moov")),
            ("faststart.mp4", format!("{h264} -movflags +faststart")),
            ("a.mkv", h264.to_owned()),
            ("live.mkv", format!("{h264} -live 1")),
            ("a.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libopus".to_owned()),
            ("a.avi", "-c:v mpeg4 -c:a mp3".to_owned()),
            ("a.ts", h264.to_owned()),
            ("a.flv", format!("{h264} -ar 44100")),
            ("a.mpg", "-c:v mpeg2video -c:a mp2".to_owned()),
            ("a.mxf", "-c:v mpeg2video -c:a pcm_s16le".to_owned()),
            ("a.wmv", "-c:v wmv2 -c:a wmav2".to_owned()),
        ] {
            let whole = std::fs::read(studio.make(name, &film(&codecs))).unwrap();
            let path = studio.write(&format!("cut-{name}"), &whole[..whole.len() * 3 / 5]);
            let found = probe(&path).await.unwrap();
            assert_eq!(found.kind, MediaFileKind::Video, "{name}");
            let is_between = (4_500_000..7_500_000).contains(&found.duration_us);
            assert!(is_between, "{name}: {} us of 10 s are said to be there", found.duration_us);
            let stream = found.best_video().unwrap();
            let lasts = u64::try_from(stream.end_us.unwrap() - stream.start_us.unwrap()).unwrap();
            assert!(lasts.abs_diff(stream.packet_count * 40_000) < 200_000, "{name}: {lasts}");
        }
        for (name, arguments) in [
            ("a.wav", format!("{AUDIO} -t 10")),
            ("a.aiff", format!("{AUDIO} -t 10")),
            ("a.caf", format!("{AUDIO} -t 10 -c:a pcm_s16be")),
            ("a.wma", format!("{AUDIO} -t 10 -c:a wmav2")),
            ("a.ogg", format!("{AUDIO} -t 10 -c:a libvorbis")),
            ("a.aac", format!("{AUDIO} -t 10 -c:a aac")),
        ] {
            let whole = std::fs::read(studio.make(name, &arguments)).unwrap();
            let found =
                probe(&studio.write(&format!("cut-{name}"), &whole[..whole.len() * 3 / 5])).await.unwrap();
            let is_between = (5_000_000..7_000_000).contains(&found.duration_us);
            assert!(is_between, "{name}: {} us of 10 s are said to be there", found.duration_us);
        }
    });
}

#[test]
fn bytes_around_a_medium_change_nothing() {
    run(async {
        let studio = Studio::new();
        let film = |codecs: &str| format!("{VIDEO} {AUDIO} -t 2 {codecs} -shortest");
        let h264 = film("-c:v libx264 -preset ultrafast -c:a aac");
        let camera = [b"\0\0\x0a\x0aMotionPhoto_Data".as_slice(), &[0x91; 700], b"SEFHk\0\0\0SEFT"].concat();
        for (name, arguments) in [
            ("a.mp4", h264.clone()),
            ("front.mp4", format!("{h264} -movflags +faststart")),
            ("fragments.mp4", format!("{h264} -movflags +frag_keyframe+empty_moov")),
            ("a.mkv", h264.clone()),
            ("a.webm", film("-c:v libvpx -deadline realtime -cpu-used 8 -c:a libopus")),
            ("a.ts", h264.clone()),
            ("a.flv", format!("{h264} -ar 44100")),
            ("a.avi", film("-c:v mpeg4 -c:a mp3")),
            ("a.wav", format!("{AUDIO} -t 2")),
            ("a.aiff", format!("{AUDIO} -t 2")),
            ("a.caf", format!("{AUDIO} -t 2 -c:a pcm_s16be")),
            ("a.ogg", format!("{AUDIO} -t 2 -c:a libvorbis")),
            ("a.aac", format!("{AUDIO} -t 2 -c:a aac")),
            ("a.mxf", film("-c:v mpeg2video -c:a pcm_s16le")),
            ("a.wmv", film("-c:v wmv2 -c:a wmav2")),
            ("a.png", format!("{VIDEO} -frames:v 1")),
            ("a.apng", format!("{VIDEO} -t 2")),
        ] {
            let path = studio.make(name, &arguments);
            let (bytes, wanted) = (std::fs::read(&path).unwrap(), probe(&path).await.unwrap());
            let padding = vec![0; 65_536];
            for (what, tail) in
                [("a byte", &b"x"[..]), ("padding", &padding), ("a camera's trailer", &camera)]
            {
                let both = studio.write(&format!("tail-{name}"), &[bytes.as_slice(), tail].concat());
                let found =
                    probe(&both).await.unwrap_or_else(|error| panic!("{what} behind {name}: {error:?}"));
                // A packet of sound that has one byte; the file's structure says what it is.
                let is_packet = (what, name) == ("a byte", "a.aac");
                assert_eq!(found.is_truncated, is_packet, "{what} behind {name}");
                let counts = |probe: &media::MediaProbe| {
                    let counts = probe.streams.iter().map(|stream| stream.packet_count);
                    (probe.kind, counts.collect::<Vec<_>>(), probe.duration_us)
                };
                // Whatever lies behind a picture is a packet, of which none is looked at.
                if wanted.kind == MediaFileKind::Image {
                    assert_eq!(found.kind, MediaFileKind::Image, "{what} behind {name}");
                } else {
                    assert_eq!(counts(&found), counts(&wanted), "{what} behind {name}");
                }
            }
        }
        let sound = std::fs::read(studio.make("a.mp3", &format!("{AUDIO} -t 2 -c:a libmp3lame"))).unwrap();
        for padding in [1, 20_000, 65_536] {
            let path = studio.write("padded.mp3", &[vec![0; padding].as_slice(), &sound].concat());
            let found = probe(&path).await.unwrap();
            assert_eq!((found.kind, found.container.as_str()), (MediaFileKind::Audio, "mp3"), "{padding}");
            assert!(found.duration_us.abs_diff(2_000_000) < 120_000, "{padding}: {}", found.duration_us);
        }
        let stream = std::fs::read(studio.make("b.ts", &h264)).unwrap();
        for from in [1, 100, 187] {
            let found = probe(&studio.write("inside.ts", &stream[from..])).await.unwrap();
            assert_eq!(found.container, "mpegts", "{from}");
            assert!(found.best_video().unwrap().packet_count >= 48, "{from}");
            assert!(!found.is_truncated, "{from}");
        }
    });
}

#[test]
fn chapters_are_named_with_their_times() {
    run(async {
        let studio = Studio::new();
        let list = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle=Ankunft \u{e4}\n\
            [CHAPTER]\nTIMEBASE=1/1000\nSTART=2000\nEND=4500\ntitle=Coast\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=4500\nEND=6000\ntitle=Sea\n";
        let list = studio.write("chapters.txt", list.as_bytes());
        for name in ["named.mp4", "named.mkv"] {
            let map = "-map 0 -map_chapters 1 -t 6 -c:v libx264";
            let made = studio.make(name, &format!("{VIDEO} -f ffmetadata -i {} {map}", list.display()));
            let found = probe(&made).await.unwrap();
            let starts: Vec<i64> =
                found.chapters.iter().map(|chapter| chapter.start_us - found.start_us).collect();
            assert_eq!((starts, found.chapter_count), (vec![0, 2_000_000, 4_500_000], 3), "{name}");
            let titles: Vec<Option<&str>> =
                found.chapters.iter().map(|chapter| chapter.title.as_deref()).collect();
            assert_eq!(titles, [Some("Ankunft \u{e4}"), Some("Coast"), Some("Sea")], "{name}");
        }
    });
}

#[test]
fn the_sample_clip_is_described() {
    run(async {
        let found = probe(Path::new(SAMPLE)).await.unwrap();
        let stream = found.best_video().unwrap();
        assert_eq!(
            (stream.codec.as_str(), stream.profile.as_deref(), stream.level),
            ("h264", Some("Main"), Some(31))
        );
        let video = stream.video.as_ref().unwrap();
        assert_eq!(
            (video.display_width, video.display_height, video.sample_aspect),
            (1280, 720, MediaRatio::new(1, 1))
        );
        assert_eq!(
            (video.average_frame_rate, video.pixel_format.as_str()),
            (MediaRatio::new(25, 1), "yuv420p")
        );
        let sound = found.audio_streams()[0];
        assert_eq!(sound.audio.as_ref().unwrap().layout, "5.1");
        assert_eq!(found.start_us, 0);
    });
}

#[test]
fn sound_without_pictures_is_audio_even_with_cover_art() {
    run(async {
        let studio = Studio::new();
        for (name, codec) in [
            ("a.mp3", "libmp3lame"),
            ("a.flac", "flac"),
            ("a.ogg", "libvorbis"),
            ("a.wav", "pcm_s16le"),
            ("a.m4a", "aac"),
            ("a.aac", "aac"),
        ] {
            let path = studio.make(name, &format!("{AUDIO} -t 2 -c:a {codec}"));
            let found = probe(&path).await.unwrap();
            assert_eq!(found.kind, MediaFileKind::Audio, "{name}");
            let lasts = i64::try_from(found.duration_us).unwrap();
            assert!((lasts - 2_000_000).abs() < 80_000, "{name}: {lasts}");
        }
        let cover = studio.make("cover.png", "-f lavfi -i testsrc2=size=64x64 -frames:v 1");
        let art = format!(
            "{AUDIO} -i {} -map 0 -map 1 -t 2 -c:v copy -disposition:v attached_pic",
            cover.display()
        );
        let found = probe(&studio.make("art.mp3", &art)).await.unwrap();
        assert_eq!(found.kind, MediaFileKind::Audio);
        assert!(found.streams.iter().any(|stream| stream.is_attached_picture));
        assert!(found.best_video().is_none());
    });
}

#[test]
fn pictures_are_images_and_one_frame_is_video() {
    run(async {
        let studio = Studio::new();
        for name in ["a.png", "a.jpg", "a.webp"] {
            let path = studio.make(name, "-f lavfi -i testsrc=size=321x181 -frames:v 1");
            let found = probe(&path).await.unwrap();
            assert_eq!(found.kind, MediaFileKind::Image, "{name}");
            let video = found.streams[0].video.as_ref().unwrap();
            assert_eq!((video.width, video.height), (321, 181), "{name}");
        }
        let one = probe(&studio.make("one.mp4", &format!("{VIDEO} -frames:v 1 -c:v libx264"))).await.unwrap();
        assert_eq!((one.kind, one.streams[0].packet_count), (MediaFileKind::Video, 1));
        for (name, form) in [("a.gif", "gif"), ("moving.png", "apng")] {
            let moving = studio.make(name, &format!("{VIDEO} -t 1 -f {form}"));
            assert_eq!(probe(&moving).await.unwrap().kind, MediaFileKind::Video, "{name}");
            let still = studio.make(&format!("still-{name}"), &format!("{VIDEO} -frames:v 1 -f {form}"));
            assert_eq!(probe(&still).await.unwrap().kind, MediaFileKind::Image, "{name}");
        }
    });
}

#[test]
fn odd_geometry_and_colour_are_found() {
    run(async {
        let studio = Studio::new();
        let odd = studio.make("odd.mkv", "-f lavfi -i testsrc=size=321x181:rate=25 -t 1 -c:v ffv1");
        let video = probe(&odd).await.unwrap().streams[0].video.clone().unwrap();
        assert_eq!((video.width, video.height), (321, 181));
        let plain = studio.make("plain.mp4", &format!("{VIDEO} -t 1 -c:v libx264"));
        let turned =
            studio.make("turned.mp4", &format!("-i {} -c copy -metadata:s:v:0 rotate=90", plain.display()));
        let video = probe(&turned).await.unwrap().streams[0].video.clone().unwrap();
        assert_eq!((video.display_width, video.display_height), (180, 320));
        assert_eq!(video.rotation_degrees % 180, 90);
        let wide = studio.make("wide.mp4", &format!("{VIDEO} -t 1 -c:v libx264 -vf setsar=4/3"));
        let video = probe(&wide).await.unwrap().streams[0].video.clone().unwrap();
        assert_eq!(
            (video.display_width, video.display_height, video.sample_aspect),
            (427, 180, MediaRatio::new(4, 3))
        );
        let deep = studio.make(
            "deep.mp4",
            &format!("{VIDEO} -t 1 -c:v libx264 -pix_fmt yuv422p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc"),
        );
        let video = probe(&deep).await.unwrap().streams[0].video.clone().unwrap();
        assert_eq!((video.bit_depth, video.pixel_format.as_str(), video.is_hdr), (10, "yuv422p10le", true));
        assert_eq!((video.color_primaries.as_str(), video.color_space.as_str()), ("bt2020", "bt2020nc"));
        let fields =
            studio.make("fields.ts", &format!("{VIDEO} -t 1 -c:v mpeg2video -flags +ildct+ilme -top 1"));
        assert!(probe(&fields).await.unwrap().streams[0].video.clone().unwrap().is_interlaced);
    });
}

#[test]
fn odd_clocks_are_found() {
    run(async {
        let studio = Studio::new();
        let slow = studio.make("slow.mp4", "-f lavfi -i testsrc2=size=320x180:rate=1 -t 5 -c:v libx264");
        let video = probe(&slow).await.unwrap().streams[0].video.clone().unwrap();
        assert_eq!(video.average_frame_rate, MediaRatio::new(1, 1));
        let uneven = studio.make(
            "uneven.mkv",
            &format!("{VIDEO} -t 4 -vf select='not(eq(mod(n,3),1))' -vsync vfr -c:v libx264"),
        );
        let video = probe(&uneven).await.unwrap().streams[0].video.clone().unwrap();
        assert!(video.is_variable_rate);
        assert_eq!((video.frame_interval_us_min, video.frame_interval_us_max), (40_000, 80_000));
        let late = studio
            .make("late.ts", &format!("{VIDEO} {AUDIO} -t 2 -c:v libx264 -c:a aac -output_ts_offset 1000"));
        let found = probe(&late).await.unwrap();
        assert!(found.start_us > 999_000_000, "{}", found.start_us);
        assert!((1_900_000..2_200_000).contains(&found.duration_us), "{}", found.duration_us);
        let delayed =
            studio.make("delayed.mkv", &format!("{VIDEO} -itsoffset 1 {AUDIO} -t 3 -c:v libx264 -c:a aac"));
        let found = probe(&delayed).await.unwrap();
        let starts: Vec<i64> =
            found.streams.iter().map(|stream| stream.start_us.unwrap() - found.start_us).collect();
        assert!((starts[1] - starts[0] - 1_000_000).abs() < 30_000, "{starts:?}");
    });
}

#[test]
fn the_containers_aspect_counts_before_the_codecs() {
    run(async {
        let studio = Studio::new();
        let square = studio.make(
            "square.mp4",
            "-f lavfi -i testsrc2=size=240x180:rate=25 -t 1 -vf setsar=1 -c:v libx264 -pix_fmt yuv420p",
        );
        let wide = studio.make(
            "wide.mp4",
            "-f lavfi -i testsrc2=size=240x180:rate=25 -t 1 -vf setsar=4/3 -c:v libx264 -pix_fmt yuv420p",
        );
        for (name, from, aspect, expected) in [
            ("a.mkv", &square, "16:9", (320, 180)),
            ("a.mov", &square, "16:9", (320, 180)),
            ("a.mp4", &square, "16:9", (320, 180)),
            ("b.mkv", &wide, "4:3", (240, 180)),
            ("c.mkv", &square, "3:4", (135, 180)),
        ] {
            let path = studio.make(name, &format!("-i {} -c copy -aspect {aspect}", from.display()));
            let video = probe(&path).await.unwrap().streams[0].video.clone().unwrap();
            assert_eq!((video.display_width, video.display_height), expected, "{name} {aspect}");
            let stills = StillsSpec {
                is_exact: false,
                stream: 0,
                origin_us: 0,
                at_us: vec![0],
                side_pixels_max: 320,
                quantizer: 4,
                deinterlace: false,
                clock: ClockMap::default(),
            };
            let product = produce(&driver().await, &path, Job::Stills(stills)).await.unwrap();
            let Some(MediaTaskOutput::Image { width, height, .. }) = product.outputs.first() else {
                panic!("{name}")
            };
            assert!(
                width.abs_diff(expected.0) <= 1 && *height == expected.1,
                "{name}: a poster of {width}x{height}"
            );
        }
    });
}
