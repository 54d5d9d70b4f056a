//! Everything that the search index holds, for comparisons.

use std::{collections::BTreeMap, io};

use tantivy::{
    DocAddress, DocSet as _, Searcher, SegmentReader, TERMINATED, TantivyDocument, TantivyError,
    schema::{Field, IndexRecordOption},
};

use super::{SearchProjection, SearchRow};
use crate::IndexError;

/// Media by field and value.
type RowMap = BTreeMap<(String, Vec<u8>), Vec<[u8; 16]>>;

impl SearchProjection {
    /// Every term of every field with its media, and what is stored of each: what a rebuilt index must equal. Blocks, and holds all
    /// in memory.
    ///
    /// # Errors
    /// [`IndexError::Search`] or [`IndexError::SearchDamaged`].
    pub fn dump_rows(&self) -> Result<Vec<SearchRow>, IndexError> {
        let searcher = self.committed.read().searcher.clone();
        let mut rows = RowMap::new();
        for (ord, segment) in (0..).zip(searcher.segment_readers()) {
            let ids = self.read_ids(&searcher, (ord, segment), &mut rows)?;
            for (field, entry) in self.schema.schema.fields().filter(|(_, entry)| entry.is_indexed()) {
                let visit = |term: &[u8], doc: u32| {
                    if let Some(id) = ids.get(&doc) {
                        rows.entry((entry.name().to_owned(), term.to_vec())).or_default().push(*id);
                    }
                };
                visit_postings(segment, field, visit).map_err(TantivyError::from)?;
            }
        }
        let row = |((field, value), mut media_ids): (_, Vec<[u8; 16]>)| {
            media_ids.sort_unstable();
            SearchRow { field, value, media_ids }
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The ids of a segment's documents, whose facts become rows.
    fn read_ids(
        &self,
        searcher: &Searcher,
        (ord, segment): (u32, &SegmentReader),
        rows: &mut RowMap,
    ) -> Result<BTreeMap<u32, [u8; 16]>, IndexError> {
        let mut ids = BTreeMap::new();
        let visit = |term: &[u8], doc: u32| {
            if !segment.is_deleted(doc) {
                ids.insert(doc, term.try_into().unwrap_or_default());
            }
        };
        visit_postings(segment, self.schema.id_field(), visit).map_err(TantivyError::from)?;
        for (doc, id) in &ids {
            let document: TantivyDocument = searcher.doc(DocAddress::new(ord, *doc))?;
            let facts = rmp_serde::to_vec_named(&self.schema.read_facts(&document)?).unwrap_or_default();
            rows.entry(("facts".into(), facts)).or_default().push(*id);
        }
        Ok(ids)
    }
}

fn visit_postings(
    segment: &SegmentReader,
    field: Field,
    mut visit: impl FnMut(&[u8], u32),
) -> io::Result<()> {
    let inverted = segment.inverted_index(field).map_err(io::Error::other)?;
    let mut terms = inverted.terms().stream()?;
    while let Some((term, info)) = terms.next() {
        let mut postings = inverted.read_postings_from_terminfo(info, IndexRecordOption::Basic)?;
        while postings.doc() != TERMINATED {
            visit(term, postings.doc());
            postings.advance();
        }
    }
    Ok(())
}
