//! Captions that an owner brings for a medium: texts in a language, beside those of the file itself.
//!
//! Limits: [`TRACKS_MAX`] of a medium, labels of [`LABEL_LENGTH_MAX`] characters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::media_details::LANGUAGE_BYTES_MAX;

/// Most tracks that an owner may bring for a medium.
pub const TRACKS_MAX: usize = 40;

/// Longest label, in characters.
pub const LABEL_LENGTH_MAX: usize = 100;

/// What begins the name of a track that an owner brought; no rendition of an encode begins so.
pub const NAME_PREFIX: char = 'c';

/// What a track of text is for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CaptionKind")]
pub enum CaptionKind {
    /// What is said, for those who do not understand the language.
    #[default]
    Subtitles,
    /// What is said, and sounds beside it, for those who are deaf or hard of hearing.
    Captions,
    /// What is shown also to those who want no subtitles, such as signs.
    Forced,
}

impl CaptionKind {
    /// Its name in JSON and in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subtitles => "subtitles",
            Self::Captions => "captions",
            Self::Forced => "forced",
        }
    }

    /// The kind of a track of the file, by what is said of it there.
    pub const fn of_flags(is_forced: bool, is_hearing_impaired: bool) -> Self {
        match (is_forced, is_hearing_impaired) {
            (true, _) => Self::Forced,
            (false, true) => Self::Captions,
            (false, false) => Self::Subtitles,
        }
    }
}

/// A track that an owner brought. There is one of each language and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CaptionTrack")]
pub struct CaptionTrack {
    /// Name of its folder for players and of its object: another one each time that it is replaced, since players and caches keep what a
    /// name holds.
    pub name: String,
    /// A tag of RFC 5646, in the form of its section 2.1.1.
    #[schemars(length(max = LANGUAGE_BYTES_MAX))]
    pub language: String,
    /// What it is for; subtitles when absent.
    #[serde(default, skip_serializing_if = "is_subtitles")]
    pub kind: CaptionKind,
    /// Name for people; the name of the language when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = LABEL_LENGTH_MAX))]
    pub label: Option<String>,
    /// Texts in it.
    pub cue_count: u32,
    /// Bytes of its object.
    pub size_bytes: u64,
    /// Unix time in milliseconds.
    pub changed_at_ms: u64,
}

impl CaptionTrack {
    /// True for the one track that there is of a language and kind.
    pub fn is_of(&self, language: &str, kind: CaptionKind) -> bool {
        self.kind == kind && self.language == language
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
const fn is_subtitles(kind: &CaptionKind) -> bool {
    matches!(kind, CaptionKind::Subtitles)
}
