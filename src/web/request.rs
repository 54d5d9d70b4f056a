//! What every request gets: an id, a line in the log, a bound on panics, problems for 404 and 405.
//!
//! Limits: a client's own `X-Request-Id` is not taken over; ids are ours.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::ids::RequestId;

use super::{
    access_sums::AccessSums, error::Problem, operation::matched_operation, problem_code::ProblemCode,
};

/// Header that names the request in answers.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whose request it is: authentication puts it among the request's extensions, and limits and repeated requests are counted by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOwner(pub String);

/// By which grant of its owner the request comes, where it does: limits and repeated requests of each are counted apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestGrant(pub String);

/// `Cache-Control` of probes and of what there is not: the same for all, for a second.
pub const KEPT_A_SECOND: &str = "public, max-age=1";

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Id of the request being answered; outside of one a fresh id, so that whatever is published has a cause of its own.
pub fn current_or_fresh_id() -> RequestId {
    CURRENT.try_with(|id| *id).unwrap_or_else(|_| RequestId::from_bytes(nats::new_id_bytes()))
}

/// Id of the request being answered; `None` outside of one.
pub fn current_id() -> Option<RequestId> {
    CURRENT.try_with(|id| *id).ok()
}

/// Runs `work` as a part of the request being answered, also in a task of its own: with its id and its trace.
pub fn with_current_id<F: Future>(work: F) -> impl Future<Output = F::Output> {
    nats::spans::carry(CURRENT.scope(current_or_fresh_id(), work))
}

/// Gives the request its id, logs its end, sums it unless events of its own report it, and names it in the answer.
pub async fn assign_request_id(State(sums): State<AccessSums>, request: Request, next: Next) -> Response {
    let id = RequestId::from_bytes(nats::new_id_bytes());
    let (method, operation) = (request.method().clone(), matched_operation(&request));
    let started = Instant::now();
    // The matched route, never the path: paths carry tokens.
    let route = request.extensions().get::<axum::extract::MatchedPath>().map(|path| path.as_str().to_owned());
    CURRENT
        .scope(id, async move {
            let expected = sums.expect_response(operation);
            let mut response = next.run(request).await;
            expected.count(&response);
            if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
                response.headers_mut().insert(REQUEST_ID.clone(), value);
            }
            let duration_ms = started.elapsed().as_millis();
            tracing::debug!(request.id = %id, %method, route, status = response.status().as_u16(), duration_ms, "answered");
            response
        })
        .await
}

/// 404 for every path that is none of ours. A cache in front of us may answer it for a second.
#[allow(clippy::unused_async, reason = "a router takes handlers, which are asynchronous")]
pub async fn no_such_path() -> Problem {
    let kept = HeaderValue::from_static(KEPT_A_SECOND);
    Problem::not_found("there is nothing at this path")
        .with_header(header::CACHE_CONTROL, kept)
        // A person gets a page instead of it.
        .with_header(header::VARY, HeaderValue::from_static("accept"))
}

/// 405 with the same form as every other error.
#[allow(clippy::unused_async, reason = "a router takes handlers, which are asynchronous")]
pub async fn no_such_method() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed)
}

/// Turns an error answer that is no problem document into one: refusals of extractors, and whatever a library says on its own.
pub async fn ensure_problem_body(request: Request, next: Next) -> Response {
    let is_head = request.method() == Method::HEAD;
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // One that is repeated as it was answered before says so by its type, one that is shown to a person as a page by what made it.
    let is_problem =
        kind == Some(b"application/problem+json") || response.extensions().get::<ProblemCode>().is_some();
    if !is_error || is_head || is_problem {
        return response;
    }
    let kind = match status.as_u16() {
        400 | 422 => ProblemCode::RequestInvalid,
        404 => ProblemCode::NotFound,
        405 => ProblemCode::MethodNotAllowed,
        413 => ProblemCode::BodyTooLarge,
        415 => ProblemCode::MediaType,
        _ if status.is_client_error() => ProblemCode::Refused,
        _ => ProblemCode::Internal,
    };
    let (parts, _) = response.into_parts();
    let mut problem = Problem::new(kind).with_status(status).into_response();
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH | header::TRANSFER_ENCODING) {
            problem.headers_mut().insert(name, value.clone());
        }
    }
    problem
}

/// A panic is answered, not spread: the connection and the process go on.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub fn panic_response(panic: Box<dyn std::any::Any + Send>) -> Response {
    let reason = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(reason, "a handler panicked");
    Problem::new(ProblemCode::Internal).into_response()
}
