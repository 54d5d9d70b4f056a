//! Families whose labels are enumerations: a metric of prometheus-client for each set of values, found by its number.

use std::{
    fmt,
    marker::PhantomData,
    sync::{OnceLock, atomic::AtomicU64},
    time::{Instant, SystemTime},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType, counter::Counter, exemplar::HistogramWithExemplars, gauge::Gauge, histogram::Histogram,
    },
};
use spans::TraceContext;

use crate::{LabelSet, MetricCategory, MetricDeclaration, MetricHandler, MetricKind};

/// A family of the table.
pub trait DeclaredMetric: fmt::Debug + Sync {
    /// What is declared of it.
    fn declaration(&self) -> &MetricDeclaration;

    /// Writes its series, if it is shown.
    ///
    /// # Errors
    /// When the text can't be written.
    fn encode_series(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result;

    /// Has it shown from now on, with all its values.
    fn show(&self);
}

/// A family that a collector writes when metrics are read.
impl DeclaredMetric for MetricDeclaration {
    fn declaration(&self) -> &MetricDeclaration {
        self
    }

    fn encode_series(&self, _: &mut DescriptorEncoder<'_>) -> fmt::Result {
        Ok(())
    }

    fn show(&self) {}
}

/// A metric of prometheus-client that a family makes by itself.
pub trait FamilyCell: EncodeMetric + fmt::Debug + Send + Sync + Clone + 'static {
    /// Its kind.
    const KIND: MetricKind;

    /// One at 0.
    fn make(declaration: &MetricDeclaration) -> Self;
}

/// Counts of things that have fractions: seconds.
pub(crate) type FloatCounter = Counter<f64, AtomicU64>;
/// Values that have fractions.
pub(crate) type FloatGauge = Gauge<f64, AtomicU64>;

macro_rules! plain_cells {
    ($($cell:ty: $kind:ident),*) => {$(
        impl FamilyCell for $cell {
            const KIND: MetricKind = MetricKind::$kind;

            fn make(_: &MetricDeclaration) -> Self {
                Self::default()
            }
        }
    )*};
}

plain_cells!(Counter: Counter, FloatCounter: Counter, Gauge: Gauge, FloatGauge: Gauge);

impl FamilyCell for Histogram {
    const KIND: MetricKind = MetricKind::Histogram;

    fn make(declaration: &MetricDeclaration) -> Self {
        Self::new(declaration.buckets.iter().copied())
    }
}

/// A histogram that names a trace for each of its buckets: that of the last observation in it which was sampled. Clones share it.
#[derive(Debug, Clone)]
pub struct TracedHistogram(HistogramWithExemplars<[(&'static str, String); 1]>);

impl TracedHistogram {
    /// Observes a value of the work under way.
    pub fn observe(&self, value: f64) {
        let trace = spans::current().filter(TraceContext::is_sampled);
        let named = trace.map(|trace| [("trace_id", trace.trace_id_text())]);
        let observed_at = named.is_some().then(SystemTime::now);
        self.0.observe(value, named, observed_at);
    }
}

impl EncodeMetric for TracedHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}

impl FamilyCell for TracedHistogram {
    const KIND: MetricKind = MetricKind::Histogram;

    fn make(declaration: &MetricDeclaration) -> Self {
        Self(HistogramWithExemplars::new(declaration.buckets.iter().copied()))
    }
}

/// A family with the labels `L`.
pub struct MetricFamily<L, M> {
    declaration: MetricDeclaration,
    cells: OnceLock<Box<[M]>>,
    labels: PhantomData<fn(L)>,
}

/// Counters.
pub type CounterFamily<L> = MetricFamily<L, Counter>;
/// Counters with fractions.
pub type FloatCounterFamily<L> = MetricFamily<L, FloatCounter>;
/// Gauges of whole numbers.
pub type GaugeFamily<L> = MetricFamily<L, Gauge>;
/// Gauges with fractions.
pub type FloatGaugeFamily<L> = MetricFamily<L, FloatGauge>;
/// Histograms.
pub type HistogramFamily<L> = MetricFamily<L, Histogram>;

impl<L, M> fmt::Debug for MetricFamily<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MetricFamily").field(&self.declaration.name).finish()
    }
}

impl<L: LabelSet, M: FamilyCell> MetricFamily<L, M> {
    pub(crate) const fn declare(
        about: (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
    ) -> Self {
        let declaration = MetricDeclaration::new(M::KIND, about, name, help).with_labels(L::LABELS);
        Self { declaration, cells: OnceLock::new(), labels: PhantomData }
    }

    /// The same, with the alerts that ask for it.
    pub(crate) const fn used_by(mut self, alerts: &'static [&'static str]) -> Self {
        self.declaration.used_by = alerts;
        self
    }

    /// The same with bounds.
    pub(crate) const fn with_buckets(mut self, buckets: &'static [f64]) -> Self {
        self.declaration.buckets = buckets;
        self
    }

    fn cells(&self) -> &[M] {
        self.cells.get_or_init(|| (0..L::COUNT).map(|_| M::make(&self.declaration)).collect())
    }

    fn cell(&self, labels: L) -> Option<&M> {
        self.cells().get(labels.index())
    }
}

impl<L: LabelSet, M: FamilyCell> DeclaredMetric for MetricFamily<L, M> {
    fn declaration(&self) -> &MetricDeclaration {
        &self.declaration
    }

    fn encode_series(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(cells) = self.cells.get() else { return Ok(()) };
        let mut family = crate::encode::encode_descriptor(encoder, &self.declaration)?;
        if L::LABELS.is_empty() {
            return cells.first().map_or(Ok(()), |cell| cell.encode(family));
        }
        for (index, cell) in cells.iter().enumerate() {
            let names = L::LABELS.iter().map(|label| label.name);
            let labels: Vec<_> = names.zip(L::values(index)).collect();
            cell.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn show(&self) {
        self.cells();
    }
}

impl<L: LabelSet> CounterFamily<L> {
    /// Counts one.
    pub fn increment(&self, labels: L) {
        self.add(labels, 1);
    }

    /// Counts `count`.
    pub fn add(&self, labels: L, count: u64) {
        if let Some(cell) = self.cell(labels) {
            cell.inc_by(count);
        }
    }

    /// How many were counted.
    pub fn count(&self, labels: L) -> u64 {
        self.cell(labels).map_or(0, Counter::get)
    }
}

impl<L: LabelSet> FloatCounterFamily<L> {
    /// Counts milliseconds as seconds.
    pub fn add_ms(&self, labels: L, count_ms: u64) {
        if let Some(cell) = self.cell(labels) {
            cell.inc_by(count_ms as f64 / 1_000.0);
        }
    }
}

impl<L: LabelSet> GaugeFamily<L> {
    /// Sets it.
    pub fn set(&self, labels: L, value: i64) {
        if let Some(cell) = self.cell(labels) {
            cell.set(value);
        }
    }

    /// One more, until the hold is dropped.
    #[must_use]
    pub fn hold(&self, labels: L) -> GaugeHold {
        GaugeHold::new(self.cell(labels).cloned())
    }
}

impl<L: LabelSet> FloatGaugeFamily<L> {
    /// Sets it.
    pub fn set(&self, labels: L, value: f64) {
        if let Some(cell) = self.cell(labels) {
            cell.set(value);
        }
    }
}

impl<L: LabelSet> HistogramFamily<L> {
    /// Observes the time since `began`, in seconds.
    pub fn observe_since(&self, labels: L, began: Instant) {
        self.observe(labels, began.elapsed().as_secs_f64());
    }

    /// Observes a value.
    pub fn observe(&self, labels: L, value: f64) {
        if let Some(cell) = self.cell(labels) {
            cell.observe(value);
        }
    }
}

/// One of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct GaugeHold(Option<Gauge>);

impl GaugeHold {
    /// Of this gauge, if there is one.
    pub fn new(gauge: Option<Gauge>) -> Self {
        if let Some(gauge) = &gauge {
            gauge.inc();
        }
        Self(gauge)
    }
}

impl Drop for GaugeHold {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}
