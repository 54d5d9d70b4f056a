//! The metrics of this process, for operators; probes and scrapers of the same host have them on the admin address.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, openapi};
use auth::Principal;
use web::error::Problem;
use web::registry;

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read))]
pub(super) struct Described;

impl openapi::Describe for Described {
    fn define(_: &mut openapi::Schemas) {}
}

/// The route.
pub fn router() -> Router<App> {
    Router::new().route("/metrics", get(read))
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
async fn read(State(app): State<App>, who: Principal) -> Result<Response, Problem> {
    who.operates("the metrics tell of everybody")?;
    Ok(([(header::CONTENT_TYPE, registry::METRICS_TYPE)], app.metrics.text()).into_response())
}
