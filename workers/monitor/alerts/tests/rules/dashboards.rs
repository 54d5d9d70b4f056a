//! The dashboards: every metric has a panel, and Prometheus reads every expression.

use std::{collections::BTreeSet, fmt::Write as _};

use alerts::{DashboardFile, RUNBOOKS, RenderOptions, RuleSet, render_dashboards, render_rules};
use instruments::{MetricKind, declarations};
use serde_json::Value;

use crate::promtool::run_promtool;

fn made() -> Vec<DashboardFile> {
    render_dashboards(&RuleSet::built_in().unwrap(), &RenderOptions::default())
}

fn documents() -> Vec<Value> {
    made().iter().map(|file| serde_json::from_str(&file.text).unwrap()).collect()
}

/// The panels of a dashboard, without the heads of rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// What each panel asks, as Grafana sends it.
fn expressions() -> BTreeSet<String> {
    let documents = documents();
    let targets = documents.iter().flat_map(panels).flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m")).collect()
}

/// The names of series in an expression: those of metrics, and of what rules record.
fn series_names(expression: &str) -> BTreeSet<&str> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let words = expression.split(|c| !of_name(c));
    let begins = ["streamgate_", "streamgate:", "process_", "ALERTS"];
    words.filter(|word| begins.iter().any(|begin| word.starts_with(begin))).collect()
}

#[test]
fn each_metric_has_a_panel_and_no_panel_asks_for_what_is_not_counted() {
    let expressions = expressions();
    let asked: BTreeSet<&str> = expressions.iter().flat_map(|expression| series_names(expression)).collect();
    let mut counted = BTreeSet::new();
    for declared in declarations() {
        let series = match declared.kind {
            MetricKind::Histogram => format!("{}_bucket", declared.name),
            MetricKind::Counter | MetricKind::Gauge => declared.series_name(),
        };
        assert!(asked.contains(series.as_str()), "{} has no panel", declared.name);
        counted.insert(series);
    }
    let rules = render_rules(&RuleSet::built_in().unwrap(), &RenderOptions::default());
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for name in asked {
        let is_known = counted.contains(name) || recorded.contains(name) || name == "ALERTS";
        assert!(is_known, "nothing counts {name}");
    }
}

#[test]
fn prometheus_reads_every_expression() {
    let expressions = expressions();
    let mut rules = "groups:\n  - name: dashboards\n    rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let quoted = expression.replace('\'', "''");
        _ = writeln!(rules, "      - record: dashboards:panel:{number}\n        expr: '{quoted}'");
    }
    assert!(expressions.len() > 140, "{}", expressions.len());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("panels.yml"), rules).unwrap();
    run_promtool(folder.path(), &["check", "rules", "panels.yml"]);
}

#[test]
fn each_subject_and_handler_has_a_dashboard_that_names_no_installation() {
    let documents = documents();
    let uids: Vec<&str> = documents.iter().map(|document| document["uid"].as_str().unwrap()).collect();
    let wanted = [
        "overview",
        "gateway",
        "api",
        "upload",
        "streaming",
        "metadata",
        "cache",
        "auth",
        "worker",
        "transcoder",
        "monitor",
        "hooks",
        "process",
        "pipeline",
        "jetstream",
        "gate",
        "audit",
        "capacity",
    ];
    assert_eq!(uids, wanted.map(|slug| format!("streamgate-{slug}")));
    for document in &documents {
        let title = &document["title"];
        assert_eq!(document["schemaVersion"], alerts::SCHEMA_VERSION, "{title}");
        assert_eq!(document["templating"]["list"][0]["type"], "datasource", "{title}");
        let mut ids = BTreeSet::new();
        let mut places = BTreeSet::new();
        for panel in document["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: {panel}");
            let place = &panel["gridPos"];
            assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{title}: {panel}");
            assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title}: {panel}");
        }
        for panel in panels(document) {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}: {panel}");
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}: {panel}");
            assert_ne!(panel["fieldConfig"]["defaults"]["unit"], "", "{title}: {panel}");
        }
    }
}

#[test]
fn latencies_show_traces_and_panels_of_alerts_lead_to_their_runbooks() {
    let documents = documents();
    let find = |metric: &str| {
        let is_of = |panel: &&Value| panel["targets"][0]["expr"].as_str().unwrap().contains(metric);
        documents.iter().flat_map(panels).find(is_of).unwrap()
    };
    let latency = find("streamgate_stage_seconds_bucket");
    let legends: Vec<&str> = latency["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["legendFormat"].as_str().unwrap())
        .collect();
    assert_eq!(legends, ["p50", "p95", "p99"]);
    assert_eq!(
        (&latency["targets"][1]["exemplar"], &latency["fieldConfig"]["defaults"]["unit"]),
        (&true.into(), &"s".into())
    );
    let filling = find("streamgate_stream_fill_ratio");
    assert_eq!(filling["links"][0]["url"], "${gateway:raw}/docs/runbooks/StreamGateStreamFilling");
    assert_eq!(filling["fieldConfig"]["defaults"]["unit"], "percentunit");
    let room = &find("streamgate_stream_room_seconds")["targets"][0]["expr"];
    assert_eq!(
        room, "bottomk(20, max by (stream) (streamgate_stream_room_seconds))",
        "those that are full first"
    );
    let linked: BTreeSet<String> = documents
        .iter()
        .flat_map(panels)
        .flat_map(|panel| panel["links"].as_array().unwrap())
        .map(|link| link["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    let known: BTreeSet<&str> = RUNBOOKS.iter().map(|runbook| runbook.name).collect();
    assert!(linked.iter().all(|name| known.contains(name.as_str())), "{linked:?}");
    let of_installation = RenderOptions { base_url: "https://films.example".into() };
    let files = render_dashboards(&RuleSet::built_in().unwrap(), &of_installation);
    let overview: Value = serde_json::from_str(&files[0].text).unwrap();
    assert_eq!(overview["templating"]["list"][1]["query"], "https://films.example");
}
