//! The span of the work under way: kept beside a future and found while that is polled, whatever runs it.
//!
//! A task of its own does not have the span of who began it, unless [`carry`] hands it on.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

use crate::{context::TraceContext, span::SpanDetails};

thread_local! {
    static CURRENT: RefCell<Option<CurrentSpan>> = const { RefCell::new(None) };
}

/// What work under way knows of its span.
#[derive(Debug, Clone)]
pub(crate) struct CurrentSpan {
    pub(crate) context: TraceContext,
    /// Of a span that is kept.
    pub(crate) details: Option<Arc<Mutex<SpanDetails>>>,
}

/// The span of the work under way; `None` outside of all.
pub fn current() -> Option<TraceContext> {
    CURRENT.with_borrow(|current| current.as_ref().map(|current| current.context))
}

/// Adds a link to the span of the work under way, unless `other` is of the same trace or there is none.
pub fn link_current(other: Option<TraceContext>) {
    let Some(other) = other else { return };
    CURRENT.with_borrow(|current| {
        if let Some(CurrentSpan { context, details: Some(details) }) = current
            && !context.is_same_trace(&other)
        {
            details.lock().link(other);
        }
    });
}

/// Adds a link to the span of the work under way, also to a span of the same trace: for work that comes of several.
pub fn link_current_to(other: Option<TraceContext>) {
    let Some(other) = other else { return };
    CURRENT.with_borrow(|current| {
        if let Some(CurrentSpan { details: Some(details), .. }) = current {
            details.lock().link(other);
        }
    });
}

/// Runs `work` as a part of the work under way, also in a task of its own.
pub fn carry<F: Future>(work: F) -> Scoped<F> {
    Scoped { current: CURRENT.with_borrow(Clone::clone), work }
}

/// Runs `work` below a span that is known by its context alone; with `None` outside of all.
pub fn with_context<F: Future>(context: Option<TraceContext>, work: F) -> Scoped<F> {
    Scoped { current: context.map(|context| CurrentSpan { context, details: None }), work }
}

pin_project! {
    /// Work with a span.
    #[derive(Debug)]
    #[must_use = "a future does nothing until it is awaited"]
    pub struct Scoped<F> {
        pub(crate) current: Option<CurrentSpan>,
        #[pin]
        pub(crate) work: F,
    }
}

/// Puts back what was current before, also when the work panics.
struct Restore<'a> {
    own: &'a mut Option<CurrentSpan>,
}

impl<'a> Restore<'a> {
    fn enter(own: &'a mut Option<CurrentSpan>) -> Self {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, own));
        Self { own }
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, self.own));
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _restore = Restore::enter(this.current);
        this.work.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::{Span, SpanKind};

    #[test]
    fn work_has_its_own_span_and_who_awaits_it_the_one_of_before() {
        let outer = Span::root(SpanKind::Server, true, || "outer".into());
        let inner = TraceContext::new_root(false);
        let carried = block_on(outer.scope(async {
            assert_eq!(current(), Some(outer.context()));
            with_context(Some(inner), async { assert_eq!(current(), Some(inner)) }).await;
            assert_eq!(current(), Some(outer.context()));
            with_context(None, async { assert_eq!(current(), None) }).await;
            [carry(async { current() })]
        }));
        assert_eq!(current(), None);
        assert_eq!(carried.map(block_on), [Some(outer.context())]);
    }

    #[test]
    fn a_panic_leaves_no_span_behind() {
        let span = Span::root(SpanKind::Server, true, || "outer".into());
        let broken =
            std::panic::AssertUnwindSafe(|| block_on(span.scope(async { panic!("a fault of ours") })));
        std::panic::catch_unwind(broken).unwrap_err();
        assert_eq!(current(), None);
    }
}
