//! The rules as a file for Prometheus, valid for 2.42 and 3.x.

use std::fmt::Write as _;

use crate::{
    amount::{format_duration, format_number},
    rule::{AlertRule, Comparison, Condition, Operator, Selector, ServiceObjective},
    rule_set::RuleSet,
    runbook, summary,
};

/// What a file is made for.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Address of the gateway, for links to runbooks; without it they are paths.
    pub base_url: String,
}

const HEAD: &str = "# Alert rules for Prometheus. Load with `rule_files`; every metric is exported by the monitor's /metrics, and what a process
# knows of itself (ready, writes, tasks) by the /metrics of each. Made of workers/monitor/alerts/rules.toml by `streamgate config --rules`.
";

/// The file.
pub fn render_rules(set: &RuleSet, options: &RenderOptions) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("groups:\n  - name: streamgate-objectives\n    rules:\n");
    for objective in &set.objectives {
        render_objective(&mut text, objective);
    }
    text.push_str("  - name: streamgate\n    rules:\n");
    for rule in &set.rules {
        render_rule(&mut text, rule, options);
    }
    text
}

/// What is promised and kept, for panels.
fn render_objective(text: &mut String, objective: &ServiceObjective) {
    let labels = format!("labels: {{ objective: {} }}", quote(&objective.name.to_lowercase()));
    for (record, expression) in [
        ("streamgate:objective:ratio", format_number(objective.target)),
        ("streamgate:objective_errors:ratio_rate5m", failed_share(objective, "5m")),
        ("streamgate:objective_errors:ratio_rate1h", failed_share(objective, "1h")),
    ] {
        let expression =
            if record.ends_with(":ratio") { format!("vector({expression})") } else { expression };
        // Writing to a text does not fail.
        _ = writeln!(
            text,
            "      - record: {record}\n        expr: {}\n        {labels}",
            quote(&expression)
        );
    }
}

fn render_rule(text: &mut String, rule: &AlertRule, options: &RenderOptions) {
    let mut labels = vec![format!("severity: {}", rule.severity.name())];
    labels.extend(rule.own_labels().iter().map(|(name, value)| format!("{name}: {}", quote(value))));
    _ = writeln!(text, "      - alert: {}", rule.name);
    _ = writeln!(text, "        expr: {}", quote(&to_expression(&rule.condition)));
    if rule.hold_ms > 0 {
        _ = writeln!(text, "        for: {}", format_duration(rule.hold_ms));
    }
    _ = writeln!(text, "        labels: {{ {} }}", labels.join(", "));
    _ = writeln!(text, "        annotations:");
    _ = writeln!(text, "          summary: {}", quote(&summary::to_template(&rule.summary)));
    let url = format!("{}{}", options.base_url, runbook::runbook_path(&rule.name));
    _ = writeln!(text, "          runbook_url: {}", quote(&url));
}

/// A text of YAML in single quotes, which know no escapes but their own.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn to_selector(of: &Selector) -> String {
    let mut labels = Vec::new();
    for (name, values) in &of.labels {
        labels.push(match values.as_slice() {
            [one] => format!("{name}={one:?}"),
            // Values are words of ours: letters, digits, points and lines.
            several => format!("{name}=~{:?}", several.join("|").replace('.', "\\.")),
        });
    }
    labels.extend(of.not_labels.iter().map(|(name, value)| format!("{name}!={value:?}")));
    if labels.is_empty() { of.metric.clone() } else { format!("{}{{{}}}", of.metric, labels.join(",")) }
}

fn grouped(aggregate: &str, by: &[String], inside: &str) -> String {
    let by = if by.is_empty() { String::new() } else { format!(" by ({})", by.join(", ")) };
    format!("{aggregate}{by}({inside})").replacen(")(", ") (", usize::from(!by.is_empty()))
}

/// The share that failed within a window.
fn failed_share(objective: &ServiceObjective, window: &str) -> String {
    let sum = |of: &Selector| format!("sum(rate({}[{window}]))", to_selector(of));
    let total = sum(&objective.total);
    match (&objective.bad, &objective.good) {
        (Some(bad), _) => format!("{} / {total}", sum(bad)),
        (None, good) => format!("1 - {} / {total}", good.as_ref().map(sum).unwrap_or_default()),
    }
}

fn compare(left: &str, op: Operator, value: f64) -> String {
    format!("{left} {} {}", op.symbol(), format_number(value))
}

fn to_expression(condition: &Condition) -> String {
    match condition {
        Condition::Threshold { of, aggregate, by, missing, absolute, op, value, and } => {
            let mut left = to_selector(of);
            if *absolute {
                left = format!("abs({left})");
            }
            if let Some(aggregate) = aggregate {
                left = grouped(aggregate.name(), by, &left);
            }
            if let Some(missing) = missing {
                left = format!("({left} or vector({}))", format_number(*missing));
            }
            let first = compare(&left, *op, value.to_number());
            match and {
                Some(Comparison { metric, op, value }) => {
                    let other = to_selector(&Selector { metric: metric.clone(), ..of.clone() });
                    format!("{first} and {}", compare(&other, *op, value.to_number()))
                }
                None => first,
            }
        }
        Condition::Quotient { part, whole, op, value } => {
            let whole = to_selector(&Selector { metric: whole.clone(), ..part.clone() });
            // What has no limit is never full.
            compare(&format!("{} / ({whole} > 0)", to_selector(part)), *op, *value)
        }
        Condition::Increase { of, by, window_ms, op, value } => {
            let inside = format!("increase({}[{}])", to_selector(of), format_duration(*window_ms));
            compare(&grouped("sum", by, &inside), *op, *value)
        }
        Condition::Age { of, value } => {
            compare(&format!("time() - max({})", to_selector(of)), Operator::Above, value.to_number())
        }
        Condition::Absent { of } => format!("absent({})", to_selector(of)),
        Condition::Overflow => "count({__name__=~\"streamgate_.+\",overflow=\"true\"}) > 0".into(),
        Condition::Always => "vector(1)".into(),
        Condition::Burn { objective, window } => {
            let limit = format!("{} * {}", format_number(window.factor), format_number(objective.budget()));
            let over = |ms: u64| format!("({}) > {limit}", failed_share(objective, &format_duration(ms)));
            format!("{} and {}", over(window.long_ms), over(window.short_ms))
        }
    }
}
