//! One file out of the segments of an encode (ISO/IEC 14496-12): `ftyp`, `moov` with full sample tables, and one `mdat` whose bytes lie
//! in the segments. Only what stands before those bytes is made; the samples are the same ones, so nothing is encoded again.
//!
//! What a track is (sample descriptions with their colours, matrix, size) is taken over byte by byte from its init segment. Segments
//! follow each other in the order of time, so a player that reads from the front has sound with its pictures.
//!
//! Limits: the caller counts samples ([`ProgressiveTrack::sample_count`]); the head has at most about 16 bytes of each.

use super::{
    atoms::{find_child, find_whole_child, time_version, write_box, write_full_box, write_time, write_words},
    fragment::{InitSegment, MalformedMp4, Mp4TrackKind, read_init_segment, read_samples},
    sample_table::{Chunk, SampleTable},
};
use crate::language;

/// Reserved fields, layer, volume, matrix, width and height: what of `tkhd` stands behind its times (8.3.2).
const TRACK_SHAPE_BYTES: usize = 60;

/// The matrix of a movie that is shown as its tracks are (8.2.2).
const UNITY_MATRIX: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];

/// Brands of the file: none needs more than the boxes that are written here (annex E).
const BRANDS: [&[u8; 4]; 5] = [b"isom", b"iso2", b"iso4", b"mp41", b"mp42"];

/// A track as its segments say, one after the other.
#[derive(Debug, Clone)]
pub struct ProgressiveTrack {
    init: InitSegment,
    language: String,
    shape: Vec<u8>,
    handler: Vec<u8>,
    /// `vmhd` or `smhd`, and `dinf`.
    media_header: Vec<u8>,
    data_information: Vec<u8>,
    sample_description: Vec<u8>,
    samples: SampleTable,
}

/// A run of bytes of a segment that is part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaPiece {
    /// Index of the track.
    pub track: usize,
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Where it begins in the segment, in bytes.
    pub offset_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
}

/// A file whose head is in memory and whose media are pieces of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressiveMp4 {
    /// All that stands before the media.
    pub head: Vec<u8>,
    /// The media in order.
    pub pieces: Vec<MediaPiece>,
}

impl ProgressiveTrack {
    /// A track without samples yet, from its init segment; `language` is a tag of RFC 5646.
    pub fn new(init_segment: &[u8], language: &str) -> Result<Self, MalformedMp4> {
        let init = read_init_segment(init_segment)?;
        let track = find_child(find_child(init_segment, *b"moov")?, *b"trak")?;
        let media = find_child(track, *b"mdia")?;
        let information = find_child(media, *b"minf")?;
        let header = find_child(track, *b"tkhd")?;
        let shape = header.len().checked_sub(TRACK_SHAPE_BYTES).and_then(|at| header.get(at..));
        let media_header = match init.kind {
            Mp4TrackKind::Video { .. } => *b"vmhd",
            Mp4TrackKind::Audio { .. } => *b"smhd",
        };
        Ok(Self {
            language: language.to_owned(),
            shape: shape.ok_or_else(|| MalformedMp4("tkhd is cut off".into()))?.to_vec(),
            handler: find_whole_child(media, *b"hdlr")?.to_vec(),
            media_header: find_whole_child(information, media_header)?.to_vec(),
            data_information: find_whole_child(information, *b"dinf")?.to_vec(),
            sample_description: find_whole_child(find_child(information, *b"stbl")?, *b"stsd")?.to_vec(),
            samples: SampleTable::default(),
            init,
        })
    }

    /// Adds the next segment; `head` is its beginning up to its samples, or more.
    pub fn push_segment(&mut self, head: &[u8]) -> Result<(), MalformedMp4> {
        let (fragment, samples) = read_samples(&self.init, head)?;
        if fragment.start_ticks != self.samples.duration_ticks {
            return Err(MalformedMp4(format!(
                "a segment begins at {}, the one before ends at {}",
                fragment.start_ticks, self.samples.duration_ticks
            )));
        }
        let offset_bytes = u64::try_from(fragment.first_sample_offset).unwrap_or(u64::MAX);
        let chunk = Chunk {
            start_ticks: fragment.start_ticks,
            sample_count: u32::try_from(fragment.sample_count).unwrap_or(u32::MAX),
            size_bytes: fragment.size_bytes.saturating_sub(offset_bytes),
            offset_bytes,
        };
        self.samples.push_chunk(chunk, &samples)
    }

    /// Samples so far.
    pub const fn sample_count(&self) -> usize {
        self.samples.sample_count()
    }

    /// Has each chunk take so many bytes more, as if its segment were that large.
    #[cfg(test)]
    pub(super) fn enlarge_chunks(&mut self, by_bytes: u64) {
        self.samples.chunks.iter_mut().for_each(|chunk| chunk.size_bytes += by_bytes);
    }

    fn is_video(&self) -> bool {
        matches!(self.init.kind, Mp4TrackKind::Video { .. })
    }

    /// The duration in ticks of another clock, rounded up: a picture that is cut short is one that players leave out.
    fn duration_in(&self, timescale: u32) -> u64 {
        let scaled = u128::from(self.samples.duration_ticks) * u128::from(timescale);
        u64::try_from(scaled.div_ceil(u128::from(self.init.timescale.max(1)))).unwrap_or(u64::MAX)
    }

    fn write_track(&self, number: u32, timescale: u32, chunk_offsets: &[u64], is_wide: bool) -> Vec<u8> {
        let duration = self.duration_in(timescale);
        let version = time_version(duration);
        let (zero, time) = (write_time(version, 0), write_time(version, duration));
        let number = write_words([number, 0]);
        // Enabled, and part of what is shown (8.3.2).
        let header = write_full_box(*b"tkhd", version, 3, &[&zero, &zero, &number, &time, &self.shape]);
        let table = [self.sample_description.clone(), self.samples.write_tables(chunk_offsets, is_wide)];
        let table = write_box(*b"stbl", &[&table[0], &table[1]]);
        let information = write_box(*b"minf", &[&self.media_header, &self.data_information, &table]);
        let media =
            [self.write_media_header(), self.write_extended_language(), self.handler.clone()].concat();
        let media = write_box(*b"mdia", &[&media, &information]);
        write_box(*b"trak", &[&header, &self.write_edits(duration), &media])
    }

    /// What the init segment says of where presentation begins, now with an end (8.6.6).
    fn write_edits(&self, duration: u64) -> Vec<u8> {
        let start = self.init.edit_start_ticks;
        if start == 0 {
            return Vec::new();
        }
        let version = time_version(duration.max(start));
        let entry = [write_time(version, duration), write_time(version, start), write_words([0x0001_0000])];
        let list = write_full_box(*b"elst", version, 0, &[&write_words([1]), &entry.concat()]);
        write_box(*b"edts", &[&list])
    }

    fn write_media_header(&self) -> Vec<u8> {
        let duration = self.samples.duration_ticks;
        let version = time_version(duration);
        let (zero, time) = (write_time(version, 0), write_time(version, duration));
        let timescale = write_words([self.init.timescale]);
        let language = language::to_packed_code(&self.language).to_be_bytes();
        write_full_box(*b"mdhd", version, 0, &[&zero, &zero, &timescale, &time, &language, &[0; 2]])
    }

    /// The tag as it is, where three letters do not say all of it (8.4.6).
    fn write_extended_language(&self) -> Vec<u8> {
        if !self.language.contains('-') {
            return Vec::new();
        }
        write_full_box(*b"elng", 0, 0, &[self.language.as_bytes(), &[0]])
    }
}

impl ProgressiveMp4 {
    /// The file of these tracks. The same tracks give the same bytes.
    pub fn new(tracks: &[ProgressiveTrack]) -> Self {
        let pieces = order_pieces(tracks);
        let media_bytes: u64 = pieces.iter().map(|piece| piece.size_bytes).sum();
        // How long the head is does not depend on where it says that something lies.
        let narrow = write_head(tracks, &pieces, media_bytes, 0, false);
        let narrow_bytes = length_to_u64(narrow.len());
        let is_wide = narrow_bytes.saturating_add(media_bytes) > u64::from(u32::MAX);
        let head_bytes = if is_wide {
            length_to_u64(write_head(tracks, &pieces, media_bytes, 0, true).len())
        } else {
            narrow_bytes
        };
        Self { head: write_head(tracks, &pieces, media_bytes, head_bytes, is_wide), pieces }
    }
}

/// The segments of all tracks by the time at which they begin; of two that begin together, that of the first track.
fn order_pieces(tracks: &[ProgressiveTrack]) -> Vec<MediaPiece> {
    let mut next = vec![0_usize; tracks.len()];
    let mut pieces = Vec::with_capacity(tracks.iter().map(|track| track.samples.chunks.len()).sum());
    loop {
        let waiting = tracks.iter().zip(&next).enumerate().filter_map(|(index, (track, at))| {
            let chunk = track.samples.chunks.get(*at)?;
            Some((index, *at, *chunk, track.init.timescale.max(1)))
        });
        // a / b before c / d, without dividing.
        let first = waiting.reduce(|one, other| {
            let one_starts = u128::from(one.2.start_ticks) * u128::from(other.3);
            let other_starts = u128::from(other.2.start_ticks) * u128::from(one.3);
            if other_starts < one_starts { other } else { one }
        });
        let Some((track, at, chunk, _)) = first else { return pieces };
        if let Some(at) = next.get_mut(track) {
            *at += 1;
        }
        pieces.push(MediaPiece {
            track,
            segment: u32::try_from(at + 1).unwrap_or(u32::MAX),
            offset_bytes: chunk.offset_bytes,
            size_bytes: chunk.size_bytes,
        });
    }
}

/// All that stands before the media, which begin at `media_at` of the file.
fn write_head(
    tracks: &[ProgressiveTrack],
    pieces: &[MediaPiece],
    media_bytes: u64,
    media_at: u64,
    is_wide: bool,
) -> Vec<u8> {
    let mut offsets = vec![Vec::new(); tracks.len()];
    let mut at = media_at;
    for piece in pieces {
        if let Some(offsets) = offsets.get_mut(piece.track) {
            offsets.push(at);
        }
        at = at.saturating_add(piece.size_bytes);
    }
    let has_video = tracks.iter().any(ProgressiveTrack::is_video);
    let brands = BRANDS.map(<[u8; 4]>::as_slice).concat();
    let video_brand: &[u8] = if has_video { b"avc1" } else { b"" };
    // Which version of its major brand a file has says nothing (4.3); 512 is what most writers give.
    let file_type = write_box(*b"ftyp", &[b"isom", &write_words([512]), &brands, video_brand]);
    let timescale = tracks.first().map_or(1, |track| track.init.timescale.max(1));
    let longest = tracks.iter().map(|track| track.duration_in(timescale)).max().unwrap_or(0);
    let mut movie = write_movie_header(timescale, longest, tracks.len());
    for ((track, offsets), number) in tracks.iter().zip(&offsets).zip(1_u32..) {
        movie.extend(track.write_track(number, timescale, offsets, is_wide));
    }
    [file_type, write_box(*b"moov", &[&movie]), write_media_head(media_bytes, is_wide)].concat()
}

fn write_movie_header(timescale: u32, duration: u64, track_count: usize) -> Vec<u8> {
    let version = time_version(duration);
    let (zero, time) = (write_time(version, 0), write_time(version, duration));
    let next_track = u32::try_from(track_count).unwrap_or(u32::MAX - 1) + 1;
    // At normal speed and full volume, with reserved fields (8.2.2).
    let rate = [write_words([0x0001_0000]), vec![1, 0], vec![0; 10]].concat();
    let end = [write_words(UNITY_MATRIX), vec![0; 24], write_words([next_track])].concat();
    write_full_box(*b"mvhd", version, 0, &[&zero, &zero, &write_words([timescale]), &time, &rate, &end])
}

/// The head of `mdat`; a length above 4 GiB stands behind the kind (4.2.2).
fn write_media_head(media_bytes: u64, is_wide: bool) -> Vec<u8> {
    let short = u32::try_from(media_bytes.saturating_add(8)).ok().filter(|_| !is_wide);
    match short {
        Some(length) => [&length.to_be_bytes()[..], b"mdat"].concat(),
        None => [&1_u32.to_be_bytes()[..], b"mdat", &media_bytes.saturating_add(16).to_be_bytes()].concat(),
    }
}

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
