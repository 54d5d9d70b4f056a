//! Recognises a second file in the bytes around a medium, by its signature.

/// What scripts of a shell, and of PostScript, begin with.
const SCRIPT_STARTS: [&[u8]; 2] = [b"#!", b"%!"];

/// The type of the file that bytes begin with, zeros before it left aside; none where no signature fits.
pub(crate) fn name_second_file(bytes: &[u8]) -> Option<String> {
    let padding_bytes = bytes.iter().take_while(|byte| **byte == 0).count();
    let behind_padding = bytes.get(padding_bytes..).unwrap_or_default();
    // A box of an MP4 file begins with a length, most of which is zeros.
    if behind_padding.get(1..5) == Some(b"ftyp") {
        return Some("video/mp4".to_owned());
    }
    [bytes, behind_padding].into_iter().find_map(name_file)
}

fn name_file(bytes: &[u8]) -> Option<String> {
    if let Some(kind) = infer::get(bytes) {
        return Some(kind.mime_type().to_owned());
    }
    // Browsers look past a byte order mark and white space (WHATWG MIME Sniffing, 7.1).
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    let is_tag =
        matches!(text, [b'<', next, ..] if next.is_ascii_alphabetic() || matches!(next, b'!' | b'?'));
    if is_tag {
        return Some("text/html".to_owned());
    }
    // Programs of DOS and Windows have two letters only, and archives have records that don't begin a file.
    let known = [
        (b"MZ".as_slice(), "application/x-msdownload"),
        (b"\x7FELF", "application/x-executable"),
        (b"PK", "application/zip"),
    ];
    let found = known.iter().find(|(signature, _)| bytes.starts_with(signature)).map(|(_, kind)| *kind);
    let is_script = SCRIPT_STARTS.iter().any(|begin| text.starts_with(begin));
    found.or_else(|| is_script.then_some("text/x-script")).map(str::to_owned)
}
