//! The metrics of a process: what its roles count, as one document of OpenMetrics.

use std::sync::Arc;

use nats::metrics::{Collector, Registry, render_registry};
use parking_lot::RwLock;

/// Media type of metrics (OpenMetrics 1.0.0).
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this process: what its roles count. Cheap to clone; all clones share them.
#[derive(Debug, Clone, Default)]
pub struct MetricsRegistry {
    registry: Arc<RwLock<Registry>>,
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

    /// All of them as OpenMetrics text.
    pub fn render_text(&self) -> String {
        render_registry(&self.registry.read())
    }
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
