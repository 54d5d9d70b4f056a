//! The heads of elements: where each of them ends.

use super::{
    ElementScan, LOST_SYNC_BYTES_MAX, StructureScanner, TRAILING_HEAD_BYTES, first_head_bytes, length_to_u64,
};

impl StructureScanner {
    /// ISO/IEC 14496-12 4.2: 32-bit length and type; 1 means that a 64-bit length follows, 0 the rest of the file.
    pub(super) fn parse_box(&mut self) -> ElementScan {
        let [a, b, c, d, kind @ ..] = self.head.as_slice() else { return ElementScan::Need(8) };
        let (length, kind) =
            (u32::from_be_bytes([*a, *b, *c, *d]), kind.first_chunk::<4>().copied().unwrap_or_default());
        let is_known = KNOWN_BOXES.iter().any(|known| **known == kind);
        if !is_known && !kind.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte == 0xA9) {
            return ElementScan::Nothing;
        }
        let length = match length {
            // ISO/IEC 14496-12, 4.2: length 0 reaches to the end of the file, and 1 says that a 64-bit length follows.
            0 if kind == *b"mdat" || kind == *b"free" || kind == *b"moov" => {
                self.record_box(kind);
                return if self.state.has_index { ElementScan::Rest } else { ElementScan::Cut };
            }
            1 if self.head.len() < 16 => return ElementScan::Need(16),
            1 => self.head.get(8..16).and_then(|long| long.try_into().ok()).map_or(0, u64::from_be_bytes),
            short => u64::from(short),
        };
        let overruns = self.at.saturating_add(length) > self.size_bytes;
        if length < length_to_u64(self.head.len()) || (overruns && !is_known) {
            return ElementScan::Nothing;
        }
        if overruns && kind == *b"moov" {
            return ElementScan::Cut;
        }
        self.record_box(kind);
        ElementScan::Element(length)
    }

    fn record_box(&mut self, kind: [u8; 4]) {
        self.state.has_index |= kind == *b"moov" || kind == *b"moof" || kind == *b"meta";
        self.state.has_data |= kind == *b"mdat";
    }

    /// RFC 8794: an id and a length of one to eight bytes each; a length of all ones is unknown.
    pub(super) fn parse_ebml(&mut self) -> ElementScan {
        let id_bytes = vint_bytes(self.head.first());
        // Before more is asked for: the file may have no more.
        if id_bytes > 4 {
            return ElementScan::Nothing;
        }
        let Some(first) = self.head.get(id_bytes) else { return ElementScan::Need(id_bytes + 1) };
        let length_bytes = vint_bytes(Some(first));
        if length_bytes > 8 {
            return ElementScan::Nothing;
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
            return ElementScan::Nothing;
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
            None => ElementScan::Corrupt,
        }
    }

    /// RIFF: a form of 8 bytes and its little-endian length; large AVI files have several, RF64 a 64-bit length.
    pub(super) fn parse_riff(&mut self) -> ElementScan {
        let Some(kind) = self.head.first_chunk::<4>().copied() else { return ElementScan::Need(12) };
        let length = self.head.get(4..8).and_then(|l| l.try_into().ok()).map_or(0, u32::from_le_bytes);
        let is_first = self.at == 0;
        let is_next_avi = &kind == b"RIFF" && self.head.get(8..12) == Some(b"AVIX");
        if !is_first && !is_next_avi {
            return ElementScan::Nothing;
        }
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

    pub(super) fn parse_ts_packet(&mut self, prefix_bytes: u64) -> ElementScan {
        let lost = &mut self.state.lost;
        if self.head.last() == Some(&0x47) {
            // One may be chance: what lies behind the stream may hold the byte.
            if lost.is_one_packet_found {
                (lost.run_start, lost.is_one_packet_found) = (None, false);
                lost.run_head.clear();
            }
            lost.is_one_packet_found = lost.run_start.is_some();
            return ElementScan::Element(prefix_bytes + 188);
        }
        lost.is_one_packet_found = false;
        lost.run_start.get_or_insert(self.at);
        lost.bytes += 1;
        if lost.bytes > LOST_SYNC_BYTES_MAX {
            return ElementScan::Nothing;
        }
        // With a prefix the next candidate overlaps this head: its first byte is dropped, the rest looked at again.
        self.at += 1;
        let dropped = self.head.remove(0);
        if lost.run_head.len() < TRAILING_HEAD_BYTES {
            lost.run_head.push(dropped);
        }
        ElementScan::Need(first_head_bytes(self.format))
    }

    /// RFC 3533: 27 bytes, a table of segment lengths, the segments.
    pub(super) fn parse_ogg_page(&mut self) -> ElementScan {
        if !self.head.starts_with(b"OggS") {
            return ElementScan::Nothing;
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
    pub(super) fn parse_png_chunk(&mut self) -> ElementScan {
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
    pub(super) fn parse_adts_frame(&mut self) -> ElementScan {
        // An ID3v1 tag has 128 bytes and ends the file.
        if self.head.starts_with(b"TAG") {
            return ElementScan::End(128);
        }
        let [0xFF, second, _, a, b, c, _] = self.head.as_slice() else {
            return ElementScan::Nothing;
        };
        let length = (u64::from(a & 3) << 11) | (u64::from(*b) << 3) | u64::from(c >> 5);
        if second & 0xF6 == 0xF0 && length >= 7 {
            return ElementScan::Element(length);
        }
        ElementScan::Nothing
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
/// Length in bytes of a variable-size integer, by its first byte; 9 for none.
fn vint_bytes(first: Option<&u8>) -> usize {
    first.map_or(1, |byte| usize::try_from(byte.leading_zeros() + 1).unwrap_or(9))
}
