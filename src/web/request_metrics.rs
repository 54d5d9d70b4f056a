//! Requests as metrics: how many are in flight, how many were answered and how long that took, by operation and class of status; bytes of bodies
//! by direction.
//!
//! What is counted of an operation is found once, when the router is made, and its series when it is first asked for: a request costs
//! a look-up by the address of its declaration, a few atomic additions and one short lock.
//!
//! Limits: the series of [`nats::metrics::KeyedFamily`].

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use nats::metrics::{
    Counter, Gauge, GaugeHold, TracedHistogram,
    table::{BODY_BYTES, CUT_ANSWERS, PROBLEMS, REQUEST_SECONDS, REQUESTS, REQUESTS_IN_FLIGHT},
};
use pin_project_lite::pin_project;

use crate::{
    operation::{Operation, matched_operation},
    problem_code::ProblemCode,
};

/// What has no operation: other paths, other methods, and what is refused before it is looked at.
const NO_OPERATION: &str = "none";
const NO_HANDLER: &str = "gateway";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of all operations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    by_operation: Arc<HashMap<usize, Arc<OperationMetrics>>>,
    unmatched: Arc<OperationMetrics>,
}

/// The series of one operation.
#[derive(Debug)]
struct OperationMetrics {
    handler: &'static str,
    operation: String,
    in_flight: OnceLock<Gauge>,
    answered: [OnceLock<(Counter, TracedHistogram)>; CLASSES.len()],
    received_bytes: OnceLock<Counter>,
    sent_bytes: OnceLock<Counter>,
}

impl OperationMetrics {
    fn new(handler: &'static str, operation: String) -> Arc<Self> {
        Arc::new(Self {
            handler,
            operation,
            in_flight: OnceLock::new(),
            answered: Default::default(),
            received_bytes: OnceLock::new(),
            sent_bytes: OnceLock::new(),
        })
    }

    fn hold(&self) -> GaugeHold {
        let make = || REQUESTS_IN_FLIGHT.series(&[self.handler, &self.operation]);
        GaugeHold::new(Some(self.in_flight.get_or_init(make).clone()))
    }

    fn count_answer(&self, status: StatusCode, began: Instant) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1).min(CLASSES.len() - 1);
        let (Some(series), Some(name)) = (self.answered.get(class), CLASSES.get(class)) else { return };
        let values = [self.handler, &self.operation, name];
        let (count, seconds) =
            series.get_or_init(|| (REQUESTS.series(&values), REQUEST_SECONDS.series(&values)));
        count.inc();
        seconds.observe(began.elapsed().as_secs_f64());
    }

    fn received_bytes(&self) -> Counter {
        self.received_bytes.get_or_init(|| BODY_BYTES.series(&[self.handler, "received"])).clone()
    }

    fn sent_bytes(&self) -> Counter {
        self.sent_bytes.get_or_init(|| BODY_BYTES.series(&[self.handler, "sent"])).clone()
    }
}

impl RequestMetrics {
    /// Those of these operations.
    pub fn new(operations: &[&'static Operation]) -> Self {
        let of = |operation: &&'static Operation| {
            let handler = operation.rate_group.map_or(NO_HANDLER, crate::limit::RateLimitGroup::name);
            let name = format!("{} {}", operation.method, operation.path);
            (address(operation), OperationMetrics::new(handler, name))
        };
        Self {
            by_operation: Arc::new(operations.iter().map(of).collect()),
            unmatched: OperationMetrics::new(NO_HANDLER, NO_OPERATION.to_owned()),
        }
    }

    fn find(&self, operation: Option<&'static Operation>) -> &Arc<OperationMetrics> {
        operation.and_then(|operation| self.by_operation.get(&address(operation))).unwrap_or(&self.unmatched)
    }
}

/// A declaration is a static: its address names it.
fn address(operation: &'static Operation) -> usize {
    std::ptr::from_ref(operation).addr()
}

/// Counts a request, its answer and the bytes of both. Stands right behind what finds the operation.
pub async fn count_request(State(metrics): State<RequestMetrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let counted = Arc::clone(metrics.find(matched_operation(&request)));
    let hold = counted.hold();
    let is_head = *request.method() == Method::HEAD;
    let request = if request.body().is_end_stream() {
        request
    } else {
        let bytes = counted.received_bytes();
        request.map(|body| Body::new(ReceivedBody { body, bytes }))
    };
    let mut pending = PendingAnswer { handler: counted.handler, is_there: false };
    let response = next.run(request).await;
    pending.is_there = true;
    counted.count_answer(response.status(), began);
    if let Some(code) = response.extensions().get::<ProblemCode>() {
        PROBLEMS.increment(&[code.code()]);
    }
    if is_head || response.body().is_end_stream() {
        return response;
    }
    let wanted_bytes = declared_length(response.headers()).or_else(|| response.body().size_hint().exact());
    let is_endless =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let (sent, handler) = (counted.sent_bytes(), counted.handler);
    response.map(|body| {
        let end = AnswerEnd {
            handler,
            wanted_bytes,
            sent_bytes: 0,
            is_over: is_endless,
            has_failed: false,
            _hold: hold,
        };
        Body::new(SentBody { body, sent, end })
    })
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pin_project! {
    /// The body of a request, which counts what comes.
    struct ReceivedBody {
        #[pin]
        body: Body,
        bytes: Counter,
    }
}

impl HttpBody for ReceivedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.bytes.inc_by(data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer whose head is not there yet: it is dropped with the request when the client goes away.
struct PendingAnswer {
    handler: &'static str,
    is_there: bool,
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        // A panic is no client's doing, and is answered.
        if !self.is_there && !std::thread::panicking() {
            CUT_ANSWERS.increment(&[self.handler, "client"]);
        }
    }
}

/// What is known of an answer when its body is let go.
struct AnswerEnd {
    handler: &'static str,
    /// `None` where its end alone says how long it is.
    wanted_bytes: Option<u64>,
    sent_bytes: u64,
    is_over: bool,
    has_failed: bool,
    _hold: GaugeHold,
}

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        // The connection lets go of a body once its length is there, without asking for its end.
        if self.has_failed {
            CUT_ANSWERS.increment(&[self.handler, "server"]);
        } else if !self.is_over && self.wanted_bytes != Some(self.sent_bytes) {
            CUT_ANSWERS.increment(&[self.handler, "client"]);
        }
    }
}

pin_project! {
    /// The body of an answer, which counts what goes; its request is in flight as long as it lives.
    struct SentBody {
        #[pin]
        body: Body,
        sent: Counter,
        end: AnswerEnd,
    }
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        let frame = this.body.as_mut().poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.sent.inc_by(data.len() as u64);
                    this.end.sent_bytes += data.len() as u64;
                }
                this.end.is_over |= this.body.is_end_stream();
            }
            Poll::Ready(Some(Err(_))) => this.end.has_failed = true,
            Poll::Ready(None) => this.end.is_over = true,
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use futures::{FutureExt, StreamExt};
    use nats::metrics::{DeclaredFamilies, render_collector};
    use tower::ServiceExt;

    use super::*;
    use crate::{
        error::Problem,
        limit::RateLimitGroup,
        operation::{OperationAccess, OperationRouter},
    };

    static READ: Operation =
        Operation::read("/numbers/{id}", OperationAccess::Open, Some(RateLimitGroup::Metadata));
    static WRITE: Operation =
        Operation::change(Method::POST, "/numbers", OperationAccess::Open, Some(RateLimitGroup::Upload), &[]);

    fn router() -> Router {
        let routes = OperationRouter::<()>::default().with(&READ, || async { "1234567890" }).with(
            &WRITE,
            |body: Bytes| async move {
                if body.is_empty() { Err(Problem::new(ProblemCode::NotFound)) } else { Ok("taken") }
            },
        );
        let metrics = RequestMetrics::new(routes.operations());
        let (answering, table) = routes.into_parts();
        let broken = || async {
            let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("the store is away"))];
            Body::from_stream(futures::stream::iter(parts))
        };
        let answering = answering
            .route("/else", get(|| async { "else" }))
            .route("/broken", get(broken))
            .route("/never", get(std::future::pending::<String>));
        answering.layer(
            tower::ServiceBuilder::new()
                .layer(table.match_layer())
                .layer(axum::middleware::from_fn_with_state(metrics, count_request)),
        )
    }

    async fn ask(method: &str, path: &str, body: &'static str) -> Response {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        router().oneshot(request).await.unwrap()
    }

    async fn drain(response: Response) {
        let mut body = response.into_body().into_data_stream();
        while body.next().await.is_some() {}
    }

    #[tokio::test]
    async fn requests_are_counted_by_operation_and_class() {
        drain(ask("GET", "/numbers/one", "").await).await;
        drain(ask("GET", "/numbers/two", "").await).await;
        drain(ask("HEAD", "/numbers/two", "").await).await;
        drain(ask("POST", "/numbers", "").await).await;
        drain(ask("POST", "/numbers", "seven..").await).await;
        drain(ask("GET", "/else", "").await).await;
        drain(ask("GET", "/broken", "").await).await;
        assert!(ask("GET", "/never", "").now_or_never().is_none(), "its client goes before the head");
        let cut = ask("GET", "/numbers/three", "").await;
        let open = render_collector(DeclaredFamilies);
        assert!(
            open.contains("requests_in_flight{handler=\"metadata\",operation=\"GET /numbers/{id}\"} 1\n"),
            "{open}"
        );
        drop(cut);
        let text = render_collector(DeclaredFamilies);
        for line in [
            "streamgate_http_requests_total{handler=\"metadata\",operation=\"GET /numbers/{id}\",status_class=\"2xx\"} 4",
            "streamgate_http_requests_total{handler=\"upload\",operation=\"POST /numbers\",status_class=\"4xx\"} 1",
            "streamgate_http_requests_total{handler=\"gateway\",operation=\"none\",status_class=\"2xx\"} 2",
            "streamgate_http_requests_in_flight{handler=\"metadata\",operation=\"GET /numbers/{id}\"} 0",
            "streamgate_http_request_seconds_count{handler=\"upload\",operation=\"POST /numbers\",status_class=\"2xx\"} 1",
            "streamgate_http_body_bytes_total{handler=\"metadata\",direction=\"sent\"} 20",
            "streamgate_http_body_bytes_total{handler=\"upload\",direction=\"received\"} 7",
            "streamgate_http_problems_total{code=\"not_found\"} 1",
            "streamgate_http_cut_answers_total{handler=\"metadata\",by=\"client\"} 1",
            "streamgate_http_cut_answers_total{handler=\"gateway\",by=\"client\"} 1",
            "streamgate_http_cut_answers_total{handler=\"gateway\",by=\"server\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
        assert!(!text.contains("three"), "no path of a client is a label: {text}");
    }
}
