//! Families with values that are found while running: operations, stages, codes. Who counts often keeps the handle of a series.
//!
//! Limits: [`FAMILY_SERIES_MAX`] and [`KEYED_SERIES_MAX`] series; [`VALUE_LENGTH_MAX`] bytes of a value.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
};

use crate::{
    DeclaredMetric, FAMILY_SERIES_MAX, FamilyCell, GaugeHold, LabelDeclaration, MetricCategory,
    MetricDeclaration, MetricHandler, TracedHistogram, declaration::OVERFLOW,
};

/// Most series of all families of a process whose values are found while running.
pub const KEYED_SERIES_MAX: usize = 2_000;
/// Longest value in bytes; a longer one is cut.
const VALUE_LENGTH_MAX: usize = 128;

/// The series of all of them.
static SERIES_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A metric that such a family may have: clones share their count.
pub trait KeyedCell: FamilyCell {}

impl KeyedCell for Counter {}
impl KeyedCell for Gauge {}
impl KeyedCell for Histogram {}
impl KeyedCell for TracedHistogram {}

/// A family by the values of its labels, in their order.
pub struct KeyedFamily<M> {
    declaration: MetricDeclaration,
    series: Mutex<BTreeMap<Vec<String>, M>>,
}

impl<M> fmt::Debug for KeyedFamily<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyedFamily").field(&self.declaration.name).finish()
    }
}

impl<M: KeyedCell> KeyedFamily<M> {
    pub(crate) const fn declare(
        about: (MetricHandler, MetricCategory),
        name: &'static str,
        help: &'static str,
        labels: &'static [LabelDeclaration],
    ) -> Self {
        let declaration = MetricDeclaration::new(M::KIND, about, name, help).with_labels(labels);
        Self { declaration, series: Mutex::new(BTreeMap::new()) }
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

    /// The series of these values, one for each label; made when it is asked for first.
    pub fn series(&self, values: &[&str]) -> M {
        let mut series = self.series.lock();
        let key: Vec<String> = values.iter().map(|value| cut(value).to_owned()).collect();
        if let Some(found) = series.get(&key) {
            return found.clone();
        }
        let has_room = series.len() < FAMILY_SERIES_MAX
            && key.len() == self.declaration.labels.len()
            && SERIES_COUNT.load(Ordering::Relaxed) < KEYED_SERIES_MAX;
        // The one without values is what there is no room for.
        let key = if has_room { key } else { Vec::new() };
        let make = || {
            SERIES_COUNT.fetch_add(1, Ordering::Relaxed);
            M::make(&self.declaration)
        };
        series.entry(key).or_insert_with(make).clone()
    }
}

impl KeyedFamily<Counter> {
    /// Counts one.
    pub fn increment(&self, values: &[&str]) {
        self.series(values).inc();
    }
}

impl KeyedFamily<Gauge> {
    /// One more, until the hold is dropped.
    #[must_use]
    pub fn hold(&self, values: &[&str]) -> GaugeHold {
        GaugeHold::new(Some(self.series(values)))
    }
}

fn cut(value: &str) -> &str {
    let mut ends = (0..=VALUE_LENGTH_MAX.min(value.len())).rev();
    let end = ends.find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    value.get(..end).unwrap_or_default()
}

impl<M: KeyedCell> DeclaredMetric for KeyedFamily<M> {
    fn declaration(&self) -> &MetricDeclaration {
        &self.declaration
    }

    fn encode_series(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        // Copied, so that nobody who counts waits for the writing.
        let series: Vec<_> =
            self.series.lock().iter().map(|(key, cell)| (key.clone(), cell.clone())).collect();
        // A description without series is no family to some parsers.
        if series.is_empty() {
            return Ok(());
        }
        let mut family = crate::encode::encode_descriptor(encoder, &self.declaration)?;
        for (values, cell) in series {
            let names = self.declaration.labels.iter().map(|label| label.name);
            let mut labels: Vec<_> = names.zip(values.iter().map(String::as_str)).collect();
            if values.is_empty() {
                labels.push(OVERFLOW);
            }
            cell.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn show(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_counted_together() {
        static CODES: KeyedFamily<Counter> = KeyedFamily::declare(
            (MetricHandler::Api, MetricCategory::Request),
            "streamgate_codes",
            "Codes",
            &[LabelDeclaration::bounded("code", 8, "codes")],
        );
        for number in 0..FAMILY_SERIES_MAX + 100 {
            CODES.increment(&[&format!("code{number}\"\n")]);
        }
        CODES.increment(&["one", "too", "many"]);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Shown(&CODES)));
        let text = crate::render_registry(&registry);
        assert!(text.contains("streamgate_codes_total{overflow=\"true\"} 101\n"), "{text}");
        assert_eq!(text.matches("streamgate_codes_total{").count(), FAMILY_SERIES_MAX + 1);
    }

    #[derive(Debug)]
    struct Shown(&'static KeyedFamily<Counter>);

    impl crate::Collector for Shown {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.0.encode_series(&mut encoder)
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(100)).len(), VALUE_LENGTH_MAX);
        assert_eq!(cut(&format!("a{}", "é".repeat(100))).len(), VALUE_LENGTH_MAX - 1);
    }
}
