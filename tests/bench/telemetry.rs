//! What telemetry costs: requests with traces against the same without, also while nobody takes the traces, and a scrape of all series.
//!
//! Each installation is `streamgate up` as people start it, with the sampling that it has unless its settings say otherwise.

use std::net::{SocketAddr, TcpListener};

use axum::{Router, http::StatusCode};

use crate::{
    Aim, Row,
    gate::by_turns,
    http::{Client, rate},
    median,
    process::resident_kb,
    server::Server,
};

/// Rounds of requests to either side.
const ROUNDS: usize = 81;
/// Scrapes.
const SCRAPES: usize = 101;
/// Room for every request: refusals are not what is measured.
const RATES: &str = "[ingress.limit]\nreplicas_assumed_count = 1\n[ingress.limit.rates]\n\
    cache = { capacity = 1000000000, refill_per_s = 1000000 }\n";

/// Where traces are sent to: a receiver that takes all, or one that takes the connection and never answers.
async fn start_receiver(answers: bool) -> SocketAddr {
    let take = async move || {
        if !answers {
            std::future::pending::<()>().await;
        }
        StatusCode::OK
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
    address
}

/// An installation with an entry of the cache API, and the request for that.
struct Traced {
    server: Server,
    address: SocketAddr,
    head: String,
}

impl Traced {
    async fn start(more: &str) -> Self {
        let settings = format!("{RATES}{more}");
        let server = tokio::task::spawn_blocking(move || Server::start(&settings)).await.unwrap();
        let path = "/v1/cache/entries/greeting";
        let put =
            reqwest::Client::new().put(format!("{}{path}?ttl_s=3600", server.url)).bearer_auth(&server.key);
        assert!(put.body("good morning").send().await.unwrap().status().is_success());
        let address = server.url.trim_start_matches("http://").parse().unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n", server.key);
        Self { server, address, head }
    }

    async fn start_sending_to(receiver: SocketAddr) -> Self {
        Self::start(&format!("[telemetry.tracing]\nendpoint = \"http://{receiver}\"\n")).await
    }

    fn rate(&self) -> f64 {
        rate(self.address, &self.head)
    }
}

/// Requests a second with traces, taken and not taken, against those of an installation that sends none; and the memory of the one whose
/// traces nobody takes.
pub(crate) async fn traces() -> Vec<Row> {
    let (taken, away) = (start_receiver(true).await, start_receiver(false).await);
    let off = Traced::start("").await;
    let (taken, away) = (Traced::start_sending_to(taken).await, Traced::start_sending_to(away).await);
    let measured = tokio::task::spawn_blocking(move || {
        let taken = by_turns(ROUNDS, || taken.rate(), || off.rate());
        let untaken = by_turns(ROUNDS, || away.rate(), || off.rate());
        let memory = (resident_kb(away.server.pid()) / 1024.0, resident_kb(off.server.pid()) / 1024.0);
        (taken, untaken, memory)
    })
    .await
    .unwrap();
    let row = |name, (ours, baseline), unit, against, aim| Row { name, ours, baseline, unit, against, aim };
    let (taken, untaken, memory) = measured;
    vec![
        row("requests with traces", taken, "/s", "the same without", Aim::RatioLeast(0.97)),
        row(
            "requests with traces that nobody takes",
            untaken,
            "/s",
            "the same without",
            Aim::RatioLeast(0.97),
        ),
        // What waits is bounded by `telemetry.tracing.queue_spans`.
        row("memory with traces that nobody takes", memory, "MiB", "the same without", Aim::RatioMost(1.2)),
    ]
}

/// Milliseconds until all series of an installation are there.
pub(crate) async fn scrape() -> Row {
    let admin = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let settings = format!("admin_listen = \"{admin}\"\n{RATES}");
    let times = tokio::task::spawn_blocking(move || {
        let _server = Server::start(&settings);
        let mut client = Client::new(admin);
        (0..SCRAPES).map(|_| client.time("GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n") / 1e3).collect()
    });
    Row {
        name: "scrape of all series",
        ours: median(times.await.unwrap()),
        baseline: 0.0,
        unit: "ms",
        against: "none",
        aim: Aim::Most(2.0),
    }
}
