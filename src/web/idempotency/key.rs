//! The key as clients send it, and digests of several texts.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::IDEMPOTENCY_KEY;
use crate::{error::Problem, problem_code::ProblemCode};

/// Longest key in characters.
pub const KEY_LENGTH_MAX: usize = 255;

/// The key of a request; `None` without one.
///
/// The draft wants a quoted string (RFC 9651); a bare token, as many clients send it, names the same key.
///
/// # Errors
/// 400 when there are several, or it is empty, too long or no visible ASCII.
pub(super) fn parse_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim).filter(|_| all.next().is_none());
    let key =
        text.and_then(|text| if text.starts_with('"') { unquote_key(text) } else { parse_bare_key(text) });
    match key {
        Some(key) if (1..=KEY_LENGTH_MAX).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Problem::new(ProblemCode::IdempotencyKeyInvalid)
            .with_detail(format!("send one quoted string of 1 to {KEY_LENGTH_MAX} visible characters"))),
    }
}

fn unquote_key(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut key = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => key.push(characters.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            ' '..='~' => key.push(character),
            _ => return None,
        }
    }
    Some(key)
}

fn parse_bare_key(text: &str) -> Option<String> {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';'))
        .then(|| text.to_owned())
}

/// SHA-256 of texts with their lengths, so that no two lists of texts look alike.
pub(super) fn digest_texts(texts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lines: &[&str]) -> Result<Option<String>, u16> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&IDEMPOTENCY_KEY, line.parse().unwrap());
        }
        parse_key(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn nonsense_is_refused() {
        let long = format!("\"{}\"", "x".repeat(KEY_LENGTH_MAX + 1));
        for lines in [
            &[""][..],
            &["\"\""],
            &["\"open"],
            &["\"a\"b\""],
            &["\"a\\b\""],
            &["\"a\\\""],
            &["a b"],
            &["a,b"],
            &["a;x=1"],
            &["\"a\"", "\"a\""],
            &[&long],
        ] {
            assert_eq!(key(lines), Err(400), "{lines:?}");
        }
    }

    #[test]
    fn quoted_and_bare_name_the_same_key() {
        for (text, wanted) in [
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("\"a b,c\"", "a b,c"),
            ("\"a\\\"b\\\\c\"", "a\"b\\c"),
        ] {
            assert_eq!(key(&[text]), Ok(Some(wanted.to_owned())), "{text}");
        }
        assert_eq!(key(&[]), Ok(None));
    }

    #[test]
    fn lists_of_texts_do_not_run_together() {
        assert_ne!(digest_texts(&[b"ab", b"c"]), digest_texts(&[b"a", b"bc"]));
        assert_ne!(digest_texts(&[b"ab"]), digest_texts(&[b"ab", b""]));
    }
}
