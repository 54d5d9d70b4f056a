//! `GET` and `PUT /v1/monitor/logs/level`: what processes log is changed for a while, and by whom.
//!
//! Limits: those of [`schemas::log_level`]; processes take a change over within a few seconds.

use axum::{Json, extract::State, http::Method};
use nats::{Outbox, Role};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    ids::RequestId,
    log_level::{
        self, AdminLogLevelChanged, FILTER_BYTES_MAX, FOR_MS_DEFAULT, FOR_MS_MAX, LogLevelOverride,
        LogLevels, OVERRIDES_MAX, REASON_CHARS_MAX,
    },
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

/// What is changed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LogLevelList", example = json!({ "items": [] }))]
pub(super) struct LogLevelList {
    /// Filters that hold now. A process takes that for itself before that for its role, and that before the one for all.
    items: Vec<LogLevelOverride>,
}

pub(super) static LIST_LOG_LEVELS: Operation = Operation::read(
    "/v1/monitor/logs/level",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
);

/// List changed levels of the log
///
/// What processes log beside what is configured, until when, and who asked for it. For operators and admins.
#[utoipa::path(
    get,
    path = LIST_LOG_LEVELS.path,
    tag = "monitor",
    operation_id = "list_log_levels",
    responses((status = 200, description = "What is changed", body = ref("#/components/schemas/LogLevelList"))),
)]
pub(super) async fn list_log_levels(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<LogLevelList>, Problem> {
    who.require_operator("the log is about everybody")?;
    let found = app.bus.load_record::<LogLevels>(LogLevels::KEY).await?;
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(LogLevels::BUCKET)).await?;
    let levels = found.map(|held| held.record).unwrap_or_default();
    let items = levels.overrides.into_iter().filter(|one| one.holds_at(now_ms)).collect();
    Ok(Json(LogLevelList { items }))
}

/// What is logged, of whom, for how long, and why.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "LogLevelRequest",
    example = json!({ "filter": "debug", "role": "upload", "for_ms": 900_000, "reason": "files are rejected that play elsewhere" })
)]
pub(super) struct LogLevelRequest {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `upload=debug,nats::consume=trace`. They name modules of
    /// this program; what libraries log stays as it is configured. Not needed where `for_ms` is 0.
    #[serde(default)]
    #[schemars(length(min = 1, max = FILTER_BYTES_MAX))]
    filter: Option<String>,
    /// Only of processes that run this role, such as `upload`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z]*$"))]
    role: Option<String>,
    /// Only of this process, as `GET /v1/monitor/health` names it.
    #[serde(default)]
    #[schemars(length(min = 16, max = 16), regex(pattern = "^[0-9a-f]*$"))]
    instance: Option<String>,
    /// For how long from now on, in milliseconds: a quarter of an hour where nothing is said, a day at most. 0 takes back what is set for
    /// the same role or process, or for all.
    #[serde(default = "default_for_ms")]
    #[schemars(range(max = FOR_MS_MAX))]
    for_ms: u64,
    /// Why, for people.
    #[serde(default)]
    #[schemars(length(min = 1, max = REASON_CHARS_MAX), regex(pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$"))]
    reason: Option<String>,
}

const fn default_for_ms() -> u64 {
    FOR_MS_DEFAULT
}

pub(super) static SET_LOG_LEVEL: Operation = Operation::change(
    Method::PUT,
    "/v1/monitor/logs/level",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
    &["admin.log_level_changed"],
);

/// Change the level of the log for a while
///
/// All processes, those of a role, or one process log more, or less, until the time is over; then what is configured holds again. Processes
/// that start meanwhile take it, too. A process that runs several roles has one log. For admins.
#[utoipa::path(
    put,
    path = SET_LOG_LEVEL.path,
    tag = "monitor",
    operation_id = "set_log_level",
    request_body(content = ref("#/components/schemas/LogLevelRequest"), content_type = "application/json"),
    responses(
        (status = 200, description = "What is changed now", body = ref("#/components/schemas/LogLevelList")),
        (status = 409, description = "As many filters hold as may be"),
        (status = 422, description = "The filter is none"),
    ),
)]
pub(super) async fn set_log_level(
    State(app): State<AppState>,
    who: Principal,
    JsonBody(wanted): JsonBody<LogLevelRequest>,
) -> Result<Json<LogLevelList>, Problem> {
    who.require_operator("the log is about everybody")?;
    let filter = check_request(&wanted)?;
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(LogLevels::BUCKET)).await?;
    let LogLevelRequest { role, instance, for_ms, reason, .. } = wanted;
    let until_ms = now_ms.saturating_add(for_ms);
    let event = AdminLogLevelChanged {
        request_id: RequestId::from_bytes(nats::new_id_bytes()),
        role: role.clone(),
        instance: instance.clone(),
        filter: (for_ms > 0).then(|| filter.clone()),
        until_ms,
        changed_by: who.owner.clone(),
        reason: reason.clone(),
    };
    let set_by = who.owner.clone();
    let change = LogLevelOverride { role, instance, filter, set_at_ms: now_ms, until_ms, set_by, reason };
    let mut has_place = true;
    let changed = app
        .bus
        .change_record::<LogLevels>(LogLevels::KEY, |found| {
            let mut levels = found.cloned().unwrap_or_default();
            has_place = levels.set(&change);
            has_place.then(|| (levels, Outbox::new().with_event(&event)))
        })
        .await?;
    if !has_place {
        let detail = format!("{OVERRIDES_MAX} filters hold; take some back, or wait until they end");
        return Err(Problem::new(ProblemCode::LogLevelsTooMany).with_detail(detail));
    }
    let AdminLogLevelChanged { role, instance, filter, .. } = event;
    tracing::info!(role, instance, filter, until_ms, by = who.owner, "an admin has changed what is logged");
    let items = changed.map(|held| held.record.overrides).unwrap_or_default();
    Ok(Json(LogLevelList { items }))
}

/// The filter that is asked for; empty where one is taken back.
fn check_request(wanted: &LogLevelRequest) -> Result<String, Problem> {
    let invalid = |pointer: &'static str, detail: String| {
        Err(Problem::new(ProblemCode::RequestInvalid).with_pointer(pointer, detail))
    };
    let LogLevelRequest { filter, role, instance, for_ms, reason } = wanted;
    if *for_ms > FOR_MS_MAX {
        return invalid("/for_ms", format!("at most {FOR_MS_MAX} milliseconds, which are a day"));
    }
    if let Some(role) = role.as_ref().filter(|role| !is_role(role)) {
        return invalid(
            "/role",
            format!("{role:?} is no role with processes; `GET /v1/monitor/health` lists those that run"),
        );
    }
    let is_instance =
        |text: &String| text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if instance.as_ref().is_some_and(|instance| !is_instance(instance)) {
        return invalid(
            "/instance",
            "16 hexadecimal digits, as `GET /v1/monitor/health` names a process".into(),
        );
    }
    if role.is_some() && instance.is_some() {
        return invalid("/instance", "name a role or a process, not both".into());
    }
    let is_reason = |reason: &String| {
        (1..=REASON_CHARS_MAX).contains(&reason.chars().count()) && !reason.chars().any(char::is_control)
    };
    if reason.as_ref().is_some_and(|reason| !is_reason(reason)) {
        let detail = format!("1 to {REASON_CHARS_MAX} characters, none of them a control character");
        return invalid("/reason", detail);
    }
    if *for_ms == 0 {
        return Ok(String::new());
    }
    let Some(filter) = filter else {
        return invalid("/filter", "needed: a level, or directives such as `upload=debug`".into());
    };
    log_level::parse_filter(filter).map_err(|error| {
        Problem::new(ProblemCode::LogFilterInvalid).with_pointer("/filter", error.to_string())
    })?;
    Ok(filter.clone())
}

fn is_role(text: &str) -> bool {
    let is_process = |role: &Role| !matches!(role, Role::Admin | Role::Reader);
    Role::ALL.iter().filter(|role| is_process(role)).any(|role| role.name() == text)
}
