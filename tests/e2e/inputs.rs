//! Inputs that people and attackers send: each ends ready or rejected with its code, and the workers live on.

use crate::{
    flow::check_plays,
    harness::{Cluster, Options, clip, sample},
};

/// What must become of an input.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    Ready,
    Rejected(&'static [&'static str]),
}

use Becomes::{Ready, Rejected};

fn lavfi(video: &str, audio: &str, codecs: &[&str], extension: &str) -> Vec<u8> {
    let mut args = vec!["-f", "lavfi", "-i", video];
    if !audio.is_empty() {
        args.extend(["-f", "lavfi", "-i", audio]);
    }
    args.extend(codecs);
    clip(&args, extension)
}

const PICTURE: &str = "testsrc2=duration=3:size=320x180:rate=25";
const TONE: &str = "sine=frequency=440:duration=3:sample_rate=48000";
const H264: [&str; 6] = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];

/// Common encryption (ISO/IEC 23001-7).
const CENC: [&str; 6] = [
    "-encryption_scheme",
    "cenc-aes-ctr",
    "-encryption_key",
    "76a6c65c5ea762046bd749a2e632ccbb",
    "-encryption_kid",
    "a7e61c373e219033c21091fa607bf3b8",
];

fn with(extra: &[&'static str]) -> Vec<&'static str> {
    H264.iter().copied().chain(extra.iter().copied()).collect()
}

fn broken() -> Vec<(&'static str, Vec<u8>, Becomes)> {
    let whole = sample(3, "320x180", "25");
    let mut zipped = whole.clone();
    // An empty ZIP archive: the end-of-central-directory record alone.
    zipped.extend(*b"PK\x05\x06");
    zipped.extend([0; 18]);
    let playlist =
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n".to_vec();
    vec![
        ("empty.mp4", Vec::new(), Rejected(&["empty"])),
        (
            "truncated.mp4",
            whole[..whole.len() / 2].to_vec(),
            Rejected(&["truncated", "media_truncated", "media_corrupt"]),
        ),
        (
            "text.mp4",
            b"this is not a film\n".repeat(500),
            Rejected(&["unsupported_type", "media_unsupported_format"]),
        ),
        ("playlist.mp4", playlist, Rejected(&["unsupported_type", "media_unsupported_format"])),
        ("zipped.mp4", zipped, Rejected(&["trailing_data"])),
        ("bomb.png", bomb(), Rejected(&["media_too_many_pixels", "media_corrupt"])),
        ("encrypted.mp4", lavfi(PICTURE, "", &with(&CENC), "mp4"), Rejected(&["media_encrypted"])),
        (
            "noise.mkv",
            clip(&["-f", "lavfi", "-i", TONE, "-c:a", "flac", "-bsf:a", "noise=amount=1"], "mkv"),
            Rejected(&["media_no_frames"]),
        ),
        ("renamed.mov", renamed(), Rejected(&["media_unsupported_codec"])),
    ]
}

/// PCM that is called MPEG-H, for which there is no decoder.
fn renamed() -> Vec<u8> {
    let mut bytes = clip(&["-f", "lavfi", "-i", TONE, "-c:a", "pcm_s16le"], "mov");
    let entry = bytes.windows(4).rposition(|kind| kind == b"sowt").unwrap();
    bytes[entry..entry + 4].copy_from_slice(b"mhm1");
    bytes
}

/// A tiny picture that claims to be 30,000 x 30,000, with a checksum that is right.
fn bomb() -> Vec<u8> {
    let mut bytes = clip(&["-f", "lavfi", "-i", "color=black:size=64x64", "-frames:v", "1"], "png");
    // Signature (8), length of IHDR (4), its name (4), width and height (4 each), and five more bytes before the checksum.
    for side in [16..20, 20..24] {
        bytes[side].copy_from_slice(&30_000_u32.to_be_bytes());
    }
    let checksum = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn odd() -> Vec<(&'static str, Vec<u8>, Becomes)> {
    let mp4 = |video: &str, extra: &[&'static str]| lavfi(video, TONE, &with(extra), "mp4");
    vec![
        ("audio-only.m4a", clip(&["-f", "lavfi", "-i", TONE, "-c:a", "aac"], "m4a"), Ready),
        ("video-only.mp4", lavfi(PICTURE, "", &with(&[]), "mp4"), Ready),
        (
            "one-frame.mp4",
            lavfi("testsrc2=size=320x180:rate=25", "", &with(&["-frames:v", "1"]), "mp4"),
            Ready,
        ),
        ("still.png", lavfi("testsrc2=size=320x180:rate=25", "", &["-frames:v", "1"], "png"), Ready),
        (
            "odd-size.mkv",
            lavfi("testsrc2=duration=3:size=319x179:rate=25", TONE, &["-c:v", "ffv1", "-c:a", "aac"], "mkv"),
            Ready,
        ),
        ("film.mov", lavfi(PICTURE, TONE, &with(&["-c:a", "pcm_s16le"]), "mov"), Ready),
        ("film.mkv", lavfi(PICTURE, TONE, &with(&["-c:a", "flac"]), "mkv"), Ready),
        (
            "film.webm",
            lavfi(PICTURE, TONE, &["-c:v", "libvpx", "-b:v", "300k", "-c:a", "libopus"], "webm"),
            Ready,
        ),
        ("film.ts", lavfi(PICTURE, TONE, &with(&["-c:a", "aac"]), "ts"), Ready),
        ("film.avi", lavfi(PICTURE, TONE, &["-c:v", "mpeg4", "-c:a", "mp3"], "avi"), Ready),
        ("slides.mp4", mp4("testsrc2=duration=3:size=320x180:rate=1", &["-c:a", "aac"]), Ready),
        (
            "variable.mkv",
            lavfi(
                PICTURE,
                TONE,
                &with(&["-vf", "select='not(mod(n,3))+not(mod(n,7))'", "-vsync", "vfr", "-c:a", "aac"]),
                "mkv",
            ),
            Ready,
        ),
        ("late.mkv", lavfi(PICTURE, TONE, &with(&["-output_ts_offset", "5", "-c:a", "aac"]), "mkv"), Ready),
        (
            "ten-bit.mkv",
            lavfi(PICTURE, TONE, &["-c:v", "ffv1", "-pix_fmt", "yuv422p10le", "-c:a", "aac"], "mkv"),
            Ready,
        ),
        ("portrait.mp4", rotated(), Ready),
    ]
}

/// A landscape picture with the matrix that turns it by a quarter (ISO/IEC 14496-12, 8.3.2).
fn rotated() -> Vec<u8> {
    let mut bytes = sample(3, "320x180", "25");
    // The picture's track comes first. Behind the name: 4 bytes of version and flags, 20 of times and ids, 16 of layers.
    let matrix = bytes.windows(4).position(|window| window == b"tkhd").unwrap() + 44;
    let entries = [0, 0x0001_0000, 0, -0x0001_0000, 0, 0, 180 << 16, 0, 0x4000_0000];
    for (place, entry) in entries.into_iter().enumerate() {
        let at = matrix + 4 * place;
        bytes[at..at + 4].copy_from_slice(&i32::to_be_bytes(entry));
    }
    bytes
}

async fn check(inputs: Vec<(&'static str, Vec<u8>, Becomes)>) {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut sent = Vec::new();
    for (name, bytes, becomes) in inputs {
        sent.push((name, cluster.upload(bytes, name).await, becomes));
    }
    for (name, media_id, becomes) in sent {
        let end = cluster.end_of(&media_id).await;
        match becomes {
            Ready => assert_eq!(end.kind, "job.succeeded", "{name}: {end:?}"),
            Rejected(codes) => {
                assert_eq!(end.kind, "media.rejected", "{name}: {end:?}");
                let code = end.data["code"].as_str().unwrap();
                assert!(codes.contains(&code), "{name}: {code}: {}", end.data["detail"]);
                let document = cluster.get(&format!("/v1/media/{media_id}")).await;
                assert_eq!(
                    (document["status"].as_str(), document["code"].as_str()),
                    (Some("rejected"), Some(code))
                );
            }
        }
    }
    // Whatever came in, the next good one is served by the very same processes.
    let media_id = cluster.upload(sample(3, "320x180", "25"), "after.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    check_plays(&cluster, &media_id, 3.0, 0.04).await;
    let dead = cluster.bus.dead_letters(0, 10, |_| true).await.unwrap().letters;
    assert!(dead.is_empty(), "{dead:?}");
}

#[tokio::test]
async fn broken_files_are_rejected_with_their_code() {
    check(broken()).await;
}

#[tokio::test]
async fn unusual_files_become_ready() {
    check(odd()).await;
}
