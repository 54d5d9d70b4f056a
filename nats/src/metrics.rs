//! Counts as metrics: a part of the process that counts is a [`Collector`], which is asked when metrics are read.

use std::fmt;

use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
pub use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    registry::{Registry, Unit},
};

/// Writes a family of counters: labels and count of each.
///
/// # Errors
/// When the text can't be written.
pub fn encode_counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in series {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

/// Writes a counter without labels.
///
/// # Errors
/// When the text can't be written.
pub fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    count: u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

/// Writes a family of gauges: labels and value of each. A unit becomes the end of the name.
///
/// # Errors
/// When the text can't be written.
pub fn encode_gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    series: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in series {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Writes a gauge without labels. A unit becomes the end of the name.
///
/// # Errors
/// When the text can't be written.
pub fn encode_gauge<V: EncodeGaugeValue + Copy>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: V,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
}

/// A document of OpenMetrics 1.0.0.
pub fn render_registry(registry: &Registry) -> String {
    let mut document = String::new();
    match text::encode(&mut document, registry) {
        Ok(()) => document,
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            "# EOF\n".into()
        }
    }
}

/// A document of what one part counts.
#[cfg(any(test, feature = "testing"))]
pub fn render_collector(collector: impl Collector) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    render_registry(&registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counted;

    impl Collector for Counted {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let encoder = &mut encoder;
            encode_counters(encoder, "a", "All of a.", [([("kind", "x")], 1), ([("kind", "y\"")], 2)])?;
            encode_counter(encoder, "b", "All of b.", 3)?;
            encode_gauges(encoder, "c", "How long.", Some(&Unit::Seconds), [([("kind", 1)], 0.5)])?;
            encode_gauge(encoder, "d", "Now.", None, 4_i64)
        }
    }

    #[test]
    fn counts_are_one_document() {
        assert_eq!(
            render_collector(Counted),
            "# HELP a All of a.\n# TYPE a counter\na_total{kind=\"x\"} 1\na_total{kind=\"y\\\"\"} 2\n\
             # HELP b All of b.\n# TYPE b counter\nb_total 3\n\
             # HELP c_seconds How long.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds{kind=\"1\"} 0.5\n\
             # HELP d Now.\n# TYPE d gauge\nd 4\n# EOF\n"
        );
    }
}
