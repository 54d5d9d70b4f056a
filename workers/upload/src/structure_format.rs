//! Recognises the outer structure of a media file by its beginning, and where it begins.
//!
//! Limits: [`LEADING_BYTES_MAX`] bytes before the first element, [`LEADING_PACKETS_MAX`] packets before the first whole one.

/// Most bytes before the first element: the padding of an MP3, the run-in of an MXF (SMPTE ST 377-1, 6.5: less than 64 KiB).
pub const LEADING_BYTES_MAX: usize = 64 * 1024;

/// Packets of a transport stream within which the first whole one begins.
pub const LEADING_PACKETS_MAX: usize = 4;

/// Whole packets in a row by which a transport stream is recognised that begins inside one.
const SYNC_PACKETS_MIN: usize = 5;

/// Bytes that a format is recognised by once its beginning is found.
const SIGNATURE_BYTES: usize = 4 * 1024;

/// Bytes at the beginning of a file that it is recognised by, or all of a smaller one.
pub const FIRST_BYTES: usize = LEADING_BYTES_MAX + SIGNATURE_BYTES;

/// Key of the header partition pack of an MXF file (SMPTE ST 377-1, 7.1), up to its status.
const MXF_HEADER_KEY: [u8; 14] = [6, 0x0E, 0x2B, 0x34, 2, 5, 1, 1, 0x0D, 1, 2, 1, 1, 2];

/// GUID of the header object of an ASF file (ASF specification, 10.1).
const ASF_HEADER: [u8; 16] =
    [0x30, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, 0xA6, 0xD9, 0, 0xAA, 0, 0x62, 0xCE, 0x6C];

/// How the outer structure is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StructureFormat {
    /// ISO base media and QuickTime: boxes.
    Boxes,
    /// Matroska and WebM: EBML elements.
    Ebml,
    /// AVI and WAVE: RIFF forms.
    Riff,
    /// WebP: one RIFF form, which holds one picture.
    WebP,
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
    /// FLV: tags.
    Flv,
    /// AIFF and AIFF-C: one form.
    Iff,
    /// CAF: chunks.
    Caf,
    /// WMV and WMA: objects.
    Asf,
    /// MXF: keys, lengths and values.
    Klv,
    /// Frames that only a decoder can follow: MP3, FLAC, JPEG, GIF, MPEG program streams.
    Opaque,
}

/// A format, and the bytes before its first element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectedStructure {
    /// How the structure is made.
    pub format: StructureFormat,
    /// Bytes before the first element; 0 in most files.
    pub leading_bytes: usize,
}

impl DetectedStructure {
    /// Recognises a format by the first [`FIRST_BYTES`] of a file; names and claimed types play no part.
    pub fn detect(first: &[u8]) -> Option<Self> {
        if is_animated_webp(first) {
            return None;
        }
        let at_start = StructureFormat::detect(first).map(|format| Self { format, leading_bytes: 0 });
        at_start
            .or_else(|| find_first_packet(first))
            .or_else(|| find_padded_mp3(first))
            .or_else(|| find_mxf_header(first))
    }

    /// Whether the bytes before the first element are none that the format provides for.
    pub fn has_stray_start(&self) -> bool {
        self.leading_bytes > 0 && self.format != StructureFormat::Klv
    }
}

/// The first whole packet of a transport stream that begins inside one, as a capture does.
fn find_first_packet(first: &[u8]) -> Option<DetectedStructure> {
    [0_u8, 4].into_iter().find_map(|prefix_bytes| {
        let (prefix, step) = (usize::from(prefix_bytes), 188 + usize::from(prefix_bytes));
        let is_sync = |at: usize| first.get(at) == Some(&0x47);
        let starts_here =
            |start: &usize| (0..SYNC_PACKETS_MIN).all(|packet| is_sync(start + prefix + packet * step));
        let leading_bytes = (0..LEADING_PACKETS_MAX * step).find(starts_here)?;
        Some(DetectedStructure { format: StructureFormat::Transport { prefix_bytes }, leading_bytes })
    })
}

/// An MP3 behind zeros, as recorders leave them where a tag was.
fn find_padded_mp3(first: &[u8]) -> Option<DetectedStructure> {
    let leading_bytes = first.iter().position(|byte| *byte != 0)?;
    let rest = first.get(leading_bytes..).filter(|_| leading_bytes <= LEADING_BYTES_MAX)?;
    let is_mp3 = rest.starts_with(b"ID3") || is_mp3(rest);
    is_mp3.then_some(DetectedStructure { format: StructureFormat::Opaque, leading_bytes })
}

/// The header of an MXF file behind its run-in.
fn find_mxf_header(first: &[u8]) -> Option<DetectedStructure> {
    let leading_bytes = first.windows(MXF_HEADER_KEY.len()).position(|window| window == MXF_HEADER_KEY)?;
    let is_near = leading_bytes < LEADING_BYTES_MAX;
    is_near.then_some(DetectedStructure { format: StructureFormat::Klv, leading_bytes })
}

/// Whether a file is a WebP with frames: the library's reader knows only the first picture of a file that has no frames.
pub fn is_animated_webp(first: &[u8]) -> bool {
    // RFC 9649, 2.7: the flags of the first chunk, of which the second lowest bit says animation.
    first.starts_with(b"RIFF")
        && first.get(8..16) == Some(b"WEBPVP8X")
        && first.get(20).is_some_and(|flags| flags & 2 != 0)
}

impl StructureFormat {
    /// Recognises a format that begins at the first byte.
    fn detect(first: &[u8]) -> Option<Self> {
        let at = |offset: usize, wanted: &[u8]| first.get(offset..offset + wanted.len()) == Some(wanted);
        let is_box = first.get(4..8).is_some_and(|kind| FIRST_BOXES.iter().any(|known| *known == kind));
        if is_box {
            return Some(Self::Boxes);
        }
        if at(0, &[0x1A, 0x45, 0xDF, 0xA3]) {
            return Some(Self::Ebml);
        }
        if at(0, b"RIFF") && at(8, b"WEBP") {
            return Some(Self::WebP);
        }
        let riff = at(0, b"RIFF") || at(0, b"RF64");
        if riff && (at(8, b"AVI ") || at(8, b"WAVE")) {
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
        if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| at(0, signature)) {
            return Some(*format);
        }
        if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) {
            return Some(Self::Iff);
        }
        if is_adts(first) {
            return Some(Self::Adts);
        }
        is_mp3(first).then_some(Self::Opaque)
    }
}

/// Formats that their first bytes are enough for.
const SIGNATURES: [(&[u8], StructureFormat); 12] = [
    (b"OggS", StructureFormat::Ogg),
    (b"\x89PNG\r\n\x1A\n", StructureFormat::Png),
    (b"FLV\x01", StructureFormat::Flv),
    (b"caff\0\x01", StructureFormat::Caf),
    (&ASF_HEADER, StructureFormat::Asf),
    (&MXF_HEADER_KEY, StructureFormat::Klv),
    // ISO/IEC 13818-1, 2.5.3.3: the head of a pack.
    (&[0, 0, 1, 0xBA], StructureFormat::Opaque),
    (b"ID3", StructureFormat::Opaque),
    (b"fLaC", StructureFormat::Opaque),
    (&[0xFF, 0xD8, 0xFF], StructureFormat::Opaque),
    (b"GIF87a", StructureFormat::Opaque),
    (b"GIF89a", StructureFormat::Opaque),
];

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
