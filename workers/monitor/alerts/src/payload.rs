//! The body of a webhook in the form of Alertmanager, version 4 (prometheus.io/docs/alerting/latest/configuration, `webhook_config`).

use std::collections::BTreeMap;

use schemas::alert::{AlertPhase, AlertState};
use serde_json::{Value, json};

use crate::{board, runbook};

/// What is said besides the alerts.
#[derive(Debug, Clone, Copy)]
pub struct PayloadContext<'a> {
    /// Name of the receiver.
    pub receiver: &'a str,
    /// Address of the gateway as receivers reach it, without a slash at its end; empty where there is none.
    pub base_url: &'a str,
}

/// The time that stands for "not over" (RFC 3339).
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The body for alerts of one rule, or of several. `format_time` makes RFC 3339 of a Unix time in milliseconds.
pub fn build_payload(
    alerts: &[AlertState],
    context: PayloadContext<'_>,
    format_time: impl Fn(u64) -> String,
) -> Value {
    let mut all_labels = Vec::new();
    let mut all_annotations = Vec::new();
    let mut items = Vec::new();
    for alert in alerts {
        let labels = board::all_labels(&alert.name, alert.severity.name(), &alert.labels);
        let path = runbook::runbook_path(&alert.name);
        let annotations = BTreeMap::from([
            ("summary".to_owned(), alert.summary.clone()),
            ("runbook_url".to_owned(), format!("{}{path}", context.base_url)),
        ]);
        let is_over = alert.phase == AlertPhase::Resolved;
        items.push(json!({
            "status": if is_over { "resolved" } else { "firing" },
            "labels": labels,
            "annotations": annotations,
            "startsAt": format_time(alert.fired_at_ms.unwrap_or(alert.since_ms)),
            "endsAt": alert.resolved_at_ms.map_or_else(|| NO_TIME.to_owned(), &format_time),
            "generatorURL": format!("{}/v1/monitor/alerts", context.base_url),
            "fingerprint": alert.alert_id,
        }));
        all_labels.push(labels);
        all_annotations.push(annotations);
    }
    let is_over = alerts.iter().all(|alert| alert.phase == AlertPhase::Resolved);
    let group = keep_common(&all_labels).remove("alertname").map(|name| ("alertname".to_owned(), name));
    let group_labels: BTreeMap<String, String> = group.into_iter().collect();
    let key: Vec<String> = group_labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{{}}}", key.join(", ")),
        "truncatedAlerts": 0,
        "status": if is_over { "resolved" } else { "firing" },
        "receiver": context.receiver,
        "groupLabels": group_labels,
        "commonLabels": keep_common(&all_labels),
        "commonAnnotations": keep_common(&all_annotations),
        "externalURL": context.base_url,
        "alerts": items,
    })
}

/// What all have in common.
fn keep_common(all: &[BTreeMap<String, String>]) -> BTreeMap<String, String> {
    let mut common = all.first().cloned().unwrap_or_default();
    common.retain(|name, value| all.iter().all(|one| one.get(name) == Some(value)));
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::alert::AlertSeverity;

    fn alert(stage: &str, phase: AlertPhase) -> AlertState {
        AlertState {
            alert_id: format!("{stage:0>16}"),
            name: "StreamGateDeadLetters".into(),
            severity: AlertSeverity::Ticket,
            labels: BTreeMap::from([("stage".into(), stage.into())]),
            phase,
            summary: format!("1 dead letters of {stage}"),
            value: 1.0,
            since_ms: 1,
            fired_at_ms: Some(2),
            resolved_at_ms: (phase == AlertPhase::Resolved).then_some(3),
            notified_at_ms: BTreeMap::new(),
        }
    }

    #[test]
    fn a_group_has_what_its_alerts_have_in_common() {
        let context = PayloadContext { receiver: "webhook-1", base_url: "https://media.example" };
        let alerts = [alert("index", AlertPhase::Firing), alert("upload", AlertPhase::Resolved)];
        let body = build_payload(&alerts, context, |ms| format!("t{ms}"));
        assert_eq!((body["version"].as_str(), body["status"].as_str()), (Some("4"), Some("firing")));
        assert_eq!(body["groupKey"], "{}:{alertname=\"StreamGateDeadLetters\"}");
        assert_eq!(
            body["commonLabels"],
            json!({ "alertname": "StreamGateDeadLetters", "severity": "ticket" })
        );
        assert_eq!(
            body["commonAnnotations"],
            json!({ "runbook_url": "https://media.example/docs/runbooks/StreamGateDeadLetters" })
        );
        assert_eq!(
            (body["alerts"][0]["endsAt"].as_str(), body["alerts"][1]["endsAt"].as_str()),
            (Some(NO_TIME), Some("t3"))
        );
        assert_eq!(body["alerts"][1]["status"], "resolved");
        let over = build_payload(&alerts[1..], context, |ms| format!("t{ms}"));
        assert_eq!(over["status"], "resolved");
    }
}
