//! Uploads a file in one request, waits until it is ready and prints the URL of its HLS playlist, the only line on stdout.
//! Progress and errors go to stderr. It uses no code of this repository.
//!
//! ```text
//! export STREAMGATE_API_KEY=sg_...         # or --api-key
//! cargo run --example client -- film.mp4 --url http://127.0.0.1:8080
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;

const FAILED: [&str; 4] = ["media.rejected", "media.removed", "job.failed", "job.cancelled"];

#[derive(Parser)]
struct Args {
    file: PathBuf,
    #[arg(long, env = "STREAMGATE_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    #[arg(long, env = "STREAMGATE_API_KEY", hide_env_values = true)]
    api_key: String,
}

/// The answer, or what its problem document (RFC 9457) says.
async fn send(request: RequestBuilder) -> anyhow::Result<Response> {
    let answer = request.send().await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (status, problem) = (answer.status(), answer.json::<Value>().await.unwrap_or_default());
    let words = ["title", "detail", "code"].iter().filter_map(|name| problem[name].as_str());
    bail!("{status}: {}", words.collect::<Vec<_>>().join(": "))
}

/// Reads server-sent events, each of which ends with an empty line, until the medium is ready (true) or the connection ends.
/// `since` becomes the parameter with which the next connection goes on behind the last event.
async fn follow(request: RequestBuilder, since: &mut String) -> anyhow::Result<bool> {
    let (mut stream, mut bytes) = (send(request).await?, Vec::new());
    while let Ok(Some(piece)) = stream.chunk().await {
        bytes.extend_from_slice(&piece);
        while let Some(end) = bytes.windows(2).position(|two| two == b"\n\n") {
            let event = String::from_utf8(bytes.drain(..end + 2).collect())?;
            let field = |name| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            // Others are comments, and `retry`.
            let (Some(kind), Some(data)) = (field("event"), field("data")) else { continue };
            *since = field("id").map_or(since.clone(), |id| format!("&since={id}"));
            let payload: Value = serde_json::from_str(data)?;
            eprintln!("{kind} {}", payload["percent"].as_u64().map_or(String::new(), |n| format!("{n} %")));
            ensure!(!FAILED.contains(&kind), "{kind}: {}", payload["data"]);
            if kind == "media.ready" {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (client, Args { file, url, api_key }) = (Client::new(), Args::parse());
    let file = tokio::fs::File::open(file).await?;
    let ask = |method, path: &str| anyhow::Ok(client.request(method, url.join(path)?).bearer_auth(&api_key));
    let length = file.metadata().await?.len();
    let upload = ask(Method::POST, "/v1/media")?.header("content-type", "application/octet-stream");
    let made: Value = send(upload.header("content-length", length).body(file)).await?.json().await?;
    let media_id = made["media_id"].as_str().context("the answer names no medium")?;
    let mut since = "&since=0-0".to_owned(); // The server ends a stream after an hour, and a connection may break.
    while !follow(ask(Method::GET, &format!("/v1/events?media={media_id}{since}"))?, &mut since).await? {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let playback = ask(Method::POST, &format!("/v1/media/{media_id}/playback"))?;
    let playback: Value = send(playback).await?.json().await?;
    let address = playback["hls_url"].as_str().or(playback["poster_url"].as_str()); // A still picture is its poster.
    println!("{}", url.join(address.context("the answer has no address")?)?);
    Ok(())
}
