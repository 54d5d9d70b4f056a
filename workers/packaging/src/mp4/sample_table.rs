//! The sample tables of a track (ISO/IEC 14496-12, 8.5 to 8.7), gathered segment by segment: one segment is one chunk.
//!
//! Limits: what the caller lets in; about eight bytes are kept of each sample.

use super::{
    atoms::{write_full_box, write_words},
    fragment::{MalformedMp4, Mp4Sample},
};

/// So many in a row have the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run<T> {
    count: u32,
    value: T,
}

fn push_run<T: PartialEq>(runs: &mut Vec<Run<T>>, value: T) {
    match runs.last_mut().filter(|last| last.value == value) {
        Some(last) => last.count = last.count.saturating_add(1),
        None => runs.push(Run { count: 1, value }),
    }
}

/// A segment as a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Time of decoding of its first sample, in ticks of the track.
    pub(super) start_ticks: u64,
    pub(super) sample_count: u32,
    /// Bytes of its samples.
    pub(super) size_bytes: u64,
    /// Where they begin in the segment.
    pub(super) offset_bytes: u64,
}

/// What is known of the samples of a track.
#[derive(Debug, Clone, Default)]
pub(super) struct SampleTable {
    pub(super) chunks: Vec<Chunk>,
    durations: Vec<Run<u32>>,
    compositions: Vec<Run<i32>>,
    sizes_bytes: Vec<u32>,
    /// Numbers of the samples that decoding may begin with, from 1.
    sync_samples: Vec<u32>,
    pub(super) duration_ticks: u64,
}

impl SampleTable {
    pub(super) const fn sample_count(&self) -> usize {
        self.sizes_bytes.len()
    }

    /// Adds the samples of the next chunk.
    pub(super) fn push_chunk(&mut self, chunk: Chunk, samples: &[Mp4Sample]) -> Result<(), MalformedMp4> {
        for sample in samples {
            let composition = i32::try_from(sample.composition_ticks)
                .map_err(|_| MalformedMp4(format!("composition offset {}", sample.composition_ticks)))?;
            push_run(&mut self.durations, sample.duration_ticks);
            push_run(&mut self.compositions, composition);
            self.sizes_bytes.push(sample.size_bytes);
            if sample.is_sync {
                self.sync_samples.push(u32::try_from(self.sizes_bytes.len()).unwrap_or(u32::MAX));
            }
            self.duration_ticks = self.duration_ticks.saturating_add(u64::from(sample.duration_ticks));
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// The tables in the order in which they are written; `chunk_offsets` are places in the file.
    pub(super) fn write_tables(&self, chunk_offsets: &[u64], is_wide: bool) -> Vec<u8> {
        [
            self.write_durations(),
            self.write_compositions(),
            self.write_sync_samples(),
            self.write_chunk_lengths(),
            self.write_sizes(),
            write_chunk_offsets(chunk_offsets, is_wide),
        ]
        .concat()
    }

    /// 8.6.1.2.
    fn write_durations(&self) -> Vec<u8> {
        let entries = write_words(self.durations.iter().flat_map(|run| [run.count, run.value]));
        write_full_box(*b"stts", 0, 0, &[&count_of(&self.durations), &entries])
    }

    /// 8.6.1.3: nothing where each sample is presented when it is decoded. Version 1 has signs.
    fn write_compositions(&self) -> Vec<u8> {
        if self.compositions.iter().all(|run| run.value == 0) {
            return Vec::new();
        }
        let version = u8::from(self.compositions.iter().any(|run| run.value < 0));
        let entries =
            write_words(self.compositions.iter().flat_map(|run| [run.count, run.value.cast_unsigned()]));
        write_full_box(*b"ctts", version, 0, &[&count_of(&self.compositions), &entries])
    }

    /// 8.6.2: nothing where decoding may begin with every sample.
    fn write_sync_samples(&self) -> Vec<u8> {
        if self.sync_samples.len() == self.sizes_bytes.len() {
            return Vec::new();
        }
        let entries = write_words(self.sync_samples.iter().copied());
        write_full_box(*b"stss", 0, 0, &[&count_of(&self.sync_samples), &entries])
    }

    /// 8.7.4: a chunk is listed where it has another number of samples than the one before.
    fn write_chunk_lengths(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        let mut before = None;
        for (chunk, number) in self.chunks.iter().zip(1_u32..) {
            if before.replace(chunk.sample_count) != Some(chunk.sample_count) {
                entries.push([number, chunk.sample_count, 1]);
            }
        }
        let count = count_of(&entries);
        write_full_box(*b"stsc", 0, 0, &[&count, &write_words(entries.into_iter().flatten())])
    }

    /// 8.7.3.2.
    fn write_sizes(&self) -> Vec<u8> {
        let entries = write_words(self.sizes_bytes.iter().copied());
        write_full_box(*b"stsz", 0, 0, &[&[0; 4], &count_of(&self.sizes_bytes), &entries])
    }
}

/// 8.7.5: places above 4 GiB need twice the room.
fn write_chunk_offsets(offsets: &[u64], is_wide: bool) -> Vec<u8> {
    let count = count_of(offsets);
    if is_wide {
        let entries: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_be_bytes()).collect();
        return write_full_box(*b"co64", 0, 0, &[&count, &entries]);
    }
    let entries = write_words(offsets.iter().map(|offset| u32::try_from(*offset).unwrap_or(u32::MAX)));
    write_full_box(*b"stco", 0, 0, &[&count, &entries])
}

fn count_of<T>(entries: &[T]) -> [u8; 4] {
    u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Co64, Ctts, Decode, Stco, Stsc, Stss, Stsz, Stts};

    use super::*;

    fn sample(duration_ticks: u32, size_bytes: u32, composition_ticks: i64, is_sync: bool) -> Mp4Sample {
        Mp4Sample { duration_ticks, size_bytes, composition_ticks, is_sync }
    }

    fn chunk(samples: &[Mp4Sample]) -> Chunk {
        Chunk {
            start_ticks: 0,
            sample_count: u32::try_from(samples.len()).unwrap(),
            size_bytes: samples.iter().map(|sample| u64::from(sample.size_bytes)).sum(),
            offset_bytes: 0,
        }
    }

    fn table(chunks: &[&[Mp4Sample]]) -> SampleTable {
        let mut table = SampleTable::default();
        for samples in chunks {
            table.push_chunk(chunk(samples), samples).unwrap();
        }
        table
    }

    #[test]
    fn tables_say_what_the_samples_were() {
        let first =
            [sample(512, 100, 1024, true), sample(512, 50, 2560, false), sample(512, 40, 1024, false)];
        let last = [sample(512, 90, 1024, true), sample(256, 30, 1024, false)];
        let table = table(&[&first, &first, &last]);
        assert_eq!((table.sample_count(), table.duration_ticks), (8, 15 * 256));
        let bytes = table.write_tables(&[1_000, 2_000, 3_000], false);
        let mut rest = bytes.as_slice();
        let stts = Stts::decode(&mut rest).unwrap();
        let runs: Vec<_> = stts.entries.iter().map(|e| (e.sample_count, e.sample_delta)).collect();
        assert_eq!(runs, [(7, 512), (1, 256)]);
        let ctts = Ctts::decode(&mut rest).unwrap();
        let runs: Vec<_> = ctts.entries.iter().map(|e| (e.sample_count, e.sample_offset)).collect();
        assert_eq!(runs, [(1, 1024), (1, 2560), (2, 1024), (1, 2560), (3, 1024)]);
        assert_eq!(Stss::decode(&mut rest).unwrap().entries, [1, 4, 7]);
        let stsc = Stsc::decode(&mut rest).unwrap();
        let chunks: Vec<_> = stsc.entries.iter().map(|e| (e.first_chunk, e.samples_per_chunk)).collect();
        assert_eq!(chunks, [(1, 3), (3, 2)]);
        let sizes = Stsz::decode(&mut rest).unwrap();
        assert_eq!(format!("{:?}", sizes.samples), "Different { sizes: [100, 50, 40, 100, 50, 40, 90, 30] }");
        assert_eq!(Stco::decode(&mut rest).unwrap().entries, [1_000, 2_000, 3_000]);
        assert!(rest.is_empty());
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let sound = [sample(1024, 340, 0, true), sample(1024, 341, 0, true)];
        let bytes = table(&[&sound]).write_tables(&[1 << 33], true);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("ctts") && !text.contains("stss") && !text.contains("stco"), "{text}");
        let at = bytes.len() - 24;
        assert_eq!(Co64::decode(&mut &bytes[at..]).unwrap().entries, [1 << 33]);
    }

    #[test]
    fn offsets_before_decoding_have_a_sign_and_none_is_cut() {
        let early = [sample(512, 1, -512, true), sample(512, 1, 0, false)];
        let bytes = table(&[&early]).write_tables(&[0], false);
        let at = bytes.windows(4).position(|kind| kind == b"ctts").unwrap();
        assert_eq!(bytes[at + 4], 1, "version");
        assert_eq!(bytes[at + 16..at + 20], (-512_i32).to_be_bytes());
        let far = [sample(512, 1, 1 << 40, true)];
        assert!(SampleTable::default().push_chunk(chunk(&far), &far).is_err());
    }
}
