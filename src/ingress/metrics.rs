//! The metrics of this process, for operators; probes and scrapers of the same host have them on the admin address.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{AppState, openapi};
use auth::Principal;
use web::error::Problem;
use web::registry;

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_metrics))]
pub(super) struct MetricsApiDoc;

impl openapi::OperationGroup for MetricsApiDoc {
    fn add_schemas(_: &mut openapi::SchemaCollector) {}
}

/// The route.
pub fn router() -> Router<AppState> {
    Router::new().route("/metrics", get(read_metrics))
}

/// Read the metrics of this replica
///
/// OpenMetrics text: limits and caches, and of `streamgate up` all that the monitor counts.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "api",
    operation_id = "read_metrics",
    responses(
        (status = 200, description = "The metrics", content_type = "application/openmetrics-text", body = String),
        (status = 403, description = "For operators and admins only"),
    ),
    security(("api_key" = [])),
)]
async fn read_metrics(State(app): State<AppState>, who: Principal) -> Result<Response, Problem> {
    who.require_operator("the metrics tell of everybody")?;
    Ok(([(header::CONTENT_TYPE, registry::METRICS_TYPE)], app.metrics.render_text()).into_response())
}
