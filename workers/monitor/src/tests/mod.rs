mod broker;
mod core;

use std::{collections::BTreeMap, ops::Deref};

use nats::metrics::{Registry, render_registry};
use openmetrics_parser::{OpenMetricsValue, openmetrics::parse_openmetrics};

use crate::MonitorMetrics;

/// Metrics with the registry that shows them.
pub(crate) struct ShownMetrics {
    registry: Registry,
    metrics: MonitorMetrics,
}

impl ShownMetrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = MonitorMetrics::register(&mut registry);
        Self { registry, metrics }
    }

    /// OpenMetrics text.
    pub(crate) fn encode(&self) -> String {
        render_registry(&self.registry)
    }
}

impl Deref for ShownMetrics {
    type Target = MonitorMetrics;

    fn deref(&self) -> &MonitorMetrics {
        &self.metrics
    }
}

/// One series: its family and its labels as `name=value`, in order.
pub(crate) type Series = (String, Vec<String>);

/// All series of the exported text, read by a parser of the OpenMetrics standard; a histogram stands for its count.
pub(crate) fn exported(metrics: &ShownMetrics) -> BTreeMap<Series, f64> {
    let text = metrics.encode();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let exposition = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error:?} in {text}"));
    let mut series = BTreeMap::new();
    for (name, family) in exposition.families {
        assert!(!family.help.is_empty(), "{name} says nothing");
        for sample in family.iter_samples() {
            let value = match &sample.value {
                OpenMetricsValue::Gauge(number) => number.as_f64(),
                OpenMetricsValue::Counter(counter) => counter.value.as_f64(),
                OpenMetricsValue::Histogram(histogram) => histogram.count.unwrap() as f64,
                other => panic!("{name} is {other:?}"),
            };
            let labels = sample.get_labelset().map_or_else(
                |_| Vec::new(),
                |labels| labels.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            );
            series.insert((name.clone(), labels), value);
        }
    }
    series
}

/// Value of one series.
pub(crate) fn value(metrics: &ShownMetrics, name: &str, labels: &[&str]) -> Option<f64> {
    let key = (name.to_owned(), labels.iter().map(ToString::to_string).collect());
    exported(metrics).get(&key).copied()
}
