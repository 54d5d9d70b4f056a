//! `GET /v1/monitor/logs`: what the processes logged in the last quarter of an hour, as a monitor has it.
//!
//! Limits: the monitor has `MONITOR_WAIT` to answer; [`monitor_query::LINES_MAX`] lines a page.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    monitor_query::{self, KeptLine, LogPage, LogQuery},
    process_report::LogSeverity,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ask_monitor;
use crate::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    query::QueryParameters,
};

/// Lines of a page unless the request says how many.
const LINES_DEFAULT: u32 = 100;

/// Which lines.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LogFilter")]
pub(super) struct LogFilter {
    /// Only lines behind this number, oldest first: `next` of the page before. Without it the newest lines come.
    #[serde(default)]
    behind: Option<u64>,
    /// Only lines at least that bad.
    #[serde(default)]
    severity: Option<LogSeverity>,
    /// Only of processes that speak under this role.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    role: Option<String>,
    /// Only of this process.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    instance: Option<String>,
    /// Only of modules whose name begins so.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[\\x21-\\x7e]*$"))]
    target: Option<String>,
    /// Only what was logged for this request.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    request_id: Option<String>,
    /// Only what was logged about this medium.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    media_id: Option<String>,
    /// Only what was logged about this job.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    job_id: Option<String>,
    /// Only what was logged in this trace.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[\\x21-\\x7e]*$"))]
    trace_id: Option<String>,
    /// Most lines.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = monitor_query::LINES_MAX))]
    limit: u32,
}

openapi::query_parameters!(LogFilter);

const fn default_limit() -> u32 {
    LINES_DEFAULT
}

/// Lines, oldest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LogDocument", example = json!({
    "items": [{
        "number": 17, "role": "upload", "instance": "51b0c7e40a9d3f26",
        "line": {
            "at_ms": 1_763_900_814_467_u64, "severity": "warn", "target": "upload::verify", "message": "a file was rejected",
            "fields": { "media.id": "06db00820dt0303jc5mn0r355k" },
        },
    }],
    "next": 17, "monitor": "9a0d3f2651b0c7e4", "lost": 0,
}))]
pub(super) struct LogDocument {
    /// The lines.
    items: Vec<KeptLine>,
    /// What `behind` is asked with next.
    next: u64,
    /// Names the monitor that answered: another one numbers lines anew.
    monitor: String,
    /// Lines that went before they were asked for.
    lost: u64,
}

pub(super) static READ_LOGS: Operation = Operation::read(
    "/v1/monitor/logs",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
);

/// Read what was logged
///
/// Lines of all processes, of the last quarter of an hour and 16 MiB at most: the newest, or those behind a number. At most a hundred
/// lines a second of each process are there; `GET /v1/monitor/health` says how many were left out. For operators and admins.
#[utoipa::path(
    get,
    path = READ_LOGS.path,
    tag = "monitor",
    operation_id = "read_logs",
    params(LogFilter),
    responses((status = 200, description = "The lines", body = ref("#/components/schemas/LogDocument"))),
)]
pub(super) async fn read_logs(
    State(app): State<AppState>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<LogFilter>,
) -> Result<Json<LogDocument>, Problem> {
    who.require_operator("the log is about everybody")?;
    let LogFilter { behind, severity, role, instance, target, request_id, media_id, job_id, trace_id, limit } =
        wanted;
    let fields =
        [("request.id", request_id), ("media.id", media_id), ("job.id", job_id), ("trace_id", trace_id)];
    let fields: BTreeMap<String, String> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let question = LogQuery { behind, severity_min: severity, role, instance, target, fields, limit };
    let LogPage { lines, last, monitor, lost } =
        ask_monitor(&app.bus, monitor_query::LOGS, &question).await?;
    Ok(Json(LogDocument { items: lines, next: last, monitor, lost }))
}
