//! Recognises the outer structure of a media file by its beginning.

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
