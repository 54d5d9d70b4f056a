//! What is declared of a metric.

use prometheus_client::{metrics::MetricType, registry::Unit};

static SECONDS: Unit = Unit::Seconds;
static BYTES: Unit = Unit::Bytes;

/// Most series of one family; what is beyond is counted with `overflow="true"`.
pub const FAMILY_SERIES_MAX: usize = 1_024;
/// The label of what there is no room for.
pub(crate) const OVERFLOW: (&str, &str) = ("overflow", "true");

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, until the process ends.
    Counter,
    /// It rises and falls.
    Gauge,
    /// How many observations lie below each of its bounds.
    Histogram,
}

impl MetricKind {
    /// As `# TYPE` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    pub(crate) const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// Which part of the product a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricHandler {
    /// Connections, rates, room.
    Gateway,
    /// All operations over HTTP.
    Api,
    /// Uploads, up to their verification.
    Upload,
    /// Playback.
    Streaming,
    /// Documents of media, lists and searches.
    Metadata,
    /// Values that are kept for a while.
    Cache,
    /// Signing in, credentials, gates and the chains that they ask.
    Auth,
    /// Queues and those who work on them.
    Worker,
    /// Encodes.
    Transcoder,
    /// The bus as the monitor sees it, alerts, the log.
    Monitor,
    /// Webhooks.
    Hooks,
    /// The process itself.
    Process,
}

impl MetricHandler {
    /// Every handler.
    pub const ALL: [Self; 12] = [
        Self::Gateway,
        Self::Api,
        Self::Upload,
        Self::Streaming,
        Self::Metadata,
        Self::Cache,
        Self::Auth,
        Self::Worker,
        Self::Transcoder,
        Self::Monitor,
        Self::Hooks,
        Self::Process,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Api => "api",
            Self::Upload => "upload",
            Self::Streaming => "streaming",
            Self::Metadata => "metadata",
            Self::Cache => "cache",
            Self::Auth => "auth",
            Self::Worker => "worker",
            Self::Transcoder => "transcoder",
            Self::Monitor => "monitor",
            Self::Hooks => "hooks",
            Self::Process => "process",
        }
    }
}

/// What a metric says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricCategory {
    /// What clients, or other processes, ask for.
    Request,
    /// Whether a process, the broker and what belongs to them can work.
    Service,
    /// What is done.
    Operation,
    /// How long something takes, and how far it is behind.
    Performance,
}

impl MetricCategory {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Service => "service",
            Self::Operation => "operation",
            Self::Performance => "performance",
        }
    }
}

/// Which values a label has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelValues {
    /// These.
    Fixed(&'static [&'static str]),
    /// At most so many, of which the text says what they are.
    Bounded(usize, &'static str),
}

/// A label of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelDeclaration {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: LabelValues,
}

impl LabelDeclaration {
    /// One whose values are found while running, at most `count_max` of them.
    pub const fn bounded(name: &'static str, count_max: usize, of: &'static str) -> Self {
        Self { name, values: LabelValues::Bounded(count_max, of) }
    }

    /// One with these values.
    pub const fn fixed(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values: LabelValues::Fixed(values) }
    }

    /// Most values that it has.
    pub const fn count_max(&self) -> usize {
        match self.values {
            LabelValues::Fixed(values) => values.len(),
            LabelValues::Bounded(count_max, _) => count_max,
        }
    }
}

/// One family of metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricDeclaration {
    /// Its name with its unit, without the `_total` of counters.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What it says, for people, without a full stop.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [LabelDeclaration],
    /// Bounds of a histogram in its unit; empty for others.
    pub buckets: &'static [f64],
    /// Which part it is about.
    pub handler: MetricHandler,
    /// What it says something about.
    pub category: MetricCategory,
    /// The alerts that ask for it, sorted.
    pub used_by: &'static [&'static str],
}

impl MetricDeclaration {
    /// A family without labels that no alert asks for.
    pub(crate) const fn new(
        kind: MetricKind,
        (handler, category): (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind, help, labels: &[], buckets: &[], handler, category, used_by: &[] }
    }

    /// A counter that a collector writes.
    pub(crate) const fn counter(
        about: (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(MetricKind::Counter, about, name, help)
    }

    /// A gauge that a collector writes.
    pub(crate) const fn gauge(
        about: (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(MetricKind::Gauge, about, name, help)
    }

    /// A histogram that its owner registers.
    pub(crate) const fn histogram(
        about: (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(MetricKind::Histogram, about, name, help)
    }

    /// The same with labels.
    #[must_use]
    pub(crate) const fn with_labels(mut self, labels: &'static [LabelDeclaration]) -> Self {
        self.labels = labels;
        self
    }

    /// The same with bounds.
    #[must_use]
    pub(crate) const fn with_buckets(mut self, buckets: &'static [f64]) -> Self {
        self.buckets = buckets;
        self
    }

    /// The same, asked for by these alerts.
    #[must_use]
    pub(crate) const fn used_by(mut self, alerts: &'static [&'static str]) -> Self {
        self.used_by = alerts;
        self
    }

    /// The unit that its description has, which is the end of its name: seconds or bytes. That of a histogram has none: there are parsers
    /// of OpenMetrics that refuse it.
    pub fn unit(&self) -> Option<&'static Unit> {
        if matches!(self.kind, MetricKind::Histogram) {
            None
        } else if self.name.ends_with("_seconds") {
            Some(&SECONDS)
        } else if self.name.ends_with("_bytes") {
            Some(&BYTES)
        } else {
            None
        }
    }

    /// Its unit for people, `-` where it is a number of things.
    pub fn unit_name(&self) -> &'static str {
        match self.name.rsplit_once('_') {
            Some((_, unit @ ("seconds" | "bytes"))) => unit,
            _ => "-",
        }
    }

    /// Its name without the unit, which the encoder adds.
    pub(crate) fn stem(&self) -> &'static str {
        let end = self.unit().map_or("", |unit| unit.as_str());
        self.name.strip_suffix(end).map_or(self.name, |stem| stem.strip_suffix('_').unwrap_or(stem))
    }

    /// The name of its series, where it is no histogram.
    pub fn series_name(&self) -> String {
        let end = if self.kind == MetricKind::Counter { "_total" } else { "" };
        format!("{}{end}", self.name)
    }
}
