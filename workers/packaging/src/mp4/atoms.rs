//! Boxes as bytes (ISO/IEC 14496-12, 4.2): those of a file that is written, and the children of one that was read.
//!
//! Limits: boxes of 32-bit lengths.

use std::ops::Range;

use super::fragment::MalformedMp4;

/// Bytes of the head of a box: its length and its kind.
pub(super) const HEAD_BYTES: usize = 8;

/// A box around its content.
pub(super) fn write_box(kind: [u8; 4], content: &[&[u8]]) -> Vec<u8> {
    let length = HEAD_BYTES + content.iter().map(|piece| piece.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(kind);
    for piece in content {
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// A box with version and flags around its content (4.2.2).
pub(super) fn write_full_box(kind: [u8; 4], version: u8, flags: u32, content: &[&[u8]]) -> Vec<u8> {
    let head = (u32::from(version) << 24 | flags).to_be_bytes();
    write_box(kind, &[&[head.as_slice()], content].concat())
}

/// Numbers one behind the other.
pub(super) fn write_words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// A time in a box whose version says how many bytes it has.
pub(super) fn write_time(version: u8, ticks: u64) -> Vec<u8> {
    match version {
        0 => u32::try_from(ticks).unwrap_or(u32::MAX).to_be_bytes().to_vec(),
        _ => ticks.to_be_bytes().to_vec(),
    }
}

/// The version of a box whose largest time is `ticks`.
pub(super) fn time_version(ticks: u64) -> u8 {
    u8::from(u32::try_from(ticks).is_err())
}

/// The only box of a kind among the children of a box: its content.
pub(super) fn find_child(content: &[u8], kind: [u8; 4]) -> Result<&[u8], MalformedMp4> {
    let whole = find_whole_child(content, kind)?;
    whole.get(HEAD_BYTES..).ok_or_else(|| missing_box(kind))
}

/// The only box of a kind among the children of a box, with its head.
pub(super) fn find_whole_child(content: &[u8], kind: [u8; 4]) -> Result<&[u8], MalformedMp4> {
    let mut found = None;
    let mut at = 0;
    while at < content.len() {
        let (range, this_kind) = read_head(content, at)?;
        at = range.end;
        if this_kind == kind && found.replace(range).is_some() {
            return Err(MalformedMp4(format!("more than one {}", String::from_utf8_lossy(&kind))));
        }
    }
    found.and_then(|range| content.get(range)).ok_or_else(|| missing_box(kind))
}

fn read_head(content: &[u8], at: usize) -> Result<(Range<usize>, [u8; 4]), MalformedMp4> {
    let field = |from: usize| content.get(from..from + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let (Some(length), Some(kind)) = (field(at), field(at + 4)) else {
        return Err(MalformedMp4("a box header is cut off".into()));
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let end = at.saturating_add(length);
    if length < HEAD_BYTES || end > content.len() {
        return Err(MalformedMp4(format!("{} is cut off", String::from_utf8_lossy(&kind))));
    }
    Ok((at..end, kind))
}

fn missing_box(kind: [u8; 4]) -> MalformedMp4 {
    MalformedMp4(format!("no {}", String::from_utf8_lossy(&kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_once_or_refused() {
        let two = [write_box(*b"free", &[b"a"]), write_full_box(*b"stsd", 1, 2, &[b"b", b"c"])].concat();
        assert_eq!(find_child(&two, *b"free").unwrap(), b"a");
        assert_eq!(find_child(&two, *b"stsd").unwrap(), [1, 0, 0, 2, b'b', b'c']);
        assert_eq!(find_whole_child(&two, *b"free").unwrap(), [0, 0, 0, 9, b'f', b'r', b'e', b'e', b'a']);
        assert!(find_child(&two, *b"hdlr").is_err());
        assert!(find_child(&[&two[..], &two].concat(), *b"free").is_err(), "two of a kind");
        for cut in [1, 8, 10, two.len() - 1] {
            assert!(find_child(&two[..cut], *b"stsd").is_err(), "cut at {cut}");
        }
        assert!(
            find_child(&[0, 0, 0, 7, b'f', b'r', b'e', b'e'], *b"free").is_err(),
            "shorter than its head"
        );
    }

    #[test]
    fn a_time_has_as_many_bytes_as_it_needs() {
        for (ticks, version, length) in [(0, 0, 4), (u64::from(u32::MAX), 0, 4), (1 << 32, 1, 8)] {
            assert_eq!((time_version(ticks), write_time(version, ticks).len()), (version, length));
        }
    }
}
