//! Cursors of lists as clients see them: what the index gave out, sealed with a signing key and bound to the list it belongs to.
//!
//! The index's own cursor is readable and fits every list; sealed, it can neither be made up nor taken to another principal's list
//! or another filter.
//!
//! Limits: a cursor of more than [`LENGTH_MAX`] characters is refused unread.

use axum::http::HeaderValue;
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::error::Problem;

/// Longest cursor in characters.
pub const LENGTH_MAX: usize = 512;
/// Bytes of the seal: 128 bits, as much as is ever guessed at.
const SEAL_BYTES: usize = 16;

/// Seals `inner` for `list`, which names everything that makes it this list: the path, whose it is, each filter.
pub fn seal(key: &[u8], list: &[&str], inner: &str) -> String {
    let mut bytes = mac(key, list, inner.as_bytes())
        .map_or_else(Vec::new, |mac| mac.finalize().into_bytes().iter().take(SEAL_BYTES).copied().collect());
    bytes.extend(inner.as_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// Opens a cursor.
///
/// # Errors
/// 400 when it is none that was sealed for `list`.
pub fn open(key: &[u8], list: &[&str], cursor: &str) -> Result<String, Problem> {
    let invalid = || {
        Problem::bad_request("cursor_invalid", "The cursor is none of this list")
            .detail("take it from `next` of the page before, and ask with the same filter")
    };
    if cursor.len() > LENGTH_MAX {
        return Err(invalid());
    }
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| invalid())?;
    let (seal, inner) = bytes.split_at_checked(SEAL_BYTES).ok_or_else(invalid)?;
    let mac = mac(key, list, inner).ok_or_else(invalid)?;
    mac.verify_truncated_left(seal).map_err(|_| invalid())?;
    String::from_utf8(inner.to_vec()).map_err(|_| invalid())
}

/// `Link` to the next page (RFC 8288): `path` with its query but for the cursor.
pub fn next_link(path: &str, query: &[(&str, &str)], cursor: &str) -> Option<HeaderValue> {
    let last = ("cursor", cursor);
    let pairs = query.iter().filter(|(name, _)| *name != "cursor").chain(std::iter::once(&last));
    let escape = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let query: Vec<String> =
        pairs.map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    HeaderValue::from_str(&format!("<{path}?{}>; rel=\"next\"", query.join("&"))).ok()
}

fn mac(key: &[u8], list: &[&str], inner: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes a key of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(b"streamgate cursor 1");
    for text in list.iter().map(|text| text.as_bytes()).chain(std::iter::once(inner)) {
        // With its length, so that no two lists look alike.
        mac.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(text);
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn a_cursor_of_another_list_owner_or_key_is_refused() {
        let cursor = seal(KEY, &["/v1/media", "ann", "ready"], "0a1b");
        assert_eq!(open(KEY, &["/v1/media", "ann", "ready"], &cursor).unwrap(), "0a1b");
        for list in [
            &["/v1/media", "bob", "ready"][..],
            &["/v1/media", "ann", ""],
            &["/v1/jobs", "ann", "ready"],
            &["/v1/media", "annr", "eady"],
            &["/v1/media", "ann"],
            &[],
        ] {
            assert_eq!(open(KEY, list, &cursor).unwrap_err().code(), "cursor_invalid", "{list:?}");
        }
        assert!(open(b"another", &["/v1/media", "ann", "ready"], &cursor).is_err());
        let long = "A".repeat(LENGTH_MAX + 1);
        for text in ["", "0a1b", "====", &long, BASE64URL_NOPAD.encode(&[0; SEAL_BYTES]).as_str()] {
            assert!(open(KEY, &[], text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_link_keeps_the_filter() {
        let link = next_link("/v1/media", &[("status", "ready"), ("cursor", "old"), ("q", "a&b")], "new");
        assert_eq!(link.unwrap(), "</v1/media?status=ready&q=a%26b&cursor=new>; rel=\"next\"");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(inner in "\\PC{0,80}", owner in "\\PC{0,20}") {
            let cursor = seal(KEY, &[&owner], &inner);
            prop_assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(open(KEY, &[&owner], &cursor).unwrap(), inner);
        }

        #[test]
        fn what_is_changed_does_not(inner in "[0-9a-v]{1,40}", at in 0_usize..40, with in 1_u8..=255) {
            let mut bytes = BASE64URL_NOPAD.decode(seal(KEY, &[], &inner).as_bytes()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= with;
            prop_assert!(open(KEY, &[], &BASE64URL_NOPAD.encode(&bytes)).is_err());
        }
    }
}
