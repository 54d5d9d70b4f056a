//! Errors as people and machines see them: `application/problem+json` (RFC 9457) with a stable code and the request id.
//!
//! What went wrong inside stays in the log, beside the same request id.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// An error answer.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Option<String>,
    members: Map<String, Value>,
    /// Boxed: a `Result` is as large as its error.
    headers: Box<HeaderMap>,
}

impl Problem {
    /// A problem with a stable code and a title for people.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self { status, code, title, detail: None, members: Map::new(), headers: Box::default() }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(code: &'static str, title: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, title)
    }

    /// 401: sign in first.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "This needs a signed-in wallet or an API key")
            .detail(
                "send the access token of `/v1/auth/login`, or an API key, as `Authorization: Bearer ...`",
            )
    }

    /// 403: known, but not allowed.
    pub fn forbidden(code: &'static str, title: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, title)
    }

    /// 404: not there, or not yours; both answer the same.
    pub fn not_found(title: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", title)
    }

    /// 503: broker or store don't answer; nothing is lost, try again.
    pub fn unavailable(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error, "answered 503");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "A part of the service does not answer")
            .detail("nothing that was acknowledged is lost; try again")
            .retry_after_s(2)
    }

    /// 503: a limit of this replica is reached; another one, or a moment later, may do.
    pub fn busy(title: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", title).retry_after_s(5)
    }

    /// 500: a fault of ours.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "answered 500");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here")
            .detail("the log has it under this request id")
    }

    /// Adds a sentence about this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a member for machines.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after_s(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The stable code.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<nats::Error> for Problem {
    fn from(error: nats::Error) -> Self {
        match error {
            nats::Error::Unavailable(_) => Self::unavailable(&error),
            nats::Error::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", "Somebody else changed this first")
                    .detail("read it again and repeat")
            }
            nats::Error::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "This is larger than its limit")
                    .detail(error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.members;
        // A type that is registered elsewhere comes as a member.
        body.entry("type").or_insert_with(|| json!(format!("urn:streamgate:problem:{}", self.code)));
        body.insert("title".into(), json!(self.title));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("code".into(), json!(self.code));
        if let Some(detail) = self.detail {
            body.insert("detail".into(), json!(detail));
        }
        if let Some(id) = super::request::current_id() {
            body.insert("request_id".into(), json!(id));
        }
        let mut response = (self.status, Json(Value::Object(body))).into_response();
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
        response
    }
}
