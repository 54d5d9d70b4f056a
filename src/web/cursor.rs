//! Cursors of lists as clients get them: where the index ended a page, sealed with an HMAC over the list it belongs to.
//!
//! A list is what was asked for and by whom: its name, its filters, whose items it shows. A cursor opens in that list only, on
//! every replica, since all share the signing key; to a client it means nothing.
//!
//! Limits: a cursor has at most `LENGTH_MAX` characters.

use data_encoding::BASE32HEX_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{error::Problem, problem_code::ProblemCode};

/// Longest cursor in characters.
const LENGTH_MAX: usize = 256;
/// Bytes of the HMAC that go into a cursor: 128 bits can't be guessed.
const TAG_BYTES: usize = 16;
/// Characters of them.
const TAG_LENGTH: usize = 26;
/// Keeps the tag apart from whatever else the key signs.
const PURPOSE: &[u8] = b"streamgate list cursor 1\0";

/// One list: seals and opens its cursors.
#[derive(Debug)]
pub struct CursorSealer(Hmac<Sha256>);

impl CursorSealer {
    /// The list `name` with these filters, among them whose items it shows.
    ///
    /// # Errors
    /// When the filters can't be written down.
    pub fn new(key: &[u8], name: &str, filters: &impl Serialize) -> Result<Self, Problem> {
        // As JSON no two lists are the same bytes.
        let list = serde_json::to_vec(&(name, filters)).map_err(|error| Problem::internal(&error))?;
        let mut mac = Hmac::new_from_slice(key).map_err(|error| Problem::internal(&error))?;
        // The key also signs path tokens: the purpose keeps one from being taken for the other.
        mac.update(PURPOSE);
        mac.update(&list);
        mac.update(&[0]);
        Ok(Self(mac))
    }

    /// The cursor that a client gets for the one that the index gave.
    pub fn seal(&self, position: &str) -> String {
        format!("{position}{}", self.compute_mac(position))
    }

    /// The cursor for the index.
    ///
    /// # Errors
    /// 400 when this list did not answer it.
    pub fn open(&self, cursor: &str) -> Result<String, Problem> {
        let parts = cursor.len().checked_sub(TAG_LENGTH).and_then(|length| cursor.split_at_checked(length));
        let known = parts.filter(|(position, tag)| {
            cursor.len() <= LENGTH_MAX
                // In constant time: otherwise a tag could be guessed byte by byte.
                && bool::from(self.compute_mac(position).as_bytes().ct_eq(tag.as_bytes()))
        });
        known.map(|(position, _)| position.to_owned()).ok_or_else(cursor_malformed)
    }

    fn compute_mac(&self, position: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(position.as_bytes());
        let bytes = mac.finalize().into_bytes();
        BASE32HEX_NOPAD.encode(bytes.get(..TAG_BYTES).unwrap_or_default()).to_ascii_lowercase()
    }
}

/// The cursor is none of this list.
pub fn cursor_malformed() -> Problem {
    Problem::new(ProblemCode::CursorMalformed).with_detail(
        "a cursor is the `next_cursor` of a page with the same filters, asked for by the same owner",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(key: &str, name: &str, filters: (Option<&str>, Option<&str>)) -> CursorSealer {
        CursorSealer::new(key.as_bytes(), name, &filters).unwrap()
    }

    #[test]
    fn a_cursor_opens_in_its_own_list_only() {
        let own = list("key", "media", (Some("alice"), None));
        let cursor = own.seal("0123abc");
        assert_eq!(own.open(&cursor).unwrap(), "0123abc");
        assert_eq!(list("key", "media", (Some("alice"), None)).open(&cursor).unwrap(), "0123abc");
        for other in [
            list("other", "media", (Some("alice"), None)),
            list("key", "jobs", (Some("alice"), None)),
            list("key", "media", (Some("bob"), None)),
            list("key", "media", (None, None)),
            list("key", "media", (None, Some("alice"))),
            list("key", "media", (Some("alice"), Some("ready"))),
        ] {
            let problem = other.open(&cursor).unwrap_err();
            assert_eq!(
                (problem.status(), problem.code()),
                (axum::http::StatusCode::BAD_REQUEST, "cursor_malformed")
            );
        }
    }

    #[test]
    fn a_changed_or_made_up_cursor_opens_nowhere() {
        let own = list("key", "media", (None, None));
        let cursor = own.seal("0123abc");
        for at in 0..cursor.len() {
            let mut bytes = cursor.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(own.open(&changed).is_err(), "{changed}");
        }
        for wrong in [
            "",
            "x",
            "0123abc",
            &"0".repeat(TAG_LENGTH),
            cursor.split_at(1).1,
            &cursor.to_uppercase(),
            &format!("{cursor}0"),
            &format!("0{cursor}"),
            &"é".repeat(40),
            &own.seal(&"0".repeat(LENGTH_MAX)),
        ] {
            assert!(own.open(wrong).is_err(), "{wrong}");
        }
    }
}
