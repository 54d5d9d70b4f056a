mod departures;

use std::{process::Command, sync::LazyLock};

use media::{AudioStream, MediaFileKind, MediaProbe, MediaRatio, MediaStream, MediaStreamKind, VideoStream};
use proptest::prelude::*;
use schemas::{
    media::{MediaWarning, warning_codes},
    upload::UploadDigest,
};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256, Sha512};

use crate::{
    FileVerifier, UploadRejection, VerifiedFile, structure_format::DetectedStructure,
    technical::build_technical,
};

const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];

/// A real file of one second, made by the ffmpeg program.
fn clip(codecs: &[&str], extension: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("clip.{extension}"));
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=duration=1:size=64x64:rate=10"])
        .args(["-f", "lavfi", "-i", "sine=duration=1"])
        .args(codecs)
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{extension}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(path).unwrap()
}

fn with<'a>(base: &[&'a str], extra: &[&'a str]) -> Vec<&'a str> {
    base.iter().chain(extra).copied().collect()
}

/// One real file for each structure that is walked.
static FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let picture = &["-map", "0", "-frames:v", "1"];
    vec![
        ("mp4", clip(&with(H264, &["-c:a", "aac"]), "mp4")),
        (
            "mp4 with its index in front",
            clip(&with(H264, &["-c:a", "aac", "-movflags", "+faststart"]), "mp4"),
        ),
        (
            "fragmented mp4",
            clip(&with(H264, &["-c:a", "aac", "-movflags", "+frag_keyframe+empty_moov"]), "mp4"),
        ),
        ("mov", clip(&with(H264, &["-c:a", "pcm_s16le"]), "mov")),
        ("m4a", clip(&["-map", "1", "-c:a", "aac"], "m4a")),
        ("mkv", clip(&with(H264, &["-c:a", "flac"]), "mkv")),
        ("live mkv", clip(&with(H264, &["-c:a", "aac", "-live", "1"]), "mkv")),
        ("webm", clip(&["-c:v", "libvpx", "-c:a", "libopus"], "webm")),
        ("ts", clip(&with(H264, &["-c:a", "aac"]), "ts")),
        ("m2ts", clip(&with(H264, &["-c:a", "aac"]), "m2ts")),
        ("avi", clip(&["-c:v", "mpeg4", "-c:a", "mp3"], "avi")),
        ("wav", clip(&["-map", "1"], "wav")),
        ("ogg", clip(&["-map", "1", "-c:a", "libopus"], "ogg")),
        ("aac", clip(&["-map", "1", "-c:a", "aac"], "aac")),
        ("flac", clip(&["-map", "1"], "flac")),
        ("mp3", clip(&["-map", "1"], "mp3")),
        ("png", clip(picture, "png")),
        ("jpeg", clip(picture, "jpg")),
        ("gif", clip(&["-map", "0"], "gif")),
        ("flv", clip(&with(H264, &["-c:a", "aac", "-ar", "44100"]), "flv")),
        ("mpg", clip(&["-r", "25", "-c:v", "mpeg2video", "-c:a", "mp2"], "mpg")),
        ("aiff", clip(&["-map", "1"], "aiff")),
        ("caf", clip(&["-map", "1", "-c:a", "pcm_s16be"], "caf")),
        ("mxf", clip(&["-r", "25", "-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"], "mxf")),
        ("wmv", clip(&["-c:v", "wmv2", "-c:a", "wmav2"], "wmv")),
        ("wma", clip(&["-map", "1", "-c:a", "wmav2"], "wma")),
        ("apng", clip(&["-map", "0", "-f", "apng"], "png")),
    ]
});

/// Structures whose end only a decoder knows.
const OPAQUE: [&str; 5] = ["flac", "mp3", "jpeg", "gif", "mpg"];

fn verify_by(
    bytes: &[u8],
    step: usize,
    digest: Option<UploadDigest>,
    is_strict: bool,
) -> Result<VerifiedFile, UploadRejection> {
    let mut verifier = FileVerifier::new(u64::try_from(bytes.len()).unwrap(), digest, is_strict);
    for piece in bytes.chunks(step.max(1)) {
        verifier.update(piece)?;
    }
    verifier.finish()
}

fn verify_in(bytes: &[u8], step: usize, digest: Option<UploadDigest>) -> Result<VerifiedFile, &'static str> {
    verify_by(bytes, step, digest, false).map_err(|r| r.code.as_str())
}

/// The codes of the warnings, or the code of the rejection.
fn verify(bytes: &[u8]) -> Result<Vec<String>, &'static str> {
    let found = verify_in(bytes, 1 << 20, None)?;
    Ok(found.warnings.into_iter().map(|warning| warning.code).collect())
}

/// The digest, or the code of the rejection, where nothing is let pass.
fn verify_strictly(bytes: &[u8]) -> Result<String, &'static str> {
    let found = verify_by(bytes, 1 << 20, None, true).map_err(|r| r.code.as_str())?;
    assert!(found.warnings.iter().all(|w| w.code == warning_codes::TRUNCATED), "{:?}", found.warnings);
    Ok(found.sha256)
}

fn file(wanted: &str) -> &'static [u8] {
    &FILES.iter().find(|(name, _)| *name == wanted).unwrap().1
}

fn archive() -> Vec<u8> {
    // An empty ZIP archive: the end record alone.
    let mut archive = b"PK\x05\x06".to_vec();
    archive.extend([0; 18]);
    archive
}

fn archive_with_a_file() -> Vec<u8> {
    let mut archive = b"PK\x03\x04\x14\0\0\0\0\0".to_vec();
    archive.extend([0; 20]);
    archive.extend(b"PK\x01\x02");
    archive.extend([0; 42]);
    archive.extend(b"PK\x05\x06");
    archive.extend([0, 0, 0, 0, 1, 0, 1, 0, 46, 0, 0, 0, 30, 0, 0, 0, 5, 0]);
    archive.extend(b"hello");
    archive
}

#[test]
fn whole_files_are_taken() {
    for (name, bytes) in FILES.iter() {
        let sha256 = hex::encode(Sha256::digest(bytes));
        assert_eq!(verify_strictly(bytes), Ok(sha256.clone()), "{name}");
        let wanted = VerifiedFile { sha256, warnings: Vec::new() };
        assert_eq!(verify_in(bytes, 1 << 20, None), Ok(wanted), "{name}");
    }
}

#[test]
fn a_strict_verifier_refuses_a_cut_file() {
    for (name, bytes) in FILES.iter() {
        // Captures from the air end anywhere; what a decoder has to follow, the probe looks at.
        if OPAQUE.contains(name) || name.ends_with("ts") || name.contains("live") {
            continue;
        }
        for cut in [bytes.len() / 2, bytes.len() - 1] {
            // A form that was left open has no end to miss; a tag may lack the length behind it, and an odd form its pad byte.
            let found = verify_strictly(&bytes[..cut]);
            let is_refused = matches!(found, Err("truncated" | "media_corrupt" | "trailing_data"));
            assert!(is_refused, "{name} at {cut}: {found:?}");
        }
    }
}

#[test]
fn an_archive_inside_the_last_box_is_found() {
    let mut bytes = FILES.first().unwrap().1.clone();
    let archive = archive_with_a_file();
    bytes.extend(u32::try_from(archive.len() + 8).unwrap().to_be_bytes());
    bytes.extend(b"free");
    bytes.extend(&archive);
    assert_eq!(verify(&bytes), Err("embedded_archive"));
}

#[test]
fn a_free_box_and_a_terminator_may_follow() {
    let mut bytes = FILES.first().unwrap().1.clone();
    bytes.extend([0, 0, 1, 8]);
    bytes.extend(b"free");
    bytes.extend([0x55; 256]);
    assert!(verify(&bytes).is_ok());
    bytes.extend([0; 4]);
    assert!(verify(&bytes).is_ok(), "QuickTime ends with a zero length");
}

#[test]
fn what_is_no_media_is_refused() {
    for (name, bytes, wanted) in [
        ("nothing", Vec::new(), "empty"),
        ("text", b"this is not a film\n".repeat(500), "unsupported_type"),
        ("playlist", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n".to_vec(), "unsupported_type"),
        ("archive", archive_with_a_file(), "unsupported_type"),
        ("program", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec(), "unsupported_type"),
        ("page", b"<!DOCTYPE html><html></html>".to_vec(), "unsupported_type"),
        ("drawing", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(), "unsupported_type"),
        ("one byte", vec![0], "unsupported_type"),
        ("zeros", vec![0; 10_000], "unsupported_type"),
        ("a box without an index", b"\0\0\0\x08mdat".to_vec(), "truncated"),
        ("a box that overlaps itself", b"\0\0\0\x04ftypxxxxxxxx".to_vec(), "media_corrupt"),
        ("a box of no length", b"\0\0\0\x01ftyp\0\0\0\0\0\0\0\0".to_vec(), "media_corrupt"),
        ("an endless box", b"\0\0\0\x01ftyp\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "truncated"),
    ] {
        assert_eq!(verify(&bytes), Err(wanted), "{name}");
    }
}

#[test]
fn a_declared_digest_must_hold() {
    let bytes = &FILES.first().unwrap().1;
    let digest = |algorithm: &str, value: Vec<u8>| {
        Some(UploadDigest { algorithm: algorithm.to_owned(), value: ByteBuf::from(value) })
    };
    let (sha256, sha512) = (Sha256::digest(bytes).to_vec(), Sha512::digest(bytes).to_vec());
    assert!(verify_in(bytes, 1000, digest("sha-256", sha256.clone())).is_ok());
    assert!(verify_in(bytes, 1000, digest("sha-512", sha512.clone())).is_ok());
    for wrong in [
        digest("sha-256", vec![0; 32]),
        digest("sha-512", vec![0; 64]),
        digest("sha-512", sha256),
        digest("sha-256", Vec::new()),
    ] {
        assert_eq!(verify_in(bytes, 1000, wrong), Err("digest_mismatch"));
    }
}

#[test]
fn bytes_that_are_missing_are_noticed() {
    let bytes = &FILES.first().unwrap().1;
    let mut verifier = FileVerifier::new(u64::try_from(bytes.len()).unwrap() + 1, None, false);
    verifier.update(bytes).unwrap();
    assert_eq!(verifier.finish().unwrap_err().code, "size_mismatch");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_give_one_verdict(file in 0_usize..27, step in 1_usize..9000, cut in 0_usize..100_000) {
        let (name, bytes) = &FILES[file];
        let cut = bytes.len().min(cut);
        let whole = verify_in(&bytes[..cut], usize::MAX, None);
        prop_assert_eq!(verify_in(&bytes[..cut], step, None), whole, "{}", name);
    }

    #[test]
    fn hostile_bytes_never_panic(head in 0_usize..27, noise in proptest::collection::vec(any::<u8>(), 0..5000), keep in 0_usize..300) {
        let (_, bytes) = &FILES[head];
        let mut hostile = bytes[..keep.min(bytes.len())].to_vec();
        hostile.extend(&noise);
        if let Ok(found) = verify_in(&hostile, 1000, None) {
            prop_assert!(DetectedStructure::detect(&hostile).is_some());
            prop_assert_eq!(found.sha256.len(), 64);
        }
    }
}

fn stream(index: u32, kind: MediaStreamKind) -> MediaStream {
    MediaStream {
        index,
        kind,
        codec: "x".into(),
        profile: None,
        level: None,
        is_decodable: true,
        bit_rate_bits_per_second: 0,
        language: Some(" de\u{0}u ".into()),
        title: Some("\n".into()),
        is_default: false,
        is_attached_picture: false,
        is_text: false,
        is_forced: false,
        is_hearing_impaired: false,
        packet_count: 10,
        key_packet_count: 1,
        start_us: Some(5),
        end_us: Some(1_000_005),
        video: (kind == MediaStreamKind::Video).then(|| VideoStream {
            width: 64,
            height: 32,
            sample_aspect: MediaRatio { num: 1, den: 1 },
            display_width: 64,
            display_height: 32,
            rotation_degrees: 90,
            pixel_format: "yuv420p".into(),
            bit_depth: 8,
            color_primaries: "unknown".into(),
            color_transfer: "unknown".into(),
            color_space: "unknown".into(),
            color_range: "tv".into(),
            is_hdr: false,
            field_order: "progressive".into(),
            is_interlaced: false,
            has_closed_captions: false,
            average_frame_rate: MediaRatio { num: 0, den: 0 },
            real_frame_rate: MediaRatio { num: 0, den: 0 },
            frame_interval_us_min: 0,
            frame_interval_us_max: 0,
            frame_interval_us_usual: 0,
            is_variable_rate: false,
        }),
        audio: (kind == MediaStreamKind::Audio).then(|| AudioStream {
            sample_rate_hz: 48_000,
            channels: 2,
            layout: "stereo".into(),
            sample_format: "fltp".into(),
        }),
    }
}

/// A probe of four video tracks, two of which can be played, and one of sound.
fn mixed_probe() -> MediaProbe {
    let mut cover = stream(0, MediaStreamKind::Video);
    cover.is_attached_picture = true;
    let mut undecodable = stream(1, MediaStreamKind::Video);
    undecodable.is_decodable = false;
    let mut best = stream(3, MediaStreamKind::Video);
    best.is_default = true;
    MediaProbe {
        kind: MediaFileKind::Video,
        container: "mov,mp4,m4a,3gp,3g2,mj2".into(),
        start_us: 5,
        duration_us: 1_000_000,
        size_bytes: 1_000,
        is_truncated: false,
        clock: media::ClockMap::default(),
        clock_joints: 0,
        chapters: Vec::new(),
        chapter_count: 0,
        streams: vec![
            cover,
            undecodable,
            stream(2, MediaStreamKind::Video),
            best,
            stream(4, MediaStreamKind::Audio),
        ],
    }
}

#[test]
fn the_record_names_what_can_be_played() {
    let probe = mixed_probe();
    let found = build_technical(&probe, 100, Vec::new());
    assert_eq!(found.container, "mp4");
    assert_eq!((found.duration_ms, found.bit_rate_bps, found.still), (1_000, 8_000, false));
    assert_eq!(found.video.iter().map(|v| v.index).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(found.video[0].frame_rate.den, 1, "an unknown rate is no division by zero");
    assert_eq!(found.audio.len(), 1);
    assert_eq!(found.audio[0].language.as_deref(), Some("deu"));
    assert_eq!(found.audio[0].title, None);
    for (container, wanted) in [
        ("mpeg", "mpegps"),
        ("flv", "flv"),
        ("mxf", "mxf"),
        ("asf", "asf"),
        ("aiff", "aiff"),
        ("caf", "caf"),
        ("apng", "apng"),
        ("png_pipe", "png"),
    ] {
        let probe = MediaProbe { container: container.into(), ..probe.clone() };
        assert_eq!(build_technical(&probe, 100, Vec::new()).container, wanted);
    }
    let still = MediaProbe { kind: MediaFileKind::Image, duration_us: 0, ..probe.clone() };
    let still = build_technical(&still, 100, Vec::new());
    assert_eq!((still.still, still.bit_rate_bps), (true, 0));
    assert!(!codes(&found.warnings).iter().any(|code| code == warning_codes::TRUNCATED));
    let cut = MediaProbe { is_truncated: true, ..probe };
    let noticed = build_technical(&cut, 100, Vec::new());
    assert_eq!(noticed.warnings[0].code, warning_codes::TRUNCATED, "the child's finding is one");
    let known = build_technical(&cut, 100, noticed.warnings[..1].to_vec());
    assert_eq!(codes(&known.warnings), codes(&noticed.warnings), "found twice, said once");
}

#[test]
fn chapters_of_a_file_are_kept_in_order_of_time() {
    let chapter = |start_us: i64, title: Option<&str>| media::SourceChapter {
        start_us,
        title: title.map(str::to_owned),
    };
    let technical = |chapters: &[media::SourceChapter]| {
        let chapter_count = u32::try_from(chapters.len()).unwrap();
        build_technical(
            &MediaProbe { chapters: chapters.to_vec(), chapter_count, ..mixed_probe() },
            100,
            Vec::new(),
        )
    };
    let before = technical(&[
        chapter(-9_000_000, Some("Trailer")),
        chapter(i64::MIN, Some("nowhere")),
        chapter(-5, Some("\u{202e}Intro\u{200b}")),
        chapter(500_005, Some("\u{200b}")),
    ]);
    let kept: Vec<(u64, &str)> = before.chapters.iter().map(|kept| (kept.start_ms, &*kept.title)).collect();
    assert_eq!(kept, [(0, "Intro"), (500, "Chapter 2")], "the one that runs when it begins");
    let long = "a".repeat(300);
    let found = technical(&[
        chapter(500_005, Some("Sea")),
        chapter(100_005, None),
        chapter(500_005, Some("Sea again")),
        chapter(900_005, Some(&long)),
        chapter(1_000_005, Some("behind the end")),
    ]);
    let kept: Vec<(u64, &str)> = found.chapters.iter().map(|kept| (kept.start_ms, &*kept.title)).collect();
    assert_eq!(
        kept,
        [(0, "Chapter 1"), (500, "Sea"), (900, &*"a".repeat(100))],
        "what is before the first is its own"
    );
    let dropped =
        found.warnings.iter().find(|warning| warning.code == warning_codes::CHAPTERS_DROPPED).unwrap();
    assert_eq!(dropped.detail, "chapters: 2 of 5");
    for none in [&[][..], &[chapter(5, Some("all of it"))]] {
        let found = technical(none);
        assert_eq!(found.chapters, []);
        assert!(!codes(&found.warnings).iter().any(|code| code == warning_codes::CHAPTERS_DROPPED));
    }
}

fn codes(warnings: &[MediaWarning]) -> Vec<String> {
    warnings.iter().map(|warning| warning.code.clone()).collect()
}

#[test]
fn what_is_attached_is_named_among_what_is_left_out_and_an_empty_track_is_not() {
    let mut attached = mixed_probe();
    let mut empty = stream(5, MediaStreamKind::Other);
    empty.packet_count = 0;
    let mut font = stream(6, MediaStreamKind::Attachment);
    (font.packet_count, font.codec, font.title) = (0, "ttf".into(), Some("title.ttf".into()));
    attached.streams.extend([empty, font]);
    let warnings = build_technical(&attached, 100, Vec::new()).warnings;
    let data: Vec<&str> = warnings
        .iter()
        .filter(|warning| warning.code == warning_codes::DATA_TRACK_DROPPED)
        .map(|warning| warning.detail.as_str())
        .collect();
    assert_eq!(data, ["track 6: ttf (title.ttf)"]);
    let of_cover = warnings.iter().filter(|warning| warning.detail.starts_with("track 0:"));
    assert_eq!(of_cover.count(), 0, "the poster is not left out");
}

#[test]
fn texts_play_or_are_named_among_what_is_left_out() {
    let mut texts = mixed_probe();
    texts.chapter_count = 3;
    texts.streams[3].video.as_mut().unwrap().has_closed_captions = true;
    let readable = MediaStream { is_text: true, is_forced: true, ..stream(5, MediaStreamKind::Subtitle) };
    texts.streams.extend([readable, stream(6, MediaStreamKind::Subtitle)]);
    let texts = build_technical(&texts, 100, Vec::new());
    assert_eq!(texts.subtitles.iter().map(|s| (s.index, s.is_forced)).collect::<Vec<_>>(), [(5, true)]);
    assert_eq!(texts.subtitles[0].language.as_deref(), Some("deu"));
    let lost = codes(&texts.warnings);
    for code in [
        warning_codes::SUBTITLE_TRACK_DROPPED,
        warning_codes::CHAPTERS_DROPPED,
        warning_codes::CLOSED_CAPTIONS_DROPPED,
    ] {
        assert_eq!(lost.iter().filter(|lost| *lost == code).count(), 1, "{code} in {lost:?}");
    }
}
