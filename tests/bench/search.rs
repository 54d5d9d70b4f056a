//! The full text search in process: how fast it is built, how soon a change is found, how long a question takes.

use std::time::{Duration, Instant};

use index::{
    BucketOrigin, IndexBucket, SearchBucket, SearchChange, SearchConfig, SearchProjection, SearchRecord,
    SearchWriter,
};
use schemas::{
    document::MediaDocumentRecord,
    ids::MediaId,
    media::{MediaRecord, MediaStatus},
    media_details::MediaDetails,
    search_query::{MediaSearchFacet, MediaSearchQuery, MediaSearchSort},
};

use crate::{Aim, Row, process::resident_kb, size};

/// Syllables of which words are made: about 8,000 different ones.
const SYLLABLES: [&str; 20] = [
    "ba", "co", "di", "fu", "ga", "he", "jo", "ka", "li", "mu", "na", "or", "pe", "qui", "ro", "sa", "te",
    "ur", "vi", "zo",
];
const DESCRIPTION_WORDS: u64 = 55;
const BATCH: u64 = 256;
const QUERIES: u64 = 1_000;
const CHANGES_PER_SECOND: u64 = 200;
const LAG_SECONDS: u64 = 10;

/// A number that looks random and is the same in each run.
const fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn word(seed: u64) -> String {
    let mut rest = mixed(seed) % 8_000;
    let mut word = String::new();
    for _ in 0..3 {
        word.push_str(SYLLABLES[usize::try_from(rest % 20).unwrap()]);
        rest /= 20;
    }
    word
}

fn words(seed: u64, count: u64) -> String {
    (0..count).map(|at| word(seed * 1_000 + at)).collect::<Vec<_>>().join(" ")
}

fn media_id(number: u64) -> MediaId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    MediaId::from_bytes(id)
}

fn document(number: u64, title_seed: u64) -> SearchRecord {
    let details = MediaDetails { tags: vec![word(number % 100)], ..MediaDetails::default() };
    SearchRecord::Document(Some(Box::new(MediaDocumentRecord {
        title: words(title_seed, 6),
        description: Some(words(number + 1, DESCRIPTION_WORDS)),
        details,
        ..MediaDocumentRecord::new(media_id(number), format!("owner-{}", number % 50), number)
    })))
}

fn asset(number: u64) -> SearchRecord {
    let status = if number.is_multiple_of(10) { MediaStatus::Stored } else { MediaStatus::Ready };
    let owner = format!("owner-{}", number % 50);
    SearchRecord::Asset(Some(Box::new(MediaRecord::new(media_id(number), owner, status, number))))
}

fn change(number: u64, sequence: u64, record: SearchRecord) -> SearchChange {
    SearchChange { sequence, stored_at_ms: 1, record: Some((media_id(number), record)) }
}

/// Applies one bucket as the reader does: in batches, with the commits of a rebuild.
fn build(writer: &mut SearchWriter, bucket: SearchBucket, count: u64, record: impl Fn(u64) -> SearchRecord) {
    let commit_at = SearchConfig::default().rebuild_media_max;
    for from in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
        let numbers = from..(from + BATCH).min(count);
        let changes = numbers.map(|number| change(number, number + 1, record(number)));
        writer.apply_changes(bucket, changes.collect()).unwrap();
        if writer.changed_count() >= commit_at {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
}

/// Milliseconds of each question, sorted.
fn query_times_ms(search: &SearchProjection, count: u64) -> Vec<f64> {
    let mut times: Vec<f64> = (0..QUERIES)
        .map(|at| {
            let mut text = words(mixed(at) % count, 2);
            // Every second one has a typing error.
            if at.is_multiple_of(2) {
                text.insert(2, 'x');
            }
            let question = MediaSearchQuery {
                visible_owner: (at % 3 > 0).then(|| format!("owner-{}", at % 50)),
                text: if at.is_multiple_of(10) { String::new() } else { text },
                sort: if at.is_multiple_of(5) { MediaSearchSort::Title } else { MediaSearchSort::Relevance },
                limit: 50,
                facets: vec![MediaSearchFacet::Status, MediaSearchFacet::Tag],
                ..MediaSearchQuery::default()
            };
            let begun = Instant::now();
            search.search_media(&question, 512 * 1024).unwrap();
            begun.elapsed().as_secs_f64() * 1_000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Milliseconds from each change until it can be found, sorted: changes come evenly, and are committed as the index does.
fn lag_times_ms(writer: &mut SearchWriter, count: u64) -> Vec<f64> {
    let pause = Duration::from_millis(SearchConfig::default().commit_ms);
    let begun = Instant::now();
    let due = |at: u64| Duration::from_millis(at * 1_000 / CHANGES_PER_SECOND);
    let (mut times, mut applied, total) = (Vec::new(), 0, LAG_SECONDS * CHANGES_PER_SECOND);
    while applied < total {
        std::thread::sleep(pause);
        let ready = (applied..total).take_while(|at| due(*at) <= begun.elapsed()).count() as u64;
        let numbers = applied..applied + ready;
        let changes = numbers
            .clone()
            .map(|at| change(mixed(at) % count, count + at + 1, document(mixed(at) % count, at)));
        writer.apply_changes(SearchBucket::Media, changes.collect()).unwrap();
        writer.commit().unwrap();
        let found = begun.elapsed();
        times.extend(numbers.map(|at| found.saturating_sub(due(at)).as_secs_f64() * 1_000.0));
        applied += ready;
    }
    times.sort_by(f64::total_cmp);
    times
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Building, asking and changing an index of 100,000 media.
pub(crate) fn full_text() -> Vec<Row> {
    let count = size("BENCH_SEARCH", 100_000);
    let folder = tempfile::tempdir().unwrap();
    let origins = [IndexBucket::Media, IndexBucket::Assets].map(|bucket| BucketOrigin {
        bucket,
        created_at_us: 1,
        last_sequence: u64::MAX,
    });
    let before_kb = resident_kb(std::process::id());
    let opened = SearchProjection::open(&folder.path().join("search"), &SearchConfig::default(), &origins);
    let (search, mut writer) = opened.unwrap();
    let begun = Instant::now();
    build(&mut writer, SearchBucket::Media, count, |number| document(number, number));
    let documents_rate = count as f64 / begun.elapsed().as_secs_f64();
    build(&mut writer, SearchBucket::Assets, count, asset);
    let both_rate = 2.0 * count as f64 / begun.elapsed().as_secs_f64();
    let queries = query_times_ms(&search, count);
    let lags = lag_times_ms(&mut writer, count);
    let memory_mib = (resident_kb(std::process::id()) - before_kb) / 1_024.0;
    let row = |name, ours, unit, aim| Row { name, ours, baseline: 1.0, unit, against: "itself", aim };
    vec![
        row("search: media built, documents", documents_rate, "/s", Aim::RatioLeast(20_000.0)),
        row("search: changes built, documents and assets", both_rate, "/s", Aim::RatioLeast(20_000.0)),
        row("search: a question, p50", percentile(&queries, 50), "ms", Aim::Most(20.0)),
        row("search: a question, p99", percentile(&queries, 99), "ms", Aim::Most(20.0)),
        row("search: 200 changes/s until found, p99", percentile(&lags, 99), "ms", Aim::Most(1_000.0)),
        row("search: resident memory it added", memory_mib, "MiB", Aim::Most(400.0)),
    ]
}
