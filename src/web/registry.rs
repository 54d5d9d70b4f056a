//! The metrics of a process: what its roles count, as one document of OpenMetrics.
//!
//! Limits: one document is written at a time; other readers wait for it.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use nats::metrics::{Collector, DeclaredFamilies, Registry, render_registry, to_prometheus_text};
use parking_lot::RwLock;
use tokio::sync::Mutex;

/// Media type of metrics (OpenMetrics 1.0.0).
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of metrics for readers that do not ask for OpenMetrics.
pub const METRICS_TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is done to the document of this process before it is answered.
type DocumentChange = Arc<dyn Fn(String) -> String + Send + Sync>;

/// The metrics of this process: what its roles count. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct MetricsRegistry {
    registry: Arc<RwLock<Registry>>,
    merging: Arc<RwLock<Option<DocumentChange>>>,
    /// Held while a document is written: one at a time, since it may have many megabytes.
    writing: Arc<Mutex<()>>,
    instance: Arc<str>,
}

impl std::fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsRegistry").finish_non_exhaustive()
    }
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(DeclaredFamilies));
        Self {
            registry: Arc::new(RwLock::new(registry)),
            merging: Arc::default(),
            writing: Arc::default(),
            instance: new_instance().into(),
        }
    }
}

impl MetricsRegistry {
    /// Adds families that no other collector has.
    pub fn register(&self, collector: impl Collector) {
        self.change(|registry| registry.register_collector(Box::new(collector)));
    }

    /// Adds metrics to the registry itself.
    pub fn change<R>(&self, add: impl FnOnce(&mut Registry) -> R) -> R {
        add(&mut self.registry.write())
    }

    /// Those of this process alone, as OpenMetrics text.
    pub fn render_text(&self) -> String {
        render_registry(&self.registry.read())
    }

    /// A name of this process among all that report their metrics: 16 hexadecimal digits.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Has `merge` add to the document of this process what others reported.
    pub fn merge_with(&self, merge: impl Fn(String) -> String + Send + Sync + 'static) {
        *self.merging.write() = Some(Arc::new(merge));
    }

    /// All that this process shows: OpenMetrics to readers that name it in `Accept`, the text format 0.0.4 to others.
    pub async fn respond(&self, headers: &HeaderMap) -> Response {
        let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let is_open = accepted.any(|types| types.contains("application/openmetrics-text"));
        let kind = if is_open { METRICS_TYPE } else { METRICS_TEXT_TYPE };
        let guard = Arc::clone(&self.writing).lock_owned().await;
        let metrics = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Held also when the client goes away meanwhile.
            let _guard = guard;
            let document = metrics.write_document();
            if is_open { document } else { to_prometheus_text(&document) }
        });
        match written.await {
            Ok(document) => ([(header::CONTENT_TYPE, kind)], document).into_response(),
            Err(error) => {
                tracing::error!(%error, "the metrics can't be written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }

    /// All that this process shows, as OpenMetrics text. It may have many megabytes: for a thread that may block.
    pub fn write_document(&self) -> String {
        let merging = self.merging.read().clone();
        let document = self.render_text();
        match merging {
            Some(merge) => merge(document),
            None => document,
        }
    }
}

fn new_instance() -> String {
    let random = nats::new_id_bytes();
    data_encoding::HEXLOWER.encode(random.get(8..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_all_roles_are_one_document() {
        let metrics = MetricsRegistry::default();
        assert_eq!(metrics.render_text(), "# EOF\n");
        metrics.register(nats::ProcessHealth::new());
        metrics.register(crate::limit::RateLimiter::new(crate::limit::RateLimitConfig::default()));
        let text = metrics.render_text();
        assert!(
            text.contains("\nstreamgate_ready 1\n") && text.contains("\nstreamgate_limit_keys 0\n"),
            "{text}"
        );
        assert_eq!((text.matches("# EOF").count(), text.ends_with("# EOF\n")), (1, true), "{text}");
    }
}
