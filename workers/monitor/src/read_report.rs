//! Reading what a process reported: samples of declared families, written anew with the labels of who reported them.
//!
//! Limits: [`SAMPLES_MAX`] samples and [`COMMENTS_MAX`] other lines a report.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
};

use nats::{
    Role,
    metrics::{
        DeclaredMetric as _, MetricDeclaration, MetricHandler, MetricKind, find_declaration,
        table::{AUDIT_FAULTS, AUDIT_RECORDS},
    },
};

use crate::sample::{self, MetricSample};

/// Most samples of a report.
pub(crate) const SAMPLES_MAX: usize = 8_000;
/// Most lines of a report that are no samples.
pub(crate) const COMMENTS_MAX: usize = 2_000;

/// Samples of a process by family, each a line with its end.
pub(crate) type ReportedFamilies = BTreeMap<&'static str, String>;

/// The samples of the declared families of a document, with their new labels; `None` where it is no document, has too many lines, or
/// says a thing twice.
pub(crate) fn read_families(document: &str, role: &str, instance: &str) -> Option<ReportedFamilies> {
    let mut families = ReportedFamilies::new();
    let mut series = HashSet::new();
    let mut current: Option<&'static MetricDeclaration> = None;
    let (mut samples, mut comments) = (0, 0);
    for line in document.lines() {
        if line.starts_with('#') {
            comments += 1;
            if comments > COMMENTS_MAX {
                return None;
            }
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                current = find_declaration(name)
                    .filter(|declared| declared.kind.name() == kind && may_report(role, declared));
            }
            continue;
        }
        samples += 1;
        let sample = sample::parse_sample(line).filter(|_| samples <= SAMPLES_MAX)?;
        if let Some(declared) = current.filter(|declared| belongs_to(&sample, declared)) {
            let name = name_series(&sample, role, instance);
            let family = families.entry(declared.name).or_default();
            family.extend([&name, " ", sample.value, "\n"]);
            if !series.insert(name) {
                return None;
            }
        }
    }
    document.ends_with("# EOF\n").then_some(families)
}

/// The name and the labels of a sample of this process.
fn name_series(sample: &MetricSample<'_>, role: &str, instance: &str) -> String {
    let mut name = format!("{}{{role=\"{role}\",instance=\"{instance}\"", sample.name);
    for (label, value) in &sample.labels {
        let label = match *label {
            "role" if *value == role => continue,
            "role" => "exported_role",
            label => label,
        };
        // Writing to a text does not fail.
        _ = write!(name, ",{label}=\"{value}\"");
    }
    name.push('}');
    name
}

/// Whether a role may report a family: what the monitor says of the bus is said by no other.
fn may_report(role: &str, declared: &MetricDeclaration) -> bool {
    declared.handler != MetricHandler::Monitor
        || [AUDIT_RECORDS.declaration().name, AUDIT_FAULTS.declaration().name].contains(&declared.name)
        || role == Role::Monitor.name()
}

/// Whether a sample is one of a family, by its name and its labels.
fn belongs_to(sample: &MetricSample<'_>, declared: &MetricDeclaration) -> bool {
    let Some(end) = sample.name.strip_prefix(declared.name) else { return false };
    let is_named = match declared.kind {
        MetricKind::Counter => end == "_total",
        MetricKind::Gauge => end.is_empty(),
        MetricKind::Histogram => ["_bucket", "_sum", "_count"].contains(&end),
    };
    let is_known = |label: &str| {
        label == "overflow"
            || (label == "le" && end == "_bucket")
            || declared.labels.iter().any(|known| known.name == label)
    };
    is_named && sample.labels.iter().all(|(label, _)| is_known(label))
}
