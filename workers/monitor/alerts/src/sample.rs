//! One value of one series at a moment.

use std::collections::BTreeMap;

/// A value of a series, as a document of metrics has it.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPoint {
    /// Name of the series, such as `streamgate_events_total`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl MetricPoint {
    /// The labels that are named, with those that are not there left out.
    pub(crate) fn pick_labels(&self, names: &[String]) -> BTreeMap<String, String> {
        let pick = |name: &String| Some((name.clone(), self.labels.get(name)?.clone()));
        names.iter().filter_map(pick).collect()
    }
}
