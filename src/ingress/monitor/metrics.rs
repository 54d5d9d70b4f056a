//! `GET /v1/monitor/metrics`: the metrics of all processes as JSON, as a monitor has them.
//!
//! Limits: the monitor has `MONITOR_WAIT` to answer; [`monitor_query::FAMILIES_MAX`] families a page.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    monitor_query::{self, MetricFamilyView, MetricPage, MetricQuery},
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

/// Families of a page unless the request says how many.
const FAMILIES_DEFAULT: u32 = 20;

/// Which families.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MetricFilter")]
pub(super) struct MetricFilter {
    /// Only families whose name begins so.
    #[serde(default)]
    #[schemars(length(max = 128), regex(pattern = "^[a-z0-9_]*$"))]
    prefix: String,
    /// Only families behind this name: `next` of the page before.
    #[serde(default)]
    #[schemars(length(max = 128), regex(pattern = "^[a-z0-9_]*$"))]
    behind: String,
    /// Most families.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = monitor_query::FAMILIES_MAX))]
    limit: u32,
}

openapi::query_parameters!(MetricFilter);

const fn default_limit() -> u32 {
    FAMILIES_DEFAULT
}

/// Families of metrics, by name.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MetricDocument", example = json!({
    "items": [{
        "name": "streamgate_ready", "kind": "gauge", "help": "1 when the process can do its work.",
        "samples": [{ "name": "streamgate_ready", "labels": { "role": "upload", "instance": "51b0c7e40a9d3f26" }, "value": "1" }],
        "omitted_samples": 0,
    }],
    "next": null,
}))]
pub(super) struct MetricDocument {
    /// The families.
    items: Vec<MetricFamilyView>,
    /// What `behind` is asked with next; null where nothing follows.
    next: Option<String>,
}

pub(super) static READ_METRICS: Operation = Operation::read(
    "/v1/monitor/metrics",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
);

/// Read what is counted
///
/// The same that `/metrics` of the monitor shows to Prometheus: the metrics of all processes, by family and page by page. For operators and
/// admins.
#[utoipa::path(
    get,
    path = READ_METRICS.path,
    tag = "monitor",
    operation_id = "read_monitor_metrics",
    params(MetricFilter),
    responses((status = 200, description = "The families", body = ref("#/components/schemas/MetricDocument"))),
)]
pub(super) async fn read_metrics(
    State(app): State<AppState>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<MetricFilter>,
) -> Result<Json<MetricDocument>, Problem> {
    who.require_operator("metrics are about everybody")?;
    let MetricFilter { prefix, behind, limit } = wanted;
    let is_name =
        |text: &str| text.len() <= 128 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !is_name(&prefix) || !is_name(&behind) || !(1..=monitor_query::FAMILIES_MAX).contains(&limit) {
        let detail =
            "names of families have letters from a to z, digits and `_`, and a page has 1 to 50 of them";
        return Err(Problem::new(ProblemCode::QueryMalformed).with_detail(detail));
    }
    let question = MetricQuery { prefix, behind, limit };
    let MetricPage { families, next } = ask_monitor(&app.bus, monitor_query::METRICS, &question).await?;
    Ok(Json(MetricDocument { items: families, next }))
}
