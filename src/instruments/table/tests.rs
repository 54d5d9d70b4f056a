//! The table itself.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{FAMILY_SERIES_MAX, LabelDeclaration, LabelValues, MetricCategory, MetricKind};

#[test]
fn each_family_is_declared_once_and_named_as_prometheus_has_it() {
    let mut seen = BTreeSet::new();
    for declared in declarations() {
        let name = declared.name;
        assert!(seen.insert(name), "{name} is there twice");
        assert!(name.starts_with("streamgate_") || name.starts_with("process_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        for end in ["_total", "_count", "_sum", "_bucket", "_ms", "_milliseconds", "_minutes", "_days"] {
            assert!(!name.ends_with(end), "{name}");
        }
        assert!(!declared.help.is_empty() && !declared.help.ends_with('.'), "{name}: {}", declared.help);
        assert_eq!(declared.buckets.is_empty(), declared.kind != MetricKind::Histogram, "{name}");
        assert!(declared.buckets.is_sorted_by(|a, b| a < b), "{name}");
        assert!(declared.used_by.is_sorted(), "{name}");
    }
}

#[test]
fn labels_have_few_values_and_none_is_an_id() {
    for declared in declarations() {
        let mut names = BTreeSet::new();
        for label in declared.labels {
            assert!(names.insert(label.name), "{}: {}", declared.name, label.name);
            let is_id =
                ["id", "owner", "wallet", "address", "path", "token", "instance", "le"].contains(&label.name);
            assert!(!is_id, "{}: {}", declared.name, label.name);
            if let LabelValues::Fixed(values) = label.values {
                let values_seen: BTreeSet<_> = values.iter().collect();
                assert_eq!(values_seen.len(), values.len(), "{}: {}", declared.name, label.name);
            }
            assert!(label.count_max() <= 200, "{}: {}", declared.name, label.name);
        }
        let fixed = declared.labels.iter().filter(|label| matches!(label.values, LabelValues::Fixed(_)));
        assert!(
            fixed.map(LabelDeclaration::count_max).product::<usize>() <= FAMILY_SERIES_MAX,
            "{}",
            declared.name
        );
    }
}

/// What the requirements ask for.
#[test]
fn each_handler_and_category_has_enough() {
    let mut by_handler = BTreeMap::<_, usize>::new();
    let mut by_category = BTreeMap::<_, usize>::new();
    for declared in declarations() {
        *by_handler.entry(declared.handler).or_default() += 1;
        *by_category.entry(declared.category).or_default() += 1;
    }
    for (handler, least) in [
        (MetricHandler::Gateway, 5),
        (MetricHandler::Api, 5),
        (MetricHandler::Upload, 8),
        (MetricHandler::Streaming, 3),
        (MetricHandler::Metadata, 7),
        (MetricHandler::Cache, 5),
        (MetricHandler::Auth, 8),
        (MetricHandler::Worker, 8),
        (MetricHandler::Transcoder, 8),
        (MetricHandler::Monitor, 8),
    ] {
        assert!(by_handler[&handler] >= least, "{handler:?}: {}", by_handler[&handler]);
    }
    for (category, least) in [
        (MetricCategory::Request, 10),
        (MetricCategory::Service, 20),
        (MetricCategory::Operation, 25),
        (MetricCategory::Performance, 15),
    ] {
        assert!(by_category[&category] >= least, "{category:?}: {}", by_category[&category]);
    }
    assert!(declarations().count() >= 70);
}

/// 2 ms are asked for; this has room for a build without optimisation and a busy machine.
#[test]
fn all_series_are_written_in_a_moment() {
    show_handlers(&MetricHandler::ALL);
    for number in 0..150 {
        for class in ["2xx", "4xx"] {
            let operation = format!("GET /v1/number{number}");
            REQUESTS.series(&["api", &operation, class]).inc();
            REQUEST_SECONDS.series(&["api", &operation, class]).observe(0.01);
        }
    }
    let mut registry = crate::Registry::default();
    registry.register_collector(Box::new(DeclaredFamilies));
    let began = std::time::Instant::now();
    let text = crate::render_registry(&registry);
    let took = began.elapsed();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    println!("{series} series, {} bytes, {took:?}", text.len());
    assert!(series > 3_500, "{series}");
    assert!(took.as_millis() < 200, "{took:?}");
}
