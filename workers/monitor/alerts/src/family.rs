//! Which declared metric a series belongs to.

use instruments::{MetricDeclaration, MetricKind, declarations};

/// What a name of series belongs to.
pub(crate) fn find_family(series: &str) -> Option<&'static MetricDeclaration> {
    declarations().find(|declared| match declared.kind {
        MetricKind::Histogram => ["_bucket", "_count", "_sum"]
            .iter()
            .any(|end| series.strip_suffix(end).is_some_and(|name| name == declared.name)),
        MetricKind::Counter | MetricKind::Gauge => declared.series_name() == series,
    })
}
