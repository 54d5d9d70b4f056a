//! `make load`: mixed load against an installation of its own, and whether its numbers reconcile.
//!
//! Like the bench it is no test: `make load` runs it, and what it prints depends on the machine. It fails when what has to hold on every
//! machine does not (see the end of `--help`).
//!
//! Limits: clients of a kind at once, time, rates and followers as the options say; requests have a minute.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a measuring program: it stops at the first thing that does not work and prints its result"
)]

mod block_buffers;
#[path = "../e2e/chain.rs"]
#[allow(dead_code, reason = "tests of chains use the rest")]
mod chain;
mod clients;
mod clips;
mod flatness;
mod gateway;
#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod harness;
mod killed_role;
mod ledger;
mod observe;
mod options;
#[path = "../bench/process.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod process;
mod reconcile;
mod report;
mod saturation;
mod scene;
mod stack;
mod tally;

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use flatness::Verdict;
use harness::{Cluster, poll};
use killed_role::KilledRole;
use observe::WatchedProcesses;
use options::LoadOptions;
use process::binary as program_path;
use reconcile::{Reconciliation, reconcile};
use report::LoadReport;
use scene::Scene;

/// Longest wait until every process has spoken, and at the end until everything is well.
const WELL_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let options = LoadOptions::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("load: an installation is started; seed {seed}");
    let mut cluster = stack::start(&options).await;
    let report = Box::pin(run(&mut cluster, &options, seed)).await;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        println!("{}", report.to_text());
    }
    if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything from the first client to the report.
async fn run(cluster: &mut Cluster, options: &LoadOptions, seed: u64) -> LoadReport {
    let scene = Scene::new(stack::gateway(cluster), options);
    let processes = stack::processes(cluster);
    let mut problems = Vec::new();
    if !is_well(&scene).await {
        problems.push("health was not ok at the beginning".into());
    }
    let began = Instant::now();
    let (stop, stop_looking) = (CancellationToken::new(), CancellationToken::new());
    let looking = observe::observe(
        Arc::clone(&scene),
        Arc::clone(&processes),
        (began, options.duration),
        stop_looking.clone(),
    );
    let looking = tokio::spawn(looking);
    let mut following = JoinSet::new();
    for number in 0..options.followers {
        let random = (number == 0).then(|| StdRng::seed_from_u64(seed));
        following.spawn(clients::follow(Arc::clone(&scene), random));
    }
    let (killed, (), mut reconciliations) = tokio::join!(
        direct(cluster, options, (&scene, &processes), (began, &stop)),
        scene::run_clients(&scene, options, seed, &stop),
        pause_again_and_again(&scene, options, (began, &stop)),
    );
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("load: nobody arrives any more; uploads in flight are waited for");
    reconciliations.push(drain(&scene, options.drain, began).await);
    following.shutdown().await;
    stop_looking.cancel();
    let observed = looking.await.unwrap();
    if !is_well(&scene).await {
        problems.push("health is not ok at the end".into());
    }
    for (number, pause) in reconciliations.iter().enumerate() {
        // Without the index nobody lists anything, but at the end it is there again.
        let may_be_unread = options.kill.is_some() && number + 1 < reconciliations.len();
        let unread = pause.unread.iter().filter(|_| !may_be_unread);
        let texts = pause.differences.iter().chain(unread);
        problems.extend(texts.map(|text| format!("at {:.1} s: {text}", pause.at_s)));
    }
    problems.extend(killed.iter().flat_map(KilledRole::problems));
    let flatness = flatness::judge(&observed.usage);
    if options.flat {
        let bad = flatness.iter().filter(|row| row.verdict != Verdict::Flat);
        problems.extend(bad.map(|row| format!("{} of {}: {}", row.what, row.process, row.verdict.name())));
    }
    LoadReport {
        seed,
        seconds,
        operations: scene.gateway.tally.rows(),
        reconciliations,
        saturated: observed.saturation.in_order(),
        cpu_percent: observed.cpu_percent,
        flatness,
        killed,
        problems,
    }
}

/// Whether every process is there and well.
async fn is_well(scene: &Scene) -> bool {
    let well = poll(WELL_MAX, async || {
        let health = scene.gateway.read_json("/v1/monitor/health").await.ok()?;
        let is_all =
            health["processes"].as_array().is_some_and(|all| all.len() >= harness::WORKERS.len() + 2);
        (is_all && health["state"] == "ok").then_some(())
    });
    well.await.is_some()
}

/// Shows how far the run is, kills a role at the middle if one is to be killed, and ends the arrivals.
async fn direct(
    cluster: &mut Cluster,
    options: &LoadOptions,
    (scene, processes): (&Scene, &WatchedProcesses),
    (began, stop): (Instant, &CancellationToken),
) -> Option<KilledRole> {
    let showing = tokio::spawn(show_progress(Arc::clone(&scene.gateway.tally), (began, options.duration)));
    let mut killed = None;
    if let Some(role) = &options.kill {
        tokio::time::sleep_until((began + options.duration / 2).into()).await;
        let about = (&scene.gateway, processes);
        killed = Some(Box::pin(killed_role::kill_and_watch(cluster, about, role, options.time_scale)).await);
    }
    tokio::time::sleep_until((began + options.duration).into()).await;
    showing.abort();
    stop.cancel();
    killed
}

/// A bar on a terminal, else a line every ten seconds.
async fn show_progress(tally: Arc<tally::Tally>, (began, duration): (Instant, Duration)) {
    let is_terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::new(duration.as_secs());
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos} of {len} s  {msg}").unwrap());
    let mut ticks = tokio::time::interval(Duration::from_secs(if is_terminal { 1 } else { 10 }));
    loop {
        ticks.tick().await;
        let (requests, errors) = tally.totals();
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("{requests} requests and events, {errors} errors"));
        if !is_terminal {
            let seconds = began.elapsed().as_secs();
            eprintln!("load: {seconds} s, {requests} requests and events, {errors} errors");
        }
    }
}

/// Holds everybody still again and again, and counts.
async fn pause_again_and_again(
    scene: &Scene,
    options: &LoadOptions,
    (began, stop): (Instant, &CancellationToken),
) -> Vec<Reconciliation> {
    let mut pauses = Vec::new();
    if options.pause_every.is_zero() {
        return pauses;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(options.pause_every) => {}
            () = stop.cancelled() => return pauses,
        }
        let still = scene.stillness.write().await;
        pauses.push(reconcile(&scene.gateway, &scene.ledger, began.elapsed().as_secs_f64()).await);
        drop(still);
    }
}

/// Waits until nothing is in flight, or for as long as may be; the last count.
async fn drain(scene: &Scene, limit: Duration, began: Instant) -> Reconciliation {
    let deadline = Instant::now() + limit;
    loop {
        let last = reconcile(&scene.gateway, &scene.ledger, began.elapsed().as_secs_f64()).await;
        let is_settled = last.in_flight == 0 && last.unread.is_none();
        if is_settled || Instant::now() >= deadline {
            return last;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
