//! The one answer of everything that is read by GET: an object or text with its type, tag and range (RFC 9110, sections 8.8, 13
//! and 14). That only GET has ranges is seen to before (see `request_head.rs`).
//!
//! Limits: one range a request; several are answered with the whole, as RFC 9110 section 14.2 allows.

use std::ops::Range;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{conditional, error::Problem, problem_code::ProblemCode};

/// What is about to be sent.
#[derive(Debug, Clone)]
pub struct RepresentationMetadata {
    /// Size of the whole in bytes.
    pub size_bytes: u64,
    /// Strong entity tag in quotes.
    pub etag: String,
    /// Media type.
    pub content_type: &'static str,
    /// How long a player may keep it.
    pub cache_control: &'static str,
}

/// What of it to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentSelection {
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: the range lies outside.
    Unsatisfiable,
    /// All of it.
    Whole,
    /// A part of it.
    Part(Range<u64>),
}

/// What to send to a client with these headers.
pub(super) fn select_content(headers: &HeaderMap, facts: &RepresentationMetadata) -> ContentSelection {
    if conditional::matches_if_none_match(headers, &facts.etag) {
        return ContentSelection::NotModified;
    }
    let unchanged = !headers.contains_key(header::IF_RANGE)
        || single_value(headers, &header::IF_RANGE).is_some_and(|tag| tag == facts.etag);
    match single_value(headers, &header::RANGE)
        .filter(|_| unchanged)
        .and_then(|range| parse_range(range, facts.size_bytes))
    {
        None => ContentSelection::Whole,
        Some(range) if range.is_empty() => ContentSelection::Unsatisfiable,
        Some(range) => ContentSelection::Part(range),
    }
}

/// The value of a field that has one line; with several it says nothing.
fn single_value<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    line.to_str().ok()
}

/// One byte range; `None` when it is malformed or of several parts, empty when it lies outside.
fn parse_range(text: &str, size_bytes: u64) -> Option<Range<u64>> {
    let (unit, ranges) = text.split_once('=')?;
    // Names of units have no case (RFC 9110, 14.1).
    let (first, last) = ranges.trim().split_once('-').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    let number = |text: &str| -> Option<u64> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit mean: as far as there is.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => size_bytes.saturating_sub(number(last)?)..size_bytes,
        (first, "") => number(first)?..size_bytes,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size_bytes)
        }
    };
    Some(if range.start < range.end { range } else { 0..0 })
}

/// The answer with bytes that are in memory.
pub fn bytes_response(headers: &HeaderMap, facts: &RepresentationMetadata, bytes: &Bytes) -> Response {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    range_response(headers, facts, |range| Body::from(bytes.slice(at(range.start)..at(range.end))))
}

/// The answer; `body` makes the bytes of a range of the whole.
pub fn range_response(
    headers: &HeaderMap,
    facts: &RepresentationMetadata,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let whole = 0..facts.size_bytes;
    let (status, range) = match select_content(headers, facts) {
        ContentSelection::NotModified => (StatusCode::NOT_MODIFIED, None),
        ContentSelection::Unsatisfiable => return range_not_satisfiable(facts),
        ContentSelection::Whole => (StatusCode::OK, Some(whole)),
        ContentSelection::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(facts.cache_control));
    if let Ok(tag) = HeaderValue::from_str(&facts.etag) {
        fields.insert(header::ETAG, tag);
    }
    let Some(range) = range else { return response };
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(facts.content_type));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) =
            HeaderValue::from_str(&format!("bytes {}-{}/{}", range.start, range.end - 1, facts.size_bytes))
    {
        fields.insert(header::CONTENT_RANGE, value);
    }
    *response.body_mut() = body(range);
    response
}

fn range_not_satisfiable(facts: &RepresentationMetadata) -> Response {
    let problem = Problem::new(ProblemCode::RangeNotSatisfiable);
    match HeaderValue::from_str(&format!("bytes */{}", facts.size_bytes)) {
        Ok(value) => problem.with_header(header::CONTENT_RANGE, value).into_response(),
        Err(_) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RepresentationMetadata {
        RepresentationMetadata {
            size_bytes: 10,
            etag: "\"a\"".into(),
            content_type: "video/mp4",
            cache_control: "private",
        }
    }

    fn chosen(fields: &[(header::HeaderName, &str)]) -> ContentSelection {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        select_content(&headers, &facts())
    }

    #[test]
    fn ranges_are_what_rfc_9110_says() {
        for (range, wanted) in [
            ("bytes=0-0", ContentSelection::Part(0..1)),
            ("bytes=0-9", ContentSelection::Part(0..10)),
            ("bytes=5-", ContentSelection::Part(5..10)),
            ("bytes=5-99", ContentSelection::Part(5..10)),
            ("bytes=5-99999999999999999999999", ContentSelection::Part(5..10)),
            ("Bytes=0-0", ContentSelection::Part(0..1)),
            ("bytes=-3", ContentSelection::Part(7..10)),
            ("bytes=-99", ContentSelection::Part(0..10)),
            ("bytes=-0", ContentSelection::Unsatisfiable),
            ("bytes=10-", ContentSelection::Unsatisfiable),
            ("bytes=99999999999999999999999-", ContentSelection::Unsatisfiable),
            ("bytes=5-4", ContentSelection::Whole),
            ("bytes=0-1,3-4", ContentSelection::Whole),
            ("bytes=a-b", ContentSelection::Whole),
            ("bytes=", ContentSelection::Whole),
            ("lines=0-1", ContentSelection::Whole),
        ] {
            assert_eq!(chosen(&[(header::RANGE, range)]), wanted, "{range}");
        }
    }

    #[test]
    fn tags_decide_before_ranges() {
        let range = (header::RANGE, "bytes=0-0");
        for (fields, wanted) in [
            (vec![(header::IF_NONE_MATCH, "\"a\"")], ContentSelection::NotModified),
            (vec![(header::IF_NONE_MATCH, "\"b\", W/\"a\""), range.clone()], ContentSelection::NotModified),
            (vec![(header::IF_NONE_MATCH, "*")], ContentSelection::NotModified),
            (
                vec![(header::IF_NONE_MATCH, "\"b\""), (header::IF_NONE_MATCH, "\"a\"")],
                ContentSelection::NotModified,
            ),
            (vec![range.clone(), (header::RANGE, "bytes=1-1")], ContentSelection::Whole),
            (vec![(header::IF_NONE_MATCH, "\"b\"")], ContentSelection::Whole),
            (vec![(header::IF_RANGE, "\"a\""), range.clone()], ContentSelection::Part(0..1)),
            (vec![(header::IF_RANGE, "\"b\""), range.clone()], ContentSelection::Whole),
            (vec![(header::IF_RANGE, "W/\"a\""), range], ContentSelection::Whole),
        ] {
            assert_eq!(chosen(&fields), wanted, "{fields:?}");
        }
    }
}
