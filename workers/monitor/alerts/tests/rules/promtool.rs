//! The cases, as Prometheus sees them: `promtool test rules` over the generated rules. Each alert fires, stays quiet, is resolved, and
//! does what it should when its series are missing.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, process::Command};

use alerts::{AlertRule, Condition, RenderOptions, RuleSet, render_rules, runbook_path};

use schemas::alert::AlertBoard;

use crate::cases::{AlertCase, CaseSeries, load_cases};

/// How long each state lasts, in minutes: longer than the wait of the alert, and than the window that ends it.
fn state_minutes(set: &RuleSet, alert: &str) -> u64 {
    let of_rule = |rule: &AlertRule| match &rule.condition {
        Condition::Increase { window_ms, .. } => rule.hold_ms + window_ms,
        _ => rule.hold_ms,
    };
    let longest_ms = set.rules.iter().filter(|rule| rule.name == alert).map(of_rule).max().unwrap();
    longest_ms / 60_000 + 8
}

fn promtool() -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.tools/bin/promtool");
    Command::new(if own.exists() { own } else { "promtool".into() })
}

pub(crate) fn run_promtool(folder: &Path, args: &[&str]) {
    let ended = promtool()
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("promtool, which `.ci/setup test` brings: {error}"));
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(ended.status.success(), "{args:?}:\n{said}");
}

/// The rules that are expected to fire in a case.
fn firing_rules<'a>(set: &'a RuleSet, case: &AlertCase) -> Vec<&'a AlertRule> {
    let is_meant = |rule: &&AlertRule| {
        let window = rule.own_labels().get("window").cloned();
        rule.name == case.alert && window.is_none_or(|window| case.windows.contains(&window))
    };
    set.rules.iter().filter(is_meant).collect()
}

/// One test of a case: its series over the states, and when who fires. Promtool compares labels alone where annotations are the same,
/// so the values of summaries are those of the case.
struct PromtoolTest<'a> {
    case: &'a AlertCase,
    name: String,
    states: Vec<&'a [String]>,
    /// Whether it fires at the end of each state.
    fires: Vec<bool>,
    minutes: u64,
}

impl PromtoolTest<'_> {
    fn render(&self, set: &RuleSet, text: &mut String) {
        _ = writeln!(text, "  - name: '{}'\n    interval: 1m\n    input_series:", self.name);
        for (text_of, values) in self.series() {
            _ = writeln!(text, "      - series: '{text_of}'\n        values: '{values}'");
        }
        if self.series().is_empty() {
            *text = text.trim_end().trim_end_matches("input_series:").trim_end().to_owned()
                + "\n    input_series: []\n";
        }
        text.push_str("    promql_expr_test:\n");
        for (at, fires) in self.fires.iter().enumerate() {
            // Alerts as series: they have labels, and no texts.
            _ = writeln!(
                text,
                "      - expr: 'sum without (__name__) (ALERTS{{alertname=\"{}\",alertstate=\"firing\"}})'\n        eval_time: {}m",
                self.case.alert,
                (at as u64 + 1) * self.minutes - 1
            );
            let rules = if *fires { firing_rules(set, self.case) } else { Vec::new() };
            let mut samples = String::new();
            for rule in rules {
                let mut labels = self.case.labels.clone();
                labels.extend(rule.own_labels());
                labels.insert("alertname".into(), rule.name.clone());
                labels.insert("alertstate".into(), "firing".into());
                labels.insert("severity".into(), rule.severity.name().into());
                let labels: Vec<String> =
                    labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
                _ = writeln!(samples, "          - labels: '{{{}}}'\n            value: 1", labels.join(","));
            }
            if samples.is_empty() {
                text.push_str("        exp_samples: []\n");
            } else {
                _ = write!(text, "        exp_samples:\n{samples}");
            }
        }
    }

    /// Every series with its values over all states.
    fn series(&self) -> Vec<(String, String)> {
        let mut all: Vec<String> = Vec::new();
        for line in self.states.iter().flat_map(|state| state.iter()) {
            let text = CaseSeries::parse(line).text;
            if !all.contains(&text) {
                all.push(text);
            }
        }
        let steps = self.minutes - 1;
        all.into_iter()
            .map(|text| {
                let mut at = 0.0;
                let mut parts = Vec::new();
                for (number, state) in self.states.iter().enumerate() {
                    let began_s = number as f64 * self.minutes as f64 * 60.0;
                    let line = state.iter().map(|line| CaseSeries::parse(line)).find(|one| one.text == text);
                    parts.push(match line {
                        None => format!("_x{steps} _"),
                        Some(one) if self.case.age => format!("{}+60x{steps}", began_s - one.start),
                        Some(one) if one.per_minute == 0.0 && !text.contains("_total") => {
                            format!("{}x{steps}", one.start)
                        }
                        Some(one) => {
                            let from = if parts.is_empty() { one.start } else { at };
                            at = from + one.per_minute * self.minutes as f64;
                            format!("{from}+{}x{steps}", one.per_minute)
                        }
                    });
                }
                (text, parts.join(" "))
            })
            .collect()
    }
}

fn tests_of<'a>(set: &RuleSet, case: &'a AlertCase) -> Vec<PromtoolTest<'a>> {
    let minutes = state_minutes(set, &case.alert);
    let named = |what: &str, states: Vec<_>, fires: Vec<bool>| PromtoolTest {
        case,
        name: format!("{} {what} {}", case.alert, case.windows.join(" ")),
        states,
        fires,
        minutes,
    };
    let (fires, quiet) = (case.fires.as_slice(), case.quiet.as_slice());
    // What Prometheus sees of three days and six hours does not end within hours.
    let ends = case.windows.is_empty() && !case.always;
    let mut tests = vec![
        named("fires", vec![fires], vec![true]),
        named("without its series", vec![&[]], vec![case.missing]),
    ];
    if !case.always {
        tests.push(named("stays quiet", vec![quiet], vec![false]));
    }
    if ends {
        tests.push(named("is resolved", vec![fires, quiet], vec![true, false]));
        tests.push(named("comes back", vec![quiet, fires], vec![false, true]));
    }
    tests
}

/// The rules of one alert, without the objectives' records: what is evaluated costs time at each step.
fn rules_of(set: &RuleSet, alert: &str) -> RuleSet {
    let mut only = set.clone();
    only.rules.retain(|rule| rule.name == alert);
    only.objectives.clear();
    only
}

const TEST_HEAD: &str = "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n";

fn write_rules(folder: &Path, set: &RuleSet) {
    let mut text = render_rules(set, &RenderOptions::default());
    if set.objectives.is_empty() {
        text = text.replace("  - name: streamgate-objectives\n    rules:\n", "");
    }
    std::fs::write(folder.join("rules.yml"), text).unwrap();
}

#[test]
fn prometheus_takes_all_rules() {
    let folder = tempfile::tempdir().unwrap();
    let set = RuleSet::built_in().unwrap();
    write_rules(folder.path(), &set);
    run_promtool(folder.path(), &["check", "rules", "rules.yml"]);
    write_rules(folder.path(), &set.shortened(60, 1_000));
    run_promtool(folder.path(), &["check", "rules", "rules.yml"]);
}

#[test]
fn prometheus_fires_stays_quiet_and_resolves_as_the_cases_say() {
    let set = RuleSet::built_in().unwrap();
    let cases = load_cases();
    let mut count = 0;
    for alert in set.names() {
        let folder = tempfile::tempdir().unwrap();
        write_rules(folder.path(), &rules_of(&set, alert));
        let mut text = TEST_HEAD.to_owned();
        for test in cases.iter().filter(|case| case.alert == alert).flat_map(|case| tests_of(&set, case)) {
            test.render(&set, &mut text);
            count += 1;
        }
        std::fs::write(folder.path().join("tests.yml"), text).unwrap();
        run_promtool(folder.path(), &["test", "rules", "tests.yml"]);
    }
    assert!(count > 200, "{count}");
}

/// Our words against those that Prometheus makes of the templates.
#[test]
fn a_summary_reads_the_same_at_prometheus() {
    let set = RuleSet::built_in().unwrap();
    for case in load_cases().iter().filter(|case| case.windows.is_empty() && !case.age) {
        let rule = set.rules.iter().find(|rule| rule.name == case.alert).unwrap();
        // What grows is measured by each in its own way.
        if matches!(rule.condition, Condition::Increase { .. }) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let only = rules_of(&set, &case.alert);
        write_rules(folder.path(), &only);
        let mut evaluator = alerts::Evaluator::new(only);
        let series = case.fires.iter().map(|line| CaseSeries::parse(line));
        let points: Vec<_> = series.map(|one| one.point(one.start)).collect();
        let holding = evaluator.observe(&points, 0);
        let (found, uncovered) = (AlertBoard::default(), BTreeSet::new());
        let board = alerts::advance_board(evaluator.rules(), &found, &holding, &uncovered, 0).board;
        let minutes = state_minutes(&set, &case.alert);
        let test = PromtoolTest {
            case,
            name: case.alert.clone(),
            states: vec![&case.fires],
            fires: Vec::new(),
            minutes,
        };
        let mut written = format!("{TEST_HEAD}  - interval: 1m\n    input_series:\n");
        for (text_of, values) in test.series() {
            _ = writeln!(written, "      - series: '{text_of}'\n        values: '{values}'");
        }
        let labels: Vec<String> =
            case.labels.iter().map(|(name, value)| format!(", {name}: '{value}'")).collect();
        _ = writeln!(
            written,
            "    alert_rule_test:\n      - alertname: {}\n        eval_time: {}m\n        exp_alerts:\n          \
             - exp_labels: {{ severity: {}{} }}\n            exp_annotations: {{ summary: '{}', runbook_url: '{}' }}",
            case.alert,
            minutes - 1,
            rule.severity.name(),
            labels.concat(),
            board.alerts[0].summary.replace('\'', "''"),
            runbook_path(&case.alert)
        );
        std::fs::write(folder.path().join("tests.yml"), written).unwrap();
        run_promtool(folder.path(), &["test", "rules", "tests.yml"]);
    }
}
