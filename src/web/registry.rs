//! The metrics of a process: what its roles count, as one document of OpenMetrics.

use std::sync::Arc;

use parking_lot::Mutex;

/// Media type of metrics (OpenMetrics 1.0.0).
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type MetricsSource = Box<dyn Fn() -> String + Send + Sync>;

/// The metrics of this process: what its roles count. Cheap to clone; all clones share the sources.
#[derive(Clone, Default)]
pub struct MetricsRegistry {
    sources: Arc<Mutex<Vec<MetricsSource>>>,
}

impl std::fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl MetricsRegistry {
    /// Adds families that no other source has, as OpenMetrics text; with or without its end.
    pub fn add_source(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.sources.lock().push(Box::new(source));
    }

    /// All of them as OpenMetrics text.
    pub fn render_text(&self) -> String {
        let families = self.sources.lock().iter().map(|source| source()).collect::<String>();
        let lines = families.lines().filter(|line| *line != END);
        lines.chain([END]).flat_map(|line| [line, "\n"]).collect()
    }
}

/// The last line of a document of metrics.
const END: &str = "# EOF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_all_roles_are_one_document() {
        let metrics = MetricsRegistry::default();
        assert_eq!(metrics.render_text(), "# EOF\n");
        metrics.add_source(|| "# TYPE a gauge\na 1\n# EOF\n".to_owned());
        metrics.add_source(|| "# TYPE b gauge\nb 2\n".to_owned());
        assert_eq!(metrics.render_text(), "# TYPE a gauge\na 1\n# TYPE b gauge\nb 2\n# EOF\n");
    }
}
