//! The cases, evaluated as the monitor does it; and that a threshold which is changed by a tenth fails one of them.

use std::collections::{BTreeMap, BTreeSet};

use alerts::{Amount, Condition, Evaluator, MetricPoint, Operator, RuleSet, Transition, advance_board};
use schemas::alert::AlertBoard;

use crate::cases::{AlertCase, CaseSeries, load_cases};

/// Time between two looks, in milliseconds.
const STEP_MS: u64 = 30_000;
/// How long each state lasts: longer than the longest window and the longest wait.
const STATE_MS: u64 = 2 * 3_600_000 + 600_000;

/// What an alert did: when it fired, and when it was over, each in milliseconds from the start.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AlertStory {
    pub(crate) fired: Vec<(BTreeMap<String, String>, u64)>,
    pub(crate) resolved: Vec<u64>,
}

/// Goes through states, each a list of series, and says what the alert did.
fn play_states(set: &RuleSet, case: &AlertCase, states: &[&[String]]) -> AlertStory {
    let alert = &case.alert;
    let mut set = set.clone();
    set.rules.retain(|rule| rule.name == *alert);
    let mut evaluator = Evaluator::new(set);
    let mut board = AlertBoard::default();
    let mut story = AlertStory::default();
    let mut values = BTreeMap::<String, f64>::new();
    let mut now_ms = 0;
    for state in states {
        let series: Vec<CaseSeries> = state.iter().map(|line| CaseSeries::parse(line)).collect();
        for step in 0..STATE_MS / STEP_MS {
            let mut points: Vec<MetricPoint> = Vec::new();
            for one in &series {
                let value = if case.age {
                    now_ms as f64 / 1_000.0 - one.start
                } else if one.per_minute == 0.0 && !one.text.contains("_total") {
                    one.start
                } else {
                    let value = values.entry(one.text.clone()).or_insert(one.start);
                    *value += one.per_minute * (STEP_MS as f64 / 60_000.0);
                    *value
                };
                points.push(one.point(value));
            }
            let holding = evaluator.observe(&points, now_ms);
            let rules = evaluator.rules();
            let change = advance_board(rules, &board, &holding, &BTreeSet::new(), now_ms);
            for transition in change.transitions {
                match transition {
                    Transition::Fired(alert) => story.fired.push((alert.labels, now_ms)),
                    Transition::Resolved(_) => story.resolved.push(now_ms),
                }
            }
            board = change.board;
            assert!(step > 0 || board.alerts.len() < 9, "{:?}", board.alerts);
            now_ms += STEP_MS;
        }
    }
    story
}

/// Whether a case holds with these rules.
fn holds(set: &RuleSet, case: &AlertCase) -> bool {
    let evaluated = |story: &AlertStory| {
        let windows: BTreeSet<&str> =
            story.fired.iter().filter_map(|(labels, _)| labels.get("window").map(String::as_str)).collect();
        let wanted: BTreeSet<&str> =
            case.windows.iter().map(String::as_str).filter(|one| *one == "1h").collect();
        let is_burn = !case.windows.is_empty();
        let fired = if is_burn { windows == wanted } else { !story.fired.is_empty() };
        let labels_fit = is_burn || story.fired.iter().all(|(labels, _)| *labels == case.labels);
        fired && labels_fit
    };
    let fires = play_states(set, case, &[&case.fires]);
    let quiet = play_states(set, case, &[&case.quiet]);
    let both = play_states(set, case, &[&case.fires, &case.quiet]);
    let ends = case.always || both.resolved.len() == both.fired.len();
    evaluated(&fires) && (case.always || quiet == AlertStory::default()) && ends
}

#[test]
fn each_alert_fires_stays_quiet_and_is_resolved() {
    let set = RuleSet::built_in().unwrap();
    for case in load_cases() {
        let fires = play_states(&set, &case, &[&case.fires]);
        let quiet = play_states(&set, &case, &[&case.quiet]);
        assert!(holds(&set, &case), "{case:#?}\nfires {fires:?}\nquiet {quiet:?}");
        let none = play_states(&set, &case, &[&[]]);
        assert_eq!(!none.fired.is_empty(), case.missing, "{} without series: {none:?}", case.alert);
        let rule = set.rules.iter().find(|rule| rule.name == case.alert).unwrap();
        if let Some((_, at_ms)) = fires.fired.first() {
            assert!(*at_ms >= rule.hold_ms, "{}: fired after {at_ms} ms", case.alert);
        }
    }
}

/// The same rules with the threshold of one changed, and how.
fn changed_rules(set: &RuleSet, at: usize) -> Vec<(String, RuleSet)> {
    let mut all = Vec::new();
    let mut with = |how: &str, change: &dyn Fn(&mut Condition)| {
        let mut other = set.clone();
        change(&mut other.rules[at].condition);
        if other != *set {
            all.push((how.to_owned(), other));
        }
    };
    for (how, factor, step) in [("more", 1.1, 1.0), ("less", 0.9, -1.0)] {
        let move_number = move |number: f64| {
            if number.abs() < 2.5 && number.fract() == 0.0 { number + step } else { number * factor }
        };
        with(how, &move |condition| match condition {
            Condition::Threshold { value: Amount::Number(number), .. }
            | Condition::Increase { value: number, .. }
            | Condition::Quotient { value: number, .. } => *number = move_number(*number),
            Condition::Threshold { value: Amount::DurationMs(ms), .. }
            | Condition::Age { value: Amount::DurationMs(ms), .. } => {
                *ms = if factor > 1.0 { *ms + *ms / 10 } else { *ms - *ms / 10 };
            }
            Condition::Burn { window, .. } => window.factor *= factor,
            _ => {}
        });
    }
    with("another comparison", &|condition| match condition {
        Condition::Threshold { op, .. } | Condition::Increase { op, .. } | Condition::Quotient { op, .. } => {
            *op = match op {
                Operator::Above | Operator::AtLeast => Operator::Below,
                Operator::Below | Operator::Equal => Operator::Above,
            };
        }
        _ => {}
    });
    all
}

#[test]
fn a_changed_threshold_fails_a_case() {
    let set = RuleSet::built_in().unwrap();
    let cases = load_cases();
    let mut unseen = Vec::new();
    let mut changed_count = 0;
    for (at, rule) in set.rules.iter().enumerate().filter(|(_, rule)| rule.is_evaluated()) {
        for (how, other) in changed_rules(&set, at) {
            changed_count += 1;
            let of_rule: Vec<&AlertCase> = cases.iter().filter(|case| case.alert == rule.name).collect();
            let is_seen = of_rule.iter().any(|case| !holds(&other, case));
            if !is_seen {
                unseen.push(format!("{} with {how}", rule.name));
            }
        }
    }
    assert!(unseen.is_empty(), "no case sees {unseen:#?}");
    assert!(changed_count > 90, "{changed_count}");
}
