//! What was asked for as a query of the index: words of our own tokenizer, never a query language.
//!
//! Every word has to be found in some field: as it is, as the beginning of a word, or with typing errors ([`typos_max`]). A score is
//! the sum over the words of the best way in which each was found, and depends on nothing but the medium and the text: cursors hold
//! while others come and go.

use std::ops::Bound;

use schemas::search_query::{MediaSearchFacet, MediaSearchFilters, MediaSearchQuery};
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
    text::{TextPart, typos_max},
};

/// What a word as it is counts. The ways lie so far apart that none of a better one loses by its field.
const EXACT_SCORE: f32 = 16.0;
/// What the beginning of a word counts.
const PREFIX_SCORE: f32 = 4.0;
/// What a word with typing errors counts.
const TYPO_SCORE: f32 = 1.0;

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
