//! Probes and version: `/livez` says the process runs, `/readyz` that it can serve, `/version` what it is.

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};

use super::{App, error::Problem};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(live, ready, version))]
pub(super) struct Described;

/// The routes.
pub fn router() -> Router<App> {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/version", get(version))
}

/// Does the process run?
#[utoipa::path(get, path = "/livez", tag = "api", responses((status = 200, description = "It does", body = Object)))]
async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// Can it serve?
#[utoipa::path(get, path = "/readyz", tag = "api", responses((status = 200, description = "It can", body = Object)))]
async fn ready(State(app): State<App>) -> Result<Json<Value>, Problem> {
    // A leader read is what every request needs first.
    app.bus.read("secrets", "playback").await?;
    app.store.probe().await.map_err(|error| Problem::unavailable(&error))?;
    Ok(Json(json!({ "status": "ready" })))
}

/// What is it?
#[utoipa::path(get, path = "/version", tag = "api", responses((status = 200, description = "Name and version", body = Object)))]
async fn version() -> Json<Value> {
    Json(json!({ "name": "streamgate", "version": env!("CARGO_PKG_VERSION") }))
}
