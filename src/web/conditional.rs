//! Conditional requests (RFC 9110, 13): the tag of a document changes with what it says, so what is overwritten is what was seen.
//!
//! Limits: a list of more than [`TAGS_MAX`] tags is refused.

use axum::http::{HeaderMap, HeaderValue, header};

use super::{error::Problem, problem_code::ProblemCode};

/// Most tags of one header.
pub const TAGS_MAX: usize = 32;

/// The strong tag of one version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag {
    kind: char,
    version: u64,
}

impl EntityTag {
    /// The tag of a gate at `epoch`.
    pub const fn from_gate_epoch(epoch: u64) -> Self {
        Self { kind: 'g', version: epoch }
    }

    /// The tag of a document: a digest of its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let digest = blake3::hash(bytes);
        let version =
            digest.as_bytes().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte));
        Self { kind: 'b', version }
    }

    /// As `ETag` says it.
    pub fn to_header(self) -> HeaderValue {
        // Digits, a letter and quotes are always a header value.
        HeaderValue::from_str(&self.to_quoted()).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }

    /// The tag with its quotes.
    pub fn to_quoted(self) -> String {
        format!("\"{}{}\"", self.kind, self.version)
    }
}

/// Lets a change pass only when its sender has seen what is there: PUT, PATCH and DELETE of a document.
///
/// # Errors
/// 428 without `If-Match`; 412 when it names another version; 400 when it makes no sense. `current` is `None` where nothing is.
pub fn check_if_match(headers: &HeaderMap, current: Option<EntityTag>) -> Result<(), Problem> {
    if !headers.contains_key(header::IF_MATCH) {
        return Err(Problem::new(ProblemCode::PreconditionRequired)
            .with_detail("read it, and send its ETag as If-Match"));
    }
    match parse_tags(headers, &header::IF_MATCH)? {
        EntityTagList::Any if current.is_some() => Ok(()),
        // Strong comparison: a weak tag never matches.
        EntityTagList::These(these)
            if current.is_some_and(|tag| these.iter().any(|one| *one == tag.to_quoted())) =>
        {
            Ok(())
        }
        _ => Err(precondition_failed(current)),
    }
}

/// Whether `If-None-Match` names `tag`: weak comparison (RFC 9110, 13.1.2) with all of its lines, which are one list (5.3). For
/// readers, whom a list that makes no sense costs no more than the bytes.
pub fn matches_if_none_match(headers: &HeaderMap, tag: &str) -> bool {
    let mut rest = String::new();
    for line in headers.get_all(header::IF_NONE_MATCH) {
        let Ok(line) = line.to_str() else { return false };
        let separator = if rest.is_empty() { "" } else { ", " };
        rest.push_str(separator);
        rest.push_str(line.trim());
    }
    if rest == "*" {
        return true;
    }
    let mut rest = rest.trim_start_matches([',', ' ', '\t']);
    while let Some((one, behind)) = self::split_first_tag(rest) {
        // Weak comparison, RFC 9110, 13.1.2: here a weak tag is as good as a strong one.
        if one.strip_prefix("W/").unwrap_or(one) == tag {
            return true;
        }
        rest = behind.trim_start_matches([',', ' ', '\t']);
    }
    false
}

fn precondition_failed(current: Option<EntityTag>) -> Problem {
    let problem = Problem::new(ProblemCode::PreconditionFailed).with_detail("read it again and repeat");
    match current {
        Some(tag) => problem.with_header(header::ETAG, tag.to_header()),
        None => problem,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum EntityTagList {
    Any,
    These(Vec<String>),
}

/// The tags of all lines of `name`; none without a line.
fn parse_tags(headers: &HeaderMap, name: &header::HeaderName) -> Result<EntityTagList, Problem> {
    let invalid = || {
        Problem::new(ProblemCode::PreconditionInvalid)
            .with_detail(format!("{name} takes a list of quoted tags, or *"))
            .with_member("header", name.as_str())
    };
    let mut found = Vec::new();
    for line in headers.get_all(name) {
        let mut rest = line.to_str().map_err(|_| invalid())?.trim();
        if rest == "*" {
            return if headers.get_all(name).iter().count() == 1 {
                Ok(EntityTagList::Any)
            } else {
                Err(invalid())
            };
        }
        while !rest.is_empty() {
            let (tag, behind) = split_first_tag(rest).ok_or_else(invalid)?;
            found.push(tag.to_owned());
            rest = behind.trim_start();
            if !rest.is_empty() {
                rest = rest.strip_prefix(',').ok_or_else(invalid)?.trim_start();
            }
            if found.len() > TAGS_MAX {
                return Err(invalid());
            }
        }
    }
    Ok(EntityTagList::These(found))
}

/// The first tag of a list with its quotes, and what is behind it. A tag may hold a comma.
fn split_first_tag(list: &str) -> Option<(&str, &str)> {
    let opaque = list.strip_prefix("W/").unwrap_or(list).strip_prefix('"')?;
    let inside = opaque.find('"')?;
    let length = list.len() - opaque.len() + inside + 1;
    list.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(name: &header::HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_change_needs_the_version_it_changes() {
        for (lines, current, status) in [
            (&[][..], Some(7), 428),
            (&[""], Some(7), 412),
            (&["\"g6\""], Some(7), 412),
            (&["\"g6\", \"g8\""], Some(7), 412),
            (&["W/\"g7\""], Some(7), 412),
            (&["\"g7\""], None, 412),
            (&["*"], None, 412),
            (&["g7"], Some(7), 400),
            (&["\"g7"], Some(7), 400),
            (&["\"g6\" \"g7\""], Some(7), 400),
            (&["*", "\"g7\""], Some(7), 400),
            (&["w/\"g7\""], Some(7), 400),
            (&["\"g7\""], Some(7), 200),
            (&["*"], Some(7), 200),
            (&["\"a,b\", \"g7\""], Some(7), 200),
            (&["\"g6\"", "\"g7\""], Some(7), 200),
            (&["\"g6\",\"g7\","], Some(7), 200),
        ] {
            let got =
                check_if_match(&headers(&header::IF_MATCH, lines), current.map(EntityTag::from_gate_epoch));
            assert_eq!(
                got.err().map_or(200, |problem| problem.status().as_u16()),
                status,
                "{lines:?} {current:?}"
            );
        }
        let many = vec!["\"x\""; TAGS_MAX + 1].join(",");
        let got = check_if_match(&headers(&header::IF_MATCH, &[&many]), Some(EntityTag::from_gate_epoch(1)));
        assert_eq!(got.unwrap_err().status(), 400);
    }

    #[test]
    fn a_reader_is_not_sent_what_it_has() {
        for (lines, known) in [
            (&[][..], false),
            (&[""], false),
            (&["nonsense"], false),
            (&["\"g6\""], false),
            (&["\"g7\""], true),
            (&["W/\"g7\""], true),
            (&["\"g1\", W/\"g7\""], true),
            (&["\"g1\"", "\"g7\""], true),
            (&["\"g7\"", "\"g1\""], true),
            (&["\"g1\",,", "\"a,b\" , \"g7\""], true),
            // One tag with a comma in it, which two lines together have.
            (&["\"g1", "\"g7\""], false),
            (&["\"a, \"g7\""], false),
            (&["*"], true),
            (&["*", "\"g1\""], false),
        ] {
            let headers = headers(&header::IF_NONE_MATCH, lines);
            assert_eq!(
                matches_if_none_match(&headers, &EntityTag::from_gate_epoch(7).to_quoted()),
                known,
                "{lines:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[ -~]{0,60}", epoch: u64) {
            let headers = headers(&header::IF_MATCH, &[&text]);
            let got = check_if_match(&headers, Some(EntityTag::from_gate_epoch(epoch)));
            prop_assert_eq!(got.is_ok(), text.trim() == "*" || text.contains(&format!("\"g{epoch}\"")));
        }

        #[test]
        fn a_tag_is_its_own_match(epoch: u64) {
            let tag = EntityTag::from_gate_epoch(epoch);
            let headers = HeaderMap::from_iter([(header::IF_MATCH, tag.to_header())]);
            prop_assert!(check_if_match(&headers, Some(tag)).is_ok());
        }
    }
}
