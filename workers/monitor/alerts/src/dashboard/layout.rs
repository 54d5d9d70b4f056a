//! Dashboards as JSON: places of panels, variables, links.

use serde_json::{Map, Value, json};

use super::{
    Dashboard, DashboardFile, SCHEMA_VERSION,
    panel::{Panel, PanelKind},
};
use crate::{prometheus::RenderOptions, runbook};

/// Columns of the grid.
const COLUMNS: usize = 24;
/// Columns and lines of a panel.
const PANEL_SIZE: (usize, usize) = (8, 8);
/// Where runbooks are unless the installation says its address.
const GATEWAY_DEFAULT: &str = "http://localhost:8080";

pub(super) fn render(dashboard: &Dashboard, options: &RenderOptions) -> DashboardFile {
    let document = json!({
        "uid": format!("streamgate-{}", dashboard.slug),
        "title": format!("StreamGate / {}", dashboard.title),
        "description": dashboard.about,
        "tags": ["streamgate"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "timezone": "browser",
        "annotations": { "list": [] },
        "links": [{
            "type": "dashboards", "title": "StreamGate", "tags": ["streamgate"], "asDropdown": true, "includeVars": true, "keepTime": true,
        }],
        "templating": { "list": variables(options) },
        "panels": place_panels(dashboard),
    });
    // Writing a document of texts and numbers does not fail.
    let text = serde_json::to_string_pretty(&sort_members(document)).unwrap_or_default();
    DashboardFile { name: format!("{}.json", dashboard.slug), text: text + "\n" }
}

fn variables(options: &RenderOptions) -> Value {
    let gateway = if options.base_url.is_empty() { GATEWAY_DEFAULT } else { &options.base_url };
    json!([
        { "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1 },
        {
            "type": "textbox", "name": "gateway", "label": "Gateway", "description": "Address to which links to runbooks lead",
            "query": gateway, "current": { "text": gateway, "value": gateway },
        },
    ])
}

/// Rows below each other, the panels of each from left to right.
fn place_panels(dashboard: &Dashboard) -> Vec<Value> {
    let (width, height) = PANEL_SIZE;
    let (mut placed, mut top) = (Vec::new(), 0);
    for row in &dashboard.rows {
        placed.push(json!({
            "type": "row", "id": placed.len() + 1, "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": top, "w": COLUMNS, "h": 1 },
        }));
        top += 1;
        for (at, panel) in row.panels.iter().enumerate() {
            let (column, line) = (at * width % COLUMNS, at * width / COLUMNS);
            let place = json!({ "x": column, "y": top + line * height, "w": width, "h": height });
            placed.push(to_json(panel, placed.len() + 1, &place));
        }
        top += (row.panels.len() * width).div_ceil(COLUMNS) * height;
    }
    placed
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn to_json(panel: &Panel, id: usize, place: &Value) -> Value {
    let targets: Vec<Value> = ('A'..)
        .zip(&panel.targets)
        .map(|(letter, target)| {
            let is_newest = panel.kind != PanelKind::Lines;
            json!({
                "refId": letter.to_string(),
                "datasource": data_source(),
                "expr": target.expression,
                "legendFormat": target.legend,
                "exemplar": target.has_exemplars,
                "instant": is_newest,
                "range": !is_newest,
                "format": if panel.kind == PanelKind::Table { "table" } else { "time_series" },
            })
        })
        .collect();
    let link = |alert: &&str| {
        let url = format!("${{gateway:raw}}{}", runbook::runbook_path(alert));
        json!({ "title": format!("Runbook {alert}"), "url": url, "targetBlank": true })
    };
    json!({
        "id": id,
        "type": panel.kind.name(),
        "title": panel.title,
        "description": panel.about,
        "datasource": data_source(),
        "gridPos": place,
        "targets": targets,
        "links": panel.alerts.iter().map(link).collect::<Vec<_>>(),
        "fieldConfig": { "defaults": field_defaults(panel), "overrides": field_overrides(panel.kind) },
        "options": display_options(panel.kind),
    })
}

fn field_defaults(panel: &Panel) -> Value {
    let mut steps = vec![json!({ "color": "green", "value": null })];
    steps.extend(panel.thresholds.iter().map(|value| json!({ "color": "red", "value": value })));
    let lines = if panel.thresholds.is_empty() { "off" } else { "line" };
    let custom = match panel.kind {
        PanelKind::Lines => {
            json!({ "lineWidth": 1, "fillOpacity": 5, "showPoints": "never", "thresholdsStyle": { "mode": lines } })
        }
        _ => json!({}),
    };
    json!({ "unit": panel.unit, "custom": custom, "thresholds": { "mode": "absolute", "steps": steps } })
}

/// In a table the name of an alert leads to its runbook.
fn field_overrides(kind: PanelKind) -> Value {
    let url = format!("${{gateway:raw}}{}", runbook::runbook_path("${__value.raw}"));
    let link = json!([{ "title": "Runbook", "url": url, "targetBlank": true }]);
    match kind {
        PanelKind::Table => json!([{
            "matcher": { "id": "byName", "options": "alertname" },
            "properties": [{ "id": "links", "value": link }],
        }]),
        _ => json!([]),
    }
}

fn display_options(kind: PanelKind) -> Value {
    match kind {
        PanelKind::Lines => json!({
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        PanelKind::Values => json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value" }),
        PanelKind::Table => json!({ "showHeader": true }),
    }
}

/// Members by name, whatever order the writer of JSON was built to keep: the files are compared byte by byte.
fn sort_members(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<(String, Value)> = members.into_iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted = sorted.into_iter().map(|(name, value)| (name, sort_members(value)));
            Value::Object(sorted.collect::<Map<String, Value>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sort_members).collect()),
        other => other,
    }
}
