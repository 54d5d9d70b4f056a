//! The name of a file that is downloaded: `Content-Disposition` (RFC 6266), with a name of any language as RFC 8187 has it, and one for
//! clients that read no such names.
//!
//! Limits: [`NAME_BYTES_MAX`].

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest name without its extension, in bytes: what file systems take, with room for an extension and a number behind it.
pub const NAME_BYTES_MAX: usize = 200;

/// All but `attr-char` (RFC 8187, 3.2.1).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The field for a file named after `title`, or `otherwise` where nothing of the title can be in a name.
pub fn content_disposition(title: &str, otherwise: &str, extension: &str) -> HeaderValue {
    let name = to_file_name(title).unwrap_or_else(|| otherwise.to_owned());
    let plain: String = name.chars().map(|c| if c.is_ascii() && c != '%' { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{plain}.{extension}\"");
    if plain != name {
        let escaped = utf8_percent_encode(&name, ESCAPED);
        text = format!("{text}; filename*=UTF-8''{escaped}.{extension}");
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

/// A title as the name of a file on any system; `None` when nothing of it is left.
fn to_file_name(title: &str) -> Option<String> {
    let is_separator = |c: char| c.is_control() || "\\/:*?\"<>|".contains(c);
    let mut name = String::new();
    for character in title.chars() {
        if name.len() + character.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        name.push(if is_separator(character) { '_' } else { character });
    }
    // A dot in front hides a file, one at the end is dropped by some systems.
    let name = name.trim_matches(|c: char| c == '.' || c.is_whitespace());
    name.chars().any(|c| c != '_').then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_and_says_what_the_title_says() {
        for (title, wanted) in [
            ("A day at the sea", "attachment; filename=\"A day at the sea.mp4\""),
            ("AC/DC \"live\"", "attachment; filename=\"AC_DC _live_.mp4\""),
            ("../../etc/passwd", "attachment; filename=\"_.._etc_passwd.mp4\""),
            (
                "Über alles\u{202e}",
                "attachment; filename=\"_ber alles_.mp4\"; filename*=UTF-8''%C3%9Cber%20alles%E2%80%AE.mp4",
            ),
            ("100 %", "attachment; filename=\"100 _.mp4\"; filename*=UTF-8''100%20%25.mp4"),
            ("a\r\nSet-Cookie: b", "attachment; filename=\"a__Set-Cookie_ b.mp4\""),
            ("", "attachment; filename=\"06db.mp4\""),
            (" ... ", "attachment; filename=\"06db.mp4\""),
            ("///", "attachment; filename=\"06db.mp4\""),
        ] {
            assert_eq!(content_disposition(title, "06db", "mp4"), wanted, "{title:?}");
        }
        let long = content_disposition(&"ä".repeat(300), "06db", "mp4");
        let text = long.to_str().unwrap();
        assert_eq!(text.matches("%C3%A4").count(), NAME_BYTES_MAX / 2, "cut between two characters");
    }
}
