//! `link`: another browser or device is signed in to the library.

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;

use super::{client::ApiClient, output};

/// Makes a link that signs in once, and prints it.
///
/// # Errors
/// When the server refuses: only people and administrators may make links.
pub async fn print_sign_in_link(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let url = client.build_url("v1/auth/me/links", &[]);
    let made: Value = client.send_json(client.build_request(Method::POST, url)).await?;
    if as_json {
        return Ok(output::print_json(&made)?);
    }
    output::print_message("Open it within ten minutes; it signs in once:");
    Ok(output::print_line(made["url"].as_str().context("the answer has no link")?)?)
}
