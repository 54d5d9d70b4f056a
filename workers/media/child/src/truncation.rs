//! Whether a file ends before its outermost structure says it does.
//!
//! Limits: 10,000 boxes are walked.

use std::io::{self, Read, Seek, SeekFrom};

/// Most top-level boxes looked at.
const BOXES_MAX: usize = 10_000;

/// Boxes of a whole file's outermost level. What lies behind it may look like a box of another type, and is none that was cut.
const KNOWN_BOXES: [&[u8; 4]; 18] = [
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"meta",
    b"sidx", b"ssix", b"mfra", b"emsg", b"prft", b"pdin", b"udta",
];

/// True when a length in the outermost structure points past the end of the file.
pub(crate) fn is_truncated(mut file: impl Read + Seek, size_bytes: u64, format: &str) -> io::Result<bool> {
    match format {
        "mov,mp4,m4a,3gp,3g2,mj2" => is_mp4_truncated(&mut file, size_bytes),
        "avi" | "wav" => is_riff_truncated(&mut file, size_bytes),
        "matroska,webm" => is_ebml_truncated(&mut file, size_bytes),
        _ => Ok(false),
    }
}

/// ISO/IEC 14496-12: 32-bit size and type; size 1 means a 64-bit size follows, 0 means to the end of the file.
fn is_mp4_truncated(file: &mut (impl Read + Seek), size_bytes: u64) -> io::Result<bool> {
    let mut offset = 0_u64;
    let mut has_moov = false;
    let mut has_mdat = false;
    for _ in 0..BOXES_MAX {
        if offset == size_bytes {
            // A file with media and no index was not finished.
            return Ok(has_mdat && !has_moov);
        }
        let mut head = [0_u8; 16];
        let count = read_at(file, offset, &mut head)?;
        if count < 8 {
            // A few bytes behind a file that has all that it needs.
            return Ok(!(has_moov && has_mdat));
        }
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _] = head;
        has_moov |= &kind == b"moov";
        has_mdat |= &kind == b"mdat";
        let size = match u32::from_be_bytes([a, b, c, d]) {
            0 => return Ok(false),
            1 if count < 16 => return Ok(true),
            1 => {
                let [_, _, _, _, _, _, _, _, long @ ..] = head;
                u64::from_be_bytes(long)
            }
            size => u64::from(size),
        };
        // Anything but letters is not a box type: what lies here was never part of the file.
        if size < 8 || !kind.iter().all(u8::is_ascii) {
            return Ok(false);
        }
        match offset.checked_add(size) {
            Some(end) if end <= size_bytes => offset = end,
            _ => return Ok(!has_moov || KNOWN_BOXES.contains(&&kind)),
        }
    }
    Ok(false)
}

/// RIFF: the size of the first chunk counts from its ninth byte. Writers that stream leave 0 or all ones.
fn is_riff_truncated(file: &mut (impl Read + Seek), size_bytes: u64) -> io::Result<bool> {
    let mut head = [0_u8; 8];
    let count = read_at(file, 0, &mut head)?;
    let [_, _, _, _, size @ ..] = head;
    let size = u32::from_le_bytes(size);
    // One byte may be missing: writers leave out the pad byte of an odd form at the end.
    Ok(count == 8 && size != 0 && size != u32::MAX && u64::from(size) + 8 > size_bytes + 1)
}

/// RFC 8794: the header element, then the segment; a size of all ones is unknown.
fn is_ebml_truncated(file: &mut (impl Read + Seek), size_bytes: u64) -> io::Result<bool> {
    let Some((header, length)) = read_ebml_element(file, 0)? else { return Ok(true) };
    let Some(segment) = length.and_then(|length| header.checked_add(length)) else { return Ok(false) };
    let Some((start, length)) = read_ebml_element(file, segment)? else { return Ok(true) };
    Ok(length.and_then(|length| start.checked_add(length)).is_some_and(|end| end > size_bytes))
}

/// Where the content of an element starts, and its length when that is known; none at the end of the file.
fn read_ebml_element(file: &mut (impl Read + Seek), offset: u64) -> io::Result<Option<(u64, Option<u64>)>> {
    let mut head = [0_u8; 12];
    let count = read_at(file, offset, &mut head)?;
    let id_bytes = usize::try_from(head.first().map_or(0, |byte| byte.leading_zeros()) + 1).unwrap_or(9);
    let Some(first) = head.get(id_bytes).copied().filter(|_| id_bytes < count) else { return Ok(None) };
    let size_bytes = usize::try_from(first.leading_zeros() + 1).unwrap_or(9);
    let Some(rest) = head.get(id_bytes + 1..id_bytes + size_bytes) else { return Ok(None) };
    let mask = 0xff_u8.checked_shr(u32::try_from(size_bytes).unwrap_or(8)).unwrap_or(0);
    let is_unknown = first & mask == mask && rest.iter().all(|byte| *byte == 0xff);
    let length = rest.iter().fold(u64::from(first & mask), |sum, byte| sum << 8 | u64::from(*byte));
    let start = offset + u64::try_from(id_bytes + size_bytes).unwrap_or(0);
    Ok(Some((start, (!is_unknown).then_some(length))))
}

/// Reads at `offset` until the buffer is full or the file ends; answers how many bytes came.
pub(crate) fn read_at(file: &mut (impl Read + Seek), offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn check(format: &str, bytes: &[u8], expected: bool) {
        let size = u64::try_from(bytes.len()).unwrap();
        assert_eq!(is_truncated(Cursor::new(bytes), size, format).unwrap(), expected, "{format} {bytes:?}");
    }

    #[test]
    fn lengths_past_the_end_are_found() {
        let mp4 = "mov,mp4,m4a,3gp,3g2,mj2";
        check(mp4, b"\0\0\0\x08ftyp\0\0\0\x08moov\0\0\0\x0amdatxx", false);
        check(mp4, b"\0\0\0\x08ftyp\0\0\0\x08moov\0\0\0\x0bmdatxx", true);
        check(mp4, b"\0\0\0\x08ftyp\0\0\0\x0amdatxx", true);
        check(mp4, b"\0\0\0\x08ftyp\0\0\0\x08moov\0\0", true);
        check(mp4, b"\0\0\0\x08ftyp\0\0\0\0mdatxx", false);
        check(mp4, b"\0\0\0\x08moov\0\0\0\x08mdatx", false);
        check(mp4, b"\0\0\0\x08moov\0\0\0\x08mdat\0\0\x0a\x0aMotionPhoto", false);
        check(mp4, b"\0\0\0\x08moov\0\0\0\x08mdat\0\0\x0a\x0amoofxx", true);
        check("avi", b"RIFF\x04\0\0\0AVI ", false);
        check("avi", b"RIFF\x40\0\0\0AVI ", true);
        check("wav", b"RIFF\xff\xff\xff\xffWAVE", false);
        let webm = "matroska,webm";
        check(webm, b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x82xx", false);
        check(webm, b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x83xx", true);
        check(webm, b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", false);
        check("mp3", b"anything", false);
    }
}
