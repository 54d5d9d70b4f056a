//! Entity tags (RFC 9110): a gate's epoch, which never repeats.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::ingress::error::Problem;

/// The entity tag of a gate at `epoch`.
pub(super) fn etag(epoch: u64) -> HeaderValue {
    // Digits and quotes are always a header value.
    HeaderValue::from_str(&format!("\"g{epoch}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"g\""))
}

/// Which versions a request wants to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    OneOf(Vec<String>),
}

impl Wanted {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let needed = || {
            let title = "Say which version you change";
            Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", title)
                .detail("send the ETag of GET in If-Match")
        };
        let mut tags = Vec::new();
        for value in headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| needed())?;
            tags.extend(text.split(',').map(|tag| tag.trim().to_owned()));
        }
        match tags.as_slice() {
            [] => Err(needed()),
            [one] if one == "*" => Ok(Self::Any),
            _ => Ok(Self::OneOf(tags)),
        }
    }

    /// Weak tags never match.
    pub(super) fn allows(&self, epoch: u64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => tags.iter().any(|tag| tag.as_bytes() == etag(epoch).as_bytes()),
        }
    }
}

/// 412: somebody else changed it first.
pub(super) fn failed() -> Problem {
    let title = "Somebody else changed this first";
    Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", title)
        .detail("read it again and repeat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_the_version_it_changes() {
        let read = |text: &'static str| {
            Wanted::read(&HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(text))])).unwrap()
        };
        for (text, allows) in [
            ("*", true),
            ("\"g3\"", true),
            ("\"g2\", \"g3\"", true),
            ("\"g2\"", false),
            ("W/\"g3\"", false),
            ("g3", false),
            ("", false),
            ("*, \"g2\"", false),
        ] {
            assert_eq!(read(text).allows(3), allows, "{text}");
        }
        assert_eq!(Wanted::read(&HeaderMap::new()).unwrap_err().status(), StatusCode::PRECONDITION_REQUIRED);
    }
}
