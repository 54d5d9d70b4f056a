//! `make bench`: speed and memory as ratios against the tools of this machine, measured side by side in one run.
//!
//! Every row starts the real binary. Nothing here is a test: a noisy machine gives a noisy figure, never a red build.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a measuring program: it stops at the first thing that does not work and prints its result"
)]

mod audit;
mod bus;
mod caches;
mod deliveries;
mod dispatch;
mod followers;
mod gate;
mod http;
mod ladder;
mod process;
mod scaling;
mod search;
mod server;
mod stay;
mod telemetry;
mod tus_server;
mod uploads;

use std::fmt::Write as _;

/// One measured ratio.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) ours: f64,
    pub(crate) baseline: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) aim: Aim,
}

/// What the ratio, or the figure itself, should be.
pub(crate) enum Aim {
    /// Ours divided by the baseline, at most.
    RatioMost(f64),
    /// Ours divided by the baseline, at least.
    RatioLeast(f64),
    /// Ours alone, at most.
    Most(f64),
}

impl Row {
    fn line(&self) -> String {
        let ratio = self.ours / self.baseline;
        let (shown, aim, met) = match self.aim {
            Aim::RatioMost(aim) => (format!("{ratio:.3}"), format!("<= {aim}"), ratio <= aim),
            Aim::RatioLeast(aim) => (format!("{ratio:.3}"), format!(">= {aim}"), ratio >= aim),
            Aim::Most(aim) => ("-".to_owned(), format!("<= {aim} {}", self.unit), self.ours <= aim),
        };
        let mut line = String::new();
        let baseline =
            if matches!(self.aim, Aim::Most(_)) { "-".to_owned() } else { format!("{:.3}", self.baseline) };
        write!(
            line,
            "| {} | {:.3} {} | {baseline} ({}) | {shown} | {aim} | {} |",
            self.name,
            self.ours,
            self.unit,
            self.against,
            if met { "met" } else { "missed" }
        )
        .unwrap();
        line
    }
}

/// The middle value; of an even number the lower one of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

const USAGE: &str = "make bench [ARGS='ROW...']   rows: bus dispatch flood killed jobs signin token limiter get cache followers start upload tus slow search ladder title workers stay hooks audit telemetry; without any, all.
BENCH_TITLE_SECONDS (600), BENCH_UPLOAD_MIB (1024), BENCH_TUS_MIB (256), BENCH_SLOW (1000), BENCH_STAY (100000),
BENCH_FLOOD (10000), BENCH_FOLLOWERS (10000), BENCH_FOLLOWED (1000), BENCH_SEARCH (100000), BENCH_DELIVERIES (2000), BENCH_AUDITED (50000), BENCH_WAITING (100000) and BENCH_JOBS (1000000) make a run smaller.";

async fn measure_dispatcher(is_wanted: &impl Fn(&str) -> bool) {
    if is_wanted("dispatch") {
        println!("{}", dispatch::queued_to_begun().await.line());
        println!("{}", dispatch::parts_per_second().await.line());
    }
    if is_wanted("flood") {
        for row in dispatch::flood().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("killed") {
        for row in dispatch::killed_dispatcher().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("jobs") {
        for row in dispatch::waiting_jobs().await {
            println!("{}", row.line());
        }
    }
}

async fn measure_requests(is_wanted: &impl Fn(&str) -> bool) {
    if is_wanted("signin") {
        println!("{}", gate::sign_in().line());
    }
    if is_wanted("token") {
        println!("{}", gate::path_token().line());
    }
    if is_wanted("limiter") {
        println!("{}", gate::limiter().line());
        println!("{}", gate::memory_per_key().line());
    }
    if is_wanted("get") {
        println!("{}", http::limited_get().await.line());
        println!("{}", http::document_cost().await.line());
    }
    if is_wanted("cache") {
        for row in caches::gains().await {
            println!("{}", row.line());
        }
        println!("{}", caches::zipf_hit_ratio().await.line());
        println!("{}", caches::entry_memory().await.line());
    }
}

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.iter().any(|arg| arg.starts_with('-')) {
        println!("{USAGE}");
        return;
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == name);
    println!("| measured | ours | baseline | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |");
    if is_wanted("bus") {
        println!("{}", bus::events_per_second().await.line());
    }
    measure_dispatcher(&is_wanted).await;
    measure_requests(&is_wanted).await;
    if is_wanted("followers") {
        for row in followers::many_followers().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("audit") {
        for row in audit::appended().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("telemetry") {
        for row in telemetry::traces().await {
            println!("{}", row.line());
        }
        println!("{}", telemetry::scrape().await.line());
    }
    if is_wanted("hooks") {
        println!("{}", deliveries::deliveries_per_second().await.line());
    }
    if is_wanted("start") {
        println!("{}", server::cold_start().line());
    }
    if is_wanted("upload") {
        println!("{}", uploads::throughput().await.line());
    }
    if is_wanted("tus") {
        for row in tus_server::against_tus_server().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("slow") {
        println!("{}", uploads::memory_per_slow_upload().await.line());
    }
    if is_wanted("stay") {
        for row in stay::bytes_per_upload().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("search") {
        for row in search::full_text() {
            println!("{}", row.line());
        }
    }
    if is_wanted("ladder") {
        println!("{}", ladder::cpu().await.line());
    }
    if is_wanted("workers") {
        for row in scaling::workers().await {
            println!("{}", row.line());
        }
    }
    if is_wanted("title") {
        for row in ladder::title().await {
            println!("{}", row.line());
        }
    }
}

/// A size from the environment.
pub(crate) fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
