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
    problem_code::ProblemCode,
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
    /// The monitor that is asked: `monitor` of the page before, whose numbers are its own. Where it is gone, leave both out.
    #[serde(default)]
    #[schemars(length(min = 16, max = 16), regex(pattern = "^[0-9a-f]*$"))]
    monitor: Option<String>,
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

fn monitor_gone() -> Problem {
    Problem::not_found("the monitor that numbered these lines is gone: leave `behind` and `monitor` out")
}

/// Refuses texts that name nothing.
fn check_texts(wanted: &LogFilter) -> Result<(), Problem> {
    let LogFilter { role, instance, target, request_id, media_id, job_id, trace_id, limit, .. } = wanted;
    if !(1..=monitor_query::LINES_MAX).contains(limit) {
        let problem = Problem::new(ProblemCode::QueryMalformed);
        return Err(problem.with_detail(format!("`limit` is 1 to {}", monitor_query::LINES_MAX)));
    }
    let texts = [
        ("role", role, 64),
        ("instance", instance, 64),
        ("target", target, 128),
        ("request_id", request_id, 64),
        ("media_id", media_id, 64),
        ("job_id", job_id, 64),
        ("trace_id", trace_id, 64),
    ];
    for (name, text, length_max) in texts {
        let is_odd = |text: &String| {
            !(1..=length_max).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic())
        };
        if text.as_ref().is_some_and(is_odd) {
            let detail = format!("`{name}` has 1 to {length_max} letters, digits and signs");
            return Err(Problem::new(ProblemCode::QueryMalformed).with_detail(detail));
        }
    }
    Ok(())
}

fn is_monitor_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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
    responses(
        (status = 200, description = "The lines", body = ref("#/components/schemas/LogDocument")),
        (status = 404, description = "The monitor that numbered them is gone"),
    ),
)]
pub(super) async fn read_logs(
    State(app): State<AppState>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<LogFilter>,
) -> Result<Json<LogDocument>, Problem> {
    who.require_operator("the log is about everybody")?;
    check_texts(&wanted)?;
    let LogFilter {
        behind,
        monitor,
        severity,
        role,
        instance,
        target,
        request_id,
        media_id,
        job_id,
        trace_id,
        limit,
    } = wanted;
    let fields =
        [("request.id", request_id), ("media.id", media_id), ("job.id", job_id), ("trace_id", trace_id)];
    let fields: BTreeMap<String, String> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let question = LogQuery { behind, severity_min: severity, role, instance, target, fields, limit };
    let is_named = monitor.is_some();
    let verb = match monitor {
        Some(monitor) if is_monitor_name(&monitor) => monitor_query::logs_of_verb(&monitor),
        Some(_) => {
            let problem = Problem::new(ProblemCode::QueryMalformed);
            return Err(problem.with_detail("`monitor` is that of the page before: 16 digits"));
        }
        None => monitor_query::LOGS.to_owned(),
    };
    let asked = ask_monitor(&app.bus, &verb, &question).await;
    let asked = asked.map_err(|problem| if is_named { monitor_gone() } else { problem });
    let LogPage { lines, last, monitor, lost } = asked?;
    Ok(Json(LogDocument { items: lines, next: last, monitor, lost }))
}
