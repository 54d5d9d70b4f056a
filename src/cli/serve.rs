//! Commands that serve: `up` and the single roles. The first line on stdout says what can be used, then they run until a signal.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use rustix::fs::Mode;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    roles::{self, ProcessRole, Runtime},
    up,
};

/// Fires when the process is asked to stop; a second signal ends it at once, with the status a shell expects.
///
/// # Errors
/// When signals can't be listened to.
pub fn stop_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Lives as long as the process and owns nothing.
    #[expect(clippy::let_underscore_future, reason = "ends with the process")]
    let _ = tokio::spawn(async move {
        for patience in 0..2 {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if patience > 0 {
                #[expect(clippy::exit, reason = "the second signal means now")]
                std::process::exit(code);
            }
            tracing::info!("stopping; a second signal stops at once");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Lets nobody else on this machine read what this process and its children write, whatever mask it was started with.
pub fn keep_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Runs everything on this machine until a signal.
///
/// # Errors
/// As [`up::run_all_roles`].
pub async fn serve_all(config: Settings, as_json: bool) -> anyhow::Result<()> {
    keep_files_private();
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    let (ready, starts) = oneshot::channel();
    let printing = async {
        if let Ok(ready) = starts.await {
            print_ready(&ready, as_json)?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(up::run_all_roles(config, shutdown, ready), printing).map(|((), ())| ())
}

fn print_ready(ready: &up::ServerReady, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(
            out,
            "{}",
            json!({
                "url": ready.url,
                "api_key": ready.api_key.as_ref().filter(|_| ready.is_new),
                "library_url": ready.library_url,
            })
        )?;
    } else {
        writeln!(out, "StreamGate is up at {}", ready.url)?;
        match &ready.api_key {
            Some(key) if ready.is_new => writeln!(out, "API key, shown only now: {key}")?,
            Some(_) => writeln!(
                out,
                "The API key was shown at the first start; it is in {}",
                ready.key_file.display()
            )?,
            None => writeln!(out, "The API key was shown at the first start; its file is gone.")?,
        }
        // A log keeps what it is given: only a terminal gets what signs in.
        let (page, code) = ready.library_url.split_once('#').unwrap_or((&ready.library_url, ""));
        if code.is_empty() || !std::io::stdout().is_terminal() {
            writeln!(out, "Library: {page}")?;
        } else {
            let minutes = auth::link::LINK_TTL_S / 60;
            writeln!(out, "Library, signs you in once within {minutes} minutes: {page}#{code}")?;
        }
        writeln!(out, "Upload something:  streamgate upload FILE --url {} --wait", ready.url)?;
    }
    Ok(out.flush()?)
}

/// Runs one role until a signal.
///
/// # Errors
/// As [`roles::run_roles`].
pub async fn serve_role(config: Settings, kind: ProcessRole, as_json: bool) -> anyhow::Result<()> {
    keep_files_private();
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    let site = Runtime::from_settings(config, shutdown)?;
    let (ready, starts) = oneshot::channel::<roles::StartedRoles>();
    let printing = async {
        let Ok(listening) = starts.await else { return Ok(()) };
        let mut line = json!({ "role": kind.bus_role().name() });
        if let Some(address) = listening.address {
            line["url"] = json!(format!("http://{address}"));
            line["api_key"] = json!(listening.first_key);
        }
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{} runs", kind.bus_role().name())?;
            if let Some(key) = listening.first_key {
                writeln!(out, "first API key, shown only now: {key}")?;
            }
        }
        out.flush().context("stdout")
    };
    let kinds = [kind];
    tokio::try_join!(roles::run_roles(site, &kinds, Some(ready)), printing).map(|((), ())| ())
}
