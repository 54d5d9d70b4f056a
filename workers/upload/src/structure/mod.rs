//! Walks the outer structure of a media file and says whether it covers the file to the last byte.
//!
//! A file that ends before its structure is cut; one with bytes behind it has trailing bytes. Both are reported where the rest can
//! be played, and refused where it can't: see [`StructureScanner::finish`]. What an element holds is not looked at: that is for the
//! sandboxed child.
//!
//! Limits: [`ELEMENTS_MAX`] elements a file (MPEG-TS packets and audio frames count by their bytes instead), [`TRAILING_BYTES_MAX`]
//! bytes behind the structure or one in [`TRAILING_PART`] of the file.

mod chunks;
mod elements;

use schemas::rejection::RejectionCode;

use crate::{
    UploadRejection,
    structure_format::{DetectedStructure, StructureFormat},
    warnings::with_thousands,
};

/// Most boxes, elements, chunks or pages of one file.
pub const ELEMENTS_MAX: u64 = 10_000_000;

/// Bytes behind the structure that any file may have; a large one may have one in [`TRAILING_PART`].
pub const TRAILING_BYTES_MAX: u64 = 64 * 1024;

/// The part of a file that may lie behind its structure.
pub const TRAILING_PART: u64 = 100;

/// Bytes behind the structure that are kept for recognising a second file; the signature of a TAR archive ends at 262.
const TRAILING_HEAD_BYTES: usize = 4 * 1024;

/// Bytes of an MPEG transport stream that may lie between packets, as captures from the air have them.
const LOST_SYNC_BYTES_MAX: u64 = 64 * 1024;

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
    /// There is no element here: the structure has ended, or was never there.
    Nothing,
    /// The file ends inside an element without which nothing can be read.
    Cut,
    /// It contradicts itself.
    Corrupt,
}

/// How the structure of a file that can be read departs from the file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StructureReport {
    /// Where the bytes behind the structure begin.
    pub trailing_at: Option<u64>,
    /// The first of these bytes.
    pub trailing_head: Vec<u8>,
    /// The element that the file ends in.
    pub cut: Option<CutElement>,
}

/// An element that the file ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutElement {
    /// Where it begins.
    pub start: u64,
    /// Whether files of the format are never ended properly: captures of a transport stream stop anywhere.
    pub is_usual: bool,
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
    mode: StructureScanMode,
    state: StructureScanState,
    report: StructureReport,
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
    /// Bytes behind the structure.
    Trailing,
}

#[derive(Debug, Default)]
struct StructureScanState {
    has_index: bool,
    has_data: bool,
    /// Inside an EBML segment of unknown length.
    inside_segment: bool,
    lost: LostSync,
}

/// Bytes of a transport stream that belong to no packet.
#[derive(Debug, Default)]
struct LostSync {
    bytes: u64,
    /// Where the last run of them begins, until two packets in a row have ended it: a single one may be chance.
    run_start: Option<u64>,
    /// The first bytes of the run.
    run_head: Vec<u8>,
    /// A packet was found behind the run, and none behind that yet.
    is_one_packet_found: bool,
}

impl StructureScanner {
    /// Walks a file of `size_bytes`.
    pub fn new(detected: DetectedStructure, size_bytes: u64) -> Self {
        let DetectedStructure { format, leading_bytes } = detected;
        let is_opaque = format == StructureFormat::Opaque;
        Self {
            format,
            size_bytes,
            at: length_to_u64(leading_bytes),
            head: Vec::new(),
            need: first_head_bytes(format),
            skip: length_to_u64(leading_bytes),
            elements: 0,
            mode: if is_opaque { StructureScanMode::Rest } else { StructureScanMode::Walking },
            state: StructureScanState::default(),
            report: StructureReport::default(),
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
            if self.mode == StructureScanMode::Trailing {
                let room = TRAILING_HEAD_BYTES.saturating_sub(self.report.trailing_head.len());
                self.report.trailing_head.extend(bytes.iter().take(room));
                return Ok(());
            }
            if self.mode == StructureScanMode::Ended {
                self.begin_trailing()?;
                continue;
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

    /// The verdict after the last byte. A file that is cut is refused when nothing of it can be read without what it lacks: one that
    /// has no index before the cut, a picture, or one whose first element is not whole.
    pub fn finish(mut self) -> Result<StructureReport, UploadRejection> {
        if self.mode == StructureScanMode::Walking {
            self.judge_end()?;
        }
        Ok(self.report)
    }

    /// Judges what lies between the last element and the end of the file.
    fn judge_end(&mut self) -> Result<(), UploadRejection> {
        let is_padding = self.head.len() < 8 && self.head.iter().all(|byte| *byte == 0);
        match self.format {
            // Samples without a `moov` can't be read: writers put it at the end, so it is what a cut file lacks.
            StructureFormat::Boxes if self.state.has_data && !self.state.has_index => {
                Err(self.truncated_rejection())
            }
            // QuickTime ends a list of boxes with a zero length.
            StructureFormat::Boxes if is_padding && self.state.has_index => Ok(()),
            StructureFormat::Transport { .. } if self.state.lost.run_start.is_some() => self.begin_trailing(),
            StructureFormat::Transport { prefix_bytes } => {
                let packet_bytes = 188 + u64::from(prefix_bytes);
                // Captures end anywhere inside a packet, or inside the time stamp before it.
                if self.skip > 0 || !self.head.is_empty() {
                    let start = self.at.saturating_sub(if self.skip > 0 { packet_bytes } else { 0 });
                    self.report.cut = Some(CutElement { start, is_usual: true });
                }
                Ok(())
            }
            StructureFormat::Png => Err(self.truncated_rejection()),
            _ if self.head.is_empty() => Ok(()),
            _ if !self.is_begun() => Err(self.truncated_rejection()),
            _ if self.is_partial_head() => self.record_cut(),
            _ => self.begin_trailing(),
        }
    }

    /// Whether the bytes that the file ends with are the head of a further element.
    fn is_partial_head(&self) -> bool {
        let is_prefix_of = |whole: &[u8]| self.head.iter().zip(whole).all(|(a, b)| a == b);
        match self.format {
            // A 64-bit length is missing.
            StructureFormat::Boxes => self.head.len() >= 8,
            StructureFormat::Ebml => self.state.inside_segment,
            StructureFormat::Ogg => is_prefix_of(b"OggS"),
            StructureFormat::Adts => self.head.first() == Some(&0xFF),
            StructureFormat::Klv => is_prefix_of(&chunks::KLV_KEY),
            StructureFormat::Flv => self.head.first().is_some_and(|kind| chunks::is_flv_tag(*kind)),
            StructureFormat::Caf => self.head.iter().take(4).all(u8::is_ascii_lowercase),
            StructureFormat::Asf
            | StructureFormat::Iff
            | StructureFormat::Opaque
            | StructureFormat::Png
            | StructureFormat::Riff
            | StructureFormat::WebP
            | StructureFormat::Transport { .. } => false,
        }
    }

    /// Whether enough of a structure was seen that what doesn't belong to it is behind it.
    fn is_begun(&self) -> bool {
        match self.format {
            StructureFormat::Boxes | StructureFormat::Ebml => self.state.has_index,
            _ => self.elements > 0,
        }
    }

    fn scan_element(&mut self) -> Result<(), UploadRejection> {
        match self.parse_element_head() {
            ElementScan::Need(n) => self.need = n,
            ElementScan::Nothing if self.is_begun() => self.begin_trailing()?,
            ElementScan::Nothing | ElementScan::Corrupt => {
                return Err(UploadRejection::corrupt(format!("there is no element at byte {}", self.at)));
            }
            ElementScan::Cut => return Err(self.truncated_rejection()),
            ElementScan::Rest => self.mode = StructureScanMode::Rest,
            ElementScan::Element(length) => self.skip_element(length)?,
            ElementScan::End(length) => {
                self.skip_element(length)?;
                // A cut one is the last thing there is.
                if self.mode == StructureScanMode::Walking {
                    self.mode = StructureScanMode::Ended;
                }
            }
        }
        Ok(())
    }

    fn skip_element(&mut self, length: u64) -> Result<(), UploadRejection> {
        let end = self.at.saturating_add(length);
        // A transport stream may end inside a packet.
        if end > self.size_bytes && !matches!(self.format, StructureFormat::Transport { .. }) {
            return self.record_cut();
        }
        self.elements += 1;
        let by_bytes = matches!(self.format, StructureFormat::Transport { .. } | StructureFormat::Adts);
        // Elements without content cost nothing to send and a step each to walk.
        if self.elements > ELEMENTS_MAX && !by_bytes {
            return Err(UploadRejection::corrupt("the structure has too many elements"));
        }
        self.skip = length.saturating_sub(length_to_u64(self.head.len()));
        self.at = end;
        self.head.clear();
        self.need = first_head_bytes(self.format);
        Ok(())
    }

    /// The file ends inside the current element.
    fn record_cut(&mut self) -> Result<(), UploadRejection> {
        let can_be_read = match self.format {
            // One form is the whole file.
            StructureFormat::Riff | StructureFormat::Iff => true,
            StructureFormat::Png | StructureFormat::WebP => false,
            _ => self.is_begun(),
        };
        if !can_be_read {
            return Err(self.truncated_rejection());
        }
        self.report.cut = Some(CutElement { start: self.at, is_usual: false });
        self.mode = StructureScanMode::Rest;
        Ok(())
    }

    /// The structure has ended before the current element, or before the bytes that belong to no packet.
    fn begin_trailing(&mut self) -> Result<(), UploadRejection> {
        let at = self.state.lost.run_start.unwrap_or(self.at);
        let trailing_bytes = self.size_bytes.saturating_sub(at);
        let bytes_max = TRAILING_BYTES_MAX.max(self.size_bytes / TRAILING_PART);
        if trailing_bytes > bytes_max {
            let detail = format!(
                "{} bytes behind the end at byte {} are no part of the media file, {} may be; upload it without them",
                with_thousands(trailing_bytes),
                with_thousands(at),
                with_thousands(bytes_max)
            );
            return Err(UploadRejection::new(RejectionCode::TrailingData, detail));
        }
        let mut head = std::mem::take(&mut self.state.lost.run_head);
        head.append(&mut self.head);
        (self.report.trailing_at, self.report.trailing_head) = (Some(at), head);
        self.mode = StructureScanMode::Trailing;
        Ok(())
    }

    fn parse_element_head(&mut self) -> ElementScan {
        match self.format {
            StructureFormat::Boxes => self.parse_box(),
            StructureFormat::Ebml => self.parse_ebml(),
            StructureFormat::Riff | StructureFormat::WebP => self.parse_riff(),
            StructureFormat::Transport { prefix_bytes } => self.parse_ts_packet(u64::from(prefix_bytes)),
            StructureFormat::Ogg => self.parse_ogg_page(),
            StructureFormat::Png => self.parse_png_chunk(),
            StructureFormat::Adts => self.parse_adts_frame(),
            StructureFormat::Flv => self.parse_flv_tag(),
            StructureFormat::Iff => self.parse_iff_form(),
            StructureFormat::Caf => self.parse_caf_chunk(),
            StructureFormat::Asf => self.parse_asf_object(),
            StructureFormat::Klv => self.parse_klv(),
            StructureFormat::Opaque => ElementScan::Rest,
        }
    }

    fn truncated_rejection(&self) -> UploadRejection {
        UploadRejection::new(
            RejectionCode::Truncated,
            format!("the file ends inside the element at byte {}", self.at),
        )
    }
}

fn first_head_bytes(format: StructureFormat) -> usize {
    match format {
        StructureFormat::Boxes | StructureFormat::Png => 8,
        StructureFormat::Ebml | StructureFormat::Flv => 1,
        StructureFormat::Riff | StructureFormat::WebP | StructureFormat::Iff | StructureFormat::Caf => 12,
        StructureFormat::Transport { prefix_bytes } => usize::from(prefix_bytes) + 1,
        StructureFormat::Ogg => 27,
        StructureFormat::Adts => 7,
        StructureFormat::Asf => 24,
        StructureFormat::Klv => 17,
        StructureFormat::Opaque => 0,
    }
}

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
