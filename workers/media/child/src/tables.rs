//! Counts the entries of the tables in an MP4 or QuickTime file before the library sees them: it keeps an index entry for each
//! sample, however few bytes the file has to spend on it.
//!
//! Only what a box declares is looked at, never the table itself, so that the check costs a few reads. A fragment is looked at
//! like the index, the first ones only; what comes later is held by the limit on memory.
//!
//! Limits: `MediaLimits::table_entries_max` entries, [`BOXES_MAX`] boxes, [`DEPTH_MAX`] levels, [`FRAGMENTS_MAX`] fragments.

use std::io::{Read, Seek};

use media::MediaErrorCode;

use crate::error::{MediaChildError, MediaChildResult, source_refused_error};
use crate::truncation::read_at;

/// Most boxes looked at.
const BOXES_MAX: u32 = 100_000;
/// Deepest nesting; sample tables lie at the sixth level.
const DEPTH_MAX: u32 = 10;
/// Most fragments looked at.
const FRAGMENTS_MAX: u32 = 64;

/// Least samples of uncompressed sound that share one entry of the library's index.
const PLAIN_SAMPLES_PER_ENTRY: u64 = 866;
/// Bytes of one entry of a table from samples to chunks.
const STSC_ENTRY_BYTES: usize = 12;

/// Boxes that hold boxes, from the file to its tables.
const CONTAINERS: [&[u8; 4]; 9] =
    [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"];

/// Refuses a file whose tables declare more entries than allowed.
pub(crate) fn check_table_entries(
    file: impl Read + Seek,
    size_bytes: u64,
    entries_max: u64,
) -> MediaChildResult<()> {
    let track = TrackTables::default();
    let mut walk = TableEntryCounter { file, boxes: 0, fragments: 0, entries: 0, entries_max, track };
    walk.walk_level(0, size_bytes, 0)
}

#[derive(Debug)]
struct TableEntryCounter<F> {
    file: F,
    boxes: u32,
    fragments: u32,
    entries: u64,
    entries_max: u64,
    track: TrackTables,
}

/// What the boxes of one track say about its samples.
#[derive(Debug, Default)]
struct TrackTables {
    is_sound: bool,
    /// Each sample lasts one tick, as in uncompressed sound.
    is_ticking: bool,
    /// Samples, and whether all have one size, so that no table names them.
    samples: u64,
    is_constant: bool,
    chunks: u64,
    /// The table from samples to chunks, and its declared entries.
    to_chunks: Option<(Mp4BoxRange, u64)>,
}

/// A box: its type, and where its content begins and ends.
#[derive(Debug, Clone, Copy)]
struct Mp4BoxRange {
    kind: [u8; 4],
    start: u64,
    end: u64,
}

impl<F: Read + Seek> TableEntryCounter<F> {
    /// Looks at the boxes of one level. Where the structure makes no sense the library may judge it.
    fn walk_level(&mut self, mut at: u64, end: u64, depth: u32) -> MediaChildResult<()> {
        while let Some(found) = self.next_box(at, end)? {
            at = found.end;
            self.boxes += 1;
            if self.boxes > BOXES_MAX || depth > DEPTH_MAX {
                return Err(source_refused_error(
                    MediaErrorCode::MediaCorrupt,
                    "too many boxes, or too deep",
                ));
            }
            match &found.kind {
                b"cmov" => {
                    return Err(source_refused_error(
                        MediaErrorCode::MediaUnsupportedFormat,
                        "a compressed index",
                    ));
                }
                b"trak" => {
                    self.track = TrackTables::default();
                    self.walk_level(found.start, found.end, depth + 1)?;
                    let samples = self.count_index_entries()?;
                    self.add_entries(samples)?;
                }
                b"moof" if self.fragments >= FRAGMENTS_MAX => return Ok(()),
                kind if CONTAINERS.contains(&kind) => {
                    self.fragments += u32::from(kind == b"moof");
                    self.walk_level(found.start, found.end, depth + 1)?;
                }
                _ => self.read_table(found)?,
            }
        }
        Ok(())
    }

    /// ISO/IEC 14496-12 4.2: 32-bit length and type; 1 means that a 64-bit length follows, 0 the rest.
    fn next_box(&mut self, at: u64, end: u64) -> MediaChildResult<Option<Mp4BoxRange>> {
        if end.saturating_sub(at) < 8 {
            return Ok(None);
        }
        let mut head = [0; 16];
        let known = self.read_bytes(at, &mut head)?;
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _] = head;
        let [_, _, _, _, _, _, _, _, long @ ..] = head;
        let (length, head_bytes) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (end - at, 8),
            1 => (u64::from_be_bytes(long), 16),
            short => (u64::from(short), 8),
        };
        if known < 8 || length < head_bytes {
            return Ok(None);
        }
        let until = at.saturating_add(length).min(end);
        Ok(Some(Mp4BoxRange { kind, start: (at + head_bytes).min(until), end: until }))
    }

    /// Takes note of what a table declares.
    fn read_table(&mut self, found: Mp4BoxRange) -> MediaChildResult<()> {
        let mut bytes = [0; 20];
        let known = self.read_bytes(found.start, &mut bytes)?;
        let word = |offset: usize| {
            let word = bytes.get(offset..offset + 4).filter(|_| offset + 4 <= known);
            word.and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
        };
        // Behind version and flags.
        let (first, second) = (u64::from(word(4)), u64::from(word(8)));
        let track = &mut self.track;
        match &found.kind {
            b"hdlr" => track.is_sound |= word(8).to_be_bytes() == *b"soun",
            b"stsz" => (track.samples, track.is_constant) = (track.samples + second, first > 0),
            b"stz2" => track.samples += second,
            b"stts" => {
                track.is_ticking = first == 1 && word(12) == 1;
                return self.add_entries(first);
            }
            b"stsc" => {
                track.to_chunks = Some((found, first));
                return self.add_entries(first);
            }
            b"stco" | b"co64" => {
                track.chunks += first;
                return self.add_entries(first);
            }
            b"ctts" | b"stss" | b"stps" | b"elst" | b"trun" => return self.add_entries(first),
            b"sbgp" | b"tfra" => return self.add_entries(second),
            _ => {}
        }
        Ok(())
    }

    /// Entries of the library's index for the samples of the track. Uncompressed sound is indexed by pieces of its chunks.
    fn count_index_entries(&mut self) -> MediaChildResult<u64> {
        let TrackTables { is_sound, is_ticking, samples, is_constant, chunks, to_chunks } =
            std::mem::take(&mut self.track);
        let (true, Some((table, entries))) = (is_sound && is_ticking && is_constant, to_chunks) else {
            return Ok(samples);
        };
        let mut pieces = 0_u64;
        let mut open: Option<(u64, u64)> = None;
        let mut at = table.start.saturating_add(8);
        for _ in 0..entries {
            let mut entry = [0; STSC_ENTRY_BYTES];
            if at >= table.end || self.read_bytes(at, &mut entry)? < STSC_ENTRY_BYTES {
                break;
            }
            at += 12;
            let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            let mut words = entry.chunks_exact(4).map(word);
            let (Some(first), Some(count)) = (words.next(), words.next()) else { break };
            pieces = pieces.saturating_add(count_chunk_pieces(open, first));
            open = Some((first, count.div_ceil(PLAIN_SAMPLES_PER_ENTRY)));
        }
        Ok(pieces.saturating_add(count_chunk_pieces(open, chunks.saturating_add(1))))
    }

    fn add_entries(&mut self, entries: u64) -> MediaChildResult<()> {
        self.entries = self.entries.saturating_add(entries);
        if self.entries <= self.entries_max {
            return Ok(());
        }
        let detail = format!("its tables have more than {} entries", self.entries_max);
        Err(source_refused_error(MediaErrorCode::MediaTooManyPackets, detail))
    }

    fn read_bytes(&mut self, at: u64, buffer: &mut [u8]) -> MediaChildResult<usize> {
        read_at(&mut self.file, at, buffer)
            .map_err(|error| MediaChildError::Failed(format!("read a table: {error}")))
    }
}

/// Pieces of the chunks from an entry to the first chunk of the next.
fn count_chunk_pieces(open: Option<(u64, u64)>, next_first: u64) -> u64 {
    open.map_or(0, |(first, pieces)| next_first.saturating_sub(first).saturating_mul(pieces))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn boxed(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap();
        [&length.to_be_bytes(), kind.as_slice(), content].concat()
    }

    fn table(kind: [u8; 4], words: &[u32]) -> Vec<u8> {
        let words: Vec<u8> = std::iter::once(&0).chain(words).flat_map(|word| word.to_be_bytes()).collect();
        boxed(kind, &words)
    }

    /// A file with one track of these tables.
    fn track(handler: [u8; 4], tables: &[Vec<u8>]) -> Vec<u8> {
        let handler = table(*b"hdlr", &[0, u32::from_be_bytes(handler)]);
        let stbl = boxed(*b"minf", &boxed(*b"stbl", &tables.concat()));
        boxed(*b"moov", &boxed(*b"trak", &boxed(*b"mdia", &[handler, stbl].concat())))
    }

    fn verdict(bytes: &[u8], entries_max: u64) -> Option<MediaErrorCode> {
        let size = u64::try_from(bytes.len()).unwrap();
        match check_table_entries(Cursor::new(bytes), size, entries_max) {
            Ok(()) => None,
            Err(MediaChildError::Refused { code, .. }) => Some(code),
            Err(MediaChildError::Failed(detail)) => panic!("{detail}"),
        }
    }

    #[test]
    fn what_is_declared_counts_however_few_bytes_there_are() {
        let many = Some(MediaErrorCode::MediaTooManyPackets);
        for (tables, wanted) in [
            (vec![table(*b"stsz", &[0, 100])], None),
            (vec![table(*b"stsz", &[0, 101])], many),
            // All of one size: no table at all.
            (vec![table(*b"stsz", &[7, 101])], many),
            (vec![table(*b"stz2", &[8, 101])], many),
            (vec![table(*b"stsz", &[0, 60]), table(*b"stco", &[41])], many),
            (vec![table(*b"stts", &[101])], many),
            (vec![table(*b"ctts", &[u32::MAX])], many),
            (vec![table(*b"stss", &[101])], many),
            (vec![table(*b"sbgp", &[0, 101])], many),
            (vec![boxed(*b"free", &[0xff; 64])], None),
        ] {
            assert_eq!(verdict(&track(*b"vide", &tables), 100), wanted, "{tables:?}");
        }
        let fragment = boxed(*b"moof", &boxed(*b"traf", &table(*b"trun", &[101])));
        assert_eq!(verdict(&fragment, 100), many);
        let edits = boxed(*b"moov", &boxed(*b"trak", &boxed(*b"edts", &table(*b"elst", &[101]))));
        assert_eq!(verdict(&edits, 100), many);
        assert_eq!(
            verdict(&boxed(*b"moov", &boxed(*b"cmov", b"")), 100),
            Some(MediaErrorCode::MediaUnsupportedFormat)
        );
        let two =
            [track(*b"vide", &[table(*b"stsz", &[0, 60])]), track(*b"soun", &[table(*b"stsz", &[0, 60])])];
        assert_eq!(verdict(&two.concat(), 100), many, "tracks count together");
    }

    #[test]
    fn uncompressed_sound_counts_by_its_chunks() {
        let tables = |chunk: u32, chunks: u32| {
            [
                table(*b"stsz", &[4, 480_000_000]),
                table(*b"stts", &[1, 480_000_000, 1]),
                table(*b"stsc", &[1, 1, chunk, 1]),
                table(*b"stco", &[chunks]),
            ]
        };
        assert_eq!(verdict(&track(*b"soun", &tables(4_800, 20)), 200), None);
        assert_eq!(
            verdict(&track(*b"vide", &tables(4_800, 20)), 200),
            Some(MediaErrorCode::MediaTooManyPackets)
        );
        assert_eq!(
            verdict(&track(*b"soun", &tables(u32::MAX, 20)), 200),
            Some(MediaErrorCode::MediaTooManyPackets)
        );
    }

    #[test]
    fn nonsense_is_left_to_the_library_and_ends() {
        for bytes in [&b""[..], b"moov", b"\0\0\0\x04moov", b"\0\0\0\x01moov\0\0", &[0xff; 64], &[0; 64]] {
            assert_eq!(verdict(bytes, 1), None, "{bytes:?}");
        }
        let mut deep = Vec::new();
        for _ in 0..40 {
            deep = boxed(*b"moov", &deep);
        }
        assert_eq!(verdict(&deep, 1), Some(MediaErrorCode::MediaCorrupt));
        assert_eq!(verdict(&boxed(*b"free", b"").repeat(100_001), 1), Some(MediaErrorCode::MediaCorrupt));
    }
}
