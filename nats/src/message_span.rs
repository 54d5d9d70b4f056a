//! Spans of messages: what they are called and say, and the trace that a message belongs to, by its headers.

use std::collections::BTreeMap;

use schemas::{envelope::UnsentEvent, headers, subjects};
use spans::{Span, SpanAttribute, SpanKind, TraceContext};

/// Name of the span of a message that is sent.
pub(crate) fn send_span_name(subject: &str) -> String {
    format!("send {}", subjects::subject_template(subject))
}

/// Says of a span which event it sends.
pub(crate) fn describe_event(span: &Span, event: &UnsentEvent) {
    if !span.is_kept() {
        return;
    }
    span.set(|| SpanAttribute::Messaging("send"));
    span.set(|| SpanAttribute::DestinationTemplate(subjects::subject_template(&event.subject)));
    span.set(|| SpanAttribute::MessageId(event.id.clone()));
    describe_entities(span, &event.headers);
}

/// Says of a span what its message is about, by its headers.
pub(crate) fn describe_entities(span: &Span, headers: &BTreeMap<String, String>) {
    if let Some(id) = headers.get(headers::MEDIA_ID) {
        span.set(|| SpanAttribute::MediaId(id.clone()));
    }
    if let Some(id) = headers.get(headers::JOB_ID) {
        span.set(|| SpanAttribute::JobId(id.clone()));
    }
}

/// The trace that a message belongs to, by its headers.
pub(crate) fn message_context(headers: &BTreeMap<String, String>) -> Option<TraceContext> {
    let id = headers.get(headers::ID).or_else(|| headers.get("Nats-Msg-Id"));
    event_context(headers.get(headers::TRACE_PARENT)?, id.map_or("", String::as_str))
}

/// The trace that an event belongs to, by its `traceparent` and its id. Versions before traces took the digits of the trace from the id
/// of the event: nothing else is of that trace, so it counts as none.
pub fn event_context(trace_parent: &str, event_id: &str) -> Option<TraceContext> {
    TraceContext::parse(trace_parent).filter(|context| !event_id.starts_with(&context.trace_id_text()))
}

/// The span of an answer to `question`, of the trace of who asks; without one it is of none that is kept.
pub fn answer_span(question: &async_nats::Message, name: &'static str) -> Span {
    let trace_parent = question.headers.as_ref().and_then(|all| all.get(headers::TRACE_PARENT));
    let name = || format!("answer {name}").into();
    match trace_parent.and_then(|text| TraceContext::parse(text.as_str())) {
        Some(asked) => Span::child(asked, SpanKind::Server, name),
        None => Span::root(SpanKind::Server, false, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_was_made_of_the_id_of_an_event_is_none() {
        let own = TraceContext::new_root(true);
        let id = format!("{}{}", own.trace_id_text(), "0".repeat(32));
        let headers = |name: &str, id: &str| {
            BTreeMap::from([
                (headers::TRACE_PARENT.to_owned(), own.to_string()),
                (name.to_owned(), id.to_owned()),
            ])
        };
        for name in [headers::ID, "Nats-Msg-Id"] {
            assert_eq!(message_context(&headers(name, &id)), None);
            assert_eq!(message_context(&headers(name, &"1".repeat(64))), Some(own));
        }
        assert_eq!(event_context(&own.to_string(), ""), Some(own));
        assert_eq!(message_context(&BTreeMap::new()), None);
    }
}
