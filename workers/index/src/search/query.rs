//! What was asked for as a query of the index: words of our own tokenizer, never a query language.
//!
//! Every word has to be found in some field: as it is, as the beginning of a word, or with typing errors (Levenshtein distance, a
//! swap of neighbours counts once): 1 in words of [`TYPO_CHARS_MIN`] characters, 2 from [`TWO_TYPOS_CHARS_MIN`]. A score is the sum over the words of
//! the best way in which each was found, and depends on nothing but the medium and the text: cursors hold while others come and go.

use std::ops::Bound;

use schemas::search_query::{
    MediaSearchFacet, MediaSearchFilters, MediaSearchQuery, TEXT_CHARS_MAX, WORDS_MAX,
};
use tantivy::{
    Term,
    query::{
        BooleanQuery, ConstScoreQuery, DisjunctionMaxQuery, FuzzyTermQuery, Occur, PhraseQuery, Query,
        RangeQuery, TermQuery,
    },
    schema::{Field, IndexRecordOption},
};

use super::{
    fields::{CREATED_AT_MS, DURATION_MS, SearchSchema, status_key, tag_key},
    words::{Word, WordKind, split_words},
};

/// Characters from which a word is also found with one typing error.
pub(super) const TYPO_CHARS_MIN: usize = 4;
/// Characters from which a word is also found with two.
pub(super) const TWO_TYPOS_CHARS_MIN: usize = 8;

/// What a word as it is counts. The ways lie so far apart that none of a better one loses by its field.
const EXACT_SCORE: f32 = 16.0;
/// What the beginning of a word counts.
const PREFIX_SCORE: f32 = 4.0;
/// What a word with typing errors counts.
const TYPO_SCORE: f32 = 1.0;

/// Why a text is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SearchTextError {
    /// More than [`TEXT_CHARS_MAX`].
    #[error("the text has more than {TEXT_CHARS_MAX} characters")]
    Long,
    /// More than [`WORDS_MAX`].
    #[error("the text has more than {WORDS_MAX} words")]
    Words,
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
    Ok(parts)
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

/// The query of a question; the filter of `without` is left out.
pub(super) fn build_query(
    schema: &SearchSchema,
    question: &MediaSearchQuery,
    parts: &[TextPart],
    without: Option<MediaSearchFacet>,
) -> Box<dyn Query> {
    let words = parts.iter().map(|part| (Occur::Must, part_query(schema, part)));
    let filters = filter_queries(schema, &question.filters, without).into_iter();
    // Not a filter like others: nothing leaves it out.
    let visible = question.visible_owner.as_deref();
    let visible = visible.map(|owner| key_query(schema.key(MediaSearchFacet::Owner), owner));
    // It counts nothing in a score.
    let must = |query| (Occur::Must, Box::new(ConstScoreQuery::new(query, 0.0)) as Box<dyn Query>);
    let shown = Box::new(TermQuery::new(schema.shown_term(), IndexRecordOption::Basic)) as Box<dyn Query>;
    let filters = filters.chain(visible).chain([shown]);
    Box::new(BooleanQuery::new(words.chain(filters.map(must)).collect()))
}

fn part_query(schema: &SearchSchema, part: &TextPart) -> Box<dyn Query> {
    let mut ways: Vec<Box<dyn Query>> = Vec::new();
    let mut add = |query: Box<dyn Query>, score| ways.push(Box::new(ConstScoreQuery::new(query, score)));
    for (field, weight) in schema.text_fields() {
        match part {
            TextPart::Word(word) => {
                let term = Term::from_field_text(field, word);
                add(key_query(field, word), EXACT_SCORE * weight);
                add(Box::new(FuzzyTermQuery::new_prefix(term.clone(), 0, false)), PREFIX_SCORE * weight);
                let typos = typos_max(word);
                if typos > 0 {
                    add(Box::new(FuzzyTermQuery::new(term, typos, true)), TYPO_SCORE * weight);
                }
            }
            TextPart::Phrase(words) => {
                let terms = words.iter().map(|(offset, word)| (*offset, Term::from_field_text(field, word)));
                let query: Box<dyn Query> = match words.as_slice() {
                    [(_, word)] => key_query(field, word),
                    _ => Box::new(PhraseQuery::new_with_offset(terms.collect())),
                };
                add(query, EXACT_SCORE * weight);
            }
        }
    }
    Box::new(DisjunctionMaxQuery::new(ways))
}

fn key_query(field: Field, value: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic))
}

fn filter_queries(
    schema: &SearchSchema,
    filters: &MediaSearchFilters,
    without: Option<MediaSearchFacet>,
) -> Vec<Box<dyn Query>> {
    let mut queries: Vec<Box<dyn Query>> = Vec::new();
    for facet in MediaSearchFacet::ALL.into_iter().filter(|facet| Some(*facet) != without) {
        let Some(value) = filter_value(filters, facet) else { continue };
        let field = schema.key(facet);
        let same = key_query(field, &value);
        queries.push(if facet == MediaSearchFacet::Language {
            // RFC 4647, section 3.3.1: `pt` is also `pt-BR`.
            let narrower = Term::from_field_text(field, &format!("{value}-"));
            Box::new(BooleanQuery::union(vec![
                same,
                Box::new(FuzzyTermQuery::new_prefix(narrower, 0, false)),
            ]))
        } else {
            same
        });
    }
    let ranges = [
        (schema.number(DURATION_MS), filters.duration_ms_min, filters.duration_ms_max),
        (
            schema.number(CREATED_AT_MS),
            filters.created_from_ms,
            // Times are whole milliseconds; before 0 there is none.
            filters.created_before_ms.map(|before| before.saturating_sub(1)),
        ),
    ];
    for (field, least, most) in ranges {
        let bound = |value: Option<u64>| {
            value.map_or(Bound::Unbounded, |value| Bound::Included(Term::from_field_u64(field, value)))
        };
        if least.is_some() || most.is_some() {
            queries.push(Box::new(RangeQuery::new(bound(least), bound(most))));
        }
    }
    queries
}

/// What a facet is filtered by; `None` when it is not.
pub(super) fn filter_value(filters: &MediaSearchFilters, facet: MediaSearchFacet) -> Option<String> {
    match facet {
        MediaSearchFacet::Status => filters.status.map(status_key),
        MediaSearchFacet::Tag => filters.tag.as_deref().map(tag_key),
        MediaSearchFacet::Language => filters.language.clone(),
        MediaSearchFacet::Visibility => filters.visibility.map(|visibility| visibility.as_str().to_owned()),
        MediaSearchFacet::Owner => filters.owner.clone(),
    }
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
        assert_eq!(parse_text(&"京".repeat(200)).unwrap().len(), 1);
        assert_eq!(["abc", "abcd", "abcdefg", "abcdefgh", "éééé"].map(typos_max), [0, 1, 1, 2, 1]);
    }
}
