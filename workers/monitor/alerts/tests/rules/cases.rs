//! The cases, read.

use std::collections::{BTreeMap, BTreeSet};

use alerts::{MetricPoint, RuleSet};
use serde::Deserialize;

/// What makes an alert fire, and what does not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertCase {
    pub(crate) alert: String,
    pub(crate) fires: Vec<String>,
    pub(crate) quiet: Vec<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Windows of an objective that fire.
    #[serde(default)]
    pub(crate) windows: Vec<String>,
    /// Whether it fires without any series.
    #[serde(default)]
    pub(crate) missing: bool,
    /// Whether it never ends.
    #[serde(default)]
    pub(crate) always: bool,
    /// Whether values are how many seconds ago a time is.
    #[serde(default)]
    pub(crate) age: bool,
}

/// One series: how it begins, and how much it grows in a minute.
#[derive(Debug, Clone)]
pub(crate) struct CaseSeries {
    pub(crate) text: String,
    pub(crate) start: f64,
    pub(crate) per_minute: f64,
}

impl CaseSeries {
    pub(crate) fn parse(line: &str) -> Self {
        let (text, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}"));
        let (start, per_minute) = match value.strip_suffix("/m") {
            Some(growth) => {
                let (start, growth) = growth.split_once('+').unwrap();
                (if start.is_empty() { 0.0 } else { number(start) }, number(growth))
            }
            None => (number(value), 0.0),
        };
        Self { text: text.to_owned(), start, per_minute }
    }

    pub(crate) fn point(&self, value: f64) -> MetricPoint {
        let (name, labels) = self.text.split_once('{').unwrap_or((&self.text, ""));
        let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{}", self.text));
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        });
        MetricPoint { name: name.to_owned(), labels: labels.collect(), value }
    }
}

pub(crate) fn load_cases() -> Vec<AlertCase> {
    #[derive(Deserialize)]
    struct CasesFile {
        case: Vec<AlertCase>,
    }
    toml::from_str::<CasesFile>(include_str!("cases.toml")).unwrap().case
}

#[test]
fn each_alert_has_a_case() {
    let set = RuleSet::built_in().unwrap();
    let cases = load_cases();
    let named: BTreeSet<&str> = cases.iter().map(|case| case.alert.as_str()).collect();
    assert_eq!(named, set.names());
}
