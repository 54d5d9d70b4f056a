//! Chapters as an owner sets them and as documents show them.
//!
//! Limits: those of [`schemas::chapters`].

use schemars::JsonSchema;
use schemas::chapters::{CHAPTERS_MAX, Chapter, TITLE_LENGTH_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    seconds::{SECONDS_MAX, to_millis, to_seconds},
    uploads::metadata::clean_line,
};
use web::{error::Problem, problem_code::ProblemCode};

/// A chapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ChapterDocument")]
pub(crate) struct ChapterDocument {
    /// When it begins, in seconds from the beginning of the medium, to the millisecond. The first begins at 0.
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    start_s: f64,
    /// Title for people: one line, of which something has to be seen.
    #[schemars(length(min = 1, max = TITLE_LENGTH_MAX))]
    title: String,
}

impl ChapterDocument {
    pub(super) fn new(chapter: &Chapter) -> Self {
        Self { start_s: to_seconds(chapter.start_ms), title: chapter.title.clone() }
    }
}

/// Chapters as they are kept: the first at 0, each later than the one before, all within the medium where its length in milliseconds is
/// known (else 0).
pub(super) fn clean_chapters(
    chapters: &[ChapterDocument],
    duration_ms: u64,
) -> Result<Vec<Chapter>, Problem> {
    if chapters.len() > CHAPTERS_MAX {
        return Err(invalid("/chapters", format!("at most {CHAPTERS_MAX} chapters are kept")));
    }
    let mut kept: Vec<Chapter> = Vec::with_capacity(chapters.len());
    for (position, chapter) in chapters.iter().enumerate() {
        let at = |name: &str| format!("/chapters/{position}/{name}");
        let start_ms = to_millis(chapter.start_s)
            .ok_or_else(|| invalid(&at("start_s"), format!("0 to {SECONDS_MAX} seconds")))?;
        match kept.last() {
            None if start_ms > 0 => {
                return Err(invalid(&at("start_s"), "the first chapter begins at 0"));
            }
            Some(before) if before.start_ms >= start_ms => {
                return Err(invalid(&at("start_s"), "each chapter begins later than the one before"));
            }
            _ => {}
        }
        if duration_ms > 0 && start_ms >= duration_ms {
            let detail = format!("the medium lasts {} seconds", to_seconds(duration_ms));
            return Err(invalid(&at("start_s"), detail));
        }
        let title = clean_line(&chapter.title, TITLE_LENGTH_MAX).ok_or_else(|| {
            let detail =
                format!("a title needs something to be shown, and at most {TITLE_LENGTH_MAX} characters");
            invalid(&at("title"), detail)
        })?;
        kept.push(Chapter { start_ms, title });
    }
    Ok(kept)
}

fn invalid(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::ChaptersInvalid).with_pointer(pointer, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chapter(start_s: f64, title: &str) -> ChapterDocument {
        ChapterDocument { start_s, title: title.to_owned() }
    }

    #[test]
    fn chapters_follow_each_other_within_the_medium() {
        let good = [chapter(0.0, " Arrival\u{202e} "), chapter(61.5004, "Sea")];
        let kept = clean_chapters(&good, 90_000).unwrap();
        let shown: Vec<_> = kept.iter().map(|chapter| (chapter.start_ms, chapter.title.as_str())).collect();
        assert_eq!(shown, [(0, "Arrival"), (61_500, "Sea")]);
        assert_eq!(clean_chapters(&good, 0).unwrap(), kept, "before the length is known");
        assert_eq!(clean_chapters(&[], 90_000).unwrap(), []);
        for bad in [
            vec![chapter(1.0, "a")],
            vec![chapter(0.0, "a"), chapter(0.0001, "b")],
            vec![chapter(0.0, "a"), chapter(9.0, "b"), chapter(5.0, "c")],
            vec![chapter(0.0, "a"), chapter(90.0, "b")],
            vec![chapter(f64::NAN, "a")],
            vec![chapter(-1.0, "a")],
            vec![chapter(0.0, " ")],
            vec![chapter(0.0, &"a".repeat(TITLE_LENGTH_MAX + 1))],
            (0_u32..=200).map(|n| chapter(f64::from(n) / 10.0, "a")).collect(),
        ] {
            assert!(clean_chapters(&bad, 90_000).is_err(), "{bad:?}");
        }
    }
}
