//! Probes and version: `/livez` says the process runs, `/readyz` that it can do its work, `/version` what it is.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{AppState, openapi};
use web::readiness;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_liveness, read_readiness, read_version))]
pub(super) struct ProbesApiDoc;

impl openapi::OperationGroup for ProbesApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<ProbeDocument>();
        schemas.add_response::<VersionDocument>();
    }
}

/// What a probe found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "status": "ready" }))]
#[schemars(rename = "Probe")]
struct ProbeDocument {
    /// `live` or `ready`.
    status: &'static str,
    /// Streams, buckets and disks for want of whose room nothing new is taken; what goes on does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    full: Vec<String>,
}

/// What runs here.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "name": "streamgate", "version": "0.1.0" }))]
#[schemars(rename = "Version")]
struct VersionDocument {
    /// Name of the program.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&READ_LIVENESS, read_liveness)
        .with(&READ_READINESS, read_readiness)
        .with(&READ_VERSION, read_version)
}

static READ_LIVENESS: Operation = Operation::read("/livez", OperationAccess::Open, None).with_any_query();

/// Does the process run?
#[utoipa::path(
    get,
    path = READ_LIVENESS.path,
    tag = "api",
    operation_id = "live",
    responses((status = 200, description = "It does", body = ref("#/components/schemas/Probe"))),
)]
async fn read_liveness() -> Json<ProbeDocument> {
    Json(ProbeDocument { status: "live", full: Vec::new() })
}

static READ_READINESS: Operation =
    Operation::read("/readyz", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// Can it serve?
#[utoipa::path(
    get,
    path = READ_READINESS.path,
    tag = "api",
    operation_id = "ready",
    responses((status = 200, description = "It can", body = ref("#/components/schemas/Probe"))),
)]
async fn read_readiness(State(app): State<AppState>) -> Result<Json<ProbeDocument>, Problem> {
    readiness::check_readiness(app.bus.health())?;
    Ok(Json(ProbeDocument { status: "ready", full: app.capacity.full_limits() }))
}

static READ_VERSION: Operation =
    Operation::read("/version", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// What is it?
#[utoipa::path(
    get,
    path = READ_VERSION.path,
    tag = "api",
    operation_id = "version",
    responses((status = 200, description = "Name and version", body = ref("#/components/schemas/Version"))),
)]
async fn read_version() -> Json<VersionDocument> {
    Json(VersionDocument { name: "streamgate", version: env!("CARGO_PKG_VERSION") })
}
