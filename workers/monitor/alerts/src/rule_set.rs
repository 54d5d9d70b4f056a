//! The built-in rules, read from `rules.toml` and checked against what is counted.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{
    amount::Amount,
    family::find_family,
    rule::{AlertRule, BurnWindow, Condition, ServiceObjective, WINDOW_MS_MAX},
    summary,
};

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
                    severity: objective.severity.unwrap_or(window.severity),
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
