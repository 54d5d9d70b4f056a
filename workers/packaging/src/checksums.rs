//! Checksums of stored objects, in the form that `sha256sum --check` reads: a line of digest, two spaces and path for each.
//!
//! Limits: a list of more than [`LIST_BYTES_MAX`] bytes is not read.

use std::{collections::BTreeMap, fmt::Write};

/// Largest list that is read, in bytes: 16 MiB, enough for 100,000 objects.
pub const LIST_BYTES_MAX: u64 = 16 << 20;

/// Characters of a SHA-256 in hex.
const DIGEST_CHARS: usize = 64;

/// The SHA-256 of objects in lower-case hex, by their paths. Its text is the same in whatever order they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumList {
    digests: BTreeMap<String, String>,
}

impl ChecksumList {
    /// Takes note of an object.
    pub fn insert(&mut self, path: impl Into<String>, sha256: impl Into<String>) {
        self.digests.insert(path.into(), sha256.into());
    }

    /// Takes note of all that another list has.
    pub fn extend(&mut self, other: Self) {
        self.digests.extend(other.digests);
    }

    /// Digest of an object, if there is one.
    pub fn find(&self, path: &str) -> Option<&str> {
        self.digests.get(path).map(String::as_str)
    }

    /// Paths and digests, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.digests.iter().map(|(path, digest)| (path.as_str(), digest.as_str()))
    }

    /// The list as it is stored.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (path, digest) in &self.digests {
            // Writing to a string never fails.
            writeln!(text, "{digest}  {path}").ok();
        }
        text
    }

    /// Reads a list; `None` when a line is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut list = Self::default();
        for line in text.lines() {
            let (digest, path) = line.split_once("  ")?;
            let is_digest = digest.len() == DIGEST_CHARS
                && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if !is_digest || path.is_empty() {
                return None;
            }
            list.insert(path, digest);
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_whatever_the_order() {
        let (first, second) = ("0".repeat(64), "f".repeat(64));
        let mut list = ChecksumList::default();
        list.insert("v720/2.m4s", &second);
        list.insert("v720/1.m4s", &first);
        assert_eq!(list.render(), format!("{first}  v720/1.m4s\n{second}  v720/2.m4s\n"));
        assert_eq!(ChecksumList::parse(&list.render()), Some(list.clone()));
        assert_eq!(list.find("v720/2.m4s"), Some(second.as_str()));
        assert_eq!(ChecksumList::parse(""), Some(ChecksumList::default()));
    }

    #[test]
    fn a_damaged_list_is_none() {
        let digest = "0".repeat(64);
        for text in [
            format!("{digest} v720/1.m4s\n"),
            format!("{digest}  \n"),
            format!("{}g  v720/1.m4s\n", "0".repeat(63)),
            format!("{}  v720/1.m4s\n", "0".repeat(63)),
            format!("{digest}  v720/1.m4s\n\n{digest}  v720/2.m4s\n"),
        ] {
            assert_eq!(ChecksumList::parse(&text), None, "{text:?}");
        }
    }
}
