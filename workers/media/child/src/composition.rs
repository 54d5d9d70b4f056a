//! Moves the delay of reordered pictures out of negative composition offsets into an edit list.
//!
//! The muxer writes CMAF with negative offsets, so that decoding and presentation both begin at 0. Players built on FFmpeg cannot
//! present before they decode: they shift such a track by its delay, and the sound beside it stays where it is (67 ms at 30 frames
//! per second, 500 ms at two). With offsets that are never negative, and an edit list that leaves the delay out, all present the
//! first picture at 0 (ISO/IEC 14496-12, 8.6.6 and 8.8.8).
//!
//! Limits: boxes of 32-bit lengths, which is all that the muxer writes for an init segment or a fragment.

/// An edit list of one entry: `edts` around `elst`, version 0.
const EDIT_LIST_BYTES: u32 = 36;

/// Flags of a run (8.8.8.1): it says where its samples lie, flags of its first sample, and a composition offset of each.
const DATA_OFFSET: u32 = 0x1;
const FIRST_FLAGS: u32 = 0x4;
const OFFSETS: u32 = 0x800;

/// What the muxer wrote is not what it always writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the muxer's {0} is not as it should be")]
pub(crate) struct UnexpectedBox(&'static str);

/// Adds to an init segment with one track an edit list that begins at `delay_ticks` of the track.
pub(crate) fn add_edit_list(init: &mut Vec<u8>, delay_ticks: u32) -> Result<(), UnexpectedBox> {
    let moov = find_box(init, 0..init.len(), *b"moov")?;
    let trak = find_box(init, moov.clone(), *b"trak")?;
    let header = find_box(init, trak.clone(), *b"tkhd")?;
    let mut edit = Vec::new();
    edit.extend(EDIT_LIST_BYTES.to_be_bytes());
    edit.extend(b"edts");
    edit.extend((EDIT_LIST_BYTES - 8).to_be_bytes());
    edit.extend(b"elst");
    // Version and flags, one entry; a length of 0 means all fragments; from the delay on, at normal speed.
    for word in [0, 1, 0, delay_ticks, 0x0001_0000] {
        edit.extend(word.to_be_bytes());
    }
    for outer in [&moov, &trak] {
        let length = read_word(init, outer.start - 8)?;
        write_word(init, outer.start - 8, length + EDIT_LIST_BYTES)?;
    }
    init.splice(header.end..header.end, edit);
    Ok(())
}

/// Raises the composition offsets of every sample of a fragment by `delay_ticks`. A run of samples that are presented as they are
/// decoded has none, and gets them.
pub(crate) fn delay_composition(segment: &mut Vec<u8>, delay_ticks: u32) -> Result<(), UnexpectedBox> {
    let fragment = find_box(segment, 0..segment.len(), *b"moof")?;
    let track = find_box(segment, fragment.clone(), *b"traf")?;
    let run = find_box(segment, track.clone(), *b"trun")?;
    // Bits of 8.8.8.1, and the four-byte fields that each stands for.
    let version_and_flags = read_word(segment, run.start)?;
    let fields = |bits: &[u32]| bits.iter().filter(|bit| version_and_flags & **bit != 0).count();
    let samples = usize::try_from(read_word(segment, run.start + 4)?).unwrap_or(usize::MAX);
    let head_bytes = 8 + 4 * fields(&[DATA_OFFSET, FIRST_FLAGS]);
    let other_bytes = 4 * fields(&[0x100, 0x200, 0x400]);
    if version_and_flags & OFFSETS != 0 {
        let mut at = run.start + head_bytes + other_bytes;
        for _ in 0..samples {
            let offset = read_word(segment, at)?.wrapping_add(delay_ticks);
            write_word(segment, at, offset)?;
            at += other_bytes + 4;
        }
        return Ok(());
    }
    if run.start + head_bytes + samples.saturating_mul(other_bytes) != run.end
        || version_and_flags & DATA_OFFSET == 0
    {
        return Err(UnexpectedBox("run of samples"));
    }
    let added_bytes = u32::try_from(samples * 4).map_err(|_| UnexpectedBox("number of samples"))?;
    let mut table = Vec::with_capacity(samples * (other_bytes + 4));
    for sample in 0..samples {
        let at = run.start + head_bytes + sample * other_bytes;
        table.extend_from_slice(segment.get(at..at + other_bytes).ok_or(UnexpectedBox("length"))?);
        table.extend(delay_ticks.to_be_bytes());
    }
    write_word(segment, run.start, version_and_flags | OFFSETS)?;
    // The samples lie behind the fragment, which grows: 8.8.7 counts from its beginning.
    let data_offset = read_word(segment, run.start + 8)?.wrapping_add(added_bytes);
    write_word(segment, run.start + 8, data_offset)?;
    for outer in [&fragment, &track, &run] {
        let length = read_word(segment, outer.start - 8)?;
        write_word(segment, outer.start - 8, length + added_bytes)?;
    }
    segment.splice(run.start + head_bytes..run.end, table);
    Ok(())
}

/// The content of the first box of a kind inside a range.
fn find_box(
    bytes: &[u8],
    range: std::ops::Range<usize>,
    kind: [u8; 4],
) -> Result<std::ops::Range<usize>, UnexpectedBox> {
    let mut at = range.start;
    while at + 8 <= range.end {
        let length = usize::try_from(read_word(bytes, at)?).unwrap_or(usize::MAX);
        let end = at.saturating_add(length);
        if length < 8 || end > range.end {
            return Err(UnexpectedBox("length of a box"));
        }
        if bytes.get(at + 4..at + 8) == Some(kind.as_slice()) {
            return Ok(at + 8..end);
        }
        at = end;
    }
    Err(UnexpectedBox("order of boxes"))
}

fn read_word(bytes: &[u8], at: usize) -> Result<u32, UnexpectedBox> {
    let word = bytes.get(at..at.saturating_add(4)).and_then(|word| word.try_into().ok());
    word.map(u32::from_be_bytes).ok_or(UnexpectedBox("length"))
}

fn write_word(bytes: &mut [u8], at: usize, word: u32) -> Result<(), UnexpectedBox> {
    let place = bytes.get_mut(at..at.saturating_add(4)).ok_or(UnexpectedBox("length"))?;
    place.copy_from_slice(&word.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap();
        [&length.to_be_bytes(), kind.as_slice(), content].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn the_edit_list_follows_the_header_of_the_track() {
        let track = |edit: &[u8]| {
            boxed(*b"trak", &[&boxed(*b"tkhd", &[1; 4])[..], edit, &boxed(*b"mdia", &[2; 4])].concat())
        };
        let file = |track: Vec<u8>| {
            [boxed(*b"ftyp", b"cmfc"), boxed(*b"moov", &[boxed(*b"mvhd", &[3; 4]), track].concat())].concat()
        };
        let mut init = file(track(&[]));
        add_edit_list(&mut init, 1024).unwrap();
        let edit = boxed(*b"edts", &boxed(*b"elst", &words(&[0, 1, 0, 1024, 0x0001_0000])));
        assert_eq!(init, file(track(&edit)));
    }

    #[test]
    fn offsets_grow_by_the_delay_whatever_else_a_sample_says() {
        for (flags, before, after) in [
            (0x0100_0800, vec![0, 2048, 0xffff_fc00], vec![1024, 3072, 0]),
            (
                0x0100_0e05,
                vec![7, 8, 5, 6, 0, 5, 6, 0xffff_fc00, 5, 6, 512],
                vec![7, 8, 5, 6, 1024, 5, 6, 0, 5, 6, 1536],
            ),
        ] {
            let segment = |rest: &[u32]| {
                let run = boxed(*b"trun", &words(&[&[flags, 3], rest].concat()));
                let fragment = boxed(*b"moof", &[boxed(*b"mfhd", &[0; 8]), boxed(*b"traf", &run)].concat());
                [fragment, boxed(*b"mdat", &[9; 16])].concat()
            };
            let mut bytes = segment(&before);
            delay_composition(&mut bytes, 1024).unwrap();
            assert_eq!(bytes, segment(&after), "{flags:x}");
        }
    }

    #[test]
    fn a_run_without_offsets_gets_them() {
        let segment = |run: &[u32]| {
            let run = boxed(*b"trun", &words(run));
            let fragment = boxed(*b"moof", &[boxed(*b"mfhd", &[0; 8]), boxed(*b"traf", &run)].concat());
            [fragment, boxed(*b"mdat", &[9; 16])].concat()
        };
        for (before, after) in [
            (vec![0x0100_0205, 2, 80, 7, 5, 6], vec![0x0100_0a05, 2, 88, 7, 5, 1024, 6, 1024]),
            (vec![0x0100_0001, 1, 80], vec![0x0100_0801, 1, 84, 1024]),
        ] {
            let mut bytes = segment(&before);
            delay_composition(&mut bytes, 1024).unwrap();
            assert_eq!(bytes, segment(&after));
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(add_edit_list(&mut boxed(*b"ftyp", b""), 1).is_err());
        assert!(add_edit_list(&mut vec![0, 0, 1, 0, b'm', b'o', b'o', b'v'], 1).is_err());
        let run = boxed(*b"trun", &words(&[0x0100_0200, 1, 5]));
        assert!(delay_composition(&mut boxed(*b"moof", &boxed(*b"traf", &run)), 1).is_err());
    }
}
