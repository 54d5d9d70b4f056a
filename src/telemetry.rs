//! Logs, probes and metrics of a process.
//!
//! Talk goes to stderr, data to stdout. Every role answers `/livez`, `/readyz` and `/metrics` on the admin address, which is
//! loopback unless set otherwise.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use nats::Bus;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::ingress::{error::Problem, serve};

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line a record, for people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// What is logged unless something else is asked for; the broker client's own chatter is left out.
pub const FILTER: &str = "info,async_nats=warn";

/// Sends log records to stderr; `filter` is a level or a `tracing` directive such as `info,transcode=debug`.
///
/// # Errors
/// When `filter` is malformed or a subscriber is there already.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("the log filter {filter:?} is malformed"))?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal()),
            )
            .try_init()?,
        LogFormat::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()?;
        }
    }
    Ok(())
}

/// Writes the metrics of this process as OpenMetrics text.
pub type Encode = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Admin {
    bus: Bus,
    encode: Option<Encode>,
}

/// Serves probes and metrics on `listen` until `shutdown`.
///
/// # Errors
/// When the address can't be bound.
pub async fn admin(
    listen: SocketAddr,
    bus: Bus,
    encode: Option<Encode>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("admin_listen {listen}"))?;
    tracing::info!(address = %listener.local_addr()?, "probes and metrics");
    let router = Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(crate::ingress::request::no_such_path)
        .with_state(Admin { bus, encode });
    serve::serve(listener, router, shutdown, Duration::from_secs(1)).await;
    Ok(())
}

async fn ready(State(admin): State<Admin>) -> Result<&'static str, Problem> {
    if admin.bus.is_up() {
        Ok("ready\n")
    } else {
        Err(Problem::unavailable(&nats::Error::unavailable("the broker connection is down")))
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let text = admin.encode.map_or_else(|| "# EOF\n".to_owned(), |encode| encode());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
