//! What every request gets: an id, a line in the log, a bound on panics, problems for 404 and 405.
//!
//! Limits: a client's own `X-Request-Id` is not taken over; ids are ours.

use std::time::Instant;

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::ids::RequestId;

use super::error::Problem;

/// Header that names the request in answers.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Id of the request being answered; outside of one a fresh id, so that whatever is told has a cause of its own.
pub fn id() -> RequestId {
    CURRENT.try_with(|id| *id).unwrap_or_else(|_| RequestId::from_bytes(nats::fresh_id()))
}

/// Id of the request being answered; `None` outside of one.
pub fn current_id() -> Option<String> {
    CURRENT.try_with(ToString::to_string).ok()
}

/// Gives the request its id, logs its end, and names it in the answer.
pub async fn identify(request: Request, next: Next) -> Response {
    let id = RequestId::from_bytes(nats::fresh_id());
    let (method, started) = (request.method().clone(), Instant::now());
    // The matched route, never the path: paths carry tokens.
    let route = request.extensions().get::<axum::extract::MatchedPath>().map(|path| path.as_str().to_owned());
    CURRENT
        .scope(id, async move {
            let mut response = next.run(request).await;
            if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
                response.headers_mut().insert(REQUEST_ID.clone(), value);
            }
            let duration_ms = started.elapsed().as_millis();
            tracing::debug!(request.id = %id, %method, route, status = response.status().as_u16(), duration_ms, "answered");
            response
        })
        .await
}

/// 404 for every path that is none of ours.
pub async fn no_such_path() -> Problem {
    Problem::not_found("There is nothing at this path")
}

/// 405 with the same form as every other error.
pub async fn no_such_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not take that method")
}

/// A panic is answered, not spread: the connection and the process go on.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let reason = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(reason, "a handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here").into_response()
}
