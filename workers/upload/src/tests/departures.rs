//! Files that are cut, and files with bytes before or behind the medium.

use schemas::media::warning_codes;

use super::{
    FILES, OPAQUE, archive, archive_with_a_file, clip, file, verify, verify_by, verify_in, verify_strictly,
};

#[test]
fn a_cut_file_is_taken_where_the_rest_can_be_read() {
    for name in [
        "mp4 with its index in front",
        "fragmented mp4",
        "mkv",
        "webm",
        "avi",
        "wav",
        "ogg",
        "aac",
        "flv",
        "aiff",
        "caf",
        "mxf",
        "wmv",
        "wma",
        "ts",
        "m2ts",
    ] {
        let bytes = file(name);
        let cut = bytes.len() * 3 / 5 + 1;
        assert_eq!(verify(&bytes[..cut]), Ok(vec![warning_codes::TRUNCATED.to_owned()]), "{name} at {cut}");
    }
    for name in ["mp4", "mov", "m4a", "png", "apng"] {
        let bytes = file(name);
        for cut in [bytes.len() * 3 / 5, bytes.len() - 1] {
            assert_eq!(verify(&bytes[..cut]), Err("truncated"), "{name} at {cut}");
        }
    }
    let cut = verify_in(&file("avi")[..2_000], 100, None).unwrap();
    let detail =
        "the file ends at byte 2,000, inside the element that begins at byte 0; it plays to where it goes";
    assert_eq!(cut.warnings[0].detail, detail);
}

/// Files whose end is known, so that what is behind it is seen.
fn files_with_an_end() -> impl Iterator<Item = &'static (&'static str, Vec<u8>)> {
    FILES.iter().filter(|(name, _)| !OPAQUE.contains(name))
}

#[test]
fn a_few_bytes_behind_a_file_are_a_warning() {
    let camera = [b"\0\0\x0a\x0aMotionPhoto_Data".as_slice(), &[0x91; 700], b"SEFHk\0\0\0SEFT"].concat();
    let tails: [(&str, Vec<u8>); 5] = [
        ("a stray byte", vec![0x99]),
        ("a line feed", vec![b'\n']),
        ("padding", vec![0; 4096]),
        ("as much padding as may be", vec![0; 65_536]),
        ("a camera's trailer", camera),
    ];
    for ((name, bytes), (what, tail)) in files_with_an_end().flat_map(|f| tails.iter().map(move |t| (f, t))) {
        let both = [bytes.as_slice(), tail].concat();
        let found = verify_in(&both, 1 << 20, None).map(|found| found.warnings);
        let wanted = match (*what, *name) {
            // It may be the first byte of a further cluster, or of the time stamp before a packet.
            ("a stray byte", "live mkv") | ("a stray byte" | "a line feed", "m2ts") => {
                warning_codes::TRUNCATED
            }
            _ => warning_codes::TRAILING_BYTES,
        };
        let codes: Result<Vec<&str>, _> = found.as_ref().map(|w| w.iter().map(|w| w.code.as_str()).collect());
        assert_eq!(codes, Ok(vec![wanted]), "{what} behind {name}");
        let is_capture = wanted == warning_codes::TRUNCATED && *name == "m2ts";
        assert_eq!(verify_strictly(&both).is_ok(), is_capture, "{what} behind {name}");
    }
    let bytes = file("avi");
    let warning = |tail: usize| {
        let both = [bytes, &vec![0; tail]].concat();
        verify_in(&both, 1000, None).unwrap().warnings.remove(0).detail
    };
    let end = crate::warnings::with_thousands(u64::try_from(bytes.len()).unwrap());
    assert_eq!(warning(4096), format!("4,096 bytes behind the end at byte {end} are not read"));
    assert_eq!(warning(1), format!("1 byte behind the end at byte {end} is not read"));
}

#[test]
fn many_bytes_behind_a_file_are_refused() {
    let padding = vec![0; 65_537];
    for (name, bytes) in files_with_an_end() {
        let both = [bytes.as_slice(), &padding].concat();
        assert_eq!(verify(&both), Err("trailing_data"), "{name}");
    }
    // One in a hundred of a large file.
    let mut large = file("mp4").to_vec();
    large.extend([0, 0x98, 0x96, 0x80]);
    large.extend(b"free");
    large.resize(large.len() + 10_000_000 - 8, 0x55);
    for (tail, is_taken) in [(100_000, true), (103_000, false)] {
        let both = [large.as_slice(), &vec![0; tail]].concat();
        assert_eq!(verify(&both).is_ok(), is_taken, "{tail}");
    }
}

#[test]
fn a_second_file_behind_a_file_is_refused() {
    let padded = |tail: &[u8]| [&[0; 512], tail].concat();
    let tails: [(&str, Vec<u8>); 11] = [
        ("an archive", archive()),
        ("an archive with a file", archive_with_a_file()),
        ("a script", b"<script>alert(1)</script>".to_vec()),
        ("a page", b"\r\n <!DOCTYPE html><html>GG</html>".to_vec()),
        ("a page behind padding", padded(b"<html><body>GOGGLE</body></html>")),
        ("a shell script", b"#!/bin/sh\nexit\n".to_vec()),
        ("a program", [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 60]].concat()),
        ("a program for Windows", padded(b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0")),
        ("a document", b"%PDF-1.7\n%%EOF".to_vec()),
        ("a picture", padded(file("jpeg"))),
        ("compressed data", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec()),
    ];
    for ((name, bytes), (what, tail)) in files_with_an_end().flat_map(|f| tails.iter().map(move |t| (f, t))) {
        let both = [bytes.as_slice(), tail].concat();
        let refused = verify_by(&both, 1 << 20, None, false).expect_err(&format!("{what} behind {name}"));
        assert_eq!(refused.code, "trailing_data", "{what} behind {name}");
        assert!(refused.detail.contains("upload the media file without it"), "{}", refused.detail);
    }
    for name in OPAQUE {
        for archive in [archive(), archive_with_a_file()] {
            assert_eq!(verify(&[file(name), &archive].concat()), Err("embedded_archive"), "{name}");
        }
    }
}

#[test]
fn bytes_before_a_file_are_a_warning() {
    let leading = || Ok(vec![warning_codes::LEADING_BYTES.to_owned()]);
    let padding_of = |bytes: usize| [vec![0; bytes].as_slice(), file("mp3")].concat();
    for bytes in [1, 20_000, 65_536] {
        assert_eq!(verify(&padding_of(bytes)), leading(), "{bytes}");
        assert_eq!(verify_strictly(&padding_of(bytes)), Err("unsupported_type"), "{bytes}");
    }
    assert_eq!(verify(&padding_of(65_537)), Err("unsupported_type"));
    let frames = file("mp3").iter().position(|byte| *byte == 0xFF).unwrap();
    assert_eq!(verify(&[&[0; 700], &file("mp3")[frames..]].concat()), leading());
    for name in ["ts", "m2ts"] {
        for from in [1, 100, 187] {
            assert_eq!(verify(&file(name)[from..]), leading(), "{name} from {from}");
            assert_eq!(verify_strictly(&file(name)[from..]), Err("unsupported_type"), "{name} from {from}");
        }
    }
    let page = b"<html>".repeat(50);
    assert_eq!(verify(&[&page, file("ts")].concat()), Err("unsupported_type"));
    // A run-in is a part of the format, and no place for another file.
    assert_eq!(verify(&[&[0x20; 3_000], file("mxf")].concat()), Ok(Vec::new()));
    assert_eq!(verify(&[&page, file("mxf")].concat()), Err("unsupported_type"));
}

#[test]
fn a_lost_packet_is_passed_over_and_a_lost_end_is_not() {
    let packets = file("ts");
    let (start, end) = packets.split_at(10 * 188);
    let damaged = [start, b"lost", end].concat();
    assert_eq!(verify(&damaged), Ok(Vec::new()));
    // A letter that looks like a packet does not end what is behind the stream.
    let text = [packets, b"no packet: GGG", &[0x20; 400]].concat();
    assert_eq!(verify(&text), Ok(vec![warning_codes::TRAILING_BYTES.to_owned()]));
}

#[test]
fn a_moving_webp_is_unsupported_and_a_still_one_is_taken() {
    let moving = verify_by(&clip(&["-map", "0", "-c:v", "libwebp_anim"], "webp"), 1 << 20, None, false);
    let refused = moving.unwrap_err();
    assert_eq!(refused.code, "unsupported_type");
    assert!(refused.detail.starts_with("animated WebP"), "{}", refused.detail);
    let still = clip(&["-map", "0", "-frames:v", "1", "-c:v", "libwebp"], "webp");
    assert_eq!(verify(&still), Ok(Vec::new()));
    assert_eq!(verify(&still[..still.len() / 2]), Err("truncated"));
}
