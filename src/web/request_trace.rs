//! The trace of a request: one of its own, with a link to what a client brought along; that of a trusted proxy where the settings say so.
//!
//! Requests that change uploads, jobs and media are always sampled, others by the configured ratio; what a client says of that counts
//! nothing, and neither do the digits of a trace that others named. One that is refused before it could change anything
//! (`is_refusal`) counts as one of the others, so that a flood of them does not crowd out the rest. `tracestate` and `baggage` are not
//! read: they are texts of others. A request whose trace is not sampled has ids all the same, in its log lines and in problem documents.
//!
//! The span is named by method and template of the operation and ends with the head of the answer. It never says what path was asked
//! for: paths hold tokens.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use nats::spans::{Span, SpanAttribute, SpanKind, TraceContext};

use crate::{
    client::ClientIdentification,
    limit::RateLimitGroup,
    operation::{Operation, matched_operation},
    problem_code::ProblemCode,
    request::REQUEST_ID,
};

/// Kinds of events whose requests are always sampled begin with these.
const KEPT_EVENTS: [&str; 3] = ["upload.", "job.", "media."];

/// By what requests are traced.
#[derive(Debug)]
pub struct RequestTracing {
    /// Share of the requests that are sampled, from 0 to 1, of those that are not sampled anyway.
    pub read_ratio: f64,
    /// Whether a request goes on with the trace that a trusted proxy names. Many proxies hand on what the client says.
    pub continues_proxy_traces: bool,
    /// Whom to believe.
    pub clients: Arc<ClientIdentification>,
}

/// A request that has begun.
struct RequestSpan {
    span: Span,
    /// True when it is sampled whatever it asks for.
    is_in_ratio: bool,
}

impl RequestSpan {
    fn end(self, response: &Response) {
        if !self.is_in_ratio && is_refusal(response.status()) {
            self.span.discard();
        } else if self.span.is_kept() {
            describe_response(&self.span, response);
        }
    }
}

impl RequestTracing {
    /// The span of a request: of the trace that it goes on with, or with a link to the one that it brings along.
    fn begin(&self, request: &Request, operation: Option<&'static Operation>) -> RequestSpan {
        let foreign = foreign_context(request.headers());
        let is_continued =
            || self.continues_proxy_traces && self.clients.trusted_header(request.extensions()).is_some();
        let parent = foreign.filter(|_| is_continued());
        // Random also where the trace is another's: a client that names a trace would choose what is sampled.
        let own = TraceContext::new_root(false);
        let is_in_ratio = own.is_in_ratio(self.read_ratio);
        let is_sampled = is_in_ratio || operation.is_some_and(is_always_sampled);
        let method = method_name(request.method());
        let name = || match operation {
            Some(operation) => Cow::Owned(format!("{method} {}", operation.path)),
            None => Cow::Borrowed(method),
        };
        let span = match parent {
            Some(parent) => Span::child(parent.with_sampling(is_sampled), SpanKind::Server, name),
            None => Span::first(own.with_sampling(is_sampled), SpanKind::Server, name),
        };
        span.link(foreign.filter(|_| parent.is_none()));
        span.set(|| SpanAttribute::HttpMethod(method));
        if let Some(operation) = operation {
            span.set(|| SpanAttribute::HttpRoute(operation.path));
        }
        RequestSpan { span, is_in_ratio }
    }
}

/// `traceparent`, if there is one and no more.
fn foreign_context(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(schemas::headers::TRACE_PARENT).iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    TraceContext::parse(only.to_str().ok()?)
}

/// True for what changes uploads, jobs or media.
fn is_always_sampled(operation: &'static Operation) -> bool {
    let is_work = matches!(
        operation.rate_group,
        Some(RateLimitGroup::Upload | RateLimitGroup::Worker | RateLimitGroup::Transcoder)
    );
    let is_kept = |kind: &&str| KEPT_EVENTS.iter().any(|start| kind.starts_with(start));
    operation.method != Method::GET && (is_work || operation.events.iter().any(is_kept))
}

/// As the semantic conventions have it: no text of a client.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// Gives the request its trace. Stands right behind what finds the operation, so that all others are a part of it.
pub async fn trace_request(
    State(tracing): State<Arc<RequestTracing>>,
    request: Request,
    next: Next,
) -> Response {
    let operation = matched_operation(&request);
    let begun = tracing.begin(&request, operation);
    let response = begun.span.scope(next.run(request)).await;
    begun.end(&response);
    response
}

/// True for answers that anybody can have as often as they like: not let in, or too many requests.
const fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
}

fn describe_response(span: &Span, response: &Response) {
    let status = response.status();
    span.set(|| SpanAttribute::HttpStatus(status.as_u16()));
    let id = response.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    if let Some(id) = id {
        span.set(|| SpanAttribute::RequestId(id.to_owned()));
    }
    let code = response.extensions().get::<ProblemCode>().map(|problem| problem.code());
    if let Some(code) = code {
        span.set(|| SpanAttribute::ErrorType(code.into()));
    }
    // A refusal is the client's affair (semantic conventions of HTTP, "Status").
    if status.is_server_error() {
        span.fail(code.unwrap_or("internal"));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use parking_lot::Mutex;

    use axum::{Router, body::Body, extract::ConnectInfo, routing::get};
    use schemas::access::ApiKeyScope;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{client::ClientAddressConfig, operation::OperationAccess};

    const FOREIGN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    async fn trace_of(peer: &str, headers: &[(&str, &str)], read_ratio: f64) -> TraceContext {
        trace_by(peer, headers, read_ratio, true).await
    }

    async fn trace_by(
        peer: &str,
        headers: &[(&str, &str)],
        read_ratio: f64,
        continues_proxy_traces: bool,
    ) -> TraceContext {
        let config = ClientAddressConfig {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..Default::default()
        };
        let clients = Arc::new(ClientIdentification { config, public_url: None });
        let tracing = Arc::new(RequestTracing { read_ratio, continues_proxy_traces, clients });
        let answer = || async { nats::spans::current().unwrap().to_string() };
        let router = Router::new()
            .route("/", get(answer))
            .layer(axum::middleware::from_fn_with_state(tracing, trace_request));
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        let body = router.oneshot(request).await.unwrap().into_body();
        let body = axum::body::to_bytes(body, 1_000).await.unwrap();
        TraceContext::parse(std::str::from_utf8(&body).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn only_a_trusted_peer_names_the_trace_and_nobody_what_is_sampled() {
        let foreign = TraceContext::parse(FOREIGN).unwrap();
        let of_client = trace_of("192.0.2.1", &[("traceparent", FOREIGN)], 0.0).await;
        assert!(!of_client.is_same_trace(&foreign) && !of_client.is_sampled());
        let of_proxy = trace_of("10.1.2.3", &[("traceparent", FOREIGN)], 0.0).await;
        assert!(of_proxy.is_same_trace(&foreign) && !of_proxy.is_sampled());
        assert_ne!(of_proxy.span_id(), foreign.span_id());
        let sampled = trace_of("10.1.2.3", &[("traceparent", FOREIGN)], 1.0).await;
        assert!(sampled.is_same_trace(&foreign) && sampled.is_sampled());
        let twice = trace_of("10.1.2.3", &[("traceparent", FOREIGN), ("traceparent", FOREIGN)], 0.0).await;
        assert!(!twice.is_same_trace(&foreign), "two are as good as none");
        let nonsense = trace_of("10.1.2.3", &[("traceparent", "00-x")], 0.0).await;
        assert_ne!(nonsense.trace_id(), of_proxy.trace_id());
        let linked = trace_by("10.1.2.3", &[("traceparent", FOREIGN)], 1.0, false).await;
        assert!(!linked.is_same_trace(&foreign), "a proxy names no trace unless the settings say so");
    }

    #[tokio::test]
    async fn the_digits_of_a_foreign_trace_choose_nothing() {
        // By its digits this one would be in every ratio, and the other in none.
        for digits in ["00000000000000", "ffffffffffffff"] {
            let foreign = format!("00-4bf92f3577b34da6a3{digits}-00f067aa0ba902b7-01");
            let mut sampled = 0;
            for _ in 0..200 {
                let trace = trace_of("10.1.2.3", &[("traceparent", &foreign)], 0.5).await;
                sampled += u32::from(trace.is_sampled());
            }
            assert!((50..=150).contains(&sampled), "{sampled} of 200 with {digits}");
        }
    }

    static TAKEN: Mutex<Vec<TraceContext>> = parking_lot::const_mutex(Vec::new());

    #[tokio::test]
    async fn a_refused_request_is_sampled_by_the_ratio_alone() {
        static APPEND: Operation = Operation::change(
            Method::PATCH,
            "/v1/uploads/{upload_id}",
            OperationAccess::Principal(ApiKeyScope::Upload),
            Some(RateLimitGroup::Upload),
            &[],
        );
        nats::spans::export_to(|span| {
            TAKEN.lock().push(span.context);
        });
        let clients =
            Arc::new(ClientIdentification { config: ClientAddressConfig::default(), public_url: None });
        for (read_ratio, status, wanted) in
            [(0.0, 429, 0), (0.0, 401, 0), (0.0, 403, 0), (0.0, 404, 1), (0.0, 204, 1), (1.0, 429, 1)]
        {
            let tracing =
                RequestTracing { read_ratio, continues_proxy_traces: false, clients: Arc::clone(&clients) };
            let begun = tracing.begin(&Request::new(Body::empty()), Some(&APPEND));
            let context = begun.span.context();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            begun.end(&response);
            let taken = TAKEN.lock().iter().filter(|taken| **taken == context).count();
            assert_eq!(taken, wanted, "{status} with {read_ratio}");
        }
    }

    #[test]
    fn what_changes_uploads_jobs_and_media_is_always_sampled() {
        static READ: Operation = Operation::read(
            "/v1/uploads/{upload_id}",
            OperationAccess::Principal(ApiKeyScope::Upload),
            Some(RateLimitGroup::Upload),
        );
        static APPEND: Operation = Operation::change(
            Method::PATCH,
            "/v1/uploads/{upload_id}",
            OperationAccess::Principal(ApiKeyScope::Upload),
            Some(RateLimitGroup::Upload),
            &[],
        );
        static REDRIVE: Operation = Operation::change(
            Method::POST,
            "/v1/dead-letters/{sequence}/redrive",
            OperationAccess::UnlimitedPrincipal,
            Some(RateLimitGroup::Monitor),
            &["admin.letter_changed", "media.reopened"],
        );
        static PLAY: Operation = Operation::change(
            Method::POST,
            "/v1/playback",
            OperationAccess::Own,
            Some(RateLimitGroup::Streaming),
            &["play.opened"],
        );
        assert!(is_always_sampled(&APPEND) && is_always_sampled(&REDRIVE));
        assert!(!is_always_sampled(&READ) && !is_always_sampled(&PLAY));
    }
}
