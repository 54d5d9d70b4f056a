//! `GET/PUT/DELETE /v1/media/{media_id}/gate`: the owner's rule. `POST /v1/auth/nft`: who owns what, at which block.
//!
//! A change names the version it changes (`If-Match`), so that no owner's change is lost. A rule is stored only when it can be
//! decided here: its chains are configured and its contracts have code.
//!
//! Limits: for bodies see [`web::body::BodyLimits`], for rules [`gate::rule`].

mod change;
mod ownership;
#[cfg(test)]
mod tests;

use axum::{
    Router,
    routing::{get, post},
};
use nats::Bus;
use schemas::gate::GateRule;

use crate::openapi;
use gate::gate_evaluator::GateEvaluator;

/// What the routes need.
#[derive(Debug, Clone)]
pub struct GateApiState {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Decides, and knows the chains.
    pub judge: GateEvaluator,
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(change::read_gate, change::set_gate, change::remove_gate, ownership::check_ownership))]
pub(crate) struct GatesApiDoc;

impl openapi::OperationGroup for GatesApiDoc {
    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<GateRule>();
        schemas.add_response::<change::GateDocument<'_>>();
        schemas.add_request::<ownership::OwnershipQuestion>();
        schemas.add_response::<ownership::OwnershipAnswer>();
    }
}

/// The routes of gates. They expect [`auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: GateApiState) -> Router<S> {
    Router::new()
        .route(
            "/v1/media/{media_id}/gate",
            get(change::read_gate).put(change::set_gate).delete(change::remove_gate),
        )
        .route("/v1/auth/nft", post(ownership::check_ownership))
        .with_state(state)
}
