//! A JSON document as readers get it: its bytes, and a tag made of them, so that a record which was rewritten but says the same
//! reads the same.

use axum::{body::Bytes, http::HeaderMap, response::Response};
use serde::Serialize;

use super::{
    bytes::{self, RepresentationMetadata},
    conditional::EntityTag,
    error::Problem,
};

/// The bytes of a document. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonDocument {
    body: Bytes,
    tag: EntityTag,
}

impl JsonDocument {
    /// The document that says `body`.
    ///
    /// # Errors
    /// 500 when it can't be written as JSON, which is a fault of its type.
    pub fn new(body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
        Ok(Self::from_json(body.into()))
    }

    /// The document whose bytes these are.
    pub fn from_json(body: Bytes) -> Self {
        Self { tag: EntityTag::from_bytes(&body), body }
    }

    /// Changes whenever the document says something else.
    pub const fn tag(&self) -> EntityTag {
        self.tag
    }

    /// Its bytes as JSON.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The document with its tag, or the part of it that is asked for, or 304 when the reader has it already.
    pub fn to_response(&self, request: &HeaderMap) -> Response {
        let facts = RepresentationMetadata {
            size_bytes: u64::try_from(self.body.len()).unwrap_or(u64::MAX),
            etag: self.tag.to_quoted(),
            content_type: "application/json",
            cache_control: "private, no-cache",
        };
        bytes::bytes_response(request, &facts, &self.body)
    }
}
