//! What a rule is, and the built-in rules, read from `rules.toml`.

use std::collections::{BTreeMap, BTreeSet};

use instruments::{FAMILY_SERIES_MAX, MetricDeclaration, MetricKind, declarations};
use schemas::alert::AlertSeverity;
use serde::Deserialize;

use crate::{
    amount::{self, Amount},
    summary,
};

/// Longest window that the monitor keeps, in milliseconds: an hour.
pub const WINDOW_MS_MAX: u64 = 3_600_000;

/// The text of all rules.
pub const RULES_SOURCE: &str = include_str!("../rules.toml");

/// Why rules can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The text is no TOML, or has what no rule has.
    #[error("the rules of alerts can't be read: {0}")]
    Malformed(String),
    /// A rule asks for something that is not there, or says it twice.
    #[error("the alert {name} can't be used: {reason}")]
    Invalid {
        /// The rule.
        name: String,
        /// Why.
        reason: String,
    },
}

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

/// All rules.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSet {
    /// The rules, those of objectives first.
    pub rules: Vec<AlertRule>,
    /// The objectives.
    pub objectives: Vec<ServiceObjective>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    objective: Vec<ServiceObjective>,
    burn: Vec<BurnWindow>,
    rule: Vec<AlertRule>,
}

impl RuleSet {
    /// The rules that are built in.
    ///
    /// # Errors
    /// As [`RuleSet::parse`]; never, as the tests show.
    pub fn built_in() -> Result<Self, RulesError> {
        Self::parse(RULES_SOURCE)
    }

    /// Reads rules.
    ///
    /// # Errors
    /// [`RulesError`] says which rule can't be used.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: RulesFile =
            toml::from_str(text).map_err(|error| RulesError::Malformed(error.to_string()))?;
        let mut rules = Vec::new();
        for objective in &file.objective {
            for window in &file.burn {
                rules.push(AlertRule {
                    name: objective.alert_name(),
                    severity: window.severity,
                    hold_ms: window.hold_ms,
                    summary: objective.summary.clone(),
                    condition: Condition::Burn {
                        objective: Box::new(objective.clone()),
                        window: window.clone(),
                    },
                });
            }
        }
        let mut names: BTreeSet<String> = rules.iter().map(|rule| rule.name.clone()).collect();
        for rule in file.rule {
            if !names.insert(rule.name.clone()) {
                return Err(invalid(&rule, "there is another one with its name"));
            }
            rules.push(rule);
        }
        let set = Self { rules, objectives: file.objective };
        set.rules.iter().try_for_each(check_rule)?;
        Ok(set)
    }

    /// The names of all alerts, each once, in order.
    pub fn names(&self) -> BTreeSet<&str> {
        self.rules.iter().map(|rule| rule.name.as_str()).collect()
    }

    /// The same rules with every duration divided by `scale`, for drills; none becomes shorter than `least_ms`.
    #[must_use]
    pub fn shortened(&self, scale: u64, least_ms: u64) -> Self {
        let mut set = self.clone();
        let shorten = |ms: &mut u64| {
            if *ms > 0 {
                *ms = (*ms / scale.max(1)).max(least_ms.min(*ms));
            }
        };
        for rule in &mut set.rules {
            shorten(&mut rule.hold_ms);
            match &mut rule.condition {
                Condition::Threshold { value: Amount::DurationMs(ms), .. }
                | Condition::Age { value: Amount::DurationMs(ms), .. } => shorten(ms),
                Condition::Increase { window_ms, .. } => shorten(window_ms),
                Condition::Burn { window, .. } => {
                    shorten(&mut window.long_ms);
                    shorten(&mut window.short_ms);
                }
                _ => {}
            }
        }
        set
    }
}

fn invalid(rule: &AlertRule, reason: impl Into<String>) -> RulesError {
    RulesError::Invalid { name: rule.name.clone(), reason: reason.into() }
}

/// What a name of series belongs to.
pub(crate) fn find_family(series: &str) -> Option<&'static MetricDeclaration> {
    declarations().find(|declared| match declared.kind {
        MetricKind::Histogram => ["_bucket", "_count", "_sum"]
            .iter()
            .any(|end| series.strip_suffix(end).is_some_and(|name| name == declared.name)),
        MetricKind::Counter | MetricKind::Gauge => declared.series_name() == series,
    })
}

fn check_rule(rule: &AlertRule) -> Result<(), RulesError> {
    if !rule
        .name
        .strip_prefix("StreamGate")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        return Err(invalid(rule, "its name is not StreamGate and letters"));
    }
    for selector in rule.selectors() {
        let declared = find_family(&selector.metric)
            .ok_or_else(|| invalid(rule, format!("nothing counts {}", selector.metric)))?;
        for label in selector.labels.keys().chain(selector.not_labels.keys()) {
            if label != "le" && !declared.labels.iter().any(|known| known.name == label) {
                return Err(invalid(rule, format!("{} has no label {label}", selector.metric)));
            }
        }
    }
    if let Condition::Increase { window_ms, .. } = &rule.condition
        && *window_ms > WINDOW_MS_MAX
    {
        return Err(invalid(rule, "its window is longer than an hour"));
    }
    let known = rule.result_labels();
    for place in summary::find_places(&rule.summary) {
        if place != "value" && !place.starts_with("value:") && !known.contains(place) {
            return Err(invalid(rule, format!("its summary names {place}, which it has not")));
        }
    }
    if let Condition::Burn { objective, .. } = &rule.condition
        && objective.good.is_some() == objective.bad.is_some()
    {
        return Err(invalid(rule, "its objective says neither or both of what is good and what is bad"));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_can_be_used() {
        let set = RuleSet::built_in().unwrap();
        assert!(set.names().len() >= 40, "{}", set.names().len());
        let evaluated = set.rules.iter().filter(|rule| !rule.is_evaluated()).count();
        assert_eq!(evaluated, set.objectives.len() * 2, "6 h and 3 d are for Prometheus alone");
    }

    #[test]
    fn a_rule_that_asks_for_nothing_that_is_counted_is_refused() {
        let of = |change: fn(String) -> String| RuleSet::parse(&change(RULES_SOURCE.to_owned())).unwrap_err();
        let error = of(|text| text.replace("\"streamgate_broker_up\"", "\"streamgate_broker_upp\""));
        assert!(error.to_string().contains("nothing counts streamgate_broker_upp"), "{error}");
        let error = of(|text| text.replacen("{durable} has not", "{owner} has not", 1));
        assert!(error.to_string().contains("its summary names owner"), "{error}");
        let error = of(|text| text.replacen("labels = { stream =", "labels = { owner =", 1));
        assert!(error.to_string().contains("has no label owner"), "{error}");
        let error = of(|text| text.replacen("window = \"10m\"", "window = \"2h\"", 1));
        assert!(error.to_string().contains("longer than an hour"), "{error}");
        let error = of(|text| text.replacen("StreamGateDeadLetters", "StreamGateWatchdog", 1));
        assert!(error.to_string().contains("another one with its name"), "{error}");
        assert!(matches!(of(|text| text + "\n[other]\n"), RulesError::Malformed(_)));
    }

    #[test]
    fn a_drill_shortens_times_and_leaves_numbers() {
        let set = RuleSet::built_in().unwrap().shortened(60, 1_000);
        let find = |name: &str| set.rules.iter().find(|rule| rule.name == name).unwrap();
        assert_eq!(find("StreamGateStreamFullSoon").hold_ms, 60_000);
        assert_eq!(find("StreamGateWatchdog").hold_ms, 0);
        let Condition::Threshold { value, .. } = &find("StreamGateStreamFullSoon").condition else {
            panic!()
        };
        assert_eq!(*value, Amount::Number(259_200.0));
        let Condition::Threshold { value, .. } = &find("StreamGateWorkStalled").condition else { panic!() };
        assert_eq!(*value, Amount::DurationMs(5_000));
        assert_eq!(find("StreamGateQuorumLost").hold_ms, 0);
    }
}
