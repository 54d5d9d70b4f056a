//! `demo`: a server, a sample clip through all of it, and an address that plays.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    DemoArgs, Ended, Global,
    client::Client,
    event::Teller,
    follow::{End, Follower, Wanted},
    out,
    play::{self, Playback},
    render, serve,
    tus::{self, Source},
};
use crate::{config::Config, up};

/// The sample: an excerpt of Big Buck Bunny, (c) 2008 Blender Foundation, CC BY 3.0.
static CLIP: &[u8] = include_bytes!("../../tests/e2e/fixtures/bigbuckbunny.mp4");
const CLIP_NAME: &str = "Big Buck Bunny.mp4";
/// Data of a demo that stays up.
const FOLDER: &str = "data/demo";

/// Starts everything, uploads the clip and follows it; then stays up, or ends with `--exit`.
///
/// # Errors
/// When the server does not start, or the clip does not become playable.
pub async fn run(global: &Global, args: DemoArgs) -> anyhow::Result<Ended> {
    let throwaway = (args.exit && args.server.data_dir.is_none())
        .then(|| tempfile::Builder::new().prefix("streamgate-demo-").tempdir())
        .transpose()
        .context("a temporary folder")?;
    let config = settings(global, &args, throwaway.as_ref())?;
    let shutdown = CancellationToken::new();
    serve::stop_on_signal(shutdown.clone())?;
    let (ready, starts) = oneshot::channel();
    let story = async {
        // Without a server its own error is what is told.
        let Ok(ready) = starts.await else { return Ok(None) };
        let told = tokio::select! {
            told = tell(&ready) => told.map(Some),
            () = shutdown.cancelled() => Ok(None),
        };
        let shown = told.and_then(|told| {
            if let Some(told) = told.as_ref().filter(|_| !args.exit) {
                told.show(&ready, global.json)?;
            }
            Ok(told)
        });
        if args.exit || shown.is_err() {
            shutdown.cancel();
        }
        shown
    };
    let (served, told) = tokio::join!(up::run(config, shutdown.clone(), ready), story);
    if let Some(folder) = throwaway {
        folder.close().context("the temporary folder could not be removed")?;
    }
    served?;
    match told? {
        Some(told) if args.exit => out::json(&told.summary())?,
        None if args.exit => return Ok(Ended::Badly),
        _ => {}
    }
    Ok(Ended::Well)
}

/// The settings of a demo: as given, but for a folder of its own and a free port.
fn settings(global: &Global, args: &DemoArgs, throwaway: Option<&TempDir>) -> anyhow::Result<Config> {
    let mut config = Config::load(global.config.as_deref(), &args.server)?;
    match throwaway {
        Some(folder) => config.data_dir = Some(folder.path().to_owned()),
        None => config.data_dir = config.data_dir.or_else(|| Some(FOLDER.into())),
    }
    if args.server.listen.is_none() && config.ingress.listen == Config::default().ingress.listen {
        config.ingress.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    }
    Ok(config)
}

/// What became of the clip.
#[derive(Debug)]
struct Told {
    media_id: String,
    playback: Playback,
    /// From the first byte of the upload until a player could fetch all it begins with.
    seconds_to_playable: f64,
    /// From the first byte of the upload until everything was made and checked.
    seconds_to_ready: f64,
}

impl Told {
    fn summary(&self) -> Value {
        json!({
            "media_id": self.media_id,
            "hls_url": self.playback.hls_url.as_str(),
            "seconds_to_playable": thousandths(self.seconds_to_playable),
            "seconds_to_ready": thousandths(self.seconds_to_ready),
        })
    }

    /// Prints the address that plays, for a demo that stays up.
    fn show(&self, ready: &up::Ready, as_json: bool) -> anyhow::Result<()> {
        let watch_url = self.playback.watch_url.as_str();
        if as_json {
            let mut line = self.summary();
            line["watch_url"] = json!(watch_url);
            line["url"] = json!(ready.url);
            line["api_key"] = json!(ready.api_key);
            return Ok(out::json(&line)?);
        }
        out::say(format!(
            "\nPlayable after {:.1} s, ready after {:.1} s. It plays here, until Ctrl-C:\n",
            self.seconds_to_playable, self.seconds_to_ready
        ));
        Ok(out::line(watch_url)?)
    }
}

/// Uploads the clip and follows it until it is ready.
async fn tell(ready: &up::Ready) -> anyhow::Result<Told> {
    let key = ready.api_key.clone().context(
        "the API key of this data folder is gone: remove the folder, or name another with --data-dir",
    )?;
    let url = reachable(&ready.url);
    let client = Client::at(&url, Some(key), "the data folder".into())?;
    out::say(format!("StreamGate is up at {url}"));
    let began = Instant::now();
    let media_id = upload(&client).await?;
    let wanted = Wanted { media: Some(media_id.clone()), ..Wanted::default() };
    let mut follower = Follower::new(client.clone(), wanted.clone());
    let mut teller = Teller::default();
    let mut seconds_to_playable = None;
    loop {
        let told = follower.next().await?;
        teller.tell(&told);
        if told.kind == "media.playable" && seconds_to_playable.is_none() {
            let early = play::open(&client, &media_id).await?;
            play::check(&client, &early).await.context("the clip is said to play, but does not")?;
            seconds_to_playable = Some(began.elapsed().as_secs_f64());
        }
        match wanted.end(&told.kind) {
            Some(End::Well) => break,
            Some(End::Badly) => bail!("the clip ended as {}; the lines above say why", told.kind),
            None => {}
        }
    }
    let seconds_to_ready = began.elapsed().as_secs_f64();
    let playback = play::open(&client, &media_id).await?;
    play::check(&client, &playback).await.context("the clip is said to be ready, but does not play")?;
    let seconds_to_playable = seconds_to_playable.unwrap_or(seconds_to_ready);
    Ok(Told { media_id, playback, seconds_to_playable, seconds_to_ready })
}

async fn upload(client: &Client) -> anyhow::Result<String> {
    let length_bytes = u64::try_from(CLIP.len())?;
    let upload = tus::create(client, length_bytes, CLIP_NAME).await?;
    let bar = tus::bar(length_bytes, CLIP_NAME);
    let source = Source::Static(CLIP);
    tus::send(client, &upload, &source, length_bytes, |at_bytes| bar.set_position(at_bytes)).await?;
    bar.finish_and_clear();
    let size = render::size(length_bytes);
    out::say(format!("Uploaded {CLIP_NAME} ({size}) as {}", out::clean(&upload.media_id)));
    Ok(upload.media_id)
}

/// Rounded to milliseconds, which is what was measured.
fn thousandths(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// An address that can be opened: a server that listens on all of them is reached by loopback.
fn reachable(url: &str) -> String {
    url.replacen("://0.0.0.0:", "://127.0.0.1:", 1).replacen("://[::]:", "://[::1]:", 1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings_of(line: &[&str]) -> Config {
        let Cli { global, command: Command::Demo(args) } =
            Cli::try_parse_from(["streamgate", "demo"].iter().chain(line)).unwrap()
        else {
            panic!("demo is demo")
        };
        settings(&global, &args, None).unwrap()
    }

    #[test]
    fn a_demo_disturbs_nothing_unless_told_to() {
        let config = settings_of(&[]);
        assert_eq!(config.data_dir(), std::path::Path::new(FOLDER));
        assert_eq!(config.ingress.listen.port(), 0);
        let config = settings_of(&["--listen", "127.0.0.1:8080", "--data-dir", "elsewhere"]);
        assert_eq!(config.data_dir(), std::path::Path::new("elsewhere"));
        assert_eq!(config.ingress.listen.port(), 8080);
    }

    #[test]
    fn an_address_can_be_opened() {
        for (url, wanted) in [
            ("http://0.0.0.0:80", "http://127.0.0.1:80"),
            ("http://[::]:80", "http://[::1]:80"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(reachable(url), wanted);
        }
    }
}
