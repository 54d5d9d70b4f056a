//! Walks the outer structure of a media file and demands that it covers the file to the last byte.
//!
//! A file that ends before its structure is `truncated`; one with bytes behind it has `trailing_data`, as a film has that is
//! an archive as well. What an element holds is not looked at: that is for the sandboxed child.
//!
//! Limits: [`ELEMENTS_MAX`] elements a file (MPEG-TS packets and audio frames count by their bytes instead).

use crate::UploadRejection;

/// Most boxes, elements, chunks or pages of one file.
pub const ELEMENTS_MAX: u64 = 10_000_000;

/// Bytes of an MPEG transport stream that may lie between packets, as captures from the air have them.
const LOST_SYNC_BYTES_MAX: u64 = 64 * 1024;

/// How the outer structure is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StructureFormat {
    /// ISO base media and QuickTime: boxes.
    Boxes,
    /// Matroska and WebM: EBML elements.
    Ebml,
    /// AVI, WAVE and WebP: RIFF chunks.
    Riff,
    /// MPEG transport stream; packets of 188 bytes behind a prefix of `prefix_bytes`.
    Transport {
        /// 0, or 4 for a time stamp before each packet.
        prefix_bytes: u8,
    },
    /// Ogg: pages.
    Ogg,
    /// PNG: chunks.
    Png,
    /// AAC in ADTS frames.
    Adts,
    /// Frames that only a decoder can follow: MP3, FLAC, JPEG, GIF.
    Opaque,
}

impl StructureFormat {
    /// Recognises a format by the beginning of a file; names and claimed types play no part.
    pub fn detect(first: &[u8]) -> Option<Self> {
        let at = |offset: usize, wanted: &[u8]| first.get(offset..offset + wanted.len()) == Some(wanted);
        let is_box = first.get(4..8).is_some_and(|kind| FIRST_BOXES.iter().any(|known| *known == kind));
        if is_box {
            return Some(Self::Boxes);
        }
        if at(0, &[0x1A, 0x45, 0xDF, 0xA3]) {
            return Some(Self::Ebml);
        }
        let riff = at(0, b"RIFF") || at(0, b"RF64");
        if riff && [b"AVI ", b"WAVE", b"WEBP"].iter().any(|form| at(8, *form)) {
            return Some(Self::Riff);
        }
        for prefix_bytes in [0_u8, 4] {
            let step = 188 + usize::from(prefix_bytes);
            let is_sync =
                |n: usize| first.get(usize::from(prefix_bytes) + n * step).is_none_or(|b| *b == 0x47);
            // One 0x47 is a letter: several at the distance of packets are a transport stream.
            if first.len() > step && (0..5).all(is_sync) {
                return Some(Self::Transport { prefix_bytes });
            }
        }
        if at(0, b"OggS") {
            return Some(Self::Ogg);
        }
        if at(0, b"\x89PNG\r\n\x1A\n") {
            return Some(Self::Png);
        }
        if is_adts(first) {
            return Some(Self::Adts);
        }
        let opaque = at(0, b"ID3")
            || at(0, b"fLaC")
            || at(0, &[0xFF, 0xD8, 0xFF])
            || at(0, b"GIF87a")
            || at(0, b"GIF89a")
            || is_mp3(first);
        opaque.then_some(Self::Opaque)
    }
}

/// Boxes that a file may begin with.
const FIRST_BOXES: [&[u8; 4]; 9] =
    [b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot"];

fn is_adts(head: &[u8]) -> bool {
    matches!(head, [0xFF, second, ..] if second & 0xF6 == 0xF0)
}

/// MPEG audio layer II or III with a bit rate and a sample rate that exist.
fn is_mp3(head: &[u8]) -> bool {
    let [0xFF, second, third, ..] = head else { return false };
    let layer = (second >> 1) & 3;
    second & 0xE0 == 0xE0
        && (second >> 3) & 3 != 1
        && (layer == 1 || layer == 2)
        && third >> 4 != 0
        && third >> 4 != 15
        && (third >> 2) & 3 != 3
}

/// What the bytes at an element's start say.
enum ElementScan {
    /// This many bytes of it are needed.
    Need(usize),
    /// It has this many bytes, its head included.
    Element(u64),
    /// Everything to the end of the file belongs to it.
    Rest,
    /// The structure is complete: nothing may follow.
    End(u64),
    /// It is none.
    Reject(UploadRejection),
}

/// A walk over one file, fed in pieces of any size.
#[derive(Debug)]
pub struct StructureScanner {
    format: StructureFormat,
    size_bytes: u64,
    /// Start of the current element.
    at: u64,
    head: Vec<u8>,
    need: usize,
    /// Bytes of the current element still to pass over.
    skip: u64,
    elements: u64,
    /// Bytes of a transport stream that belong to no packet, and how many of them came last.
    lost_bytes: u64,
    lost_run_bytes: u64,
    mode: StructureScanMode,
    state: StructureScanState,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StructureScanMode {
    /// Another element.
    Walking,
    /// Nothing.
    Ended,
    /// Anything.
    Rest,
}

#[derive(Debug, Default)]
struct StructureScanState {
    has_index: bool,
    has_data: bool,
    /// Inside an EBML segment of unknown length.
    inside_segment: bool,
}

impl StructureScanner {
    /// Walks a file of `size_bytes`.
    pub fn new(format: StructureFormat, size_bytes: u64) -> Self {
        let need = first_head_bytes(format);
        Self {
            format,
            size_bytes,
            at: 0,
            head: Vec::new(),
            need,
            skip: 0,
            elements: 0,
            lost_bytes: 0,
            lost_run_bytes: 0,
            mode: if format == StructureFormat::Opaque {
                StructureScanMode::Rest
            } else {
                StructureScanMode::Walking
            },
            state: StructureScanState::default(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), UploadRejection> {
        while !bytes.is_empty() && self.mode != StructureScanMode::Rest {
            if self.skip > 0 {
                let n = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= length_to_u64(n);
                bytes = bytes.split_at(n).1;
                continue;
            }
            if self.mode == StructureScanMode::Ended {
                return Err(self.trailing_rejection());
            }
            let n = self.need.saturating_sub(self.head.len()).min(bytes.len());
            let (more, rest) = bytes.split_at(n);
            self.head.extend_from_slice(more);
            bytes = rest;
            if self.head.len() >= self.need {
                self.scan_element()?;
            }
        }
        Ok(())
    }

    /// The verdict after the last byte.
    pub fn finish(self) -> Result<(), UploadRejection> {
        if self.mode == StructureScanMode::Rest {
            return Ok(());
        }
        let is_padding = self.head.len() < 8 && self.head.iter().all(|byte| *byte == 0);
        match self.format {
            // Samples without a `moov` can't be read: writers put it at the end, so it is what a cut file lacks.
            StructureFormat::Boxes if self.state.has_data && !self.state.has_index => {
                Err(self.truncated_rejection())
            }
            // QuickTime ends a list of boxes with a zero length.
            StructureFormat::Boxes if is_padding && self.state.has_index => Ok(()),
            StructureFormat::Transport { .. } if self.lost_run_bytes > 0 => Err(self.trailing_rejection()),
            // Captures end anywhere inside a packet.
            StructureFormat::Transport { .. } => Ok(()),
            StructureFormat::Png if self.mode != StructureScanMode::Ended => Err(self.truncated_rejection()),
            _ if self.head.is_empty() => Ok(()),
            StructureFormat::Ogg if !self.head.iter().zip(b"OggS").all(|(a, b)| a == b) => {
                Err(self.trailing_rejection())
            }
            StructureFormat::Adts if self.head.first() != Some(&0xFF) => Err(self.trailing_rejection()),
            _ if self.state.has_index && self.state.has_data => Err(self.trailing_rejection()),
            _ => Err(self.truncated_rejection()),
        }
    }

    fn scan_element(&mut self) -> Result<(), UploadRejection> {
        match self.parse_element_head() {
            ElementScan::Need(n) => self.need = n,
            ElementScan::Reject(rejection) => return Err(rejection),
            ElementScan::Rest => self.mode = StructureScanMode::Rest,
            ElementScan::Element(length) => self.skip_element(length)?,
            ElementScan::End(length) => {
                self.skip_element(length)?;
                self.mode = StructureScanMode::Ended;
            }
        }
        Ok(())
    }

    fn skip_element(&mut self, length: u64) -> Result<(), UploadRejection> {
        self.elements += 1;
        let by_bytes = matches!(self.format, StructureFormat::Transport { .. } | StructureFormat::Adts);
        // Elements without content cost nothing to send and a step each to walk.
        if self.elements > ELEMENTS_MAX && !by_bytes {
            return Err(UploadRejection::corrupt("the structure has too many elements"));
        }
        let end = self.at.saturating_add(length);
        // A transport stream may end inside a packet.
        if end > self.size_bytes && !matches!(self.format, StructureFormat::Transport { .. }) {
            return Err(self.truncated_rejection());
        }
        self.skip = length.saturating_sub(length_to_u64(self.head.len()));
        self.at = end;
        self.head.clear();
        self.need = first_head_bytes(self.format);
        Ok(())
    }

    fn parse_element_head(&mut self) -> ElementScan {
        match self.format {
            StructureFormat::Boxes => self.parse_box(),
            StructureFormat::Ebml => self.parse_ebml(),
            StructureFormat::Riff => self.parse_riff(),
            StructureFormat::Transport { prefix_bytes } => self.parse_ts_packet(u64::from(prefix_bytes)),
            StructureFormat::Ogg => self.parse_ogg_page(),
            StructureFormat::Png => self.parse_png_chunk(),
            StructureFormat::Adts => self.parse_adts_frame(),
            StructureFormat::Opaque => ElementScan::Rest,
        }
    }

    /// ISO/IEC 14496-12 4.2: 32-bit length and type; 1 means that a 64-bit length follows, 0 the rest of the file.
    fn parse_box(&mut self) -> ElementScan {
        let [a, b, c, d, kind @ ..] = self.head.as_slice() else { return ElementScan::Need(8) };
        let (length, kind) =
            (u32::from_be_bytes([*a, *b, *c, *d]), kind.first_chunk::<4>().copied().unwrap_or_default());
        let is_known = KNOWN_BOXES.iter().any(|known| **known == kind);
        if !is_known && !kind.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte == 0xA9) {
            return ElementScan::Reject(if self.state.has_index {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        }
        let length = match length {
            // ISO/IEC 14496-12, 4.2: length 0 reaches to the end of the file, and 1 says that a 64-bit length follows.
            0 if kind == *b"mdat" || kind == *b"free" || kind == *b"moov" => {
                self.record_box(kind);
                return if self.state.has_index {
                    ElementScan::Rest
                } else {
                    ElementScan::Reject(self.truncated_rejection())
                };
            }
            1 if self.head.len() < 16 => return ElementScan::Need(16),
            1 => self.head.get(8..16).and_then(|long| long.try_into().ok()).map_or(0, u64::from_be_bytes),
            short => u64::from(short),
        };
        let overruns = self.at.saturating_add(length) > self.size_bytes;
        if length < length_to_u64(self.head.len()) || (overruns && !is_known) {
            return ElementScan::Reject(if self.state.has_index {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        }
        self.record_box(kind);
        ElementScan::Element(length)
    }

    fn record_box(&mut self, kind: [u8; 4]) {
        self.state.has_index |= kind == *b"moov" || kind == *b"moof" || kind == *b"meta";
        self.state.has_data |= kind == *b"mdat";
    }

    /// RFC 8794: an id and a length of one to eight bytes each; a length of all ones is unknown.
    fn parse_ebml(&mut self) -> ElementScan {
        let id_bytes = vint_bytes(self.head.first());
        let Some(first) = self.head.get(id_bytes) else { return ElementScan::Need(id_bytes + 1) };
        let length_bytes = vint_bytes(Some(first));
        if id_bytes > 4 || length_bytes > 8 {
            return ElementScan::Reject(if self.state.has_index {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        }
        let Some(length) = self.head.get(id_bytes..id_bytes + length_bytes) else {
            return ElementScan::Need(id_bytes + length_bytes);
        };
        let id = self.head.iter().take(id_bytes).fold(0_u64, |id, byte| (id << 8) | u64::from(*byte));
        let bits = 7 * length_bytes;
        let value =
            length.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte)) & ((1 << bits) - 1);
        // RFC 8794, 6.2: all bits of the value set mean that the length is not known.
        let is_unknown = value == (1 << bits) - 1;
        self.parse_ebml_element(id, length_to_u64(id_bytes + length_bytes), (!is_unknown).then_some(value))
    }

    fn parse_ebml_element(&mut self, id: u64, head_bytes: u64, length: Option<u64>) -> ElementScan {
        let is_top = id == EBML_HEADER || id == EBML_SEGMENT || EBML_ANYWHERE.contains(&id);
        let is_inner =
            self.state.inside_segment && (EBML_LEVEL_1.contains(&id) || EBML_CLUSTER.contains(&id));
        if !is_top && !is_inner {
            return ElementScan::Reject(if self.state.has_index {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        }
        if id == EBML_SEGMENT {
            self.state.has_index = true;
            self.state.has_data = true;
            self.state.inside_segment = length.is_none();
        }
        match length {
            Some(length) => ElementScan::Element(head_bytes.saturating_add(length)),
            // Live recordings leave the length of the segment and of clusters open: their elements follow.
            None if id == EBML_SEGMENT || id == EBML_CLUSTER_ID => ElementScan::Element(head_bytes),
            None => ElementScan::Reject(self.corrupt_rejection()),
        }
    }

    /// RIFF: a form of 8 bytes and its little-endian length; large AVI files have several, RF64 a 64-bit length.
    fn parse_riff(&mut self) -> ElementScan {
        let Some(kind) = self.head.first_chunk::<4>().copied() else { return ElementScan::Need(12) };
        let length = self.head.get(4..8).and_then(|l| l.try_into().ok()).map_or(0, u32::from_le_bytes);
        let is_first = self.at == 0;
        let is_next_avi = &kind == b"RIFF" && self.head.get(8..12) == Some(b"AVIX");
        if !is_first && !is_next_avi {
            return ElementScan::Reject(self.trailing_rejection());
        }
        (self.state.has_index, self.state.has_data) = (true, true);
        // EBU Tech 3306: the 32-bit length says nothing, the real one is in the chunk `ds64` that comes first.
        if &kind == b"RF64" {
            return match self.head.get(20..28).and_then(|l| l.try_into().ok()).map(u64::from_le_bytes) {
                None => ElementScan::Need(28),
                Some(length) => ElementScan::Element(length.saturating_add(8)),
            };
        }
        match length {
            // Writers that can't seek leave the length open.
            0 | u32::MAX => ElementScan::Rest,
            length => {
                let end = u64::from(length) + 8;
                // The pad byte of an odd form may be missing at the very end.
                let is_padded = length % 2 == 1 && self.at.saturating_add(end) < self.size_bytes;
                ElementScan::Element(end + u64::from(is_padded))
            }
        }
    }

    fn parse_ts_packet(&mut self, prefix_bytes: u64) -> ElementScan {
        let is_sync = self.head.last() == Some(&0x47);
        if is_sync {
            self.lost_run_bytes = 0;
            return ElementScan::Element(prefix_bytes + 188);
        }
        self.lost_bytes += 1;
        self.lost_run_bytes += 1;
        if self.lost_bytes > LOST_SYNC_BYTES_MAX {
            return ElementScan::Reject(self.trailing_rejection());
        }
        // With a prefix the next candidate overlaps this head: its first byte is dropped, the rest looked at again.
        self.at += 1;
        self.head.remove(0);
        ElementScan::Need(first_head_bytes(self.format))
    }

    /// RFC 3533: 27 bytes, a table of segment lengths, the segments.
    fn parse_ogg_page(&mut self) -> ElementScan {
        if !self.head.starts_with(b"OggS") {
            return ElementScan::Reject(if self.elements > 0 {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        }
        // RFC 3533, 6: a page has no length; its table of segments adds up to it.
        let Some(segments) = self.head.get(26).copied().map(usize::from) else {
            return ElementScan::Need(27);
        };
        let Some(table) = self.head.get(27..27 + segments) else { return ElementScan::Need(27 + segments) };
        ElementScan::Element(
            length_to_u64(27 + segments) + table.iter().map(|length| u64::from(*length)).sum::<u64>(),
        )
    }

    /// PNG 5.3: length, type, data, checksum; `IEND` is the last.
    fn parse_png_chunk(&mut self) -> ElementScan {
        if self.at == 0 {
            return ElementScan::Element(8);
        }
        let Some(length) = self.head.first_chunk::<4>().map(|l| u64::from(u32::from_be_bytes(*l))) else {
            return ElementScan::Need(8);
        };
        if self.head.get(4..8) == Some(b"IEND") {
            ElementScan::End(length + 12)
        } else {
            ElementScan::Element(length + 12)
        }
    }

    /// ISO/IEC 13818-7: a frame names its length; an ID3v1 tag of 128 bytes may end the file.
    fn parse_adts_frame(&mut self) -> ElementScan {
        // An ID3v1 tag has 128 bytes and ends the file.
        if self.head.starts_with(b"TAG") {
            return ElementScan::End(128);
        }
        let [0xFF, second, _, a, b, c, _] = self.head.as_slice() else {
            return ElementScan::Reject(if self.elements > 0 {
                self.trailing_rejection()
            } else {
                self.corrupt_rejection()
            });
        };
        let length = (u64::from(a & 3) << 11) | (u64::from(*b) << 3) | u64::from(c >> 5);
        if second & 0xF6 == 0xF0 && length >= 7 {
            return ElementScan::Element(length);
        }
        ElementScan::Reject(if self.elements > 0 {
            self.trailing_rejection()
        } else {
            self.corrupt_rejection()
        })
    }

    fn truncated_rejection(&self) -> UploadRejection {
        UploadRejection::new("truncated", format!("the file ends inside the element at byte {}", self.at))
    }

    fn trailing_rejection(&self) -> UploadRejection {
        UploadRejection::new(
            "trailing_data",
            format!("what begins at byte {} is no part of the media file", self.at),
        )
    }

    fn corrupt_rejection(&self) -> UploadRejection {
        UploadRejection::corrupt(format!("there is no element at byte {}", self.at))
    }
}

/// Boxes that end a file only when it was cut off inside them.
const KNOWN_BOXES: [&[u8; 4]; 20] = [
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"meta",
    b"sidx", b"ssix", b"mfra", b"emsg", b"prft", b"pdin", b"udta", b"PICT", b"jumb",
];

const EBML_HEADER: u64 = 0x1A45_DFA3;
const EBML_SEGMENT: u64 = 0x1853_8067;
const EBML_CLUSTER_ID: u64 = 0x1F43_B675;
/// Void and checksum.
const EBML_ANYWHERE: [u64; 2] = [0xEC, 0xBF];
/// Seek head, info, tracks, cluster, cues, attachments, chapters, tags.
const EBML_LEVEL_1: [u64; 8] = [
    0x114D_9B74,
    0x1549_A966,
    0x1654_AE6B,
    EBML_CLUSTER_ID,
    0x1C53_BB6B,
    0x1941_A469,
    0x1043_A770,
    0x1254_C367,
];
/// Time stamp, simple block, block group, previous size, position, encrypted block, silent tracks.
const EBML_CLUSTER: [u64; 7] = [0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0x5854];

fn first_head_bytes(format: StructureFormat) -> usize {
    match format {
        StructureFormat::Boxes | StructureFormat::Png => 8,
        StructureFormat::Ebml => 1,
        StructureFormat::Riff => 12,
        StructureFormat::Transport { prefix_bytes } => usize::from(prefix_bytes) + 1,
        StructureFormat::Ogg => 27,
        StructureFormat::Adts => 7,
        StructureFormat::Opaque => 0,
    }
}

/// Length in bytes of a variable-size integer, by its first byte; 9 for none.
fn vint_bytes(first: Option<&u8>) -> usize {
    first.map_or(1, |byte| usize::try_from(byte.leading_zeros() + 1).unwrap_or(9))
}

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
