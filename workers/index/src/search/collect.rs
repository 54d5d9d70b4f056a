//! What is collected of the hits of a query: how many there are, the first ones behind a cursor, and how many have which value.
//!
//! Limits: as many hits are kept as a page has, and one; of values as many numbers as there are different ones.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    io,
    ops::Bound,
};

use schemas::search_query::{MediaSearchFacet, MediaSearchSort};
use tantivy::{
    DocAddress, DocId, Score, SegmentOrdinal, SegmentReader,
    collector::{Collector, SegmentCollector},
    columnar::{Column, StrColumn},
};

use super::{
    fields::{CREATED_AT_MS, DURATION_MS, ID_HIGH, ID_LOW, TITLE_ORDER},
    rank::{HitPosition, in_order, score_rank},
};

/// Collects a page.
#[derive(Debug)]
pub(super) struct PageCollector {
    pub(super) sort: MediaSearchSort,
    /// Only hits behind it are kept; all are counted.
    pub(super) after: Option<HitPosition>,
    /// Most hits that are kept; 0 to count alone.
    pub(super) keep_max: usize,
    pub(super) facets: Vec<MediaSearchFacet>,
}

/// What was collected.
#[derive(Debug, Default)]
pub(super) struct CollectedPage {
    pub(super) total: u64,
    /// The first ones.
    pub(super) hits: Vec<(HitPosition, DocAddress)>,
    /// In the order of the facets.
    pub(super) counts: Vec<BTreeMap<String, u64>>,
}

/// As [`HitPosition`] within a segment: of titles their number among all of the segment.
type LocalPosition = (u64, u64, u128);

/// What hits of a segment are sorted by first.
enum FirstColumn {
    Score,
    /// Nothing: time alone decides.
    Time,
    Duration(Column<u64>),
    Title(StrColumn),
}

impl FirstColumn {
    fn open(sort: MediaSearchSort, segment: &SegmentReader) -> tantivy::Result<Self> {
        Ok(match sort {
            MediaSearchSort::Relevance => Self::Score,
            MediaSearchSort::Newest | MediaSearchSort::Oldest => Self::Time,
            MediaSearchSort::Longest => Self::Duration(segment.fast_fields().u64(DURATION_MS)?),
            // A segment without the column has no documents.
            MediaSearchSort::Title => segment.fast_fields().str(TITLE_ORDER)?.map_or(Self::Time, Self::Title),
        })
    }

    fn read(&self, doc: DocId, score: Score) -> u64 {
        match self {
            Self::Score => score_rank(score),
            Self::Time => 0,
            Self::Duration(column) => u64::MAX - column.first(doc).unwrap_or(0),
            Self::Title(column) => column.ords().first(doc).unwrap_or(u64::MAX),
        }
    }

    /// The position behind which hits of this segment are; `None` when all are.
    fn locate(&self, after: &HitPosition) -> io::Result<Option<LocalPosition>> {
        let Self::Title(column) = self else {
            let first: [u8; 8] = after.first.as_slice().try_into().unwrap_or_default();
            return Ok(Some((u64::from_be_bytes(first), after.time, after.id)));
        };
        let dictionary = column.dictionary();
        if let Some(ord) = dictionary.term_ord(&after.first)? {
            return Ok(Some((ord, after.time, after.id)));
        }
        // No medium of this segment has that title: those with the next one come.
        let bounds = dictionary.term_bounds_to_ord(Bound::Included(&after.first), Bound::Unbounded)?;
        Ok(match bounds.0 {
            Bound::Included(0) | Bound::Unbounded => None,
            Bound::Included(next) => Some((next - 1, u64::MAX, u128::MAX)),
            Bound::Excluded(ord) => Some((ord, u64::MAX, u128::MAX)),
        })
    }

    fn to_bytes(&self, first: u64) -> io::Result<Vec<u8>> {
        let Self::Title(column) = self else { return Ok(first.to_be_bytes().to_vec()) };
        let mut title = Vec::new();
        column.dictionary().ord_to_term(first, &mut title)?;
        Ok(title)
    }
}

/// Counts values of a field.
struct ValueCounter {
    column: Option<StrColumn>,
    counts: HashMap<u64, u64>,
}

impl ValueCounter {
    fn count(&mut self, doc: DocId) {
        if let Some(column) = &self.column {
            for ord in column.term_ords(doc) {
                *self.counts.entry(ord).or_default() += 1;
            }
        }
    }

    fn into_values(self) -> io::Result<Vec<(String, u64)>> {
        let Some(column) = self.column else { return Ok(Vec::new()) };
        let mut counts: Vec<(u64, u64)> = self.counts.into_iter().collect();
        counts.sort_unstable();
        let ords: Vec<u64> = counts.iter().map(|(ord, _)| *ord).collect();
        let mut values = Vec::with_capacity(counts.len());
        let mut remaining = counts.iter();
        column.dictionary().sorted_ords_to_term_cb(&ords, |value| {
            if let Some((_, count)) = remaining.next() {
                values.push((String::from_utf8_lossy(value).into_owned(), *count));
            }
        })?;
        Ok(values)
    }
}

/// Collects the hits of one segment.
pub(super) struct SegmentPage {
    segment: SegmentOrdinal,
    sort: MediaSearchSort,
    first: FirstColumn,
    created: Column<u64>,
    ids: (Column<u64>, Column<u64>),
    after: Option<LocalPosition>,
    keep_max: usize,
    total: u64,
    /// The last one of those that are kept is on top.
    hits: BinaryHeap<(LocalPosition, DocId)>,
    counters: Vec<ValueCounter>,
}

impl SegmentPage {
    fn position(&self, doc: DocId, score: Score) -> LocalPosition {
        let number = |column: &Column<u64>| column.first(doc).unwrap_or(0);
        let id = (u128::from(number(&self.ids.0)) << 64) | u128::from(number(&self.ids.1));
        let (time, id) = in_order(self.sort, number(&self.created), id);
        (self.first.read(doc, score), time, id)
    }

    fn into_page(self) -> io::Result<CollectedPage> {
        let mut hits = Vec::with_capacity(self.hits.len());
        for ((first, time, id), doc) in self.hits {
            let position = HitPosition { first: self.first.to_bytes(first)?, time, id };
            hits.push((position, DocAddress::new(self.segment, doc)));
        }
        let counts =
            self.counters.into_iter().map(|counter| Ok(counter.into_values()?.into_iter().collect()));
        Ok(CollectedPage { total: self.total, hits, counts: counts.collect::<io::Result<_>>()? })
    }
}

impl SegmentCollector for SegmentPage {
    type Fruit = io::Result<CollectedPage>;

    fn collect(&mut self, doc: DocId, score: Score) {
        self.total += 1;
        for counter in &mut self.counters {
            counter.count(doc);
        }
        if self.keep_max == 0 {
            return;
        }
        let position = self.position(doc, score);
        if self.after.is_some_and(|after| position <= after) {
            return;
        }
        if self.hits.len() < self.keep_max {
            self.hits.push((position, doc));
        } else if let Some(mut last) = self.hits.peek_mut()
            && position < last.0
        {
            *last = (position, doc);
        }
    }

    fn harvest(self) -> Self::Fruit {
        self.into_page()
    }
}

impl Collector for PageCollector {
    type Fruit = CollectedPage;
    type Child = SegmentPage;

    fn for_segment(&self, segment: SegmentOrdinal, reader: &SegmentReader) -> tantivy::Result<SegmentPage> {
        let columns = reader.fast_fields();
        let first = FirstColumn::open(self.sort, reader)?;
        let after = self.after.as_ref().map(|after| first.locate(after)).transpose()?.flatten();
        let mut counters = Vec::with_capacity(self.facets.len());
        for facet in &self.facets {
            counters.push(ValueCounter { column: columns.str(facet.as_str())?, counts: HashMap::new() });
        }
        Ok(SegmentPage {
            segment,
            sort: self.sort,
            first,
            created: columns.u64(CREATED_AT_MS)?,
            ids: (columns.u64(ID_HIGH)?, columns.u64(ID_LOW)?),
            after,
            keep_max: self.keep_max,
            total: 0,
            hits: BinaryHeap::new(),
            counters,
        })
    }

    fn requires_scoring(&self) -> bool {
        self.sort == MediaSearchSort::Relevance && self.keep_max > 0
    }

    fn merge_fruits(&self, segments: Vec<io::Result<CollectedPage>>) -> tantivy::Result<CollectedPage> {
        let mut all =
            CollectedPage { counts: vec![BTreeMap::new(); self.facets.len()], ..CollectedPage::default() };
        for segment in segments {
            let segment = segment?;
            all.total += segment.total;
            all.hits.extend(segment.hits);
            for (sum, counts) in all.counts.iter_mut().zip(segment.counts) {
                for (value, count) in counts {
                    *sum.entry(value).or_default() += count;
                }
            }
        }
        all.hits.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all.hits.truncate(self.keep_max);
        Ok(all)
    }
}
