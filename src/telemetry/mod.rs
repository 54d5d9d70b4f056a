//! Logs, probes, metrics and traces of a process.
//!
//! Talk goes to stderr, data to stdout. Every role answers `/livez`, `/readyz` and `/metrics` on the admin address, which is
//! loopback unless set otherwise.

pub mod export;
pub mod log_filter;
mod log_format;
mod otlp;
pub mod tracing_config;

use std::{fmt, io::IsTerminal, net::SocketAddr, time::Duration};

use axum::{Router, extract::State, http::HeaderMap, response::Response, routing::get};
use nats::{
    ProcessHealth,
    metrics::{
        Collector, DescriptorEncoder, encode_gauge,
        labels::LogLevel,
        table::{CLOCK_OFFSET_SECONDS, LOG_RECORDS},
    },
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::explained::explain_listen_error;
use web::{error::Problem, readiness, registry::MetricsRegistry, serve};

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
pub fn init_logging(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry()
        .with(log_filter::make_layer(filter)?)
        .with(LogCounter)
        .with(crate::process_reports::LogCopy);
    match format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::stderr().is_terminal())
                    .event_format(log_format::TextLines::new(std::io::stderr().is_terminal())),
            )
            .try_init()?,
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
            registry.with(lines.event_format(log_format::JsonLines::new())).try_init()?;
        }
    }
    Ok(())
}

/// Counts the records that the filter lets pass.
struct LogCounter;

impl<S: tracing::Subscriber> Layer<S> for LogCounter {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN => LogLevel::Warn,
            tracing::Level::INFO => LogLevel::Info,
            _ => return,
        };
        LOG_RECORDS.increment(level);
    }
}

/// How far the clock of this host is from the broker's, as a metric.
#[derive(Debug)]
pub struct ClockMetrics;

impl Collector for ClockMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_gauge(&mut encoder, &CLOCK_OFFSET_SECONDS, offset_seconds(nats::clock_offset_ms()))
    }
}

/// Whole milliseconds below 2^53 as seconds, exact to a millisecond.
#[expect(clippy::cast_precision_loss, reason = "an offset of 285,000 years")]
fn offset_seconds(offset_ms: i64) -> f64 {
    offset_ms as f64 / 1_000.0
}

#[derive(Clone)]
struct AdminState {
    health: ProcessHealth,
    metrics: MetricsRegistry,
}

/// Serves probes and metrics on `listen` until `shutdown`.
///
/// # Errors
/// When the address can't be bound.
pub async fn serve_admin(
    listen: SocketAddr,
    health: ProcessHealth,
    metrics: MetricsRegistry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| explain_listen_error("admin_listen", "--admin-listen", listen, error))?;
    tracing::info!(address = %listener.local_addr()?, "probes and metrics");
    let router = Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(read_readiness))
        .route("/metrics", get(read_metrics))
        .fallback(web::request::no_such_path)
        .with_state(AdminState { health, metrics });
    serve::serve_connections(listener, router, shutdown, Duration::from_secs(1)).await;
    Ok(())
}

async fn read_readiness(State(admin): State<AdminState>) -> Result<&'static str, Problem> {
    readiness::check_readiness(&admin.health)?;
    Ok("ready\n")
}

async fn read_metrics(State(admin): State<AdminState>, headers: HeaderMap) -> Response {
    admin.metrics.respond(&headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_is_measured_in_seconds() {
        for (offset_ms, wanted) in [(0, 0.0), (2_050, 2.05), (-600_001, -600.001)] {
            assert!((offset_seconds(offset_ms) - wanted).abs() < 1e-9, "{offset_ms}");
        }
        let text = nats::metrics::render_collector(ClockMetrics);
        assert!(text.contains("\nstreamgate_clock_offset_seconds 0.0\n"), "{text}");
    }
}
