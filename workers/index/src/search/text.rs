//! What was asked for in words: single ones, and some that stand side by side.
//!
//! Limits: a text has at most [`TEXT_CHARS_MAX`] characters and [`WORDS_MAX`] words; a run of a script without blanks is one, and has at
//! most [`PHRASE_TERMS_MAX`] pairs.

use schemas::search_query::{TEXT_CHARS_MAX, WORDS_MAX};

use super::words::{Word, WordKind, split_words};

/// Characters from which a word is also found with one typing error.
pub(super) const TYPO_CHARS_MIN: usize = 4;
/// Characters from which a word is also found with two.
pub(super) const TWO_TYPOS_CHARS_MIN: usize = 8;

/// Most words or pairs of a phrase: all positions of each are read.
pub(super) const PHRASE_TERMS_MAX: usize = 16;

/// Why a text is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SearchTextError {
    /// More than [`TEXT_CHARS_MAX`].
    #[error("the text has more than {TEXT_CHARS_MAX} characters")]
    Long,
    /// More than [`WORDS_MAX`].
    #[error("the text has more than {WORDS_MAX} words")]
    Words,
    /// More than `PHRASE_TERMS_MAX` terms.
    #[error(
        "a phrase, or a run of a script without blanks, has more than {PHRASE_TERMS_MAX} words or pairs of characters; \
         put blanks between its words"
    )]
    Phrase,
}

/// A part of the text that has to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextPart {
    /// A word, also as a beginning or with typing errors.
    Word(String),
    /// Words as they are, with their distance from the first one.
    Phrase(Vec<(usize, String)>),
}

/// Most typing errors with which a word is found.
pub(super) fn typos_max(word: &str) -> u8 {
    match word.chars().count() {
        0..TYPO_CHARS_MIN => 0,
        TYPO_CHARS_MIN..TWO_TYPOS_CHARS_MIN => 1,
        _ => 2,
    }
}

/// The parts of a text. Quotation marks without a second one are left out.
pub(super) fn parse_text(text: &str) -> Result<Vec<TextPart>, SearchTextError> {
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        return Err(SearchTextError::Long);
    }
    let pieces: Vec<&str> = text.split(['"', '\u{201c}', '\u{201d}', '\u{201e}']).collect();
    let (mut parts, mut words_count) = (Vec::new(), 0);
    for (at, piece) in pieces.iter().enumerate() {
        let is_quoted = at % 2 == 1 && at + 1 < pieces.len();
        let words = split_words(piece);
        words_count += words.iter().filter(|word| word.kind != WordKind::Pair).count();
        if words_count > WORDS_MAX {
            return Err(SearchTextError::Words);
        }
        if is_quoted {
            parts.extend(phrase_of(&words));
        } else {
            parts.extend(words.chunk_by(|before, _| before.kind == WordKind::Pair).filter_map(
                |run| match run {
                    [word] => Some(TextPart::Word(word.text.clone())),
                    run => phrase_of(run),
                },
            ));
        }
    }
    let is_long = |part: &TextPart| matches!(part, TextPart::Phrase(terms) if terms.len() > PHRASE_TERMS_MAX);
    if parts.iter().any(is_long) { Err(SearchTextError::Phrase) } else { Ok(parts) }
}

/// These words side by side. The last character of a run stands in the pair before it, and may go on in the text.
fn phrase_of(words: &[Word]) -> Option<TextPart> {
    let mut phrase = Vec::new();
    let mut before = WordKind::Plain;
    for (offset, word) in words.iter().enumerate() {
        if word.kind != WordKind::Tail || before != WordKind::Pair {
            phrase.push((offset, word.text.clone()));
        }
        before = word.kind;
    }
    (!phrase.is_empty()).then_some(TextPart::Phrase(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> TextPart {
        TextPart::Word(text.into())
    }

    fn phrase(words: &[(usize, &str)]) -> TextPart {
        TextPart::Phrase(words.iter().map(|(offset, word)| (*offset, (*word).to_owned())).collect())
    }

    #[test]
    fn texts_become_words_and_phrases() {
        let parts = |text| parse_text(text).unwrap();
        assert_eq!(parts("Big  BUNNY"), [word("big"), word("bunny")]);
        assert_eq!(parts("\"Big Bunny\" x"), [phrase(&[(0, "big"), (1, "bunny")]), word("x")]);
        assert_eq!(parts("a \"b c"), [word("a"), word("b"), word("c")], "a mark without a second one");
        assert_eq!(parts("\"b\""), [phrase(&[(0, "b")])]);
        assert_eq!(parts("東京都"), [phrase(&[(0, "東京"), (1, "京都")])]);
        assert_eq!(parts("京"), [word("京")]);
        assert_eq!(parts("\"東京 tower\""), [phrase(&[(0, "東京"), (2, "tower")])]);
        assert_eq!(parts("\"\" \" \" ()*?"), []);
        assert_eq!(parts("東京 大阪"), [phrase(&[(0, "東京")]), phrase(&[(0, "大阪")])]);
    }

    #[test]
    fn texts_beyond_the_limits_are_refused() {
        assert_eq!(parse_text(&"\"".repeat(10_000)), Err(SearchTextError::Long));
        assert_eq!(parse_text("a b c d e f g h i"), Err(SearchTextError::Words));
        assert_eq!(parse_text("a-b-c-d-e-f-g-h-i"), Err(SearchTextError::Words));
        assert_eq!(parse_text(&"\"".repeat(200)).unwrap(), []);
        assert_eq!(parse_text(&"京".repeat(17)).unwrap().len(), 1);
        for long in ["京".repeat(18), "京".repeat(200), format!("a \"{}\"", "京".repeat(18))] {
            assert_eq!(parse_text(&long), Err(SearchTextError::Phrase), "{long}");
        }
        assert_eq!(["abc", "abcd", "abcdefg", "abcdefgh", "éééé"].map(typos_max), [0, 1, 1, 2, 1]);
    }
}
