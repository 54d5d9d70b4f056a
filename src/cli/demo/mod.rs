//! `demo`: a server, a sample clip through all of it, and an address that plays, for everybody or by a token.

pub mod chain;
mod clip;
mod gated;
mod open;
mod wallet;

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    CommandOutcome, DemoArgs, GlobalArgs, client::ApiClient, output, play::PlaybackUrls, serve,
    settings::load_settings,
};
use crate::{
    config::{Settings, credentials::reachable_url},
    up,
};
use chain::DemoNode;

/// Data of a demo that stays up.
const FOLDER: &str = "data/demo";
/// Between two questions about the same thing.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts everything, uploads the clip and follows it; then stays up, or ends with `--exit`.
///
/// # Errors
/// When the server or the chain does not start, the clip does not become playable, or a gate lets in whom it should not.
pub async fn run_demo(global: &GlobalArgs, args: DemoArgs) -> anyhow::Result<CommandOutcome> {
    let throwaway = (args.exit && args.server.data_dir.is_none())
        .then(|| tempfile::Builder::new().prefix("streamgate-demo-").tempdir())
        .transpose()
        .context("a temporary folder")?;
    let mut config = load_demo_settings(global, &args, throwaway.as_ref())?;
    let shutdown = CancellationToken::new();
    serve::stop_on_signal(shutdown.clone())?;
    let node = if args.gated { Some(DemoNode::start().await?) } else { None };
    if let Some(node) = &node {
        // The demo's chain takes the place of one with its id.
        config.chains.retain(|chain| chain.chain_id != chain::CHAIN_ID);
        config.chains.push(node.chain_config()?);
    }
    let (ready, starts) = oneshot::channel();
    let story = async {
        // Without a server its own error is what is reported.
        let Ok(ready) = starts.await else { return Ok(None) };
        let played = tokio::select! {
            played = play_demo(&ready, node.as_ref()) => played.map(Some),
            () = shutdown.cancelled() => Ok(None),
        };
        let shown = played.and_then(|played| {
            if let Some(played) = played.as_ref().filter(|_| !args.exit) {
                played.print_address(&ready, global.json)?;
            }
            Ok(played)
        });
        if args.exit || shown.is_err() {
            shutdown.cancel();
        }
        shown
    };
    let (served, played) = tokio::join!(up::run_all_roles(config, shutdown.clone(), ready), story);
    if let Some(node) = node {
        node.stop().await?;
    }
    if let Some(folder) = throwaway {
        folder.close().context("the temporary folder could not be removed")?;
    }
    served?;
    match played? {
        Some(played) if args.exit => output::print_json(&played.summary)?,
        None if args.exit => return Ok(CommandOutcome::Badly),
        _ => {}
    }
    Ok(CommandOutcome::Well)
}

/// The settings of a demo: as given, but for a folder of its own and a free port.
fn load_demo_settings(
    global: &GlobalArgs,
    args: &DemoArgs,
    throwaway: Option<&TempDir>,
) -> anyhow::Result<Settings> {
    let mut config = load_settings(global, &args.server)?;
    match throwaway {
        Some(folder) => config.data_dir = Some(folder.path().to_owned()),
        None => config.data_dir = config.data_dir.or_else(|| Some(FOLDER.into())),
    }
    if args.server.listen.is_none() && config.ingress.listen == Settings::default().ingress.listen {
        config.ingress.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    }
    Ok(config)
}

/// What a demo has shown.
#[derive(Debug)]
struct DemoResult {
    /// The page that plays.
    watch_url: Url,
    /// For machines.
    summary: Value,
    /// For people, above the address that plays.
    invitation: String,
}

impl DemoResult {
    /// Prints the address that plays, for a demo that stays up.
    fn print_address(&self, ready: &up::ServerReady, as_json: bool) -> anyhow::Result<()> {
        let watch_url = self.watch_url.as_str();
        if as_json {
            let mut line = self.summary.clone();
            line["watch_url"] = json!(watch_url);
            line["url"] = json!(ready.url);
            line["library_url"] = json!(ready.library_url);
            line["api_key"] = json!(ready.api_key);
            return Ok(output::print_json(&line)?);
        }
        let minutes = auth::link::LINK_TTL_S / 60;
        output::print_message(format!(
            "\nThe library, where this link signs you in once within {minutes} minutes:\n{}",
            ready.library_url
        ));
        output::print_message(&self.invitation);
        Ok(output::print_line(watch_url)?)
    }
}

/// The page of a session as anybody would open it, without the session's right.
fn watch_page_url(playback: &PlaybackUrls) -> Url {
    let mut url = playback.watch_url.clone();
    url.set_fragment(None);
    url
}

/// Plays the demo at a server that runs.
async fn play_demo(ready: &up::ServerReady, node: Option<&DemoNode>) -> anyhow::Result<DemoResult> {
    let key = ready.api_key.clone().context(
        "the API key of this data folder is gone: remove the folder, or name another with --data-dir",
    )?;
    let url = reachable_url(&ready.url);
    let owner = ApiClient::with_url(&url, Some(key), "the data folder".into())?;
    output::print_message(format!("StreamGate is up at {url}"));
    match node {
        Some(node) => gated::run_gated_demo(&owner, node).await,
        None => open::run_open_demo(&owner).await,
    }
}

/// Asks until there is an answer; what `ask` says instead of one is the error when there is none within `seconds_max`.
async fn poll_until<T>(
    what: impl fmt::Display,
    seconds_max: u64,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    loop {
        match ask().await? {
            Ok(answer) => return Ok(answer),
            Err(said) if Instant::now() >= deadline => bail!("{what} even after {seconds_max} s: {said}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, CliCommand};

    fn settings_of(line: &[&str]) -> Settings {
        let Cli { global, command: CliCommand::Demo(args) } =
            Cli::try_parse_from(["streamgate", "demo"].iter().chain(line)).unwrap()
        else {
            panic!("demo is demo")
        };
        load_demo_settings(&global, &args, None).unwrap()
    }

    #[test]
    fn a_demo_disturbs_nothing_unless_asked_to() {
        let config = settings_of(&[]);
        assert_eq!(config.data_dir(), std::path::Path::new(FOLDER));
        assert_eq!(config.ingress.listen.port(), 0);
        let config = settings_of(&["--listen", "127.0.0.1:8080", "--data-dir", "elsewhere"]);
        assert_eq!(config.data_dir(), std::path::Path::new("elsewhere"));
        assert_eq!(config.ingress.listen.port(), 8080);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_given_up_with_the_last_answer() {
        let mut asked = 0;
        let third = poll_until("it does not come", 60, async || {
            asked += 1;
            Ok(if asked == 3 { Ok(asked) } else { Err("not yet".to_owned()) })
        });
        assert_eq!(third.await.unwrap(), 3);
        let began = Instant::now();
        let never = poll_until::<()>("it does not come", 60, async || Ok(Err("not yet".to_owned()))).await;
        assert_eq!(never.unwrap_err().to_string(), "it does not come even after 60 s: not yet");
        assert!(began.elapsed() < Duration::from_secs(61));
    }
}
