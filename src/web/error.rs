//! Errors as people and machines see them: `application/problem+json` (RFC 9457) with a stable code, the request id and the id of the trace.
//!
//! `type` leads to what the page says of the code. `instance` is the request id as a URN of its own: it names this occurrence,
//! unlike the path, which other requests share and which may carry a token.
//!
//! What went wrong inside stays in the log, beside the same request id.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemas::ids::RequestId;
use serde_json::{Map, Value, json};

use super::problem_code::ProblemCode;

/// How soon somebody may ask again who was refused for want of room, in seconds.
pub const NO_ROOM_RETRY_AFTER_S: u64 = 60;

/// An error answer.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: ProblemCode,
    status: StatusCode,
    detail: Option<String>,
    members: Map<String, Value>,
    /// Boxed: a `Result` is as large as its error.
    headers: Box<HeaderMap>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: ProblemCode) -> Self {
        Self { kind, status: kind.status(), detail: None, members: Map::new(), headers: Box::default() }
    }

    /// 401: sign in first.
    pub fn unauthorized() -> Self {
        Self::new(ProblemCode::Unauthorized).with_detail(
            "send the access token of `/v1/auth/login`, or an API key, as `Authorization: Bearer ...`",
        )
    }

    /// 404: not there, or not yours; both answer the same.
    pub fn not_found(detail: &'static str) -> Self {
        Self::new(ProblemCode::NotFound).with_detail(detail)
    }

    /// 503: broker or store don't answer; nothing is lost, try again.
    pub fn unavailable(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error, "answered 503");
        Self::new(ProblemCode::Unavailable)
            .with_detail("nothing that was acknowledged is lost; try again")
            .with_retry_after_s(2)
    }

    /// 503: this replica can't do its work now.
    pub(crate) fn not_ready(detail: String) -> Self {
        Self::new(ProblemCode::Unavailable).with_detail(detail).with_retry_after_s(2)
    }

    /// 503: a limit of this replica is reached; another one, or a moment later, may do.
    pub fn busy(detail: &'static str) -> Self {
        Self::new(ProblemCode::Busy).with_detail(detail).with_retry_after_s(5)
    }

    /// 500: a fault of ours.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "answered 500");
        Self::new(ProblemCode::Internal).with_detail("the log has it under this request id")
    }

    /// Answers with another status of the same class than its kind has.
    #[must_use]
    pub(crate) const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a sentence about this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Points at what of the body is wrong (RFC 6901), and says why; the sentence about it does so, too.
    #[must_use]
    pub fn with_pointer(self, pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = json!({ "pointer": pointer, "detail": detail });
        self.with_detail(if pointer.is_empty() { detail } else { format!("{pointer}: {detail}") })
            .with_error(error)
    }

    /// Adds an item to `errors`: one place where the request is wrong.
    #[must_use]
    pub(crate) fn with_error(mut self, error: Value) -> Self {
        if let Value::Array(errors) = self.members.entry("errors").or_insert_with(|| json!([])) {
            errors.push(error);
        }
        self
    }

    /// Adds a member for machines.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// 507: a stream or bucket that `subject` belongs to has no room.
    fn broker_full(subject: &str) -> Self {
        let limit = match subject.strip_prefix("$KV.").and_then(|rest| rest.split('.').next()) {
            Some(bucket) => schemas::subjects::kv_stream_name(bucket),
            None => schemas::subjects::EVENTS.to_owned(),
        };
        Self::new(ProblemCode::BrokerFull)
            .with_detail(format!("{limit} is full"))
            .with_member("limit", limit)
            .with_retry_after_s(NO_ROOM_RETRY_AFTER_S)
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds `Retry-After` in seconds.
    #[must_use]
    pub fn with_retry_after_s(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The stable code.
    pub const fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<nats::BusError> for Problem {
    fn from(error: nats::BusError) -> Self {
        match error {
            nats::BusError::Unavailable(_) => Self::unavailable(&error),
            nats::BusError::Conflict { .. } => {
                Self::new(ProblemCode::Conflict).with_detail("read it again and repeat")
            }
            nats::BusError::Full { what, .. } => Self::broker_full(&what),
            nats::BusError::TooLarge { .. } => {
                Self::new(ProblemCode::TooLarge).with_detail(error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl Problem {
    /// The document, for an answer that has several.
    pub fn to_document(&self) -> Value {
        let mut body = self.members.clone();
        body.insert("type".into(), json!(self.kind.type_uri()));
        body.insert("title".into(), json!(self.kind.title()));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("code".into(), json!(self.kind.code()));
        if let Some(detail) = &self.detail {
            body.insert("detail".into(), json!(detail));
        }
        if let Some(id) = super::request::current_id() {
            body.insert("instance".into(), json!(instance_urn(id)));
            body.insert("request_id".into(), json!(id.to_string()));
        }
        if let Some(trace) = nats::spans::current() {
            body.insert("trace_id".into(), json!(trace.trace_id_text()));
        }
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_document())).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            // Every 401 names a way in (RFC 9110, 15.5.2).
            let way = HeaderValue::from_static("Bearer realm=\"streamgate\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, way);
        }
        response.headers_mut().extend(*self.headers);
        response.extensions_mut().insert(self.kind);
        response
    }
}

/// Names one occurrence: ids of requests are UUIDs, and those have URNs (RFC 9562 section 4).
pub(super) fn instance_urn(id: RequestId) -> String {
    uuid::Uuid::from_bytes(*id.as_bytes()).urn().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_the_request_id_as_a_urn() {
        let id = RequestId::from_bytes(*b"\x01\x9a\xb0\x01\x02\x04\x7a\x01\x80sample-");
        assert_eq!(instance_urn(id), "urn:uuid:019ab001-0204-7a01-8073-616d706c652d");
    }
}
