//! A JSON document as readers get it: its bytes, and a tag made of them, so that a record which was rewritten but says the same
//! reads the same.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    conditional::{Tag, lists},
    error::Problem,
};

/// The bytes of a document. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    body: Bytes,
    tag: Tag,
}

impl Document {
    /// The document that says `body`.
    ///
    /// # Errors
    /// 500 when it can't be written as JSON, which is a fault of its type.
    pub fn new(body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
        Ok(Self::of_json(body.into()))
    }

    /// The document whose bytes these are.
    pub fn of_json(body: Bytes) -> Self {
        Self { tag: Tag::of_bytes(&body), body }
    }

    /// Changes whenever the document says something else.
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Its bytes as JSON.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The document with its tag, or 304 when the reader has it already.
    pub fn answer(&self, request: &HeaderMap) -> Response {
        let tag = self.tag.text();
        let mut lines = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
        let mut response = if lines.any(|line| lists(line, &tag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], self.body.clone()).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        headers.insert(header::ETAG, self.tag.to_header());
        response
    }
}
