//! The search projection over files that are damaged, or that can't be opened now.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{document, media_id};
use crate::{
    BucketOrigin, IndexBucket, IndexError, SearchBucket, SearchChange, SearchConfig, SearchProjection,
    SearchRecord, SearchRow, SearchWriter,
};

const ORIGINS: [BucketOrigin; 2] = [
    BucketOrigin { bucket: IndexBucket::Media, created_at_us: 1, last_sequence: 1_000 },
    BucketOrigin { bucket: IndexBucket::Assets, created_at_us: 2, last_sequence: 1_000 },
];

fn open(place: &Path) -> Result<(SearchProjection, SearchWriter), IndexError> {
    let config = SearchConfig { memory_bytes_max: 15_000_000, ..SearchConfig::default() };
    SearchProjection::open(place, &config, &ORIGINS)
}

/// Applies the same three documents, as far as they are not there; answers what is there then.
fn fill((search, mut writer): (SearchProjection, SearchWriter)) -> Vec<SearchRow> {
    let changes = (1..=3).map(|number| {
        let record = SearchRecord::Document(Some(Box::new(document(number, "ann", 1_000))));
        let record = Some((media_id(number), record));
        SearchChange { sequence: u64::from(number), stored_at_ms: nats::now_ms(), record }
    });
    writer.apply_changes(SearchBucket::Media, changes.collect()).unwrap();
    writer.commit().unwrap();
    writer.close().unwrap();
    search.dump_rows().unwrap()
}

fn files(place: &Path, ending: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

fn cut(path: &Path, length: impl Fn(u64) -> u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

#[test]
fn an_index_with_absent_or_cut_files_comes_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("search");
    let rows = fill(open(&place).unwrap());
    assert!(!rows.is_empty());
    for ending in ["store", "term", "idx", "pos", "fast"] {
        for damage in ["removed", "half", "empty"] {
            let found = files(&place, ending);
            assert!(!found.is_empty(), "{ending}");
            for path in found {
                match damage {
                    "removed" => fs::remove_file(&path).unwrap(),
                    "half" => cut(&path, |length| length / 2),
                    _ => cut(&path, |_| 0),
                }
            }
            let opened = open(&place).unwrap();
            assert_eq!(opened.1.cursor(SearchBucket::Media), 0, "{ending} {damage}: it is built anew");
            assert_eq!(fill(opened), rows, "{ending} {damage}");
            assert!(!folder.path().join("search.old").exists(), "nothing of the damaged one is kept");
        }
    }
}

#[test]
fn an_index_that_can_not_be_opened_now_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("search");
    let rows = fill(open(&place).unwrap());
    // Another process still has it.
    let held = open(&place).unwrap();
    assert!(matches!(open(&place), Err(IndexError::Search(_))));
    drop(held);
    let store = files(&place, "store").remove(0);
    fs::set_permissions(&store, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&store).is_err() {
        assert!(matches!(open(&place), Err(IndexError::Search(_))));
    }
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).unwrap();
    let opened = open(&place).unwrap();
    assert_eq!(opened.1.cursor(SearchBucket::Media), 3);
    assert_eq!(opened.0.dump_rows().unwrap(), rows);
    for (error, kept) in [
        (std::io::Error::from_raw_os_error(24), true),
        (std::io::Error::from_raw_os_error(5), true),
        (std::io::ErrorKind::UnexpectedEof.into(), false),
    ] {
        let text = error.to_string();
        let found = IndexError::from(tantivy::TantivyError::from(error));
        assert_eq!(matches!(found, IndexError::Search(_)), kept, "{text}");
    }
}
