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

pub(crate) use change::next_document;
use nats::Bus;
use schemas::gate::GateRule;

use crate::openapi;
use gate::gate_evaluator::GateEvaluator;
use web::operation::{Operation, OperationRouter};

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
    fn operations() -> Vec<&'static Operation> {
        operations().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<GateRule>();
        schemas.add_response::<change::GateDocument<'_>>();
        schemas.add_request::<ownership::OwnershipQuestion>();
        schemas.add_response::<ownership::OwnershipAnswer>();
    }
}

/// The routes of gates. They expect [`auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: GateApiState) -> OperationRouter<S> {
    operations().with_state(state)
}

fn operations() -> OperationRouter<GateApiState> {
    OperationRouter::default()
        .with(&change::READ_GATE, change::read_gate)
        .with(&change::SET_GATE, change::set_gate)
        .with(&change::REMOVE_GATE, change::remove_gate)
        .with(&ownership::CHECK_OWNERSHIP, ownership::check_ownership)
}
