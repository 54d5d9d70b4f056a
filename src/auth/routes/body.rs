//! Bodies: JSON within a limit, refused with a problem that says what is wrong.

use axum::{
    body,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;

use crate::ingress::error::Problem;

/// Largest body in bytes: a message and a long signature in hexadecimal.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// A JSON body. An empty one counts as `{}`.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        let is_json = essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
        let bytes = body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "This is larger than its limit")
                .detail(format!("the body did not come whole, or has more than {BODY_BYTES_MAX} bytes"))
        })?;
        if !is_json && !bytes.is_empty() {
            let title = "The body has to be JSON";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json_expected", title)
                .detail("send it with `Content-Type: application/json`"));
        }
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            Problem::bad_request("body_malformed", "The body is not what this expects")
                .detail(error.to_string())
        })
    }
}
