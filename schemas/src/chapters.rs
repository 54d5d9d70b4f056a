//! Chapters of a medium: when each begins, and what it is called.
//!
//! Limits: [`CHAPTERS_MAX`] of a medium, titles of [`TITLE_LENGTH_MAX`] characters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most chapters of a medium.
pub const CHAPTERS_MAX: usize = 200;

/// Longest title of a chapter, in characters.
pub const TITLE_LENGTH_MAX: usize = 100;

/// A chapter. It lasts until the next one begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaChapter")]
pub struct Chapter {
    /// When it begins, in milliseconds from the beginning of the medium.
    pub start_ms: u64,
    /// Title for people.
    #[schemars(length(min = 1, max = TITLE_LENGTH_MAX))]
    pub title: String,
}
