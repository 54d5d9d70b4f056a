//! Where the words of a text were found in a medium, by the rules by which they were looked for: plain text and ranges of characters.
//!
//! Limits: a highlight has at most [`HIGHLIGHT_CHARS_MAX`] characters, a medium at most [`HIGHLIGHTS_MAX`]; of a text the first
//! [`WORDS_READ_MAX`] words are looked at, and [`RANGES_MAX`] ranges are marked.

use schemas::search_query::{CharacterRange, HIGHLIGHT_CHARS_MAX, SearchHighlight};

use super::{
    fields::TEXT_FIELDS,
    text::{TextPart, typos_max},
    words::{Word, WordKind, split_words},
};
use crate::facts::MediaFacts;

/// Most highlights of a medium.
const HIGHLIGHTS_MAX: usize = 10;
/// Most words of a text that are looked at.
const WORDS_READ_MAX: usize = 2_000;
/// Most ranges of a text.
const RANGES_MAX: usize = 50;
/// Characters that are shown before the first word that was found.
const LEAD_CHARS: u32 = 40;

/// Where the parts of a text are in a medium.
pub(super) fn highlight_facts(parts: &[TextPart], facts: &MediaFacts) -> Vec<SearchHighlight> {
    if parts.is_empty() {
        return Vec::new();
    }
    let texts =
        TEXT_FIELDS.iter().flat_map(|field| (field.texts)(facts).into_iter().map(|text| (field.name, text)));
    let found = texts.filter_map(|(field, text)| {
        let ranges = mark_text(parts, text);
        (!ranges.is_empty()).then(|| cut_highlight(field, text, &ranges))
    });
    found.take(HIGHLIGHTS_MAX).collect()
}

/// The ranges of a text in which its parts are, in order and apart from each other.
fn mark_text(parts: &[TextPart], text: &str) -> Vec<CharacterRange> {
    let mut words = split_words(text);
    words.truncate(WORDS_READ_MAX);
    let mut marks: Vec<(u32, u32)> = Vec::new();
    for part in parts {
        marks.extend(match part {
            TextPart::Word(wanted) => {
                let wanted: Vec<char> = wanted.chars().collect();
                join_marks(words.iter().filter_map(|word| mark_word(&wanted, word)))
            }
            TextPart::Phrase(phrase) => {
                join_marks((0..words.len()).filter_map(|from| mark_phrase(phrase, words.get(from..)?)))
            }
        });
    }
    marks.sort_unstable();
    let ranges = join_marks(marks.into_iter()).into_iter();
    ranges.map(|(start, end)| CharacterRange { start, end }).collect()
}

/// The first ranges of these, which are in order; those that touch are one.
fn join_marks(marks: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (start, end) in marks {
        if let Some(last) = joined.last_mut().filter(|last| start <= last.1) {
            last.1 = last.1.max(end);
        } else if joined.len() < RANGES_MAX {
            joined.push((start, end));
        } else {
            break;
        }
    }
    joined
}

/// The characters from the first word of a phrase to its last, when these words begin with it.
fn mark_phrase(phrase: &[(usize, String)], words: &[Word]) -> Option<(u32, u32)> {
    let word = |(offset, wanted): &(usize, String)| words.get(*offset).filter(|word| word.text == *wanted);
    let (first, last) = (word(phrase.first()?)?, word(phrase.last()?)?);
    phrase.iter().all(|term| word(term).is_some()).then_some((first.chars.0, last.chars.1))
}

/// The characters of a word that is found by another.
fn mark_word(wanted: &[char], word: &Word) -> Option<(u32, u32)> {
    let text: Vec<char> = word.text.chars().collect();
    if text.starts_with(wanted) {
        // Of a pair only what was looked for: the other character is no part of the same word.
        let is_half = word.kind == WordKind::Pair && wanted.len() == 1;
        return Some(if is_half { (word.chars.0, word.chars.0 + 1) } else { word.chars });
    }
    let typos = usize::from(typos_max(&wanted.iter().collect::<String>()));
    (typos > 0 && count_typos(wanted, &text, typos).is_some()).then_some(word.chars)
}

/// Insertions, deletions, replacements and swaps of neighbours by which two words differ; `None` for more than `most`.
fn count_typos(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut rows = [Vec::new(), (0..=other.len()).collect::<Vec<usize>>()];
    for (i, a) in one.iter().enumerate() {
        let [before_last, last] = &rows;
        let mut row = Vec::with_capacity(other.len() + 1);
        row.push(i + 1);
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut fewest = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                fewest = fewest.min(before_last[j - 1] + 1);
            }
            row.push(fewest);
        }
        if row.iter().all(|count| *count > most) {
            return None;
        }
        let [_, last] = rows;
        rows = [last, row];
    }
    rows[1].last().copied().filter(|count| *count <= most)
}

/// A text, or the part of it in which the first range is.
fn cut_highlight(field: &str, text: &str, ranges: &[CharacterRange]) -> SearchHighlight {
    let chars: Vec<char> = text.chars().collect();
    let most = u32::try_from(HIGHLIGHT_CHARS_MAX).unwrap_or(u32::MAX);
    let length = u32::try_from(chars.len()).unwrap_or(u32::MAX);
    let first = ranges.first().map_or(0, |range| range.start);
    let from = if length <= most { 0 } else { first.saturating_sub(LEAD_CHARS).min(length - most) };
    let from = begin_of_word(&chars, from, first);
    let to = length.min(from.saturating_add(most));
    let shown = chars.iter().skip(from as usize).take((to - from) as usize).collect();
    let inside = ranges.iter().filter(|range| range.start < to);
    let inside =
        inside.map(|range| CharacterRange { start: range.start - from, end: range.end.min(to) - from });
    SearchHighlight { field: field.to_owned(), text: shown, ranges: inside.collect() }
}

/// The first beginning of a word from `from` on, and not behind `to`: nothing is shown of a word that is cut.
fn begin_of_word(chars: &[char], from: u32, to: u32) -> u32 {
    if from == 0 {
        return 0;
    }
    let blank = (from..to).find(|at| chars.get(*at as usize - 1).is_some_and(|c| c.is_whitespace()));
    blank.unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::text::parse_text, *};

    fn marked(query: &str, text: &str) -> Vec<String> {
        let ranges = mark_text(&parse_text(query).unwrap(), text);
        let chars: Vec<char> = text.chars().collect();
        ranges.iter().map(|range| chars[range.start as usize..range.end as usize].iter().collect()).collect()
    }

    fn typos(one: &str, other: &str) -> Option<usize> {
        count_typos(&one.chars().collect::<Vec<_>>(), &other.chars().collect::<Vec<_>>(), 2)
    }

    #[test]
    fn words_beginnings_typing_errors_and_phrases_are_marked() {
        assert_eq!(marked("creme", "Crème brûlée"), ["Crème"]);
        assert_eq!(marked("bru", "Crème brûlée, brut"), ["brûlée", "brut"]);
        assert_eq!(marked("mountian", "The mountain"), ["mountain"]);
        assert_eq!(marked("\"big bunny\"", "a big bunny, big one"), ["big bunny"]);
        assert_eq!(marked("京", "東京都"), ["京"]);
        assert_eq!(marked("東京都", "これは東京都です"), ["東京都"]);
        assert_eq!(marked("cat", "dog"), Vec::<String>::new());
        assert_eq!(marked("<b>", "a <b> & b"), ["b", "b"], "text stays as it is");
    }

    #[test]
    fn a_text_that_has_a_word_everywhere_is_marked_up_to_a_limit() {
        assert_eq!(marked("a", &"a ".repeat(1_000)).len(), RANGES_MAX);
        assert_eq!(marked("a b", &"a b ".repeat(1_000)).len(), RANGES_MAX);
        assert_eq!(marked("\"a b\"", &"a b, ".repeat(400)).len(), RANGES_MAX);
        assert_eq!(marked("京京", &"京".repeat(300)), ["京".repeat(300)]);
    }

    #[test]
    fn typing_errors_are_counted_up_to_two() {
        assert_eq!(typos("mountain", "mountain"), Some(0));
        assert_eq!(typos("mountian", "mountain"), Some(1));
        assert_eq!(typos("montan", "mountain"), Some(2));
        assert_eq!(typos("montn", "mountain"), None);
        assert_eq!(typos("ab", "cdef"), None);
    }

    #[test]
    fn long_texts_are_cut_before_the_first_word_that_was_found() {
        let text = format!("{} needle {}", "hay ".repeat(100), "straw ".repeat(100));
        let ranges = mark_text(&parse_text("needle straw").unwrap(), &text);
        let shown = cut_highlight("description", &text, &ranges);
        assert!(shown.text.chars().count() <= HIGHLIGHT_CHARS_MAX && shown.text.starts_with("hay"));
        let first = shown.ranges[0];
        let word: String =
            shown.text.chars().skip(first.start as usize).take((first.end - first.start) as usize).collect();
        assert_eq!(word, "needle");
        let end = shown.ranges.last().unwrap().end as usize;
        assert!(end <= HIGHLIGHT_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn ranges_lie_in_their_text(query in "[a-c京都\" ]{0,12}", text in "[a-c京都é\u{301} ]{0,300}") {
            let Ok(parts) = parse_text(&query) else { return Ok(()) };
            let ranges = mark_text(&parts, &text);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            if !ranges.is_empty() {
                let shown = cut_highlight("title", &text, &ranges);
                let length = u32::try_from(shown.text.chars().count()).unwrap();
                prop_assert!(length as usize <= HIGHLIGHT_CHARS_MAX && !shown.ranges.is_empty());
                prop_assert!(shown.ranges.iter().all(|range| range.start < range.end && range.end <= length));
            }
        }
    }
}
