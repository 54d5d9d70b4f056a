//! HTTP: a thin layer that puts bytes into the store, state and events onto the bus, and reads back.
//!
//! Every mutating route lies behind [`crate::auth::require`]; only probes, the watch page and `/play` (whose path token is the
//! right) are open. By-id reads come from KV, so one's own writes are always seen; lists come from the index.
//!
//! Limits: see [`serve`] for connections, [`Config`] for bodies and waits.

pub mod error;
pub mod probes;
pub mod request;
pub mod serve;
pub mod watch;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, middleware};
use nats::Bus;
use serde::{Deserialize, Serialize};
use store::Store;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth;
pub use crate::auth::Principal;

/// Settings of the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the public port.
    pub listen: SocketAddr,
    /// Address people reach it by, when it is not the request's own host: `https://media.example.org`.
    pub public_url: Option<String>,
    /// Largest JSON body in bytes.
    pub json_bytes_max: usize,
    /// How long open requests may go on after a stop was asked for, in milliseconds.
    pub grace_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            json_bytes_max: 256 * 1024,
            grace_ms: 8_000,
        }
    }
}

/// What handlers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Where the bytes are.
    pub store: Store,
    /// Settings.
    pub config: Arc<Config>,
    /// Signs path tokens; the same on every replica.
    pub signing_key: Arc<[u8]>,
}

/// The public router.
pub fn router(app: App) -> Router {
    let guarded = Router::new().route_layer(middleware::from_fn_with_state(app.bus.clone(), auth::require));
    Router::new()
        .merge(guarded)
        .merge(watch::router())
        .merge(probes::router())
        .fallback(request::no_such_path)
        .method_not_allowed_fallback(request::no_such_method)
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn(request::identify))
        .with_state(app)
}
