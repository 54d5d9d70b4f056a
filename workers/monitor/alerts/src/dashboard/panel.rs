//! What a panel asks for, by the kind of its metric: the rate of a counter, the quantiles of a histogram, the value of a gauge.

use instruments::{MetricDeclaration, MetricHandler, MetricKind};

use super::{SERIES_SHOWN_MAX, capitalize};

/// What Grafana puts in place of it: four times the interval of scraping, or the step where that is longer.
const WINDOW: &str = "$__rate_interval";
/// Quantiles of a histogram.
const QUANTILES: [(&str, &str); 3] = [("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99")];
/// Gauges that each process says of the same thing: the largest counts, not their sum.
const SHARED: [&str; 3] = ["streamgate_capacity_", "streamgate_dispatch_", "streamgate_limit_replicas"];

/// Gauges of which the smallest are worth a look.
const SMALL_IS_BAD: [&str; 1] = ["streamgate_stream_room_seconds"];

/// How a panel shows what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanelKind {
    /// Lines over time.
    Lines,
    /// The newest value of each series, in large.
    Values,
    /// A table of the newest values.
    Table,
}

impl PanelKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lines => "timeseries",
            Self::Values => "stat",
            Self::Table => "table",
        }
    }
}

/// One question of a panel.
#[derive(Debug, Clone)]
pub(crate) struct PanelTarget {
    pub(crate) expression: String,
    /// How a series is called, with labels in double braces.
    pub(crate) legend: String,
    /// Whether traces are shown that are named by the buckets.
    pub(crate) has_exemplars: bool,
}

impl PanelTarget {
    pub(crate) fn new(expression: impl Into<String>, legend: impl Into<String>) -> Self {
        Self { expression: expression.into(), legend: legend.into(), has_exemplars: false }
    }
}

/// A panel before it has a place.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) kind: PanelKind,
    pub(crate) title: String,
    pub(crate) about: String,
    /// As Grafana names it.
    pub(crate) unit: &'static str,
    /// Values at which the colour changes, each a line across the panel.
    pub(crate) thresholds: Vec<f64>,
    pub(crate) targets: Vec<PanelTarget>,
    /// Whose runbooks it leads to.
    pub(crate) alerts: Vec<&'static str>,
}

/// The panels of a metric: one, and for a histogram with labels another.
pub(crate) fn of_metric(declared: &'static MetricDeclaration) -> Vec<Panel> {
    let name = declared.name.strip_prefix("streamgate_").unwrap_or(declared.name);
    let title = capitalize(&name.replace('_', " "));
    let panel = |title: String, targets: Vec<PanelTarget>| Panel {
        kind: PanelKind::Lines,
        title,
        about: describe(declared),
        unit: unit_of(declared),
        thresholds: Vec::new(),
        targets,
        alerts: declared.used_by.to_vec(),
    };
    match declared.kind {
        MetricKind::Counter => vec![panel(title, vec![rate_of(declared)])],
        MetricKind::Gauge if is_unix_time(declared) => {
            vec![panel(format!("{title}: how long ago"), vec![value_of(declared)])]
        }
        MetricKind::Gauge => vec![panel(title, vec![value_of(declared)])],
        MetricKind::Histogram => {
            let by_label = declared.labels.first().map(|label| {
                let target = quantile_of(declared, QUANTILES[1].0, Some(label.name));
                panel(format!("{title}: p95 by {}", label.name), vec![target])
            });
            let all = QUANTILES.map(|(quantile, legend)| PanelTarget {
                legend: legend.into(),
                ..quantile_of(declared, quantile, None)
            });
            std::iter::once(panel(title, all.into())).chain(by_label).collect()
        }
    }
}

/// What the metric says, of which labels it has, and which name it has.
fn describe(declared: &MetricDeclaration) -> String {
    let labels: Vec<String> = declared.labels.iter().map(|label| format!("`{}`", label.name)).collect();
    let by = if labels.is_empty() { String::new() } else { format!(" By {}.", labels.join(", ")) };
    format!("{}.{by} `{}`", declared.help, declared.series_name())
}

/// The unit of what is shown; a counter is shown by the second.
fn unit_of(declared: &MetricDeclaration) -> &'static str {
    match (declared.kind, declared.unit_name()) {
        (MetricKind::Counter, "bytes") => "Bps",
        // Of CPU or of playing time: how many at once.
        (MetricKind::Counter, "seconds") => "suffix: s/s",
        (MetricKind::Counter, _) => "cps",
        (_, "bytes") => "bytes",
        (_, "seconds") => "s",
        _ if declared.name.ends_with("_ratio") => "percentunit",
        _ => "short",
    }
}

fn legend_of(labels: &[&str]) -> String {
    let labels: Vec<String> = labels.iter().map(|label| format!("{{{{{label}}}}}")).collect();
    labels.join(" ")
}

fn label_names(declared: &MetricDeclaration) -> Vec<&'static str> {
    declared.labels.iter().map(|label| label.name).collect()
}

/// Whether several processes say the same: each monitor sees the whole bus.
fn is_shared(declared: &MetricDeclaration) -> bool {
    declared.handler == MetricHandler::Monitor
        || SHARED.iter().any(|prefix| declared.name.starts_with(prefix))
}

fn grouped(aggregate: &str, labels: &[&str], inside: &str) -> String {
    if labels.is_empty() {
        format!("{aggregate}({inside})")
    } else {
        format!("{aggregate} by ({}) ({inside})", labels.join(", "))
    }
}

/// The series that are worth a look alone, where there may be too many.
fn bounded(declared: &MetricDeclaration, expression: String) -> String {
    let pick = if SMALL_IS_BAD.contains(&declared.name) { "bottomk" } else { "topk" };
    if declared.labels.iter().any(|label| label.count_max() > SERIES_SHOWN_MAX) {
        format!("{pick}({SERIES_SHOWN_MAX}, {expression})")
    } else {
        expression
    }
}

fn rate_of(declared: &MetricDeclaration) -> PanelTarget {
    let labels = label_names(declared);
    let aggregate = if is_shared(declared) { "max" } else { "sum" };
    let rate = format!("rate({}[{WINDOW}])", declared.series_name());
    PanelTarget::new(bounded(declared, grouped(aggregate, &labels, &rate)), legend_of(&labels))
}

/// Whether it is a Unix time, which is shown as how long ago it is.
fn is_unix_time(declared: &MetricDeclaration) -> bool {
    ["_timestamp_seconds", "_start_time_seconds"].iter().any(|end| declared.name.ends_with(end))
}

fn value_of(declared: &MetricDeclaration) -> PanelTarget {
    let mut labels = label_names(declared);
    let value =
        if is_unix_time(declared) { format!("time() - {}", declared.name) } else { declared.name.to_owned() };
    let expression = if declared.name.ends_with("_info") {
        grouped("count", &labels, &value)
    } else if is_shared(declared) {
        grouped("max", &labels, &value)
    } else {
        labels.insert(0, "instance");
        value
    };
    PanelTarget::new(bounded(declared, expression), legend_of(&labels))
}

/// A quantile over all series, or over those of each value of a label.
fn quantile_of(declared: &MetricDeclaration, quantile: &str, label: Option<&str>) -> PanelTarget {
    let by: Vec<&str> = std::iter::once("le").chain(label).collect();
    let rate = format!("rate({}_bucket[{WINDOW}])", declared.name);
    let expression = format!("histogram_quantile({quantile}, {})", grouped("sum", &by, &rate));
    let legend = label.map(|label| legend_of(&[label])).unwrap_or_default();
    PanelTarget { has_exemplars: true, ..PanelTarget::new(expression, legend) }
}
