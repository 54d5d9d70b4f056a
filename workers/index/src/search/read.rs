//! Answering: one commit is read, and what is shown and counted is what the question may see.

use std::collections::BTreeMap;

use schemas::{
    index_query::ITEMS_MAX,
    search_query::{
        FACET_VALUES_MAX, FacetCount, MediaSearchFacet, MediaSearchHit, MediaSearchPage, MediaSearchQuery,
        MediaSearchSort, SearchFacets, TOTAL_MAX,
    },
};
use tantivy::Searcher;

use super::{
    SearchProjection,
    collect::{CollectedPage, PageCollector},
    highlight::highlight_facts,
    query::{build_query, filter_value},
    rank::HitPosition,
    text::{TextPart, parse_text},
};
use crate::IndexError;

impl SearchProjection {
    /// A page of hits; it ends early when they have more than `bytes_max`. Blocks.
    ///
    /// # Errors
    /// [`IndexError::SearchText`] or [`IndexError::Cursor`] when the question can't be answered; [`IndexError::Search`] or
    /// [`IndexError::SearchDamaged`].
    pub fn search_media(
        &self,
        question: &MediaSearchQuery,
        bytes_max: usize,
    ) -> Result<MediaSearchPage, IndexError> {
        let parts = parse_text(&question.text)?;
        let commit = self.committed.read().clone();
        let after = question.cursor.as_deref().map(|cursor| HitPosition::from_cursor(cursor, question.sort));
        let limit = usize::try_from(question.limit.clamp(1, ITEMS_MAX)).unwrap_or(1);
        let (own, others) = split_facets(question);
        let collector = PageCollector {
            sort: question.sort,
            after: after.transpose()?,
            // One more: it says that there is another page.
            keep_max: limit + 1,
            facets: others,
        };
        let query = build_query(&self.schema, question, &parts, None);
        let found = commit.searcher.search(&*query, &collector)?;
        let mut facets: SearchFacets =
            collector.facets.iter().copied().zip(found.counts.iter().map(most_frequent)).collect();
        for facet in own {
            facets.insert(facet, self.count_without(&commit.searcher, question, &parts, facet)?);
        }
        let (hits, next) =
            self.read_hits(&commit.searcher, &parts, (&found, question.sort), (limit, bytes_max))?;
        Ok(MediaSearchPage {
            hits,
            next,
            total: found.total.min(TOTAL_MAX),
            total_is_lower_bound: found.total > TOTAL_MAX,
            facets,
            revisions: commit.cursors.revisions(),
            lag_ms: self.lag.read_ms(),
        })
    }

    /// Counts by a facet that is filtered by, without that filter.
    fn count_without(
        &self,
        searcher: &Searcher,
        question: &MediaSearchQuery,
        parts: &[TextPart],
        facet: MediaSearchFacet,
    ) -> Result<Vec<FacetCount>, IndexError> {
        let collector = PageCollector { sort: question.sort, after: None, keep_max: 0, facets: vec![facet] };
        let query = build_query(&self.schema, question, parts, Some(facet));
        let found = searcher.search(&*query, &collector)?;
        Ok(found.counts.first().map(most_frequent).unwrap_or_default())
    }

    fn read_hits(
        &self,
        searcher: &Searcher,
        parts: &[TextPart],
        (found, sort): (&CollectedPage, MediaSearchSort),
        (limit, bytes_max): (usize, usize),
    ) -> Result<(Vec<MediaSearchHit>, Option<String>), IndexError> {
        let mut hits = Vec::new();
        let mut size_bytes = 0;
        for (at, (position, address)) in found.hits.iter().enumerate() {
            if at == limit || size_bytes > bytes_max {
                let last = at.checked_sub(1).and_then(|at| found.hits.get(at));
                return Ok((hits, last.map(|(position, _)| position.to_cursor())));
            }
            let facts = self.schema.read_facts(&searcher.doc(*address)?)?;
            let highlights = highlight_facts(parts, &facts);
            let media_id = position.media_id(sort);
            if let Some(item) = facts.into_item(media_id) {
                let hit = MediaSearchHit { item, highlights };
                size_bytes += rmp_serde::to_vec_named(&hit).map_or(0, |bytes| bytes.len());
                hits.push(hit);
            }
        }
        Ok((hits, None))
    }
}

/// Facets that are filtered by, and the others.
fn split_facets(question: &MediaSearchQuery) -> (Vec<MediaSearchFacet>, Vec<MediaSearchFacet>) {
    let mut asked = question.facets.clone();
    asked.sort_unstable();
    asked.dedup();
    asked.into_iter().partition(|facet| filter_value(&question.filters, *facet).is_some())
}

/// The values that most hits have, and how many do.
fn most_frequent(counts: &BTreeMap<String, u64>) -> Vec<FacetCount> {
    let mut counts: Vec<FacetCount> =
        counts.iter().map(|(value, count)| FacetCount { value: value.clone(), count: *count }).collect();
    counts.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    counts.truncate(FACET_VALUES_MAX);
    counts
}
