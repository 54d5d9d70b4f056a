//! What a span may say: a closed list, so that nothing secret gets into a span by mistake. Keys are those of the semantic conventions of
//! OpenTelemetry where they have one, else below `streamgate.` and `nats.`.

use std::borrow::Cow;

/// One attribute of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanAttribute {
    /// Method of a request; what is no method of HTTP is `_OTHER`.
    HttpMethod(&'static str),
    /// Path of the operation with its parameters as `{name}`; never the path that was asked for.
    HttpRoute(&'static str),
    /// Status of the answer.
    HttpStatus(u16),
    /// What problem documents and the header `X-Request-Id` say.
    RequestId(String),
    /// Stable code of what went wrong.
    ErrorType(Cow<'static, str>),
    /// That it is a message of NATS, and what is done with it: `send` or `process`.
    Messaging(&'static str),
    /// Subject with ids replaced.
    DestinationTemplate(String),
    /// Durable that handed the message out.
    ConsumerGroup(String),
    /// `Nats-Msg-Id` of an event.
    MessageId(String),
    /// Stream that the message lies in.
    Stream(String),
    /// Its sequence there.
    StreamSequence(u64),
    /// How often the message was delivered, from 1.
    DeliveryCount(u64),
    /// How handling ended.
    Outcome(&'static str),
    /// Medium concerned: an id.
    MediaId(String),
    /// Job concerned: an id.
    JobId(String),
    /// Upload concerned: an id.
    UploadId(String),
    /// Part of a job, by the name that its plan gave it.
    Part(String),
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    /// A text.
    Text(&'a str),
    /// A number; one beyond 2^63 counts as that.
    Number(u64),
}

impl SpanAttribute {
    /// Key and value.
    pub fn entry(&self) -> (&'static str, AttributeValue<'_>) {
        use AttributeValue::{Number, Text};
        match self {
            Self::HttpMethod(method) => ("http.request.method", Text(method)),
            Self::HttpRoute(route) => ("http.route", Text(route)),
            Self::HttpStatus(status) => ("http.response.status_code", Number(u64::from(*status))),
            Self::RequestId(id) => ("streamgate.request.id", Text(id)),
            Self::ErrorType(code) => ("error.type", Text(code)),
            Self::Messaging(operation) => ("messaging.operation.name", Text(operation)),
            Self::DestinationTemplate(template) => ("messaging.destination.template", Text(template)),
            Self::ConsumerGroup(durable) => ("messaging.consumer.group.name", Text(durable)),
            Self::MessageId(id) => ("messaging.message.id", Text(id)),
            Self::Stream(stream) => ("nats.stream", Text(stream)),
            Self::StreamSequence(sequence) => ("nats.stream.sequence", Number(*sequence)),
            Self::DeliveryCount(count) => ("nats.delivery.count", Number(*count)),
            Self::Outcome(outcome) => ("streamgate.outcome", Text(outcome)),
            Self::MediaId(id) => ("streamgate.media.id", Text(id)),
            Self::JobId(id) => ("streamgate.job.id", Text(id)),
            Self::UploadId(id) => ("streamgate.upload.id", Text(id)),
            Self::Part(part) => ("streamgate.part", Text(part)),
        }
    }

    /// A second entry that goes with the first: which messaging system.
    pub const fn companion(&self) -> Option<(&'static str, AttributeValue<'static>)> {
        match self {
            Self::Messaging(_) => Some(("messaging.system", AttributeValue::Text("nats"))),
            _ => None,
        }
    }
}
