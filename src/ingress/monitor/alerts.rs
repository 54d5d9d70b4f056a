//! Alerts: what is pending and what fires, and keeping an alert quiet or saying that somebody looks at it.
//!
//! Limits: [`schemas::alert::MARKS_MAX`] silences and as many acknowledgements at a time, of [`schemas::alert::MARK_MS_MAX`] each.

use std::collections::BTreeMap;

use ::alerts::{RuleSet, runbook_path};
use axum::{
    Json,
    extract::{Path, State},
    http::Method,
};
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{
    BusEvent, KvRecord as _,
    access::ApiKeyScope,
    alert::{
        AlertAcknowledged, AlertBoard, AlertMark, AlertPhase, AlertSeverity, AlertSilenced, AlertState,
        MARK_MS_MAX, MARKS_MAX, REASON_CHARS_MAX,
    },
    ids::RequestId,
    job::JobRecord,
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::AppState;
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// How old the last word of a monitor may be, in milliseconds: there is one at least every minute.
const STALE_AGE_MS: u64 = 180_000;

/// One alert, as people see it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub(super) struct AlertDocument {
    /// Its id: 16 hexadecimal digits.
    alert_id: String,
    /// The rule.
    name: String,
    /// How urgent it is.
    severity: AlertSeverity,
    /// What it is about.
    labels: BTreeMap<String, String>,
    /// Where it is.
    phase: AlertPhase,
    /// What is wrong.
    summary: String,
    /// What was measured when the phase began.
    value: f64,
    /// Unix time in milliseconds since when the condition holds.
    since_ms: u64,
    /// Unix time in milliseconds at which it began to fire; null while it is pending.
    fired_at_ms: Option<u64>,
    /// Unix time in milliseconds at which it was over; null before.
    resolved_at_ms: Option<u64>,
    /// What keeps it from receivers; null where nothing does.
    silence: Option<AlertMarkDocument>,
    /// Who looks at it; null where nobody said so.
    acknowledgement: Option<AlertMarkDocument>,
    /// Path of what to do about it.
    runbook_path: String,
}

/// A silence or an acknowledgement.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AlertMark", example = json!({
    "alert": "StreamGateStreamFilling", "made_at_ms": 1_763_900_814_467_u64, "until_ms": 1_763_908_014_467_u64, "made_by": "admin", "reason": "the disk is being replaced",
}))]
pub(super) struct AlertMarkDocument {
    /// The name of a rule, or the id of an alert.
    alert: String,
    /// Unix time in milliseconds at which it was made.
    made_at_ms: u64,
    /// Unix time in milliseconds at which it ends.
    until_ms: u64,
    /// The account of the person.
    made_by: String,
    /// Why; null where nobody said.
    reason: Option<String>,
}

impl AlertMarkDocument {
    fn new(alert: &str, mark: &AlertMark) -> Self {
        let AlertMark { made_at_ms, until_ms, made_by, reason } = mark.clone();
        Self { alert: alert.to_owned(), made_at_ms, until_ms, made_by, reason }
    }
}

/// All alerts.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AlertList", example = json!({
    "evaluated_at_ms": 1_763_900_814_467_u64, "is_stale": false, "items": [], "silences": [], "omitted_count": 0, "prometheus_rules": [],
}))]
pub(super) struct AlertList {
    /// Unix time in milliseconds of the last word of a monitor, which comes at least every minute; 0 when there was none.
    evaluated_at_ms: u64,
    /// Whether that is more than three minutes ago by the broker's clock, or there was none: no monitor evaluates, and what is listed
    /// is old.
    is_stale: bool,
    /// What fires first, then what is pending, then what is over and not yet known to all receivers; each by name.
    items: Vec<AlertDocument>,
    /// All silences, also of what does not fire now.
    silences: Vec<AlertMarkDocument>,
    /// Alerts for which there was no place.
    omitted_count: u64,
    /// Rules that Prometheus alone evaluates, since their windows are longer than an hour: name and window.
    prometheus_rules: Vec<String>,
}

fn to_document(board: &AlertBoard, alert: &AlertState, now_ms: u64) -> AlertDocument {
    let mark = |found: Option<(&str, &AlertMark)>| found.map(|(key, mark)| AlertMarkDocument::new(key, mark));
    let AlertState { alert_id, name, severity, labels, phase, summary, value, .. } = alert.clone();
    AlertDocument {
        runbook_path: runbook_path(&name),
        alert_id,
        name,
        severity,
        labels,
        phase,
        summary,
        value,
        since_ms: alert.since_ms,
        fired_at_ms: alert.fired_at_ms.filter(|_| alert.phase != AlertPhase::Pending),
        resolved_at_ms: alert.resolved_at_ms,
        silence: mark(board.find_silence(alert, now_ms)),
        acknowledgement: mark(board.find_acknowledgement(alert, now_ms)),
    }
}

pub(super) static LIST_ALERTS: Operation = Operation::read(
    "/v1/monitor/alerts",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
);

/// List alerts
///
/// What fires and what is about to, with silences and acknowledgements, as the monitor evaluates it; `runbook_path` leads to what to do.
/// For operators and admins.
#[utoipa::path(
    get,
    path = LIST_ALERTS.path,
    tag = "monitor",
    operation_id = "list_alerts",
    responses((status = 200, description = "All of them", body = ref("#/components/schemas/AlertList"))),
)]
pub(super) async fn list_alerts(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<AlertList>, Problem> {
    who.require_operator("alerts are about everybody")?;
    let found = app.bus.load_record::<AlertBoard>(AlertBoard::KEY).await?;
    let board = found.map(|held| held.record).unwrap_or_default();
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let place = |alert: &AlertState| match alert.phase {
        AlertPhase::Firing => 0,
        AlertPhase::Pending => 1,
        AlertPhase::Resolved => 2,
    };
    let mut sorted: Vec<&AlertState> = board.alerts.iter().collect();
    sorted.sort_by_key(|alert| place(alert));
    let ended = |mark: &AlertMark| mark.until_ms <= now_ms;
    let silences = board.silences.iter().filter(|(_, mark)| !ended(mark));
    Ok(Json(AlertList {
        evaluated_at_ms: board.evaluated_at_ms,
        is_stale: now_ms.saturating_sub(board.evaluated_at_ms) > STALE_AGE_MS,
        items: sorted.into_iter().map(|alert| to_document(&board, alert, now_ms)).collect(),
        silences: silences.map(|(alert, mark)| AlertMarkDocument::new(alert, mark)).collect(),
        omitted_count: board.omitted_count,
        prometheus_rules: prometheus_rules(),
    }))
}

/// Rules that no monitor evaluates.
fn prometheus_rules() -> Vec<String> {
    let rules = RuleSet::built_in().map(|set| set.rules).unwrap_or_default();
    let left = rules.iter().filter(|rule| !rule.is_evaluated());
    let window = |rule: &::alerts::AlertRule| rule.own_labels().remove("window").unwrap_or_default();
    left.map(|rule| format!("{} {}", rule.name, window(rule))).collect()
}

/// For how long, and why.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AlertMarkRequest", example = json!({ "for_ms": 7_200_000, "reason": "the disk is being replaced" }))]
pub(super) struct AlertMarkRequest {
    /// For how long from now on, in milliseconds; 0 takes back what is there.
    #[schemars(range(max = MARK_MS_MAX))]
    for_ms: u64,
    /// Why, for people.
    #[serde(default)]
    #[schemars(length(min = 1, max = REASON_CHARS_MAX), regex(pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$"))]
    reason: Option<String>,
}

pub(super) static SILENCE_ALERT: Operation = Operation::change(
    Method::POST,
    "/v1/monitor/alerts/{alert}/silence",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
    &["alert.silenced"],
);

/// Silence an alert
///
/// No receiver is informed of it for a while: of one alert by its id, or of all of a rule by its name, also before it fires. It is
/// evaluated and listed as before, and its events say that it is silenced. Prometheus and its Alertmanager know nothing of it. For admins.
#[utoipa::path(
    post,
    path = SILENCE_ALERT.path,
    tag = "monitor",
    operation_id = "silence_alert",
    params(("alert", Path)),
    request_body(content = ref("#/components/schemas/AlertMarkRequest"), content_type = "application/json"),
    responses(
        (status = 200, description = "It is silenced, or not any more", body = ref("#/components/schemas/AlertMark")),
        (status = 409, description = "As many are silenced as may be"),
    ),
)]
pub(super) async fn silence_alert(
    State(app): State<AppState>,
    Path(alert): Path<String>,
    who: Principal,
    JsonBody(wanted): JsonBody<AlertMarkRequest>,
) -> Result<Json<AlertMarkDocument>, Problem> {
    who.require_operator("alerts are about everybody")?;
    let mark = make_mark(&app, &who, wanted).await?;
    let event = AlertSilenced {
        request_id: RequestId::from_bytes(nats::new_id_bytes()),
        alert: alert.clone(),
        until_ms: mark.until_ms,
        silenced_by: mark.made_by.clone(),
        reason: mark.reason.clone(),
    };
    change_marks(&app, (&alert, &mark), |board| &mut board.silences, &event).await?;
    tracing::info!(alert, until_ms = mark.until_ms, by = who.owner, "an alert is silenced");
    Ok(Json(AlertMarkDocument::new(&alert, &mark)))
}

pub(super) static ACKNOWLEDGE_ALERT: Operation = Operation::change(
    Method::POST,
    "/v1/monitor/alerts/{alert}/acknowledge",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
    &["alert.acknowledged"],
);

/// Acknowledge an alert
///
/// Somebody looks at what fires: receivers are not reminded of it for a while. That it is over they learn, and when it begins again, too.
/// For admins.
#[utoipa::path(
    post,
    path = ACKNOWLEDGE_ALERT.path,
    tag = "monitor",
    operation_id = "acknowledge_alert",
    params(("alert", Path)),
    request_body(content = ref("#/components/schemas/AlertMarkRequest"), content_type = "application/json"),
    responses(
        (status = 200, description = "It is acknowledged, or not any more", body = ref("#/components/schemas/AlertMark")),
        (status = 409, description = "As many are acknowledged as may be"),
    ),
)]
pub(super) async fn acknowledge_alert(
    State(app): State<AppState>,
    Path(alert): Path<String>,
    who: Principal,
    JsonBody(wanted): JsonBody<AlertMarkRequest>,
) -> Result<Json<AlertMarkDocument>, Problem> {
    who.require_operator("alerts are about everybody")?;
    let mark = make_mark(&app, &who, wanted).await?;
    let event = AlertAcknowledged {
        request_id: RequestId::from_bytes(nats::new_id_bytes()),
        alert: alert.clone(),
        until_ms: mark.until_ms,
        acknowledged_by: mark.made_by.clone(),
        reason: mark.reason.clone(),
    };
    change_marks(&app, (&alert, &mark), |board| &mut board.acknowledgements, &event).await?;
    tracing::info!(alert, until_ms = mark.until_ms, by = who.owner, "an alert is acknowledged");
    Ok(Json(AlertMarkDocument::new(&alert, &mark)))
}

/// What is asked for, by the broker's clock.
async fn make_mark(app: &AppState, who: &Principal, wanted: AlertMarkRequest) -> Result<AlertMark, Problem> {
    let invalid = |pointer: &'static str, detail: String| {
        Problem::new(ProblemCode::RequestInvalid).with_pointer(pointer, detail)
    };
    if wanted.for_ms > MARK_MS_MAX {
        return Err(invalid("/for_ms", format!("at most {MARK_MS_MAX} milliseconds, which are 30 days")));
    }
    let is_reason = |reason: &String| {
        (1..=REASON_CHARS_MAX).contains(&reason.chars().count()) && !reason.chars().any(char::is_control)
    };
    if wanted.reason.as_ref().is_some_and(|reason| !is_reason(reason)) {
        let detail = format!("1 to {REASON_CHARS_MAX} characters, none of them a control character");
        return Err(invalid("/reason", detail));
    }
    let made_at_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let until_ms = made_at_ms.saturating_add(wanted.for_ms);
    Ok(AlertMark { made_at_ms, until_ms, made_by: who.owner.clone(), reason: wanted.reason })
}

/// Sets or takes back the mark of an alert among those of its kind.
async fn change_marks<E: BusEvent>(
    app: &AppState,
    (alert, mark): (&str, &AlertMark),
    marks_of: fn(&mut AlertBoard) -> &mut BTreeMap<String, AlertMark>,
    event: &E,
) -> Result<(), Problem> {
    let is_rule = RuleSet::built_in().is_ok_and(|set| set.names().contains(alert));
    let (mut is_known, mut has_room) = (is_rule, true);
    let change = |found: Option<&AlertBoard>| {
        let mut board = found.cloned().unwrap_or_default();
        is_known = is_rule || board.alerts.iter().any(|known| known.alert_id == alert);
        board.drop_ended_marks(mark.made_at_ms);
        let marks = marks_of(&mut board);
        has_room = marks.contains_key(alert) || marks.len() < MARKS_MAX;
        if !is_known || !has_room {
            return None;
        }
        if mark.until_ms > mark.made_at_ms {
            marks.insert(alert.to_owned(), mark.clone());
        } else {
            marks.remove(alert);
        }
        Some((board, Outbox::new().with_event(event)))
    };
    app.bus.change_record::<AlertBoard>(AlertBoard::KEY, change).await?;
    if !is_known {
        return Err(Problem::not_found("there is no such alert; `GET /v1/monitor/alerts` lists them"));
    }
    if !has_room {
        let detail = format!("{MARKS_MAX} are marked so; take some back, or wait until they end");
        return Err(Problem::new(ProblemCode::AlertMarksTooMany).with_detail(detail));
    }
    Ok(())
}
