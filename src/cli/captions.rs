//! `media captions`: lists the captions of a medium, brings a file of them, or removes some.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, IF_MATCH},
};
use serde_json::Value;

use super::{ClientArgs, client::ApiClient, output, render};

/// Flags of `media captions`.
#[derive(Debug, clap::Args)]
pub struct CaptionsArgs {
    /// Its id
    pub media_id: String,
    /// A file of WebVTT or SubRip (.srt) to be added; it takes the place of one of the same language and kind
    #[arg(long, value_name = "FILE", requires = "language", conflicts_with = "remove")]
    pub add: Option<PathBuf>,
    /// Its language, such as de or pt-BR
    #[arg(long, value_name = "TAG", requires = "add")]
    pub language: Option<String>,
    /// Its name for people, in place of that of the language
    #[arg(long, requires = "add")]
    pub label: Option<String>,
    /// The language of which captions that were added are removed
    #[arg(long, value_name = "TAG")]
    pub remove: Option<String>,
    /// What they are for: subtitles, captions that name sounds too, or what is forced on all
    #[arg(long, value_name = "KIND", value_parser = ["subtitles", "captions", "forced"])]
    pub kind: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Changes the captions of a medium as it was asked, and shows them.
///
/// # Errors
/// When the file can't be read, or the server refuses.
pub(super) async fn run_captions(args: &CaptionsArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let path = format!("v1/media/{}/captions", args.media_id);
    let kind = ("kind", args.kind.as_deref());
    let listed = match (&args.add, &args.language, &args.remove) {
        (Some(file), Some(language), _) => {
            let bytes = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
            let is_webvtt = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).starts_with(b"WEBVTT");
            let content_type = if is_webvtt { "text/vtt" } else { "application/x-subrip" };
            let url =
                client.build_url(&format!("{path}/{language}"), &[kind, ("label", args.label.as_deref())]);
            // Whatever there is now: only this language and kind is written.
            let request = client.build_request(Method::PUT, url).header(IF_MATCH, "*");
            client.send_json(request.header(CONTENT_TYPE, content_type).body(bytes)).await?
        }
        (_, _, Some(language)) => {
            let url = client.build_url(&format!("{path}/{language}"), &[kind]);
            client.send_json(client.build_request(Method::DELETE, url).header(IF_MATCH, "*")).await?
        }
        _ if args.kind.is_some() => bail!("--kind goes with --add or --remove"),
        _ => client.get_json(&path, &[]).await?,
    };
    if as_json {
        return Ok(output::print_json(&listed)?);
    }
    print_captions(&listed)
}

fn print_captions(listed: &Value) -> anyhow::Result<()> {
    for track in listed["captions"].as_array().into_iter().flatten() {
        let field = |name: &str| render::format_scalar(name, &track[name]);
        let (language, kind, source, label) =
            (field("language"), field("kind"), field("source"), field("label"));
        output::print_line(format!("{language:<8} {kind:<10} {source:<9} {label}"))?;
    }
    Ok(())
}
