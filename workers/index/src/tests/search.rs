//! The search projection by itself.

use std::path::Path;

use proptest::prelude::*;
use schemas::{
    document::{MediaDocumentRecord, MediaVisibility},
    gate::{GateRule, MediaGate},
    media::{MediaRecord, MediaStatus},
    media_details::MediaDetails,
    search_query::{
        FacetCount, MediaSearchFacet, MediaSearchFilters, MediaSearchPage, MediaSearchQuery, MediaSearchSort,
    },
};
use tempfile::TempDir;

use super::{asset, document, media_id};
use crate::{
    BucketOrigin, IndexBucket, IndexError, SearchBucket, SearchChange, SearchConfig, SearchProjection,
    SearchRecord, SearchTextError, SearchWriter, summarise::summarise_media,
};

const ORIGINS: [BucketOrigin; 2] = [
    BucketOrigin { bucket: IndexBucket::Media, created_at_us: 1, last_sequence: 1_000_000 },
    BucketOrigin { bucket: IndexBucket::Assets, created_at_us: 2, last_sequence: 1_000_000 },
];

const BYTES_MAX: usize = 1 << 20;

fn open(folder: &Path, origins: &[BucketOrigin]) -> (SearchProjection, SearchWriter) {
    let config = SearchConfig { memory_bytes_max: 15_000_000, ..SearchConfig::default() };
    SearchProjection::open(&folder.join("search"), &config, origins).unwrap()
}

/// A search with its writer, which counts sequences itself.
struct Library {
    folder: TempDir,
    search: SearchProjection,
    writer: SearchWriter,
    sequence: u64,
}

impl Library {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (search, writer) = open(folder.path(), &ORIGINS);
        Self { folder, search, writer, sequence: 0 }
    }

    fn apply(&mut self, number: u8, record: SearchRecord) {
        self.sequence += 1;
        let bucket = match record {
            SearchRecord::Asset(_) => SearchBucket::Assets,
            _ => SearchBucket::Media,
        };
        let change = SearchChange {
            sequence: self.sequence,
            stored_at_ms: nats::now_ms(),
            record: Some((media_id(number), record)),
        };
        self.writer.apply_changes(bucket, vec![change]).unwrap();
    }

    fn put(&mut self, record: MediaDocumentRecord) {
        self.apply(record.media_id.as_bytes()[0], SearchRecord::Document(Some(Box::new(record))));
    }

    /// Titles in order of age, the oldest first.
    fn with_titles(titles: &[&str]) -> Self {
        let mut library = Self::new();
        for (title, number) in titles.iter().zip(1..) {
            library.put(titled(number, title));
        }
        library.writer.commit().unwrap();
        library
    }

    fn ask(&self, question: &MediaSearchQuery) -> MediaSearchPage {
        self.search.search_media(question, BYTES_MAX).unwrap()
    }

    fn find(&self, text: &str) -> Vec<String> {
        titles(&self.ask(&about(text)))
    }
}

fn titled(number: u8, title: &str) -> MediaDocumentRecord {
    MediaDocumentRecord { title: title.into(), ..document(number, "ann", 1_000 + u64::from(number)) }
}

fn about(text: &str) -> MediaSearchQuery {
    MediaSearchQuery { text: text.into(), limit: 200, ..MediaSearchQuery::default() }
}

fn titles(page: &MediaSearchPage) -> Vec<String> {
    page.hits.iter().map(|hit| hit.item.title.clone()).collect()
}

fn stored(number: u8, owner: &str, status: MediaStatus, duration_ms: u64) -> SearchRecord {
    let mut record = asset(number, owner, status);
    record.technical.as_mut().unwrap().duration_ms = duration_ms;
    record.summary = summarise_media(&record);
    SearchRecord::Asset(Some(Box::new(record)))
}

fn counts(page: &MediaSearchPage, facet: MediaSearchFacet) -> Vec<(&str, u64)> {
    page.facets[&facet].iter().map(|FacetCount { value, count }| (value.as_str(), *count)).collect()
}

#[test]
fn exact_words_come_before_beginnings_and_these_before_typing_errors() {
    let mut library = Library::with_titles(&["mountain", "mountains", "mountian", "harbour"]);
    let described = MediaDocumentRecord { description: Some("A mountain".into()), ..titled(9, "described") };
    library.put(described);
    library.writer.commit().unwrap();
    assert_eq!(library.find("mountain"), ["mountain", "described", "mountains", "mountian"]);
    assert_eq!(library.find("MOUNTIAN"), ["mountian", "mountains", "mountain", "described"]);
    assert_eq!(library.find("mount"), ["mountian", "mountains", "mountain", "described"], "the newest first");
    assert_eq!(library.find("mountain harbour"), Vec::<String>::new(), "every word has to be found");
    assert_eq!(library.find(""), ["described", "harbour", "mountian", "mountains", "mountain"]);
}

#[test]
fn accents_scripts_and_phrases_are_found() {
    let library =
        Library::with_titles(&["Crème brûlée", "東京都の夜", "Big Buck Bunny", "Bunny is big", "Straße"]);
    for (text, found) in [
        ("creme BRULEE", vec!["Crème brûlée"]),
        ("crèmé", vec!["Crème brûlée"]),
        ("京都", vec!["東京都の夜"]),
        ("夜", vec!["東京都の夜"]),
        ("都の", vec!["東京都の夜"]),
        ("東都", vec![]),
        ("big bunny", vec!["Bunny is big", "Big Buck Bunny"]),
        ("\"big buck\"", vec!["Big Buck Bunny"]),
        ("\"buck big\"", vec![]),
        ("strasse", vec!["Straße"]),
        ("cat", vec![]),
        ("bug", vec![]),
    ] {
        assert_eq!(library.find(text), found, "{text}");
    }
    let marked = &library.ask(&about("bruelee")).hits[0].highlights[0];
    assert_eq!((marked.field.as_str(), marked.text.as_str()), ("title", "Crème brûlée"));
    assert_eq!((marked.ranges[0].start, marked.ranges[0].end), (6, 12));
}

#[test]
fn hostile_texts_are_words_or_refused() {
    let library = Library::with_titles(&["a.*b", "<script>alert(1)</script>"]);
    let ask = |text: &str| library.search.search_media(&about(text), BYTES_MAX);
    for long in ["\"".repeat(10_000), "x".repeat(201), "(".repeat(100_000)] {
        assert!(matches!(ask(&long), Err(IndexError::SearchText(SearchTextError::Long))));
    }
    assert!(matches!(ask(&"a ".repeat(9)), Err(IndexError::SearchText(SearchTextError::Words))));
    assert_eq!(library.find(".*"), ["<script>alert(1)</script>", "a.*b"], "no word: everything");
    assert_eq!(library.find("a.*b"), ["a.*b"]);
    for text in [
        "x".repeat(200),
        "title:a OR owner:b".into(),
        "[a TO z]".into(),
        "\u{200b}\u{feff}\u{202e}a".into(),
        "\\\\\"\\".into(),
        "é".repeat(200),
        "~2^9".into(),
        "\0\u{1}".into(),
    ] {
        ask(&text).unwrap();
    }
    for cursor in ["", "x", "../../etc/passwd", &"v".repeat(400)] {
        let question = MediaSearchQuery { cursor: Some(cursor.into()), ..about("") };
        assert!(
            matches!(library.search.search_media(&question, BYTES_MAX), Err(IndexError::Cursor)),
            "{cursor}"
        );
    }
}

#[test]
fn an_owner_finds_and_counts_only_its_own() {
    let mut library = Library::new();
    for (number, owner) in [(1, "ann"), (2, "ben"), (3, "ann")] {
        library.put(document(number, owner, 1_000 + u64::from(number)));
        library.apply(
            number,
            stored(number, owner, if number == 1 { MediaStatus::Ready } else { MediaStatus::Stored }, 10),
        );
    }
    library.writer.commit().unwrap();
    let facets = vec![MediaSearchFacet::Owner, MediaSearchFacet::Status, MediaSearchFacet::Visibility];
    let everybody = MediaSearchQuery { facets, ..about("clip") };
    let mine = MediaSearchQuery { visible_owner: Some("ann".into()), ..everybody.clone() };
    let page = library.ask(&mine);
    assert_eq!((titles(&page), page.total), (vec!["clip 3".to_owned(), "clip 1".into()], 2));
    assert_eq!(counts(&page, MediaSearchFacet::Owner), [("ann", 2)]);
    assert_eq!(counts(&page, MediaSearchFacet::Status), [("ready", 1), ("stored", 1)]);
    assert_eq!(counts(&page, MediaSearchFacet::Visibility), [("private", 2)]);
    // Neither a filter nor its facet leads beyond what may be seen.
    let other = MediaSearchFilters { owner: Some("ben".into()), ..MediaSearchFilters::default() };
    let page = library.ask(&MediaSearchQuery { filters: other.clone(), ..mine });
    assert_eq!((page.hits.len(), page.total), (0, 0));
    assert_eq!(counts(&page, MediaSearchFacet::Owner), [("ann", 2)]);
    let page = library.ask(&MediaSearchQuery { filters: other, ..everybody });
    assert_eq!(titles(&page), ["clip 2"]);
    assert_eq!(
        counts(&page, MediaSearchFacet::Owner),
        [("ann", 2), ("ben", 1)],
        "a facet is not narrowed by itself"
    );
    assert_eq!(counts(&page, MediaSearchFacet::Status), [("stored", 1)]);
}

/// Media that differ in everything that is filtered by.
fn mixed_library() -> Library {
    let mut library = Library::with_titles(&["Zebra", "apple", "Éclair", ""]);
    for (number, status, duration_ms) in
        [(1, MediaStatus::Ready, 500), (2, MediaStatus::Ready, 9_000), (3, MediaStatus::Failed, 700)]
    {
        library.apply(number, stored(number, "ann", status, duration_ms));
    }
    let rule = GateRule::Public {};
    let gate = MediaGate { epoch: 1, rule: Some(rule), rule_digest: String::new(), changed_at_ms: 1 };
    let details = MediaDetails {
        tags: vec!["Wild Animals".into(), "nature".into()],
        language: Some("pt-BR".into()),
        ..MediaDetails::default()
    };
    library.put(MediaDocumentRecord { gate: Some(gate), details, ..titled(2, "apple") });
    library.writer.commit().unwrap();
    library
}

#[test]
fn filters_hold() {
    let library = mixed_library();
    let none = MediaSearchFilters::default();
    for (filters, found) in [
        (MediaSearchFilters { status: Some(MediaStatus::Ready), ..none.clone() }, vec!["apple", "Zebra"]),
        (MediaSearchFilters { visibility: Some(MediaVisibility::Public), ..none.clone() }, vec!["apple"]),
        (MediaSearchFilters { language: Some("pt".into()), ..none.clone() }, vec!["apple"]),
        (MediaSearchFilters { language: Some("pt-BR".into()), ..none.clone() }, vec!["apple"]),
        (MediaSearchFilters { language: Some("p".into()), ..none.clone() }, vec![]),
        (MediaSearchFilters { tag: Some("NATURE".into()), ..none.clone() }, vec!["apple"]),
        (MediaSearchFilters { tag: Some("wild".into()), ..none.clone() }, vec![]),
        (MediaSearchFilters { duration_ms_min: Some(700), ..none.clone() }, vec!["Éclair", "apple"]),
        (
            MediaSearchFilters { duration_ms_max: Some(700), duration_ms_min: Some(501), ..none.clone() },
            vec!["Éclair"],
        ),
        (
            MediaSearchFilters {
                created_from_ms: Some(1_002),
                created_before_ms: Some(1_004),
                ..none.clone()
            },
            vec!["Éclair", "apple"],
        ),
        (MediaSearchFilters { owner: Some("a".repeat(100_000)), ..none.clone() }, vec![]),
    ] {
        let page = library.ask(&MediaSearchQuery { filters: filters.clone(), ..about("") });
        assert_eq!(titles(&page), found, "{filters:?}");
    }
    let page = library.ask(&about("animal"));
    assert_eq!(titles(&page), ["apple"]);
    let marked = &page.hits[0].highlights[0];
    assert_eq!(
        (marked.field.as_str(), marked.text.as_str(), marked.ranges[0].start),
        ("tags", "Wild Animals", 5)
    );
    let facets = MediaSearchFacet::ALL.to_vec();
    let page = library.ask(&MediaSearchQuery { facets, ..about("") });
    assert_eq!(counts(&page, MediaSearchFacet::Tag), [("nature", 1), ("wild animals", 1)]);
    assert_eq!(counts(&page, MediaSearchFacet::Language), [("pt-BR", 1)]);
}

#[test]
fn orders_hold_over_pages_while_others_come() {
    let mut library = mixed_library();
    for (sort, found) in [
        (MediaSearchSort::Newest, ["", "Éclair", "apple", "Zebra"]),
        (MediaSearchSort::Oldest, ["Zebra", "apple", "Éclair", ""]),
        (MediaSearchSort::Longest, ["apple", "Éclair", "Zebra", ""]),
        (MediaSearchSort::Title, ["apple", "Éclair", "Zebra", ""]),
    ] {
        assert_eq!(titles(&library.ask(&MediaSearchQuery { sort, ..about("") })), found, "{sort:?}");
        // The same, a page for each, while others come: in segments of their own.
        let (mut cursor, mut paged) = (None, Vec::new());
        for number in 100.. {
            let question = MediaSearchQuery { sort, limit: 1, cursor, ..about("") };
            let page = library.ask(&question);
            paged.extend(
                page.hits
                    .iter()
                    .filter(|hit| hit.item.media_id.as_bytes()[0] < 100)
                    .map(|hit| hit.item.title.clone()),
            );
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            // Before what was shown, or the pages would not end.
            let early = matches!(sort, MediaSearchSort::Newest | MediaSearchSort::Longest).then_some(5_000);
            let created_at_ms = early.unwrap_or(1);
            let record =
                MediaDocumentRecord { title: "aaa".into(), ..document(number, "ann", created_at_ms) };
            library.put(record);
            if sort == MediaSearchSort::Longest {
                library.apply(number, stored(number, "ann", MediaStatus::Ready, 1_000_000));
            }
            library.writer.commit().unwrap();
        }
        assert_eq!(paged, found, "{sort:?}");
        for number in 100..110 {
            library.apply(number, SearchRecord::Document(None));
            library.apply(number, SearchRecord::Asset(None));
        }
        library.writer.commit().unwrap();
    }
}

#[test]
fn relevance_pages_meet_while_others_come() {
    let mut library = Library::with_titles(&["sea", "seaside", "sea", "sean", "sea view"]);
    let mut question = MediaSearchQuery { limit: 2, ..about("sea") };
    let first = library.ask(&question);
    assert_eq!((titles(&first), first.total), (vec!["sea view".to_owned(), "sea".into()], 5));
    library.put(titled(50, "sea of tranquility"));
    library.put(titled(51, "nothing of it"));
    library.writer.commit().unwrap();
    question.cursor = first.next;
    let second = library.ask(&question);
    assert_eq!(titles(&second), ["sea", "sean"]);
    question.cursor = second.next;
    let third = library.ask(&question);
    assert_eq!((titles(&third), third.next), (vec!["seaside".to_owned()], None));
    let short = library.search.search_media(&about("sea"), 1).unwrap();
    assert_eq!((short.hits.len(), short.next.is_some()), (1, true), "a large page ends early");
}

#[test]
fn removed_media_are_gone_whatever_is_known_of_them() {
    let mut library = Library::with_titles(&["gone"]);
    library.apply(1, stored(1, "ann", MediaStatus::Ready, 10));
    library.apply(1, SearchRecord::Removed);
    library.writer.commit().unwrap();
    assert_eq!(library.ask(&about("")).total, 0);
    // The stages' record comes later than the tombstone: in another bucket there is another order.
    library.apply(1, stored(1, "ann", MediaStatus::Ready, 10));
    library.writer.commit().unwrap();
    assert_eq!(library.ask(&about("")).total, 0);
    library.apply(1, SearchRecord::Asset(None));
    library.apply(1, SearchRecord::Document(None));
    library.writer.commit().unwrap();
    assert_eq!(library.search.dump_rows().unwrap(), []);
}

#[test]
fn what_is_not_committed_is_applied_again_after_a_crash() {
    let mut library = Library::with_titles(&["one", "two"]);
    library.put(titled(3, "three"));
    library.put(titled(1, "one again"));
    // Handed to the library, and never committed.
    library.writer.write_uncommitted().unwrap();
    let Library { folder, search, writer, .. } = library;
    drop((search, writer));
    let (search, mut writer) = open(folder.path(), &ORIGINS);
    assert_eq!(writer.cursor(SearchBucket::Media), 2, "the cursor is that of the documents");
    assert_eq!(titles(&search.search_media(&about(""), BYTES_MAX).unwrap()), ["two", "one"]);
    let again = [(1, "one"), (2, "two"), (3, "three"), (1, "one again")];
    let changes = again.iter().zip(1..).map(|((number, title), sequence)| SearchChange {
        sequence,
        stored_at_ms: nats::now_ms(),
        record: Some((media_id(*number), SearchRecord::Document(Some(Box::new(titled(*number, title)))))),
    });
    writer.apply_changes(SearchBucket::Media, changes.collect()).unwrap();
    writer.commit().unwrap();
    let page = search.search_media(&about(""), BYTES_MAX).unwrap();
    assert_eq!(
        (titles(&page), page.revisions.media),
        (vec!["three".to_owned(), "two".into(), "one again".into()], 4)
    );
}

#[test]
fn an_index_that_does_not_fit_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let fill = |origins: &[BucketOrigin]| {
        let (search, mut writer) = open(folder.path(), origins);
        let found = search.search_media(&about(""), BYTES_MAX).unwrap().total;
        let record = SearchRecord::Document(Some(Box::new(titled(1, "one"))));
        let change =
            SearchChange { sequence: 7, stored_at_ms: nats::now_ms(), record: Some((media_id(1), record)) };
        writer.apply_changes(SearchBucket::Media, vec![change]).unwrap();
        writer.commit().unwrap();
        writer.close().unwrap();
        found
    };
    assert_eq!(fill(&ORIGINS), 0);
    assert_eq!(fill(&ORIGINS), 1, "an ordinary restart goes on");
    let mut remade = ORIGINS;
    remade[0].created_at_us = 99;
    assert_eq!(fill(&remade), 0, "a bucket made anew");
    remade[0].last_sequence = 2;
    assert_eq!(fill(&remade), 0, "a bucket restored to an earlier state");
    remade[0].last_sequence = 100;
    assert_eq!(fill(&remade), 1);
    let place = folder.path().join("search");
    SearchProjection::discard(&place).unwrap();
    assert_eq!(fill(&remade), 0, "one that was removed");
    std::fs::write(place.join("meta.json"), b"nonsense").unwrap();
    assert_eq!(fill(&remade), 0, "one that can't be read");
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, b"no folder").unwrap();
    assert_eq!(fill(&remade), 0);
    let meta = std::fs::read_to_string(place.join("meta.json")).unwrap();
    std::fs::write(place.join("meta.json"), meta.replace("\\\"version\\\":1", "\\\"version\\\":0")).unwrap();
    assert_eq!(fill(&remade), 0, "another version");
}

#[test]
fn an_index_that_was_away_for_longer_than_removals_are_kept_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    for stored_at_ms in [nats::now_ms() - schemas::REMOVAL_MARKER_MS, nats::now_ms()] {
        let (search, mut writer) = open(folder.path(), &ORIGINS);
        assert_eq!(search.search_media(&about(""), BYTES_MAX).unwrap().total, 0);
        let record = SearchRecord::Document(Some(Box::new(titled(1, "one"))));
        let change = SearchChange { sequence: 7, stored_at_ms, record: Some((media_id(1), record)) };
        writer.apply_changes(SearchBucket::Media, vec![change]).unwrap();
        writer.commit().unwrap();
    }
    assert_eq!(open(folder.path(), &ORIGINS).0.search_media(&about(""), BYTES_MAX).unwrap().total, 1);
}

/// What happens to one of three media.
#[derive(Debug, Clone)]
enum Step {
    Document(u8, String, String),
    Removed(u8),
    Deleted(u8),
    Asset(u8, u8),
    AssetGone(u8),
    Commit,
    /// A crash: what is not committed is applied again.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || 1_u8..4;
    let step = prop_oneof![
        4 => (number(), "[a-cé京都 ]{0,12}", "[a-c ]{0,12}").prop_map(|(n, title, text)| Step::Document(n, title, text)),
        1 => number().prop_map(Step::Removed),
        1 => number().prop_map(Step::Deleted),
        3 => (number(), 0_u8..3).prop_map(|(n, status)| Step::Asset(n, status)),
        1 => number().prop_map(Step::AssetGone),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..24)
}

fn record_of(step: &Step) -> Option<(u8, SearchRecord)> {
    let statuses = [MediaStatus::Stored, MediaStatus::Ready, MediaStatus::Failed];
    Some(match step {
        Step::Document(number, title, text) => {
            let record = MediaDocumentRecord { description: Some(text.clone()), ..titled(*number, title) };
            (*number, SearchRecord::Document(Some(Box::new(record))))
        }
        Step::Removed(number) => (*number, SearchRecord::Removed),
        Step::Deleted(number) => (*number, SearchRecord::Document(None)),
        Step::Asset(number, status) => {
            let record = MediaRecord { ..asset(*number, "ann", statuses[usize::from(*status)]) };
            (*number, SearchRecord::Asset(Some(Box::new(record))))
        }
        Step::AssetGone(number) => (*number, SearchRecord::Asset(None)),
        Step::Commit | Step::Crash => return None,
    })
}

fn change_of(number: u8, record: SearchRecord, sequence: u64) -> (SearchBucket, SearchChange) {
    let bucket =
        if matches!(record, SearchRecord::Asset(_)) { SearchBucket::Assets } else { SearchBucket::Media };
    let record = Some((media_id(number), record));
    (bucket, SearchChange { sequence, stored_at_ms: nats::now_ms(), record })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_rebuilt_index_equals_one_that_grew_and_crashed(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let (mut search, mut writer) = open(folder.path(), &ORIGINS);
        let mut log: Vec<(u8, SearchRecord)> = Vec::new();
        for step in &steps {
            match record_of(step) {
                Some((number, record)) => {
                    log.push((number, record.clone()));
                    let (bucket, change) = change_of(number, record, log.len() as u64);
                    writer.apply_changes(bucket, vec![change]).unwrap();
                }
                None if matches!(step, Step::Commit) => writer.commit().unwrap(),
                None => {
                    writer.write_uncommitted().unwrap();
                    drop((search, writer));
                    (search, writer) = open(folder.path(), &ORIGINS);
                    for (sequence, (number, record)) in (1..).zip(&log) {
                        let (bucket, change) = change_of(*number, record.clone(), sequence);
                        writer.apply_changes(bucket, vec![change]).unwrap();
                    }
                }
            }
        }
        writer.commit().unwrap();
        let grown = search.dump_rows().unwrap();
        let other = tempfile::tempdir().unwrap();
        let (rebuilt, mut writer) = open(other.path(), &ORIGINS);
        // The assets before the documents: buckets have no common order.
        for assets in [true, false] {
            for (sequence, (number, record)) in (1..).zip(&log) {
                let (bucket, change) = change_of(*number, record.clone(), sequence);
                if (bucket == SearchBucket::Assets) == assets {
                    writer.apply_changes(bucket, vec![change]).unwrap();
                }
            }
        }
        writer.commit().unwrap();
        prop_assert_eq!(&grown, &rebuilt.dump_rows().unwrap());
        for text in ["", "a", "京", "ab c"] {
            let ask = |search: &SearchProjection| {
                let page = search.search_media(&about(text), BYTES_MAX).unwrap();
                (page.hits, page.total)
            };
            let (hits, total) = ask(&search);
            prop_assert_eq!((&hits, total), (&ask(&rebuilt).0, ask(&rebuilt).1));
            prop_assert!(text.is_empty() || hits.iter().all(|hit| !hit.highlights.is_empty()), "every hit is marked");
        }
    }
}
