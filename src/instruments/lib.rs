//! The metrics of all processes: one table that declares each, and the instruments by which they are counted.
//!
//! A family exists only by its [`MetricDeclaration`]: instruments hold theirs, and whatever is written when metrics are read names
//! one. So `/metrics`, `METRICS.md` and the tests have the same list. Names follow the conventions of Prometheus: base units, the
//! unit last, counters with `_total` behind, which the encoder adds.
//!
//! Instruments are statics: a process has one of each, whichever roles it runs. A family is shown once it has counted, or once a role
//! of its handler has said that it runs here ([`show_handlers`]), from then on with all its values at 0, where they are known.
//!
//! Histograms of latency name traces ([`TracedHistogram`]): as exemplars of OpenMetrics, which the older text format leaves out.
//!
//! Limits: [`FAMILY_SERIES_MAX`] series a family and [`KEYED_SERIES_MAX`] of all families with values that are found while running;
//! what is beyond is counted in one series with `overflow="true"`. No label is an id, an address, a path or a text of a client.

mod declaration;
mod encode;
mod family;
mod keyed;
mod label_set;
pub mod labels;
mod markdown;
mod process;
pub mod table;
mod text;

pub use declaration::{
    FAMILY_SERIES_MAX, LabelDeclaration, LabelValues, MetricCategory, MetricDeclaration, MetricHandler,
    MetricKind,
};
pub use encode::{
    encode_counter, encode_counters, encode_gauge, encode_gauges, register_metric, render_registry,
};
pub use family::{
    CounterFamily, DeclaredMetric, FamilyCell, FloatCounterFamily, FloatGaugeFamily, GaugeFamily, GaugeHold,
    HistogramFamily, MetricFamily, TracedHistogram,
};
pub use keyed::{KEYED_SERIES_MAX, KeyedCell, KeyedFamily};
pub use label_set::{LabelSet, LabelValue};
pub use markdown::render_markdown;
pub use process::ProcessMetrics;
pub use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
pub use table::{DeclaredFamilies, all_metrics, declarations, find_declaration, show_handlers};
pub use text::{drop_exemplars, to_prometheus_text};
