//! The heads of tags, forms, chunks, objects and triplets: where each of them ends.

use super::{ElementScan, StructureScanner, length_to_u64};

/// What every key of an MXF file begins with (SMPTE ST 336, 6.1).
pub(super) const KLV_KEY: [u8; 4] = [0x06, 0x0E, 0x2B, 0x34];

/// Bytes of the head of an ASF object: a GUID and a 64-bit length.
const ASF_HEAD_BYTES: u64 = 24;

/// GUIDs of the data object and of the objects behind it that index it (ASF specification, 10.1): a file ends inside them only
/// when it was cut off there.
const ASF_KNOWN: [[u8; 16]; 5] = [
    ASF_DATA,
    [0x90, 0x08, 0x00, 0x33, 0xB1, 0xE5, 0xCF, 0x11, 0x89, 0xF4, 0x00, 0xA0, 0xC9, 0x03, 0x49, 0xCB],
    [0xD3, 0x29, 0xE2, 0xD6, 0xDA, 0x35, 0xD1, 0x11, 0x90, 0x34, 0x00, 0xA0, 0xC9, 0x03, 0x49, 0xBE],
    [0xF8, 0x03, 0xB1, 0xFE, 0xAD, 0x12, 0x64, 0x4C, 0x84, 0x0F, 0x2A, 0x1D, 0x2F, 0x7A, 0xD4, 0x8C],
    [0xD0, 0x3F, 0xB7, 0x3C, 0x4A, 0x0C, 0x03, 0x48, 0x95, 0x3D, 0xED, 0xF7, 0xB6, 0x22, 0x8F, 0x0C],
];

/// GUID of the data object.
const ASF_DATA: [u8; 16] =
    [0x36, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, 0xA6, 0xD9, 0x00, 0xAA, 0x00, 0x62, 0xCE, 0x6C];

/// Chunks that end a CAF file only when it was cut off inside them.
const CAF_KNOWN: [&[u8; 4]; 6] = [b"desc", b"data", b"pakt", b"kuki", b"free", b"info"];

/// Whether a byte says that a tag of sound, pictures or data follows (FLV specification 10.1, E.4.1): two reserved bits that are 0,
/// one for encryption, five for the type.
pub(super) fn is_flv_tag(kind: u8) -> bool {
    kind & 0xC0 == 0 && matches!(kind & 0x1F, 8 | 9 | 15 | 18)
}

impl StructureScanner {
    /// FLV 10.1, E.2 to E.4: a header that names its length, then tags, each followed by 32 bits with its length.
    pub(super) fn parse_flv_tag(&mut self) -> ElementScan {
        if self.elements == 0 {
            let Some(offset) = self.read_be(5..9) else { return ElementScan::Need(9) };
            return if offset < 9 { ElementScan::Corrupt } else { ElementScan::Element(offset + 4) };
        }
        if !self.head.first().is_some_and(|kind| is_flv_tag(*kind)) {
            return ElementScan::Nothing;
        }
        let Some(content) = self.read_be(1..4) else { return ElementScan::Need(4) };
        let tag = 11 + content;
        // Writers that were stopped leave out the length behind the last tag.
        let is_last = self.at.saturating_add(tag) == self.size_bytes;
        ElementScan::Element(if is_last { tag } else { tag + 4 })
    }

    /// EA IFF 85: a form of 8 bytes and its big-endian length, with a pad byte when it is odd.
    pub(super) fn parse_iff_form(&mut self) -> ElementScan {
        if self.elements > 0 {
            return ElementScan::Nothing;
        }
        match self.read_be(4..8).unwrap_or(0) {
            // Writers that can't seek leave the length open.
            0 | 0xFFFF_FFFF => ElementScan::Rest,
            length => {
                let end = self.at.saturating_add(length + 8);
                let is_padded = length % 2 == 1 && end < self.size_bytes;
                ElementScan::Element(length + 8 + u64::from(is_padded))
            }
        }
    }

    /// Core Audio Format 1.0: a header of 8 bytes, then chunks with a type and a 64-bit length; -1 is the rest of the file.
    pub(super) fn parse_caf_chunk(&mut self) -> ElementScan {
        if self.elements == 0 {
            // The head of the first chunk was read with it, and is looked at again.
            let first_chunk = self.head.split_off(8);
            self.head = first_chunk;
            self.at = self.at.saturating_add(8);
            self.elements = 1;
            return ElementScan::Need(12);
        }
        let Some(kind) = self.head.first_chunk::<4>() else { return ElementScan::Nothing };
        let is_known = CAF_KNOWN.contains(&kind);
        let is_data = kind == b"data";
        let length = self.read_be(4..12).unwrap_or(0);
        if is_data && length == u64::MAX {
            return ElementScan::Rest;
        }
        let end = length.checked_add(12).and_then(|bytes| self.at.checked_add(bytes));
        let fits = end.is_some_and(|end| end <= self.size_bytes);
        if !kind.iter().all(u8::is_ascii_graphic) || (!fits && !is_known) {
            return ElementScan::Nothing;
        }
        ElementScan::Element(length.saturating_add(12))
    }

    /// ASF specification, 2.1: a GUID and a little-endian length that counts both.
    pub(super) fn parse_asf_object(&mut self) -> ElementScan {
        let (guid, length) = self.head.split_at(16.min(self.head.len()));
        let is_known = self.elements == 0 || ASF_KNOWN.iter().any(|known| known == guid);
        let length = length.iter().take(8).rev().fold(0_u64, |length, byte| (length << 8) | u64::from(*byte));
        // Live recordings leave the length of the data open.
        if guid == ASF_DATA && length < ASF_HEAD_BYTES {
            return ElementScan::Rest;
        }
        let fits = self.at.checked_add(length).is_some_and(|end| end <= self.size_bytes);
        if length < ASF_HEAD_BYTES || (!fits && !is_known) {
            return ElementScan::Nothing;
        }
        ElementScan::Element(length)
    }

    /// SMPTE ST 336, 6: a key of 16 bytes, and a length of one byte or of as many as its first byte says.
    pub(super) fn parse_klv(&mut self) -> ElementScan {
        if !self.head.starts_with(&KLV_KEY) {
            return ElementScan::Nothing;
        }
        let Some(first) = self.head.get(16).copied() else { return ElementScan::Need(17) };
        if first < 0x80 {
            return ElementScan::Element(17 + u64::from(first));
        }
        let length_bytes = usize::from(first & 0x7F);
        if !(1..=8).contains(&length_bytes) {
            return ElementScan::Nothing;
        }
        let Some(length) = self.read_be(17..17 + length_bytes) else {
            return ElementScan::Need(17 + length_bytes);
        };
        ElementScan::Element(length.saturating_add(17 + length_to_u64(length_bytes)))
    }

    /// A big-endian number of the head; none when the head is shorter.
    fn read_be(&self, range: std::ops::Range<usize>) -> Option<u64> {
        let bytes = self.head.get(range)?;
        Some(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}
