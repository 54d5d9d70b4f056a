//! Spans: begun, named by their ids, and handed to who takes them when they end.
//!
//! Limits: [`ATTRIBUTES_MAX`], [`LINKS_MAX`], [`TEXT_BYTES_MAX`].

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

use crate::{
    attribute::SpanAttribute,
    context::TraceContext,
    current::{self, CurrentSpan, Scoped},
};

/// Most attributes of a span; more are left out.
pub const ATTRIBUTES_MAX: usize = 24;
/// Most links of a span; more are left out, and counted.
pub const LINKS_MAX: usize = 128;
/// Longest name of a span, and longest text of an attribute, in bytes; a longer one is cut by who writes it.
pub const TEXT_BYTES_MAX: usize = 256;

type SpanSink = Box<dyn Fn(FinishedSpan) + Send + Sync>;

static SINK: OnceLock<SpanSink> = OnceLock::new();

/// Has `sink` take all spans of this process that end from now on. It must not wait. False when there is one already.
pub fn export_to(sink: impl Fn(FinishedSpan) + Send + Sync + 'static) -> bool {
    SINK.set(Box::new(sink)).is_ok()
}

/// What a span is to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside.
    Internal,
    /// Answers a request.
    Server,
    /// Asks somebody.
    Client,
    /// Sends a message.
    Producer,
    /// Handles a message.
    Consumer,
}

/// What is known of a span beside its ids.
#[derive(Debug, Default)]
pub(crate) struct SpanDetails {
    attributes: Vec<SpanAttribute>,
    links: Vec<TraceContext>,
    links_left_out: u32,
    error: Option<Cow<'static, str>>,
}

impl SpanDetails {
    pub(crate) fn link(&mut self, other: TraceContext) {
        if self.links.contains(&other) {
            return;
        }
        if self.links.len() < LINKS_MAX {
            self.links.push(other);
        } else {
            self.links_left_out = self.links_left_out.saturating_add(1);
        }
    }
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct FinishedSpan {
    /// Its own context.
    pub context: TraceContext,
    /// The span that it is a part of; `None` for the first one of a trace.
    pub parent: Option<TraceContext>,
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: SpanKind,
    /// When it began.
    pub began_at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What it says.
    pub attributes: Vec<SpanAttribute>,
    /// Spans that it has to do with, and is no part of.
    pub links: Vec<TraceContext>,
    /// How many links were left out.
    pub links_left_out: u32,
    /// Stable code of what went wrong.
    pub error: Option<Cow<'static, str>>,
}

/// A span that is open until it is dropped.
pub struct Span {
    context: TraceContext,
    recording: Option<Box<SpanRecording>>,
}

/// What is kept of a span that somebody will take.
struct SpanRecording {
    parent: Option<TraceContext>,
    name: Cow<'static, str>,
    kind: SpanKind,
    began_at: SystemTime,
    began: Instant,
    details: Arc<Mutex<SpanDetails>>,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.context).finish()
    }
}

impl Span {
    /// The first span of a trace.
    pub fn root(kind: SpanKind, is_sampled: bool, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        Self::open(TraceContext::new_root(is_sampled), None, kind, name)
    }

    /// The first span of a trace, whose ids are known.
    pub fn first(context: TraceContext, kind: SpanKind, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        Self::open(context, None, kind, name)
    }

    /// A part of `parent`.
    pub fn child(parent: TraceContext, kind: SpanKind, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        Self::open(parent.new_child(), Some(parent), kind, name)
    }

    /// A part of the work under way; outside of all the first span of a trace that is sampled.
    pub fn begin(kind: SpanKind, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        Self::resume(None, kind, name)
    }

    /// A part of the trace that a record was made in (`origin`), also where another request works on it now: below the span under way
    /// where that is of the same trace, else below the one that made the record, with a link to the span under way, which gets one back.
    pub fn resume(
        origin: Option<TraceContext>,
        kind: SpanKind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        match (current::current(), origin) {
            (Some(under_way), Some(origin)) if !under_way.is_same_trace(&origin) => {
                current::link_current(Some(origin));
                let span = Self::child(origin, kind, name);
                span.link(Some(under_way));
                span
            }
            (Some(parent), _) | (None, Some(parent)) => Self::child(parent, kind, name),
            (None, None) => Self::root(kind, true, name),
        }
    }

    fn open(
        context: TraceContext,
        parent: Option<TraceContext>,
        kind: SpanKind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let is_kept = context.is_sampled() && SINK.get().is_some();
        let recording = is_kept.then(|| {
            Box::new(SpanRecording {
                parent,
                name: name(),
                kind,
                began_at: SystemTime::now(),
                began: Instant::now(),
                details: Arc::default(),
            })
        });
        Self { context, recording }
    }

    /// Its ids.
    pub const fn context(&self) -> TraceContext {
        self.context
    }

    /// True when somebody will take it: what costs something to find out is worth it then.
    pub const fn is_kept(&self) -> bool {
        self.recording.is_some()
    }

    /// Says something about it.
    pub fn set(&self, attribute: impl FnOnce() -> SpanAttribute) {
        if let Some(recording) = &self.recording {
            let mut details = recording.details.lock();
            if details.attributes.len() < ATTRIBUTES_MAX {
                details.attributes.push(attribute());
            }
        }
    }

    /// Adds a link to a span that it is no part of.
    pub fn link(&self, other: Option<TraceContext>) {
        if let (Some(recording), Some(other)) = (&self.recording, other) {
            recording.details.lock().link(other);
        }
    }

    /// Says that it failed, by a stable code.
    pub fn fail(&self, code: impl Into<Cow<'static, str>>) {
        if let Some(recording) = &self.recording {
            recording.details.lock().error = Some(code.into());
        }
    }

    /// Runs `work` as a part of it. The span ends when it is dropped, not with the work.
    pub fn scope<F: Future>(&self, work: F) -> Scoped<F> {
        let details = self.recording.as_ref().map(|recording| Arc::clone(&recording.details));
        Scoped { current: Some(CurrentSpan { context: self.context, details }), work }
    }

    /// Ends it, and nobody takes it. Parts of it that have ended are taken already.
    pub fn discard(mut self) {
        self.recording = None;
    }

    /// Runs `work` as a part of it, and ends with it.
    pub async fn run<F: Future>(self, work: F) -> F::Output {
        self.scope(work).await
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(recording), Some(sink)) = (self.recording.take(), SINK.get()) else { return };
        let SpanRecording { parent, name, kind, began_at, began, details } = *recording;
        let SpanDetails { attributes, links, links_left_out, error } = std::mem::take(&mut *details.lock());
        sink(FinishedSpan {
            context: self.context,
            parent,
            name,
            kind,
            began_at,
            took: began.elapsed(),
            attributes,
            links,
            links_left_out,
            error,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use futures::executor::block_on;

    use super::*;
    use crate::{link_current, with_context};

    static TAKEN: LazyLock<Mutex<Vec<FinishedSpan>>> = LazyLock::new(Mutex::default);

    fn take(name: &str) -> FinishedSpan {
        TAKEN.lock().iter().find(|span| span.name == name).cloned().unwrap()
    }

    #[test]
    fn a_record_keeps_its_trace_and_is_linked_with_other_requests() {
        export_to(|span| TAKEN.lock().push(span));
        let made = Span::root(SpanKind::Server, true, || "POST".into());
        let unsampled = Span::root(SpanKind::Server, false, || "GET".into());
        let (origin, other) = (made.context(), Span::root(SpanKind::Server, true, || "PATCH".into()));
        let patch = other.context();
        block_on(made.run(async {
            Span::resume(Some(origin), SpanKind::Internal, || "same".into())
                .set(|| SpanAttribute::HttpStatus(200));
        }));
        block_on(
            other.run(async { drop(Span::resume(Some(origin), SpanKind::Internal, || "append".into())) }),
        );
        block_on(with_context(None, async {
            drop(Span::resume(Some(origin), SpanKind::Producer, || "send".into()));
        }));
        drop(unsampled);
        Span::root(SpanKind::Server, true, || "refused".into()).discard();
        let append = take("append");
        assert_eq!((append.parent, &append.links), (Some(origin), &vec![patch]));
        assert_eq!(take("PATCH").links, [origin]);
        assert!(take("same").links.is_empty());
        assert_eq!(take("same").attributes, [SpanAttribute::HttpStatus(200)]);
        assert_eq!(take("send").parent, Some(origin));
        assert!(!TAKEN.lock().iter().any(|span| span.name == "GET"), "what is not sampled is not kept");
        assert!(!TAKEN.lock().iter().any(|span| span.name == "refused"), "what is discarded is not taken");
    }

    #[test]
    fn links_have_a_limit() {
        export_to(|span| TAKEN.lock().push(span));
        let span = Span::root(SpanKind::Consumer, true, || "finish".into());
        block_on(span.run(async {
            for _ in 0..LINKS_MAX + 3 {
                link_current(Some(TraceContext::new_root(true)));
            }
        }));
        let finish = take("finish");
        assert_eq!((finish.links.len(), finish.links_left_out), (LINKS_MAX, 3));
    }
}
