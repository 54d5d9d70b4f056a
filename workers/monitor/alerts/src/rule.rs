//! What a rule is.

use std::collections::{BTreeMap, BTreeSet};

use instruments::FAMILY_SERIES_MAX;
use schemas::alert::AlertSeverity;
use serde::Deserialize;

use crate::{
    amount::{self, Amount},
    family::find_family,
};

/// Longest window that the monitor keeps, in milliseconds: an hour.
pub const WINDOW_MS_MAX: u64 = 3_600_000;

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// Above.
    #[serde(rename = ">")]
    Above,
    /// Above, or equal.
    #[serde(rename = ">=")]
    AtLeast,
    /// Below.
    #[serde(rename = "<")]
    Below,
    /// Equal.
    #[serde(rename = "==")]
    Equal,
}

impl Operator {
    /// As Prometheus writes it.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::Equal => "==",
        }
    }

    /// Whether it holds.
    #[expect(clippy::float_cmp, reason = "what is compared so are whole numbers that are counted")]
    pub fn holds(self, value: f64, wanted: f64) -> bool {
        match self {
            Self::Above => value > wanted,
            Self::AtLeast => value >= wanted,
            Self::Below => value < wanted,
            Self::Equal => value == wanted,
        }
    }
}

/// How series become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// All together.
    Sum,
}

impl Aggregate {
    /// As Prometheus writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Min => "min",
            Self::Sum => "sum",
        }
    }
}

/// Which series are meant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Name of the series, with `_total` for a counter.
    pub metric: String,
    /// Values that labels have: one of each list.
    #[serde(default)]
    pub labels: BTreeMap<String, Vec<String>>,
    /// Values that labels have not.
    #[serde(default)]
    pub not_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether labels are among those that are meant.
    pub fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = |name: &str| labels.get(name).map_or("", String::as_str);
        self.labels.iter().all(|(name, wanted)| wanted.iter().any(|one| one == value(name)))
            && self.not_labels.iter().all(|(name, refused)| refused != value(name))
    }
}

/// What has to hold of the same labels besides.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Another metric; labels are selected as those of the first.
    pub metric: String,
    /// How it is compared.
    pub op: Operator,
    /// With what.
    pub value: Amount,
}

/// When an alert holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// A value is compared.
    Threshold {
        /// Of which series.
        #[serde(flatten)]
        of: Selector,
        /// How series become one; each by itself where nothing is said.
        #[serde(default)]
        aggregate: Option<Aggregate>,
        /// For which labels there is one each.
        #[serde(default)]
        by: Vec<String>,
        /// What a sum of nothing is; nothing where nothing is said.
        #[serde(default)]
        missing: Option<f64>,
        /// Leaves the sign out.
        #[serde(default)]
        absolute: bool,
        /// How it is compared.
        op: Operator,
        /// With what.
        value: Amount,
        /// What has to hold besides.
        #[serde(default)]
        and: Option<Comparison>,
    },
    /// A share is compared.
    Quotient {
        /// Of which series.
        #[serde(flatten)]
        part: Selector,
        /// The metric by which it is divided, of the same labels.
        #[serde(rename = "of")]
        whole: String,
        /// How it is compared.
        op: Operator,
        /// With what.
        value: f64,
    },
    /// How much a counter grew.
    Increase {
        /// Of which series.
        #[serde(flatten)]
        of: Selector,
        /// For which labels there is one sum each.
        #[serde(default)]
        by: Vec<String>,
        /// Within which time, in milliseconds.
        #[serde(rename = "window", deserialize_with = "amount::read_duration_ms")]
        window_ms: u64,
        /// How it is compared.
        op: Operator,
        /// With what.
        value: f64,
    },
    /// How long ago the newest of some Unix times is.
    Age {
        /// Of which series.
        #[serde(flatten)]
        of: Selector,
        /// What is too old.
        value: Amount,
    },
    /// No such series.
    Absent {
        /// Which ones.
        #[serde(flatten)]
        of: Selector,
    },
    /// A family has more series than it may.
    Overflow,
    /// Always.
    Always,
    /// An objective's budget goes too fast; made of the objectives.
    #[serde(skip)]
    Burn {
        /// What is promised.
        objective: Box<ServiceObjective>,
        /// How fast.
        window: BurnWindow,
    },
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertRule {
    /// Name of the alert; the rules of an objective share one.
    pub name: String,
    /// How urgent it is.
    pub severity: AlertSeverity,
    /// How long the condition has to hold, in milliseconds.
    #[serde(rename = "for", deserialize_with = "amount::read_duration_ms")]
    pub hold_ms: u64,
    /// What is wrong, with places for the value and for labels.
    pub summary: String,
    /// The condition.
    #[serde(rename = "when")]
    pub condition: Condition,
}

impl AlertRule {
    /// Whether the monitor keeps enough to evaluate it.
    pub fn is_evaluated(&self) -> bool {
        match &self.condition {
            Condition::Burn { window, .. } => window.long_ms <= WINDOW_MS_MAX,
            _ => true,
        }
    }

    /// The labels that the rule itself gives besides its name and severity.
    pub fn own_labels(&self) -> BTreeMap<String, String> {
        match &self.condition {
            Condition::Burn { window, .. } => {
                BTreeMap::from([("window".to_owned(), amount::format_duration(window.long_ms))])
            }
            _ => BTreeMap::new(),
        }
    }
}

/// A promise about a share of what happens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceObjective {
    /// Its name; the alert is `StreamGate<name>Burn`.
    pub name: String,
    /// What is promised.
    pub about: String,
    /// The share that is promised, from 0 to 1.
    pub target: f64,
    /// How urgent it is, where it is not what the window says.
    #[serde(default)]
    pub severity: Option<AlertSeverity>,
    /// What is wrong, with a place for the share that failed.
    pub summary: String,
    /// All that is counted.
    pub total: Selector,
    /// What failed.
    #[serde(default)]
    pub bad: Option<Selector>,
    /// What did not; one of both is said.
    #[serde(default)]
    pub good: Option<Selector>,
}

impl ServiceObjective {
    /// The name of its alert.
    pub fn alert_name(&self) -> String {
        format!("StreamGate{}Burn", self.name)
    }

    /// The share that may fail, without what a subtraction of fractions leaves behind.
    pub fn budget(&self) -> f64 {
        ((1.0 - self.target) * 1e9).round() / 1e9
    }
}

/// How fast a budget may go.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurnWindow {
    /// Times the rate that uses the budget up exactly.
    pub factor: f64,
    /// The long window, in milliseconds.
    #[serde(rename = "long", deserialize_with = "amount::read_duration_ms")]
    pub long_ms: u64,
    /// The short window, by which the alert ends soon, in milliseconds.
    #[serde(rename = "short", deserialize_with = "amount::read_duration_ms")]
    pub short_ms: u64,
    /// How urgent it is.
    pub severity: AlertSeverity,
    /// How long it has to hold, in milliseconds.
    #[serde(rename = "for", deserialize_with = "amount::read_duration_ms")]
    pub hold_ms: u64,
}

impl AlertRule {
    /// All series that it asks for.
    pub fn selectors(&self) -> Vec<Selector> {
        let named = |metric: &str, like: &Selector| Selector { metric: metric.to_owned(), ..like.clone() };
        match &self.condition {
            Condition::Threshold { of, and, .. } => {
                let more = and.as_ref().map(|and| named(&and.metric, of));
                std::iter::once(of.clone()).chain(more).collect()
            }
            Condition::Quotient { part, whole, .. } => vec![part.clone(), named(whole, part)],
            Condition::Increase { of, .. } | Condition::Age { of, .. } | Condition::Absent { of } => {
                vec![of.clone()]
            }
            Condition::Overflow | Condition::Always => Vec::new(),
            Condition::Burn { objective, .. } => {
                let ServiceObjective { total, bad, good, .. } = &**objective;
                [Some(total), bad.as_ref(), good.as_ref()].into_iter().flatten().cloned().collect()
            }
        }
    }

    /// The labels that its alerts have for sure.
    pub(crate) fn result_labels(&self) -> BTreeSet<&str> {
        match &self.condition {
            Condition::Threshold { aggregate: Some(_), by, .. } | Condition::Increase { by, .. } => {
                by.iter().map(String::as_str).collect()
            }
            Condition::Threshold { of, .. } | Condition::Quotient { part: of, .. } => {
                let declared = find_family(&of.metric);
                declared
                    .map(|family| family.labels.iter().map(|label| label.name).collect())
                    .unwrap_or_default()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// Most series that a rule can see of one family.
pub(crate) const SERIES_OF_FAMILY_MAX: usize = FAMILY_SERIES_MAX;
