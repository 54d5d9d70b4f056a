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
pub mod uploads;
pub mod watch;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, middleware};
use nats::Bus;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use crate::auth::Principal;
use crate::auth::{
    self,
    gate::{self, grant::Grants},
};

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
    /// Uploads.
    pub uploads: uploads::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            json_bytes_max: 256 * 1024,
            grace_ms: 8_000,
            uploads: uploads::Config::default(),
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
    /// Open uploads.
    pub uploads: uploads::State,
    /// Playback sessions.
    pub grants: Grants,
}

impl App {
    /// Everything handlers share.
    ///
    /// # Errors
    /// When the signing key can be neither read nor made.
    pub async fn build(bus: Bus, store: Store, grants: Grants, config: Config) -> anyhow::Result<Self> {
        let signing_key = auth::signing_key(&bus, "playback").await?.into();
        let uploads = uploads::State::new(
            bus.clone(),
            store.clone(),
            config.uploads.clone(),
            config.public_url.clone(),
        );
        Ok(Self { bus, store, config: Arc::new(config), signing_key, uploads, grants })
    }

    /// What runs beside the requests, until `shutdown`.
    ///
    /// # Errors
    /// When the broker does not take a subscription.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::try_join!(self.uploads.run(shutdown.clone()), self.grants.run(shutdown))?;
        Ok(())
    }
}

/// The public router.
pub fn router(app: App) -> Router {
    let gates = gate::http::State { bus: app.bus.clone(), judge: app.grants.judge().clone() };
    let guarded = Router::new()
        .merge(uploads::router(app.uploads.clone()))
        .merge(gate::http::router(gates))
        .route_layer(middleware::from_fn_with_state(app.bus.clone(), auth::require));
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
