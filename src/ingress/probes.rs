//! Probes and version: `/livez` says the process runs, `/readyz` that it can do its work, `/version` what it is.

use axum::{Json, Router, extract::State, routing::get};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{App, openapi};
use web::error::Problem;
use web::readiness;

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(live, ready, version))]
pub(super) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.answer::<Probe>();
        schemas.answer::<Version>();
    }
}

/// What a probe found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "status": "ready" }))]
struct Probe {
    /// `live` or `ready`.
    status: &'static str,
    /// Streams, buckets and disks for want of whose room nothing new is taken; what goes on does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    full: Vec<String>,
}

/// What runs here.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "name": "streamgate", "version": "0.1.0" }))]
struct Version {
    /// Name of the program.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// The routes.
pub fn router() -> Router<App> {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/version", get(version))
}

/// Does the process run?
#[utoipa::path(
    get,
    path = "/livez",
    tag = "api",
    operation_id = "live",
    responses((status = 200, description = "It does", body = ref("#/components/schemas/Probe"))),
)]
async fn live() -> Json<Probe> {
    Json(Probe { status: "live", full: Vec::new() })
}

/// Can it serve?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "api",
    operation_id = "ready",
    responses((status = 200, description = "It can", body = ref("#/components/schemas/Probe"))),
)]
async fn ready(State(app): State<App>) -> Result<Json<Probe>, Problem> {
    readiness::check(app.bus.health())?;
    Ok(Json(Probe { status: "ready", full: app.capacity.full() }))
}

/// What is it?
#[utoipa::path(
    get,
    path = "/version",
    tag = "api",
    operation_id = "version",
    responses((status = 200, description = "Name and version", body = ref("#/components/schemas/Version"))),
)]
async fn version() -> Json<Version> {
    Json(Version { name: "streamgate", version: env!("CARGO_PKG_VERSION") })
}
