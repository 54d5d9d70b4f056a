//! Traces: the context of the work under way, its spans, and who takes them.
//!
//! Every request and every message has a [`TraceContext`], also where nothing is exported: its ids are in logs, problem documents and
//! headers. A [`Span`] is kept only when its trace is sampled and somebody takes spans ([`export_to`]); otherwise it is a few ids.
//!
//! What a span may say is [`SpanAttribute`], a closed list: ids of ours, templates, codes and numbers. No text of a client, no path, no
//! header and no log line gets into a span. `tracestate` and `baggage` are dropped: both are texts of others.
//!
//! A span that goes on with work of a former one is its child. Where that would not be true it has a link: a trace that a client
//! brings along, a former try, the parts of a finish, the trace of a record that another request changes.
//!
//! Limits: [`ATTRIBUTES_MAX`] attributes and [`LINKS_MAX`] links a span; [`TEXT_BYTES_MAX`] bytes a name or text.

mod attribute;
mod context;
mod current;
mod span;

pub use attribute::{AttributeValue, SpanAttribute};
pub use context::TraceContext;
pub use current::{Scoped, carry, current, link_current, link_current_to, with_context};
pub use span::{ATTRIBUTES_MAX, FinishedSpan, LINKS_MAX, Span, SpanKind, TEXT_BYTES_MAX, export_to};
