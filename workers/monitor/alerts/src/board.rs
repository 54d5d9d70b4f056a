//! From conditions to alerts: pending while a condition holds, firing once it has held for as long as the rule asks, resolved after.

use std::collections::{BTreeMap, BTreeSet};

use schemas::alert::{ALERTS_MAX, AlertBoard, AlertPhase, AlertState};

use crate::{evaluator::ConditionHolding, rule::AlertRule, rule_set::RuleSet, summary};

/// How often a board is written that did not change, in milliseconds: so that readers see that somebody evaluates.
const WRITE_PERIOD_MS: u64 = 60_000;
/// How long receivers are tried to be informed of what is over, in milliseconds.
const RESOLVED_KEPT_MS: u64 = 3_600_000;

/// What happened to an alert.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// It began to fire.
    Fired(AlertState),
    /// It is over.
    Resolved(AlertState),
}

/// A board, and what led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardChange {
    /// As it is now.
    pub board: AlertBoard,
    /// What began and what ended.
    pub transitions: Vec<Transition>,
    /// Whether it has to be written.
    pub is_changed: bool,
}

/// The fingerprint of a set of labels as Alertmanager has it: FNV-1a, 64 bits, over names and values in order.
pub fn compute_fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for (name, value) in labels {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    format!("{hash:016x}")
}

/// All labels of an alert: those of what it is about, its name and its severity.
pub(crate) fn all_labels(
    name: &str,
    severity: &str,
    labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = labels.clone();
    all.insert("alertname".into(), name.to_owned());
    all.insert("severity".into(), severity.to_owned());
    all
}

fn make_alert(rule: &AlertRule, held: &ConditionHolding, now_ms: u64) -> AlertState {
    AlertState {
        alert_id: compute_fingerprint(&all_labels(&rule.name, rule.severity.name(), &held.labels)),
        name: rule.name.clone(),
        severity: rule.severity,
        labels: held.labels.clone(),
        phase: AlertPhase::Pending,
        summary: summary::render(&rule.summary, held.value, &held.labels),
        value: held.value,
        since_ms: now_ms,
        fired_at_ms: None,
        resolved_at_ms: None,
        notified_at_ms: BTreeMap::new(),
    }
}

/// The board at `now_ms`, a Unix time in milliseconds, once `holding` is known. What fires by a rule of `uncovered` is not over before
/// more was seen.
pub fn advance_board(
    set: &RuleSet,
    found: &AlertBoard,
    holding: &[ConditionHolding],
    uncovered: &BTreeSet<usize>,
    now_ms: u64,
) -> BoardChange {
    let mut board = found.clone();
    board.drop_ended_marks(now_ms);
    let mut transitions = Vec::new();
    let mut held = BTreeMap::new();
    for one in holding {
        if let Some(rule) = set.rules.get(one.rule) {
            let alert = make_alert(rule, one, now_ms);
            held.insert(alert.alert_id.clone(), (rule, alert));
        }
    }
    let is_uncovered = |alert: &AlertState| {
        let of = |rule: &AlertRule| rule.name == alert.name && rule.severity == alert.severity;
        uncovered.iter().any(|at| set.rules.get(*at).is_some_and(of))
    };
    let mut alerts = Vec::new();
    for alert in std::mem::take(&mut board.alerts) {
        match held.remove(&alert.alert_id) {
            Some((rule, now)) => alerts.push(go_on(alert, rule, now, &mut transitions)),
            None if alert.phase == AlertPhase::Firing && is_uncovered(&alert) => alerts.push(alert),
            None => alerts.extend(end_alert(alert, now_ms, &mut transitions)),
        }
    }
    board.omitted_count = 0;
    let mut begun: Vec<_> = held.into_values().collect();
    // What is urgent has a place first.
    begun.sort_by(|(_, a), (_, b)| {
        (a.severity, &a.name, &a.alert_id).cmp(&(b.severity, &b.name, &b.alert_id))
    });
    for (rule, alert) in begun {
        if alerts.len() >= ALERTS_MAX {
            board.omitted_count += 1;
            continue;
        }
        alerts.push(go_on(alert.clone(), rule, alert, &mut transitions));
    }
    alerts.sort_by(|a, b| (&a.name, &a.alert_id).cmp(&(&b.name, &b.alert_id)));
    board.alerts = alerts;
    let is_changed = board != *found || now_ms >= found.evaluated_at_ms.saturating_add(WRITE_PERIOD_MS);
    if is_changed {
        board.evaluated_at_ms = now_ms;
    }
    BoardChange { board, transitions, is_changed }
}

/// An alert whose condition holds; `now` is what it would be if it began now.
fn go_on(
    alert: AlertState,
    rule: &AlertRule,
    now: AlertState,
    transitions: &mut Vec<Transition>,
) -> AlertState {
    let now_ms = now.since_ms;
    let mut alert = match alert.phase {
        AlertPhase::Firing => return alert,
        AlertPhase::Pending => alert,
        // Receivers that did not learn yet that it was over need not: it goes on for them, unless it ends before it fires again.
        AlertPhase::Resolved => {
            AlertState { notified_at_ms: alert.notified_at_ms, fired_at_ms: alert.fired_at_ms, ..now.clone() }
        }
    };
    if now_ms.saturating_sub(alert.since_ms) >= rule.hold_ms {
        alert.phase = AlertPhase::Firing;
        alert.fired_at_ms = Some(now_ms);
        alert.value = now.value;
        alert.summary = now.summary;
        transitions.push(Transition::Fired(alert.clone()));
    }
    alert
}

/// An alert whose condition does not hold; `None` once nobody has to know of it any more.
fn end_alert(mut alert: AlertState, now_ms: u64, transitions: &mut Vec<Transition>) -> Option<AlertState> {
    match alert.phase {
        // It fired before, and receivers still believe that it does.
        AlertPhase::Pending if !alert.notified_at_ms.is_empty() => {
            alert.phase = AlertPhase::Resolved;
            alert.resolved_at_ms = Some(now_ms);
            Some(alert)
        }
        AlertPhase::Pending => None,
        AlertPhase::Firing => {
            alert.phase = AlertPhase::Resolved;
            alert.resolved_at_ms = Some(now_ms);
            // Those who know that it fires learn that it does not.
            alert.notified_at_ms.values_mut().for_each(|at_ms| *at_ms = 0);
            transitions.push(Transition::Resolved(alert.clone()));
            (!alert.notified_at_ms.is_empty()).then_some(alert)
        }
        AlertPhase::Resolved => {
            let is_old =
                alert.resolved_at_ms.is_none_or(|at_ms| now_ms >= at_ms.saturating_add(RESOLVED_KEPT_MS));
            (!alert.notified_at_ms.is_empty() && !is_old).then_some(alert)
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::alert::AlertSeverity;

    use super::*;

    fn set() -> RuleSet {
        let mut set = RuleSet::built_in().unwrap();
        set.rules
            .retain(|rule| ["StreamGateDeadLetters", "StreamGateJobsFailing"].contains(&rule.name.as_str()));
        assert_eq!(set.rules[0].hold_ms, 60_000);
        assert_eq!(set.rules[1].hold_ms, 0);
        set
    }

    fn letters(stage: &str, value: f64) -> ConditionHolding {
        let labels = BTreeMap::from([("stage".to_owned(), stage.to_owned())]);
        ConditionHolding { rule: 0, labels, value }
    }

    fn advance(board: &mut AlertBoard, holding: &[ConditionHolding], now_ms: u64) -> Vec<Transition> {
        let change = advance_board(&set(), board, holding, &BTreeSet::new(), now_ms);
        *board = change.board;
        change.transitions
    }

    #[test]
    fn an_alert_is_pending_then_fires_then_is_resolved_each_once() {
        let mut board = AlertBoard::default();
        assert_eq!(advance(&mut board, &[letters("index", 2.0)], 1_000), []);
        assert_eq!(board.alerts[0].phase, AlertPhase::Pending);
        assert_eq!(advance(&mut board, &[letters("index", 2.0)], 60_999), [], "a minute is not over");
        let fired = advance(&mut board, &[letters("index", 3.0)], 61_000);
        let [Transition::Fired(alert)] = fired.as_slice() else { panic!("{fired:?}") };
        assert_eq!(alert.summary, "3 dead letters of index; see `streamgate dead ls`");
        assert_eq!((alert.since_ms, alert.fired_at_ms), (1_000, Some(61_000)));
        assert_eq!(advance(&mut board, &[letters("index", 3.0)], 70_000), [], "once");
        board.alerts[0].notified_at_ms.insert("webhook-1".into(), 62_000);
        let over = advance(&mut board, &[], 80_000);
        assert!(
            matches!(over.as_slice(), [Transition::Resolved(alert)] if alert.resolved_at_ms == Some(80_000))
        );
        assert_eq!(board.alerts[0].notified_at_ms["webhook-1"], 0, "it has to be informed");
        assert_eq!(advance(&mut board, &[], 81_000), []);
        board.alerts[0].notified_at_ms.clear();
        advance(&mut board, &[], 82_000);
        assert_eq!(board.alerts, []);
    }

    #[test]
    fn what_begins_again_before_receivers_know_of_its_end_is_resolved_for_them() {
        let mut board = AlertBoard::default();
        advance(&mut board, &[letters("index", 1.0)], 0);
        advance(&mut board, &[letters("index", 1.0)], 60_000);
        board.alerts[0].notified_at_ms.insert("webhook-1".into(), 61_000);
        assert_eq!(advance(&mut board, &[], 70_000).len(), 1);
        assert_eq!(advance(&mut board, &[letters("index", 1.0)], 80_000), []);
        assert_eq!(board.alerts[0].phase, AlertPhase::Pending);
        assert_eq!(advance(&mut board, &[], 90_000), [], "its event was sent");
        let over = &board.alerts[0];
        assert_eq!((over.phase, over.resolved_at_ms), (AlertPhase::Resolved, Some(90_000)));
        assert_eq!((over.fired_at_ms, over.notified_at_ms["webhook-1"]), (Some(60_000), 0));
        advance(&mut board, &[letters("index", 1.0)], 100_000);
        assert_eq!(advance(&mut board, &[letters("index", 1.0)], 160_000).len(), 1);
        let again = &board.alerts[0];
        assert_eq!((again.fired_at_ms, again.resolved_at_ms), (Some(160_000), None));
        assert_eq!(again.notified_at_ms["webhook-1"], 0, "it is sent again");
    }

    #[test]
    fn what_ends_before_its_time_never_fires() {
        let mut board = AlertBoard::default();
        for round in 0..10 {
            let began_ms = round * 100_000;
            assert_eq!(advance(&mut board, &[letters("index", 1.0)], began_ms), []);
            assert_eq!(advance(&mut board, &[letters("index", 1.0)], began_ms + 59_000), []);
            assert_eq!(advance(&mut board, &[], began_ms + 60_000), []);
            assert_eq!(board.alerts, []);
        }
    }

    #[test]
    fn what_too_little_is_known_of_goes_on() {
        let mut board = AlertBoard::default();
        let failing = ConditionHolding { rule: 1, labels: BTreeMap::new(), value: 6.0 };
        assert_eq!(advance(&mut board, &[failing], 1_000).len(), 1, "it has no time to wait");
        let change = advance_board(&set(), &board, &[], &BTreeSet::from([1]), 2_000);
        assert_eq!((change.transitions.len(), change.board.alerts.len(), change.is_changed), (0, 1, false));
        let change = advance_board(&set(), &board, &[], &BTreeSet::new(), 2_000);
        assert_eq!(change.transitions.len(), 1);
    }

    #[test]
    fn a_board_is_written_when_it_changed_and_each_minute() {
        let mut board = AlertBoard::default();
        advance(&mut board, &[letters("index", 1.0)], 100_000);
        let is_written = |now_ms| {
            let change = advance_board(&set(), &board, &[letters("index", 5.0)], &BTreeSet::new(), now_ms);
            change.is_changed
        };
        assert!(!is_written(100_500), "another value is no change");
        assert!(is_written(160_000));
    }

    #[test]
    fn only_so_many_alerts_are_kept() {
        let mut board = AlertBoard::default();
        let mut all: Vec<_> = (0..ALERTS_MAX + 3).map(|n| letters(&format!("stage{n}"), 1.0)).collect();
        let mut set = set();
        set.rules[0].severity = AlertSeverity::Ticket;
        set.rules[1].severity = AlertSeverity::Page;
        all.push(ConditionHolding { rule: 1, labels: BTreeMap::new(), value: 6.0 });
        board = advance_board(&set, &board, &all, &BTreeSet::new(), 1_000).board;
        assert_eq!((board.alerts.len(), board.omitted_count), (ALERTS_MAX, 4));
        assert!(board.alerts.iter().any(|alert| alert.severity == AlertSeverity::Page), "it has a place");
    }

    #[test]
    fn the_fingerprint_is_that_of_alertmanager() {
        // `amtool alert query -o json` of Alertmanager 0.25 has these for these labels.
        assert_eq!(compute_fingerprint(&BTreeMap::new()), "cbf29ce484222325");
        let labels = all_labels("StreamGateDeadLetters", "ticket", &BTreeMap::new());
        assert_eq!(compute_fingerprint(&labels).len(), 16);
    }
}
