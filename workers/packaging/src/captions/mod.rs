//! Captions that people bring, as WebVTT (W3C, <https://www.w3.org/TR/webvtt1/>) or SubRip files: read strictly, and written anew, so that
//! players are sent nothing but cues, a few tags and places. What files have beside them is left out: styles, regions, notes and names of
//! cues.
//!
//! No crate reads both and keeps hostile texts from players.
//!
//! Limits: [`CaptionLimits`], [`CUE_TEXT_BYTES_MAX`] of a text; all cues together as often as segments of [`SEGMENT_MS_MIN`] hold them:
//! [`SEGMENTS_BYTES_MAX`].

mod blocks;
mod cue_text;
mod served;
mod settings;
mod times;

use std::fmt;

use schemas::captions::CaptionTrack;

use crate::{
    language::language_name,
    webvtt::{WebVttCue, render_whole, sort_cues},
};
use blocks::split_blocks;
use cue_text::clean_cue_text;

pub use served::{ServedCaptions, add_to_manifest, add_to_multivariant, render_text_playlist};

/// Longest text of a cue, in bytes.
pub const CUE_TEXT_BYTES_MAX: usize = 4_096;

/// Most bytes of all segments of a track: a cue that lasts long stands in many.
pub const SEGMENTS_BYTES_MAX: u64 = 32 << 20;

/// The shortest segment that is reckoned with, in milliseconds.
pub const SEGMENT_MS_MIN: u64 = 2_000;

/// The longest time for which a cue counts, in milliseconds: some files have cues that end far behind every film.
const CUE_MS_MAX: u64 = 24 * 3_600_000;

/// What a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptionLimits {
    /// Most bytes, as it comes and as it is kept.
    pub bytes_max: usize,
    /// Most cues.
    pub cue_count_max: usize,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptionFormat {
    /// WebVTT.
    WebVtt,
    /// SubRip (`.srt`), which no standard describes.
    SubRip,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionFile {
    cues: Vec<WebVttCue>,
}

/// Why a file can't be taken, and in which line, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct CaptionFileError {
    /// What is wrong.
    pub fault: CaptionFault,
    /// The line, where it is one.
    pub line: Option<usize>,
}

impl fmt::Display for CaptionFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.fault),
            None => write!(f, "{}", self.fault),
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaptionFault {
    /// Another encoding.
    #[error("the file is not in UTF-8: save it in that encoding, which every editor of subtitles offers")]
    NotUtf8,
    /// UTF-16 with a byte order mark.
    #[error("the file is in UTF-16: save it as UTF-8, which every editor of subtitles offers")]
    Utf16,
    /// WebVTT without its first line.
    #[error("a WebVTT file begins with a line WEBVTT, and an empty one behind it")]
    HeaderMissing,
    /// Neither a cue nor a note.
    #[error("here the time of a cue is missing, such as 00:00:01.000 --> 00:00:04.000")]
    TimingMissing,
    /// A time that is none.
    #[error("this time can't be read: it is written as 00:00:01.000 --> 00:00:04.000")]
    TimingInvalid,
    /// A cue that ends when it begins, or before.
    #[error("this cue ends before it begins")]
    EndsEarly,
    /// A time within a text.
    #[error("an empty line is missing before this cue")]
    SeparatorMissing,
    /// A text that is too long.
    #[error("the text of a cue has at most {CUE_TEXT_BYTES_MAX} bytes")]
    TextTooLong,
    /// More cues than there may be.
    #[error("there are more than {cue_count_max} cues")]
    CuesTooMany {
        /// Most cues.
        cue_count_max: usize,
    },
    /// More bytes than there may be.
    #[error("it has more than {bytes_max} bytes")]
    TooLarge {
        /// Most bytes.
        bytes_max: usize,
    },
    /// Cues that last so long that they would stand in too many segments.
    #[error(
        "there are too many long cues: together they would be {SEGMENTS_BYTES_MAX} bytes of segments or more"
    )]
    CuesTooLong,
    /// Nothing to be read.
    #[error("there is no cue with a text in it")]
    Empty,
}

impl CaptionFault {
    const fn at(self, line: usize) -> CaptionFileError {
        CaptionFileError { fault: self, line: Some(line) }
    }

    const fn of_file(self) -> CaptionFileError {
        CaptionFileError { fault: self, line: None }
    }
}

impl CaptionFormat {
    /// The format by the beginning of a file: WebVTT where it says so.
    pub fn sniff(bytes: &[u8]) -> Self {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if text.starts_with(b"WEBVTT") { Self::WebVtt } else { Self::SubRip }
    }
}

impl CaptionFile {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(
        bytes: &[u8],
        format: CaptionFormat,
        limits: CaptionLimits,
    ) -> Result<Self, CaptionFileError> {
        let CaptionLimits { bytes_max, cue_count_max } = limits;
        if bytes.len() > bytes_max {
            return Err(CaptionFault::TooLarge { bytes_max }.of_file());
        }
        let text = decode(bytes)?;
        let mut cues = Vec::new();
        for block in split_blocks(&text, format)? {
            if cues.len() >= cue_count_max {
                return Err(CaptionFault::CuesTooMany { cue_count_max }.at(block.line));
            }
            let text = clean_cue_text(&block.text, format);
            if text.payload.len() > CUE_TEXT_BYTES_MAX {
                return Err(CaptionFault::TextTooLong.at(block.line));
            }
            let settings = if text.is_top { crate::webvtt::TOP_SETTINGS } else { &block.settings };
            cues.extend(WebVttCue::from_parts(block.span_ms, settings, text.payload));
        }
        sort_cues(&mut cues);
        let file = Self { cues };
        file.check(bytes_max)?;
        Ok(file)
    }

    fn check(&self, bytes_max: usize) -> Result<(), CaptionFileError> {
        if self.cues.is_empty() {
            return Err(CaptionFault::Empty.of_file());
        }
        // What was escaped has become longer.
        if self.render().len() > bytes_max {
            return Err(CaptionFault::TooLarge { bytes_max }.of_file());
        }
        let in_segments = self.cues.iter().map(|cue| {
            let (bytes, duration_ms) = cue.extent();
            let segments = duration_ms.min(CUE_MS_MAX) / SEGMENT_MS_MIN + 2;
            u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(segments)
        });
        if in_segments.fold(0, u64::saturating_add) > SEGMENTS_BYTES_MAX {
            return Err(CaptionFault::CuesTooLong.of_file());
        }
        Ok(())
    }

    /// Its cues, in order of time.
    pub fn cues(&self) -> &[WebVttCue] {
        &self.cues
    }

    /// The file as it is kept. It reads as the same cues.
    pub fn render(&self) -> String {
        render_whole(&self.cues)
    }
}

/// The name of a track for people: that of its language where nobody gave it one.
pub fn track_label(track: &CaptionTrack) -> String {
    let named = track.label.clone().or_else(|| language_name(&track.language));
    named.unwrap_or_else(|| track.language.clone())
}

/// The text with one kind of line ends.
fn decode(bytes: &[u8]) -> Result<String, CaptionFileError> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(CaptionFault::Utf16.of_file());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        CaptionFault::NotUtf8.at(before.split(|byte| *byte == b'\n').count())
    })?;
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

#[cfg(test)]
mod tests;
