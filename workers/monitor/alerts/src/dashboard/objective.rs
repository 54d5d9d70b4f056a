//! The overview: what is promised and how fast its budget goes, what fires, and how everything is.

use instruments::{DeclaredMetric, table};

use super::{
    Dashboard, PanelRow,
    panel::{self, Panel, PanelKind, PanelTarget},
};
use crate::{
    rule::{Condition, ServiceObjective},
    rule_set::RuleSet,
};

/// The share that failed, as `rules.yml` records it.
const ERRORS_5M: &str = "streamgate:objective_errors:ratio_rate5m";
const ERRORS_1H: &str = "streamgate:objective_errors:ratio_rate1h";
/// What may fail, by objective.
const BUDGET: &str = "(1 - streamgate:objective:ratio)";
/// What fires; that of the watchdog fires always.
const FIRING: &str =
    "ALERTS{alertname=~\"StreamGate.+\",alertname!=\"StreamGateWatchdog\",alertstate=\"firing\"}";

/// The first dashboard that somebody looks at.
pub(super) fn overview(set: &RuleSet) -> Dashboard {
    let service: [&'static dyn DeclaredMetric; 12] = [
        &table::REQUESTS,
        &table::REQUEST_SECONDS,
        &table::READY,
        &table::BROKER_UP,
        &table::UPLOADS_ENDED,
        &table::ENCODES,
        &table::MEDIA_PLAYABLE_SECONDS,
        &table::PLAYBACK_STARTS,
        &table::DEAD_LETTER_MESSAGES,
        &table::DURABLE_OLDEST_AGE_SECONDS,
        &table::STREAM_FILL_RATIO,
        &table::BUILD_INFO,
    ];
    let panels = service.into_iter().flat_map(|metric| panel::of_metric(metric.declaration())).collect();
    Dashboard {
        slug: "overview",
        title: "Overview".into(),
        about: "Objectives and how fast their budgets go, alerts that fire, and how everything is.".into(),
        rows: vec![
            PanelRow { title: "Objectives".into(), panels: objective_panels(set) },
            PanelRow { title: "Alerts".into(), panels: alert_panels() },
            PanelRow { title: "Service".into(), panels },
        ],
    }
}

fn shares(title: &str, about: String, expression: String) -> Panel {
    Panel {
        kind: PanelKind::Values,
        title: title.into(),
        about,
        unit: "percentunit",
        thresholds: Vec::new(),
        targets: vec![PanelTarget::new(expression, "{{objective}}")],
        alerts: Vec::new(),
    }
}

fn objective_panels(set: &RuleSet) -> Vec<Panel> {
    let promised = |objective: &ServiceObjective| {
        format!("- {}: {} ({} %)", objective.name.to_lowercase(), objective.about, percent(objective.target))
    };
    let list: Vec<String> = set.objectives.iter().map(promised).collect();
    let burn = |title: &str, errors: &str| {
        Panel {
        kind: PanelKind::Lines,
        title: title.into(),
        about: "Times the rate that uses the budget of 30 days up exactly. The lines are the rates at which alerts fire.".into(),
        unit: "short",
        thresholds: burn_factors(set),
        targets: vec![PanelTarget::new(format!("{errors} / on (objective) {BUDGET}"), "{{objective}}")],
        alerts: burn_alerts(),
    }
    };
    let left = "Mean of the hours in which something happened, whatever happened in each; below 0 the objective is missed.";
    vec![
        shares("Promised", list.join("\n"), "streamgate:objective:ratio".into()),
        shares("Kept in the last hour", list.join("\n"), format!("1 - {ERRORS_1H}")),
        shares(
            "Budget left of 30 days",
            left.into(),
            format!("1 - avg_over_time(({ERRORS_1H} >= 0)[30d:1h]) / on (objective) {BUDGET}"),
        ),
        burn("Burn rate over an hour", ERRORS_1H),
        burn("Burn rate over 5 minutes", ERRORS_5M),
    ]
}

/// Without what a product of fractions leaves behind.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// At which rates alerts fire, rising, each once.
fn burn_factors(set: &RuleSet) -> Vec<f64> {
    let factor = |condition: &Condition| match condition {
        Condition::Burn { window, .. } => Some(window.factor),
        _ => None,
    };
    let mut factors: Vec<f64> = set.rules.iter().filter_map(|rule| factor(&rule.condition)).collect();
    factors.sort_by(f64::total_cmp);
    factors.dedup();
    factors
}

/// The alerts of budgets.
fn burn_alerts() -> Vec<&'static str> {
    let names = crate::runbook::RUNBOOKS.iter().map(|runbook| runbook.name);
    names.filter(|name| name.ends_with("Burn")).collect()
}

fn alert_panels() -> Vec<Panel> {
    let about = "As Prometheus evaluates `rules.yml`. What to do about each stands at `/docs/runbooks` of the gateway.";
    let panel = |kind, title: &str, expression: String, legend: &str| Panel {
        kind,
        title: title.into(),
        about: about.into(),
        unit: "short",
        thresholds: Vec::new(),
        targets: vec![PanelTarget::new(expression, legend)],
        alerts: Vec::new(),
    };
    vec![
        panel(PanelKind::Table, "Firing now", FIRING.into(), ""),
        panel(PanelKind::Lines, "Firing", format!("count by (severity) ({FIRING})"), "{{severity}}"),
        panel(
            PanelKind::Lines,
            "Firing, by alert",
            format!("count by (alertname) ({FIRING})"),
            "{{alertname}}",
        ),
    ]
}
