//! Spans in the form of OTLP 1.x (`opentelemetry/proto/collector/trace/v1`), as far as it is used here.
//!
//! The messages are written out: the crate that has them generated brings the whole SDK, which nothing else here uses. Tests read what is
//! written with that crate.
//!
//! Limits: names and texts are cut at [`spans::TEXT_BYTES_MAX`].

use std::time::UNIX_EPOCH;

use nats::spans::{self, AttributeValue, FinishedSpan, SpanKind, TraceContext};
use prost::Message;

/// Where a span says that its trace is sampled.
const SAMPLED: u32 = 1;
const STATUS_ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct TraceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(uint32, tag = "14")]
    dropped_links_count: u32,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "OneValue", tags = "1, 3")]
    value: Option<OneValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OneValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct TraceResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// Who sends spans.
#[derive(Debug, Clone)]
pub(super) struct ExportResource {
    /// What the process is, such as `streamgate-ingress`.
    pub(super) service: String,
    /// This very process.
    pub(super) instance: String,
}

impl ExportResource {
    /// A request with spans.
    pub(super) fn encode_request(&self, finished: &[FinishedSpan]) -> Vec<u8> {
        let version = env!("CARGO_PKG_VERSION");
        let attributes = [
            ("service.name", &*self.service),
            ("service.namespace", "streamgate"),
            ("service.instance.id", &self.instance),
            ("service.version", version),
        ];
        let resource = Resource { attributes: attributes.map(|(key, text)| text_entry(key, text)).into() };
        let scope = Scope { name: "streamgate".into(), version: version.into() };
        let scope_spans =
            vec![ScopeSpans { scope: Some(scope), spans: finished.iter().map(encode_span).collect() }];
        TraceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
            .encode_to_vec()
    }
}

/// What the receiver of a request did not take, by its answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PartialAnswer {
    /// How many spans.
    pub(super) rejected: u64,
    /// Why, for people, in one line; may also be a warning about spans that were taken. Empty where nothing is said.
    pub(super) why: String,
}

/// What an answer says; one that can't be read says nothing.
pub(super) fn read_partial(answer: &[u8]) -> PartialAnswer {
    let partial = TraceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    let Some(PartialSuccess { rejected_spans, error_message }) = partial else {
        return PartialAnswer::default();
    };
    let why = cut(&error_message).chars().filter(|c| !c.is_control()).collect();
    PartialAnswer { rejected: u64::try_from(rejected_spans).unwrap_or(0), why }
}

fn encode_span(span: &FinishedSpan) -> OtlpSpan {
    let began_ns = span.began_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let nanoseconds = |ns: u128| u64::try_from(ns).unwrap_or(u64::MAX);
    let entries =
        span.attributes.iter().flat_map(|attribute| [Some(attribute.entry()), attribute.companion()]);
    OtlpSpan {
        trace_id: span.context.trace_id().to_vec(),
        span_id: span.context.span_id().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.span_id().to_vec()).unwrap_or_default(),
        name: cut(&span.name).to_owned(),
        kind: kind_number(span.kind),
        start_time_unix_nano: nanoseconds(began_ns),
        end_time_unix_nano: nanoseconds(began_ns.saturating_add(span.took.as_nanos())),
        attributes: entries.flatten().map(|(key, value)| entry(key, &value)).collect(),
        links: span.links.iter().map(encode_link).collect(),
        dropped_links_count: span.links_left_out,
        status: span.error.as_ref().map(|code| Status { message: cut(code).to_owned(), code: STATUS_ERROR }),
        flags: SAMPLED,
    }
}

fn encode_link(link: &TraceContext) -> Link {
    Link {
        trace_id: link.trace_id().to_vec(),
        span_id: link.span_id().to_vec(),
        flags: if link.is_sampled() { SAMPLED } else { 0 },
    }
}

const fn kind_number(kind: SpanKind) -> i32 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn entry(key: &str, value: &AttributeValue<'_>) -> KeyValue {
    match value {
        AttributeValue::Text(text) => text_entry(key, text),
        AttributeValue::Number(number) => {
            let value = OneValue::Number(i64::try_from(*number).unwrap_or(i64::MAX));
            KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
        }
    }
}

fn text_entry(key: &str, text: &str) -> KeyValue {
    let value = OneValue::Text(cut(text).to_owned());
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn cut(text: &str) -> &str {
    let end = (0..=spans::TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nats::spans::SpanAttribute;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        },
        common::v1::any_value::Value,
        trace::v1::{span::SpanKind as OfficialKind, status::StatusCode},
    };

    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_published_types() {
        let parent = TraceContext::new_root(true);
        let (context, link) = (parent.new_child(), TraceContext::new_root(true));
        let finished = FinishedSpan {
            context,
            parent: Some(parent),
            name: "é".repeat(200).into(),
            kind: SpanKind::Consumer,
            began_at: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
            took: Duration::from_nanos(11),
            attributes: vec![SpanAttribute::Messaging("process"), SpanAttribute::StreamSequence(u64::MAX)],
            links: vec![link],
            links_left_out: 2,
            error: Some("media_rejected".into()),
        };
        let resource = ExportResource { service: "streamgate-upload".into(), instance: "host.1".into() };
        let bytes = resource.encode_request(&[finished]);
        let request = ExportTraceServiceRequest::decode(&*bytes).unwrap();
        assert_eq!(request.encode_to_vec(), bytes, "nothing is written that they do not know");
        let found = &request.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!(found.trace_id, context.trace_id());
        assert_eq!(
            (&found.span_id[..], &found.parent_span_id[..]),
            (&context.span_id()[..], &parent.span_id()[..])
        );
        assert_eq!(found.name.len(), spans::TEXT_BYTES_MAX);
        assert_eq!(found.kind(), OfficialKind::Consumer);
        assert_eq!(found.end_time_unix_nano - found.start_time_unix_nano, 11);
        assert_eq!(found.start_time_unix_nano, 1_700_000_000_123_456_789);
        let said: Vec<_> = found
            .attributes
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.clone().unwrap().value.unwrap()))
            .collect();
        assert_eq!(
            said,
            [
                ("messaging.operation.name", Value::StringValue("process".into())),
                ("messaging.system", Value::StringValue("nats".into())),
                ("nats.stream.sequence", Value::IntValue(i64::MAX)),
            ]
        );
        assert_eq!(
            (found.links[0].trace_id.as_slice(), found.dropped_links_count),
            (&link.trace_id()[..], 2)
        );
        assert_eq!(found.status.as_ref().unwrap().code(), StatusCode::Error);
    }

    #[test]
    fn an_answer_says_how_many_were_not_taken_and_why() {
        let read = |rejected_spans| {
            let partial =
                ExportTracePartialSuccess { rejected_spans, error_message: "full\r\nforged".into() };
            read_partial(&ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
        };
        let partial = |rejected| PartialAnswer { rejected, why: "fullforged".into() };
        assert_eq!((read(3), read(-1)), (partial(3), partial(0)));
        assert_eq!((read_partial(b""), read_partial(b"{}")), Default::default());
    }
}
