//! `GET/PUT/DELETE /v1/media/{media_id}/gate`: the owner's rule. `POST /v1/auth/nft`: who owns what, at which block.
//!
//! A change names the version it changes (`If-Match`), so that no owner's change is lost. A rule is stored only when it can be
//! decided here: its chains are configured and its contracts have code.
//!
//! Limits: for bodies see [`web::body::Limits`], for rules [`gate::rule`].

mod change;
mod ownership;
#[cfg(test)]
mod tests;

use axum::{
    Router,
    routing::{get, post},
};
use nats::Bus;
use schemas::gate::Rule;

use crate::openapi;
use gate::judge::Judge;

/// What the routes need.
#[derive(Debug, Clone)]
pub struct State {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Decides, and knows the chains.
    pub judge: Judge,
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(change::show, change::put, change::delete, ownership::ask))]
pub(crate) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.ask::<Rule>();
        schemas.answer::<change::Document<'_>>();
        schemas.ask::<ownership::Question>();
        schemas.answer::<ownership::Answer>();
    }
}

/// The routes of gates. They expect [`auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: State) -> Router<S> {
    Router::new()
        .route("/v1/media/{media_id}/gate", get(change::show).put(change::put).delete(change::delete))
        .route("/v1/auth/nft", post(ownership::ask))
        .with_state(state)
}
