//! HTTP: a thin layer that puts bytes into the store, state and events onto the bus, and reads back.
//!
//! Every mutating route lies behind [`crate::auth::require`]; only probes, sign-in, the watch page and `/play` (whose path token is the
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
    /// Sign-in.
    pub sign_in: auth::SignIn,
}

impl App {
    /// Everything handlers share.
    ///
    /// # Errors
    /// When the signing key can be neither read nor made.
    pub async fn build(bus: Bus, store: Store, config: Config, auth: auth::Config) -> anyhow::Result<Self> {
        let signing_key = auth::signing_key(&bus, "playback").await?.into();
        let auth = auth.at(config.public_url.as_deref(), config.listen);
        let sign_in = auth::SignIn::open(bus.clone(), auth, None).await?;
        let uploads = uploads::State::new(
            bus.clone(),
            store.clone(),
            config.uploads.clone(),
            config.public_url.clone(),
        );
        Ok(Self { bus, store, config: Arc::new(config), signing_key, uploads, sign_in })
    }

    /// What runs beside the requests, until `shutdown`.
    ///
    /// # Errors
    /// When the broker does not take a subscription.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (uploads, sign_in) = tokio::join!(self.uploads.run(shutdown.clone()), self.sign_in.run(shutdown));
        Ok(uploads.and(sign_in)?)
    }
}

/// The public router.
pub fn router(app: App) -> Router {
    let guarded = Router::new()
        .merge(uploads::router(app.uploads.clone()))
        .route_layer(middleware::from_fn_with_state(app.sign_in.clone(), auth::require));
    Router::new()
        .merge(guarded)
        .merge(auth::routes::router(app.sign_in.clone()))
        .merge(watch::router())
        .merge(probes::router())
        .fallback(request::no_such_path)
        .method_not_allowed_fallback(request::no_such_method)
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn(request::identify))
        .with_state(app)
}
