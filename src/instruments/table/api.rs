//! All operations over HTTP.

use super::metric_table;
use crate::{
    Counter, CounterFamily, Gauge, GaugeFamily, KeyedFamily, LabelDeclaration, TracedHistogram,
    labels::RepeatOutcome,
};

/// Bounds of the time to the head of an answer, in seconds. 50 ms and 250 ms are the objectives of reading and of changing, 1 s that of
/// opening playback while a chain is asked.
pub const REQUEST_SECONDS_BOUNDS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const HANDLER: LabelDeclaration = LabelDeclaration::fixed(
    "handler",
    &[
        "gateway",
        "api",
        "upload",
        "streaming",
        "metadata",
        "cache",
        "auth",
        "worker",
        "transcoder",
        "monitor",
    ],
);
const OPERATION: LabelDeclaration = LabelDeclaration::bounded(
    "operation",
    200,
    "methods and paths of the API, `none` for what is nothing of it",
);
const STATUS_CLASS: LabelDeclaration =
    LabelDeclaration::fixed("status_class", &["1xx", "2xx", "3xx", "4xx", "5xx"]);
const DIRECTION: LabelDeclaration = LabelDeclaration::fixed("direction", &["received", "sent"]);
const CUT_BY: LabelDeclaration = LabelDeclaration::fixed("by", &["client", "server"]);

metric_table! { Api;
    REQUESTS: KeyedFamily<Counter> = declare(Request, "streamgate_http_requests", "Requests that were answered, by operation and class of status",
        &[HANDLER, OPERATION, STATUS_CLASS])
        used_by(&["StreamGateAvailabilityBurn"]);
    REQUESTS_IN_FLIGHT: KeyedFamily<Gauge> = declare(Request, "streamgate_http_requests_in_flight", "Requests whose answer is not sent yet, by operation",
        &[HANDLER, OPERATION]);
    REQUEST_SECONDS: KeyedFamily<TracedHistogram> = declare(Performance, "streamgate_http_request_seconds", "Time from the head of a request to that of its answer",
        &[HANDLER, OPERATION, STATUS_CLASS])
        with_buckets(REQUEST_SECONDS_BOUNDS) used_by(&["StreamGateLatencyBurn"]);
    BODY_BYTES: KeyedFamily<Counter> = declare(Request, "streamgate_http_body_bytes", "Bytes of bodies as they came and went, before any coding of the connection",
        &[HANDLER, DIRECTION]);
    PROBLEMS: KeyedFamily<Counter> = declare(Request, "streamgate_http_problems", "Problems that were answered, by code",
        &[LabelDeclaration::bounded("code", 200, "codes of problems")]);
    CUT_ANSWERS: KeyedFamily<Counter> = declare(Request, "streamgate_http_cut_answers", "Answers that did not come to their end, by whose doing: a client that went away, also before their head, or an error of the server",
        &[HANDLER, CUT_BY]);
    REPEATED_REQUESTS: CounterFamily<RepeatOutcome> = declare(Request, "streamgate_idempotent_requests", "Requests with an Idempotency-Key by what became of them");
    EVENT_FOLLOWERS: GaugeFamily<()> = declare(Operation, "streamgate_event_followers", "Clients that follow events now");
}
