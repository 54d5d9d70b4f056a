//! `cache`: values that are kept for a while, the same on every replica.

use std::io::{Read, Write};

use anyhow::Context;
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{ClientArgs, client::ApiClient, output, render};

/// Largest value that is read from standard input, in bytes.
const VALUE_BYTES_MAX: u64 = 1024 * 1024;

/// What to do with the cache.
#[derive(Debug, clap::Subcommand)]
pub enum CacheCommand {
    /// Print the value under a key
    Get {
        /// The key
        key: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Keep a value under a key, for a while
    #[command(after_help = "Examples:
  streamgate cache put greeting 'Good morning' --ttl 60
  streamgate cache put config --type application/json < config.json

Keys and values are your own: nobody else reads them. A value ends by itself.")]
    Put {
        /// The key: letters, digits and ._:@~+=-
        key: String,
        /// The value; what comes on standard input when absent
        value: Option<String>,
        /// How long it is kept, in seconds, a day at most
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// Its media type
        #[arg(long = "type", value_name = "TYPE", default_value = "text/plain")]
        content_type: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove values
    Rm {
        /// Their keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Say what one has in the cache, and for operators what the caches of a replica do
    Stats {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Clear the values of everybody, and what replicas keep in memory, for admins
    Clear {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Reads or changes the cache.
///
/// # Errors
/// When the server refuses, or there is no such value.
pub async fn run_cache(command: CacheCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        CacheCommand::Get { key, client } => {
            let client = ApiClient::new(&client)?;
            let response =
                client.send(client.build_request(Method::GET, entry_url(&client, &key, &[]))).await?;
            std::io::stdout().write_all(&response.bytes().await?).context("the value can't be printed")
        }
        CacheCommand::Put { key, value, ttl, content_type, client } => {
            let client = ApiClient::new(&client)?;
            let value = value.map_or_else(read_value, |value| Ok(value.into_bytes()))?;
            let ttl = ttl.map(|ttl| ttl.to_string());
            let url = entry_url(&client, &key, &[("ttl_s", ttl.as_deref())]);
            let request = client.build_request(Method::PUT, url);
            let put: Value =
                client.send_json(request.header(header::CONTENT_TYPE, content_type).body(value)).await?;
            if as_json {
                return Ok(output::print_json(&put)?);
            }
            output::print_message(format!(
                "Kept until {}: {}",
                render::format_scalar("expires_at_ms", &put["expires_at_ms"]),
                output::sanitize_text(&key)
            ));
            Ok(())
        }
        CacheCommand::Rm { keys, client } => {
            let client = ApiClient::new(&client)?;
            let remove = async |key: &str| {
                client.send(client.build_request(Method::DELETE, entry_url(&client, key, &[]))).await?;
                if as_json {
                    return Ok(output::print_json(&json!({ "key": key, "removed": true }))?);
                }
                output::print_message(format!("Removed: {}", output::sanitize_text(key)));
                Ok(())
            };
            super::each::act_on_each("value", &keys, remove).await
        }
        CacheCommand::Stats { client } => {
            let client = ApiClient::new(&client)?;
            let url = client.build_url("v1/cache/stats", &[]);
            let stats: Value = client.send_json(client.build_request(Method::GET, url)).await?;
            if as_json {
                return Ok(output::print_json(&stats)?);
            }
            Ok(output::print_line(render::format_document(&stats))?)
        }
        CacheCommand::Clear { client } => {
            let client = ApiClient::new(&client)?;
            client.send(client.build_request(Method::DELETE, client.build_url("v1/cache", &[]))).await?;
            if as_json {
                return Ok(output::print_json(&json!({ "cleared": true }))?);
            }
            output::print_message("Cleared");
            Ok(())
        }
    }
}

fn entry_url(client: &ApiClient, key: &str, query: &[(&str, Option<&str>)]) -> reqwest::Url {
    let mut url = client.build_url("v1/cache/entries/", query);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(key);
    }
    url
}

fn read_value() -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(VALUE_BYTES_MAX).read_to_end(&mut value);
    read.context("the value can't be read from standard input")?;
    Ok(value)
}
