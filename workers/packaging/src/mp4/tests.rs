//! Against real files, as FFmpeg makes them.

use std::{path::Path, process::Command};

use super::*;

/// A fragmented file as FFmpeg makes it, cut into its init segment and its fragments.
fn real_file(folder: &Path, arguments: &[&str]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let path = folder.join("file.mp4");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i"])
        .args(arguments)
        .args(["-movflags", "+cmaf+frag_keyframe+default_base_moof+skip_trailer", "-use_editlist", "0"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let bytes = std::fs::read(path).unwrap();
    let (mut init, mut fragments): (Vec<u8>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let size = usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        let (kind, atom) = (&bytes[at + 4..at + 8], &bytes[at..at + size]);
        match kind {
            b"ftyp" | b"moov" => init.extend(atom),
            b"moof" => fragments.push(atom.to_vec()),
            b"mdat" => fragments.last_mut().unwrap().extend(atom),
            _ => {}
        }
        at += size;
    }
    (init, fragments)
}

#[test]
fn real_video_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = [
        "testsrc2=size=320x180:rate=25:duration=5",
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-g",
        "50",
        "-sc_threshold",
        "0",
        "-level:v",
        "1.3",
        "-profile:v",
        "high",
    ];
    let (init, fragments) = real_file(folder.path(), &encoder);
    let read = read_init_segment(&init).unwrap();
    assert_eq!((read.codecs.as_str(), read.timescale, read.edit_start_ticks), ("avc1.64000d", 12_800, 0));
    assert!(read.brands.iter().any(|b| b == "cmfc"), "{:?}", read.brands);
    let Mp4TrackKind::Video { width, height, level, length_bytes, has_parameter_sets } = read.kind else {
        panic!("no video")
    };
    assert_eq!((width, height, level, length_bytes, has_parameter_sets), (320, 180, 13, 4, true));
    let mut next = 0;
    for (bytes, samples) in fragments.iter().zip([50, 50, 25]) {
        let fragment = read_fragment(&read, bytes).unwrap();
        assert_eq!(
            (fragment.start_ticks, fragment.sample_count, fragment.duration_ticks),
            (next, samples, 512 * u64::try_from(samples).unwrap())
        );
        assert_eq!(
            (fragment.sync_ticks.as_slice(), fragment.size_bytes),
            ([0].as_slice(), u64::try_from(bytes.len()).unwrap())
        );
        let picture = read_first_picture(&bytes[fragment.first_sample_offset..], length_bytes).unwrap();
        assert_eq!(picture, FirstPicture { is_idr: true, has_parameter_sets: false });
        next += fragment.duration_ticks;
    }
    assert_eq!(fragments.len(), 3);
}

#[test]
fn real_audio_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (init, fragments) = real_file(
        folder.path(),
        &["sine=duration=2:sample_rate=48000", "-ac", "2", "-c:a", "aac", "-frag_duration", "1000000"],
    );
    let read = read_init_segment(&init).unwrap();
    assert_eq!((read.codecs.as_str(), read.timescale), ("mp4a.40.2", 48_000));
    assert_eq!(read.kind, Mp4TrackKind::Audio { channels: 2, sample_rate_hz: 48_000 });
    assert!(!fragments.is_empty());
    for bytes in &fragments {
        let fragment = read_fragment(&read, bytes).unwrap();
        assert_eq!(fragment.size_bytes, u64::try_from(bytes.len()).unwrap());
    }
}

#[test]
fn damaged_files_are_refused_and_never_crash() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = ["testsrc2=size=64x64:rate=25:duration=1", "-pix_fmt", "yuv420p", "-c:v", "libx264"];
    let (init, fragments) = real_file(folder.path(), &encoder);
    let read = read_init_segment(&init).unwrap();
    let good = read_fragment(&read, &fragments[0]).unwrap();
    for length in 0..init.len() {
        assert!(read_init_segment(&init[..length]).is_err(), "init cut at {length}");
    }
    for length in 0..good.first_sample_offset {
        assert!(read_fragment(&read, &fragments[0][..length]).is_err(), "segment cut at {length}");
    }
    // Every byte changed in turn: refused or read, but always an answer.
    let mut answers = 0;
    for at in 0..init.len() {
        let mut bytes = init.clone();
        bytes[at] ^= 0xff;
        answers += usize::from(read_init_segment(&bytes).is_ok() || read_init_segment(&bytes).is_err());
    }
    for at in 0..good.first_sample_offset {
        let mut bytes = fragments[0].clone();
        bytes[at] ^= 0xff;
        answers += usize::from(read_fragment(&read, &bytes).is_ok_and(|f| f.sample_count > SAMPLES_MAX));
    }
    assert_eq!(answers, init.len());
    assert!(read_first_picture(&[0, 0, 0, 200, 0x65], 4).is_ok_and(|p| p.is_idr));
    for sample in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9], &[0, 0, 0, 200, 6], &[0xff; 4]] {
        assert!(read_first_picture(sample, 4).is_err(), "{sample:?}");
    }
}

/// The file of these tracks, whole.
fn joined(tracks: &[(Vec<u8>, Vec<Vec<u8>>)], language: &str) -> Vec<u8> {
    let made: Vec<ProgressiveTrack> = tracks
        .iter()
        .map(|(init, segments)| {
            let mut track = ProgressiveTrack::new(init, language).unwrap();
            for segment in segments {
                track.push_segment(segment).unwrap();
            }
            track
        })
        .collect();
    let file = ProgressiveMp4::new(&made);
    let media = file.pieces.iter().map(|piece| {
        let segment = &tracks[piece.track].1[usize::try_from(piece.segment - 1).unwrap()];
        let at = usize::try_from(piece.offset_bytes).unwrap();
        &segment[at..at + usize::try_from(piece.size_bytes).unwrap()]
    });
    [&[file.head.as_slice()], media.collect::<Vec<_>>().as_slice()].concat().concat()
}

/// What a decoder makes of the first track of a kind: time and digest of each frame.
fn decoded(folder: &Path, bytes: &[u8], kind: &str) -> Vec<String> {
    let path = folder.join("decoded.mp4");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-i"])
        .arg(&path)
        .args(["-map", &format!("0:{kind}:0"), "-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let frames = text.lines().filter(|line| !line.starts_with('#'));
    // The number of the stream, and the time of decoding, which an edit list moves, are no part of what is shown.
    frames.map(|line| line.split(',').skip(2).map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

const REORDERED: [&str; 9] = [
    "testsrc2=size=320x180:rate=30000/1001:duration=5",
    "-pix_fmt",
    "yuv420p",
    "-c:v",
    "libx264",
    "-bf",
    "3",
    "-g",
    "60",
];
const TONE: [&str; 7] =
    ["sine=duration=5:sample_rate=48000", "-ac", "2", "-c:a", "aac", "-frag_duration", "1000000"];

#[test]
fn one_file_decodes_to_what_its_segments_do() {
    let folder = tempfile::tempdir().unwrap();
    let (video, audio) = (real_file(folder.path(), &REORDERED), real_file(folder.path(), &TONE));
    let file = joined(&[video.clone(), audio.clone()], "pt-BR");
    for (kind, (init, segments)) in [("v", &video), ("a", &audio)] {
        let whole = [init.as_slice(), &segments.concat()].concat();
        let frames = decoded(folder.path(), &file, kind);
        assert_eq!(frames, decoded(folder.path(), &whole, kind), "{kind}");
        assert!(frames.len() > 100, "{kind}: {}", frames.len());
    }
    let kinds = |bytes: &[u8]| {
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            kinds.push(String::from_utf8(bytes[at + 4..at + 8].to_vec()).unwrap());
            at += usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        }
        kinds
    };
    assert_eq!(kinds(&file), ["ftyp", "moov", "mdat"], "it plays from its beginning");
    assert_eq!(file, joined(&[video, audio], "pt-BR"), "the same bytes every time");
}

#[test]
fn a_segment_that_does_not_follow_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (init, segments) = real_file(folder.path(), &TONE);
    let mut track = ProgressiveTrack::new(&init, "en").unwrap();
    assert!(track.push_segment(&segments[1]).is_err(), "not the first");
    track.push_segment(&segments[0]).unwrap();
    assert!(track.push_segment(&segments[0]).is_err(), "twice the same");
    assert!(track.push_segment(&segments[1][..100]).is_err(), "cut");
    track.push_segment(&segments[1]).unwrap();
}

#[test]
fn places_above_four_gibibytes_are_said_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let (init, segments) = real_file(folder.path(), &TONE);
    let mut track = ProgressiveTrack::new(&init, "en").unwrap();
    for segment in &segments {
        track.push_segment(segment).unwrap();
    }
    let narrow = ProgressiveMp4::new(std::slice::from_ref(&track));
    track.enlarge_chunks(1 << 32);
    let wide = ProgressiveMp4::new(&[track]);
    let has = |file: &ProgressiveMp4, kind: &[u8]| file.head.windows(4).any(|found| found == kind);
    assert!(has(&narrow, b"stco") && !has(&narrow, b"co64"));
    assert!(has(&wide, b"co64") && !has(&wide, b"stco"));
    let media_bytes: u64 = wide.pieces.iter().map(|piece| piece.size_bytes).sum();
    let head = &wide.head[wide.head.len() - 16..];
    assert_eq!(head[..8], [0, 0, 0, 1, b'm', b'd', b'a', b't']);
    assert_eq!(head[8..], (media_bytes + 16).to_be_bytes());
}
