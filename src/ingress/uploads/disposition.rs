//! The name in `Content-Disposition` (RFC 6266).
//!
//! Own code: the crates for it are unmaintained, or read whole forms.

use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::metadata;

/// The name of the file, fit to be shown: `filename*` before `filename` (RFC 6266, 4.3); `None` when there is none.
pub(super) fn parse_filename(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_DISPOSITION)?.to_str().ok()?;
    let (_, mut rest) = text.split_once(';')?;
    let (mut plain, mut extended) = (None, None);
    while let Some((name, value)) = rest.split_once('=') {
        let (value, behind) = split_value(value.trim_start());
        // What stands before has no value.
        let name = name.rsplit(';').next().unwrap_or_default();
        match name.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = plain.or(Some(value)),
            "filename*" => extended = extended.or_else(|| decode_extended(&value)),
            _ => {}
        }
        rest = behind;
    }
    extended.or(plain).as_deref().and_then(metadata::clean_filename)
}

/// A token, or what stands between quotes, with `\\` before a character that is meant itself; and what follows.
fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        let (value, behind) = text.split_at(end);
        return (value.trim().to_owned(), behind);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// `UTF-8'language'percent-encoded` (RFC 8187).
fn decode_extended(value: &str) -> Option<String> {
    let mut pieces = value.splitn(3, '\'');
    let (charset, _language, encoded) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let text = percent_decode_str(encoded).decode_utf8().ok()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name() {
        for (text, wanted) in [
            ("attachment; filename=\"clip.mp4\"", Some("clip.mp4")),
            ("attachment; filename=../../clip.mp4", Some("clip.mp4")),
            ("inline;filename = clip.mp4 ; size=5", Some("clip.mp4")),
            ("inline; filename=\"a;b \\\"c\\\".mp4\"; size=5", Some("a;b \"c\".mp4")),
            ("inline; filename*=UTF-8''m%C3%B6we%20%3B.mp4", Some("möwe ;.mp4")),
            ("inline; FileName=a.mp4; filename*=utf-8'de'b.mp4", Some("b.mp4")),
            ("inline; filename*=utf-8'de'b.mp4; filename=\"a.mp4\"", Some("b.mp4")),
            ("inline; filename=a.mp4; filename*=iso-8859-1''b%FF.mp4", Some("a.mp4")),
            ("inline; filename=\"open", Some("open")),
            ("attachment; foo; filename=a.mp4", Some("a.mp4")),
            ("attachment", None),
            ("attachment; filename=\"\"", None),
            ("attachment; filename", None),
            ("attachment; name=\"filename=x\"", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_DISPOSITION, text.parse().unwrap())]);
            assert_eq!(parse_filename(&headers).as_deref(), wanted, "{text}");
        }
    }
}
