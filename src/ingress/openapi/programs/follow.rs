//! Follows a job to its end: follow JOB_ID
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{env::var, fs, io::Write as _, io::stderr, time::Duration};

use anyhow::{Context, Result};
use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::{self, consumer::DeliverPolicy, consumer::pull::OrderedConfig},
};
use futures::StreamExt;

const ENDS: [&str; 4] = ["job.succeeded", "job.failed", "job.cancelled", "job.dead"];

/// Reads until the end of the job (true), or until the consumer has to be made again.
async fn follow(context: &jetstream::Context, job_id: &str) -> Result<bool> {
    let position = format!("{job_id}.position"); // A sequence of the stream.
    let last: u64 = fs::read_to_string(&position).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let config = OrderedConfig {
        filter_subject: format!("evt.job.*.{job_id}"),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        ..OrderedConfig::default()
    };
    let stream = context.get_stream("EVENTS").await?;
    let first = stream.cached_info().state.first_sequence;
    if last > 0 && first > last + 1 {
        writeln!(stderr(), "lost: what is between {last} and {first}")?;
    }
    let consumer = stream.create_consumer(config).await?;
    let mut events = consumer.messages().await?;
    while let Some(message) = events.next().await.transpose()? {
        let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
        let kind = message.headers.as_ref().and_then(|headers| headers.get("ce-type"));
        let kind = kind.context("an event without a type")?.as_str();
        let payload: rmpv::Value = rmp_serde::from_slice(&message.payload)?;
        println!("{sequence} {kind} {payload}");
        fs::write(&position, sequence.to_string())?;
        if ENDS.contains(&kind) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::main]
async fn main() -> Result<()> {
    let job_id = std::env::args().nth(1).context("name a job")?;
    let mut options =
        ConnectOptions::with_nkey(var("READER_SEED")?).custom_inbox_prefix(var("READER_INBOX")?);
    if let Ok(authority) = var("READER_CA") {
        options = options.add_root_certificates(authority.into()); // Absent: one that this machine trusts, or no TLS.
    }
    let url = var("READER_URL")?;
    let servers = url.split(',').map(str::parse).collect::<std::io::Result<Vec<ServerAddr>>>()?;
    let context = jetstream::with_prefix(options.connect(servers).await?, "reader.API");
    loop {
        match follow(&context, &job_id).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // The broker is away: the connection is made again by itself.
            Err(error) => writeln!(stderr(), "again in a second: {error:#}")?,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
