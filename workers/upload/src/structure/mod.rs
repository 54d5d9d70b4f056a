//! Walks the outer structure of a media file and demands that it covers the file to the last byte.
//!
//! A file that ends before its structure is `truncated`; one with bytes behind it has `trailing_data`, as a film has that is
//! an archive as well. What an element holds is not looked at: that is for the sandboxed child.
//!
//! Limits: [`ELEMENTS_MAX`] elements a file (MPEG-TS packets and audio frames count by their bytes instead).

mod elements;

use crate::{UploadRejection, structure_format::StructureFormat};

/// Most boxes, elements, chunks or pages of one file.
pub const ELEMENTS_MAX: u64 = 10_000_000;

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

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
