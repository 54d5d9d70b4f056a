//! The metrics of this process, for operators; probes and scrapers of the same host have them on the admin address.

use axum::{extract::State, http::HeaderMap, response::Response};
use schemas::access::ApiKeyScope;

use super::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_metrics))]
pub(super) struct MetricsApiDoc;

impl openapi::OperationGroup for MetricsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(_: &mut openapi::SchemaCollector) {}
}

/// The route.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&READ_METRICS, read_metrics)
}

static READ_METRICS: Operation = Operation::read(
    "/metrics",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
)
.with_any_query();

/// Read the metrics of this replica
///
/// What it counts, and of `streamgate up` all that the monitor knows: OpenMetrics to who names it in `Accept`, else the text format of
/// Prometheus. `METRICS.md` lists all families.
#[utoipa::path(
    get,
    path = READ_METRICS.path,
    tag = "api",
    operation_id = "read_metrics",
    responses(
        (status = 200, description = "The metrics", content(
            (String = "text/plain"), (String = "application/openmetrics-text"),
        )),
        (status = 403, description = "For operators and admins only"),
    ),
)]
async fn read_metrics(
    State(app): State<AppState>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    who.require_operator("the metrics are about everybody")?;
    Ok(app.metrics.respond(&headers).await)
}
