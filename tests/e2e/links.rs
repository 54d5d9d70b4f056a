//! What the documents at the top name is there: relative links, and paths of this repository in backticks.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 4] = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"];
/// Names with one of these ends are files of the repository, also without a folder before them.
const ENDS: [&str; 6] = [".rs", ".toml", ".conf", ".yaml", ".yml", ".md"];
/// First steps of what looks like a path and is none, or is made by a build or a run.
const ELSEWHERE: [&str; 9] =
    ["application", "audio", "data", "image", "target", "text", "video", ".env", ".tools"];

/// The targets of links in a line: `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// What stands between backticks in a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    let count = line.split('`').count();
    line.split('`')
        .enumerate()
        .filter(move |(index, _)| index % 2 == 1 && index + 1 < count)
        .map(|(_, span)| span)
}

/// Whether a text in backticks is meant as a path of the repository.
fn is_path(text: &str) -> bool {
    let of_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let first = text.split('/').next().unwrap_or_default();
    !first.is_empty()
        && text.chars().all(of_path)
        && !ELSEWHERE.contains(&first)
        && (text.contains('/') || ENDS.iter().any(|end| text.ends_with(end) && text != *end))
}

/// The folder that a path names or lies in.
fn folder(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(Path::new("")).to_owned() }
}

/// The paths of a document, each with its line; those that are not there are marked.
fn paths(document: &str) -> BTreeSet<(usize, String, bool)> {
    let text = std::fs::read_to_string(document).unwrap_or_else(|error| panic!("{document}: {error}"));
    let mut found = BTreeSet::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code {
            continue;
        }
        for link in links(line).filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let path = link.split('#').next().unwrap_or_default();
            found.insert((index + 1, path.to_owned(), Path::new(path).exists()));
        }
        // A name without its folder lies in that of a path before it in the line.
        let mut before = PathBuf::new();
        for path in spans(line).filter(|span| is_path(span)) {
            let is_whole = Path::new(path).exists();
            found.insert((index + 1, path.to_owned(), is_whole || before.join(path).exists()));
            if is_whole {
                before = folder(Path::new(path));
            }
        }
    }
    found
}

#[test]
fn every_path_that_a_document_names_is_there() {
    for document in DOCUMENTS {
        let paths = paths(document);
        let missing: Vec<_> = paths.iter().filter(|(_, _, is_there)| !is_there).collect();
        assert!(missing.is_empty(), "{document}: {missing:?}");
        assert!(paths.len() > 3 || document == "CHANGELOG.md", "{document} names {paths:?}");
    }
}

#[test]
fn paths_are_distinguished_from_other_texts() {
    for text in ["src/lib.rs", "nats/", ".ci/run", "tests/e2e", "Cargo.toml", "limit/", "compose.yaml"] {
        assert!(is_path(text), "{text}");
    }
    for text in [
        "/v1/media",
        "text/event-stream",
        "evt.media.*",
        "a b/c",
        "report.json",
        "x/{id}",
        "target/release",
        "",
    ] {
        assert!(!is_path(text), "{text}");
    }
    assert_eq!(spans("a `b` c `d/e` and one ` alone").collect::<Vec<_>>(), ["b", "d/e"]);
    assert_eq!(links("[a](b) and [c](d#e)").collect::<Vec<_>>(), ["b", "d#e"]);
}
