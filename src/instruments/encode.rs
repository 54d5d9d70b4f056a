//! Writing families: the one place where a name, a help text and a unit come to what readers get.
//!
//! Limits: [`FAMILY_SERIES_MAX`] series a family; the values of more are added up in one with `overflow="true"`.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    registry::{Metric, Registry},
};

use crate::declaration::{FAMILY_SERIES_MAX, MetricDeclaration, OVERFLOW};

pub(crate) fn encode_descriptor<'s>(
    encoder: &'s mut DescriptorEncoder<'_>,
    declared: &'s MetricDeclaration,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    let help = format!("{}.", declared.help);
    encoder.encode_descriptor(declared.stem(), &help, declared.unit(), declared.kind.metric_type())
}

/// Writes a family of counters: labels and count of each.
///
/// # Errors
/// When the text can't be written.
pub fn encode_counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    declared: &MetricDeclaration,
    series: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encode_descriptor(encoder, declared)?;
    let mut beyond = None;
    for (position, (labels, count)) in series.into_iter().enumerate() {
        if position < FAMILY_SERIES_MAX {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        } else {
            beyond = Some(beyond.unwrap_or(0_u64).saturating_add(count));
        }
    }
    beyond.map_or(Ok(()), |count| {
        family.encode_family(&[OVERFLOW])?.encode_counter::<NoLabelSet, _, u64>(&count, None)
    })
}

/// Writes a counter without labels.
///
/// # Errors
/// When the text can't be written.
pub fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    declared: &MetricDeclaration,
    count: u64,
) -> fmt::Result {
    encode_descriptor(encoder, declared)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

/// Writes a family of gauges: labels and value of each.
///
/// # Errors
/// When the text can't be written.
pub fn encode_gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    declared: &MetricDeclaration,
    series: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = encode_descriptor(encoder, declared)?;
    let mut beyond = 0_i64;
    for (position, (labels, value)) in series.into_iter().enumerate() {
        if position < FAMILY_SERIES_MAX {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        } else {
            beyond += 1;
        }
    }
    // Values of different things have no sum: how many are left out is all that can be said.
    if beyond > 0 { family.encode_family(&[OVERFLOW])?.encode_gauge(&beyond) } else { Ok(()) }
}

/// Writes a gauge without labels.
///
/// # Errors
/// When the text can't be written.
pub fn encode_gauge<V: EncodeGaugeValue + Copy>(
    encoder: &mut DescriptorEncoder<'_>,
    declared: &MetricDeclaration,
    value: V,
) -> fmt::Result {
    encode_descriptor(encoder, declared)?.encode_gauge(&value)
}

/// Puts a metric that its owner keeps into a registry, under what is declared of it.
pub fn register_metric<M: Metric + Clone>(registry: &mut Registry, declared: &MetricDeclaration, metric: &M) {
    match declared.unit() {
        Some(unit) => {
            registry.register_with_unit(declared.stem(), declared.help, unit.clone(), metric.clone());
        }
        None => registry.register(declared.name, declared.help, metric.clone()),
    }
}

/// A document of OpenMetrics 1.0.0. An empty one where it can't be written.
pub fn render_registry(registry: &Registry) -> String {
    let mut document = String::new();
    match text::encode(&mut document, registry) {
        Ok(()) => document,
        // Writing to a text fails only where a metric itself gives up.
        Err(fmt::Error) => "# EOF\n".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collector, LabelDeclaration, MetricCategory, MetricHandler, MetricKind};

    const LABELS: &[LabelDeclaration] = &[LabelDeclaration::bounded("kind", 2, "kinds")];

    const fn of(kind: MetricKind, name: &'static str) -> MetricDeclaration {
        MetricDeclaration::new(kind, (MetricHandler::Api, MetricCategory::Request), name, "All of it")
            .with_labels(LABELS)
    }

    #[derive(Debug)]
    struct Counted(usize);

    impl Collector for Counted {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let encoder = &mut encoder;
            let many = (0..self.0).map(|number| ([("kind", number.to_string())], 1));
            encode_counters(encoder, &of(MetricKind::Counter, "a"), many)?;
            encode_counter(encoder, &of(MetricKind::Counter, "b"), 3)?;
            encode_gauges(encoder, &of(MetricKind::Gauge, "c_seconds"), [([("kind", "x\"")], 0.5)])?;
            encode_gauge(encoder, &of(MetricKind::Gauge, "d_bytes"), 4_i64)
        }
    }

    fn render(count: usize) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Counted(count)));
        render_registry(&registry)
    }

    #[test]
    fn counts_are_one_document() {
        assert_eq!(
            render(1),
            "# HELP a All of it.\n# TYPE a counter\na_total{kind=\"0\"} 1\n\
             # HELP b All of it.\n# TYPE b counter\nb_total 3\n\
             # HELP c_seconds All of it.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds{kind=\"x\\\"\"} 0.5\n\
             # HELP d_bytes All of it.\n# TYPE d_bytes gauge\n# UNIT d_bytes bytes\nd_bytes 4\n# EOF\n"
        );
    }

    #[test]
    fn series_beyond_the_limit_are_added_up() {
        let text = render(FAMILY_SERIES_MAX + 7);
        assert!(text.contains("a_total{overflow=\"true\"} 7\n"), "{text}");
        assert_eq!(text.matches("a_total{").count(), FAMILY_SERIES_MAX + 1);
    }
}
